"""A tuned backbone with a head for a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.methods.base import MethodConfig, seeded
from sherl.methods.tuned import Tuned, copy_state
from sherl.shapes import Float, Int
from sherl.spec import TaskSpec
from sherl.tasks import task_for

HEAD_DROPOUT = 0.1
HEAD_INIT_STD = 0.02


class Head(nn.Module):
    """Dropout and a linear layer on one vector an example; in float32 whatever the backbone's precision is."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.linear = nn.Linear(width, outputs, dtype=torch.float32)
        nn.init.normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Float[Tensor, "batch width"]) -> Float[Tensor, "batch outputs"]:
        logits: Tensor = self.linear(self.dropout(pooled.float()))
        return logits


class TaskModel(nn.Module):
    """Encodes a batch, pools it and computes logits; knows the loss of its task."""

    def __init__(self, tuned: Tuned, task: TaskSpec, head: Head) -> None:
        super().__init__()
        self.tuned = tuned
        self.task = task
        self.head = head
        self._task = task_for(task)

    def forward(self, batch: Batch) -> Float[Tensor, "batch outputs"]:
        """Logits, float32 [batch, outputs]. ``labels`` in the batch are not looked at.

        Raises:
            SpecError: the input is longer than the backbone takes, or the method has been removed.
        """
        hidden = self.tuned(batch)
        logits: Tensor = self.head(self.tuned.pool(hidden, self.tuned.backbone.pooled_mask(batch)))
        return logits

    def loss(
        self, logits: Float[Tensor, "batch outputs"], labels: Int[Tensor, " batch"] | Float[Tensor, " batch"]
    ) -> Float[Tensor, ""]:
        """The mean loss of a batch."""
        return self._task.loss(logits, labels)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is given: the method's parameters and the head's."""
        return [*self.tuned.trainable().values(), *self.head.parameters()]

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: of the method, and of the head under ``head.``. Not copied."""
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`trainable_state` gave.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape differs; nothing has been changed then.
        """
        copy_state(state, into=self._state(), whose=f"method {self.tuned.config.name!r} with its head")

    def _state(self) -> dict[str, Tensor]:
        head = self.head.state_dict(keep_vars=True)
        return {**self.tuned.trainable_tensors(), **{f"head.{name}": tensor for name, tensor in head.items()}}


def build_model(backbone: Backbone, method: MethodConfig, task: TaskSpec, *, seed: int) -> TaskModel:
    """The backbone with a method on it and a new head for a task, in evaluation mode.

    Same seed, same initial weights, whatever was drawn before; the global random state is left as it was. The head's
    weights are N(0, 0.02), its biases 0; it is the same for every method.

    Raises:
        SpecError: the method does not suit the backbone, or one is on it already.
        UnsupportedBackboneError: the family cannot carry the method.
        UnknownNameError: no task of this kind is known.
    """
    task_for(task)  # an unknown kind shows before the backbone is touched
    with seeded(seed, backbone.device), backbone.device:
        head = Head(backbone.width, task.num_outputs)
    tuned = method.apply(backbone, seed=seed)
    return TaskModel(tuned, task, head).train(False)
