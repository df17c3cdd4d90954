"""A tuned model as a graph: it computes what the model does, or nothing is written."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sherl.errors import SpecError
from sherl.graph import GraphError, export_graph
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.predictor import Predictor
from tests.sherl.test_predictor_call import TASKS, predictor_of
from tests.sherl.text_to_text_samples import text_tokenizer
from tests.sherl.texts import stirred
from tests.sherl.tiny import tiny_backbone

MULTI = {
    "name": "sherl",
    "insertion": "multi",
    "start_layer": -2,
    "reduction_factor": 4,
    "late_route": {"name": "lora", "rank": 2},
}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "sherl": ("bert", {"name": "sherl", "reduction_factor": 4}, "classification"),
    "multi": ("bert", MULTI, "classification"),
    "lora": ("bert", {"name": "lora", "rank": 2}, "regression"),
    "full": ("bert", {"name": "full"}, "tags"),
    "linear_probe": ("bert", {"name": "linear_probe"}, "pairs"),
    "vit": ("vit", MULTI, "images"),
    "resnet": ("resnet", {"name": "lora", "rank": 2}, "images"),
    "gpt2": ("gpt2", {"name": "sherl", "reduction_factor": 4}, "causal"),
}


def predictor_on(family: str, method: dict[str, Any], kind: str) -> Predictor:
    task = TASKS[kind][1]
    model = stirred(build_model(tiny_backbone(family), method_from_dict(method), task, seed=0)).eval()
    style = "decoder" if family == "gpt2" else "t5"
    return Predictor(
        model, None if task.image_size else text_tokenizer(style), max_length=None if task.image_size else 12
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_archive_answers_as_the_model_for_any_number_of_rows_and_tokens(case: str, tmp_path: Path) -> None:
    predictor = predictor_on(*CASES[case])
    report = export_graph(predictor, tmp_path / "model.pt2", form="pt2")
    assert report.largest_difference <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    graph = torch.export.load(tmp_path / "model.pt2").module()
    if CASES[case][2] == "images":
        batch = {"pixel_values": torch.rand(4, 3, 32, 32)}
    else:
        ids = torch.randint(5, 30, (5, 9), generator=torch.Generator().manual_seed(1))
        batch = {"input_ids": ids, "attention_mask": (torch.arange(9) < torch.tensor([[9], [3], [5], [9], [1]])).long()}
    with torch.no_grad():
        expected = predictor.model(batch)
        if CASES[case][2] == "regression":
            expected = expected * 2.0 + 3.0
        got = graph(*(batch[name] for name in report.inputs))
    keep = batch["attention_mask"].bool() if expected.ndim == 3 else slice(None)
    assert torch.allclose(got[keep], expected[keep], atol=1e-4)
    assert expected[keep].std() > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs the extra 'onnx'")
@pytest.mark.parametrize("case", ["multi", "vit"])
def test_onnx_answers_as_the_model(case: str, tmp_path: Path) -> None:
    import onnxruntime

    predictor = predictor_on(*CASES[case])
    report = export_graph(predictor, tmp_path / "model.onnx", form="onnx")
    assert report.largest_difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert tuple(one.name for one in session.get_inputs()) == report.inputs
    batch = {"pixel_values": torch.rand(3, 3, 32, 32)}
    if case == "multi":
        ids = torch.randint(5, 30, (2, 7))
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    (got,) = session.run(None, {name: batch[name].numpy() for name in report.inputs})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(got), predictor.model(batch), atol=1e-4)


def test_what_is_no_graph_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("texts", "language"):
        with pytest.raises(GraphError, match="token by token"):
            export_graph(predictor_of(kind), tmp_path / "model.pt2", form="pt2")
    with pytest.raises(SpecError, match="form must be one of onnx, pt2"):
        export_graph(predictor_of("classification"), tmp_path / "x", form="tflite")  # type: ignore[arg-type]  # what a person may give
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"memory-autotune\[onnx\]"):
        export_graph(predictor_of("classification"), tmp_path / "model.onnx", form="onnx")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("an operation without a rule\nmore")

    monkeypatch.setattr("torch.export.export", fails)
    with pytest.raises(GraphError, match=r"cannot trace a bert model with full .* an operation without a rule"):
        export_graph(predictor_of("classification"), tmp_path / "model.pt2", form="pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.export.load

    class Wrong:
        def __init__(self, program: Any) -> None:
            self.program = program

        def module(self) -> Any:
            graph = self.program.module()
            return lambda *tensors: graph(*tensors) + 0.01

    monkeypatch.setattr("torch.export.load", lambda path: Wrong(real(path)))
    with pytest.raises(GraphError, match=r"outputs differ by 0\.01"):
        export_graph(predictor_on(*CASES["linear_probe"]), tmp_path / "model.pt2", form="pt2")
    assert list(tmp_path.iterdir()) == []
