"""UniPT's network in NumPy, token by token, from the formulas and from nothing else: loops, no torch, no batch products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Vector = np.ndarray
State = dict[str, np.ndarray]


def layer_norm(x: Vector, scale: Vector, bias: Vector) -> Vector:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / np.sqrt(variance + 1e-5) * scale + bias


def dense(x: Vector, state: State, name: str) -> Vector:
    return state[f"{name}.weight"] @ x + state[f"{name}.bias"]


def attend(query: Vector, tokens: list[Vector], seen: list[bool]) -> Vector:
    """l1norm(ReLU(query t^T)) t over the tokens that are seen."""
    weights = [max(0.0, float(np.dot(query, t))) if s else 0.0 for t, s in zip(tokens, seen, strict=True)]
    total = sum(weights)
    result = np.zeros_like(query)
    for weight, token in zip(weights, tokens, strict=True):
        if total > 0:
            result = result + weight / total * token
    return result


def mean(tokens: list[Vector], seen: list[bool]) -> Vector:
    chosen = [t for t, s in zip(tokens, seen, strict=True) if s]
    return sum(chosen) / len(chosen)  # type: ignore[return-value]


@dataclass
class Source:
    """An encoder's narrow features of one row, and which of them count."""

    tokens: list[Vector]
    keep: list[bool]


def network(
    states: list[np.ndarray], keep: list[bool], state: State, *, causal: bool, source: Source | None = None
) -> list[Vector]:
    """One row: states are [tokens, width] each, h_0 ... h_N; the result one narrow feature a token."""
    count = len(states[0])
    narrow = [
        [
            layer_norm(dense(h[k], state, f"down.{i}"), state[f"norm.{i}.weight"], state[f"norm.{i}.bias"])
            for k in range(count)
        ]
        for i, h in enumerate(states)
    ]
    *targets, anchor = narrow
    results = []
    for k in range(count):
        seen = [keep[other] and (other <= k or not causal) for other in range(count)]
        if not any(seen):
            results.append(np.full_like(anchor[k], np.nan))
            continue
        merged = [attend(anchor[k], target, seen) + target[k] for target in targets]
        scores = [float((state["confidence.weight"] @ (mean(anchor, seen) * mean(t, seen)))[0]) for t in targets]
        if source is not None:
            merged.append(attend(anchor[k], source.tokens, source.keep))
            about = mean(anchor, seen) * mean(source.tokens, source.keep)
            scores.append(float((state["confidence.weight"] @ about)[0]))
        shares = [np.exp(score) for score in scores]
        mixed = sum(share / sum(shares) * one for share, one in zip(shares, merged, strict=True))
        projected = layer_norm(
            dense(np.asarray(mixed), state, "projection.0"), state["projection.1.weight"], state["projection.1.bias"]
        )
        results.append(anchor[k] + projected)
    return results
