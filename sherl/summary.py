"""What trains in a model and what does not, counted."""

from __future__ import annotations

from dataclasses import dataclass

from sherl.methods.tuned import Tuned
from sherl.model import TaskModel


@dataclass(frozen=True)
class Summary:
    """Parameters of a model, counted.

    method, family: names. depth: number of blocks. first_trainable_layer: the block (0-based) from which on gradients
    flow; ``depth`` where none do. backbone: parameters of the pretrained model. trainable: of all that trains, by
    part (``fusion``, ``late``, ``head``, ...). added: of what the method and the head add to the pretrained model.
    """

    method: str
    family: str
    depth: int
    first_trainable_layer: int
    backbone: int
    added: int
    trainable: dict[str, int]

    @property
    def trainable_count(self) -> int:
        """Number of trainable parameters."""
        return sum(self.trainable.values())

    @property
    def frozen_count(self) -> int:
        """Number of parameters that do not train."""
        return self.backbone + self.added - self.trainable_count

    @property
    def trainable_fraction(self) -> float:
        """Trainable parameters by those of the pretrained model, as the papers count."""
        return self.trainable_count / self.backbone

    def __str__(self) -> str:
        late = self.depth - self.first_trainable_layer
        rows = [("pretrained", self.backbone), ("frozen", self.frozen_count)]
        rows += [(f"trainable: {part}", count) for part, count in self.trainable.items()]
        rows.append(("trainable", self.trainable_count))
        lines = [f"{label:<22}{count:>15,}" for label, count in rows]
        head = f"{self.method} on {self.family}: gradients in {late} of {self.depth} blocks"
        return "\n".join([head, *lines, f"{'of pretrained':<22}{100 * self.trainable_fraction:>14.3f}%"])


def summarize(model: TaskModel | Tuned) -> Summary:
    """Count a model's parameters; ``str()`` of the result is a table."""
    tuned = model.tuned if isinstance(model, TaskModel) else model
    trainable = {
        name: sum(parameter.numel() for parameter in part.parameters.values()) for name, part in tuned.parts().items()
    }
    if isinstance(model, TaskModel):
        trainable["head"] = sum(parameter.numel() for parameter in model.head.parameters())
    total = sum(parameter.numel() for parameter in model.parameters())
    return Summary(
        method=tuned.config.name,
        family=tuned.backbone.family,
        depth=tuned.backbone.depth,
        first_trainable_layer=tuned.first_trainable_layer,
        backbone=tuned.pretrained_count,
        added=total - tuned.pretrained_count,
        trainable={name: count for name, count in trainable.items() if count},
    )
