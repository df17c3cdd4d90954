"""Memory-budget autotuner for fine-tuning: ``autotune run --memory-cap 8GB``."""

from __future__ import annotations

__version__ = "0.1.0"
