"""An export in MLflow's model registry: loaded again, served over HTTP, registered twice, refused names."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sherl
from autotune.deploy import require_names
from autotune.deploy.registry import _example
from autotune.deploy.served import Served
from autotune.errors import ConfigError
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.predictor import Predictor
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune, environment
from tests.sherl.image_samples import picture
from tests.sherl.test_predictor_call import TASKS, predictor_of
from tests.sherl.texts import stirred
from tests.sherl.tiny import tiny_backbone

SECONDS = 90.0
TEXTS = ["good film", "", "a very bad plot \U0001f600 and not good", "bad " * 90]
LOADED = """
import json, sys, warnings
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
texts = json.loads(sys.argv[2])
answers = [model.predict(texts), model.predict(pandas.DataFrame({"any": texts})), [model.predict(one)[0] for one in texts]]
print(json.dumps([answers, model.metadata.signature.to_dict(), model.input_example]))
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_study(tmp_path_factory.mktemp("registry"), tracked=True).path


@pytest.fixture(scope="module")
def registered(study: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder of an export that was registered twice, and what was said of it each time."""
    folder = study.parent / "exported"
    options = {"--study-dir": str(study), "--register": "reviews"}
    said = [json.loads(autotune("export", folder, "--json", options=options).stdout)["registered"] for _ in range(2)]
    return folder, said[0], said[1]


@pytest.fixture(scope="module")
def store(study: Path) -> str:
    return f"sqlite:///{study / 'mlflow.db'}"


def in_store(code: str, store: str, *arguments: str) -> Any:
    """What a process of its own prints as JSON, with MLflow at this store."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**environment(), "MLFLOW_TRACKING_URI": store},
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def alike(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer["label"] == wanted["label"]
        assert answer["scores"] == pytest.approx(wanted["scores"], abs=1e-5)


@pytest.mark.slow
def test_twice_registered_is_two_versions_and_the_alias_is_on_the_second(
    registered: tuple[Path, dict[str, Any], dict[str, Any]], store: str
) -> None:
    _, first, second = registered
    assert (first["version"], second["version"]) == (1, 2)
    code = """
import json, mlflow
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("reviews", "champion")
run = client.get_run(version.run_id)
print(json.dumps([int(version.version), version.run_id, version.tags, version.description, run.data.tags, run.info.status]))
"""
    version, run_id, tags, description, run_tags, status = in_store(code, store)
    assert version == 2
    assert run_id == first["run_id"] == second["run_id"]
    assert run_tags["kind"] == "trial"  # it says which training it came from
    assert run_tags["trial_number"] == "0"
    assert status == "FINISHED"
    assert tags == {"trial": "0", "method": "sherl"}
    assert description.startswith("Trial 0: sherl r=4")


@pytest.mark.slow
def test_lists_frames_and_single_texts_are_answered_as_the_export_does(
    registered: tuple[Path, dict[str, Any], dict[str, Any]], store: str
) -> None:
    folder, _, second = registered
    (listed, framed, single), signature, example = in_store(LOADED, store, second["uri"], json.dumps(TEXTS))
    expected = sherl.load(folder).predict(TEXTS)
    for answers in (listed, framed, single):
        alike(answers, expected)
    assert {"label", "scores"} == {column["name"] for column in json.loads(signature["outputs"])}
    assert example == ["A text.", "Another one."]


class Server:
    """``mlflow models serve`` on a free port, its whole process group ended at the end."""

    def __init__(self, uri: str, store: str, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.log = (folder / "serve.log").open("w+")
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port)],
            env={**environment(), "MLFLOW_TRACKING_URI": store, "OMP_NUM_THREADS": "1"},
            stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait(self) -> None:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert self.process.poll() is None, self.said()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5):
                    return
            except OSError:
                time.sleep(0.25)
        raise AssertionError(f"no answer within {SECONDS:g} s:\n{self.said()}")

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-3000:]

    def ask(self, body: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/invocations", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)  # it leads its own group
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        self.log.close()


@pytest.fixture
def server(registered: tuple[Path, dict[str, Any], dict[str, Any]], store: str, tmp_path: Path) -> Iterator[Server]:
    made = Server(registered[2]["uri"], store, tmp_path)
    try:
        made.wait()
        yield made
    finally:
        made.end()


@pytest.mark.slow
def test_it_is_served_over_http(registered: tuple[Path, dict[str, Any], dict[str, Any]], server: Server) -> None:
    expected = sherl.load(registered[0]).predict(TEXTS)
    table = [[text] for text in TEXTS]
    for body in (
        {"inputs": TEXTS},
        {"dataframe_split": {"columns": ["review"], "data": table}},
        {"inputs": TEXTS, "params": {"batch_size": 1}},
    ):
        code, said = server.ask(body)
        assert code == 200, said
        alike(said["predictions"], expected)
    alone = [server.ask({"inputs": [text]}) for text in TEXTS]
    alike([said["predictions"][0] for _, said in alone], expected)
    for wrong, words in (
        ({"inputs": ["good", None]}, "index 1"),
        ({"inputs": [3]}, "a string is needed"),
        ({"dataframe_split": {"columns": ["review"], "data": [[{"a": 1}]]}}, ""),
        ({"texts": ["good"]}, "exactly one of the input fields"),
        ({"inputs": ["good"], "params": {"batch_size": 0}}, "batch_size must be at least 1"),
        (b"no json", "valid JSON"),
    ):
        code, said = server.ask(wrong)
        assert code == 400, (wrong, said)
        assert words in said["message"]
    assert server.ask({"inputs": ["good film"]})[0] == 200  # none of these has ended it


# ---- what needs no store


def test_images_come_as_paths_or_in_base64(tmp_path: Path) -> None:
    from PIL import Image

    predictor = predictor_of("images")
    served = Served(predictor)
    file = tmp_path / "photo.png"
    Image.fromarray(picture(3)).save(file)
    text = base64.b64encode(file.read_bytes()).decode()
    expected = predictor.predict([file])
    for given in (str(file), text, f"data:image/png;base64,{text}"):
        assert served.predict([given])[0]["scores"] == pytest.approx(expected[0]["scores"], abs=1e-6)
    with pytest.raises(Exception, match=r"index 1: 'nowhere\.png' is neither a path that exists"):
        served.predict([text, "nowhere.png"])
    with pytest.raises(Exception, match="index 0"):
        served.predict([base64.b64encode(b"no image").decode()])


def test_pairs_are_two_columns() -> None:
    import pandas as pd

    predictor = predictor_of("pairs")
    served, pairs = Served(predictor), [("good film", "bad film"), ("a", "b")]
    assert served.predict(pd.DataFrame(pairs)) == predictor.predict(pairs)
    assert served.predict([list(pair) for pair in pairs]) == predictor.predict(pairs)
    with pytest.raises(Exception, match="2 columns are needed"):
        served.predict(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize("kind", TASKS)
def test_the_example_of_every_task_is_answered(kind: str, tmp_path: Path) -> None:
    family, task = TASKS[kind]
    (tmp_path / "sherl.json").write_text(json.dumps({"task": task.to_dict()}))
    predictor = predictor_of(kind)
    if kind == "texts":
        predictor = Predictor(
            stirred(build_model(tiny_backbone(family), method_from_dict("full"), task, seed=0)).eval(),
            predictor.tokenizer,
            max_length=12,
        )
    example = _example(tmp_path)
    assert len(Served(predictor).predict(example)) == len(example)


@pytest.mark.parametrize(
    ("name", "alias", "words"),
    [
        ("a/b", "champion", "without / and :"),
        (" ", "champion", "--register"),
        ("good", "v1", "--alias"),
        ("good", "latest", "--alias"),
        ("good", "two words", "--alias"),
        ("a:b", "1st", "2 problems"),
    ],
)
def test_names_that_the_registry_does_not_take_are_refused_before_anything_is_written(
    name: str, alias: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        require_names(name, alias)
    require_names("reviews of films", "champion")
