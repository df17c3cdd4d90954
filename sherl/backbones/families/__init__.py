"""The families of pretrained models that sherl knows: a family is a row that says how a model of it is laid out.

To add one, write a row and register it under the ``model_type`` of its configuration::

    FAMILIES.register("my-bert")(
        EncoderFamily(name="my-bert", blocks="encoder.layer", feed_forward_output="output.dense",
                      lora_targets=("attention.self.query", "attention.self.value"),
                      masks=masks.for_scores, prompts=prompts.behind_mask)
    )
"""

from __future__ import annotations

from sherl.backbones.families import (  # noqa: F401 - importing registers them
    cnns,
    cross_modal,
    decoders,
    encoder_decoders,
    encoders,
    vision,
)
from sherl.backbones.families.rows import (
    FAMILIES,
    ConvolutionalFamily,
    CrossModalFamily,
    DecoderFamily,
    EncoderDecoderFamily,
    EncoderFamily,
    Family,
    Stack,
    VisionFamily,
)

__all__ = [
    "FAMILIES",
    "ConvolutionalFamily",
    "CrossModalFamily",
    "DecoderFamily",
    "EncoderDecoderFamily",
    "EncoderFamily",
    "Family",
    "Stack",
    "VisionFamily",
]
