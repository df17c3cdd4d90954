"""When the tracker's thread tries to deliver: at once where somebody waits, else after pauses that grow."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from autotune.tracking import thread as thread_module
from autotune.tracking.thread import DeliveryThread


class Store:
    """Takes nothing for the first ``refusals`` rounds. Knows when each round was."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.rounds: list[float] = []
        self._made = threading.Condition()

    def deliver(self) -> bool:
        with self._made:
            self.rounds.append(time.monotonic())
            self._made.notify_all()
            return len(self.rounds) > self.refusals

    def wait_for(self, rounds: int) -> None:
        with self._made:
            assert self._made.wait_for(lambda: len(self.rounds) >= rounds, timeout=30)


def test_a_failed_round_is_tried_again_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(thread_module, "_LONGEST_PAUSE_S", 0.3)
    store = Store(refusals=4)
    thread = DeliveryThread(store.deliver)
    thread.start()
    thread.wake()
    store.wait_for(5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(store.rounds)]
    assert [pause >= least for pause, least in zip(pauses, (0.1, 0.2, 0.3, 0.3), strict=True)] == [True] * 4
    time.sleep(0.4)
    assert len(store.rounds) == 5, "all is delivered"
    thread.close()


def test_only_who_waits_for_a_round_cuts_a_pause_short() -> None:
    store = Store(refusals=1)
    thread = DeliveryThread(store.deliver)
    thread.start()
    thread.wake()
    store.wait_for(1)
    thread.wake()
    time.sleep(0.3)
    assert len(store.rounds) == 1
    began = time.monotonic()
    thread.wait_for_round(timeout_s=9.0)
    assert len(store.rounds) == 2
    assert time.monotonic() - began < 9.0
    thread.close()


def test_what_hangs_is_not_waited_for_beyond_the_time() -> None:
    released = threading.Event()
    thread = DeliveryThread(lambda: released.wait(60))
    thread.start()
    began = time.monotonic()
    thread.wait_for_round(timeout_s=0.2)
    thread.close()
    assert 0.2 <= time.monotonic() - began < 10
    released.set()


def test_a_thread_is_started_once_and_never_after_its_end() -> None:
    store = Store()
    thread = DeliveryThread(store.deliver)
    assert thread.may_start
    thread.start()
    assert not thread.may_start
    thread.close()
    unused = DeliveryThread(store.deliver)
    unused.close()
    assert not unused.may_start
