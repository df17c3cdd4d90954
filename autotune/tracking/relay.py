"""Bringing what waits in a study's outbox into its store, one round at a time, beside other commands that do the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from autotune.redaction import redact
from autotune.tracking.location import Location, quiet_warnings
from autotune.tracking.lock import Busy, DeliveryLock
from autotune.tracking.outbox import Outbox
from autotune.tracking.state import FILE_NAME, LOCK_NAME, State

if TYPE_CHECKING:
    from autotune.tracking.delivery import Delivery

_LOCK_S = 10.0
"""How long a round waits for another command's; then it is tried again as if the store had not answered."""


class Relay:
    """One study's messages on their way from ``outbox`` to the store at ``location``.

    folder: where the study's tracking is kept. state: what is known of the study's runs; kept up to date in the folder.
    run_id: the study's run in the store, None until it is made. note: is told what a person should know.
    """

    def __init__(
        self,
        location: Location,
        outbox: Outbox,
        *,
        folder: Path,
        study_name: str,
        state: State,
        run_id: str | None,
        note: Callable[[str], None],
    ) -> None:
        self.state = state
        self.run_id = run_id
        self.trouble = ""
        """Why the last round did not deliver all."""
        self.settling = False
        """Whether who asks for rounds now tells a person what is left and why."""
        self._location = location
        self._outbox = outbox
        self._folder = folder
        self._study_name = study_name
        self._note = note
        self._lock = DeliveryLock(folder / LOCK_NAME, uuid4().hex)
        self._rejected: set[str] = set()  # tokens of messages that the store refused; tried again when opened anew
        self._delivery: Delivery | None = None

    def deliver(self) -> bool:
        """One round: a try at everything that waits. False when the store did not take it for now."""
        if not len(self._outbox):
            return True
        quiet_warnings()
        try:
            with self._lock.held(_LOCK_S) as others_delivered:
                if others_delivered:  # what this connection knows of the store's runs is out of date
                    self._delivery = None
                self._deliver_all()
        except Busy as error:
            self.trouble = str(error)
            return False
        except Exception as error:  # noqa: BLE001 - stores, drivers and artifact plug-ins raise anything; none may cost a trial
            self._delivery = None
            self.trouble = _short(error)
            if not self.settling:
                self._note(
                    f"MLflow at {self._location.shown} does not take the study's runs for now ({self.trouble}). The study goes "
                    f"on; what was not delivered is kept in {self._outbox.folder} and sent later."
                )
            return False
        return True

    def _deliver_all(self) -> None:
        """Everything that waits for this store. The delivery lock is held."""
        from autotune.tracking.delivery import was_rejected

        self._outbox.refresh()
        self._catch_up()
        waiting = [item for item in self._outbox.waiting() if item[1] not in self._rejected]
        if not waiting:
            return
        self.trouble = ""
        delivery = self._connected()
        for key, token, message in waiting:
            try:
                whole = delivery.deliver(key, message)
            except Exception as error:
                if not was_rejected(error):
                    raise
                self._rejected.add(token)
                self.trouble = f"it refused {key}: {_short(error)}"
                self._note(f"MLflow at {self._location.shown} refused {key} of the study ({_short(error)}).")
            else:
                self._outbox.delivered(key, token)
                if key == "front" and whole:
                    self._keep(self.state.with_front(self._location, message["table"], message["selected"]))

    def _connected(self) -> Delivery:
        """The connection of the round before, or a new one."""
        from autotune.tracking.delivery import Delivery

        if self._delivery is None:
            self._delivery = Delivery(
                self._location,
                study_id=self.state.study_id,
                study_name=self._study_name,
                study_dir=self._folder.parent,
                run_id=self.run_id,
                note=self._note,
            )
            self.run_id = self._delivery.run_id
            self._keep(self.state.with_run(self._location, self._delivery.run_id))
        return self._delivery

    def _catch_up(self) -> None:
        """With what other commands have kept since."""
        kept = State.read(self._folder, self._location)
        if kept is None:
            return
        self.state = kept
        self.run_id = self.run_id or kept.runs.get(self._location.key)

    def _keep(self, state: State) -> None:
        changed, self.state = state != self.state, state
        if not changed and (self._folder / FILE_NAME).exists():
            return
        try:
            state.write(self._folder)
        except OSError as error:
            self._note(f"{self._folder / FILE_NAME} cannot be written ({error}).")


def _short(error: BaseException) -> str:
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return redact(f"{type(error).__name__}: {first_line[:300]}" if first_line else type(error).__name__)
