"""Folded into plain weights: transformers alone gives what the model gave; what cannot be folded is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sherl.merging import FOLDABLE, MergeError, merge
from sherl.methods import METHODS, method_from_dict
from sherl.model import build_model
from sherl.predictor import Predictor
from tests.sherl.test_predictor_call import TASKS
from tests.sherl.text_to_text_samples import text_tokenizer
from tests.sherl.texts import stirred
from tests.sherl.tiny import tiny_backbone

# family, method, task, the class that reads it, whether its head is in it
CASES: list[tuple[str, dict[str, Any], str, str, bool]] = [
    ("bert", {"name": "lora", "rank": 2}, "classification", "BertModel", False),
    ("bert", {"name": "bitfit"}, "regression", "BertModel", False),
    ("bert", {"name": "lora", "rank": 2}, "tags", "BertForTokenClassification", True),
    ("vit", {"name": "full"}, "images", "ViTForImageClassification", True),
    ("resnet", {"name": "lora", "rank": 2}, "images", "ResNetForImageClassification", True),
    ("gpt2", {"name": "linear_probe"}, "causal", "GPT2Model", False),
    ("llama", {"name": "lora", "rank": 2}, "language", "LlamaForCausalLM", True),
    ("t5", {"name": "lora", "rank": 2}, "texts", "T5ForConditionalGeneration", True),
]


def predictor_on(family: str, method: dict[str, Any], kind: str, dtype: torch.dtype = torch.float32) -> Predictor:
    task = TASKS[kind][1]
    model = stirred(build_model(tiny_backbone(family, dtype=dtype), method_from_dict(method), task, seed=0)).eval()
    style = "decoder" if family in ("gpt2", "llama") else "t5"
    return Predictor(
        model, None if task.image_size else text_tokenizer(style), max_length=None if task.image_size else 12
    )


def batch_of(kind: str) -> dict[str, torch.Tensor]:
    if kind == "images":
        return {"pixel_values": torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))}
    ids = torch.randint(5, 30, (3, 7), generator=torch.Generator().manual_seed(2))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize(("family", "method", "kind", "reads", "whole"), CASES, ids=lambda value: str(value)[:24])
def test_transformers_alone_gives_what_the_model_gave(
    family: str, method: dict[str, Any], kind: str, reads: str, whole: bool, tmp_path: Path
) -> None:
    predictor, batch = predictor_on(family, method, kind), batch_of(kind)
    model = predictor.model
    with torch.no_grad():
        if kind == "texts":
            batch["labels"] = batch["input_ids"][:, :3].contiguous()
        hidden = None if kind == "texts" else model.tuned(batch)
        expected = model(batch)
    merged = merge(predictor, tmp_path / "merged")
    assert (merged.loads_with, merged.whole) == (reads, whole)
    assert merged.largest_difference <= 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    plain = getattr(transformers, reads).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        out = plain(**batch, **({"interpolate_pos_encoding": True} if family == "vit" else {}))
    if not whole:
        head = load_file(tmp_path / "merged" / "head.safetensors")
        assert set(head) == {"weight", "bias"}
        assert hidden is not None
        assert torch.allclose(out.last_hidden_state, hidden, atol=1e-5)
        told = json.loads((tmp_path / "merged" / "head.json").read_text())
        if told["pooling"] == "mean":
            logits = out.last_hidden_state.mean(1) @ head["weight"].T + head["bias"]
            assert torch.allclose(logits, expected, atol=1e-5)
        return
    logits = out.logits[:, :-1] if kind == "language" else out.logits
    assert torch.allclose(logits, expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 0
    if kind == "images":
        assert plain.config.id2label == dict(enumerate(("no", "yes", "maybe")))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_transformers_alone_writes_what_the_model_wrote(family: str, tmp_path: Path) -> None:
    predictor = predictor_on(family, {"name": "lora", "rank": 2}, "texts")
    task, tokenizer, row = predictor.model.task, predictor.tokenizer, "good very film"
    (expected,) = predictor(row)
    merged = merge(predictor, tmp_path / "merged")
    plain = getattr(transformers, merged.loads_with).from_pretrained(tmp_path / "merged").eval()
    ids = torch.tensor([tokenizer(task.template.replace("{text}", row) if task.template else row)["input_ids"]])
    with torch.no_grad():
        written = plain.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=task.target_length,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )[0]
    own = written[ids.shape[1] :] if family != "t5" else written
    assert tokenizer.decode(own, skip_special_tokens=True) == expected["generated_text"]
    assert expected["generated_text"]


def test_the_dtype_is_kept(tmp_path: Path) -> None:
    predictor = predictor_on("bert", {"name": "lora", "rank": 2}, "classification", torch.bfloat16)
    merge(predictor, tmp_path / "merged")
    assert transformers.AutoModel.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", [name for name in METHODS.names() if name in ("sherl", "unipt", "ladder", "adapter", "prompt")]
)
def test_what_adds_modules_is_refused_with_what_to_do_instead(name: str, tmp_path: Path) -> None:
    assert name not in FOLDABLE
    with pytest.raises(MergeError, match=f"The method {name} cannot be folded .* Export without --merge"):
        merge(predictor_on("bert", {"name": name}, "classification"), tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MergeError, match="is there already"):
        merge(predictor_on("bert", {"name": "full"}, "classification"), tmp_path)


def test_folding_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    merge(predictor_on("bert", {"name": "lora", "rank": 2}, "classification"), tmp_path / "plain")
    captured = capfd.readouterr()
    assert captured.out == captured.err == "", "no bar, and no report of the pooler that the head does without"
