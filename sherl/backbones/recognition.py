"""Which family a configuration is of, and why it may be none."""

from __future__ import annotations

from typing import Any

from sherl.backbones import rotary
from sherl.backbones.families import FAMILIES, DecoderFamily, Family
from sherl.backbones.structure import row_by_structure
from sherl.errors import UnsupportedBackboneError

TWO_TOWERS = {
    "clip": ("CLIPVisionModel", "CLIPTextModel"),
    "siglip": ("SiglipVisionModel", "SiglipTextModel"),
}
"""Architectures whose checkpoints hold an image and a text encoder, with the classes of the two."""


_PATCHES_OF_ANY_FORM = (
    "reads patches of images of any form, with a mask and the numbers of their rows and columns (NaFlex), which no kind of "
    "sherl gives: take a SigLIP 2 of a fixed resolution, such as google/siglip2-base-patch16-224, whose model_type is siglip"
)
NOT_TAKEN = {
    "siglip2": (
        f"its image encoder {_PATCHES_OF_ANY_FORM}. Its text encoder can be tuned. Save it by itself: "
        "transformers.Siglip2TextModel, .from_pretrained({source!r}).save_pretrained(folder), and give that folder"
    ),
    "siglip2_vision_model": f"it {_PATCHES_OF_ANY_FORM}",
}
"""Why an architecture has no row, and what to take; ``source`` is what the model is called."""


def family_of(config: Any, source: str) -> Family:
    """The row of a configuration, registered or found by structure. source: what the model is called in messages.

    Raises:
        UnsupportedBackboneError: there is no row and none can be found, or the model is set up as another sort of model.
    """
    kind = str(getattr(config, "model_type", ""))
    if kind in TWO_TOWERS:
        classes = " or ".join(f"transformers.{name}" for name in TWO_TOWERS[kind])
        raise UnsupportedBackboneError(
            f"{source!r} is a {kind} model of two towers; one of them can be tuned ({kind}_vision_model or "
            f"{kind}_text_model). Save it by itself: {classes}, .from_pretrained({source!r}).save_pretrained(folder), and "
            "give that folder."
        )
    if kind in NOT_TAKEN:
        raise UnsupportedBackboneError(
            f"{source!r} is a {kind!r} model, which cannot be tuned: {NOT_TAKEN[kind].format(source=source)}."
        )
    family = FAMILIES.get(kind) if kind in FAMILIES else None
    inner = str(getattr(getattr(config, "text_config", None), "model_type", ""))
    if family is None and inner in FAMILIES:
        raise UnsupportedBackboneError(
            f"{source!r} is a {kind!r} model, which sherl has no row for. Its text model is a {inner!r}, which is known: "
            f"load that alone. {_how_to_save_text(config.text_config, inner, source)}"
        )
    if rotary.is_dynamic(config):
        raise _dynamic(kind, source)
    if family is None:
        return row_by_structure(config, source)
    if isinstance(family, DecoderFamily):
        if problem := _no_plain_decoder(config):
            raise UnsupportedBackboneError(
                f"{source!r} is a {kind} model {problem}: a decoder must see earlier tokens, and nothing else."
            )
    elif getattr(config, "is_decoder", False):
        raise UnsupportedBackboneError(
            f"{source!r} is a {kind} model set up as a decoder (is_decoder in its configuration): only encoders and "
            "encoder-decoders are covered there. Decoders that are: gpt2, opt, llama and others."
        )
    return family


def _how_to_save_text(text: Any, inner: str, source: str) -> str:
    """What to run for a folder with the text model of a model of several."""
    if not isinstance(FAMILIES.get(inner), DecoderFamily):
        return "Save it to a folder by itself, and give that."
    if getattr(text, "tie_word_embeddings", True):  # the head is the embeddings'
        lines = [f"transformers.AutoModel.from_pretrained({source!r}).language_model.save_pretrained(folder)"]
    else:
        lines = [
            f"whole = transformers.AutoModelForImageTextToText.from_pretrained({source!r})",
            "text = transformers.AutoModelForCausalLM.from_config(whole.config.text_config)",
            "text.model, text.lm_head = whole.model.language_model, whole.lm_head",
            "text.save_pretrained(folder)",
        ]
    lines.append(f"transformers.AutoTokenizer.from_pretrained({source!r}).save_pretrained(folder)")
    return f"Save it by itself, and give that folder: {'; '.join(lines)}"


def _no_plain_decoder(config: Any) -> str | None:
    """What makes a decoder's configuration another sort of model; None where nothing does."""
    if getattr(config, "add_cross_attention", False):
        return "with cross-attention (add_cross_attention in its configuration)"
    if getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True):
        return "that sees later tokens (use_bidirectional_attention or is_causal in its configuration)"
    return None


def _dynamic(kind: str, source: str) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{source!r} is a {kind} model whose rotary angles change with the longest row of a batch (rope_type 'dynamic' in its "
        "configuration): what a row gives would depend on the rows beside it, and a decoder's earlier tokens on later ones. "
        "Set rope_type 'default' for texts as long as it was pretrained on."
    )
