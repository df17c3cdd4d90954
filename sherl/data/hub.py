"""Data sets of the Hugging Face hub: the one door to ``datasets``, which is imported on first use."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sherl.data.table import Table
from sherl.errors import DataError

REACH_SECONDS = 5.0
"""How long the hub may take to answer at all; without this a missing network costs minutes of retries."""

_ID = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[\w.-]+))?(?:@(?P<split>[\w.-]+))?")

_PARTS = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "dev", "validation_matched"),
    "test": ("test",),
}


def is_hub_id(source: str) -> bool:
    """Whether a source reads as "name", "owner/name", "name:config", "name@split" or "name:config@split"."""
    return _ID.fullmatch(source) is not None


def read_hub(source: str, part: str) -> dict[str, Table]:
    """The parts of a hub data set: one for "name@split", under ``part``; else train, and valid and test where it has them.

    Class labels come as their names; a hidden label (-1) comes as None. A test or validation split whose labels are all
    hidden, as in GLUE, is left out by the caller.

    Raises:
        DataError: the hub is not reachable and nothing is cached, or it has no such data set, configuration or split.
    """
    match = _ID.fullmatch(source)
    if match is None:
        raise DataError(f"{source!r} is no hub id; give owner/name, name:config or name@split.")
    name, config, split = match["name"], match["config"], match["split"]
    loaded = _load(source, name, config)
    splits = {str(key): value for key, value in loaded.items()}
    if split is not None:
        if split not in splits:
            raise DataError(f"{source}: the data set has no split {split!r}; it has {', '.join(sorted(splits))}.")
        return {part: _table(splits[split], source)}
    found: dict[str, Table] = {}
    for wanted, names in _PARTS.items():
        held = next((known for known in names if known in splits), None)
        if held is not None and (part == "train" or wanted == part):
            found[wanted] = _table(splits[held], f"{source}@{held}")
    if part not in found and len(splits) == 1:
        only = next(iter(splits))
        return {part: _table(splits[only], f"{source}@{only}")}
    if part not in found:
        raise DataError(
            f"{source}: it has no split for {part}; name one of {', '.join(sorted(splits))} as {name}@SPLIT."
        )
    return found


def _load(source: str, name: str, config: str | None) -> Any:
    reachable = hub_reachable()
    import datasets

    with _offline(not reachable):
        try:
            return datasets.load_dataset(name, config)
        except Exception as error:  # datasets raises errors of a dozen libraries; all mean "no data"
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if not reachable:
                raise DataError(
                    f"{source!r} is neither a file here nor a packaged set, and the hub ({_endpoint()}) does not answer, so "
                    f"it cannot be fetched; nor is it in the local cache. Give a csv, tsv, json, jsonl or parquet file "
                    f"(--train FILE), or run where the hub is reachable. ({reason})"
                ) from error
            raise DataError(
                f"{source!r}: the hub gives no such data set. Give owner/name, name:config or name@split, "
                f"or a file. ({reason})"
            ) from error


def hub_reachable(timeout: float = REACH_SECONDS) -> bool:
    """Whether the hub answers at all; False in offline mode (``HF_HUB_OFFLINE``)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        request = urllib.request.Request(_endpoint(), method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # it answered, if only to refuse this page
    except (OSError, ValueError):
        return False


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Makes ``datasets`` look into its cache only: it would retry an unreachable hub for minutes."""
    if not wanted:
        yield
        return
    import datasets
    import huggingface_hub.constants

    places = [(datasets.config, "HF_HUB_OFFLINE"), (huggingface_hub.constants, "HF_HUB_OFFLINE")]
    before = [(module, key, getattr(module, key)) for module, key in places]
    for module, key in places:
        setattr(module, key, True)
    try:
        yield
    finally:
        for module, key, value in before:
            setattr(module, key, value)


def _table(split: Any, source: str) -> Table:
    columns: dict[str, list[Any]] = {}
    orders: dict[str, list[str]] = {}
    for name in split.column_names:
        cells = list(split[name])
        names = getattr(split.features.get(name), "names", None)
        if names is not None:
            orders[name] = [str(known) for known in names]
            cells = [orders[name][cell] if isinstance(cell, int) and 0 <= cell < len(names) else None for cell in cells]
        inner = getattr(getattr(split.features.get(name), "feature", None), "names", None)
        if inner is not None:  # a class label for each word
            cells = [[str(inner[one]) if 0 <= one < len(inner) else None for one in cell] for cell in cells]
        columns[name] = cells
    return Table(source, columns, identity=str(getattr(split, "_fingerprint", "")), class_orders=orders)
