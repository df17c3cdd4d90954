"""Two architectures that transformers does not have, brought to sherl from outside: importing this file registers them.

EfficientNet-Lite is EfficientNet without squeeze-and-excitation. The thin ResNet-50 (from Caffe) pools behind its stem
without padding, rounding sizes up. Both are transformers' own classes but for that, and their rows are those of the
families that they come from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import transformers
from torch import nn

from sherl.backbones.families import FAMILIES


class EfficientNetLiteConfig(transformers.EfficientNetConfig):
    """Of an EfficientNet without squeeze-and-excitation; ``squeeze_expansion_ratio`` says nothing."""

    model_type = "efficientnet-lite"


class EfficientNetLiteModel(transformers.EfficientNetModel):
    """Transformers' EfficientNet, each block's squeeze-and-excitation replaced by nothing."""

    config_class: ClassVar[Any] = EfficientNetLiteConfig

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        for block in self.encoder.blocks:
            block.squeeze_excite = nn.Identity()


class CaffeResNetConfig(transformers.ResNetConfig):
    """Of a ResNet whose stem pools as Caffe does."""

    model_type = "caffe-resnet"


class CaffeResNetModel(transformers.ResNetModel):
    """Transformers' ResNet with Caffe's pooling: 3 x 3, stride 2, no padding, sizes rounded up."""

    config_class: ClassVar[Any] = CaffeResNetConfig

    def __init__(self, config: CaffeResNetConfig) -> None:
        super().__init__(config)
        self.embedder.pooler = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)


def _register() -> None:
    transformers.AutoConfig.register(EfficientNetLiteConfig.model_type, EfficientNetLiteConfig)
    transformers.AutoModel.register(EfficientNetLiteConfig, EfficientNetLiteModel)
    transformers.AutoConfig.register(CaffeResNetConfig.model_type, CaffeResNetConfig)
    transformers.AutoModel.register(CaffeResNetConfig, CaffeResNetModel)
    for name, like in ((EfficientNetLiteConfig.model_type, "efficientnet"), (CaffeResNetConfig.model_type, "resnet")):
        FAMILIES.register(name)(replace(FAMILIES.get(like), name=name))


_register()
