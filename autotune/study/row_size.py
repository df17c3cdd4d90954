"""How large the rows are that ``autotune plan`` prices: what was asked for, against what the model takes and the task reads."""

from __future__ import annotations

from collections.abc import Collection

from sherl.backbones import Backbone
from sherl.errors import SpecError

MAX_LENGTH, TARGET_LENGTH, CLASSES = 128, 8, 2  # where nothing was asked for
QUICKLY_WRITTEN = 1000  # tokens; writing more is traced for minutes


def lengths_for(
    model: str, backbone: Backbone, task: str, *, max_length: int | None, target_length: int | None
) -> tuple[int, int]:
    """Tokens of every row and of every target; None takes :data:`MAX_LENGTH`, or what there is room for where that is less, and
    :data:`TARGET_LENGTH`.

    Raises:
        SpecError: the model takes fewer. One that goes on with its input's text takes both in one row, as studies have it.
    """
    limit = backbone.max_tokens
    writes = task == "text-to-text"
    target = TARGET_LENGTH if target_length is None else target_length
    if limit is None:
        return MAX_LENGTH if max_length is None else max_length, target
    behind = target if writes and backbone.continues_text else 0
    if writes and target + (1 if behind else 0) > limit:
        beside = " behind at least one of input" if behind else ""
        raise SpecError(
            f"--target-length {target} is more than {model} takes: at most {limit - (1 if behind else 0)} tokens{beside}. "
            "Give at most that."
        )
    tokens = min(MAX_LENGTH, limit - behind) if max_length is None else max_length
    if "input_ids" not in backbone.inputs_form(1, tokens=1):
        return tokens, target
    if tokens > limit:
        raise SpecError(f"--max-length {tokens} is more than the {limit} tokens that {model} takes. Give at most that.")
    if tokens + behind > limit:
        raise SpecError(
            f"--max-length {tokens} and --target-length {target} are together more than the {limit} tokens that {model} takes "
            f"for an input and what it writes behind it. Give a --max-length of at most {limit - behind}, or a smaller --target-length."
        )
    return tokens, target


def notes_on(
    model: str,
    row: Collection[str],
    task: str,
    targets: str,
    *,
    max_length: int | None,
    target_length: int | None,
    classes: int | None,
    image_size: int | None,
) -> list[str]:
    """A note for each option that was given (not None) and that no row of this model and task is made by, and for targets that are long.

    row: the names of the inputs. targets: what the task learns (:attr:`sherl.tasks.Task.targets`).
    """
    facts = [
        ("--max-length", max_length, "input_ids" in row, f"{model} reads no tokens"),
        ("--target-length", target_length, task == "text-to-text", f"no text is written for the task {task}"),
        ("--classes", classes, targets in ("classes", "tags"), f"the task {task} has no classes"),
        ("--image-size", image_size, "pixel_values" in row, f"{model} reads no pixels"),
    ]
    notes = [
        f"{option} {given} plays no part: {why}" for option, given, read, why in facts if given is not None and not read
    ]
    if task == "text-to-text" and target_length is not None and target_length > QUICKLY_WRITTEN:
        notes.append(
            f"--target-length {target_length}: that many tokens are written and traced one by one, which takes long"
        )
    return notes
