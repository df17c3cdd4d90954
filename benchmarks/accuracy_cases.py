"""The configurations that ``memory_accuracy.py`` grades. A further model, method form or kind of backbone is one row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
import transformers

from autotune.outcome import Candidate
from sherl.backbones import Backbone, backbone_from_config
from sherl.evaluation import Batch
from sherl.forms import TensorForm
from sherl.spec import Precision, TaskSpec
from sherl.tasks import task_for

Size = Literal["real", "small"]

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=8)
LANGUAGE = TaskSpec(kind="language-modelling", metric="neg_perplexity")
FIRST_TOKEN = 5  # below it stand padding and the tokens that begin and end a text


@dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone with random weights. kind: as the goal counts kinds. real: settings over the defaults of the configuration's class,
    as the published model has them; small: of the same architecture where there is no GPU. refuses, refuses_late:
    methods and late routes that its family cannot carry for this task. most_tokens: that it has positions for, where these are
    fewer than its cases have otherwise."""

    name: str
    model_type: str
    kind: str
    task: TaskSpec
    real: Mapping[str, Any]
    small: Mapping[str, Any]
    refuses: tuple[str, ...] = ()
    refuses_late: tuple[str, ...] = ()
    most_tokens: int | None = None

    def tokens(self, size: Size) -> int:
        """How many tokens a row of its cases has at most."""
        return min(TOKENS[size], self.most_tokens or TOKENS[size])

    def config(self, size: Size) -> dict[str, Any]:
        """``config.to_dict()`` of the backbone."""
        settings = self.real if size == "real" else self.small
        return dict(transformers.AutoConfig.for_model(self.model_type, **settings).to_dict())

    def form(self, size: Size, rows: int, tokens: int) -> dict[str, TensorForm]:
        """A batch's shapes and types, labels included; tokens say nothing of images."""
        labels = task_for(self.task).labels_form(rows, tokens, self.task.target_length)
        return {**_without_weights(self.name, size).inputs_form(rows, tokens=tokens), "labels": labels}


@cache
def _without_weights(name: str, size: Size) -> Backbone:
    plain = next(model for model in MODELS if model.name == name).config(size)
    with torch.device("meta"):
        return backbone_from_config(transformers.AutoConfig.for_model(plain.pop("model_type"), **plain))


_SMALL_BERT = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 80,
}
_SMALL_DECODER = {"vocab_size": 500, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 256,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}

