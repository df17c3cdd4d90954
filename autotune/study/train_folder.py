"""Where a training of ``autotune train`` lies until its export is written, and what is kept there of how it was begun."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.errors import StudyError
from autotune.files import write_text
from autotune.study.train_settings import TrainSettings, differences, with_plan

_BEGUN, LOCK = "train.json", "train.lock"


def work_folder(out: Path) -> Path:
    """Where a training lies until its export is written."""
    return out.with_name(f"{out.name}.training")


def require_own(work: Path) -> None:
    """Look at where a training is to lie before anything is written or deleted there.

    Raises:
        StudyError: it holds things, and nothing that tells of a training.
    """
    if not work.exists() and not work.is_symlink():
        return
    if work.is_symlink() or not work.is_dir():
        raise StudyError(
            f"{work}, where the training would lie, is a file or a link: move it away, or give another --out."
        )
    held = sorted(path.name for path in work.iterdir())
    if held and LOCK not in held and _BEGUN not in held:
        raise StudyError(
            f"{work}, where the training would lie, holds other things ({', '.join(held[:5])}), which it would delete: move "
            "them away, or give another --out."
        )


def has_begun(work: Path) -> bool:
    """Whether a plan was chosen here already."""
    return (work / _BEGUN).exists()


def keep_beginning(work: Path, settings: TrainSettings, plan: Mapping[str, Any], threads: int) -> None:
    """What must stay the same for the same weights in the end."""
    kept = {"settings": settings.to_dict(), "plan": dict(plan), "threads": threads}
    write_text(work / _BEGUN, json.dumps(kept, indent=2, ensure_ascii=False))


def clear(work: Path) -> None:
    """Throw away what was begun."""
    for item in work.iterdir():
        if item.name != LOCK:
            shutil.rmtree(item) if item.is_dir() else item.unlink()


def as_begun(settings: TrainSettings, work: Path) -> TrainSettings:
    """With the plan and the threads of what was begun here; as it is where nothing was.

    Raises:
        StudyError: what was begun is another run.
    """
    file = work / _BEGUN
    if not file.exists():
        return settings
    kept = json.loads(file.read_text(encoding="utf-8"))
    if other := differences(kept["settings"], settings):
        raise StudyError(
            f"{work} holds a training that was begun with other settings ({'; '.join(other)}). Give those to go on with it, "
            "--restart to throw it away, or another --out."
        )
    config = settings.config.with_changes(threads=kept["threads"])
    return with_plan(replace(settings, config=config), kept["plan"])
