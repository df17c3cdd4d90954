"""Hidden states that a batch brings from a store, in the place of a tuned backbone's early blocks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from sherl.backbones import Batch
from sherl.backbones.standing import check_features, stand_ins
from sherl.errors import SpecError
from sherl.features import Place, feature_name, features_of

if TYPE_CHECKING:
    from sherl.methods.tuned import Tuned


def needs(tuned: Tuned, stacks: Iterable[str] | None) -> frozenset[Place]:
    """See :meth:`sherl.methods.tuned.Tuned.needs`."""
    first, spans = tuned.first_trainable_layer, tuned.backbone.stacks
    reads = {} if tuned.route is None else tuned.route.reads()
    asked = set(spans if stacks is None else stacks)
    found: set[Place] = set()
    for name, span in spans.items():
        early = min(first, span.stop) - span.start
        if name not in asked or early <= 0:
            continue
        found |= {Place(name, n) for n in reads.get(name, ()) if n <= early}
        # an encoder's output is read by what computes behind it: a decoder's late blocks, or all of it
        behind_it = [other for other, blocks in spans.items() if blocks.start >= span.stop]
        if not behind_it or first < tuned.backbone.depth or not asked.issuperset(behind_it):
            found.add(Place(name, early))
    return frozenset(found)


def unread(tuned: Tuned, stacks: Iterable[str]) -> frozenset[str]:
    """See :meth:`sherl.methods.tuned.Tuned.unread`."""
    given, names = set(stacks), list(tuned.backbone.stacks)
    reads = {} if tuned.route is None else tuned.route.reads()
    over = tuned.first_trainable_layer == tuned.backbone.depth and names[-1] in given
    return frozenset(name for name in names[:-1] if over and name not in given and name not in reads)


def standing_in(tuned: Tuned, batch: Batch) -> AbstractContextManager[None]:
    """Around a pass: the hidden states that the batch brings are in the place of early blocks.

    Raises:
        SpecError: they are too few or not of this batch, the method has no early blocks, or there are none and early blocks
            were left out.
    """
    features, backbone = features_of(batch), tuned.backbone
    left_out = backbone.without
    if left_out is not None:
        lacking = set(left_out.stacks) - {place.stack for place in features} - unread(tuned, _stacks(features))
        if lacking:
            raise SpecError(
                f"This backbone was loaded without the blocks before {left_out.first_late} of {', '.join(left_out.stacks)}, and "
                f"the batch brings no hidden states in their place: give it {_named(needs(tuned, left_out.stacks))}, or load "
                "the backbone whole."
            )
    if not features:
        return nullcontext()
    check_features(backbone, batch, features)
    if tuned.first_trainable_layer == 0:
        raise SpecError(
            f"The batch brings hidden states ({_named(features)}), and method {tuned.config.name} has no early blocks that they "
            "could stand in for: give it batches without."
        )
    if missing := needs(tuned, _stacks(features)) - features.keys():
        raise SpecError(
            f"The batch brings hidden states ({_named(features)}); method {tuned.config.name} also needs {_named(missing)} of "
            "these stacks."
        )
    return stand_ins(backbone, tuned.first_trainable_layer, features, unread=unread(tuned, _stacks(features)))


def check_writing(tuned: Tuned, batch: Batch) -> None:
    """Refuses a batch for text that is to be written, if it brings hidden states of what writes.

    Raises:
        SpecError: it does.
    """
    last = list(tuned.backbone.stacks)[-1]
    if last in _stacks(features_of(batch)):
        raise SpecError(
            f"Text is written by the whole {'model' if last == 'blocks' else last}, token by token: the batch must bring no "
            f"hidden states of {last}."
        )


def _stacks(places: Iterable[Place]) -> set[str]:
    return {place.stack for place in places}


def _named(places: Iterable[Place]) -> str:
    return ", ".join(feature_name(place) for place in sorted(places))
