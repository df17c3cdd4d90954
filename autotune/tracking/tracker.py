"""The tracker that a study talks to: it takes messages at once and delivers them to MLflow from a thread of its own."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from autotune.files import write_text
from autotune.outcome import TrialRecord
from autotune.tracking import entries
from autotune.tracking.location import Location, locate, quiet_environment, quiet_loggers, quiet_warnings, redact
from autotune.tracking.outbox import Outbox

if TYPE_CHECKING:
    from autotune.tracking.delivery import Delivery

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0


class Tracker:
    """One study's door to MLflow.

    No method waits for the store or raises because of it: a message is first written into the study's folder
    (``tracking/pending``), then delivered in the background, and stays there until it has been. A failure is said
    once in ``notes`` (and to ``on_note``); delivery is tried again with growing pauses, by :meth:`deliver_pending`,
    and whenever the study's tracker is opened again. Messages that were delivered already change nothing, so a
    resumed study may hand in all its trials once more.
    """

    def __init__(
        self, location: Location, *, folder: Path, study_name: str, run_id: str | None, on_note: Callable[[str], None]
    ) -> None:
        self.location = location
        self.notes: list[str] = []
        self._on_note = on_note
        self._folder = folder
        self._study_name = study_name
        self._state = _read_state(folder)
        self._study_id: str = self._state["study_id"]
        self._run_id = run_id or self._state["runs"].get(location.key)
        self._outbox = Outbox(folder / "pending")
        self._rejected: set[str] = set()  # tokens of messages that the store refused; tried again when opened anew
        self._delivery: Delivery | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked, self._answered = 0, 0  # rounds of delivery that somebody waits for, and how many were made
        self._fresh = False
        self._closing = False

    @classmethod
    def open(
        cls,
        uri: str | None,
        *,
        study_dir: str | Path,
        study_name: str,
        run_id: str | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Tracker:
        """The tracker of the study in ``study_dir``.

        uri: the store; None takes MLFLOW_TRACKING_URI, else an SQLite file in the study's folder. run_id: the study's
        run in that store; by default the one that an earlier tracker of this study wrote to. Nothing is imported or
        connected before the first message; what an earlier tracker left undelivered goes first.

        Raises:
            ConfigError: ``uri`` is of a sort that MLflow cannot write to.
        """
        study_dir = Path(study_dir).expanduser().resolve()
        location = locate(uri, study_dir)
        tracker = cls(
            location,
            folder=study_dir / "tracking",
            study_name=study_name,
            run_id=run_id,
            on_note=on_note or (lambda _text: None),
        )
        if location.note:
            tracker._note(location.note)
        for name in tracker._outbox.unreadable:
            tracker._note(f"{tracker._outbox.folder / name} cannot be read and is not delivered to MLflow.")
        return tracker

    @property
    def uri(self) -> str:
        """Where runs are written, its password blotted out."""
        return self.location.shown

    @property
    def run_id(self) -> str | None:
        """The study's run in MLflow; None until the store has made it."""
        return self._run_id

    @property
    def study_id(self) -> str:
        """What tells this study's runs from all others, in every store."""
        return self._study_id

    @property
    def elsewhere(self) -> list[str]:
        """Other stores that the study's runs went to, passwords blotted out."""
        stores = self._state.get("stores", {})
        return sorted(shown for key, shown in stores.items() if key != self.location.key)

    @property
    def undelivered(self) -> int:
        """How many messages wait for delivery."""
        return len(self._outbox)

    def study_started(self, settings: Mapping[str, Any]) -> None:
        """Open, or open again, the study's run; nested settings become flat parameters."""
        self._send("study", {"settings": dict(settings)})

    def trial_finished(self, record: TrialRecord) -> None:
        """Hand in a trial that has ended, or one whose record has changed since (test metrics, say)."""
        message = {"record": entries.record_to_dict(record), "finished_ms": int(1000 * time.time())}
        self._send(f"trial-{record.number:06d}", message)

    def front(
        self,
        paths: Iterable[Path],
        table: Sequence[Mapping[str, Any]],
        selected: Mapping[str, Any] | None = None,
        *,
        titles: Mapping[str, str] | None = None,
    ) -> None:
        """Show the front on the study's run.

        paths: files of the report, logged as artifacts. table: rows of the front; those with a ``number`` mark that
        trial's run as ``on_front``. selected: what was selected; its ``explanation`` is shown first.
        titles: of figures, by the names of their files without endings; the names themselves elsewhere.
        """
        files = [str(Path(path).resolve()) for path in paths]
        message = {
            "paths": files,
            "table": [dict(row) for row in table],
            "selected": dict(selected or {}) or None,
            "titles": dict(titles or {}),
        }
        self._state["front"] = _front_digest(table, selected)
        self._keep_state()
        self._send("front", message)

    def shows_front(self, table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None) -> bool:
        """Whether the front handed in last was this one, with this selection."""
        return bool(self._state.get("front") == _front_digest(table, selected))

    def finished(self, status: str = "complete") -> None:
        """End the study's run: ``complete``, ``interrupted`` or ``failed``."""
        self._send("finished", {"status": str(status)})

    def deliver_pending(self, timeout_s: float = 30.0) -> int:
        """Try now to deliver everything that waits. Returns how many messages are still undelivered."""
        if not len(self._outbox):
            return 0
        self._start()
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= wanted, timeout=timeout_s)
        return len(self._outbox)

    def close(self, timeout_s: float = 30.0) -> int:
        """Deliver what can be delivered within the time, then let the thread go. Returns what is still undelivered."""
        left = self.deliver_pending(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        if left:
            self._note(
                f"{left} message{'s' if left != 1 else ''} for MLflow at {self.uri} could not be delivered; they are kept "
                f"in {self._outbox.folder} and are sent by `autotune report` or `autotune resume`."
            )
        return left

    def _send(self, key: str, message: dict[str, Any]) -> None:
        try:
            self._outbox.put(key, message)
        except OSError as error:
            self._note(f"Messages for MLflow cannot be kept in {self._outbox.folder} ({error}).")
        self._start()
        with self._changed:
            self._fresh = True
            self._changed.notify_all()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self._on_note(text)

    def _start(self) -> None:
        """Import mlflow here, in the caller's thread (two threads importing at once may meet half a module)."""
        if self._thread is not None or self._closing:
            return
        quiet_environment()
        try:
            import autotune.tracking.delivery  # noqa: F401  # imported for its import of mlflow
        except ImportError as error:
            self._note(f"MLflow cannot be imported ({error}); the study goes on without it.")
            return
        quiet_loggers()
        self._thread = threading.Thread(target=self._deliver_for_ever, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def _deliver_for_ever(self) -> None:
        pause, next_try = _FIRST_PAUSE_S, 0.0
        while True:
            with self._changed:
                if not self._due(next_try):
                    # without a try to wait for, only a notification wakes the thread
                    self._changed.wait(max(0.05, next_try - time.monotonic()) if next_try else None)
                if self._closing and self._asked == self._answered:
                    return
                if not self._due(next_try):
                    continue
                self._fresh = False
                asked = self._asked
            went_well = self._round()
            pause = _FIRST_PAUSE_S if went_well else min(2 * pause, _LONGEST_PAUSE_S)
            next_try = 0.0 if went_well else time.monotonic() + pause
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _due(self, next_try: float) -> bool:
        if self._closing or self._asked > self._answered:
            return True
        waiting = self._fresh or next_try > 0
        return waiting and time.monotonic() >= next_try

    def _round(self) -> bool:
        """One try at everything that waits; False when the store did not take it for now."""
        quiet_warnings()
        try:
            self._deliver_all()
        except Exception as error:  # noqa: BLE001 - stores, drivers and artifact plug-ins raise anything; none may cost a trial
            self._delivery = None
            self._note(
                f"MLflow at {self.uri} does not take the study's runs for now ({_short(error)}). The study goes on; what "
                f"was not delivered is kept in {self._outbox.folder} and sent later."
            )
            return False
        return True

    def _deliver_all(self) -> None:
        from autotune.tracking.delivery import Delivery, was_rejected

        waiting = [item for item in self._outbox.waiting() if item[1] not in self._rejected]
        if not waiting:
            return
        if self._delivery is None:
            self._delivery = Delivery(
                self.location,
                study_id=self._study_id,
                study_name=self._study_name,
                run_id=self._run_id,
                note=self._note,
            )
            self._remember(self._delivery.run_id)
        for key, token, message in waiting:
            try:
                self._delivery.deliver(key, message)
            except Exception as error:
                if not was_rejected(error):
                    raise
                self._rejected.add(token)
                self._note(f"MLflow at {self.uri} refused {key} of the study ({_short(error)}).")
            else:
                self._outbox.delivered(key, token)

    def _remember(self, run_id: str) -> None:
        self._run_id = run_id
        self._state["runs"][self.location.key] = run_id
        self._state.setdefault("stores", {})[self.location.key] = self.location.shown
        self._keep_state()

    def _keep_state(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(self._folder / "state.json", json.dumps(self._state))
        except OSError as error:
            self._note(f"{self._folder / 'state.json'} cannot be written ({error}).")


def _front_digest(table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None) -> str:
    plain = json.dumps([[dict(row) for row in table], dict(selected or {})], sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _read_state(folder: Path) -> dict[str, Any]:
    """Which study this is and which run it has in each store; new where there is none or it cannot be read."""
    state: dict[str, Any] = {}
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    if isinstance(state, dict) and isinstance(state.get("study_id"), str) and isinstance(state.get("runs"), dict):
        return state
    state = {"study_id": uuid4().hex, "runs": {}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "state.json", json.dumps(state))
    except OSError:
        return state  # said aloud as soon as there is something to remember
    return state


def _short(error: BaseException) -> str:
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return redact(f"{type(error).__name__}: {first_line[:300]}" if first_line else type(error).__name__)