MODELS = (
    Model(name="bert-base", model_type="bert", kind="encoder", task=CLASSES, real={}, small=_SMALL_BERT),
    Model(
        name="deberta-v3-base",
        model_type="deberta-v2",
        kind="encoder",
        task=CLASSES,
        real={
            **_DEBERTA_V3,
            "vocab_size": 128100,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
        small={**_SMALL_BERT, **_DEBERTA_V3, "position_buckets": 16},
    ),
    Model(
        name="t5-base",
        model_type="t5",
        kind="encoder-decoder",
        task=WRITTEN,
        real={
            "d_model": 768,
            "d_kv": 64,
            "d_ff": 3072,
            "num_layers": 12,
            "num_heads": 12,
            "decoder_start_token_id": 0,
        },
        small={
            "vocab_size": 500,
            "d_model": 64,
            "d_kv": 16,
            "d_ff": 128,
            "num_layers": 3,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        refuses=("linear_probe", "bitfit"),  # a head of classes writes no text; T5 has no biases unless they are added
        refuses_late=("bitfit", "prompt"),
    ),
    Model(
        name="bart-base",
        model_type="bart",
        kind="encoder-decoder",
        task=WRITTEN,
        real={
            "d_model": 768,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3072,
            "decoder_ffn_dim": 3072,
        },
        small={
            "vocab_size": 500,
            "d_model": 64,
            "encoder_layers": 3,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": 80,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": None,
        },
        refuses=("linear_probe",),
        refuses_late=("prompt",),
    ),
    Model(
        name="gpt2",
        model_type="gpt2",
        kind="decoder",
        task=LANGUAGE,
        real={},
        small={**_SMALL_DECODER, "n_positions": 80, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_inner": 128},
        refuses=("linear_probe",),
        refuses_late=("prompt",),
    ),
    Model(
        name="qwen2.5-0.5b",
        model_type="qwen2",
        kind="decoder",
        task=WRITTEN,
        real={
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        small={
            **_SMALL_DECODER,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 80,
        },
        refuses=("linear_probe",),
        refuses_late=("prompt",),
    ),
    Model(
        name="vit-base",
        model_type="vit",
        kind="vision",
        task=CLASSES,
        real={},
        small={
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    Model(
        name="resnet-50",
        model_type="resnet",
        kind="cnn",
        task=CLASSES,
        real={},
        small={"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 2, 2, 1]},
        refuses=("prompt",),
        refuses_late=("prompt",),
    ),
    Model(
        name="vilt-b32",
        model_type="vilt",
        kind="cross-modal",
        task=CLASSES,
        real={},
        small={**_SMALL_BERT, "image_size": 32, "patch_size": 8, "max_image_length": -1},
        most_tokens=40,
    ),
)

# method forms, each with what it changes of training
FORMS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"name": "full"}, {}),
    ({"name": "sherl"}, {}),
    ({"name": "full", "activation_checkpointing": True}, {"accumulation": 2}),
    ({"name": "linear_probe"}, {}),
    ({"name": "unipt"}, {}),
    ({"name": "ladder", "initialisation": "random"}, {}),
    ({"name": "lora", "rank": 8}, {}),
    ({"name": "sherl", "insertion": "multi", "start_layer": -2}, {}),
    ({"name": "adapter"}, {}),
    ({"name": "sherl", "start_layer": -2, "late_route": {"name": "lora"}}, {}),
    ({"name": "bitfit"}, {}),
    ({"name": "sherl", "late_route": {"name": "adapter"}}, {}),
    ({"name": "prompt"}, {"accumulation": 2}),
    ({"name": "sherl", "late_route": {"name": "bitfit"}}, {}),
    ({"name": "lora", "rank": 8, "activation_checkpointing": True}, {}),
    ({"name": "sherl", "late_route": {"name": "prompt"}}, {"accumulation": 2}),
    ({"name": "full"}, {"accumulation": 2}),
    ({"name": "sherl", "late_route": {"name": "full"}}, {}),
    ({"name": "sherl", "gate": "released", "similarity": "learned"}, {}),
    ({"name": "adapter", "activation_checkpointing": True}, {}),
    ({"name": "sherl", "start_layer": -2, "late_route": {"name": "none"}, "activation_checkpointing": True}, {}),
)

TOKENS: dict[Size, int] = {"real": 128, "small": 24}
BATCH_SIZES: dict[Size, tuple[int, int]] = {"real": (8, 32), "small": (4, 8)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration: a model, a method's form, a precision, shapes."""

    model: str
    size: Size
    method: dict[str, Any]
    training: dict[str, Any] = field(default_factory=dict)
    tokens: int

    @property
    def backbone(self) -> Model:
        """Its row in :data:`MODELS`."""
        return next(model for model in MODELS if model.name == self.model)

    @property
    def precision(self) -> str:
        return str(self.training.get("precision", "fp32"))

    @property
    def candidate(self) -> Candidate:
        return Candidate(method=self.method, training=self.training, params={})

    @property
    def label(self) -> str:
        words = [
            f"{key}={value['name'] if isinstance(value, dict) else value}"
            for key, value in self.method.items()
            if key != "name"
        ]
        accumulation = int(self.training.get("accumulation", 1))
        shape = f"{self.training['batch_size']} rows" + (f" in {accumulation}" if accumulation > 1 else "")
        return f"{self.model} {' '.join([self.method['name'], *words])}, {self.precision}, {shape}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for another process."""
        return {
            "model": self.model,
            "size": self.size,
            "method": self.method,
            "training": self.training,
            "tokens": self.tokens,
        }


def cases(size: Size, models: Sequence[Model] = MODELS) -> list[Case]:
    """Every model with full fine-tuning in fp32, SHERL in bf16 and every other form in turn, so that each form meets half
    of the models, and precisions and batch sizes change from row to row."""
    found = []
    for place, model in enumerate(models):
        for number, (method, changes) in enumerate(FORMS):
            always = number < 2
            late = method.get("late_route", {}).get("name")
            if method["name"] in model.refuses or late in model.refuses_late:
                continue
            if not always and (place + number) % 2:
                continue
            precision: Precision = "bf16" if (number if always else number // 2 + place // 2) % 2 else "fp32"
            rows = BATCH_SIZES[size][(place + number // 2) % 2]
            training = {"learning_rate": 1e-4, "batch_size": rows, "precision": precision, **changes}
            found.append(Case(model=model.name, size=size, method=method, training=training, tokens=model.tokens(size)))
    return found


def batch_of(case: Case, rows: int, tokens: int, *, seed: int = 0) -> Batch:
    """Random full rows of this shape, as :mod:`sherl.data` makes them; of pixels and regions random figures."""
    model = case.backbone
    words = int(model.config(case.size).get("vocab_size", FIRST_TOKEN + 1))
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for name, form in model.form(case.size, rows, tokens).items():
        if form.dtype == "float32":
            batch[name] = torch.randn(form.shape, generator=generator)
        elif name == "labels" and len(form.shape) == 1:
            batch[name] = torch.arange(rows) % model.task.num_outputs
        elif name in ("input_ids", "labels"):
            batch[name] = torch.randint(FIRST_TOKEN, words, form.shape, generator=generator)
        else:
            batch[name] = torch.full(form.shape, int(name == "attention_mask"))
    return batch
