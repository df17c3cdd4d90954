"""What torch's caching allocator does on a GPU, against the model that predictions are made with.

    python benchmarks/allocator_history.py --json benchmarks/results/allocator_history.json

For each configuration and for both kinds of segments it starts a fresh process, records the allocator's history over the
rehearsal of a small model (two training steps and one evaluation step), and compares twice: the model's segments for the
very requests that were recorded, and the reserved bytes that were predicted without the GPU. `--histories FOLDER` keeps the
recorded histories. It needs a GPU; without one it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from conditions import write_result

from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings
from autotune.memory.gpu import GpuKind
from autotune.memory.history import compare, history_from_trace
from autotune.memory.trace import Workload, trace
from sherl.backbones import DEFAULT_BACKBONE, backbone_from_config, load_config
from sherl.forms import TensorForm, text_form
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import rehearse

TASK = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
CONFIGURATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "SHERL, last layer": ({"name": "sherl"}, {}),
    "SHERL, multi from -2, bf16": ({"name": "sherl", "insertion": "multi", "start_layer": -2}, {"precision": "bf16"}),
    "full, checkpointing, accumulation 2": ({"name": "full", "activation_checkpointing": True}, {"accumulation": 2}),
    "LoRA, all layers": ({"name": "lora", "rank": 8}, {}),
}
ROWS, TOKENS = 32, 64
FORM = text_form(ROWS, TOKENS, TensorForm((ROWS,)), token_types=True)
MAX_ENTRIES = 100_000
KEPT_KEYS = ("action", "addr", "size", "stream")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="where the result goes")
    parser.add_argument("--histories", type=Path, default=None, help="a folder that keeps the recorded histories")
    parser.add_argument("--record", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("No GPU that torch can use is here, so no history was recorded and nothing was compared.")
        return
    if arguments.record:
        record(arguments.record[0], Path(arguments.record[1]))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.histories or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(CONFIGURATIONS):
            for expandable in (False, True):
                file = folder / f"history-{number}-{'expandable' if expandable else 'segments'}.json"
                settings = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:{expandable}"}
                command = [sys.executable, __file__, "--record", name, str(file)]
                subprocess.run(command, env=settings, check=True)
                rows.append(row(name, expandable, json.loads(file.read_text(encoding="utf-8"))))
                print(rows[-1], flush=True)
    shown = {"device": torch.cuda.get_device_name(0), "rows": ROWS, "tokens": TOKENS}
    write_result("allocator_history", {"settings": shown, "table": rows}, arguments.json)


def workload(name: str) -> Workload:
    method, changes = CONFIGURATIONS[name]
    return Workload(
        backbone_config=load_config(DEFAULT_BACKBONE).to_dict(),
        method=method,
        task=TASK,
        training=TrainingConfig(learning_rate=1e-3, batch_size=ROWS, **changes),
        train_batch=FORM,
        eval_batch=FORM,
    )


def record(name: str, file: Path) -> None:
    """In a process of its own: the rehearsal, from the first allocation on, and what the allocator did."""
    wanted = workload(name)
    torch.cuda.memory._record_memory_history(context=None, stacks="python", max_entries=MAX_ENTRIES)
    device = torch.device("cuda", 0)
    config = load_config(DEFAULT_BACKBONE)
    backbone = backbone_from_config(config, dtype=weights_dtype(wanted.training.precision))
    model = build_model(backbone, method_from_dict(dict(wanted.method)), TASK, seed=0).to(device)
    batch = {
        "input_ids": torch.randint(5, config.vocab_size, (ROWS, TOKENS)),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.int64),
        "token_type_ids": torch.zeros(ROWS, TOKENS, dtype=torch.int64),
        "labels": torch.zeros(ROWS, dtype=torch.int64),
    }
    rehearse(model, batch, batch, wanted.training, restore="none")
    torch.cuda.synchronize()
    entries = torch.cuda.memory._snapshot()["device_traces"][0]
    if len(entries) >= MAX_ENTRIES:
        raise SystemExit(f"The history has {len(entries)} entries or more: its oldest were dropped.")
    kept = [{key: entry[key] for key in KEPT_KEYS if key in entry} for entry in entries]
    result = {
        "capability": torch.cuda.get_device_capability(0),
        "max_reserved": torch.cuda.max_memory_reserved(),
        "max_allocated": torch.cuda.max_memory_allocated(),
        "trace": kept,
    }
    file.write_text(json.dumps(result), encoding="utf-8")


def row(name: str, expandable: bool, recorded: dict[str, Any]) -> dict[str, Any]:
    rules = AllocatorSettings.of({VARIABLES[0]: f"expandable_segments:{expandable}"}).rules
    comparison = compare(history_from_trace(recorded["trace"]), rules)
    major, minor = recorded["capability"]
    predicted = trace(workload(name), GpuKind.of((major, minor), name=torch.cuda.get_device_name(0)), rules)
    reserved = predicted.reserved
    assert reserved is not None
    return {
        "configuration": name,
        "expandable_segments": expandable,
        "entries": len(recorded["trace"]),
        "same_segments": comparison.same_segments,
        "replayed_error": comparison.error,
        "reserved": recorded["max_reserved"],
        "replayed": comparison.modelled_peak,
        "predicted": reserved,
        "prediction_error": (reserved - recorded["max_reserved"]) / recorded["max_reserved"],
        "allocated": recorded["max_allocated"],
        "predicted_tensors": predicted.allocated,
    }


if __name__ == "__main__":
    main()
