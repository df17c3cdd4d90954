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

from autotune.outcome import TrialRecord
from autotune.redaction import redact, redacted
from autotune.tracking import entries
from autotune.tracking.location import Location, locate, quiet_environment, quiet_loggers, quiet_warnings
from autotune.tracking.lock import Busy, DeliveryLock
from autotune.tracking.outbox import OWN_STORE, Outbox
from autotune.tracking.state import FILE_NAME, LOCK_NAME, State

if TYPE_CHECKING:
    from autotune.tracking.delivery import Delivery

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0
_LOCK_S = 10.0
"""How long a round waits for another command's; then it is tried again as if the store had not answered."""


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
        self._state = State.open(folder, location)
        self._study_id: str = self._state.study_id
        self._run_id = run_id or self._state.runs.get(location.key)
        # what an earlier version left without a store's name was for the one that the study wrote to
        strange = not location.named and self._run_id is None and self.elsewhere
        self._outbox = Outbox(
            folder / "pending",
            store=location.key,
            shown=location.shown,
            keyless=" and ".join(self.elsewhere) if strange else None,
        )
        self._lock = DeliveryLock(folder / LOCK_NAME, uuid4().hex)
        self._trouble = ""  # why the last try did not deliver all
        self._rejected: set[str] = set()  # tokens of messages that the store refused; tried again when opened anew
        self._delivery: Delivery | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked, self._answered = 0, 0  # rounds of delivery that somebody waits for, and how many were made
        self._fresh = False
        self._settling = False  # close() has been called, and tells itself what is left and why
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
        for path in tracker._outbox.unreadable:
            tracker._note(f"{path} cannot be read and is not delivered to MLflow.")
        for store, count in tracker._outbox.elsewhere().items():
            back = "is not set" if store == OWN_STORE else "names that store again"
            tracker._note(
                f"{_messages(count)} for MLflow at {store} {'wait' if count != 1 else 'waits'} to be sent, and runs now go to "
                f"{tracker.uri}: `autotune report` sends them once MLFLOW_TRACKING_URI {back}."
            )
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
        return self._state.elsewhere(self.location, self._folder.parent / "mlflow.db")

    @property
    def undelivered(self) -> int:
        """How many messages wait for delivery."""
        return len(self._outbox)

    def study_started(self, settings: Mapping[str, Any]) -> None:
        """Open, or open again, the study's run; nested settings become flat parameters."""
        self._send("study", {"settings": redacted(dict(settings))})

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
        message = {
            "paths": [self._within(path) for path in paths],
            "table": [dict(row) for row in table],
            "selected": dict(selected or {}) or None,
            "titles": dict(titles or {}),
        }
        self._send("front", message)

    @property
    def front_waits(self) -> bool:
        """Whether a front was handed in that has not been delivered."""
        return self._outbox.message("front") is not None

    def shows_front(self, table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None) -> bool:
        """Whether the store shows this front, with this selection and all its files, and no other waits."""
        return not self.front_waits and self._state.fronts.get(self.location.key) == _front_digest(table, selected)

    def _within(self, path: Path) -> str:
        """Relative to the study's folder, which may be moved before the file is sent; else in full."""
        whole, study_dir = Path(path).resolve(), self._folder.parent
        return str(whole.relative_to(study_dir) if whole.is_relative_to(study_dir) else whole)

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
        self._settling = True
        left = self.deliver_pending(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        if left:
            self._note(
                f"{_messages(left)} for MLflow at {self.uri} could not be delivered "
                f"({self._trouble or f'it has not answered within {timeout_s:g} s'}); they are kept in "
                f"{self._outbox.folder} and are sent by `autotune report` or `autotune resume`."
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
        if not len(self._outbox):
            return True
        quiet_warnings()
        try:
            with self._lock.held(_LOCK_S) as others_delivered:
                if others_delivered:  # what this connection knows of the store's runs is out of date
                    self._delivery = None
                self._deliver_all()
        except Busy as error:
            self._trouble = str(error)
            return False
        except Exception as error:  # noqa: BLE001 - stores, drivers and artifact plug-ins raise anything; none may cost a trial
            self._delivery = None
            self._trouble = _short(error)
            if not self._settling:
                self._note(
                    f"MLflow at {self.uri} does not take the study's runs for now ({self._trouble}). The study goes on; "
                    f"what was not delivered is kept in {self._outbox.folder} and sent later."
                )
            return False
        return True

    def _deliver_all(self) -> None:
        """Everything that waits for this store. The delivery lock is held."""
        from autotune.tracking.delivery import Delivery, was_rejected

        self._outbox.refresh()
        self._catch_up()
        waiting = [item for item in self._outbox.waiting() if item[1] not in self._rejected]
        if not waiting:
            return
        self._trouble = ""
        if self._delivery is None:
            self._delivery = Delivery(
                self.location,
                study_id=self._study_id,
                study_name=self._study_name,
                study_dir=self._folder.parent,
                run_id=self._run_id,
                note=self._note,
            )
            self._run_id = self._delivery.run_id
            self._keep(self._state.with_run(self.location, self._delivery.run_id))
        for key, token, message in waiting:
            try:
                whole = self._delivery.deliver(key, message)
            except Exception as error:
                if not was_rejected(error):
                    raise
                self._rejected.add(token)
                self._trouble = f"it refused {key}: {_short(error)}"
                self._note(f"MLflow at {self.uri} refused {key} of the study ({_short(error)}).")
            else:
                self._outbox.delivered(key, token)
                if key == "front" and whole:
                    digest = _front_digest(message["table"], message["selected"])
                    self._keep(self._state.with_front(self.location, digest))

    def _catch_up(self) -> None:
        """With what other commands have kept since."""
        kept = State.read(self._folder, self.location)
        if kept is None:
            return
        if kept.study_id != self._state.study_id:
            self._study_id = kept.study_id
        self._state = kept
        self._run_id = self._run_id or kept.runs.get(self.location.key)

    def _keep(self, state: State) -> None:
        changed, self._state = state != self._state, state
        if not changed and (self._folder / FILE_NAME).exists():
            return
        try:
            state.write(self._folder)
        except OSError as error:
            self._note(f"{self._folder / FILE_NAME} cannot be written ({error}).")


def _messages(count: int) -> str:
    return f"{count} message{'s' if count != 1 else ''}"


def _front_digest(table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None) -> str:
    plain = json.dumps([[dict(row) for row in table], dict(selected or {})], sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _short(error: BaseException) -> str:
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return redact(f"{type(error).__name__}: {first_line[:300]}" if first_line else type(error).__name__)
