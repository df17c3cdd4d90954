"""Commands around one trained configuration: export, predict."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autotune.cli.options import Json, Plugins, StudyDir, absolute, load_plugins

if TYPE_CHECKING:
    from sherl import Predictor

EXPORT_HELP = """Write a trained configuration as a folder that `sherl.load` reads.

Examples:

  autotune export model

  autotune export model --study-dir studies/reviews --trial 4

  autotune export model --register reviews --alias champion

  autotune export model --trial 3 --merge

  autotune export model --torch-export --onnx

The selected one is what the rule of the last `autotune select` picks now, confirmations since then included; exit code 5 where
no member meets the rule any more.

--register puts it into MLflow's model registry (the study's store, or MLFLOW_REGISTRY_URI) as its next version.
"""


def export(
    directory: Annotated[Path, typer.Argument(help="The folder to write; new, empty or an earlier export.")],
    study_dir: StudyDir = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="This trial; default: the selected one (see `autotune select`).")
    ] = None,
    register: Annotated[
        str | None, typer.Option("--register", help="Also put it into MLflow's model registry, under this name.")
    ] = None,
    alias: Annotated[
        str, typer.Option("--alias", help="With --register: what the new version is called; taken off an earlier one.")
    ] = "champion",
    merge: Annotated[
        bool,
        typer.Option(
            "--merge", help="Also fold what was learnt into plain weights (lora, full, bitfit, linear_probe)."
        ),
    ] = False,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx", help="Also write model.onnx (needs memory-autotune[onnx]) and compare it with the model."
        ),
    ] = False,
    torch_export: Annotated[
        bool,
        typer.Option("--torch-export", help="Also write model.pt2, torch's own graph, and compare it with the model."),
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="The backbone, where it lies elsewhere now; it is compared.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export also where something was added to it.")
    ] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """See :data:`EXPORT_HELP`."""
    from autotune.study import export_from_study

    asked: dict[Literal["onnx", "pt2"], bool] = {"onnx": onnx, "pt2": torch_export}
    graphs = [form for form, wanted in asked.items() if wanted]
    exported = export_from_study(
        study_dir,
        directory,
        trial=trial,
        register_as=register,
        alias=alias,
        merge=merge,
        graphs=graphs,
        backbone=absolute(model),
        plugins=plugin or (),
        overwrite=overwrite,
    )
    typer.echo(json.dumps(exported.to_dict(), indent=2, ensure_ascii=False) if as_json else exported.explanation)


def _answer(answer: dict[str, Any]) -> str:
    """What was predicted, on one line."""
    if "scores" in answer:
        return f"{answer['label']}\t{answer['scores'][answer['label']]:.4f}"
    if "tags" in answer:
        return " ".join(f"{word}/{tag or '-'}" for word, tag in zip(answer["words"], answer["tags"], strict=True))
    if "text" in answer:
        written = " ".join(str(answer["text"]).split())  # one line
        return f"{written} (none of the classes)" if "label" in answer and answer["label"] is None else written
    if "perplexity" in answer:
        return "no token to predict" if answer["perplexity"] is None else f"perplexity {answer['perplexity']:.4f}"
    return f"{answer['value']:.4f}"


def _predict_file(predictor: Predictor, file: str, out: str, columns: dict[str, str | None], batch_size: int) -> None:
    """A line of JSON for each row; a file of them is there whole or not at all."""
    from autotune.deploy.answers import answer_rows, rows_of_file, rows_of_lines
    from autotune.errors import ConfigError
    from autotune.files import beside

    task = predictor.model.task
    soon = file == "-"
    if soon and any(columns.values()):
        raise ConfigError("Standard input has no columns: leave --text, --pair and --image out.")
    rows = rows_of_lines(sys.stdin, task, "standard input") if soon else rows_of_file(Path(file), task, **columns)
    source = "standard input" if soon else file
    if out == "-":
        written = partial(typer.echo, nl=False)
        answer_rows(predictor, rows, written, source=source, batch_size=batch_size, soon=soon)
        return
    try:
        with beside(Path(out)) as scratch, scratch.open("w", encoding="utf-8") as stream:
            done = answer_rows(predictor, rows, stream.write, source=source, batch_size=batch_size, soon=soon)
    except OSError as error:
        raise ConfigError(f"--out {out!r} cannot be written: {error.strerror or error}.") from error
    typer.echo(f"{done} answers are in {out}.", err=True)


def predict(
    directory: Annotated[Path, typer.Argument(help="A folder that `autotune export` wrote.")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts; for a task on pairs, first and second text in turn; for tags sentences, words apart by blanks; for "
            "images their paths."
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help="Predict on all rows of this file instead (csv, tsv, jsonl, json, parquet; txt: one a line); -: lines of standard input.",
        ),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", help="With --file: where to write a line of JSON for each row; -: standard output.")
    ] = "-",
    text: Annotated[str | None, typer.Option("--text", help="With --file: column of the text.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="With --file: column of the second text.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="With --file: column of image paths.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The backbone, where it lies elsewhere now.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows that are answered at once.")] = 32,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to answer: cpu (default), cuda, cuda:1.")
    ] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Predict on raw texts or images with an exported model.

    Examples:

      autotune predict model "a warm, funny, engaging film"

      autotune predict model photo.jpg another.png --json

      autotune predict model --file reviews.csv --text review --out answers.jsonl
    """
    import sherl
    from autotune.errors import ConfigError

    if bool(texts) == (file is not None):
        raise ConfigError("Give texts, or --file with rows to predict on; one of the two.")
    if file is None and (out != "-" or any(name is not None for name in (text, pair, image))):
        raise ConfigError("--out, --text, --pair and --image say how a file is read and answered: give --file too.")
    load_plugins(plugin)
    predictor = sherl.load(directory, backbone=model, device=device)
    if file is not None:
        _predict_file(predictor, file, out, {"text": text, "pair": pair, "image": image}, batch_size)
        return
    texts = texts or []
    inputs: list[str] | list[tuple[str, str]] = texts
    if predictor.model.task.pair:
        if len(texts) % 2:
            raise ConfigError(
                f"This model predicts on pairs of texts; an odd number of texts ({len(texts)}) was given. Give an even number."
            )
        inputs = list(zip(texts[::2], texts[1::2], strict=True))
    answers = predictor.predict(inputs, batch_size)
    if as_json:
        typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    for given, answer in zip(inputs, answers, strict=True):
        shown = given if isinstance(given, str) else " | ".join(given)
        typer.echo(f"{_answer(answer)}\t{shown}")
