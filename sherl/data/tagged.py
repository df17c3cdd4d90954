"""Token classification data: sentences as lists of words with a tag for each, from tables and from CoNLL's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sherl.data.columns import Columns
from sherl.data.encoding import ROWS_AT_ONCE, Encoded
from sherl.data.examples import Examples, Reading
from sherl.data.parting import make_parts
from sherl.data.problems import Problems, listing
from sherl.data.rows import Encoding, TaskRows, tensors
from sherl.data.settings import DataSpec
from sherl.data.sources import Sources
from sherl.data.splits import text_key
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.forms import NO_LABEL
from sherl.metrics import metric_for
from sherl.spans import has_prefixes
from sherl.spec import TaskSpec

WORD_NAMES = ("tokens", "words")
TAG_NAMES = ("tags", "ner_tags", "labels", "pos_tags", "ner", "upos")

Sentence = Sequence[str]


def read_tagged(sources: Sources, spec: DataSpec) -> Reading:
    """Words and tags of all parts; the tags of the training part, in alphabetic order, are those that are learnt.

    Raises:
        DataError: with all problems of all parts at once.
    """
    problems = Problems(", ".join(dict.fromkeys(table.source for table in sources.tables.values())))
    train = sources.tables["train"]
    words, tags = (
        _column(train, spec.text, WORD_NAMES, "--text", problems),
        _column(train, spec.label, TAG_NAMES, "--label", problems),
    )
    if spec.pair is not None:
        problems.add("token classification reads one sentence a row: leave out --pair")
    if words is None or tags is None or problems.found:
        raise problems.error()
    parts: dict[str, Examples] = {}
    for part, table in sources.tables.items():
        missing = [name for name in (words, tags) if name not in table.columns]
        if missing:
            problems.add(f"{table.source}: the training part's columns {listing(missing)} are missing")
            continue
        parts[part] = _sentences(table, words, tags, problems)
    known = tuple(sorted({tag for row in parts.get("train", Examples([], [])).labels for tag in row}))
    if len(known) == 1:
        problems.add(f"{train.source}, column {tags!r}: every tag is {known[0]!r}; at least two are needed")
    for part, rows in parts.items():
        for row, given in enumerate(rows.labels):
            foreign = sorted(set(given) - set(known))
            if foreign:
                place = sources.tables[part].place(row)
                problems.add(f"{place}: the tags {listing(foreign)} stand nowhere in the training part")
    problems.raise_any("Nothing was prepared. Mend the rows or leave them out; --text and --label choose columns.")
    return Reading(parts, "tags", known, Columns(words, None, tags), list(sources.notes))


def tag_rows(sources: Sources, encoding: Encoding) -> TaskRows:
    """Token ids of sentences; labels are the tag at each word's first token, -100 elsewhere."""
    spec = encoding.spec
    reading = make_parts(read_tagged(sources, spec), spec, sources.rows)
    index = {tag: place for place, tag in enumerate(reading.classes)}
    encoded: dict[str, Encoded] = {}
    labels = {}
    further = encoding.counts(reading)
    for part, rows in reading.parts.items():
        encoded[part], words = encode_words(encoding.tokenizer, rows.texts, encoding.max_length, further=further)
        flat = np.full(len(words), NO_LABEL, dtype=np.int64)
        for row, tags in enumerate(rows.labels):
            own = slice(encoded[part].offsets[row], encoded[part].offsets[row + 1])
            begins = words[own] >= 0
            flat[own][begins] = np.array([index[tag] for tag in tags], dtype=np.int64)[words[own][begins]]
        labels[part] = tensors({"labels": flat, "label_offsets": encoded[part].offsets.copy()})
    entities = has_prefixes(reading.classes)
    metric = metric_for(spec.metric or ("entity_f1" if entities else "token_accuracy"), "tags").name
    task = TaskSpec(kind="token-classification", metric=metric, class_names=reading.classes)
    return TaskRows(reading, task, encoded, labels)


