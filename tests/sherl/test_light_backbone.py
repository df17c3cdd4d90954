"""Backbones without their early blocks: what goes, what stays, what is read from disk, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from autotune.memory.heap import make_resident
from sherl.backbones import Backbone, Without, backbone_from_config, lighten, load_backbone
from sherl.checkpoint import load_checkpoint, save_checkpoint
from sherl.errors import SherlError, SpecError, UnsupportedBackboneError
from sherl.evaluation import eval_step
from sherl.features import feature_name
from sherl.methods import method_from_dict
from sherl.precision import precision_of
from sherl.sharing import without_for
from sherl.spec import TrainingConfig
from sherl.summary import summarize
from sherl.training import make_optimizer, train_step
from tests.sherl.feature_samples import READERS, STORED, learnt, model_of, recorded, same, with_features
from tests.sherl.tiny import CLASSIFICATION, batch_for, tiny_backbone, tiny_batch, tiny_config

DEALT = [
    (family, method) for place, family in enumerate(STORED) for method in (list(READERS)[place % 7], list(READERS)[(place + 3) % 7])
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.utils.logging.disable_progress_bar()
    yield
    transformers.utils.logging.enable_progress_bar()


def parameters_of(backbone: Backbone) -> int:
    return sum(parameter.numel() for parameter in backbone.model.parameters())


def lit(family: str, method: str, *, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The same model on a whole backbone and on a light one."""
    try:
        whole = model_of(family, READERS[method], dtype=dtype)
    except UnsupportedBackboneError:
        pytest.skip("the family refuses the method")
    backbone = tiny_backbone(family, dtype=dtype)
    stored = {place.stack for place in whole.tuned.needs()}
    without = without_for(method_from_dict(READERS[method]), CLASSIFICATION, backbone, stored)
    assert without is not None
    lighten(backbone, without)
    return whole, model_of(family, READERS[method], backbone=backbone)


@pytest.mark.parametrize(("family", "method"), DEALT)
def test_a_light_backbone_gives_the_same_to_the_bit_with_fewer_parameters(family: str, method: str) -> None:
    whole, light = lit(family, method)
    batch = batch_for(family, rows=4)
    full = with_features(whole, batch, recorded(whole.tuned.backbone, batch))
    assert light.tuned.needs() == whole.tuned.needs()
    assert same(light.trainable_state(), whole.trainable_state())
    assert same(learnt(light, full), learnt(whole, batch))
    first = whole.tuned.first_trainable_layer
    early = [p for block in list(light.tuned.backbone.blocks)[:first] for p in block.parameters()]
    tables = [table for table in early if family in ("t5", "mt5") and table.shape == (8, 2)]
    assert len(early) == len(tables) <= 1
    gone = light.tuned.backbone.left_out_count
    assert gone == parameters_of(whole.tuned.backbone) - parameters_of(light.tuned.backbone) > 0
    assert light.tuned.pretrained_count == whole.tuned.pretrained_count
    assert str(summarize(light)) == str(summarize(whole))
    with pytest.raises(SpecError, match="brings no hidden states in their place: give it features"):
        light(batch)
    light.tuned.remove()
    with torch.no_grad(), pytest.raises(SpecError, match="loaded without the weights of its"):
        light.tuned.backbone.encode(batch)


def test_tables_go_where_nothing_else_uses_them() -> None:
    def left(family: str, *, head: bool) -> set[str]:
        backbone = tiny_backbone(family)
        lighten(backbone, Without(backbone.depth - 1, tuple(backbone.stacks), head))
        return {name for name, _ in backbone.model.named_parameters(remove_duplicate=False)}

    tied = {"transformer.wte.weight", "lm_head.weight"}
    assert left("gpt2", head=False) & tied == tied
    assert left("gpt2", head=True) & tied == set()
    own = {"shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"}
    assert left("mt5", head=False) & own == {"lm_head.weight"}, "its head is its own, but the tables can go"
    assert left("mt5", head=True) & own == set()
    alone = tiny_backbone("t5")
    lighten(alone, Without(5, ("encoder",), False))
    names = {name for name, _ in alone.model.named_parameters(remove_duplicate=False)}
    assert names >= own, "the decoder reads the table too"
    assert not any(name.startswith("encoder.block") for name in names)


