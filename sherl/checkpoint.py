"""A fine-tuned model on disk: what was trained, and what is needed to put it on its backbone again.

A checkpoint is a folder with ``trainables.safetensors`` (trainable tensors and the buffers of added modules; of full
fine-tuning that is every weight) and ``sherl.json``. The backbone itself is not in it: ``sherl.json`` holds its source
and its fingerprint, which is compared at loading. Nothing is pickled. Other files in the folder are left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sherl.backbones import Backbone, load_backbone
from sherl.errors import CheckpointError, SherlError
from sherl.methods import LoraConfig, Tuned, method_from_dict
from sherl.methods._peft import write_adapter
from sherl.model import TaskModel, build_model
from sherl.precision import precision_of, weights_dtype
from sherl.spec import Precision, TaskSpec
from sherl.version import __version__

FORMAT = "sherl-checkpoint"
FORMAT_VERSION = 1
WEIGHTS_FILE = "trainables.safetensors"
MANIFEST_FILE = "sherl.json"
_PREVIOUS_FILE = ".trainables.previous.safetensors"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``sherl.json`` says.

    method, task: the dictionaries of :class:`sherl.methods.MethodConfig` and :class:`sherl.spec.TaskSpec`.
    backbone_source: where it was loaded from; None for one that was made in memory. precision: of its weights.
    max_length: tokens that a text was cut to; None for the backbone's own limit. extra: whatever the writer added.
    """

    method: dict[str, Any]
    task: dict[str, Any]
    backbone_source: str | None
    backbone_fingerprint: str
    backbone_family: str
    precision: Precision
    max_length: int | None
    weights_sha256: str
    extra: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    model: TaskModel, directory: str | Path, *, max_length: int | None, extra: dict[str, Any] | None = None
) -> Path:
    """Write a model's checkpoint into a folder, which is made if needed; returns the folder.

    A checkpoint that is there already is replaced, and stays whole until the new one is: whenever this is cut short,
    the folder holds the one or the other. ``extra`` must be JSON-able.

    Raises:
        CheckpointError: ``directory`` is a file.
        TypeError: ``extra`` holds something that JSON cannot.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give a folder for the checkpoint.")
    backbone = model.tuned.backbone
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sherl_version": __version__,
        "method": model.tuned.config.to_dict(),
        "task": model.task.to_dict(),
        "backbone": {"source": backbone.source, "fingerprint": backbone.fingerprint, "family": backbone.family},
        "precision": precision_of(backbone.model),
        "max_length": max_length,
        "extra": extra or {},
    }
    json.dumps(manifest)  # what cannot be written shows before anything is
    folder.mkdir(parents=True, exist_ok=True)
    new_weights, new_manifest = folder / ".trainables.new.safetensors", folder / ".sherl.new.json"
    try:
        save_file(_storable(model.trainable_state()), new_weights)
        manifest["weights"] = {"file": WEIGHTS_FILE, "sha256": _sha256(new_weights)}
        new_manifest.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in (new_weights, new_manifest):
            _flush_to_disk(path)
        _commit(folder, new_weights, new_manifest)
    finally:
        new_weights.unlink(missing_ok=True)
        new_manifest.unlink(missing_ok=True)
    return folder


def save_peft(model: TaskModel | Tuned, directory: str | Path) -> Path:
    """Write a model's LoRA in peft's own format into a folder, which is made if needed; returns the folder.

    ``peft.PeftModel.from_pretrained(model, directory)`` puts it on the same pretrained model, as transformers loads it. A
    head for classification or regression is not in it: peft's format has no place for one of another library.

    Raises:
        CheckpointError: ``directory`` is a file, or the method is another than ``lora``.
    """
    tuned = model.tuned if isinstance(model, TaskModel) else model
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give a folder for the adapter.")
    if not isinstance(tuned.config, LoraConfig):
        raise CheckpointError(
            f"peft's format holds LoRA alone, and this is the method {tuned.config.name!r}: use save_checkpoint, or take the "
            "method 'lora'."
        )
    folder.mkdir(parents=True, exist_ok=True)
    parameters, config = tuned.parts()["lora"].parameters, tuned.config
    write_adapter(folder, tuned.model, parameters, rank=config.rank, alpha=config.alpha, base=tuned.backbone.source)
    return folder


def read_manifest(directory: str | Path) -> Manifest:
    """What a checkpoint says of itself, without reading its weights.

    Raises:
        CheckpointError: no checkpoint is there, or it is of an unknown format or version, or damaged.
    """
    path = Path(directory) / MANIFEST_FILE
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        lacks = f"has no {MANIFEST_FILE}" if Path(directory).is_dir() else "is no folder"
        raise CheckpointError(
            f"{directory} is no checkpoint: it {lacks}. Give a folder that save_checkpoint or "
            "'autotune export' has written."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is damaged: it is no JSON ({error}). Take another copy or export again."
        ) from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no sherl checkpoint: its 'format' must be {FORMAT!r}.")
    if plain.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format version {plain.get('format_version')!r}, this sherl ({__version__}) reads "
            f"{FORMAT_VERSION}. It was written by sherl {plain.get('sherl_version', 'of an unknown version')}: use that one."
        )
    return _parsed(plain, path)


def _parsed(plain: dict[str, Any], path: Path) -> Manifest:
    try:
        manifest = Manifest(
            method=plain["method"],
            task=plain["task"],
            backbone_source=plain["backbone"]["source"],
            backbone_fingerprint=plain["backbone"]["fingerprint"],
            backbone_family=plain["backbone"]["family"],
            precision=plain["precision"],
            max_length=plain["max_length"],
            weights_sha256=plain["weights"]["sha256"],
            extra=plain["extra"],
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error} is missing or malformed.") from error
    wrong = [name for name in ("method", "task", "extra") if not isinstance(getattr(manifest, name), dict)]
    if manifest.precision not in ("fp32", "bf16"):
        wrong.append("precision")
    if manifest.max_length is not None and not isinstance(manifest.max_length, int):
        wrong.append("max_length")
    if wrong:
        raise CheckpointError(f"{path} is damaged: {', '.join(wrong)} malformed. Take another copy or export again.")
    return manifest


def load_checkpoint(directory: str | Path, *, backbone: Backbone | str | None = None) -> TaskModel:
    """The model that was saved, in evaluation mode, with logits as at saving.

    Args:
        directory: the checkpoint's folder.
        backbone: a backbone without a method on it, or where to load one from (a name, a folder or a hub id); by
            default the source that the checkpoint names.

    Raises:
        CheckpointError: the checkpoint is unreadable, or the backbone is not the one that it was trained on.
    """
    manifest = read_manifest(directory)
    state = _read_weights(Path(directory), manifest)
    if not isinstance(backbone, Backbone):
        backbone = _load_source(manifest, backbone)
    _check_backbone(backbone, manifest, directory)
    try:
        method = method_from_dict(manifest.method)
        task = TaskSpec.from_dict(manifest.task)
        model = build_model(backbone, method.loadable(), task, seed=0)
        model.tuned.config = method
    except (SherlError, TypeError) as error:
        raise CheckpointError(
            f"{directory}: its method or task is not known here ({error}). "
            "If it comes from a plug-in, import that first; else use the version of sherl that wrote it."
        ) from error
    try:
        model.load_trainable_state(state)
    except CheckpointError:
        model.tuned.remove()  # the caller's backbone is given back as it came
        raise
    model.eval()
    return model


def _commit(folder: Path, new_weights: Path, new_manifest: Path) -> None:
    """Put both files in place; at each moment the manifest's weights are there, under their name or as previous."""
    weights, previous = folder / WEIGHTS_FILE, folder / _PREVIOUS_FILE
    if weights.exists() and _named_sha256(folder) == _sha256(weights):
        os.replace(weights, previous)
    # else an earlier attempt was cut short here: what the manifest means is under the other name already
    os.replace(new_weights, weights)
    os.replace(new_manifest, folder / MANIFEST_FILE)
    _flush_to_disk(folder)
    previous.unlink(missing_ok=True)


