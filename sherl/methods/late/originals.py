"""Pretrained weights that are about to train, kept aside until the method is removed."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from torch import Tensor

from sherl.errors import SherlError
from sherl.snapshot import Snapshot


class Originals:
    """Tensors as they are now, kept in a temporary file; of a backbone without values (not real) there are none to keep."""

    def __init__(self, tensors: Sequence[Tensor], *, real: bool) -> None:
        self._snapshot: Snapshot | None = None
        self._failure: OSError | None = None
        if not real:
            return
        try:
            self._snapshot = Snapshot(tensors)
        except OSError as error:
            # No reason to refuse training: most models are trained, saved and never given back.
            self._failure = error
        else:
            weakref.finalize(self, self._snapshot.close)

    def put_back(self) -> None:
        """Give the tensors their values of then.

        Raises:
            SherlError: they could not be kept.
        """
        if self._failure is not None:
            raise SherlError(
                f"The weights from before training could not be kept ({self._failure}), so this backbone "
                "stays as it was trained: load it once more. To keep them, let TMPDIR name a folder with room."
            )
        if self._snapshot is not None:
            self._snapshot.put_back()
            self._snapshot.close()
            self._snapshot = None
