"""The configurations that ``memory_accuracy.py`` grades. A further model, method form or kind of backbone is one row here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers

from autotune.outcome import Candidate
from sherl.backbones import FAMILIES
from sherl.evaluation import Batch
from sherl.spec import Precision, TaskSpec

Size = Literal["real", "small"]

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=8)
FIRST_TOKEN = 5  # below it stand padding and the tokens that begin and end a text


@dataclass(frozen=True, kw_only=True)
class Model:
    """A backbone with random weights. kind: as the goal counts kinds. real: settings over the defaults of the configuration's class,
    as the published model has them; small: of the same architecture where there is no GPU. refuses, refuses_late:
    methods and late routes that its family cannot carry for this task."""

    name: str
    model_type: str
    kind: str
    task: TaskSpec
    real: Mapping[str, Any]
    small: Mapping[str, Any]
    refuses: tuple[str, ...] = ()
    refuses_late: tuple[str, ...] = ()

    def config(self, size: Size) -> dict[str, Any]:
        """``config.to_dict()`` of the backbone."""
        settings = self.real if size == "real" else self.small
        return dict(transformers.AutoConfig.for_model(self.model_type, **settings).to_dict())

    @property
    def has_token_types(self) -> bool:
        """Whether its batches hold ``token_type_ids``."""
        return bool(getattr(FAMILIES.get(self.model_type), "token_types", False))


_SMALL_BERT = {
    "vocab_size": 500,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 80,
}
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
_ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}

MODELS = (
    Model(name="bert-base", model_type="bert", kind="encoder", task=CLASSES, real={}, small=_SMALL_BERT),
    Model(
        name="roberta-base",
        model_type="roberta",
        kind="encoder",
        task=CLASSES,
        real=_ROBERTA,
        small={**_SMALL_BERT, "type_vocab_size": 1},
    ),
    Model(
        name="distilbert-base",
        model_type="distilbert",
        kind="encoder",
        task=CLASSES,
        real={},
        small={"vocab_size": 500, "dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 128},
    ),
    Model(
        name="mpnet-base",
        model_type="mpnet",
        kind="encoder",
        task=CLASSES,
        real={"vocab_size": 30527, "max_position_embeddings": 514},
        small=_SMALL_BERT,
    ),
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
        name="modernbert-base",
        model_type="modernbert",
        kind="encoder",
        task=CLASSES,
        real={},
        small={
            **_SMALL_BERT,
            "num_hidden_layers": 4,
            "local_attention": 16,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "bos_token_id": 1,
            "sep_token_id": 2,
            "eos_token_id": 2,
        },
        refuses=("bitfit",),  # it has no biases
        refuses_late=("bitfit",),
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
)

# method forms, each with what it changes of training
FORMS: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"name": "full"}, {}),
    ({"name": "sherl"}, {}),
    ({"name": "full", "activation_checkpointing": True}, {"accumulation": 2}),
    ({"name": "linear_probe"}, {}),
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
            found.append(Case(model=model.name, size=size, method=method, training=training, tokens=TOKENS[size]))
    return found


def batch_of(case: Case, rows: int, tokens: int, *, seed: int = 0) -> Batch:
    """Random full rows of this shape, as :mod:`sherl.data` makes them: int64 ids and mask [rows, tokens]; labels [rows], or
    [rows, target_length] where text is written."""
    model = case.backbone
    words = int(model.config(case.size)["vocab_size"])
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "input_ids": torch.randint(FIRST_TOKEN, words, (rows, tokens), generator=generator),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.int64),
    }
    if model.has_token_types:
        batch["token_type_ids"] = torch.zeros(rows, tokens, dtype=torch.int64)
    if model.task.target_length:
        batch["labels"] = torch.randint(FIRST_TOKEN, words, (rows, model.task.target_length), generator=generator)
    else:
        batch["labels"] = torch.arange(rows) % model.task.num_outputs
    return batch
