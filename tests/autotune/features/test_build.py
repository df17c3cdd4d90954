"""Building: what is written is what a live pass would have computed, and no block behind the last wanted place runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotune.features.build import build, follows_tokens, row_layouts
from autotune.features.layout import Layout
from autotune.features.shared import with_features
from autotune.features.speeds import forward_seconds
from sherl.backbones import Backbone, Without, lighten
from sherl.data.batching import Indices
from sherl.data.part import Batch, Part
from sherl.errors import DataError, SpecError
from sherl.features import Place, feature_name
from sherl.forms import form_of
from sherl.methods import method_from_dict
from sherl.sharing import needs_of
from tests.sherl.feature_samples import READERS, STORED, learnt, model_of, recorded
from tests.sherl.tiny import CLASSIFICATION, SPEECH, batch_for, tiny_backbone
from tests.sherl.tiny_configs import PAD

ONE_STREAM = [name for name in STORED if name not in ("vilt", "visual_bert")]


class Rows(Part):
    """The rows of one batch as a part; texts are cut to the longest row of each batch."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.name = "train"
        self.whole = batch
        self.labels = batch["labels"]
        mask = batch.get("attention_mask")
        self.lengths = np.ones(len(self.labels), np.int64) if mask is None else mask.sum(dim=1).numpy()

    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        index = torch.as_tensor(np.asarray(rows, dtype=np.int64))
        made = {name: tensor[index] for name, tensor in self.whole.items()}
        if "attention_mask" not in made:
            return made
        longest = int(made["attention_mask"].sum(dim=1).max())
        return {name: tensor[:, :longest] if tensor.ndim == 2 else tensor for name, tensor in made.items()}


class Kept:
    """A writer in memory: rows without their padding."""

    def __init__(self, forms: dict[Place, Layout], places: Iterable[Place] | None = None) -> None:
        self.forms = forms
        self.places = list(forms if places is None else places)
        self.rows: dict[Place, dict[int, Tensor]] = {place: {} for place in self.places}

    def put(self, place: tuple[str, int], rows: Tensor, values: Tensor) -> None:
        form = self.forms[Place(*place)]
        assert values.dtype == form.dtype
        for row, own in zip(rows.tolist(), values, strict=True):
            assert row not in self.rows[Place(*place)]
            kept = own if form.lengths is None else own[: form.lengths[row]]
            assert kept.shape == (form.shape if form.lengths is None else (form.lengths[row], *form.shape))
            self.rows[Place(*place)][row] = kept.clone()

    def batch(self, place: Place, count: int) -> Tensor:
        rows = [self.rows[place][row] for row in range(count)]
        if self.forms[place].lengths is None:
            return torch.stack(rows)
        longest = max(len(row) for row in rows)
        return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows])


def built(backbone: Backbone, part: Part, places: Iterable[Place], *, batch_size: int = 3) -> Kept:
    kept = Kept(row_layouts(backbone, part, places))
    build(backbone, part, kept, batch_size=batch_size)
    return kept


def part_of(family: str, *, rows: int = 8) -> Rows:
    return Rows(batch_for(family, rows=rows))


@pytest.mark.parametrize("family", ONE_STREAM)
def test_rows_are_those_of_a_live_pass_without_their_padding(family: str) -> None:
    """Together in one batch to the bit; and of the forms that were announced."""
    backbone, part = tiny_backbone(family), part_of(family)
    places = [Place(name, n) for name, span in backbone.stacks.items() for n in range(len(span) + 1)]
    batch = part.batch(part.order)
    live = recorded(backbone, batch)
    kept = built(backbone, part, places, batch_size=8)
    forms = with_features({}, kept.forms, 8)
    for place in places:
        assert forms[feature_name(place)] == form_of({"own": live[place]})["own"]
        for row, number in enumerate(part.order.tolist()):
            own = kept.rows[place][number]
            expected = live[place][row]
            assert torch.equal(own, expected[: len(own)] if follows_tokens(backbone, place) else expected)
    ragged = {place for place in places if kept.forms[place].lengths is not None}
    images = "input_ids" not in part.whole
    assert ragged == (set() if images else {place for place in places if place.stack in ("blocks", "encoder")})


