"""What was learnt folded into plain weights: a folder that transformers loads without this package.

LoRA's products are added to the weights they stand beside; full fine-tuning, biases that were there, and a new head alone need
no folding. What adds modules (adapters, prompts, side networks, SHERL's fusions) has no place in the pretrained layers.
"""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from sherl.backbones.sources import quietly
from sherl.errors import SherlError
from sherl.evaluation import evaluating
from sherl.graph import sample_batches
from sherl.model import Head, TaskModel
from sherl.precision import precision_of

if TYPE_CHECKING:
    from sherl.predictor import Predictor

MERGED_FOLDER = "merged"
HEAD_FILE = "head.safetensors"
FOLDABLE = ("lora", "full", "bitfit", "linear_probe")
#: Largest difference of outputs, as a share of the largest one.
TOLERANCE = 1e-5
_TOLERANCE_BF16 = 3e-2
_HEADED = {
    "images": "AutoModelForImageClassification",
    "token-classification": "AutoModelForTokenClassification",
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
}
_FINAL_LAYERS = ("classifier", "classifier.1", "score")


class MergeError(SherlError):
    """The model cannot be folded into plain weights; nothing was written."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What was written. loads_with: the class of transformers that reads it; whole: with the head in it.
    largest_difference: of outputs (of hidden states where the head lies apart) before and after, as a share of the largest."""

    directory: Path
    loads_with: str
    whole: bool
    largest_difference: float
    explanation: str


def merge(predictor: Predictor, directory: str | Path) -> Merged:
    """Fold the model into plain weights in a new folder, whole or not at all, and load it again to compare.

    Where transformers' own class for the task pools and answers as this model does, the head is in it. Elsewhere (BERT's
    classes go through a pooler of their own, this model means over tokens) the folder is a plain ``AutoModel``, with the
    head's weights in ``head.safetensors`` beside it. The predictor must not be used any more.

    Raises:
        MergeError: the method adds modules that have no place in the pretrained layers, or the folded model answers otherwise.
    """
    model, directory = predictor.model, Path(directory)
    _require_foldable(model)
    if directory.exists():
        raise MergeError(f"{directory} is there already: give a new folder.")
    model.to("cpu")
    batches = sample_batches(predictor)
    with evaluating(model), torch.no_grad():
        hidden = [model.tuned(batch) for batch in batches] if isinstance(model.head, Head) else []
        if model.tuned.backbone.layout.kind == "encoder-decoder" and not hidden:
            batches = [{**batch, "labels": batch["input_ids"][:, :3].contiguous()} for batch in batches]
            before = [model(batch) for batch in batches]
        else:
            before = [_outputs(model, batch) for batch in batches]
    state = _plain_state(model)
    build = directory.with_name(f".{uuid4().hex[:8]}")
    try:
        merged = _written(predictor, state, build, batches, hidden, before)
        build.rename(directory)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return Merged(**{**merged, "directory": directory})


def _require_foldable(model: TaskModel) -> None:
    name = model.tuned.config.name
    if name not in FOLDABLE:
        raise MergeError(
            f"The method {name} cannot be folded into plain weights: it computes with modules of its own between the pretrained "
            f"layers. What can be: {', '.join(FOLDABLE)}. Export without --merge, or write a graph (--onnx, --torch-export)."
        )
    added = {part: list(one.parameters) for part, one in model.tuned.parts().items() if one.module is not None}
    if added:
        raise MergeError(
            f"The method {name} on a {model.tuned.backbone.family} model adds {', '.join(added)}, for which its layers have no "
            "place. Export without --merge, or write a graph (--onnx, --torch-export)."
        )


def _plain_state(model: TaskModel) -> dict[str, Tensor]:
    """The pretrained model's weights by their own names, LoRA's products in them, in their dtype."""
    own = model.tuned.backbone.model
    for module in own.modules():
        if hasattr(module, "lora_A") and hasattr(module, "merge"):
            module.merge(safe_merge=True)
    folded = {}
    for name, tensor in own.state_dict().items():
        if ".lora_" not in name:
            folded[name.replace(".base_layer.", ".")] = tensor.detach().clone()
    return folded


