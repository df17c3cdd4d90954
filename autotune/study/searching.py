"""The search of a study: what proposes, stops early and runs its trials, put together."""

from __future__ import annotations

import time
from collections.abc import Callable

from autotune.config import StudyConfig
from autotune.outcome import MemoryFigures
from autotune.runner import Ended, Machine, run_trials
from autotune.search import EarlyStopping, Proposer, StudyRecord
from autotune.space import SearchSpace
from autotune.study.confirm import Reserve
from autotune.study.fit_check import FitCheck
from autotune.study.listener import StudyListener
from autotune.study.source import RunnerListener, StudySource, TrialSettings
from autotune.tracking import Tracker
from autotune.trial.fork_server import PRELOAD, Lender


def search(
    record: StudyRecord,
    space: SearchSpace,
    fits: FitCheck,
    learn: Callable[[MemoryFigures], None],
    config: StudyConfig,
    settings: TrialSettings,
    machine: Machine,
    tracker: Tracker,
    listener: StudyListener,
    deadline: float | None,
    lender: Lender | None,
) -> Ended:
    """Tries configurations until the total, the deadline, the reserve for confirming or Ctrl-C; says which."""
    stopping = EarlyStopping()
    stopping.learn(record.trials(), settings.metric)
    proposer = Proposer(
        record,
        space,
        fits,
        total=config.trials,
        seed=config.seed,
        sampler=config.sampler,
        plan=fits.planned,
        cheaper=fits.cheaper,
    )
    source = StudySource(
        record=record,
        proposer=proposer,
        fits=fits,
        stopping=stopping,
        settings=settings,
        tracker=tracker,
        listener=listener,
        learn_context=learn,
        still_there=settings.require_device,
        reserved=Reserve(config, settings.metric, begin=time.monotonic(), deadline=deadline).reached,
    )
    done = config.trials - proposer.remaining
    listener.search_begins(
        done=done, total=config.trials, metric_name=settings.metric, cap=settings.memory_cap, deadline=deadline
    )
    return run_trials(
        source,
        machine,
        ray_address=config.ray_address,
        deadline=deadline,
        listener=RunnerListener(source, listener),
        preload=(*PRELOAD, *config.plugins),
        lender=lender,
    )
