"""The version of this library; checkpoints say which one wrote them."""

from __future__ import annotations

__version__ = "0.1.0"
