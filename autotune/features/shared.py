"""What a trial is told of a store: where it lies, which hidden states it is to read, what it need not load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from autotune.features.contents import content_digest
from autotune.features.files import digest_of
from autotune.features.layout import Layout
from autotune.features.marks import PARTS
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore
from sherl.features import SHAPE_ALONE, Place, feature_name
from sherl.forms import BatchForm, TensorForm, hollowed

if TYPE_CHECKING:
    from sherl.backbones import Backbone, Without
    from sherl.data import PreparedData

FEATURES_VERSION = 1
"""Grows when code of this project would give other hidden states of the same backbone and data, or other rows of them."""


def store_key(backbone: Backbone, precision: str, data: PreparedData, device: str) -> dict[str, Any]:
    """What hidden states depend on: weights, the code that computes with them and its precision, the rows as the backbone reads
    them (all are read for it), and whose arithmetic it was.

    backbone: whole, with no method on it.

    Raises:
        SpecError: which code it is cannot be told, or the backbone has no weights.
        DataError: the data cannot be read.
    """
    from importlib import metadata

    from sherl.backbones.source_code import code_of

    return {
        "features": FEATURES_VERSION,
        "backbone": backbone.fingerprint,
        "code": code_of(backbone),
        "precision": precision,
        "device": device,
        "task": data.task.kind,  # a decoder behind an encoder reads other tokens for another task
        "data": data.key,
        "rows": {part: content_digest(data.part(part)) for part in PARTS},
        "torch": metadata.version("torch"),
        "transformers": metadata.version("transformers"),
    }


@dataclass(frozen=True, kw_only=True)
class SharedFeatures:
    """Plain data for one trial.

    root, key: of the store. places: what its batches bring. without: of the backbone, what it does not load; None: it loads
    all, as the method begins with pretrained weights of early blocks.
    """

    root: str
    key: dict[str, Any]
    places: tuple[Place, ...]
    without: Without | None

    def readers(self, parts: Iterable[str], notes: list[str]) -> dict[str, Reader] | None:
        """A reader for each part; None where one is missing or damaged, and ``notes`` says why."""
        store = FeatureStore.find(Path(self.root), self.key, notes=notes)
        if store is None:
            notes.append(f"{self.root} holds no hidden states of this backbone and data on this machine.")
            return None
        found: dict[str, Reader] = {}
        for part in parts:
            reader = store.reader(part, self.places)
            if reader is None:
                for other in found.values():
                    other.close()
                return None
            found[part] = reader
        return found

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``folder`` is where in the root this key's files lie, for whoever reads no keys."""
        without = None if self.without is None else asdict(self.without)
        return {
            "root": self.root,
            "folder": digest_of(self.key),
            "key": self.key,
            "places": [list(place) for place in self.places],
            "without": without,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` wrote."""
        from sherl.backbones import Without

        without = plain["without"]
        return cls(
            root=plain["root"],
            key=dict(plain["key"]),
            places=tuple(Place(stack, int(n)) for stack, n in plain["places"]),
            without=None if without is None else Without(**{**without, "stacks": tuple(without["stacks"])}),
        )


def with_features(form: BatchForm, layouts: Mapping[Place, Layout], rows: int) -> dict[str, TensorForm]:
    """The form of a part's largest batch of this many rows with the hidden states of these places beside it."""
    made = hollowed(form, SHAPE_ALONE) if layouts else dict(form)
    for place, layout in layouts.items():
        shape = layout.batch_shape(min(rows, layout.rows), layout.longest)
        made[feature_name(place)] = TensorForm(shape, layout.dtype_name)
    return made
