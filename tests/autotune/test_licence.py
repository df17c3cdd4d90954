"""The licence of a backbone: where it is read, and a hub that is asked once and never waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import ClassVar

import pytest

from autotune.deploy.licence import Licence, licence_of
from sherl.backbones import DEFAULT_BACKBONE
from tests.autotune.mlflow_server import answering
from tests.autotune.small_study import make_model


def test_the_licence_is_read_where_the_source_says_it(tmp_path: Path) -> None:
    assert licence_of(DEFAULT_BACKBONE) == Licence("apache-2.0", "by its model card")
    folder = make_model(tmp_path / "model")
    unknown = licence_of(str(folder))
    assert unknown.name == "unknown"
    assert str(unknown).startswith(f"unknown: look at where {folder} comes from")
    assert unknown.hub_id == "unknown"
    (folder / "LICENSE").write_text("\n   Apache License\n   Version 2.0")
    assert licence_of(str(folder)).name == "apache-2.0"
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\n# A model\n")
    named = licence_of(str(folder))
    assert (named.name, named.hub_id) == ("my-own", "other")


@pytest.mark.parametrize("card", ["no head", "---\n{{ damaged\n---\n", "---\nlicense:\n---\n", "---\n- a list\n---\n"])
def test_a_card_that_names_none_leaves_it_unknown(card: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "README.md").write_text(card)
    assert licence_of(str(folder)).name == "unknown"


def test_a_licence_file_of_other_words_is_another_licence(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    (folder / "LICENSE").write_text("Do what you like.")
    assert licence_of(str(folder)) == Licence("other", f"by the file LICENSE of {folder}")


def test_a_source_that_is_gone_is_unknown(tmp_path: Path) -> None:
    assert "not here now" in str(licence_of(str(tmp_path / "gone")))


CARD = "---\nlicense: mit\n---\n# A model\n"


class Hub(BaseHTTPRequestHandler):
    """Has a card of org/model, after a redirect as the hub answers, and counts what it is asked."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/org/model/resolve/main/README.md":
            self.send_response(307)
            self.send_header("Location", "/cache/README.md")
            self.end_headers()
            return
        self.send_response(200 if self.path == "/cache/README.md" else 503)
        self.end_headers()
        self.wfile.write(CARD.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine, and a cache that is empty; what the hub was asked for."""
    with answering(Hub) as address:
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(Hub, "asked", asked := list[str]())
        yield asked


def test_the_hub_is_asked_once_and_in_silence(hub: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert str(licence_of("org/model")) == "mit (by its card at https://huggingface.co/org/model)"
    assert hub == ["/org/model/resolve/main/README.md", "/cache/README.md"]
    hub.clear()
    assert str(licence_of("org/other")) == "unknown: look at https://huggingface.co/org/other"
    assert len(hub) == 1, "no second attempt"
    assert licence_of("no such/../model").name == "unknown"
    assert capfd.readouterr() == ("", "")


def test_what_is_cached_is_not_asked_for(hub: list[str], tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "models--org--model" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text(CARD.replace("mit", "gpl-3.0"))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    assert licence_of("org/model").name == "gpl-3.0"
    assert hub == []


def test_a_hub_that_is_out_of_reach_or_switched_off_is_unknown_at_once(
    hub: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert licence_of("org/model").name == "unknown"
    assert hub == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    nobody = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nobody)
    began = time.monotonic()
    assert licence_of("org/model").name == "unknown"
    assert time.monotonic() - began < 8
    assert capfd.readouterr() == ("", "")
