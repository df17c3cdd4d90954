"""Traces that several threads ask for at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from autotune.memory.trace import Workload, trace
from sherl.forms import TensorForm, text_form
from sherl.spec import TaskSpec, TrainingConfig
from tests.sherl.tiny import tiny_config


def test_threads_do_not_disturb_one_another() -> None:
    workloads = [
        Workload(
            backbone_config=tiny_config("bert").to_dict(),
            method=method,
            task=TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b")),
            training=TrainingConfig(learning_rate=1e-3, batch_size=6),
            train_batch=text_form(6, 11, TensorForm((6,))),
            eval_batch=text_form(6, 9, TensorForm((6,))),
        )
        for method in ({"name": "full"}, {"name": "sherl"}, {"name": "lora", "rank": 2}, {"name": "linear_probe"})
    ]
    alone = [trace(workload) for workload in workloads]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(trace, workloads * 3)) == alone * 3
