"""A backbone with a method on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sherl.backbones import Backbone, Batch
from sherl.errors import CheckpointError, SpecError
from sherl.features import Place
from sherl.insertion import early_route
from sherl.methods import stored
from sherl.methods.late.base import LatePart
from sherl.retention import checkpoint_blocks
from sherl.shapes import Float, Int

if TYPE_CHECKING:
    from sherl.methods.base import MethodConfig


class Route(ABC):
    """What happens inside a forward pass beyond the backbone's own computation.

    forms_graph: whether the pass that runs next keeps what backward needs; said before each :meth:`run`, inside which
    gradients are off at first where early blocks are frozen.
    works_with_cache: whether what it adds is right when a key/value cache shows it the newest tokens alone. Where it is
    not, text is written without one: everything is computed anew for each token, and the tokens are the same.
    """

    forms_graph: bool = True
    works_with_cache: bool = True

    @abstractmethod
    def run(self, batch: Batch) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """Around one forward pass; gives what is to be done to the last hidden state."""

    def reads(self) -> dict[str, tuple[int, ...]]:
        """Which hidden states h_n it taps, by stack (``blocks``, or ``encoder`` and ``decoder``); n counts in the stack, h_0
        is what its first block gets."""
        return {}

    def keeps(self) -> list[str]:
        """What it keeps for backward beside tapped hidden states and the activations of late blocks, in words."""
        return []


class Tuned(nn.Module):
    """A backbone whose weights are frozen but for what a method trains.

    The backbone's model is a submodule, so ``to`` moves everything. It is used as it is: hooks live for one forward
    pass, state-dict keys do not change (LoRA's linear layers apart, until :meth:`remove`).

    train(): blocks from ``first_trainable_layer`` on and added modules train (their dropout acts); everything before
    stays in evaluation mode and runs under no_grad. With ``first_trainable_layer = 0`` the whole model trains. Batch norms of
    the backbone are in evaluation mode under every method: they use the pretrained statistics and never change them, so
    that what a row gives does not depend on the others of its batch; in full fine-tuning their scales and biases train.

    A batch may bring hidden states of :meth:`needs` (``features.<stack>.<n>``, :mod:`sherl.features`): early blocks do not compute
    then, and need not be there (:mod:`sherl.backbones.light`).

    Raises:
        SpecError: a method is on the backbone already, or a block that the method needs was left out of it.
    """

    def __init__(self, backbone: Backbone, config: MethodConfig, *, first_late_layer: int) -> None:
        super().__init__()
        if backbone.method_name is not None:
            raise SpecError(
                f"The method {backbone.method_name!r} is on this backbone already: call remove() on what apply gave "
                "back, or load the backbone once more."
            )
        if backbone.without is not None and first_late_layer < backbone.without.first_late:
            raise SpecError(
                f"Method {config.name} needs the blocks from {first_late_layer} on, and this backbone was loaded without those "
                f"before {backbone.without.first_late}: load it whole, or without fewer."
            )
        backbone.settle_fingerprint()
        self.backbone = backbone
        self.config = config
        self.first_trainable_layer = first_late_layer
        self.model: nn.Module = backbone.model
        self._batch_norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        self.added = nn.ModuleDict()
        self.route: Route | None = None
        self._parts: dict[str, LatePart] = {}
        self._undo: list[Callable[[], object]] = []
        self._required_grad = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        # of the whole model, as shares of it are told
        self.pretrained_count = sum(one.numel() for one, _ in self._required_grad) + backbone.left_out_count
        self._trained = [(module, module.training) for module in self.model.modules()]
        self._removed = False
        backbone.method_name = config.name
        for parameter, _ in self._required_grad:
            parameter.requires_grad_(False)

    # ---------------------------------------------------------------- what methods build with

    def add(self, name: str, part: LatePart) -> None:
        """Take a part in: its parameters train under the names ``<name>.<its name>``, its module joins the model.

        The module must lie on the backbone's device (make it under ``torch.device(tuned.backbone.device)``).
        """
        if name in self._parts:
            raise SpecError(f"This model has a part {name!r} already.")
        self._parts[name] = part
        self._undo.append(part.remove)
        if part.module is not None:
            self.added[name] = part.module
        for parameter in part.parameters.values():
            parameter.requires_grad_(True)

    def checkpoint_late_blocks(self) -> None:
        """Keep only the inputs of the blocks that take part in training; they run again in backward."""
        late = list(self.backbone.blocks)[self.first_trainable_layer :]
        self._undo.append(checkpoint_blocks(late).remove)

    # ---------------------------------------------------------------- use

    def needs(self, stacks: Iterable[str] | None = None) -> frozenset[Place]:
        """The hidden states that, stored, take the place of everything before ``first_trainable_layer``; none where nothing
        lies there. stacks: those that are to be stored, where the others compute (None: all)."""
        return stored.needs(self, stacks)

    def unread(self, stacks: Iterable[str]) -> frozenset[str]:
        """The stacks of which nothing is read when hidden states of these are stored: of an encoder-decoder whose decoder
        is early throughout, the encoder, unless a route taps it."""
        return stored.unread(self, stacks)

    def forward(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state of a batch (see :meth:`sherl.backbones.Backbone.encode`).

        Raises:
            SpecError: the method has been removed, the input is longer than the backbone takes, hidden states that the batch
                brings are too few or not of it, or it brings none and early blocks were left out.
        """
        with self._passing(batch) as finish:
            return finish(self.backbone.encode(batch))

    def generate(
        self, batch: Batch, max_new_tokens: int, *, whole_length: bool = False, use_cache: bool = True
    ) -> Int[Tensor, "batch new_tokens"]:
        """Tokens that the model writes, greedily: -100 behind the end token, -1 where logits were not finite.

        Args:
            batch: ``input_ids`` [batch, tokens] and ``attention_mask``.
            max_new_tokens: how many are written at most, the end token included; the width of the result.
            whole_length: go on until then when all rows have ended: the time and memory do not depend on values.
            use_cache: keep keys and values of what has been written; without, and with a method whose additions need
                all tokens (:class:`Route`), everything is computed anew for each token. The tokens are the same.

        Raises:
            UnsupportedBackboneError: the backbone writes no text.
            SpecError: the method has been removed, input or output are longer than the backbone takes, or the batch brings
                hidden states of what writes.
        """
        stored.check_writing(self, batch)
        use_cache = use_cache and (self.route is None or self.route.works_with_cache)
        given = self.backbone.writing_batch(batch)
        with torch.no_grad(), self._passing(given) as finish:
            return self.backbone.generate(
                given, max_new_tokens, finish=finish, whole_length=whole_length, use_cache=use_cache
            )

    @contextmanager
    def _passing(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        """Around one pass of the backbone; gives what the method does to the last hidden state."""
        if self._removed:
            raise SpecError(f"The method {self.config.name!r} has been removed from this backbone: apply it again.")
        if self.model.training and (self.first_trainable_layer > 0 or self._batch_norms):
            self.train(self.training)  # somebody called train() on the pretrained model itself
        if self.route is not None:
            self.route.forms_graph = torch.is_grad_enabled()
        with ExitStack() as stack:
            stack.enter_context(early_route(self.backbone.blocks, self.first_trainable_layer))
            stack.enter_context(stored.standing_in(self, batch))
            yield (lambda hidden: hidden) if self.route is None else stack.enter_context(self.route.run(batch))

    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch _"]
    ) -> Float[Tensor, "batch _"]:
        """One vector for each example (see :meth:`sherl.backbones.Backbone.pool`)."""
        return self.backbone.pool(hidden, attention_mask)

    def train(self, mode: bool = True) -> Tuned:
        """Switch what takes part in training to training mode; the early route stays in evaluation mode."""
        self.training = mode
        self.added.train(mode)
        if self.first_trainable_layer == 0:
            self.model.train(mode)
        else:
            self.model.eval()
            for block in list(self.backbone.blocks)[self.first_trainable_layer :]:
                block.train(mode)
        for norm in self._batch_norms:
            norm.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains, by names that are the same in every run."""
        return {
            f"{part_name}.{name}": parameter
            for part_name, part in self._parts.items()
            for name, parameter in part.parameters.items()
        }

    def parts(self) -> dict[str, LatePart]:
        """The parts that the method put on, by name."""
        return dict(self._parts)

    # ---------------------------------------------------------------- state

    def trainable_state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: trainable parameters and the buffers of added modules. Not copied."""
        return {name: tensor.detach() for name, tensor in self.trainable_tensors().items()}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`trainable_state` gave.

        Raises:
            CheckpointError: a name is missing or unknown, or a shape differs; nothing has been changed then.
        """
        copy_state(state, into=self.trainable_tensors(), whose=f"method {self.config.name!r}")

    def trainable_tensors(self) -> dict[str, Tensor]:
        """The tensors themselves behind :meth:`trainable_state`."""
        state: dict[str, Tensor] = dict(self.trainable())
        for part_name, part in self._parts.items():
            if part.module is not None:
                persistent = part.module.state_dict(keep_vars=True)
                state.update({f"{part_name}.{n}": b for n, b in part.module.named_buffers() if n in persistent})
        return state

    def remove(self) -> None:
        """Give the backbone back bit for bit: weights, gradients switches, training flags, modules, hooks.

        A second call does nothing.
        """
        if self._removed:
            return
        self._removed = True
        while self._undo:
            self._undo.pop()()
        for parameter, required_grad in self._required_grad:
            parameter.requires_grad_(required_grad)
            parameter.grad = None
        for module, training in self._trained:
            module.training = training
        self.backbone.method_name = None


def copy_state(state: Mapping[str, Tensor], *, into: Mapping[str, Tensor], whose: str) -> None:
    """Copy tensors by name, all or none.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs.
    """
    problems = [f"{name} is missing" for name in into if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in into]
    problems += [
        f"{name} is {list(state[name].shape)}, {list(target.shape)} was expected"
        for name, target in into.items()
        if name in state and state[name].shape != target.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(
            f"These weights do not belong to the {whose} on this backbone ({len(problems)} problems): {shown}."
        )
    with torch.no_grad():
        for name, target in into.items():
            target.copy_(state[name])