@pytest.mark.parametrize("method", ["multi", "unipt", "linear_probe"])
@pytest.mark.parametrize("family", ["bert", "t5", "vit", "resnet", "llama", *SPEECH])
def test_a_model_reads_them_as_it_would_compute_them(family: str, method: str) -> None:
    model, part = model_of(family, READERS[method]), part_of(family)
    needs = needs_of(method_from_dict(READERS[method]), CLASSIFICATION, model.tuned.backbone)
    kept = built(tiny_backbone(family), part, needs)
    batch = part.batch(range(len(part)))
    full = {**batch, **{feature_name(place): kept.batch(place, len(part)) for place in needs}}
    live, stored = learnt(model, batch), learnt(model, full)
    for name in ("outputs", "loss"):
        assert float((stored[name] - live[name]).abs().max()) <= 1e-6 * max(1.0, float(live[name].abs().max()))


@pytest.mark.parametrize(
    ("family", "places", "runs"),
    [
        ("bert", [("blocks", 0)], 0),
        ("bert", [("blocks", 0), ("blocks", 2)], 2),
        ("bert", [("blocks", 3)], 3),
        ("t5", [("encoder", 1)], 1),
        ("t5", [("encoder", 3)], 3),
        ("t5", [("encoder", 3), ("decoder", 0)], 3),
        ("t5", [("encoder", 0), ("decoder", 2)], 5),
        ("t5", [("decoder", 3)], 6),
        ("resnet", [("blocks", 1)], 1),
    ],
)
def test_nothing_runs_behind_the_last_wanted_place(family: str, places: list[tuple[str, int]], runs: int) -> None:
    backbone, part = tiny_backbone(family), part_of(family)
    ran: list[int] = []
    for layer, block in enumerate(backbone.blocks):
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    wanted = [Place(*place) for place in places]
    forms = row_layouts(backbone, part, wanted)
    ran.clear()
    kept = Kept(forms)
    done = build(backbone, part, kept, batch_size=8)
    assert ran == list(range(runs))
    assert all(len(rows) == len(part) for rows in kept.rows.values())
    assert (done.rows, done.tokens) == (8, 64 if family != "resnet" else 8)
    assert 0 < done.forward_seconds < done.seconds
    assert not any(block._forward_pre_hooks for block in backbone.blocks)


def test_only_what_the_writer_still_wants_is_computed() -> None:
    backbone, part = tiny_backbone("bert"), part_of("bert")
    forms = row_layouts(backbone, part, [Place("blocks", n) for n in range(4)])
    some, none = Kept(forms, [Place("blocks", 1)]), Kept(forms, [])
    build(backbone, part, some, batch_size=3)
    assert {place: len(rows) for place, rows in some.rows.items()} == {Place("blocks", 1): 8}
    assert build(backbone, part, none, batch_size=3).rows == 0


def test_the_backbone_runs_without_dropout_and_is_left_as_it_was() -> None:
    backbone, part = tiny_backbone("bert"), part_of("bert")
    place = Place("blocks", 3)
    quiet = built(backbone, part, [place]).batch(place, 8)
    backbone.model.train()
    backbone.blocks[0].eval()
    flags = [module.training for module in backbone.model.modules()]
    assert torch.equal(built(backbone, part, [place]).batch(place, 8), quiet)
    assert [module.training for module in backbone.model.modules()] == flags
    assert not quiet.requires_grad


def test_progress_is_told_and_an_error_in_it_ends_the_building() -> None:
    backbone, part, told = tiny_backbone("bert"), part_of("bert"), list[int]()
    forms = row_layouts(backbone, part, [Place("blocks", 1)])
    build(backbone, part, Kept(forms), batch_size=3, on_batch=told.append)
    assert told == [3, 6, 8]

    def stop(_rows: int) -> None:
        raise InterruptedError

    kept = Kept(forms)
    with pytest.raises(InterruptedError):
        build(backbone, part, kept, batch_size=3, on_batch=stop)
    assert len(kept.rows[Place("blocks", 1)]) == 3


def test_precision_is_the_backbones() -> None:
    backbone = tiny_backbone("t5", dtype=torch.bfloat16)
    forms = row_layouts(backbone, part_of("t5"), [Place("encoder", 3), Place("decoder", 1)])
    assert {form.dtype for form in forms.values()} == {torch.bfloat16}
    decoder = forms[Place("decoder", 1)]
    assert (decoder.rows, decoder.shape) == (8, (1, 16))


