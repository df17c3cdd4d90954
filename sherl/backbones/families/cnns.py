"""The families of the cnn kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sherl.backbones.families.early import Early, alone
from sherl.backbones.families.rows import FAMILIES, ConvolutionalFamily


def _add(family: ConvolutionalFamily) -> ConvolutionalFamily:
    FAMILIES.register(family.name)(family)
    return family


def _resnet_widths(model: Any) -> list[int]:
    return [int(model.config.embedding_size), *map(int, model.config.hidden_sizes)]


def _convnext_widths(model: Any) -> list[int]:
    sizes = [int(size) for size in model.config.hidden_sizes]
    return [sizes[0], *sizes]


def _mobilenet_widths(model: Any) -> list[int]:
    inputs = [int(block.expand_1x1.convolution.in_channels) for block in model.layer]
    return [*inputs, int(model.conv_1x1.convolution.out_channels)]


def _efficientnet_widths(model: Any) -> list[int]:
    inputs = [
        int((block.expansion.expand_conv if block.expand else block.depthwise_conv.depthwise_conv).in_channels)
        for block in model.encoder.blocks
    ]
    return [*inputs, int(model.encoder.top_conv.out_channels)]


RESNET = _add(
    ConvolutionalFamily(
        name="resnet",
        blocks="encoder.stages",
        lora_targets=("layers.*.layer.*.convolution",),
        feed_forward_output="layers.*.layer.-1.normalization",
        stem="embedder",
        early=Early(output=alone, front=("embedder",)),
        widths=_resnet_widths,
    )
)
# its 3x3 convolutions, as ResNeXt's, have groups: LoRA takes the 1x1 ones around them
REGNET = _add(
    replace(RESNET, name="regnet", lora_targets=("layers.*.layer.0.convolution", "layers.*.layer.-1.convolution"))
)
CONVNEXT = _add(
    ConvolutionalFamily(
        name="convnext",
        blocks="encoder.stages",
        lora_targets=("layers.*.pwconv1", "layers.*.pwconv2"),
        feed_forward_output="layers.*.pwconv2",
        stem="embeddings",
        early=Early(output=alone, front=("embeddings",)),
        widths=_convnext_widths,
        pooled_norm="layernorm",
        made_of_values=True,
    )
)
CONVNEXT_V2 = _add(replace(CONVNEXT, name="convnextv2"))
MOBILENET_V2 = _add(
    ConvolutionalFamily(
        name="mobilenet_v2",
        blocks="layer",
        lora_targets=("expand_1x1.convolution", "reduce_1x1.convolution"),
        feed_forward_output="reduce_1x1.normalization",
        stem="conv_stem",
        early=Early(output=alone, front=("conv_stem",)),
        widths=_mobilenet_widths,
        behind_blocks="conv_1x1.convolution",
        beside_blocks=("conv_1x1",),
        pooler=True,
    )
)
EFFICIENTNET = _add(
    ConvolutionalFamily(
        name="efficientnet",
        blocks="encoder.blocks",
        lora_targets=("*.expand_conv", "projection.project_conv"),  # blocks of ratio 1 have no expansion
        feed_forward_output="projection.project_bn",
        stem="embeddings",
        early=Early(output=alone, front=("embeddings",)),
        widths=_efficientnet_widths,
        behind_blocks="encoder.top_conv",
        beside_blocks=("encoder.top_conv", "encoder.top_bn"),
    )
)
