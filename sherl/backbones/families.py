"""The families of pretrained models that sherl knows: a family is a row that says how a model of it is laid out.

To add one, write a row and register it under the ``model_type`` of its configuration::

    FAMILIES.register("my-bert")(
        Family(name="my-bert", blocks="encoder.layer", lora_targets=("attention.self.query", "attention.self.value"),
               feed_forward_output="output.dense", masks=masks.for_scores, prompts=prompts.behind_mask)
    )
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sherl.backbones import masks, prompts
from sherl.registry import Registry

Positions = Literal["absolute", "from_padding", "relative", "rotary"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one family are laid out.

    name: the ``model_type`` of the configuration.
    blocks: path of the list of blocks inside the model without head.
    lora_targets: linear layers of a block's attention that LoRA adapts (query and value, as in the LoRA paper).
    feed_forward_output: a block's last linear layer; a bottleneck adapter acts on its output.
    masks: makes the ``attention_mask`` argument of the model out of what may be attended to.
    prompts: makes the arguments of late blocks whose input has prompts in front; None: the family cannot carry any,
        ``no_prompts`` says why.
    positions: absolute (a table, counted from the first token), from_padding (a table, counted from the first token
        that is no padding), relative, or rotary.
    position_offset: how many rows of the position table stand before the first token's.
    token_types: whether the model takes ``token_type_ids``.
    pooler: whether the class takes ``add_pooling_layer`` (the pooler is left out: nobody reads it).
    attention: attention implementation asked of transformers.
    hidden: computes the last hidden state where the model's own forward would waste memory; None: its own forward.
    """

    name: str
    blocks: str
    lora_targets: tuple[str, ...]
    feed_forward_output: str
    masks: Callable[[Any, Tensor, torch.dtype], masks.Mask]
    prompts: Callable[[nn.Module, Any, Tensor, Tensor], list[dict[str, Any]]] | None = None
    no_prompts: str = "its row has no rule for the arguments of blocks that see prompts"
    positions: Positions = "absolute"
    position_offset: int = 0
    token_types: bool = False
    pooler: bool = True
    attention: Literal["sdpa", "eager"] = "sdpa"
    hidden: Callable[[nn.Module, dict[str, Any]], Tensor] | None = None


FAMILIES: Registry[Family] = Registry("backbone family")


def _deberta_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    # The model's own forward asks its encoder for every hidden state and so keeps all of them alive.
    embedded = model.embeddings(
        input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids"), mask=inputs["attention_mask"]
    )
    encoded = model.encoder(embedded, inputs["attention_mask"], output_hidden_states=False)
    hidden: Tensor = encoded.last_hidden_state
    return hidden


def _add(family: Family) -> Family:
    return FAMILIES.register(family.name)(family)


BERT = _add(
    Family(
        name="bert",
        blocks="encoder.layer",
        lora_targets=("attention.self.query", "attention.self.value"),
        feed_forward_output="output.dense",
        masks=masks.for_scores,
        prompts=prompts.behind_mask,
        token_types=True,
    )
)
ELECTRA = _add(replace(BERT, name="electra", pooler=False))
ROBERTA = _add(replace(BERT, name="roberta", token_types=False, positions="from_padding", position_offset=2))
XLM_ROBERTA = _add(replace(ROBERTA, name="xlm-roberta"))
CAMEMBERT = _add(replace(ROBERTA, name="camembert"))
DISTILBERT = _add(
    Family(
        name="distilbert",
        blocks="transformer.layer",
        lora_targets=("attention.q_lin", "attention.v_lin"),
        feed_forward_output="ffn.lin2",
        masks=masks.for_scores,
        prompts=prompts.behind_mask,
        pooler=False,
    )
)
MPNET = _add(
    Family(
        name="mpnet",
        blocks="encoder.layer",
        lora_targets=("attention.attn.q", "attention.attn.v"),
        feed_forward_output="output.dense",
        masks=masks.for_scores,
        prompts=prompts.behind_position_bias,
        positions="from_padding",
        position_offset=2,
        attention="eager",
    )
)
DEBERTA_V2 = _add(
    Family(
        name="deberta-v2",
        blocks="encoder.layer",
        lora_targets=("attention.self.query_proj", "attention.self.value_proj"),
        feed_forward_output="output.dense",
        masks=masks.for_flags,
        prompts=prompts.behind_relative_positions,
        positions="relative",
        token_types=True,
        pooler=False,
        attention="eager",
        hidden=_deberta_hidden,
    )
)
MODERNBERT = _add(
    Family(
        name="modernbert",
        blocks="layers",
        lora_targets=("attn.Wqkv",),
        feed_forward_output="mlp.Wo",
        masks=masks.for_windows,
        prompts=prompts.behind_rotary_positions,
        positions="rotary",
        pooler=False,
    )
)
