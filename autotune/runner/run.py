"""One run of trials, from a source that has some to one that has no more."""

from __future__ import annotations

from autotune.errors import DeviceError
from autotune.outcome import Status
from autotune.runner.desk import Desk
from autotune.runner.interrupts import handlers_kept, interrupts
from autotune.runner.session import RayGone, ray_session
from autotune.runner.shares import Machine
from autotune.runner.source import Ended, Listener, TrialSource
from autotune.trial.fork_server import PRELOAD, Lender
from autotune.trial.process import EXECUTE

#: How often Ray is started anew in one run after it broke down.
RESTARTS = 2


def run_trials(
    source: TrialSource,
    machine: Machine,
    *,
    ray_address: str | None = None,
    deadline: float | None = None,
    listener: Listener | None = None,
    target: str = EXECUTE,
    preload: tuple[str, ...] = PRELOAD,
    lender: Lender | None = None,
) -> Ended:
    """Runs trials until the source is done, the deadline has come or the user interrupts; returns which.

    Every request that the source gave out is answered with one outcome. A trial's bad end, the death of a worker
    and errors of Ray are outcomes and end nothing else. A trial that needs more than the share it was given for its
    prediction is started once more with its whole cap, one whose memory another tenant took once more when all others are
    done, and the source hears only of the second outcome.

    At the deadline and at the first Ctrl-C (or SIGTERM) running trials are ended and marked INTERRUPTED, with their
    epochs so far; both take a few seconds. A second Ctrl-C cuts everything off.

    Args:
        source: decides what is tried.
        machine: what is there to place trials on.
        ray_address: of a Ray cluster; None starts Ray on this machine.
        deadline: of ``time.monotonic()``.
        listener: is told what happens.
        target, preload: what runs in a trial's process and what is imported for it beforehand; for tests.
        lender: of a fork server on this machine that has imported the same.

    Raises:
        DeviceError: Ray cannot be started or reached, or keeps breaking down.
        Exception: whatever the source or the listener raised, when all trials have been ended.
    """
    desk = Desk(source, listener or Listener(), machine, deadline)
    try:
        with handlers_kept():
            attempts = 1 + RESTARTS
            while not _run_once(desk, machine, ray_address, target, preload, lender, last=attempts == 1):
                attempts -= 1
    except KeyboardInterrupt:
        desk.stop("you interrupted the study", Ended.INTERRUPTED)
    finally:
        desk.lose_all(Status.INTERRUPTED, f"interrupted: {desk.why or 'the run broke off'}.")
    if desk.error is not None:
        raise desk.error
    return desk.ended


def _run_once(
    desk: Desk,
    machine: Machine,
    ray_address: str | None,
    target: str,
    preload: tuple[str, ...],
    lender: Lender | None,
    *,
    last: bool,
) -> bool:
    """One life of Ray; False when it broke down and another may be tried."""
    from autotune.runner import tuning  # imports Ray

    with ray_session(machine, ray_address) as ray, interrupts() as noted:
        desk.open(ray.places, ray.budgets, lambda: noted.asked)
        try:
            tuning.run(desk, ray, target=target, preload=preload, lender=lender)
        except (Exception, RayGone) as error:  # Ray's errors are of any kind, and none may cost a study
            if last:
                raise DeviceError(f"Ray broke down {1 + RESTARTS} times in this run, at last with: {error}") from error
            desk.lose_all(Status.INTERRUPTED, f"Ray broke down: {error}")
            return False
    return True
