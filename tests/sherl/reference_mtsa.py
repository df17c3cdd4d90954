"""MTSA token by token in NumPy, written from eqs. 1-3 and section 3.2 of the paper and from nothing else.

Slow and literal on purpose: loops over batch, token and layer, no torch, no vectorisation across layers or tokens.
"""

from __future__ import annotations

import numpy as np

Vector = np.ndarray


def relu(x: Vector) -> Vector:
    return np.where(x > 0, x, 0.0)


def sigmoid(x: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-x))


def project_one(hidden: Vector, layer: dict[str, Vector]) -> Vector:
    """F_n = ReLU(h A + a); G_n = sigmoid(F W + w); F'_n = G_n * (F W' + w' + F), for one token and one layer."""
    f = relu(hidden @ layer["A"] + layer["a"])
    g = sigmoid(f @ layer["W"] + layer["w"])
    return g * (f @ layer["W2"] + layer["w2"] + f)


def cosine(a: Vector, b: Vector, epsilon: float) -> float:
    length_a, length_b = float(np.sqrt(sum(x * x for x in a))), float(np.sqrt(sum(x * x for x in b)))
    if length_a == 0 or length_b == 0:
        return 0.0
    return float(sum(x * y for x, y in zip(a, b, strict=True))) / ((length_a + epsilon) * (length_b + epsilon))


def merge_one(early: list[Vector], guide: Vector, learned: dict[str, Vector] | None, epsilon: float) -> Vector:
    """e' = m E + e for one token; ``learned``: weight [d] and bias of the layer over E * e, None for inner products."""
    raw = []
    for i, row in enumerate(early):
        redundancy = 0.0
        for other in early:
            redundancy += max(0.0, cosine(row, other, epsilon))
        if not np.any(row):
            redundancy = 1.0  # a row of zeros is related to nothing, so "its redundancy value is equal to 1"
        if learned is None:
            score = float(np.dot(guide, early[i]))
        else:
            score = float(np.dot(learned["weight"], early[i] * guide) + learned["bias"])
        raw.append(max(0.0, score) / redundancy)
    total = sum(abs(x) for x in raw) + epsilon
    merged = guide.copy()
    for weight, row in zip(raw, early, strict=True):
        if total > 0:
            merged = merged + (weight / total) * row
    return merged


def mtsa(
    features: list[np.ndarray],
    *,
    layers: list[dict[str, Vector]],
    up: Vector,
    up_bias: Vector,
    alpha: float,
    gate: str,
    learned: dict[str, Vector] | None = None,
    epsilon: float = 0.0,
    rectify: bool = False,
) -> np.ndarray:
    """Features of shape [batch, tokens, width] to what the late layer gets."""
    result = np.zeros_like(features[-1])
    u = np.tanh(alpha / 0.1)
    for b in range(result.shape[0]):
        for t in range(result.shape[1]):
            projected = [project_one(feature[b, t], layer) for feature, layer in zip(features, layers, strict=True)]
            merged = merge_one(projected[:-1], projected[-1], learned, epsilon)
            if rectify:
                merged = relu(merged)
            expanded = merged @ up + up_bias
            own = features[-1][b, t]
            result[b, t] = own + u * expanded if gate == "preserving" else expanded + u * own
    return result
