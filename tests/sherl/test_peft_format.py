"""LoRA in peft's own format: written here, loaded by peft on a model that transformers has loaded afresh."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers

from sherl.backbones import masks
from sherl.checkpoint import save_peft
from sherl.errors import CheckpointError
from sherl.methods import LoraConfig
from sherl.methods.base import seeded
from sherl.model import build_model
from tests.sherl.texts import text_backbone, text_batch
from tests.sherl.tiny import CLASSIFICATION, ENCODERS, batch_for, padded_on_the_left, tiny_backbone, tiny_batch

# peft 0.21 reads a property that transformers 5 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def stir(parameters: list[torch.nn.Parameter]) -> None:
    with seeded(3, torch.device("cpu")), torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn_like(parameter))


@pytest.mark.parametrize("family", [family for family in ENCODERS if family in ("bert", "distilbert", "modernbert")])
@torch.no_grad()
def test_an_encoders_lora_loads_in_peft(family: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(family)
    backbone.model.save_pretrained(tmp_path / "base")
    tuned = LoraConfig(rank=3, alpha=5).apply(backbone, seed=0)
    plain = tuned(tiny_batch())
    stir(list(tuned.trainable().values()))
    expected = tuned(tiny_batch())
    save_peft(tuned, tmp_path / "adapter")
    fresh = transformers.AutoModel.from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    batch = tiny_batch()
    hidden = loaded(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    counts = batch["attention_mask"].bool()
    torch.testing.assert_close(hidden[counts], expected[counts], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)


@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_a_text_models_lora_loads_in_peft(name: str, tmp_path: Path) -> None:
    backbone = text_backbone(name)
    backbone.model.save_pretrained(tmp_path / "base")
    tuned = LoraConfig(rank=2).apply(backbone, seed=0)
    stir(list(tuned.trainable().values()))
    batch = text_batch()
    expected = backbone.vocabulary_logits(tuned(backbone.teaching(batch)))
    save_peft(tuned, tmp_path / "adapter")
    fresh = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**batch).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi3"])
@torch.no_grad()
def test_a_decoders_lora_loads_in_peft(name: str, tmp_path: Path) -> None:
    """GPT-2's layers are Conv1D, whose weights stand the other way round; Phi-3's make queries, keys and values at once."""
    backbone = text_backbone(name)
    backbone.model.save_pretrained(tmp_path / "base")
    tuned = LoraConfig(rank=2).apply(backbone, seed=0)
    batch = padded_on_the_left(text_batch())
    plain = tuned(batch)
    stir(list(tuned.trainable().values()))
    expected = tuned(batch)
    save_peft(tuned, tmp_path / "adapter")
    fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    counts = batch["attention_mask"].bool()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = loaded(**inputs, position_ids=masks.positions_of(counts)).logits
    torch.testing.assert_close(logits[counts], backbone.vocabulary_logits(expected)[counts], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected[counts], plain[counts], atol=1e-2)
    tuned.remove()
    expected_words = backbone.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert not torch.equal(loaded.generate(**inputs, max_new_tokens=5, do_sample=False), expected_words)


@pytest.mark.parametrize("family", ["resnet", "convnext"])
@torch.no_grad()
def test_a_convolutional_networks_lora_loads_in_peft(family: str, tmp_path: Path) -> None:
    backbone, batch = tiny_backbone(family), batch_for(family)
    backbone.model.save_pretrained(tmp_path / "base")
    tuned = LoraConfig(rank=2).apply(backbone, seed=0)
    plain = tuned(batch)
    stir(list(tuned.trainable().values()))
    expected = tuned(batch)
    save_peft(tuned, tmp_path / "adapter")
    fresh = transformers.AutoModel.from_pretrained(tmp_path / "base").eval()
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    maps = loaded(pixel_values=batch["pixel_values"]).last_hidden_state
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), expected.reshape(len(maps), -1, maps.shape[1]))
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_what_is_written(tmp_path: Path) -> None:
    model = build_model(tiny_backbone(), LoraConfig(rank=3, alpha=5), CLASSIFICATION, seed=0)
    folder = save_peft(model, tmp_path / "new" / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 5, "LORA")
    assert len(config["target_modules"]) == 6


def test_other_methods_and_files_are_refused(tmp_path: Path) -> None:
    model = build_model(tiny_backbone(), LoraConfig(), CLASSIFICATION, seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        save_peft(model, tmp_path / "file")
    model.tuned.remove()
    from sherl.methods import SherlConfig

    tuned = SherlConfig(late_route="lora").apply(tiny_backbone(), seed=0)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="LoRA alone, and this is the method 'sherl': use save_checkpoint"):
        save_peft(tuned, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
