"""A tuned backbone with a head for a task."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.backbones.writing import PADDING
from sherl.errors import DataError, UnsupportedBackboneError
from sherl.methods.base import MethodConfig, seeded
from sherl.methods.tuned import Tuned, copy_state
from sherl.shapes import Float, Int
from sherl.spec import TaskSpec
from sherl.tasks import TASKS, task_for
from sherl.tasks.token_sums import summed

HEAD_DROPOUT = 0.1
HEAD_INIT_STD = 0.02

_TOKEN_KINDS = ("encoder", "decoder")
"""Kinds whose last hidden states are those of the input's tokens."""


class Head(nn.Module):
    """Dropout and a linear layer on one vector an example (or a token); in float32 whatever the backbone's precision is."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(HEAD_DROPOUT)
        self.linear = nn.Linear(width, outputs, dtype=torch.float32)
        nn.init.normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled: Float[Tensor, "batch *tokens width"]) -> Float[Tensor, "batch *tokens outputs"]:
        logits: Tensor = self.linear(self.dropout(pooled.float()))
        return logits


class LanguageHead(nn.Module):
    """The backbone's own head, over its vocabulary; it has no parameters beside the backbone's."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, hidden: Float[Tensor, "batch targets width"]) -> Float[Tensor, "batch targets words"]:
        return self.backbone.vocabulary_logits(hidden)


