"""What a run needs to go on behind its last whole epoch, in one file that is there whole or not at all.

The file is safetensors, written tensor by tensor, so that no second copy of weights or optimizer is held: the trained
tensors, AdamW's two moments and step count of each parameter, the float32 copies of weights that are rounded; and as JSON in
its header the schedule, the epochs so far, and which run it is of. Nothing is pickled. Random numbers need no place: each
epoch draws from the run's seed and its own number.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from sherl.errors import CheckpointError
from sherl.model import TaskModel
from sherl.optimizer import AdamW
from sherl.snapshot import bytes_of

FORMAT = "sherl-training-state"
_DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def read_epochs(file: Path) -> list[dict[str, Any]]:
    """The epochs that a state holds, as they were told; none where there is no file.

    Raises:
        CheckpointError: the file is damaged, or something else.
    """
    return list(_read_header(file)["epochs"]) if file.exists() else []


class TrainingState:
    """The state file of one run. ``run`` says which: what it trains, on what and how (JSON)."""

    def __init__(
        self, file: Path, model: TaskModel, optimizer: AdamW, scheduler: LambdaLR, run: dict[str, Any]
    ) -> None:
        self._file = file
        self._model, self._optimizer, self._scheduler = model, optimizer, scheduler
        self._run = json.loads(json.dumps(run))  # as it is read again
        self.epochs: list[dict[str, Any]] = []

    def restore(self) -> int:
        """Takes over what the file holds, where there is one; returns how many epochs are done.

        Raises:
            CheckpointError: the file is damaged, or of another run. Nothing has been changed then.
        """
        if not self._file.exists():
            return 0
        header = _read_header(self._file)
        if header["run"] != self._run:
            other = [key for key in self._run if header["run"].get(key) != self._run[key]]
            raise CheckpointError(
                f"{self._file} is of another run: {', '.join(other) or 'what it trains'} differ. Give the settings that it was "
                "begun with, or remove the file to begin anew."
            )
        with safe_open(self._file, "pt") as stored:
            names = set(stored.keys())
            wanted = self._tensors(made=True)
            if set(wanted) != names:
                raise CheckpointError(
                    f"{self._file} holds other tensors than this run trains: remove it to begin anew."
                )
            with torch.no_grad():
                for name, tensor in wanted.items():
                    tensor.copy_(stored.get_tensor(name))
        self._scheduler.load_state_dict(header["schedule"])
        for group, rate in zip(self._optimizer.param_groups, header["schedule"]["_last_lr"], strict=True):
            group["lr"] = rate
        self.epochs = list(header["epochs"])
        return len(self.epochs)

    def keep(self, progress: dict[str, Any]) -> None:
        """An epoch is over and taken care of: replaces the file by one that goes on behind it.

        Raises:
            OSError: there is no room for it.
        """
        self.epochs.append(progress)
        tensors = self._tensors(made=False)
        schedule = self._scheduler.state_dict()  # a rule that is a plain function is None in it
        told = {"format": FORMAT, "run": self._run, "epochs": self.epochs, "schedule": schedule}
        header: dict[str, Any] = {"__metadata__": {"state": json.dumps(told)}}
        end = 0
        for name, tensor in tensors.items():
            begin, end = end, end + tensor.nbytes
            header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        scratch = self._file.with_name(f".{self._file.name}.new")
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with scratch.open("wb") as file:
                file.write(len(text).to_bytes(8, "little") + text)
                for tensor in tensors.values():  # elsewhere than on a CPU one at a time is copied
                    file.write(bytes_of(tensor.detach().cpu().contiguous()))
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, self._file)
        finally:
            scratch.unlink(missing_ok=True)

    def _tensors(self, *, made: bool) -> dict[str, Tensor]:
        """Every tensor by its name in the file. made: AdamW's own are made where it has none yet."""
        tensors = {f"model.{name}": tensor for name, tensor in self._model.trainable_state().items()}
        tensors |= {f"rounded.{place}": copy for place, copy in enumerate(self._optimizer.copies)}
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        for place, parameter in enumerate(parameters):
            moments = self._optimizer.state[parameter]
            if made and not moments:
                moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                for name in ("exp_avg", "exp_avg_sq"):
                    moments[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            tensors |= {f"optimizer.{place}.{name}": tensor for name, tensor in moments.items()}
        return {name: tensor.detach() for name, tensor in tensors.items()}


def _read_header(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, "pt") as stored:
            plain = json.loads((stored.metadata() or {})["state"])
        if plain["format"] != FORMAT:
            raise KeyError("format")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file} is no state of a training run ({error!r}): remove it to begin anew.") from error
    return dict(plain)
