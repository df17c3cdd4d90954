"""MTSA, put together from its four parts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sherl.errors import SpecError
from sherl.fusion.aggregation import Aggregation
from sherl.fusion.config import FusionConfig
from sherl.fusion.expansion import Expansion
from sherl.fusion.gate import Gate
from sherl.fusion.projection import Projection
from sherl.fusion.registries import AGGREGATIONS, EXPANSIONS, GATES, PROJECTIONS
from sherl.shapes import Float


class Fusion(nn.Module):
    """Fuses features h_0 ... h_{n-1} into the input of a late layer; SHERL, eqs. 1 to 3 and section 3.2.

    The last feature is the late layer's own input and guides the others; n = 1 works, it is then the guide alone.
    Everything is per token. The computation goes in the features' precision, whatever the parameters' is.

    Raises:
        SpecError: the reduction factor does not lie in 1 ... width, or num_features is below 1.
    """

    def __init__(self, width: int, num_features: int, config: FusionConfig | None = None) -> None:
        super().__init__()
        self.config = FusionConfig() if config is None else config
        self.shape = self.config.shape(width, num_features)
        self.projection: Projection = PROJECTIONS.get(self.config.projection)(self.shape, self.config)
        self.aggregation: Aggregation = AGGREGATIONS.get(self.config.aggregation)(self.shape, self.config)
        self.expansion: Expansion = EXPANSIONS.get(self.config.expansion)(self.shape, self.config)
        self.gate: Gate = GATES.get(self.config.gate)(self.shape, self.config)

    def forward(self, features: Sequence[Float[Tensor, "batch tokens width"]]) -> Float[Tensor, "batch tokens width"]:
        """What the late layer gets in place of ``features[-1]``.

        Raises:
            SpecError: there are more or fewer features than this fusion was built for, or they differ in shape.
        """
        self._check(features)
        merged = self.aggregation(self.projection(features))
        fused: Tensor = self.gate(features[-1], merged, self.expansion)
        return fused

    def _check(self, features: Sequence[Tensor]) -> None:
        if len(features) != self.shape.num_features:
            raise SpecError(
                f"This fusion was built for {self.shape.num_features} features, {len(features)} were given: "
                "build one for each late layer that features are fused for."
            )
        shapes = {tuple(feature.shape) for feature in features}
        own = tuple(features[-1].shape)
        if len(shapes) > 1 or len(own) != 3 or own[-1] != self.shape.width:
            raise SpecError(
                f"Features to be fused must all be [batch, tokens, {self.shape.width}]; "
                f"their shapes are {[tuple(feature.shape) for feature in features]}."
            )

    def extra_repr(self) -> str:
        return f"width={self.shape.width}, inner_width={self.shape.inner_width}, features={self.shape.num_features}"