def test_precision_and_place_are_still_known() -> None:
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        backbone = tiny_backbone("bert", dtype=dtype)
        lighten(backbone, Without(3, ("blocks",)))
        assert parameters_of(backbone) == 0
        assert (backbone.dtype, backbone.device, backbone.is_real) == (dtype, torch.device("cpu"), True)
        assert precision_of(backbone.model) == name
    with torch.device("meta"):
        backbone = backbone_from_config(tiny_config("bert"), without=Without(3, ("blocks",)))
    assert (backbone.device.type, backbone.is_real) == ("meta", False)


def test_a_run_saved_light_is_loaded_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    method = method_from_dict(READERS["late-lora"])
    without = without_for(method, CLASSIFICATION, load_backbone(folder), ["blocks"])
    model = model_of("bert", READERS["late-lora"], backbone=load_backbone(folder, without=without))
    make_resident(model)
    batch, whole = batch_for("bert", rows=6), load_backbone(folder)
    full = with_features(model, batch, recorded(whole, batch))
    training = TrainingConfig(learning_rate=1e-2, batch_size=6)
    optimizer, scheduler = make_optimizer(model, training, total_steps=2)
    for _ in range(2):
        train_step(model, full, optimizer, scheduler, training)
    save_checkpoint(model, tmp_path / "kept", max_length=None)
    loaded = load_checkpoint(tmp_path / "kept", backbone=folder)
    assert loaded.tuned.backbone.without is None
    assert torch.equal(eval_step(loaded, batch), eval_step(model, full))


# ---- what is read


