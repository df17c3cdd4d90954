"""Trainable parameters of the SHERL paper's table 1: the published share of T5's beside what is counted here.

    python benchmarks/paper_parameters.py

From configurations alone, on tensors without values. `published` is in per cent of the pretrained model's parameters, rounded as
the paper has it; `released` the number that the authors' code counts where it is known. Adapter and LoRA are counted as the
repositories train them (norms, biases beside them; see paper_memory.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from conditions import write_result
from paper_memory import ROWS, SIZES
from transformers import T5Config

from sherl.backbones import backbone_from_config
from sherl.methods import MethodConfig, method_from_dict


@dataclass(frozen=True)
class Counted:
    """published: per cent. released: the authors' count, None where none is known."""

    size: str
    method: Mapping[str, Any] | MethodConfig
    published: float
    released: int | None = None


def _of_memory(row: str, published: float, released: int | None = None) -> Counted:
    """A row of the memory table, as its repository trains it."""
    known = ROWS[row]
    return Counted(known.size, known.released or known.method, published, released)


TABLE: dict[str, Counted] = {
    "full": _of_memory("full", 100),
    "adapter": _of_memory("adapter", 1.63),
    "lora": _of_memory("lora", 1.71),
    "bitfit": _of_memory("bitfit", 0.13),
    "prompt": _of_memory("prompt", 0.03),
    "LST": _of_memory("lst", 1.74, 3_878_712),
    "SHERL": _of_memory("sherl", 0.85, 1_907_236),
    "LST t5-large": _of_memory("lst t5-large", 1.23),
    "SHERL t5-large": _of_memory("sherl t5-large", 0.64, 4_700_548),
    "LST t5-3b": _of_memory("lst t5-3b", 0.08),
    "SHERL t5-3b": _of_memory("sherl t5-3b", 0.04, 1_087_620),
}


def count(row: Counted) -> dict[str, Any]:
    """Trainable and pretrained parameters of a row."""
    config = T5Config(vocab_size=32128, decoder_start_token_id=0, **SIZES[row.size])
    method = row.method if isinstance(row.method, MethodConfig) else method_from_dict(dict(row.method))
    with torch.device("meta"):
        tuned = method.apply(backbone_from_config(config), seed=0)
    trainable = sum(parameter.numel() for parameter in tuned.trainable().values())
    share = 100 * trainable / tuned.pretrained_count
    return {
        "trainable": trainable, "share": round(share, 3), "published": row.published, "released": row.released,
        "difference": round(share - row.published, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    print("| method | published % | here % | trainable | released code |\n|---|---|---|---|---|")
    made = {}
    for name, row in TABLE.items():
        made[name] = one = count(row)
        known = "" if one["released"] is None else f"{one['released']:,}"
        print(f"| {name} | {one['published']} | {one['share']} | {one['trainable']:,} | {known} |", flush=True)
    write_result("paper_parameters", {"table": made}, arguments.json)


if __name__ == "__main__":
    main()
