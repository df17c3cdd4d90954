"""What is wrong with a configuration that transformers reads, or does not: said before anything is priced or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sherl.errors import SpecError

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