def encode_words(
    tokenizer: Any,
    sentences: Sequence[Sentence],
    max_length: int | None,
    *,
    further: Callable[[int], None] | None = None,
) -> tuple[Encoded, NDArray[np.int64]]:
    """Sentences, their words joined by blanks, as token ids; and for each token the word that it begins, or -1.

    A word whose tokens are cut off, or of which the tokenizer makes none, is begun by no token. further: hears of sentences
    as they are done.

    Raises:
        DataError: the tokenizer makes no token of a sentence.
    """
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    begun: list[NDArray[np.int64]] = []
    truncated = 0
    for start in range(0, len(sentences), ROWS_AT_ONCE):
        chunk = sentences[start : start + ROWS_AT_ONCE]
        made = tokenizer(
            [" ".join(words) for words in chunk],
            truncation=max_length is not None,
            max_length=max_length,
            padding=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        truncated += sum(bool(row.overflowing) for row in made.encodings or ())
        ids += [np.asarray(row, dtype=np.int32) for row in made["input_ids"]]
        types += [np.asarray(row, dtype=np.int32) for row in made.get("token_type_ids", ())]
        begun += [_begun(words, spans) for words, spans in zip(chunk, made["offset_mapping"], strict=True)]
        if further is not None:
            further(len(chunk))
    empty = [" ".join(words) for words, row in zip(sentences, ids, strict=True) if not len(row)]
    if empty:
        raise DataError(
            f"The tokenizer makes no token of {len(empty)} sentence(s), such as {empty[0]!r}: leave them out."
        )
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in ids], dtype=np.int64)])
    flat_types = np.concatenate(types) if types else np.zeros(0, np.int32)
    return Encoded(np.concatenate(ids), flat_types, offsets, truncated), np.concatenate(begun)


def _begun(words: Sentence, spans: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The word that each token begins. A token belongs to the word of its last letter: it may hold the blank before it."""
    owner = np.full(sum(map(len, words)) + len(words), -1, dtype=np.int64)
    place = 0
    for number, word in enumerate(words):
        owner[place : place + len(word)] = number
        place += len(word) + 1
    begun = np.full(len(spans), -1, dtype=np.int64)
    seen = set()
    for token, (begin, end) in enumerate(spans):
        word_of_token = int(owner[end - 1]) if end > begin else -1
        if word_of_token >= 0 and word_of_token not in seen:
            seen.add(word_of_token)
            begun[token] = word_of_token
    return begun


def _column(table: Table, given: str | None, names: Sequence[str], option: str, problems: Problems) -> str | None:
    free = {name.strip().lower(): name for name in table.columns}
    found = [given] if given is not None else [free[name] for name in names if name in free]
    if given is not None and given not in table.columns:
        problems.add(
            f"{table.source}: {option} names the column {given!r}; it has the columns {listing(table.columns)}"
        )
    elif len(found) != 1:
        told = f"may be in any of {listing(found)}" if found else f"have no column named {' or '.join(names)}"
        what = "words" if option == "--text" else "tags"
        problems.add(
            f"{table.source}: the {what} {told}; name it with {option}; it has the columns {listing(table.columns)}"
        )
    else:
        return found[0]
    return None


def _sentences(table: Table, words: str, tags: str, problems: Problems) -> Examples:
    texts: list[tuple[str, ...]] = []
    labels: list[tuple[str, ...]] = []
    for row, (one, other) in enumerate(zip(table.columns[words], table.columns[tags], strict=True)):
        given, marks = _strings(one), _strings(other)
        if given is None or not all(word.strip() for word in given):
            problems.add_cell(table.place(row), words, one, "a list of words, none of them empty, is needed")
        elif marks is None or not all(marks):
            problems.add_cell(table.place(row), tags, other, "a list of tags (texts or whole numbers) is needed")
        elif len(given) != len(marks):
            problems.add(f"{table.place(row)}: {len(given)} words but {len(marks)} tags; one for each word is needed")
        texts.append(tuple(given or ()))
        labels.append(tuple(marks or ()))
    return Examples(list(texts), list(labels), [text_key(" ".join(text)) for text in texts])


def _strings(cell: Any) -> list[str] | None:
    if not isinstance(cell, list | tuple | np.ndarray) or not len(cell):
        return None
    if not all(isinstance(part, str | int | np.integer) and not isinstance(part, bool) for part in cell):
        return None
    return [str(part) for part in cell]
