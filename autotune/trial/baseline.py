"""What a trial's process holds before it holds anything of the trial: the base of every prediction of its memory."""

from __future__ import annotations

import tempfile

import torch

from autotune.errors import DeviceError
from autotune.memory.process import own_private_bytes
from autotune.outcome import MemoryFigures, Outcome, Status
from autotune.trial.confines import confines_for
from autotune.trial.fork_server import ForkServer
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest

MEASURE = f"{__name__}:measure"
_NO_CAP = 2**62


def baseline_bytes(server: ForkServer | None = None, *, threads: int = 1) -> int:
    """Private bytes of a trial's process after its imports and its first small step, on the CPU.

    Starts one such process, and a fork server for it unless ``server`` is given (some seconds).

    Raises:
        DeviceError: the process could not be started or did not measure.
    """
    if server is None:
        with ForkServer() as own:
            return baseline_bytes(own, threads=threads)
    with tempfile.TemporaryDirectory(prefix="autotune-") as folder:
        request = TrialRequest(
            number=0, backbone_source="", prepared_dir="", output_dir=folder, memory_cap=_NO_CAP, threads=threads
        )
        for event in TrialProcess(request, server, meter_for(request), target=MEASURE).events():
            if isinstance(event, Finished):
                outcome = event.outcome
                if outcome.status is not Status.COMPLETE:
                    raise DeviceError(f"The memory of an empty trial could not be measured: {outcome.reason}")
                return int(outcome.details["private_bytes"])
    raise AssertionError("events() ends with Finished")


def measure(request: TrialRequest, send: object) -> Outcome:
    """The target: confines this process like a trial's, makes one step of a tiny model, and looks what it holds.

    The step loads the libraries' kernels and starts torch's threads, which every trial pays for and no tensor shows.
    """
    del send
    confines_for(request)
    torch.zeros(2**16 * request.threads).add_(1.0)
    layer = torch.nn.Linear(256, 256)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(64, 256)).square().mean().backward()
    optimizer.step()
    del layer, optimizer
    held = own_private_bytes()
    figures = MemoryFigures(allocated=0, device=held, meter="process private bytes")
    return Outcome(status=Status.COMPLETE, peak=figures, details={"private_bytes": held})
