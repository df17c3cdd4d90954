"""What every kind that is tried by structure asks: a model without values, its list of alike blocks, and what is in a block."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import initialization

from sherl.backbones.families import FAMILIES
from sherl.errors import UnsupportedBackboneError

WHAT_A_ROW_SAYS = (
    "A row says where the blocks are, which linear layers LoRA and adapters take, and how masks are made: see "
    "sherl.backbones.families, and docs/your_own_backbone.md for an example."
)
WITHOUT_PROMPTS = "its row was found by structure, which does not say what blocks must be given with prompts in front"
_QUERIES = ("q", "query", "q_proj", "q_lin", "query_proj", "wq")
_VALUES = ("v", "value", "v_proj", "v_lin", "value_proj", "wv")
_JOINT = ("qkv", "qkv_proj", "Wqkv", "query_key_value", "in_proj", "c_attn", "W_pack")
_ATTENTION_INPUTS = frozenset([*_QUERIES, *_VALUES, *_JOINT])
# of what a change of padding may do to a token's hidden state, which is of the size of 1
_ROUNDING = 1e-3
FAILURES = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    ImportError,
)
"""What somebody else's code may raise for settings or tensors that it was not written for."""


@dataclass(frozen=True)
class Tried:
    """A model that is tried: what it is called, for messages. kind: its ``model_type``. source: as the person named it."""

    kind: str
    source: str

    def refused(self, why: str) -> UnsupportedBackboneError:
        """The error that says that the model is not taken, and why."""
        return UnsupportedBackboneError(
            f"{self.source!r} is a {self.kind!r} model, which sherl has no row for. Known are: "
            f"{', '.join(FAMILIES.names())}. It was tried by structure, and {why}. {WHAT_A_ROW_SAYS}"
        )

    def made(self, auto_class: Any, config: Any) -> Any:
        """The model that one of transformers' auto classes makes of a configuration, on meta.

        Raises:
            UnsupportedBackboneError: it makes none.
        """
        with _disable_current_modes(), torch.device("meta"), initialization.no_init_weights():
            try:
                model = auto_class.from_config(config, trust_remote_code=False)
            except FAILURES as error:
                raise self.refused(f"transformers makes no model of it ({short(error)})") from error
        _keep_no_tensors(model)
        return model.eval()

    def words(self, config: Any) -> int:
        """How many words the model knows.

        Raises:
            UnsupportedBackboneError: its configuration does not say it.
        """
        words = getattr(config, "vocab_size", None)
        if not isinstance(words, int) or words < 2:
            raise self.refused("its configuration says no vocab_size")
        return words

    def longest_list(self, model: Any, depth: int | None, inside: str = "") -> tuple[str, nn.ModuleList]:
        """The longest list of blocks of one class, with its path. depth: how many the configuration says. inside: path of the
        part of the model that is looked at.

        Raises:
            UnsupportedBackboneError: there is none of two or more, or it is not the blocks' whole list.
        """
        lists = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and (not inside or name.startswith(f"{inside}."))
        }
        alike = {
            name: blocks
            for name, blocks in lists.items()
            if len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.ModuleList | nn.Linear)
        }
        if not alike or max(map(len, alike.values())) < 2:
            found = "; ".join(f"{len(blocks)} at {name!r}" for name, blocks in lists.items()) or "none"
            raise self.refused(f"it has no list of at least two alike blocks (lists found: {found}){_why_few(model)}")
        # of lists inside blocks (experts) that are as long as the blocks' the outer one comes first
        path = max(alike, key=lambda name: (len(alike[name]) == depth, len(alike[name])))
        parent = path.rpartition(".")[0]
        beside = [
            name
            for name, blocks in alike.items()
            if name != path and name.rpartition(".")[0] == parent and len(blocks) == len(alike[path])
        ]
        if beside:
            raise self.refused(f"the parts of its blocks lie in lists of their own: {', '.join([path, *beside])}")
        if isinstance(depth, int) and depth != len(alike[path]):
            raise self.refused(
                f"its longest list of blocks, {path!r}, has {len(alike[path])}, and the configuration says {depth}"
                + _why_few(model)
            )
        return path, alike[path]

    def parts_of(self, path: str, blocks: nn.ModuleList, config: Any) -> tuple[tuple[str, ...], str]:
        """Of the blocks at ``path`` the linear layers that LoRA takes, and the one that adapters stand behind; in a model some
        of whose blocks are otherwise inside, those that all have.

        Raises:
            UnsupportedBackboneError: no linear layer gives as many numbers as hidden states have.
        """
        width = int(getattr(config, "hidden_size", None) or 0)
        common = set.intersection(
            *({name for name, module in block.named_modules() if _is_linear(module)} for block in blocks)
        )
        linears = {name: module for name, module in blocks[0].named_modules() if name in common}
        ends = [name for name, module in linears.items() if _outputs_of(module) == width]
        if not ends:
            raise self.refused(f"the blocks at {path!r} have no linear layer that gives hidden_size ({width}) numbers")
        # by definition, not by execution, modules are in order: the attention's own last layer may come behind the others
        end = ([name for name in ends if "att" not in name] or ends)[-1]
        return tuple(name for name in linears if name.rpartition(".")[2] in _ATTENTION_INPUTS), end

    def norm_behind_masked(self, what: str, model: nn.Module, path: str, run: Callable[[bool], Tensor]) -> str | None:
        """The norm behind the blocks at ``path`` (:func:`norm_behind`), of a pass without values. run: that pass, with masks or
        without. what: runs, for the message.

        Raises:
            UnsupportedBackboneError: it does not run. Memory that depends on values, as of experts that are chosen for each
                token, could not be predicted.
        """
        with _disable_current_modes(), torch.no_grad():
            try:
                return norm_behind(model, path, lambda: run(True))
            except FAILURES as error:
                try:
                    run(False)
                except FAILURES:
                    why = "does not run without values, so its memory could not be predicted"
                else:
                    why = "takes no additive masks [batch, 1, tokens, tokens]"
                raise self.refused(f"{what} {why} ({short(error)})") from error


