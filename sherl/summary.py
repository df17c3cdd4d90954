"""What trains in a model, what it taps, and what it keeps for backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sherl.methods.late import LatePart
from sherl.methods.tuned import Tuned
from sherl.model import TaskModel


@dataclass(frozen=True)
class Summary:
    """A model's parameters, counted, and where its memory goes.

    method, family: names. depth: number of blocks. first_trainable_layer: the block (0-based) from which on gradients
    flow; ``depth`` where none do. backbone: parameters of the pretrained model. trainable: of all that trains, by
    part (``fusion``, ``late``, ``head``, ...). added: of what the method and the head add to the pretrained model.
    blocks: of a part that lies in blocks of the pretrained model, which (0-based, over all stacks).
    tapped: which hidden states h_n are read beside the forward pass, by stack; n counts in the stack, h_0 is what its first
        block gets, of N blocks h_N what the last one gives.
    kept: what is kept for backward, in words.
    """

    method: str
    family: str
    depth: int
    first_trainable_layer: int
    backbone: int
    added: int
    trainable: dict[str, int]
    blocks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tapped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

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
        places = {f"trainable: {part}": f"  in blocks {spans(blocks)}" for part, blocks in self.blocks.items()}
        lines = [f"{label:<22}{count:>15,}{places.get(label, '')}" for label, count in rows]
        head = f"{self.method} on {self.family}: gradients in {late} of {self.depth} blocks"
        lines.append(f"{'of pretrained':<22}{100 * self.trainable_fraction:>14.3f}%")
        tapped = [f"h_n of {stack}, n = {spans(states)}" for stack, states in self.tapped.items()]
        lines += [f"{'taps':<22}{what}" for what in tapped or ["nothing"]]
        lines += [f"{'keeps for backward':<22}{what}" for what in self.kept or ["nothing of the backbone"]]
        return "\n".join([head, *lines])


def spans(numbers: Sequence[int]) -> str:
    """``0-2, 5`` for 0, 1, 2, 5."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


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
        added=total + tuned.backbone.left_out_count - tuned.pretrained_count,
        trainable={name: count for name, count in trainable.items() if count},
        blocks={name: blocks for name, part in tuned.parts().items() if (blocks := _blocks_of(part, tuned))},
        tapped={} if tuned.route is None else tuned.route.reads(),
        kept=tuple(_kept(tuned)),
    )


def _blocks_of(part: LatePart, tuned: Tuned) -> tuple[int, ...]:
    """The blocks that a part's parameters lie in or, by their names, stand for; none where they lie beside the blocks."""
    paths = {tuned.backbone.block_path(layer): layer for layer in range(tuned.backbone.depth)}
    inside = {id(parameter): name for name, parameter in tuned.model.named_parameters()}
    found = set()
    for name, parameter in part.parameters.items():
        place = inside.get(id(parameter), name.removesuffix(".lora_A").removesuffix(".lora_B"))
        found |= {layer for path, layer in paths.items() if place.startswith(f"{path}.")}
    return tuple(sorted(found)) or part.layers


def _kept(tuned: Tuned) -> list[str]:
    backbone, first = tuned.backbone, tuned.first_trainable_layer
    found = []
    if first < backbone.depth:
        again = getattr(tuned.config, "activation_checkpointing", False)
        what = "the inputs alone (they run again in backward)" if again else "the activations"
        which = "all blocks" if first == 0 else f"blocks {spans(range(first, backbone.depth))}"
        found.append(f"{what} of {which}, {backbone.width} wide")
    if tuned.route is None:
        return found
    if count := sum(map(len, tuned.route.reads().values())):
        found.append(f"{count} hidden states, {backbone.width} wide: the down-projections' weight gradients need them")
    return found + tuned.route.keeps()
