"""What SHERL's fig. 4 holds against MTSA, for one token at a time, in NumPy: lists of vectors, loops, no torch."""

from __future__ import annotations

import math

import numpy as np

Vector = np.ndarray


def pooled_max(stack: list[Vector]) -> Vector:
    return np.array([max(row[channel] for row in stack) for channel in range(len(stack[0]))])


def pooled_mean(stack: list[Vector]) -> Vector:
    return np.array([sum(row[channel] for row in stack) / len(stack) for channel in range(len(stack[0]))])


def attended(stack: list[Vector], state: dict[str, Vector], heads: int) -> Vector:
    """Row of the last feature in a multi-head self-attention over the features, and the last feature itself."""
    guide = stack[-1]
    size = len(guide) // heads
    query = state["query.weight"] @ guide + state["query.bias"]
    keys = [state["key.weight"] @ row for row in stack]
    values = [state["value.weight"] @ row + state["value.bias"] for row in stack]
    joined = np.zeros_like(guide)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = [float(np.dot(query[part], key[part])) / math.sqrt(size) for key in keys]
        largest = max(scores)
        shares = [math.exp(score - largest) for score in scores]
        for share, value in zip(shares, values, strict=True):
            joined[part] += share / sum(shares) * value[part]
    return state["out.weight"] @ joined + state["out.bias"] + guide


def linear(stack: list[Vector], redundancy: list[float]) -> Vector:
    """m = l1norm(ReLU(e E^T) / r), e' = m E + e, with r given."""
    *early, guide = stack
    raw = [max(0.0, float(np.dot(guide, row))) / max(r, 1e-3) for row, r in zip(early, redundancy, strict=True)]
    merged = guide.copy()
    for weight, row in zip(raw, early, strict=True):
        if sum(raw) > 0:
            merged = merged + weight / sum(raw) * row
    return merged
