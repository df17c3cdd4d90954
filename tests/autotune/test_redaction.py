"""Passwords and tokens in addresses: blotted out where they show, kept from others where a study needs them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.redaction import redact, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://u:p@ss@h/x and http://h:80/", "at postgresql://u:***@h/x and http://h:80/"),
        ("postgresql+psycopg://bob@h/x", "postgresql+psycopg://bob@h/x"),
        ("https://ghp_token@h:80/x", "https://***@h:80/x"),
        ("https://:geheim@h", "https://:***@h"),
        ("mysql://h/x?user=bob&password=ge%40heim&ssl=1", "mysql://h/x?user=bob&password=***&ssl=1"),
        ("mssql://h/x?Access_Token=geheim", "mssql://h/x?Access_Token=***"),
        ("a person@home wrote: 10:30, x=1", "a person@home wrote: 10:30, x=1"),
    ],
)
def test_only_what_is_secret_is_blotted_out(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


def test_settings_are_blotted_out_however_deep() -> None:
    given = {"uri": "https://a:b@h", "more": [{"of": ("http://a:b@h", 3, None)}]}
    assert redacted(given) == {"uri": "https://a:***@h", "more": [{"of": ["http://a:***@h", 3, None]}]}


@pytest.mark.parametrize(("uri", "mode"), [("postgresql://bob:geheim@h/x", 0o600), ("postgresql://bob@h/x", None)])
def test_settings_with_a_password_are_for_their_owner_alone(uri: str, mode: int | None, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    config = StudyConfig(memory_cap="3GB", model="m", mlflow_uri=uri)
    for _ in range(2):  # resuming writes them once more
        file = config.save(tmp_path)
        assert stat.S_IMODE(file.stat().st_mode) == (mode or stat.S_IMODE(plain.stat().st_mode))
    assert StudyConfig.load(tmp_path).mlflow_uri == uri, "a resumed study needs it"
