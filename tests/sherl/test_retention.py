"""Activation checkpointing put on blocks and taken off: same gradients, less kept, nothing left behind."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel

from sherl.retention import checkpoint_blocks


def make_model(family: str, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 40}
    if family == "bert":
        config = BertConfig(
            **sizes, intermediate_size=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        return BertModel(config, add_pooling_layer=False).train()
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    rates = {"attention_dropout": dropout, "mlp_dropout": dropout, "embedding_dropout": dropout}
    return ModernBertModel(ModernBertConfig(**sizes, intermediate_size=32, **tokens, **rates)).train()


def blocks_of(model: nn.Module) -> nn.ModuleList:
    return model.encoder.layer if hasattr(model, "encoder") else model.layers


def make_batch() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(3, 15).reshape(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(11)
    model(**make_batch()).last_hidden_state.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def kept_for_backward(model: nn.Module) -> int:
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**make_batch())
    return sum(sizes.values())


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("chosen", [[0, 1, 2], [2], [1]])
def test_gradients_with_dropout_are_the_same(family: str, chosen: list[int]) -> None:
    model = make_model(family)
    plain = gradients(model)
    with checkpoint_blocks(blocks_of(model)[i] for i in chosen) as checkpointing:
        assert len(checkpointing.blocks) == len(chosen)
        recomputed = gradients(model)
    assert plain.keys() == recomputed.keys()
    for name in plain:
        assert torch.equal(plain[name], recomputed[name]), name


def test_random_numbers_after_a_step_are_the_same() -> None:
    model = make_model("bert")
    gradients(model)
    after_plain = torch.rand(3)
    with checkpoint_blocks(blocks_of(model)):
        gradients(model)
    assert torch.equal(after_plain, torch.rand(3))


def test_less_is_kept_for_backward() -> None:
    model = make_model("bert")
    plain = kept_for_backward(model)
    with checkpoint_blocks(blocks_of(model)):
        assert kept_for_backward(model) < 0.5 * plain


def count_calls(block: nn.Module) -> list[int]:
    """Counts how often the inside of a block runs."""
    calls = [0]

    def hook(_module: nn.Module, _inputs: object) -> None:
        calls[0] += 1

    next(child for child in block.modules() if isinstance(child, nn.Linear)).register_forward_pre_hook(hook)
    return calls


def test_only_training_blocks_with_gradients_run_twice() -> None:
    model = make_model("bert")
    calls = [count_calls(block) for block in blocks_of(model)]
    with checkpoint_blocks(blocks_of(model)):
        gradients(model)
        assert calls == [[2], [2], [2]]
        blocks_of(model)[0].eval()
        gradients(model)
        assert calls == [[3], [4], [4]]
        model.train()
        with torch.no_grad():
            model(**make_batch())
        assert calls == [[4], [5], [5]]


def test_the_module_tree_and_hooks_stay() -> None:
    model = make_model("bert")
    seen = []
    blocks_of(model)[1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape))
    names, keys = [name for name, _ in model.named_modules()], list(model.state_dict())
    with checkpoint_blocks(blocks_of(model)):
        assert [name for name, _ in model.named_modules()] == names
        assert list(model.state_dict()) == keys
        assert "hidden_states" in inspect.signature(blocks_of(model)[0].forward).parameters
        gradients(model)
    assert seen == [(2, 6, 16)], "a hook on the block itself stays outside of what runs twice"


def test_removal_leaves_nothing_and_may_be_repeated() -> None:
    model = make_model("bert")
    before = [dict(vars(block)) for block in blocks_of(model)]
    checkpointing = checkpoint_blocks(blocks_of(model))
    checkpointing.remove()
    checkpointing.remove()
    assert checkpointing.blocks == ()
    assert [dict(vars(block)) for block in blocks_of(model)] == before


def test_a_forward_that_somebody_set_on_the_block_is_kept() -> None:
    model = make_model("bert")
    block = blocks_of(model)[0]
    inner = block.forward
    block.forward = theirs = lambda *args, **kwargs: inner(*args, **kwargs)
    checkpoint_blocks([block]).remove()
    assert block.forward is theirs


def test_a_forward_wrapped_once_more_stays_on_top() -> None:
    model = make_model("bert")
    calls = count_calls(blocks_of(model)[0])
    checkpointing = checkpoint_blocks([blocks_of(model)[0]])
    inner = blocks_of(model)[0].forward
    blocks_of(model)[0].forward = theirs = lambda *args, **kwargs: inner(*args, **kwargs)
    checkpointing.remove()
    assert blocks_of(model)[0].forward is theirs
    gradients(model)
    assert calls == [1], "what lies below passes through"


def test_a_copied_model_does_not_run_the_original() -> None:
    model = make_model("bert")
    with checkpoint_blocks(blocks_of(model)):
        twin = copy.deepcopy(model)
    calls = count_calls(blocks_of(model)[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.01)
    gradients(twin)
    assert calls == [0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_under_fake_tensors() -> None:
    with FakeTensorMode():
        model = make_model("bert")
        with checkpoint_blocks(blocks_of(model)):
            fake = gradients(model)
    real = gradients(make_model("bert"))
    assert {name: value.shape for name, value in fake.items()} == {name: value.shape for name, value in real.items()}