class TaskModel(nn.Module):
    """Encodes a batch, pools it and computes logits; knows the loss of its task.

    Where the task is about text, nothing is pooled: logits are over the vocabulary, for each token that is predicted. Nor
    where each token is answered: logits are [batch, tokens, outputs].
    """

    def __init__(self, tuned: Tuned, task: TaskSpec, head: Head | LanguageHead) -> None:
        super().__init__()
        self.tuned = tuned
        self.task = task
        self.head = head
        self._task = task_for(task)

    def forward(self, batch: Batch) -> Float[Tensor, "batch *targets outputs"]:
        """Logits, float32 [batch, outputs]; ``labels`` in the batch are not looked at.

        Text-to-text: logits of the vocabulary [batch, targets, words] in the backbone's precision, for ``labels``
        [batch, targets], of which each is predicted from those before it (teacher forcing). Language modelling: logits
        [batch, tokens - 1, words], for each position but the last.

        Raises:
            SpecError: the input is longer than the backbone takes, or the method has been removed.
            DataError: text-to-text, and the batch has no ``labels``.
        """
        if self._task.writes_text:
            if "labels" not in batch:
                raise DataError("Text-to-text logits are of target tokens: give the batch 'labels', or call outputs().")
            written: Tensor = self.head(self._target_states(batch))
            return written
        if self._task.predicts == "next_tokens":
            following: Tensor = self.head(self.tuned(batch)[:, :-1])
            return following
        hidden = self.tuned(batch)
        if self._task.per_token:
            each: Tensor = self.head(hidden)
            return each
        logits: Tensor = self.head(self.tuned.pool(hidden, self.tuned.backbone.pooled_mask(batch)))
        return logits

    def outputs(self, batch: Batch, *, whole_length: bool = False) -> Tensor:
        """What a batch is answered with: logits [batch, outputs], the int64 answer [batch, tokens] of each token, or the
        int64 tokens [batch, target_length] that are written (see :meth:`sherl.methods.tuned.Tuned.generate`, also for
        ``whole_length``). Language modelling: sums over each row's tokens, float32 [batch, 3]
        (:mod:`sherl.tasks.token_sums`), of ``labels`` or, without, of the input itself; of the logits those of one
        row are held at a time. The same of text-to-text that is judged by its target tokens, where there are ``labels``:
        nothing is written then.

        Raises:
            SpecError: as :meth:`forward`.
        """
        if self._task.writes_text and not (self._task.targets == "tokens" and "labels" in batch):
            return self.tuned.generate(batch, self.task.target_length, whole_length=whole_length)
        if self._task.writes_text:
            return self._summed(self._target_states(batch), batch["labels"])
        if self._task.predicts == "next_tokens":
            return self._summed(self.tuned(batch)[:, :-1], self._following(batch))
        return self._task.answers(self(batch))

    def _target_states(self, batch: Batch) -> Float[Tensor, "batch targets width"]:
        """The hidden states that predict the target tokens, each with those before it given."""
        backbone = self.tuned.backbone
        return backbone.target_states(self.tuned(backbone.teaching(batch)), batch["labels"])

    def _summed(
        self, states: Float[Tensor, "batch positions width"], following: Int[Tensor, "batch positions"]
    ) -> Float[Tensor, "batch 3"]:
        each = [slice(row, row + 1) for row in range(len(states))]
        return torch.cat([summed(self.head(states[row]), following[row]) for row in each])

    def _following(self, batch: Batch) -> Int[Tensor, "batch positions"]:
        """What each position but the last is to predict: by the labels, or without any the tokens behind tokens."""
        if "labels" in batch:
            return batch["labels"][:, 1:]
        keep = self.tuned.backbone.keep(batch)
        return batch["input_ids"][:, 1:].masked_fill(~(keep[:, 1:] & keep[:, :-1]), PADDING)

    def loss_weight(self, labels: Tensor) -> float | Tensor:
        """How much a micro-batch with these labels counts beside others of its batch."""
        return self._task.loss_weight(labels)

    def loss(
        self,
        logits: Float[Tensor, "batch *targets outputs"],
        labels: Int[Tensor, "batch targets"] | Int[Tensor, " batch"] | Float[Tensor, " batch"],
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


def require_suited(backbone: Backbone, kind: str) -> None:
    """Raises where this backbone, with weights or without, cannot learn a task of this kind.

    Raises:
        UnsupportedBackboneError: it writes no text, is no language model, or gives no hidden states of the input's tokens.
        UnknownNameError: no task of this kind is known.
    """
    predicts = TASKS.get(kind).predicts
    if predicts == "each_token" and backbone.layout.kind not in _TOKEN_KINDS:
        raise UnsupportedBackboneError(
            f"The task {kind} answers every token of the input, but what a {backbone.family} model "
            f"({backbone.layout.kind}) gives last is no hidden state of these. Take one of the kinds "
            f"{', '.join(_TOKEN_KINDS)}, such as bert."
        )
    if predicts == "target_text" and not backbone.writes_text:
        raise backbone.no_text()
    if predicts == "next_tokens" and not backbone.continues_text:
        raise backbone.no_continuation()


def build_model(backbone: Backbone, method: MethodConfig, task: TaskSpec, *, seed: int) -> TaskModel:
    """The backbone with a method on it and a new head for a task, in evaluation mode.

    Same seed, same initial weights, whatever was drawn before; the global random state is left as it was. The head's
    weights are N(0, 0.02), its biases 0; it is the same for every method.

    Raises:
        SpecError: the method does not suit the backbone, or one is on it already.
        UnsupportedBackboneError: the family cannot carry the method, or writes no text where the task is to write.
        UnknownNameError: no task of this kind is known.
    """
    asked = task_for(task)  # an unknown kind shows before the backbone is touched
    predicts = asked.predicts
    require_suited(backbone, task.kind)
    head: Head | LanguageHead
    speaks = predicts in ("target_text", "next_tokens")
    if speaks:
        head = LanguageHead(backbone)
    else:
        with seeded(seed, backbone.device), backbone.device:
            head = Head(backbone.width, task.num_outputs)
    tuned = method.apply(backbone, seed=seed)
    if speaks and not tuned.trainable():
        tuned.remove()
        raise UnsupportedBackboneError(
            f"Method {method.name} trains a new head alone, and {task.kind} predicts with the pretrained one: nothing would "
            "train. Take another method, or make the task classification."
        )
    return TaskModel(tuned, task, head).train(False)
