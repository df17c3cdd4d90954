"""Memory plans: what a configuration may run with beyond what was asked for, to take less memory and learn the same.

A plan never changes the batch size of an optimizer step, the method or its sizes. It has two parts: activation
checkpointing (blocks that need gradients run a second time in backward; the gradients are the same to the last bit)
and accumulation (a step's batch is gone through in micro-batches; each row counts as before, the gradients are the
same up to rounding and to the places where dropout falls).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from autotune.outcome import Candidate

_CHECKPOINTING = "activation_checkpointing"
_ACCUMULATION = "accumulation"


def plans_for(candidate: Candidate) -> Iterator[Candidate]:
    """The candidate with each of its plans, from the fastest to the one of least memory; the first has none.

    What the search space varies is left as it was drawn, since a plan would only repeat another configuration. The
    micro-batches halve from plan to plan, down to one row.
    """
    varied = {name.rsplit(".", 1)[-1] for name in candidate.params}
    checkpointing = [False]
    if candidate.method.get(_CHECKPOINTING) is False and _CHECKPOINTING not in varied:
        checkpointing.append(True)
    asked = int(candidate.training.get(_ACCUMULATION, 1))
    accumulations = [asked]
    if _ACCUMULATION not in varied:
        rows = int(candidate.training.get("batch_size", 1))
        while accumulations[-1] * 2 <= rows:
            accumulations.append(accumulations[-1] * 2)
    for accumulation in accumulations:
        for checkpointed in checkpointing:
            plan: dict[str, bool | int] = {}
            if checkpointed:
                plan[_CHECKPOINTING] = True
            if accumulation != asked:
                plan[_ACCUMULATION] = accumulation
            yield replace(candidate, plan=plan)
