"""What the fork server has done before the first trial, so that no trial has to: imports, nothing that runs or draws."""

from __future__ import annotations

import contextlib

import torch

import autotune.trial.execution  # noqa: F401 - the import is the purpose
from sherl.backbones import backbone_from_config, load_config
from sherl.errors import SherlError


def warm(backbone_source: str) -> None:
    """Imports what is particular to a backbone, by making it without weights. A source that is no good is the trial's
    to report."""
    with contextlib.suppress(SherlError, OSError), torch.device("meta"):
        backbone_from_config(load_config(backbone_source))