def _named_sha256(folder: Path) -> str | None:
    """The fingerprint of the weights that a folder's manifest means; None without a readable manifest."""
    try:
        return read_manifest(folder).weights_sha256
    except CheckpointError:
        return None


def _read_weights(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    for path in (folder / WEIGHTS_FILE, folder / _PREVIOUS_FILE):
        if path.exists() and _sha256(path) == manifest.weights_sha256:
            try:
                return load_file(path)
            except SafetensorError as error:
                raise CheckpointError(f"{path} is damaged: {error}. Take another copy or export again.") from error
    what = "is missing" if not (folder / WEIGHTS_FILE).exists() else "is damaged: it is not what was saved"
    raise CheckpointError(f"{folder / WEIGHTS_FILE} {what}. Take another copy or export again.")


def _load_source(manifest: Manifest, source: str | None) -> Backbone:
    given = source or manifest.backbone_source
    if given is None:
        raise CheckpointError(
            "The checkpoint names no source of its backbone, which was made in memory: give it as backbone=."
        )
    try:
        return load_backbone(given, dtype=weights_dtype(manifest.precision))
    except (SherlError, OSError) as error:
        raise CheckpointError(
            f"The backbone {given!r} of the checkpoint cannot be loaded ({error}). "
            "Give the place where it is now as backbone=."
        ) from error


def _check_backbone(backbone: Backbone, manifest: Manifest, directory: str | Path) -> None:
    precision = precision_of(backbone.model)
    if precision != manifest.precision:
        raise CheckpointError(
            f"{directory} was trained on a backbone in {manifest.precision}, the given one is in {precision}: "
            f"load it with dtype={weights_dtype(manifest.precision)}."
        )
    if backbone.fingerprint != manifest.backbone_fingerprint:
        raise CheckpointError(
            f"{directory} was trained on another backbone: {manifest.backbone_source or 'one made in memory'} "
            f"({manifest.backbone_family}) with fingerprint {manifest.backbone_fingerprint}; given was "
            f"{backbone.source or 'one made in memory'} ({backbone.family}) with fingerprint {backbone.fingerprint}. "
            "Give the backbone, in the version, that it was trained on as backbone=."
        )


def _storable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors that share no memory, which the format asks for; tensors that are so are not copied."""
    seen: set[tuple[torch.device, int]] = set()
    stored = {}
    for name, tensor in state.items():
        value = tensor.detach().contiguous()
        place = (value.device, value.untyped_storage().data_ptr())
        if place in seen or value.untyped_storage().nbytes() != value.nbytes:
            value = value.clone()
        seen.add(place)
        stored[name] = value
    return stored


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