@pytest.mark.parametrize("place", [("blocks", 4), ("encoder", 0), ("blocks", -1)])
def test_unknown_places_are_refused(place: tuple[str, int]) -> None:
    with pytest.raises(SpecError, match=r"There are no hidden states .* known are blocks 0 to 3"):
        row_layouts(tiny_backbone("bert"), part_of("bert"), [place])


def test_a_changed_backbone_is_refused() -> None:
    place = [Place("blocks", 0)]
    tuned = model_of("bert", READERS["sherl"]).tuned
    with pytest.raises(SpecError, match="has the method 'sherl' on it"):
        row_layouts(tuned.backbone, part_of("bert"), place)
    light = tiny_backbone("bert")
    lighten(light, Without(1, ("blocks",)))
    with pytest.raises(SpecError, match="lacks blocks"):
        row_layouts(light, part_of("bert"), place)


def test_padding_in_front_is_refused() -> None:
    part: Any = part_of("bert")
    part.whole["attention_mask"] = part.whole["attention_mask"].flip(1)
    part.whole["input_ids"] = part.whole["input_ids"].flip(1)
    assert PAD in part.whole["input_ids"][:, 0]
    forms = row_layouts(tiny_backbone("bert"), part_of("bert"), [Place("blocks", 0)])
    with pytest.raises(DataError, match="Padding stands behind a row's tokens"):
        build(tiny_backbone("bert"), part, Kept(forms), batch_size=8)


def test_a_part_without_rows_has_no_forms() -> None:
    with pytest.raises(DataError, match="'train' has no rows"):
        row_layouts(
            tiny_backbone("bert"), Rows({name: t[:0] for name, t in batch_for("bert").items()}), [("blocks", 0)]
        )


def _memory_for(monkeypatch: pytest.MonkeyPatch, backbone: Backbone, rows: int, error: Exception) -> list[int]:
    """The backbone finds memory for so many rows at most; how many it was given."""
    given: list[int] = []
    real = backbone.encode

    def encode(batch: Batch) -> Any:
        given.append(len(batch["input_ids"]))
        if given[-1] > rows:
            raise error
        return real(batch)

    monkeypatch.setattr(backbone, "encode", encode)
    return given


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_without_memory_for_a_batch_smaller_ones_are_computed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    backbone, part, place = tiny_backbone("bert"), part_of("bert"), Place("blocks", 3)
    whole = built(backbone, part, [place]).batch(place, 8)
    kept, told = Kept(row_layouts(backbone, part, [place])), list[int]()
    given = _memory_for(monkeypatch, backbone, 2, error)
    done = build(backbone, part, kept, batch_size=6, on_batch=told.append)
    assert given == [6, 3, 2, 1, 2, 1, 2]
    assert told[-1] == done.rows == 8
    assert torch.allclose(kept.batch(place, 8), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "error"), [(0, torch.OutOfMemoryError("CUDA out of memory.")), (2, RuntimeError("of another kind"))]
)
def test_what_less_rows_do_not_help_is_raised(monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception) -> None:
    backbone, part, place = tiny_backbone("bert"), part_of("bert"), Place("blocks", 3)
    kept = Kept(row_layouts(backbone, part, [place]))
    given = _memory_for(monkeypatch, backbone, rows, error)
    with pytest.raises(type(error), match=str(error)):
        build(backbone, part, kept, batch_size=4)
    assert given == ([4, 2, 1] if rows == 0 else [4])
    given.clear()
    with pytest.raises(type(error), match=str(error)):
        forward_seconds(backbone, part, batch_size=4)
    assert given == ([4, 2, 1] if rows == 0 else [4])


def test_a_pass_is_measured_with_as_many_rows_as_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, part = tiny_backbone("bert"), part_of("bert")
    given = _memory_for(monkeypatch, backbone, 2, torch.OutOfMemoryError("CUDA out of memory."))
    assert forward_seconds(backbone, part, batch_size=8) > 0
    assert given[:2] == [8, 4]
    assert set(given[2:]) == {2}