def described(path: str, blocks: nn.ModuleList, targets: tuple[str, ...], end: str) -> str:
    """What was found of a list of blocks."""
    return (
        f"{len(blocks)} of class {type(blocks[0]).__name__} at {path!r}; LoRA on {', '.join(targets) or 'nothing'}; "
        f"adapters on {end!r}."
    )


def note_of(kind: str, blocks: str, more: str) -> str:
    """What a person is told of what was found. blocks: :func:`described`."""
    return f"{kind!r} has no row: it was read by structure. Blocks: {blocks} {more}"


def has_position_table(model: nn.Module, config: Any) -> bool:
    """Whether positions are rows of a table, which bounds them: one that is learnt, or numbers that are computed once."""
    bound = getattr(config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("position" in last or last == "wpe"):
            return True
        made = [value for value in vars(module).values() if isinstance(value, Tensor)]
        tables = [*made, *module.buffers(recurse=False)]
        if any(table.ndim == 2 and table.shape[0] == bound for table in tables):
            return True
    return False


def norm_behind(model: nn.Module, path: str, run: Callable[[], Tensor]) -> str | None:
    """Path of the norm that a last hidden state comes out of as it is, outside of the blocks at ``path``; None where it comes out
    of none, or of a place that a configuration has left empty (BEiT's, pooled by the mean). run: gives that state."""
    outputs: dict[str, Any] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: outputs.__setitem__(name, output)

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            looks = "norm" in f"{name.rpartition('.')[2]} {type(module).__name__}".lower()
            if looks and not isinstance(module, nn.Identity) and not name.startswith(f"{path}."):
                stack.callback(module.register_forward_hook(recorder(name)).remove)
        hidden = run()
    return next((name for name, output in outputs.items() if _same_memory(output, hidden)), None)


def _same_memory(one: Any, other: Tensor) -> bool:
    # some models view it in the input's form once more
    return isinstance(one, Tensor) and one.untyped_storage()._cdata == other.untyped_storage()._cdata


def close(one: Tensor, other: Tensor) -> bool:
    """Whether hidden states are the same but for rounding."""
    rounding = _ROUNDING if one.dtype == torch.float32 else 30 * _ROUNDING
    return bool((one - other).abs().max() <= rounding * other.abs().max())


def short(error: Exception) -> str:
    """The first line of somebody else's message."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _why_few(model: Any) -> str:
    """Of ALBERT and its like why there are fewer blocks than layers; empty for others."""
    if getattr(model.config, "num_hidden_groups", None) is None:
        return ""
    return (
        f": its {model.config.num_hidden_layers} layers are blocks that run again and again (num_hidden_groups in its "
        "configuration), so no late one has weights that could be tuned by themselves, and no early one could be left frozen; "
        "take bert, distilbert or electra"
    )


def _keep_no_tensors(model: nn.Module) -> None:
    """Take the caches off functions and methods beside a model's classes (DINOv3's coordinates of patches, by their number): a
    tensor that a call without values left there would be met by the next one, with values."""
    for name in {type(module).__module__ for module in model.modules()}:
        home = sys.modules[name]
        classes = [one for one in vars(home).values() if isinstance(one, type) and one.__module__ == name]
        for holder in (home, *classes):
            for key, member in list(vars(holder).items()):
                function: Any = member.__func__ if isinstance(member, staticmethod) else member
                if getattr(function, "__module__", None) == name and _is_cached(function):
                    plain = function.__wrapped__
                    setattr(holder, key, staticmethod(plain) if isinstance(member, staticmethod) else plain)


def _is_cached(function: Any) -> bool:
    cells = getattr(function, "__closure__", None) or ()  # transformers wraps the cached one once more
    return hasattr(function, "__wrapped__") and any(
        hasattr(one, "cache_clear") for one in (function, *(cell.cell_contents for cell in cells))
    )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D)


def _outputs_of(module: nn.Module) -> int:
    outputs: Any = module.out_features if isinstance(module, nn.Linear) else module.nf
    return int(outputs)
