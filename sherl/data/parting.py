"""The three parts of a study: those given stay as they are, the others are split off the training rows by text."""

from __future__ import annotations

from collections import Counter, defaultdict

from sherl.data.examples import Examples, Reading, with_parts
from sherl.data.settings import DataSpec
from sherl.data.splits import MIN_ROWS, Key, part_sizes, split_rows
from sherl.errors import DataError

PARTS = ("train", "valid", "test")


def make_parts(reading: Reading, spec: DataSpec, default_rows: dict[str, int | None]) -> Reading:
    """Train, valid and test, none of whose texts crosses from train to another part.

    Training rows whose text also stands in a given valid or test part are dropped, and a note says how many.

    Raises:
        DataError: a part would have fewer than two rows, or a class no row to learn from.
    """
    wanted = {part: getattr(spec, f"{part}_rows") or default_rows.get(part) for part in PARTS}
    keys = {part: rows.split_keys() for part, rows in reading.parts.items()}
    notes = _conflicts(reading, keys)
    given: list[str] = [part for part in ("valid", "test") if part in reading.parts]
    pool = _without_held_out(keys, given, notes)
    split = [part for part in PARTS if part not in given]
    sizes = part_sizes(len(pool), split, wanted) if len(pool) else dict.fromkeys(split, 0)
    parts = _choose(reading, keys, "train", pool, sizes, spec.seed)
    for part in given:
        rows = list(range(len(keys[part])))
        limit = wanted[part]
        whole = len(rows) if limit is None else min(limit, len(rows))
        parts |= _choose(reading, keys, part, rows, {part: whole}, spec.seed)
    if spec.whole_train:
        parts["train"] = _with_left_out(reading, keys["train"], pool, parts)
    _note_sizes(parts, wanted, notes)
    _note_missing_classes(parts, reading, notes)
    _check(parts, reading)
    return with_parts(reading, {part: parts[part] for part in PARTS}, notes)


def _choose(
    reading: Reading, keys: dict[str, list[Key]], source: str, pool: list[int], sizes: dict[str, int], seed: int
) -> dict[str, Examples]:
    """Rows of ``pool`` of one part that was read, for the parts that ``sizes`` names."""
    rows = reading.parts[source]
    if len(sizes) == 1 and sum(sizes.values()) >= len(pool):
        return {part: rows.take(pool) for part in sizes}
    strata = [rows.labels[row] for row in pool] if reading.targets == "classes" else None
    chosen = split_rows([keys[source][row] for row in pool], strata, sizes, seed=seed)
    return {part: rows.take([pool[place] for place in places]) for part, places in chosen.items()}


def _with_left_out(reading: Reading, keys: list[Key], pool: list[int], parts: dict[str, Examples]) -> Examples:
    """All training rows whose text stands in no other part."""
    held_out = {key for part in ("valid", "test") for key in parts[part].split_keys()}
    return reading.parts["train"].take([row for row in pool if keys[row] not in held_out])


def _without_held_out(keys: dict[str, list[Key]], given: list[str], notes: list[str]) -> list[int]:
    """Training rows whose text stands in no given part."""
    pool = list(range(len(keys["train"])))
    for part in given:
        held_out = set(keys[part])
        kept = [row for row in pool if keys["train"][row] not in held_out]
        if len(kept) < len(pool):
            notes.append(f"{_rows(len(pool) - len(kept))} of train dropped: the same text stands in {part}")
        pool = kept
    if len(given) == 2:
        shared = set(keys["valid"]) & set(keys["test"])
        if shared:
            notes.append(
                f"{len(shared)} text(s) of test also stand in valid; both parts were given and stay as they are"
            )
    return pool


def _conflicts(reading: Reading, keys: dict[str, list[Key]]) -> list[str]:
    """Notes on texts that stand in a part more than once, and on those with different labels."""
    notes = []
    for part, rows in reading.parts.items():
        labels = defaultdict(set)
        for key, label in zip(keys[part], rows.labels, strict=True):
            labels[key].add(label)
        repeated = len(rows) - len(labels)
        conflicting = sum(len(different) > 1 for different in labels.values())
        if repeated:
            told = f", {conflicting} text(s) with different labels" if conflicting else ""
            notes.append(f"{_rows(repeated)} of {part} as read repeat a text of the same part{told}")
    return notes


def _note_sizes(parts: dict[str, Examples], wanted: dict[str, int | None], notes: list[str]) -> None:
    for part, rows in parts.items():
        size = wanted.get(part)
        if size is not None and len(rows) < size:
            notes.append(f"{part} has {_rows(len(rows))} where {size} were wanted: there are no more")


def _note_missing_classes(parts: dict[str, Examples], reading: Reading, notes: list[str]) -> None:
    """A class without a row in valid or test makes some metrics constant there, which a person should know."""
    if reading.targets != "classes":
        return
    for part in ("valid", "test"):
        there = set(parts[part].labels)
        missing = [repr(name) for name in reading.classes if name not in there]
        if missing:
            notes.append(f"{part} has no row of the class{'es' if len(missing) > 1 else ''} {', '.join(missing)}")


def _check(parts: dict[str, Examples], reading: Reading) -> None:
    sizes = ", ".join(f"{part} {len(parts[part])}" for part in PARTS)
    problems = [
        f"{part} has {_rows(len(rows))}, at least {MIN_ROWS} are needed"
        for part, rows in parts.items()
        if len(rows) < MIN_ROWS
    ]
    if reading.targets == "classes":
        counts = Counter(parts["train"].labels)
        problems += [
            f"no row of the class {name!r} is left to train on" for name in reading.classes if name not in counts
        ]
    elif (
        reading.targets in ("values", "texts")
        and len(set(parts["train"].labels)) == 1
        and parts["train"].labels[0] is not None
    ):
        problems.append("all targets that are left to train on are equal")
    if problems:
        read = sum(len(rows) for rows in reading.parts.values())
        texts = len({key for rows in reading.parts.values() for key in rows.split_keys()})
        raise DataError(
            [*problems, f"{read} rows with {texts} different texts were read; more rows, or other parts, are needed"],
            where=f"too little data for the parts ({sizes})",
        )


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"
