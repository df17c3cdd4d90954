"""Forms of batches: what a step's memory depends on."""

from __future__ import annotations

import pytest
import torch

from sherl.forms import (
    TensorForm,
    blank_batch,
    cast,
    enlarged,
    form_of,
    hollow,
    hollowed,
    is_hollow,
    moved,
    text_form,
    widest,
    with_rows,
)
from sherl.tasks import task_for
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone, tiny_batch


def test_a_form_is_what_a_batch_looks_like() -> None:
    batch = {**tiny_batch(rows=3, tokens=5), "pixel_values": torch.rand(3, 3, 8, 6)}
    form = form_of(batch)
    assert form["pixel_values"] == TensorForm((3, 3, 8, 6), "float32")
    made = blank_batch(form)
    assert {name: (t.shape, t.dtype) for name, t in made.items()} == {
        name: (t.shape, t.dtype) for name, t in batch.items()
    }
    assert not any(bool(tensor.any()) for tensor in made.values())


def test_the_widest_of_forms_holds_each() -> None:
    one, other = text_form(4, 9, TensorForm((4, 2))), text_form(3, 12, TensorForm((3, 5)))
    assert widest(one, other) == text_form(4, 12, TensorForm((4, 5)))


def test_forms_that_do_not_match_are_refused() -> None:
    one = text_form(4, 9, TensorForm((4,)))
    with pytest.raises(ValueError, match="must name the same tensors"):
        widest(one, text_form(4, 9, TensorForm((4,)), token_types=True))
    with pytest.raises(ValueError, match="'labels' differ"):
        widest(one, text_form(4, 9, TensorForm((4,), "float32")))
    with pytest.raises(ValueError, match=r"at least 1; \[0, 5\]"):
        TensorForm((0, 5))
    with pytest.raises(ValueError, match="no type 'int65'"):
        TensorForm((2, 5), "int65")


@pytest.mark.parametrize(
    "family", ["bert", "distilbert", "t5", "llama", "dinov2", "resnet", "whisper", "vilt", "visual_bert", "lxmert"]
)
def test_a_backbone_reads_what_it_says(family: str) -> None:
    backbone = tiny_backbone(family)
    form = backbone.inputs_form(2, tokens=7)
    assert ("token_type_ids" in form) == (family == "bert")
    assert backbone.encode(blank_batch(form)).shape[0] == 2


def test_a_task_says_what_its_labels_look_like() -> None:
    assert task_for(CLASSIFICATION).labels_form(4, 9, 0) == TensorForm((4,))


def test_a_batch_is_enlarged_by_its_own_rows_and_padding() -> None:
    batch = {**tiny_batch(rows=2, tokens=4, padded=False), "labels": torch.tensor([[5, 2], [6, 2]])}
    form = widest(form_of(batch), {**form_of(batch), **text_form(3, 6, TensorForm((3, 4)), token_types=True)})
    made = enlarged(batch, form)
    assert form_of(made) == form
    assert torch.equal(made["input_ids"][2, :4], batch["input_ids"][0])
    assert made["attention_mask"].sum(dim=1).tolist() == [4, 4, 4]
    assert made["labels"].tolist() == [[5, 2, -100, -100], [6, 2, -100, -100], [5, 2, -100, -100]]
    assert all(torch.equal(enlarged(batch, form_of(batch))[name], tensor) for name, tensor in batch.items())
    with pytest.raises(ValueError, match="cannot be enlarged"):
        enlarged(batch, text_form(1, 4, TensorForm((1, 2)), token_types=True))


def test_a_hollow_tensor_has_a_shape_and_no_values() -> None:
    made = hollow((4, 3, 8, 6), torch.float32)
    assert (tuple(made.shape), made.dtype) == ((4, 3, 8, 6), torch.float32)
    assert made.untyped_storage().nbytes() == 4
    assert is_hollow(made)
    assert is_hollow(made[1:2])
    assert not any(
        is_hollow(other) for other in (torch.zeros(4, 3), torch.zeros(1), torch.zeros(()), torch.zeros(0, 3))
    )


def test_a_hollow_tensor_stays_hollow() -> None:
    made = hollow((4, 3, 8, 6), torch.float32)
    for other in (moved(made, torch.device("cpu")), moved(made, torch.device("meta")), cast(made, torch.bfloat16)):
        assert is_hollow(other)
        assert other.shape == made.shape
    assert cast(made, torch.bfloat16).dtype is torch.bfloat16
    assert moved(made, torch.device("meta")).device.type == "meta"
    pieces = made.tensor_split(3)
    assert [len(piece) for piece in pieces] == [2, 1, 1]
    assert all(map(is_hollow, pieces))


def test_other_tensors_are_moved_and_cast_as_ever() -> None:
    tensor = torch.rand(3, 2)
    assert moved(tensor, torch.device("cpu")) is tensor
    assert cast(tensor, torch.float32) is tensor
    assert torch.equal(cast(tensor, torch.bfloat16), tensor.to(torch.bfloat16))


def test_forms_know_what_is_hollow() -> None:
    batch = {"labels": torch.arange(2), "pixel_values": hollow((2, 3, 8, 6), torch.float32)}
    form = form_of(batch)
    assert form["pixel_values"] == TensorForm((2, 3, 8, 6), "float32", hollow=True)
    assert form["pixel_values"].nbytes == 4
    assert is_hollow(blank_batch(form)["pixel_values"])
    assert with_rows(form, 7)["pixel_values"] == TensorForm((7, 3, 8, 6), "float32", hollow=True)
    whole = {**form, "pixel_values": TensorForm((1, 3, 9, 6), "float32")}
    assert hollowed(whole, {"pixel_values"})["pixel_values"].hollow
    assert hollowed(whole, {"labels"})["pixel_values"] == whole["pixel_values"]
    assert widest(form, whole)["pixel_values"] == TensorForm((2, 3, 9, 6), "float32")
    larger = widest(form, hollowed(whole, {"pixel_values"}))
    assert larger["pixel_values"] == TensorForm((2, 3, 9, 6), "float32", hollow=True)
    made = enlarged(batch, with_rows(larger, 5))
    assert form_of(made) == with_rows(larger, 5)
    assert made["labels"].tolist() == [0, 1, 0, 1, 0]
