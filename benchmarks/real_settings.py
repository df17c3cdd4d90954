"""What ``real_methods.py`` compares: backbones with their data, methods, and learning rates, as many for each method."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

CHOOSING_SEED = 0
"""The seed on which validation chooses the learning rate."""
SEEDS = (1, 2, 3)
"""Those that are scored on the test part."""


@dataclass(frozen=True)
class RealBackbone:
    """name: on the command line. model, data: of :mod:`pretrained` and :mod:`real_data`."""

    name: str
    model: str
    data: str
    epochs: int = 3
    batch_size: int = 32


@dataclass(frozen=True)
class RealMethod:
    """method: as :func:`sherl.methods.method_from_dict` reads it. learning_rates: three for each method.

    features: hidden states of frozen blocks are read from a store (:mod:`real_features`): the same scores, other seconds.
    rate_of: the method whose chosen learning rate this one takes over, instead of three tries. seeds: that are scored.
    """

    name: str
    method: dict[str, Any]
    learning_rates: tuple[float, float, float]
    features: bool = False
    rate_of: RealMethod | None = None
    seeds: tuple[int, ...] = SEEDS


BACKBONES = (
    RealBackbone("minilm", "minilm", "movie reviews", epochs=2),
    RealBackbone("dinov2", "dinov2-small", "clothes, 56 px"),
    RealBackbone("whisper", "whisper-tiny.en, 1 s", "languages of captions"),
    RealBackbone("efficientnet", "efficientnet-lite0", "clothes, 96 px"),
)

_INSIDE = (3e-4, 1e-3, 3e-3)
"""Of methods whose modules stand inside the frozen backbone."""
_ADDED = (1e-3, 3e-3, 1e-2)
"""Of methods whose modules stand beside it and bring no gradient into it."""
METHODS = (
    RealMethod("sherl", {"name": "sherl", "start_layer": -1, "reduction_factor": 8}, _ADDED),
    RealMethod("unipt", {"name": "unipt"}, _ADDED),
    RealMethod("ladder", {"name": "ladder", "reduction_factor": 8}, _ADDED),
    RealMethod("lora", {"name": "lora", "rank": 8}, _INSIDE),
    RealMethod("adapter", {"name": "adapter", "inner_width": 48}, _INSIDE),
    RealMethod("full", {"name": "full"}, (3e-5, 1e-4, 3e-4)),
    RealMethod("linear-probe", {"name": "linear_probe"}, (1e-2, 3e-2, 1e-1)),
)

STORED = ("dinov2",)
"""Backbones on which the frozen methods of the main comparison read stored hidden states, as trials of a study do."""


def method_on(backbone: RealBackbone, method: RealMethod) -> RealMethod:
    """The method as it runs on this backbone: with stored hidden states where its backbone is frozen and among STORED."""
    frozen = method.method["name"] in ("sherl", "unipt", "ladder", "linear_probe")
    return replace(method, features=True) if frozen and backbone.name in STORED else method


_VARIANTS = (
    RealMethod("sherl-released-gate", {"name": "sherl", "start_layer": -1, "gate": "released"}, _ADDED),
    RealMethod("sherl-learned", {"name": "sherl", "start_layer": -1, "similarity": "learned"}, _ADDED),
    RealMethod("sherl-multi", {"name": "sherl", "start_layer": -2, "insertion": "multi"}, _ADDED),
    RealMethod(
        "sherl-late-lora", {"name": "sherl", "start_layer": -1, "late_route": {"name": "lora", "rank": 8}}, _ADDED
    ),
    RealMethod(
        "sherl-multi-released",
        {"name": "sherl", "start_layer": -2, "insertion": "multi", "gate": "released"},
        _ADDED,
    ),
    RealMethod(
        "sherl-multi-late-lora",
        {
            "name": "sherl",
            "start_layer": -2,
            "insertion": "multi",
            "late_route": {"name": "lora", "rank": 8},
        },
        _ADDED,
    ),
    RealMethod(
        "sherl-r2-released", {"name": "sherl", "start_layer": -1, "reduction_factor": 2, "gate": "released"}, _ADDED
    ),
    RealMethod("unipt-added", {"name": "unipt", "output": "added"}, _ADDED),
    RealMethod("ladder-added", {"name": "ladder", "output": "added"}, _ADDED),
    RealMethod("ladder-random", {"name": "ladder", "initialisation": "random"}, _ADDED),
    RealMethod("ladder-r4", {"name": "ladder", "reduction_factor": 4}, _ADDED),
    RealMethod("ladder-r2", {"name": "ladder", "reduction_factor": 2}, _ADDED),
    RealMethod("unipt-r4", {"name": "unipt", "reduction_factor": 4}, _ADDED),
    RealMethod("unipt-r8", {"name": "unipt", "reduction_factor": 8}, _ADDED),
)
VARIANTS = tuple(replace(one, features=True) for one in _VARIANTS)
"""Seven of SHERL and seven of its rivals: the same extra tuning for both. They run with ``--variants`` only."""

FIFTY = (
    RealBackbone("mpnet", "mpnet", "movie reviews", batch_size=8),
    RealBackbone("whisper-base", "whisper-base, 1 s", "languages of captions", batch_size=16),
    RealBackbone("gemma", "gemma-3-270m", "movie reviews", batch_size=8),
    RealBackbone("resnet", "resnet-50-thin", "clothes, 96 px", batch_size=16),
)
"""Those of ``--fifty-steps``."""
FIFTY_METHODS = tuple(one for one in METHODS if one.name in ("sherl", "unipt", "ladder", "lora", "linear-probe"))


@dataclass(frozen=True)
class Case:
    """One run: a line of the results."""

    backbone: RealBackbone
    method: RealMethod
    learning_rate: float
    seed: int
    steps: int | None = None  # None: whole epochs

    @property
    def key(self) -> str:
        """The same for a run that has the same settings; a result under another key is another experiment's."""
        settings: dict[str, Any] = {
            "backbone": asdict(self.backbone),
            "method": self.method.method,
            "learning_rate": self.learning_rate,
            "seed": self.seed,
            "steps": self.steps,
        }
        if self.method.features:
            settings["features"] = True
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.backbone.name}/{self.method.name}/{self.learning_rate:g}/{self.seed}/{digest}"

    @property
    def pair(self) -> str:
        """``backbone/method``, as ``--only`` takes it."""
        return f"{self.backbone.name}/{self.method.name}"
