"""Memory plans: what a configuration may run with beyond what was asked for, to take less memory and learn the same.

A plan never changes the batch size of an optimizer step, the method or its sizes. It has up to three parts: an
evaluation in smaller batches (only where a task writes text, whose caches can take more than training does; answers are
the same), activation checkpointing (blocks that need gradients run a second time in backward; the gradients are the same
to the last bit) and accumulation (a step's batch is gone through in micro-batches; each row counts as before, the
gradients are the same up to rounding and to the places where dropout falls).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from autotune.outcome import Candidate

_CHECKPOINTING = "activation_checkpointing"
_ACCUMULATION = "accumulation"
_EVALUATION = "eval_batch_size"
_EVALUATION_PARTS = (4, 16)  # of a micro-batch's rows


def plans_for(candidate: Candidate, *, writes_text: bool = False) -> Iterator[Candidate]:
    """The candidate with each of its plans, from the fastest to the one of least memory; the first has none.

    What the search space varies is left as it was drawn, since a plan would only repeat another configuration. The
    micro-batches halve from plan to plan, down to one row. writes_text: whether the task does.
    """
    varied = {name.rsplit(".", 1)[-1] for name in candidate.params}
    checkpointing = [False]
    if candidate.method.get(_CHECKPOINTING) is False and _CHECKPOINTING not in varied:
        checkpointing.append(True)
    asked = int(candidate.training.get(_ACCUMULATION, 1))
    accumulations = [asked]
    rows = int(candidate.training.get("batch_size", 1))
    if _ACCUMULATION not in varied:
        while accumulations[-1] * 2 <= rows:
            accumulations.append(accumulations[-1] * 2)
    for accumulation in accumulations:
        evaluations: list[int | None] = [None]
        if writes_text and candidate.training.get(_EVALUATION) is None and _EVALUATION not in varied:
            at_once = math.ceil(rows / accumulation)
            fewer = {math.ceil(at_once / parts) for parts in _EVALUATION_PARTS} - {at_once}
            evaluations += sorted(fewer, reverse=True)
        for checkpointed in checkpointing:
            for evaluation in evaluations:
                plan: dict[str, bool | int] = {}
                if checkpointed:
                    plan[_CHECKPOINTING] = True
                if accumulation != asked:
                    plan[_ACCUMULATION] = accumulation
                if evaluation is not None:
                    plan[_EVALUATION] = evaluation
                yield replace(candidate, plan=plan)
