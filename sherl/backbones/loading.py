"""From a name, a folder, a hub id or a configuration to a backbone with its weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from transformers import initialization
from transformers.models.auto.auto_factory import _get_model_class  # it tells a class, and no public name does

from sherl.backbones import rotary
from sherl.backbones.backbone import KINDS, Backbone
from sherl.backbones.families import DecoderFamily, EncoderDecoderFamily, Family
from sherl.backbones.fingerprint import has_bytes
from sherl.backbones.light import Lightener, Without, lighten, settle
from sherl.backbones.recognition import family_of
from sherl.backbones.soundness import damaged, require_values
from sherl.backbones.sources import (
    asks_for_own_code,
    config_from_dict,
    load_config,
    quietly,
    resolve_source,
    unreachable,
    with_own_code,
)
from sherl.backbones.structure import check_found
from sherl.backbones.structure.blocks import FAILURES
from sherl.backbones.weights import UNREADABLE, require_bare, require_floats, unloaded
from sherl.errors import SherlError, SpecError
from sherl.forms import blank_batch
from sherl.precision import require_loadable


def load_backbone(source: str, *, dtype: torch.dtype = torch.float32, without: Without | None = None) -> Backbone:
    """A pretrained backbone, on the CPU and in evaluation mode.

    Args:
        source: :data:`sherl.backbones.DEFAULT_BACKBONE`, a folder, or a hub id.
        dtype: of the weights: torch.float32 or torch.bfloat16 (:func:`sherl.precision.weights_dtype`).
        without: what is left out, as batches will bring its hidden states from a store. Of safetensors it is not read.

    Raises:
        SpecError: nothing is at ``source``, the hub cannot be reached, the weights are damaged, incomplete or quantised, or
            the dtype is of no precision.
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
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are told of below, all at once
                **_class_options(family),
            )
    except SherlError:
        raise  # of what is to be left out
    except OSError as error:
        raise unreachable(source, where, error) from error
    except UNREADABLE as error:
        if asks_for_own_code(error):
            raise with_own_code(source) from error
        raise unloaded(source, error) from error
    require_bare(model, source)
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
    if folder is not None:
        require_floats(folder, source)
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
        SpecError: no model can be made of the configuration, what is to be left out is not there, or the dtype is of no
            precision.
        UnsupportedBackboneError: no family covers the architecture.
    """
    require_loadable(dtype)
    known = family
    source = str(getattr(config, "name_or_path", "")) or "the configuration"
    real = has_bytes(torch.empty(0))
    try:
        family = family or family_of(config, source)
        model = _made(config, family, dtype, real=real)
        if known is None:
            require_values(model, source)
        backbone = _as_backbone(model, family, None, None, check=known is None)
    except SherlError:
        raise
    except FAILURES as error:
        if known is not None or (real and isinstance(error, RuntimeError)):
            raise  # of a configuration that was made here, or of memory, which is no fault of one
        raise damaged(source, error, config) from error
    if without is not None:
        lighten(backbone, without)
    return backbone


def require_runs(config: Any) -> None:
    """Encode two short rows without values: a configuration of which a model is made may still be one that none runs with.

    Takes 0.1 to 0.5 s of one core.

    Raises:
        SpecError: the model does not run, as where the heads of its keys do not divide those of its queries.
        UnsupportedBackboneError: no family covers the architecture.
    """
    source = str(getattr(config, "name_or_path", "")) or "the configuration"
    with FakeTensorMode(), torch.no_grad(), quiet_fakes():
        try:
            backbone = backbone_from_config(config_from_dict(config.to_dict()))  # as what is predicted travels
            tokens = min(4, backbone.max_tokens or 4)
            batch = blank_batch(backbone.inputs_form(2, tokens=tokens))  # of one row no norm learns
            backbone.model.train()  # dropout is asked for its rate there alone
            pooled = backbone.pool(backbone.encode(batch), backbone.pooled_mask(batch))
            if pooled.shape[-1] != backbone.width:
                raise ValueError(f"it says a width of {backbone.width}, and its blocks give {pooled.shape[-1]}")
        except SherlError:
            raise
        except FAILURES as error:
            raise damaged(source, error, config) from error


@contextmanager
def quiet_fakes() -> Iterator[None]:
    """Without the traceback that fake tensors log of an operation that fails: its first line is raised."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _made(config: Any, family: Family, dtype: torch.dtype, *, real: bool) -> Any:
    """The model of a configuration, with random weights. real: whether tensors that are made now have values."""
    # Where there are no values there is nothing to initialise, and some families' rules would look at values.
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
    return model


def _as_backbone(
    model: Any, family: Family, source: str | None, folder: Path | None, *, check: bool = True
) -> Backbone:
    backbone = KINDS.get(family.kind)(model.eval(), family, source=source, folder=folder)
    if family.found is not None and check and backbone.is_real:
        check_found(backbone, "the configuration" if source is None else source)
    backbone.notes = tuple(note for note in (family.found, rotary.note_of(model.config)) if note is not None)
    return backbone


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
    return cls._from_config if family.model_class is not None else partial(cls.from_config, trust_remote_code=False)


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
