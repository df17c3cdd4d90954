"""What is wrong with a configuration that transformers reads, or does not: said before anything is priced or loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from sherl.backbones.families import FAMILIES
from sherl.errors import SherlError, SpecError, UnsupportedBackboneError

MOST_LAYERS = 2000
"""More than any pretrained model has: what says more is a slip of the pen, and would be built for hours."""
WIDEST = 2**28
"""A hundred times the largest vocabulary, and more than any width; beyond, sizes in bytes do not fit into 64 bits."""
_LAYERS = ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_REMEDY = "Take the config.json that the model was published with, or mend it there."
_BITS = ("bits", "load_in_4bit", "load_in_8bit", "fmt", "format")


def require_unquantised(config: Any, source: str) -> None:
    """A model whose weights are numbers of few bits is refused: what trains and what is predicted here are floats.

    source: what the model is called in messages.

    Raises:
        SpecError: the configuration, or one inside it, says how its weights were quantised.
    """
    for part in _with_inner(config):
        told = getattr(part, "quantization_config", None)
        if told is not None:
            raise SpecError(
                f"The weights of {source!r} are quantised: {_scheme(told)} (quantization_config in its configuration). They "
                "would be neither priced nor trained as what they are. Allowed are weights in float32, bfloat16 or float16. "
                "Give the model that it was made of, or one that was turned back: in transformers model.dequantize(), where "
                "the scheme has it, then model.save_pretrained(folder)."
            )


def require_layers(config: Any, source: str) -> None:
    """A model without layers is refused, and one of more than :data:`MOST_LAYERS`.

    Raises:
        SpecError: the configuration, or one inside it, says such a number.
    """
    for part in _with_inner(config):
        for name in _LAYERS:
            count = getattr(part, name, None)
            # of a pair of stacks some models leave one empty
            least = 1 if name == "num_hidden_layers" else 0
            if isinstance(count, int) and not least <= count <= MOST_LAYERS:
                raise SpecError(
                    f"The configuration of {source!r} is damaged: it says {name} {count}; allowed are {least} to {MOST_LAYERS}. "
                    f"{_REMEDY}"
                )


def require_token_ids(config: Any, source: str) -> None:
    """A model is refused whose special tokens have numbers that no vocabulary is large enough for.

    Raises:
        SpecError: the configuration says such a number.
    """
    for name in _TOKENS:
        given = getattr(config, name, None)
        for number in given if isinstance(given, list) else [given]:
            if isinstance(number, int) and not -1 <= number < 2**31:  # some say -1 for none
                raise SpecError(
                    f"The configuration of {source!r} is damaged: it says {name} {number}; allowed are the numbers of tokens, from "
                    f"0 on, -1 or null for none. {_REMEDY}"
                )


def require_values(model: nn.Module, source: str) -> None:
    """A model with a weight of no values, as of a width of 0, is refused, and one with a side longer than :data:`WIDEST`.

    Raises:
        SpecError: the configuration says such a size.
    """
    for name, weight in model.named_parameters():
        least = 1 if name.endswith("weight") else 0  # there may be no register, which is a parameter by itself
        if not all(least <= size <= WIDEST for size in weight.shape):
            raise SpecError(
                f"The configuration of {source!r} is damaged: by it the weight {name} has the shape {list(weight.shape)}; allowed "
                f"are sizes from 1 to {WIDEST}. {_REMEDY}"
            )


def damaged(source: str, error: Exception, config: Any = None) -> SpecError:
    """The error that says that no model can be made of a configuration. error: what transformers' code ended in."""
    said = " ".join(str(error).split())[:300].rstrip(".") or "no more was said"
    kind = "" if isinstance(error, StrictDataclassError) else f"{type(error).__name__}: "
    place = ""
    if (
        isinstance(error, KeyError) and config is not None and error.args
    ):  # it says a name, and not what that stands for
        place = next(
            (f" (given as {name})" for name, value in _settings(config.to_dict()) if value == error.args[0]), ""
        )
    return SpecError(
        f"The configuration of {source!r} is damaged, no model is made of it: {kind}{said}{place}. {_REMEDY}"
    )


def _settings(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", one) for inner, one in _settings(value))
        else:
            yield str(name), value


def no_json(source: str, where: str) -> SpecError | None:
    """The error that says where the file of a configuration stops being JSON; None where it does not. where: as for
    :func:`why_unread`."""
    try:
        _plain(where)
    except ValueError as error:
        return SpecError(
            f"The configuration of {source!r} is damaged: it is not a valid JSON file ({error}). {_REMEDY}"
        )
    except OSError:  # whoever asks has an error that says why
        return None
    return None


def why_unread(source: str, where: str, error: Exception) -> SherlError:
    """The error that says why transformers gave no configuration. where: a folder, a file or a hub id. error: what it gave."""
    plain = _plain(where)
    if not isinstance(plain, dict):
        return SpecError(
            f"The configuration of {source!r} is damaged: it holds {json.dumps(plain)[:40]}, and settings by their names were "
            f'expected, as in {{"model_type": "bert"}}. {_REMEDY}'
        )
    kind = plain.get("model_type")
    if kind is None:
        return SpecError(
            f'The configuration of {source!r} says no model_type, such as "bert", so nobody knows what model it is of. '
            f"sherl knows: {', '.join(FAMILIES.names())}. {_REMEDY}"
        )
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        return UnsupportedBackboneError(
            f"The configuration of {source!r} is of no architecture that transformers {transformers.__version__} "
            f"knows: its model_type is {kind!r}. sherl knows: {', '.join(FAMILIES.names())}."
        )
    return damaged(source, error)


def _plain(where: str) -> Any:
    """What lies in the file of a configuration that has just been read as JSON."""
    file = Path(where)
    if not file.is_file():  # of a hub id the file in the cache
        file = Path(transformers.utils.cached_file(where, "config.json", local_files_only=True) or where)
    return json.loads(file.read_text(encoding="utf-8"))


def _with_inner(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(config, "sub_configs", None) or {}:
        yield getattr(config, name, None)


def _scheme(told: Any) -> str:
    """The scheme's name and what it says of bits; ``told`` is a dictionary or an object of transformers."""
    plain = told if isinstance(told, dict) else getattr(told, "__dict__", {})
    name = plain.get("quant_method")
    said = [f"quant_method {str(getattr(name, 'value', name))!r}" if name else "no quant_method is named"]
    said += [f"{key} {plain[key]}" for key in _BITS if plain.get(key)]
    return ", ".join(said)