def saved(folder: Path, family: str) -> str:
    where = folder / family
    tiny_backbone(family).model.save_pretrained(where)
    return str(where)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tensors whose values are read out of safetensors."""
    names: list[str] = []
    opened = transformers.modeling_utils.safe_open

    class Slice:
        def __init__(self, name: str, inner: Any) -> None:
            self.name, self.inner = name, inner

        def __getitem__(self, where: Any) -> Any:
            names.append(self.name)
            return self.inner[where]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    class File:
        def __init__(self, *args: Any, **settings: Any) -> None:
            self.inner = opened(*args, **settings)

        def get_slice(self, name: str) -> Slice:
            return Slice(name, self.inner.get_slice(name))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __exit__(self, *args: Any) -> Any:
            return self.inner.__exit__(*args)

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", File)
    return names


@pytest.mark.parametrize("family", STORED)
def test_what_is_left_out_is_not_read(family: str, tmp_path: Path, read: list[str]) -> None:
    folder = saved(tmp_path, family)
    whole = load_backbone(folder)
    assert len(read) >= len(list(whole.model.parameters()))
    stacks = tuple(whole.stacks)
    for without in (Without(whole.depth, stacks, True), Without(whole.depth - 1, stacks)):
        read.clear()
        loaded = load_backbone(folder, without=without)
        # by number, as files of some families have other names than the model
        assert len(set(read)) <= len(loaded.model.state_dict()) - 1, "beside the anchor"
        assert len(read) < len(list(whole.model.parameters()))
        lightened = load_backbone(folder)
        lighten(lightened, without)
        for one, other in (
            (dict(loaded.model.named_parameters()), dict(lightened.model.named_parameters())),
            (dict(loaded.model.named_buffers()), dict(lightened.model.named_buffers())),
        ):
            assert same(one, other)  # type: ignore[arg-type]
        assert loaded.left_out_count == lightened.left_out_count == parameters_of(whole) - parameters_of(loaded)
        assert loaded.fingerprint == whole.fingerprint
        assert type(loaded.model) is type(whole.model)
        assert loaded.without == without


def test_pickled_weights_are_loaded_and_dropped(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    weights = Path(folder) / "model.safetensors"
    torch.save(load_file(weights), Path(folder) / "pytorch_model.bin")
    kept = load_backbone(folder, without=Without(2, ("blocks",)))
    weights.unlink()
    loaded = load_backbone(folder, without=Without(2, ("blocks",)))
    assert same(dict(loaded.model.named_parameters()), dict(kept.model.named_parameters()))  # type: ignore[arg-type]


def test_what_stays_must_be_whole(tmp_path: Path) -> None:
    folder = saved(tmp_path, "bert")
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.0.output.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert load_backbone(folder, without=Without(2, ("blocks",))).without is not None
    with pytest.raises(SpecError, match=r"encoder\.layer\.0\.output\.dense\.bias is missing"):
        load_backbone(folder)
    del tensors["encoder.layer.2.output.dense.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        SpecError, match=r"no complete bert model .*: encoder\.layer\.2\.output\.dense\.bias is missing\."
    ):
        load_backbone(folder, without=Without(2, ("blocks",)))


# ---- what is refused


@pytest.mark.parametrize(
    "without", [Without(0, ("blocks",)), Without(4, ("blocks",)), Without(2, ("encoder",)), Without(2, ())]
)
def test_what_is_not_there_cannot_be_left_out(without: Without) -> None:
    backbone = tiny_backbone("bert")
    before = parameters_of(backbone)
    with pytest.raises(
        SpecError, match="cannot be left out: a bert model of this configuration has 3 blocks in blocks"
    ):
        lighten(backbone, without)
    assert parameters_of(backbone) == before
    assert backbone.without is None


def test_the_same_is_said_in_loading(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^Blocks before 9 of blocks cannot be left out"):
        load_backbone(saved(tmp_path, "bert"), without=Without(9, ("blocks",)))


def test_every_stack_that_was_left_out_must_be_brought() -> None:
    whole, light = lit("t5", "unipt")
    batch = batch_for("t5", rows=4)
    full = with_features(whole, batch, recorded(whole.tuned.backbone, batch))
    some = {name: tensor for name, tensor in full.items() if "features.encoder" not in name}
    with pytest.raises(SpecError, match="before 6 of encoder, decoder, and the batch brings no hidden states"):
        light(some)


def test_once_and_before_a_method_comes() -> None:
    backbone = tiny_backbone("bert")
    tuned = method_from_dict("sherl").apply(backbone, seed=0)
    with pytest.raises(SpecError, match="has the method 'sherl' on it"):
        lighten(backbone, Without(1, ("blocks",)))
    tuned.remove()
    lighten(backbone, Without(1, ("blocks",)))
    with pytest.raises(SpecError, match="is light already"):
        lighten(backbone, Without(2, ("blocks",)))


def test_streams_beside_each_other_cannot_be_left_out() -> None:
    with pytest.raises(UnsupportedBackboneError, match=r"lxmert model cannot be left out: .*two streams"):
        lighten(tiny_backbone("lxmert"), Without(1, ("blocks",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "full"}, "full needs the blocks from 0 on, and this backbone was loaded without those before 2"),
        ({"name": "sherl", "start_layer": 1}, "sherl needs the blocks from 1 on"),
        ({"name": "ladder", "initialisation": "magnitude"}, "made of the weights of all blocks"),
    ],
)
def test_methods_that_need_what_was_left_out(settings: dict[str, Any], message: str) -> None:
    backbone = tiny_backbone("bert")
    lighten(backbone, Without(2, ("blocks",)))
    with pytest.raises(SherlError, match=message):
        method_from_dict(settings).apply(backbone, seed=0)
    assert backbone.method_name is None


def test_its_fingerprint_is_of_the_whole_model() -> None:
    backbone = tiny_backbone("bert")
    lighten(backbone, Without(2, ("blocks",)))
    assert backbone.fingerprint == tiny_backbone("bert").fingerprint
    assert json.dumps(backbone.config.to_dict()) == json.dumps(tiny_backbone("bert").config.to_dict())


def test_more_than_was_left_out_may_be_stored() -> None:
    """A backbone without its first block serves every method that begins behind it."""
    backbone, batch = tiny_backbone("bert"), tiny_batch(rows=4)
    states = recorded(backbone, batch)
    live = learnt(model_of("bert", READERS["sherl"]), batch)
    lighten(backbone, Without(1, ("blocks",)))
    model = model_of("bert", READERS["sherl"], backbone=backbone)
    full = {**batch, **{feature_name(place): hidden for place, hidden in states.items()}}
    assert same(learnt(model, full), live)