def _written(
    predictor: Predictor,
    state: dict[str, Tensor],
    build: Path,
    batches: list[dict[str, Tensor]],
    hidden: list[Tensor],
    before: list[Tensor],
) -> dict[str, Any]:
    model = predictor.model
    backbone = model.tuned.backbone
    allowed = TOLERANCE if precision_of(backbone.model) == "fp32" else _TOLERANCE_BF16
    model.tuned.remove()  # the plain layers are back; their values come from the state
    if hidden:
        headed = _headed(model, state)
        if headed is not None:
            after = [_answer(headed, batch) for batch in batches]
            difference = _difference(before, after, batches)
            if difference <= allowed:
                return _saved(headed, predictor, build, type(headed).__name__, True, batches, before, allowed)
    plain = backbone.model
    plain.load_state_dict(state)
    if hidden:
        plain = plain.base_model  # without a language head
    kind = type(plain).__name__
    if not hidden:
        return _saved(plain, predictor, build, kind, True, batches, before, allowed)
    made = _saved(plain, predictor, build, kind, False, batches, hidden, allowed)
    assert isinstance(model.head, Head)
    head = {name: tensor.detach().clone() for name, tensor in model.head.linear.state_dict().items()}
    save_file(head, build / HEAD_FILE)
    # a decoder's row says nothing of it: the last token has seen all others
    pooling = "last" if backbone.layout.kind == "decoder" else getattr(backbone.layout, "pooling", "mean")
    told = {"task": model.task.to_dict(), "head": HEAD_FILE, "pooling": pooling}
    (build / "head.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return made


def _headed(model: TaskModel, state: dict[str, Tensor]) -> Any:
    """transformers' class for the task with this model's weights and head; None where it has other parts than these."""
    task, own = model.task, model.tuned.backbone.model
    assert isinstance(model.head, Head)
    config = type(own.config).from_dict(own.config.to_dict())
    names = task.class_names or ("value",)
    config.id2label = dict(enumerate(names))  # by which it knows how many there are
    config.label2id = {name: place for place, name in enumerate(names)}
    config.problem_type = "regression" if task.kind == "regression" else None
    kind = getattr(transformers, _HEADED["images" if task.image_size else task.kind])
    try:
        made = kind.from_config(config, trust_remote_code=False).to(own.dtype).eval()
    except ValueError:  # the family has no such class
        return None
    prefix = made.base_model_prefix
    rest = {name for name in made.state_dict() if not name.startswith(f"{prefix}.")}
    final = next((name for name in _FINAL_LAYERS if f"{name}.weight" in rest and f"{name}.bias" in rest), None)
    linear = model.head.linear
    if final is None or rest != {f"{final}.weight", f"{final}.bias"}:
        return None
    layer = made.get_submodule(final)
    if not isinstance(layer, nn.Linear) or layer.weight.shape != linear.weight.shape:
        return None
    base = getattr(made, prefix)
    missing, _ = base.load_state_dict(state, strict=False)  # a pooler that its class leaves out
    if missing:
        return None
    scale, shift = (task.target_std, task.target_mean) if task.kind == "regression" else (1.0, 0.0)
    with torch.no_grad():
        layer.weight.copy_(linear.weight * scale)
        layer.bias.copy_(linear.bias * scale + shift)
    return made


def _saved(
    made: Any,
    predictor: Predictor,
    build: Path,
    kind: str,
    whole: bool,
    batches: list[dict[str, Tensor]],
    before: list[Tensor],
    allowed: float,
) -> dict[str, Any]:
    """Saved, loaded again and compared.

    Raises:
        MergeError: it does not give what the model gave.
    """
    with quietly():
        made.save_pretrained(build)
        if predictor.tokenizer is not None:
            predictor.tokenizer.save_pretrained(build)
        again = getattr(transformers, kind).from_pretrained(build, trust_remote_code=False).eval()
    difference = _difference(before, [_answer(again, batch) for batch in batches], batches)
    if not difference <= allowed:
        raise MergeError(
            f"The folded model does not give what the model gave: it differs by {difference:.1e} of the largest figure, and at "
            f"most {allowed:.0e} was expected from rounding. It was not kept."
        )
    if again.dtype != made.dtype:
        raise MergeError(f"The folded model came back in {again.dtype} and not in {made.dtype}. It was not kept.")
    parts = (
        "head included"
        if whole
        else (
            f"without its head, which transformers' own class for the task has no equal of: {HEAD_FILE} holds weight and bias to "
            "put behind the pooled hidden states (head.json says how they are pooled)"
        )
    )
    return {
        "directory": build,
        "loads_with": kind,
        "whole": whole,
        "largest_difference": difference,
        "explanation": f"{MERGED_FOLDER}: plain weights for transformers.{kind}.from_pretrained, {parts}; it differs from the "
        f"model by {difference:.1e} of the largest figure at most.",
    }  # fmt: skip


def _answer(plain: Any, batch: dict[str, Tensor]) -> Tensor:
    """Logits, or the last hidden state, of a model of transformers."""
    further = {}
    if "pixel_values" in batch and "interpolate_pos_encoding" in inspect.signature(plain.forward).parameters:
        further["interpolate_pos_encoding"] = True  # images may be of another size than the pretrained ones
    with torch.no_grad():
        out = plain(**batch, **further)
    found: Tensor = out.logits if "logits" in out else out.last_hidden_state
    return found


def _outputs(model: TaskModel, batch: dict[str, Tensor]) -> Tensor:
    """What the folded model must give: logits, values in the data's own units, or the language head's."""
    if not isinstance(model.head, Head):
        logits: Tensor = model.tuned.backbone.vocabulary_logits(model.tuned(batch))
        return logits
    logits = model(batch)
    regression = model.task.kind == "regression"
    return logits * model.task.target_std + model.task.target_mean if regression else logits


def _difference(before: list[Tensor], after: list[Tensor], batches: list[dict[str, Tensor]]) -> float:
    """The largest, as a share of the largest figure; of padding nothing is asked. inf where shapes differ."""
    largest, scale = 0.0, 1e-12
    for one, other, batch in zip(before, after, batches, strict=True):
        if one.numel() != other.numel():
            return float("inf")
        other = other.reshape(one.shape).float()
        keep = torch.ones_like(other, dtype=torch.bool)
        if one.ndim == 3 and "attention_mask" in batch and batch["attention_mask"].shape[1] == one.shape[1]:
            keep &= batch["attention_mask"].bool()[:, :, None]
        largest = max(largest, float((one.float() - other).abs()[keep].max()))
        scale = max(scale, float(one.float().abs()[keep].max()))
    return largest / scale
