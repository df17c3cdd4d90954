"""What a batch looks like without its values: the shapes and types that decide how much memory a step takes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

NO_LABEL = -100
"""Stands in rows of labels where nothing is to be learnt; losses pass over it."""


@dataclass(frozen=True)
class TensorForm:
    """A tensor's shape, its rows first, and its type's name, e.g. ``int64``; hollow: whether it has no values (:func:`hollow`).

    Raises:
        ValueError: a dimension is below 1, or torch has no such type.
    """

    shape: tuple[int, ...]
    dtype: str = "int64"
    hollow: bool = False

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"Each dimension of a batch's tensor must be at least 1; {list(self.shape)} was given.")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"torch has no type {self.dtype!r}; int64 and float32 are what batches hold.")

    @classmethod
    def of(cls, tensor: Tensor) -> TensorForm:
        """The form of a tensor."""
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), is_hollow(tensor))

    @property
    def nbytes(self) -> int:
        """Bytes of a tensor of this form."""
        held = 1 if self.hollow else math.prod(self.shape)
        return held * getattr(torch, self.dtype).itemsize  # type: ignore[no-any-return]  # by its name

    def blank(self) -> Tensor:
        """Zeros of this form."""
        dtype = getattr(torch, self.dtype)
        return hollow(self.shape, dtype) if self.hollow else torch.zeros(self.shape, dtype=dtype)


def hollow(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor whose shape alone is looked at: every element is the same 0 in memory."""
    return torch.zeros((), dtype=dtype).expand(tuple(shape))


def without_values(batch: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The batch with these of its tensors hollow."""
    return {name: hollow(one.shape, one.dtype) if name in names else one for name, one in batch.items()}


def is_hollow(tensor: Tensor) -> bool:
    """Whether all elements of a tensor, of several, are one in memory."""
    return tensor.numel() > 1 and not any(tensor.stride())


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device (itself where it is there already), copied while this thread goes on; a hollow one stays so."""
    if is_hollow(tensor):
        return _element(tensor).to(device, non_blocking=True).expand(tensor.shape)
    return tensor.to(device, non_blocking=True)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a type (itself where it is of it already); a hollow one stays so."""
    return _element(tensor).to(dtype).expand(tensor.shape) if is_hollow(tensor) else tensor.to(dtype)


def _element(tensor: Tensor) -> Tensor:
    return tensor[(0,) * tensor.dim()]


BatchForm: TypeAlias = Mapping[str, TensorForm]


def form_of(batch: Mapping[str, Tensor]) -> dict[str, TensorForm]:
    """The form of a batch."""
    return {name: TensorForm.of(tensor) for name, tensor in batch.items()}


def blank_batch(form: BatchForm) -> dict[str, Tensor]:
    """A batch of zeros of this form."""
    return {name: one.blank() for name, one in form.items()}


def with_rows(form: BatchForm, rows: int) -> dict[str, TensorForm]:
    """The form with another number of rows."""
    return {name: replace(one, shape=(rows, *one.shape[1:])) for name, one in form.items()}


def hollowed(form: BatchForm, names: Collection[str]) -> dict[str, TensorForm]:
    """The form with these of its tensors hollow."""
    return {name: replace(one, hollow=True) if name in names else one for name, one in form.items()}


def widest(*forms: BatchForm) -> dict[str, TensorForm]:
    """A form that holds each of these: of every tensor the largest size in each dimension.

    Raises:
        ValueError: the forms do not name the same tensors, with as many dimensions and of the same type.
    """
    first, *others = forms
    for other in others:
        if first.keys() != other.keys():
            raise ValueError(f"Forms must name the same tensors; {sorted(first)} and {sorted(other)} were given.")
    made = {}
    for name, one in first.items():
        same = [form[name] for form in forms]
        if len({(len(each.shape), each.dtype) for each in same}) > 1:
            raise ValueError(f"Forms of {name!r} differ in more than their sizes: {same}.")
        largest = tuple(map(max, zip(*(each.shape for each in same), strict=True)))
        made[name] = TensorForm(largest, one.dtype, all(each.hollow for each in same))
    return made


def enlarged(batch: Mapping[str, Tensor], form: BatchForm) -> dict[str, Tensor]:
    """A batch made as large as ``form`` says: its rows come again, and behind each stands padding (-100 in labels, else 0).

    Raises:
        ValueError: the form is smaller somewhere, names other tensors, or has others of their types.
    """
    if widest(form_of(batch), form) != dict(form):
        raise ValueError(f"A batch of the form {form_of(batch)} cannot be enlarged to the smaller {dict(form)}.")
    made = {}
    for name, tensor in batch.items():
        if form[name].hollow:
            made[name] = form[name].blank()
            continue
        again = torch.arange(form[name].shape[0]) % len(tensor)
        missing = [size - own for size, own in zip(form[name].shape[1:], tensor.shape[1:], strict=True)]
        behind = [width for size in reversed(missing) for width in (0, size)]
        made[name] = pad(tensor[again], behind, value=NO_LABEL if name == "labels" else 0)
    return made


def text_form(rows: int, tokens: int, labels: TensorForm, *, token_types: bool = False) -> dict[str, TensorForm]:
    """A batch of texts as :mod:`sherl.data` makes it: ids and mask [rows, tokens], perhaps token types, labels."""
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if token_types else [])
    return {**{name: TensorForm((rows, tokens)) for name in names}, "labels": labels}
