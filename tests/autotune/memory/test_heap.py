"""Heap plans and resident weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autotune.memory.heap import configure_heap, make_resident
from tests.autotune.memory.children import run


def test_an_unknown_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="fast, tight"):
        configure_heap("loose")  # type: ignore[arg-type]  # that is the point


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's settings")
def test_the_tight_heap_gives_back_what_is_freed() -> None:
    """Every second block freed: holes in a common heap stay with the process, pages of one's own go back."""
    left = {}
    for plan in ("fast", "tight"):
        finished = run(f"""
import torch
from autotune.memory.heap import configure_heap
from autotune.memory.process import own_private_bytes
taken = configure_heap({plan!r})
torch.empty(30_000_000, dtype=torch.int8)   # freed: glibc now keeps blocks of up to this size in its heap, unless told otherwise
before = own_private_bytes()
held = [torch.ones(300_000) for _ in range(100)]
del held[::2]
print(taken, own_private_bytes() - before)
""")
        taken, grown = finished.stdout.split()
        if taken == "False":
            pytest.skip("another C library than glibc")
        left[plan] = int(grown)
    assert 55_000_000 < left["tight"] < 70_000_000
    assert left["fast"] > 100_000_000


def _mapped(folder: Path, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Tensors that are mapped from files, as transformers maps a checkpoint."""
    tensors = []
    for number, shape in enumerate(shapes):
        size = torch.Size(shape).numel()
        storage = torch.UntypedStorage.from_file(str(folder / f"{number}.bin"), shared=True, nbytes=4 * size)
        tensors.append(torch.empty(0).set_(storage, 0, shape).copy_(torch.arange(float(size)).view(shape)))
    return tensors


def test_mapped_weights_get_memory_of_their_own(tmp_path: Path) -> None:
    weight, table = _mapped(tmp_path, (4, 3), (5, 3))
    model = nn.Linear(3, 4)
    model.weight = nn.Parameter(weight, requires_grad=False)
    model.register_parameter("tied", model.weight)
    model.register_buffer("table", table.t())
    model.register_buffer("row", table[2])
    parameter, bias = model.weight, model.bias
    pointer, bias_pointer = parameter.data_ptr(), bias.data_ptr()
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    copied = make_resident(model)

    assert copied == 48 + 60, "each storage once; the bias has memory of its own already"
    assert model.weight is parameter
    assert model.tied is parameter
    assert not parameter.requires_grad
    assert bias.requires_grad
    assert parameter.data_ptr() != pointer
    assert bias.data_ptr() == bias_pointer
    assert model.table.untyped_storage()._cdata == model.row.untyped_storage()._cdata, "views of one stay views of one"
    assert model.table.stride() == table.t().stride()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, values[name])
    weight.zero_()
    assert model.weight.sum() > 0, "the file is out of the game"
    assert make_resident(model) == 0


def test_without_a_table_of_mappings_everything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.memory.heap._file_mappings", lambda: None)
    model = nn.Linear(3, 4)
    assert make_resident(model) == 64
