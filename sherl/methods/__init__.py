"""Methods: each is a frozen config that makes a tuned model of a backbone. Importing this registers all of them."""

from __future__ import annotations

from sherl.methods.adapter import AdapterConfig
from sherl.methods.base import METHODS, MethodConfig, method_from_dict
from sherl.methods.bitfit import BitFitConfig
from sherl.methods.full import FullConfig
from sherl.methods.ladder import LadderConfig
from sherl.methods.linear_probe import LinearProbeConfig
from sherl.methods.lora import LoraConfig
from sherl.methods.prompt import PromptConfig
from sherl.methods.sherl import SherlConfig
from sherl.methods.tuned import Tuned
from sherl.methods.unipt import UniptConfig

__all__ = [
    "METHODS",
    "AdapterConfig",
    "BitFitConfig",
    "FullConfig",
    "LadderConfig",
    "LinearProbeConfig",
    "LoraConfig",
    "MethodConfig",
    "PromptConfig",
    "SherlConfig",
    "Tuned",
    "UniptConfig",
    "method_from_dict",
]
