"""Addresses without the passwords and tokens in them: what is printed, logged and kept where others may read it."""

from __future__ import annotations

import re
from typing import Any

_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]+@")
# before an @ a server's address has a token alone; a database's has the user's name, which is no secret
_TOKEN = re.compile(r"(https?://)[^/\s:@]+@", re.IGNORECASE)
_QUERY = re.compile(r"([?&][\w.-]*(?:passw|pwd|secret|token|key)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with the passwords of addresses in it blotted out: before the host's name, and in the query behind ``?``."""
    return _QUERY.sub(r"\1***", _TOKEN.sub(r"\1***@", _PASSWORD.sub(r"\1:***@", text)))


def redacted(value: Any) -> Any:
    """JSON-able data with :func:`redact` applied to every text in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(one) for one in value]
    return value
