"""A ladder's first weights: which parts of the backbone they are, by size and by Fisher importance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.checkpoint import load_checkpoint, save_checkpoint
from sherl.errors import DataError, SpecError
from sherl.evaluation import eval_step
from sherl.fisher import fisher_importance
from sherl.methods import LadderConfig
from sherl.methods.pruning import magnitudes, prune_into
from sherl.methods.side_network import side_network, side_parameters
from sherl.model import build_model
from tests.sherl.sherl_samples import assert_same, contents
from tests.sherl.tiny import ALL_FAMILIES, CLASSIFICATION, tiny_backbone, tiny_batch, tiny_config

# convolutions and stages keep the values of their own architecture
CARRIED = [name for name in ALL_FAMILIES if FAMILIES.get(name).kind != "cnn" and name not in ("swin", "swinv2")]


def pruned(backbone: Backbone, factor: int, importances: dict[str, Tensor] | None = None) -> tuple[Backbone, set[str]]:
    kept = [range(3)] * len(backbone.layout.stacks)
    side = side_network(backbone, factor, kept)
    return side, prune_into(side, backbone, kept, importances or magnitudes(backbone))


@pytest.mark.parametrize("family", CARRIED)
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_every_weight_of_the_side_blocks_is_the_backbones(family: str, factor: int) -> None:
    backbone = tiny_backbone(family)
    side, filled = pruned(backbone, factor)
    used = side_parameters(side)
    # but for the feed-forward parts of LXMERT's image stream, which its row does not name
    left = {name for name in used if name not in filled}
    assert all(".dense." in name and ("visn_output" in name or "r_layers" in name) for name in left), left
    own = dict(backbone.model.named_parameters())
    for name in filled:
        parameter, values = used[name], set(own[name].flatten().tolist())
        assert set(parameter.flatten().tolist()) <= values, name
        if factor == 1:
            assert torch.equal(parameter, own[name]), name


def test_what_matters_most_stays() -> None:
    """Channels, units and head channels that are made large by hand are the ones that are kept, in one and the same order."""
    backbone = tiny_backbone()  # width 16, 2 heads of 8, 24 units
    channels, units, of_head = [1, 4, 6, 7, 9, 12, 13, 15], [0, *range(3, 24, 2)], [0, 2, 5, 7]
    attention = sorted([*of_head, *(8 + channel for channel in of_head)])
    with torch.no_grad():
        for block in backbone.blocks:
            own = block.attention.self
            for layer in (own.query, own.key, own.value):
                layer.weight[:, channels] += 50
                layer.weight[attention] += 50
            block.attention.output.dense.weight[channels] += 50
            block.attention.output.dense.weight[:, attention] += 50
            block.intermediate.dense.weight[:, channels] += 50
            block.intermediate.dense.weight[units] += 50
            block.output.dense.weight[channels] += 50
            block.output.dense.weight[:, units] += 50
    side, _ = pruned(backbone, 2)
    for narrow, block in zip(side.blocks, backbone.blocks, strict=True):
        own, small = block.attention, narrow.attention
        assert torch.equal(small.self.query.weight, own.self.query.weight[attention][:, channels])
        assert torch.equal(small.self.query.bias, own.self.query.bias[attention])
        assert torch.equal(small.output.dense.weight, own.output.dense.weight[channels][:, attention])
        assert torch.equal(small.output.LayerNorm.weight, own.output.LayerNorm.weight[channels])
        rows = sorted(units)
        assert torch.equal(narrow.intermediate.dense.weight, block.intermediate.dense.weight[rows][:, channels])
        assert torch.equal(narrow.intermediate.dense.bias, block.intermediate.dense.bias[rows])
        assert torch.equal(narrow.output.dense.weight, block.output.dense.weight[channels][:, rows])
        assert torch.equal(narrow.output.dense.bias, block.output.dense.bias[channels])


def test_a_gated_feed_forward_part_is_found_by_its_other_name() -> None:
    config = tiny_config("dinov2")
    config.use_swiglu_ffn = True
    backbone = backbone_from_config(config)
    side, filled = pruned(backbone, 2)
    assert filled == set(side_parameters(side))
    assert side.blocks[0].mlp.down_proj.weight.shape[1] < backbone.blocks[0].mlp.down_proj.weight.shape[1]


def test_rotary_channels_stay_in_pairs() -> None:
    backbone = tiny_backbone("modernbert")  # heads of 8: channel i turns with i + 4
    side, _ = pruned(backbone, 2)
    for narrow, block in zip(side.blocks, backbone.blocks, strict=True):
        columns = [
            next(place for place, column in enumerate(block.attn.Wo.weight.T.tolist()) if set(row) <= set(column))
            for row in narrow.attn.Wo.weight.T.tolist()
        ]
        first, second = columns[:4], columns[4:]
        assert [column - first[0] for column in first] == [column - second[0] for column in second]
        assert first[2:] == [first[0] + 4, first[1] + 4]


def test_a_dropped_first_block_leaves_its_relative_positions() -> None:
    backbone = tiny_backbone("t5")
    tuned = LadderConfig(reduction_factor=2, kept_layers="drop:0").apply(backbone, seed=0)
    side = tuned.added["ladder"]["side"]  # type: ignore[index]
    for stack in ("encoder", "decoder"):
        own = backbone.model.get_submodule(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias")
        narrow = side.get_submodule(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias")
        assert torch.equal(narrow.weight, own.weight)
        second = backbone.model.get_submodule(f"{stack}.block.1.layer.0.SelfAttention.o").weight
        filled = side.get_submodule(f"{stack}.block.0.layer.0.SelfAttention.o").weight
        assert set(filled.flatten().tolist()) <= set(second.flatten().tolist())


def test_random_blocks_are_not_the_backbones() -> None:
    tuned = LadderConfig(reduction_factor=2, initialisation="random").apply(tiny_backbone(), seed=0)
    own = set(tiny_backbone().blocks[0].attention.self.query.weight.flatten().tolist())
    side = tuned.added["ladder"]["side"].encoder.layer[0].attention.self.query.weight  # type: ignore[index]
    assert not set(side.flatten().tolist()) & own


# ---------------------------------------------------------------------------- Fisher importance


def test_importance_is_the_mean_squared_gradient() -> None:
    backbone = tiny_backbone()
    before = contents(backbone)
    batches = [tiny_batch(seed=seed) for seed in (0, 1)]
    found = fisher_importance(backbone, CLASSIFICATION, batches, seed=3)
    assert_same(before, contents(backbone))
    model = build_model(tiny_backbone(), LadderConfig(initialisation="random"), CLASSIFICATION, seed=3)
    own = model.tuned.backbone
    weight = own.blocks[1].output.dense.weight.requires_grad_(True)
    squares = []
    for batch in batches:  # by hand: the same head, the plain backbone
        logits = model.head(own.pool(own.encode(batch), batch["attention_mask"]))
        (gradient,) = torch.autograd.grad(model.loss(logits, batch["labels"]), weight)
        squares.append(gradient.square())
    torch.testing.assert_close(found["encoder.layer.1.output.dense.weight"], sum(squares) / 2)
    with pytest.raises(DataError, match="at least one"):
        fisher_importance(backbone, CLASSIFICATION, [])


def test_fisher_decides_otherwise_than_size_does() -> None:
    backbone = tiny_backbone()
    by_fisher, filled = pruned(backbone, 2, fisher_importance(backbone, CLASSIFICATION, [tiny_batch()]))
    assert filled == set(side_parameters(by_fisher))
    by_size, _ = pruned(backbone, 2)
    assert not torch.equal(by_fisher.blocks[0].output.dense.weight, by_size.blocks[0].output.dense.weight)


def test_without_importances_fisher_is_refused_and_a_checkpoint_needs_none(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    config = LadderConfig(reduction_factor=2, initialisation="fisher")
    with pytest.raises(
        SpecError, match=r"needs importances.*fisher_importance\(backbone, task, batches\).*'magnitude'"
    ):
        config.apply(backbone, seed=0)
    assert backbone.method_name is None
    backbone.importances = fisher_importance(backbone, CLASSIFICATION, [tiny_batch()])
    model = build_model(backbone, config, CLASSIFICATION, seed=0)
    save_checkpoint(model, tmp_path / "kept", max_length=None)
    loaded = load_checkpoint(tmp_path / "kept", backbone=tiny_backbone())
    assert loaded.tuned.config == config
    assert torch.equal(eval_step(loaded, tiny_batch()), eval_step(model, tiny_batch()))
