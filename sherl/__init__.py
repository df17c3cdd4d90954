"""SHERL and its rivals on pretrained transformers: fusion of frozen early layers, regulated by late ones."""

from __future__ import annotations

__version__ = "0.1.0"
