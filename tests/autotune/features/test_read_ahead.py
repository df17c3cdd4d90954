"""One batch ahead, in one thread that never stays behind."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.features.ahead import SideStream, read_ahead, side_stream
from autotune.features.layout import Layout
from autotune.features.part import FeaturePart
from autotune.features.store import FeatureStore
from autotune.trial.data import TrialData
from tests.autotune.features.samples import KEY, build
from tests.autotune.features.test_feature_part import Rows


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) == before


def _counting(made: list[int], *, fail_at: int | None = None) -> Iterator[int]:
    for number in range(5):
        if number == fail_at:
            raise RuntimeError(f"no item {number}")
        made.append(number)
        yield number


def test_items_come_in_order_from_one_other_thread() -> None:
    names = set()

    def items() -> Iterator[int]:
        for number in range(20):
            names.add(threading.current_thread().name)
            yield number

    assert list(read_ahead(items())) == list(range(20))
    assert len(names) == 1
    assert names != {threading.current_thread().name}
    assert list(read_ahead(iter([]))) == []
    assert list(read_ahead(iter([None, 0]))) == [None, 0]


def test_one_is_made_ahead_and_no_more() -> None:
    gates = [threading.Event() for _ in range(4)]
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number, gate in enumerate(gates):
            begun.append(number)
            assert gate.wait(10)
            yield number

    ahead = read_ahead(items())
    gates[0].set()
    assert next(ahead) == 0
    gates[1].set()
    gates[2].set()  # may be made only when the second is taken
    assert next(ahead) == 1
    assert next(ahead) == 2
    assert begun in ([0, 1, 2], [0, 1, 2, 3])
    gates[3].set()
    assert list(ahead) == [3]


def test_nothing_beyond_the_next_is_begun() -> None:
    made: list[int] = []
    ahead = read_ahead(_counting(made))
    assert made == []
    next(ahead)
    ahead.close()  # type: ignore[attr-defined]  # it is a generator
    assert made in ([0], [0, 1])


def test_an_error_comes_where_its_item_would_have() -> None:
    ahead = read_ahead(_counting([], fail_at=2))
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(RuntimeError, match="no item 2"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_an_abandoned_iterator_ends_its_thread() -> None:
    ahead = read_ahead(iter(range(100)))
    next(ahead)
    assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    del ahead


def test_an_error_of_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        for number in read_ahead(iter(range(100))):
            assert number < 3, "enough"

    with pytest.raises(AssertionError, match="enough"):
        consume()


def _part(folder: Path, *, device: str | None = None, ahead: bool | None = None) -> FeaturePart:
    lengths = [5, 3, 8, 1, 8, 2, 7, 7, 4]
    store = FeatureStore.open(folder, KEY)
    layouts = {
        ("blocks", 1): Layout.tokens(lengths, 4, torch.float32),
        ("blocks", 2): Layout.fixed(9, (3, 2), torch.float16),
    }
    build(store, layouts)
    reader = store.reader("train", layouts)
    assert reader is not None
    return FeaturePart(Rows(lengths), reader, device=device, ahead=ahead)


def test_on_a_cpu_nothing_is_read_ahead_unless_asked_for(tmp_path: Path) -> None:
    assert not _part(tmp_path).ahead
    assert _part(tmp_path, ahead=True).ahead


def test_an_error_while_reading_reaches_the_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = _part(tmp_path, ahead=True)
    plain = Rows.batch

    def batch(self: Rows, rows: np.ndarray) -> dict[str, torch.Tensor]:
        if 3 in np.asarray(rows):
            raise OSError("the disk is gone")
        return plain(self, rows)

    monkeypatch.setattr(Rows, "batch", batch)
    with pytest.raises(OSError, match="the disk is gone"):
        list(part.batches(2, seed=0))


def test_an_epoch_that_is_broken_off_leaves_no_thread(tmp_path: Path) -> None:
    part = _part(tmp_path, ahead=True)
    assert next(part.batches(2, seed=0)).keys() == part.batch([0]).keys()
    evaluation = part.eval_batches(2)
    next(evaluation)
    del evaluation


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ahead", [False, True])
def test_on_a_gpu_batches_come_through_pinned_memory(tmp_path: Path, ahead: bool) -> None:
    plain, part = _part(tmp_path), _part(tmp_path, device="cuda", ahead=ahead)
    assert all(tensor.is_pinned() for tensor in part.batch([0, 2]).values())
    for one, other in zip(part.batches(2, seed=1), plain.batches(2, seed=1), strict=True):
        assert all(tensor.device.type == "cuda" for tensor in one.values())
        assert {name: tensor.cpu().tolist() for name, tensor in one.items()} == {
            n: t.tolist() for n, t in other.items()
        }
    for (one, index), (other, wanted) in zip(part.eval_batches(2), plain.eval_batches(2), strict=True):
        assert index.tolist() == wanted.tolist()
        assert torch.equal(one["features.blocks.1"].cpu(), other["features.blocks.1"])


class _Recorder:
    """What stands in for torch's streams and events, and notes in which order they are asked."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.streams = 0
        self._events = 0

    def Stream(self, device: torch.device) -> _Recorder:
        del device
        self.streams += 1
        return self

    @contextlib.contextmanager
    def stream(self, stream: _Recorder) -> Iterator[None]:
        del stream
        self.log.append("copy")
        yield

    def current_stream(self, device: torch.device) -> _Recorder:
        del device
        return self

    def record_event(self) -> _Mark:
        self._events += 1
        return _Mark(self, self._events)

    def wait_event(self, event: _Mark) -> None:
        self.log.append(f"wait in the GPU for {event.number}")


