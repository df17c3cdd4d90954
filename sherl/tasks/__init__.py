"""What a model learns: how logits become a loss, scores and answers.

A task is a file here that registers a final :class:`Task` under its name in :data:`TASKS`; code outside the project
does the same by being imported.
"""

from __future__ import annotations

from sherl.tasks import (  # noqa: F401 - importing registers them
    classification,
    language_modelling,
    regression,
    text_to_text,
    token_classification,
)
from sherl.tasks.base import TASKS, Task, task_for

__all__ = ["TASKS", "Task", "task_for"]
