"""Settings of a fusion and the sizes that follow from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sherl.errors import SpecError, UnknownNameError
from sherl.fusion.registries import AGGREGATIONS, EXPANSIONS, GATES, PROJECTIONS
from sherl.registry import nearest

SIMILARITIES = ("inner", "learned")


@dataclass(frozen=True)
class FusionShape:
    """Sizes that a part is built for.

    width: D, of the backbone's hidden states; inner_width: d, of the features between down- and up-projection;
    num_features: n, how many features are fused, the guide (the last) included; widths: of each of them, the guide's own
    is D.
    """

    width: int
    inner_width: int
    num_features: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class FusionConfig:
    """What a fusion is made of. The defaults are the paper's definition with the preserving gate.

    reduction_factor: r; the inner width is ``max(1, width // r)``, so r may be anything from 1 to the width.
    similarity: ``inner`` (eq. 3, the inner product with the guide) or ``learned`` (a d -> 1 layer over the product).
    gate: ``preserving`` (own input + u * fused) or ``released`` (fused + u * own input).
    projection: ``refined`` (eq. 1) or ``plain`` (the down-projection and ReLU alone).
    aggregation: ``mtsa`` (eqs. 2 and 3), or what the paper's fig. 4 holds against it: ``max``, ``mean``, ``attention`` (4
        heads over the layers of one token), ``linear`` (eq. 3 without r), ``linear_learned`` (r learned).
    expansion: ``linear`` or ``rectified`` (a ReLU before the up-projection).
    epsilon: added to the l2 and l1 norms of eqs. 2 and 3. The paper has none (0); with any value a vector of zeros
    has no direction and weights of nothing stay nothing, in values and in gradients.
    """

    reduction_factor: int = 8
    similarity: str = "inner"
    gate: str = "preserving"
    projection: str = "refined"
    aggregation: str = "mtsa"
    expansion: str = "linear"
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        factor = self.reduction_factor
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
            problems.append(f"reduction_factor must be a whole number from 1 up to the width, {factor!r} was given")
        if self.similarity not in SIMILARITIES:
            problems.append(
                f"Unknown similarity {self.similarity!r}.{nearest(self.similarity, SIMILARITIES)} "
                f"Known are: {', '.join(SIMILARITIES)}"
            )
        for key, registry in (
            ("gate", GATES),
            ("projection", PROJECTIONS),
            ("aggregation", AGGREGATIONS),
            ("expansion", EXPANSIONS),
        ):
            try:
                registry.get(getattr(self, key))
            except UnknownNameError as error:
                problems.append(str(error).rstrip("."))
        epsilon = self.epsilon
        if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            problems.append(f"epsilon must be a number of at least 0, {epsilon!r} was given")
        if problems:
            raise SpecError("Fusion settings: " + "; ".join(problems) + ".")

    @classmethod
    def released(cls, reduction_factor: int = 8) -> FusionConfig:
        """The configuration of the released T5 code, behind the paper's table 1.

        It differs from the paper's equations in the learned similarity, the released gate, a ReLU before the
        up-projection and 1e-6 in both norms. Its new final norm belongs to the backbone's path, not to the fusion.
        """
        return cls(
            reduction_factor=reduction_factor,
            similarity="learned",
            gate="released",
            expansion="rectified",
            epsilon=1e-6,
        )

    def shape(self, widths: Sequence[int]) -> FusionShape:
        """The sizes of a fusion of features of these widths, of which the last is the guide's.

        Raises:
            SpecError: the reduction factor is over the guide's width, a width is below 1, or there is no feature.
        """
        problems = []
        num_features = len(widths)
        width = widths[-1] if widths else 1
        if min(widths, default=1) < 1:
            problems.append(f"widths must be at least 1, {list(widths)} were given")
        elif widths and self.reduction_factor > width:
            problems.append(
                f"reduction_factor {self.reduction_factor} is over the width of the features: allowed are 1 to {width}"
            )
        if num_features < 1:
            problems.append(f"a fusion needs at least one feature, the guide; {num_features} were given")
        if problems:
            raise SpecError("Fusion settings: " + "; ".join(problems) + ".")
        return FusionShape(width, max(1, width // self.reduction_factor), num_features, tuple(widths))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``FusionConfig(**plain)`` reads it back."""
        return asdict(self)

    def replace(self, **changes: Any) -> FusionConfig:
        """A copy with other settings, validated again."""
        return dataclasses.replace(self, **changes)
