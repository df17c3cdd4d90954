"""Fusions and features for the fusion tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sherl.fusion import Fusion, FusionConfig
from tests.sherl import reference_mtsa


def make_features(count: int, width: int, *, batch: int = 2, tokens: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, tokens, width, generator=generator, dtype=torch.float64) for _ in range(count)]


def make_fusion(config: FusionConfig, *, width: int = 12, count: int = 4, alpha: float = 0.07, seed: int = 1) -> Fusion:
    """A float64 fusion with weights large enough that every term of the equations shows in the result."""
    torch.manual_seed(seed)
    fusion = Fusion([width] * count, config).double()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(std=0.5)
        fusion.gate.alpha.fill_(alpha)
    return fusion


def reference(fusion: Fusion, features: list[Tensor]) -> np.ndarray:
    """The same fusion by the loop-by-loop NumPy version."""
    inner = fusion.shape.inner_width
    state = {name: value.detach().numpy() for name, value in fusion.state_dict().items()}
    layers = []
    for n in range(len(features)):
        rows = slice(n * inner, (n + 1) * inner)
        layers.append(
            {
                "A": state[f"projection.down.{n}.weight"].T,
                "a": state[f"projection.down.{n}.bias"],
                "W": state["projection.scale.weight"][n],
                "w": state["projection.scale.bias"][rows],
                "W2": state["projection.refine.weight"][n],
                "w2": state["projection.refine.bias"][rows],
            }
        )
    learned = None
    if "aggregation.score.weight" in state:
        learned = {"weight": state["aggregation.score.weight"][0], "bias": state["aggregation.score.bias"][0]}
    return reference_mtsa.mtsa(
        [feature.detach().numpy() for feature in features],
        layers=layers,
        up=state["expansion.up.weight"].T,
        up_bias=state["expansion.up.bias"],
        alpha=float(state["gate.alpha"]),
        gate=fusion.config.gate,
        learned=learned,
        epsilon=fusion.config.epsilon,
        rectify=fusion.config.expansion == "rectified",
    )
