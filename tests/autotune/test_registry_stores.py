"""Registering leaves MLflow's settings in this process as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator

import mlflow
import pytest

from autotune.deploy.registry import _stores

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
INSIDE = ("sqlite:////tmp/runs.db", "sqlite:////tmp/models.db")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has set anything; whatever a test sets goes with it."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that the end of the test puts back what was there
        monkeypatch.delenv(name)
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def through() -> None:
    with _stores(*INSIDE):
        assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == INSIDE


def test_stores_that_nobody_set_stay_unset() -> None:
    through()
    assert not any(name in os.environ for name in NAMES)
    mlflow.set_tracking_uri("sqlite:////tmp/later.db")
    assert mlflow.get_registry_uri() == "sqlite:////tmp/later.db", "it follows the tracking store"


def test_stores_of_the_environment_stay_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://registry")
    through()
    assert mlflow.get_registry_uri() == "http://registry"
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://another")
    assert mlflow.get_registry_uri() == "http://another"


def test_stores_that_were_set_are_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow.set_tracking_uri("sqlite:////tmp/mine.db")
    mlflow.set_registry_uri("http://mine")
    through()
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == ("sqlite:////tmp/mine.db", "http://mine")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://changed")
    mlflow.set_registry_uri("http://mine")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://changed")
    through()
    assert mlflow.get_registry_uri() == "http://mine"


def test_they_are_put_back_after_an_error_too() -> None:
    with pytest.raises(ValueError, match="inside"), _stores(*INSIDE):
        raise ValueError("inside")
    assert not any(name in os.environ for name in NAMES)
