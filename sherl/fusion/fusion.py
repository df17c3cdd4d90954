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

    widths: of the features; the last one's is D, which the result has too.

    Raises:
        SpecError: the reduction factor does not lie in 1 ... D, or there is no feature.
    """

    def __init__(self, widths: Sequence[int], config: FusionConfig | None = None) -> None:
        super().__init__()
        self.config = FusionConfig() if config is None else config
        self.shape = self.config.shape(widths)
        self.projection: Projection = PROJECTIONS.get(self.config.projection)(self.shape, self.config)
        self.aggregation: Aggregation = AGGREGATIONS.get(self.config.aggregation)(self.shape, self.config)
        self.expansion: Expansion = EXPANSIONS.get(self.config.expansion)(self.shape, self.config)
        self.gate: Gate = GATES.get(self.config.gate)(self.shape, self.config)

    def forward(self, features: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "batch tokens width"]:
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
        lead = tuple(features[-1].shape[:-1])
        wanted = [(*lead, width) for width in self.shape.widths]
        shapes = [tuple(feature.shape) for feature in features]
        if len(lead) != 2 or shapes != wanted:
            widths = sorted(set(self.shape.widths))
            raise SpecError(
                f"Features to be fused must all be [batch, tokens, {widths[0] if len(widths) == 1 else 'width'}] of widths "
                f"{list(self.shape.widths)}; their shapes are {shapes}."
            )

    def extra_repr(self) -> str:
        return f"width={self.shape.width}, inner_width={self.shape.inner_width}, features={self.shape.num_features}"
