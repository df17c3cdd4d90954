"""Weights kept on disk and put back."""

from __future__ import annotations

import io
import tracemalloc

import pytest
import torch

from sherl.snapshot import Snapshot


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).to(torch.bfloat16),
        torch.tensor(2.5),
        torch.arange(7),
        torch.tensor([True, False]),
        torch.empty(0, 3),
        torch.randn(4, 6).t(),
        torch.randn(8)[::2],
        torch.tensor([float("nan"), float("inf"), -0.0]),
    ],
    ids=["fp32", "bf16", "scalar", "int", "bool", "empty", "transposed", "strided", "odd values"],
)
def test_puts_back_to_the_bit(tensor: torch.Tensor) -> None:
    wanted = tensor.clone()
    other = torch.randn(5)
    wanted_other = other.clone()
    snapshot = Snapshot([tensor, other])
    for _ in range(2):
        tensor.zero_()
        other.zero_()
        snapshot.put_back()
        assert torch.equal(tensor.nan_to_num(7.0), wanted.nan_to_num(7.0))
        assert torch.equal(torch.isnan(tensor), torch.isnan(wanted))
        assert torch.equal(other, wanted_other)
    snapshot.close()


def test_parameters_are_put_back_in_place() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    address = parameter.data_ptr()
    snapshot = Snapshot([parameter])
    with torch.no_grad():
        parameter.zero_()
    snapshot.put_back()
    snapshot.close()
    assert parameter.tolist() == [1, 1, 1]
    assert parameter.data_ptr() == address
    assert parameter.requires_grad


def test_holds_no_copy_in_memory() -> None:
    tensor = torch.zeros(2_000_000)
    tracemalloc.start()
    snapshot = Snapshot([tensor])
    snapshot.put_back()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    snapshot.close()
    assert peak < 1_000_000


def test_a_full_disk_is_told_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    full = Full()
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full)
    with pytest.raises(OSError, match="No space"):
        Snapshot([torch.ones(3)])
    assert full.closed
