"""What is wrong with a model's weights, in plain words: files that do not load, and files that do and should not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open

from sherl.backbones.sources import resolve_source
from sherl.backbones.structure.blocks import FAILURES
from sherl.errors import SpecError

UNREADABLE = (SafetensorError, UnpicklingError, EOFError, *FAILURES)
"""What transformers' reading of damaged weights, or of the small files beside them, ends in."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_REMEDY = "Take another copy of the model, or save it anew with save_pretrained."


def require_weights(source: str) -> None:
    """A folder is refused that holds no weights, or whose safetensors are cut off: what a trial would find, said before the
    first. Reads the heads of the files alone; what a hub id stands for is not looked at.

    Raises:
        SpecError: there are none, one is damaged, or one of several is missing.
    """
    folder = Path(resolve_source(source))
    if not folder.is_dir():
        return
    try:
        for file in _files_of(folder):
            with safe_open(file, "pt"):
                pass
    except (FileNotFoundError, *UNREADABLE) as error:
        raise unloaded(source, error) from error


def _files_of(folder: Path) -> list[Path]:
    """The files of safetensors that a model is read from; none of one that lies in pickles.

    Raises:
        FileNotFoundError: there are no weights.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({folder / part for part in parts})
    if any(folder.glob("pytorch_model*.bin")):
        return []
    raise FileNotFoundError("it holds no model.safetensors, model.safetensors.index.json or pytorch_model.bin")


def unloaded(source: str, error: Exception) -> SpecError:
    """The error that says why weights were not read. source: what the model is called. error: what the reading ended in."""
    if isinstance(error, UnpicklingError):
        return SpecError(
            f"The weights of {source!r} do not load: its pytorch_model.bin is damaged, or holds more than tensors, and only "
            "tensors are read of it, since anything else could run code on this machine. Where you trust it, load it by "
            "yourself and save it with save_pretrained, which writes safetensors."
        )
    lines = str(error).strip().splitlines()
    said = lines[0].rstrip(".") if lines else "no more was said"
    kind = (
        ""
        if isinstance(error, SafetensorError | RuntimeError | ValueError | FileNotFoundError)
        else f"{type(error).__name__}: "
    )
    return SpecError(f"The weights of {source!r} do not load: {kind}{said}. {_REMEDY}")


def require_bare(model: Any, source: str) -> None:
    """A model is refused on which transformers has put an adapter of peft that lay beside it.

    Raises:
        SpecError: it has.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise SpecError(
            f"{source!r} holds an adapter of peft beside the model (adapter_config.json), which changes what the model gives and "
            "is not priced. Move adapter_config.json and the adapter's weights to a folder of their own, or fold them into the "
            "model first: peft's merge_and_unload(), then save_pretrained(folder)."
        )


def require_floats(folder: Path, source: str) -> None:
    """Weights in safetensors are refused that are no floats of 16 bits or more: transformers would turn their bits into numbers.

    Raises:
        SpecError: a weight or a bias is of another type.
    """
    for file in sorted([*folder.glob("model.safetensors"), *folder.glob("model-*.safetensors")]):
        for name, told in _header(file).items():
            if name.endswith((".weight", ".bias")) and told["dtype"] not in _FLOATS:
                raise SpecError(
                    f"The weights of {source!r} are no plain numbers: {name} in {file.name} is of the type {told['dtype']}; "
                    f"allowed are {', '.join(sorted(_FLOATS))}. They may be quantised: give the model that it was made of."
                )


def _header(file: Path) -> dict[str, Any]:
    """Type and shape of each tensor of a file that has been read before, by name."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header
