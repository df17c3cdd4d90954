"""Weights kept aside on disk, so that a copy of them counts in no figure of memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor


class Snapshot:
    """The values of some tensors at one moment, in an unnamed temporary file that is gone at :meth:`close`.

    Tensors on a CPU are written from and read into their own memory; of tensors elsewhere, and of those that are not
    contiguous, one at a time is copied to the CPU.

    Raises:
        OSError: the temporary folder has no room (``TMPDIR`` names another).
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - close() ends it
        try:
            for tensor in self._tensors:
                self._file.write(bytes_of(tensor.detach().cpu().contiguous()))
            self._file.flush()
        except OSError:
            self._file.close()
            raise

    def put_back(self) -> None:
        """Give each tensor its value of then, in place. May be called again."""
        self._file.seek(0)
        for tensor in self._tensors:
            if tensor.device.type == "cpu" and tensor.is_contiguous():
                self._read_into(tensor.detach())
            else:
                values = torch.empty(tensor.shape, dtype=tensor.dtype)
                self._read_into(values)
                with torch.no_grad():
                    tensor.copy_(values)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _read_into(self, tensor: Tensor) -> None:
        view = bytes_of(tensor)
        wanted, got = view.nbytes, 0
        while got < wanted:
            count = self._file.readinto(view[got:])
            if not count:
                raise OSError(f"The temporary copy of the weights ended {wanted - got} bytes too early.")
            got += count


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor itself, of any dtype (NumPy knows no bfloat16)."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # arrays are buffers
