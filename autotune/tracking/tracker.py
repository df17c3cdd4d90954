"""The tracker that a study talks to: it takes messages at once, and a thread delivers them to MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.outcome import TrialRecord
from autotune.redaction import redacted
from autotune.tracking import entries
from autotune.tracking.location import Location, locate, quiet_environment, quiet_loggers
from autotune.tracking.outbox import OWN_STORE, Outbox
from autotune.tracking.relay import Relay
from autotune.tracking.state import State
from autotune.tracking.thread import DeliveryThread
from autotune.units import count_words


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
        state = State.open(folder, location)
        run_id = run_id or state.runs.get(location.key)
        elsewhere = self._elsewhere(state)
        # what an earlier version left without a store's name was for the one that the study wrote to
        strange = not location.named and run_id is None and elsewhere
        self._outbox = Outbox(
            folder / "pending",
            store=location.key,
            shown=location.shown,
            keyless=" and ".join(elsewhere) if strange else None,
        )
        self._relay = Relay(
            location,
            self._outbox,
            folder=folder,
            study_name=study_name,
            state=state,
            run_id=run_id,
            note=self._note,
        )
        self._thread = DeliveryThread(self._relay.deliver)

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
                f"{count_words(count, 'message')} for MLflow at {store} {'wait' if count != 1 else 'waits'} to be sent, and runs now go to "
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
        return self._relay.run_id

    @property
    def study_id(self) -> str:
        """What tells this study's runs from all others, in every store."""
        return self._relay.state.study_id

    @property
    def elsewhere(self) -> list[str]:
        """Other stores that the study's runs went to, passwords blotted out."""
        return self._elsewhere(self._relay.state)

    def _elsewhere(self, state: State) -> list[str]:
        return state.elsewhere(self.location, self._folder.parent / "mlflow.db")

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
        return not self.front_waits and self._relay.state.shows_front(self.location, table, selected)

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
        self._thread.wait_for_round(timeout_s)
        return len(self._outbox)

    def close(self, timeout_s: float = 30.0) -> int:
        """Deliver what can be delivered within the time, then let the thread go. Returns what is still undelivered."""
        self._relay.settling = True
        left = self.deliver_pending(timeout_s)
        self._thread.close()
        if left:
            self._note(
                f"{count_words(left, 'message')} for MLflow at {self.uri} could not be delivered "
                f"({self._relay.trouble or f'it has not answered within {timeout_s:g} s'}); they are kept in "
                f"{self._outbox.folder} and are sent by `autotune report` or `autotune resume`."
            )
        return left

    def _send(self, key: str, message: dict[str, Any]) -> None:
        try:
            self._outbox.put(key, message)
        except OSError as error:
            self._note(f"Messages for MLflow cannot be kept in {self._outbox.folder} ({error}).")
        self._start()
        self._thread.wake()

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            self._on_note(text)

    def _start(self) -> None:
        """Import mlflow here, in the caller's thread (two threads importing at once may meet half a module)."""
        if not self._thread.may_start:
            return
        quiet_environment()
        try:
            import autotune.tracking.delivery  # noqa: F401  # imported for its import of mlflow
        except ImportError as error:
            self._note(f"MLflow cannot be imported ({error}); the study goes on without it.")
            return
        quiet_loggers()
        self._thread.start()
