"""A name for a backbone's weights: the same in every process, another one when a weight or the layout differs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

# What a configuration says about how and where it was saved or is run, not about the model.
_VOLATILE = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "architectures",
        "attn_implementation",
        "dtype",
        "gradient_checkpointing",
        "model_type_aliases",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_PIECE = 1 << 22


def of_folder(folder: Path) -> str:
    """Of a saved model: its ``config.json`` and weight files, whatever dtype they are loaded in.

    Raises:
        FileNotFoundError: the folder has no configuration or no weights.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    digest = _begin(config)
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            while piece := stream.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def of_model(model: nn.Module, config: Any) -> str:
    """Of a model that lies in no folder: its configuration and the bytes of its parameters and persistent buffers.

    Raises:
        ValueError: the model lies on meta or consists of fake tensors; those have no bytes.
    """
    digest = _begin(config.to_diff_dict())
    for name, tensor in sorted(model.state_dict().items()):
        if not has_bytes(tensor):
            raise ValueError("a model on meta or of fake tensors has no weights to make a fingerprint of")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def has_bytes(tensor: torch.Tensor) -> bool:
    """Whether there are values behind a tensor: not on meta, not fake."""
    return tensor.device.type != "meta" and type(tensor) in (torch.Tensor, nn.Parameter)


def _begin(config: dict[str, Any]) -> hashlib._Hash:
    plain = {key: value for key, value in config.items() if key not in _VOLATILE}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode())
