"""Tiny models in folders and data for every task, as a person would name them to ``autotune run``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.autotune.small_study import make_model
from tests.sherl.data_samples import sentence, write_csv
from tests.sherl.glue_samples import write_glue
from tests.sherl.text_to_text_samples import saved_model, text_tokenizer
from tests.sherl.texts import text_backbone
from tests.sherl.tiny import tiny_backbone


def save_decoder(folder: Path, family: str) -> str:
    """A tiny decoder with its tokenizer."""
    text_backbone(family).model.save_pretrained(folder)
    text_tokenizer("decoder").save_pretrained(folder)
    return str(folder)


def save_images_model(folder: Path, family: str, *, size: int) -> str:
    """A tiny model of images with its preprocessor's configuration."""
    tiny_backbone(family).model.save_pretrained(folder)
    settings = {"size": {"height": size, "width": size}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return str(folder)


def save_photos(folder: Path, *, each: int = 30) -> str:
    """A folder of dark and one of light pictures."""
    noise = np.random.default_rng(0)
    for place, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            values = noise.integers(0, 128, (20, 24, 3)) + 127 * place
            Image.fromarray(values.astype(np.uint8)).save(folder / name / f"{number}.png")
    return str(folder)


def save_book(path: Path, *, lines: int = 150) -> str:
    """Lines of words, without the numbers that no vocabulary has."""
    path.write_text("".join(f"{sentence(number).rpartition(' ')[0]}\n" for number in range(lines)))
    return str(path)


def save_tagged(path: Path, *, rows: int = 80) -> str:
    """Sentences with the tag of each word: films and plots are things."""
    lines = []
    for number in range(rows):
        words = sentence(number).split()
        lines += [*(f"{word} {'B-thing' if word in ('film', 'plot') else 'O'}" for word in words), ""]
    path.write_text("\n".join(lines))
    return str(path)


def save_answers(path: Path, numbers: range) -> str:
    """Texts with "yes" or "no"."""
    return str(write_csv(path, [(sentence(number), "yes" if number % 3 == 0 else "no") for number in numbers]))


def inputs_of(case: str, folder: Path) -> dict[str, str]:
    """Options of ``autotune run``, files and model made in the folder."""
    if case == "t5 answers":  # the test part's rows are the longest and the most
        short = save_answers(folder / "valid.csv", range(400, 403))
        return {
            "--model": saved_model(folder / "model", "t5"),
            "--train": save_answers(folder / "train.csv", range(60)),
            "--valid": short,
            "--test": save_answers(folder / "test.csv", range(119, 130)),
            "--task": "text-to-text",
            "--template": "say {text}",
        }
    if case == "llama answers":
        return {
            "--model": save_decoder(folder / "model", "llama"),
            "--train": save_answers(folder / "train.csv", range(80)),
            "--task": "text-to-text",
            "--template": "say {text} :",
        }
    if case == "gpt2 book":
        return {
            "--model": save_decoder(folder / "model", "gpt2"),
            "--train": save_book(folder / "book.txt"),
            "--task": "language-modelling",
            "--unit": "stream",
            "--max-length": "16",
        }
    if case == "bert tags":
        return {
            "--model": str(make_model(folder / "model")),
            "--train": save_tagged(folder / "words.conll"),
            "--task": "token-classification",
            "--metric": "entity_f1",
        }
    if case == "t5 rte":
        return {
            "--model": saved_model(folder / "model", "t5"),
            "--train": f"glue:rte@{write_glue(folder / 'GLUE', 'rte')}",
            "--task": "text-to-text",
        }
    family, size = {"dinov2 photos": ("dinov2", 8), "resnet photos": ("resnet", 16)}[case]
    return {
        "--model": save_images_model(folder / "model", family, size=size),
        "--train": save_photos(folder / "photos"),
        "--task": "image-classification",
    }


CASES = ("t5 answers", "llama answers", "gpt2 book", "bert tags", "t5 rte", "dinov2 photos", "resnet photos")