class _Mark:
    def __init__(self, recorder: _Recorder, number: int) -> None:
        self._recorder, self.number = recorder, number

    def synchronize(self) -> None:
        self._recorder.log.append(f"wait for {self.number}")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Recorder]:
    made = _Recorder()
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    side_stream.cache_clear()
    yield made
    side_stream.cache_clear()


def test_the_gpu_holds_no_more_than_the_batch_in_use_and_the_next(recorder: _Recorder) -> None:
    """The CPU runs many steps ahead of a GPU: a batch gets no room before the one before the last has been used."""
    side = SideStream(torch.device("cpu"))
    given = [side.bring({"x": torch.full((2,), number)}) for number in range(3)]
    assert [batch["x"].tolist() for batch in given] == [[0, 0], [1, 1], [2, 2]]
    assert recorder.log == [
        "copy",
        "wait in the GPU for 1",
        "wait for 2",  # behind all that was asked of the GPU before the first batch was given out
        "copy",
        "wait in the GPU for 3",
        "wait for 4",  # behind all that was done with the first
        "copy",
        "wait in the GPU for 5",
    ]


def test_all_passes_over_all_parts_share_one_stream(
    tmp_path: Path, recorder: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator keeps what each stream has had for that stream: another for each epoch would hold its batches anew."""
    part, other = (_part(tmp_path / name, device="cuda") for name in ("one", "other"))
    monkeypatch.setattr(FeaturePart, "batch", lambda _self, rows: {"x": torch.zeros(len(rows))})
    monkeypatch.setattr("autotune.features.ahead.moved", lambda tensor, _device: tensor)
    for epoch in range(3):
        assert len(list(part.batches(2, seed=0, epoch=epoch))) == 5
        assert len(list(other.eval_batches(3))) == 3
    assert recorder.streams == 1


def test_a_rehearsal_takes_the_room_of_the_batch_that_is_brought_ahead_too(
    recorder: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the peak it shows is the run's."""
    held: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def moved(tensor: torch.Tensor, _: torch.device) -> torch.Tensor:
        nonlocal most
        made = tensor.clone()
        held.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in held))
        return made

    monkeypatch.setattr("autotune.features.ahead.moved", moved)
    data = TrialData.__new__(TrialData)
    data._device, data._readers = torch.device("cuda"), {}
    batch = {"x": torch.ones(3)}
    brought = data.as_trained(batch)
    assert brought["x"].tolist() == [1.0] * 3
    assert most == 2
    assert sum(one() is not None for one in held) == 1, "its live bytes are not the next one's too"
    assert recorder.streams == 1
    data._readers = None
    assert data.as_trained(batch) is batch, "where nothing is read a step copies its own batch"
    data._device, data._readers = torch.device("cpu"), {}
    assert data.as_trained(batch) is batch
