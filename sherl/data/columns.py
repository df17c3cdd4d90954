"""Which columns hold the text, a second text and the label: as given, or found by obvious names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sherl.data.problems import Problems, listing
from sherl.data.settings import DataSpec
from sherl.data.table import Table

PAIR_NAMES = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question", "sentence"),
    ("text", "text_pair"),
)
TEXT_NAMES = (
    ("text", "sentence", "review", "review_text", "tweet", "headline", "comment", "utterance"),
    ("content", "document", "body", "message", "question", "title", "description"),
)
LABEL_NAMES = (
    ("label", "labels", "class", "target", "rating", "score", "sentiment", "category", "stars", "similarity"),
    ("y", "intent", "topic", "grade", "price"),
)
NEVER_GUESSED = ("id", "idx", "index", "guid", "uid")


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; ``pair`` is None for single texts, ``label`` is empty where nothing is labelled."""

    text: str
    pair: str | None
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.text, self.pair, self.label) if name)


def find_columns(table: Table, spec: DataSpec, problems: Problems) -> Columns | None:
    """The columns of the training part; what cannot be decided is added to ``problems``, and None is returned then."""
    before = len(problems.found)
    for option, name in (("--text", spec.text), ("--pair", spec.pair), ("--label", spec.label)):
        if name is not None and name not in table.columns:
            problems.add(f"{table.source}: {option} names the column {name!r}; {_present(table)}")
    if len(problems.found) > before:
        return None
    label = spec.label or _label(table, spec, problems)
    text, pair = _texts(table, spec, label, problems)
    if text is None or label is None or len(problems.found) > before:
        return None
    return Columns(text, pair, label)


def find_text(table: Table, spec: DataSpec, problems: Problems) -> Columns | None:
    """The text's column alone, for rows without a label; what cannot be decided is added to ``problems``."""
    for option, name in (("--pair", spec.pair), ("--label", spec.label)):
        if name is not None:
            problems.add(f"{option} names {name!r}, but of language modelling rows only the text is read; leave it out")
    if spec.text is not None and spec.text not in table.columns:
        problems.add(f"{table.source}: --text names the column {spec.text!r}; {_present(table)}")
        return None
    text = spec.text or _only(_single(table, _free(table, ())), "text", "--text", table, problems)
    return None if text is None else Columns(text, None, "")


def check_columns(table: Table, columns: Columns, problems: Problems) -> bool:
    """Whether another part has the training part's columns; if not, it is added to ``problems``."""
    missing = [name for name in columns.names if name not in table.columns]
    if missing:
        problems.add(f"{table.source}: the training part's columns {listing(missing)} are missing; {_present(table)}")
    return not missing


def _present(table: Table) -> str:
    return f"it has the columns {listing(table.columns)}"


def _free(table: Table, used: Iterable[str | None]) -> dict[str, str]:
    """Lower-case name -> name of the columns that nothing has taken yet."""
    taken = set(used)
    return {name.strip().lower(): name for name in table.columns if name not in taken}


def _candidates(free: dict[str, str], tiers: Iterable[Iterable[str]]) -> list[str]:
    """Columns with names of the first tier that any column matches."""
    for tier in tiers:
        found = [free[name] for name in tier if name in free]
        if found:
            return found
    return []


def _label(table: Table, spec: DataSpec, problems: Problems) -> str | None:
    free = _free(table, (spec.text, spec.pair))
    found = _candidates(free, LABEL_NAMES)
    if not found:
        rest = [name for lower, name in free.items() if lower not in NEVER_GUESSED]
        texts_open = 0 if spec.text else 1
        named_text = [name for name in _candidates(free, TEXT_NAMES) if not spec.text]
        if len(rest) - texts_open == 1 and (spec.text or named_text):
            found = [name for name in rest if name not in named_text]
    return _only(found, "label", "--label", table, problems)


def _texts(table: Table, spec: DataSpec, label: str | None, problems: Problems) -> tuple[str | None, str | None]:
    if spec.text is not None:  # a text that is named stands alone unless its pair is named too
        return spec.text, spec.pair
    free = _free(table, (spec.pair, label))
    if spec.pair is not None:
        return _only(_single(table, free), "text", "--text", table, problems), spec.pair
    pairs = [(free[first], free[second]) for first, second in PAIR_NAMES if first in free and second in free]
    singles = [name for name in _candidates(free, TEXT_NAMES[:1]) if all(name not in pair for pair in pairs)]
    if len(pairs) == 1 and not singles:
        return pairs[0]
    if pairs:
        both = [name for pair in pairs for name in pair] + singles
        return _only(list(dict.fromkeys(both)), "text", "--text (and --pair)", table, problems), None
    return _only(_single(table, free), "text", "--text", table, problems), None


def _single(table: Table, free: dict[str, str]) -> list[str]:
    found = _candidates(free, TEXT_NAMES)
    if found:
        return found
    rest = [name for lower, name in free.items() if lower not in NEVER_GUESSED and _holds_strings(table, name)]
    return rest if len(rest) == 1 else []


def _holds_strings(table: Table, name: str) -> bool:
    return all(isinstance(cell, str) for cell in table.columns[name][:100] if cell is not None)


def _only(found: list[str], what: str, option: str, table: Table, problems: Problems) -> str | None:
    if len(found) == 1:
        return found[0]
    if found:
        problems.add(f"{table.source}: the {what} may be in any of {listing(found)}; say which with {option}")
    else:
        hint = "; does its first line hold the names?" if len(table.lines) else ""
        problems.add(
            f"{table.source}: no column has an obvious name for the {what}; name it with {option}; {_present(table)}{hint}"
        )
    return None
