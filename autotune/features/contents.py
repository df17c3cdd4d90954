"""What of a part the backbone reads, as a short text that differs where it does."""

from __future__ import annotations

import numpy as np
from xxhash import xxh3_128

from sherl.data.image_part import ImagePart
from sherl.data.part import Part

_ROWS = 512
"""Of a batch whose values are digested; part of the digest, as a batch is padded to its longest row."""


def content_digest(part: Part) -> str:
    """32 hexadecimal digits (xxh3, 128 bits) of everything in a part's batches but the labels, the same on every machine.

    How the rows were made, the recipe, does not tell this: another version of a tokenizer or of an image library makes others,
    and files may be changed afterwards. Images are digested as they lie on the disk, and one as it is normalised.
    """
    hashed = xxh3_128()
    rows = np.arange(len(part))
    if isinstance(part, ImagePart):
        for begin in range(0, len(rows), _ROWS):
            hashed.update(np.ascontiguousarray(part.pixels[begin : begin + _ROWS]).data)
        rows = rows[:1]
    for begin in range(0, len(rows), _ROWS):
        for name, tensor in sorted(part.batch(rows[begin : begin + _ROWS]).items()):
            if name != "labels":
                hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                hashed.update(tensor.numpy().data)
    return hashed.hexdigest()
