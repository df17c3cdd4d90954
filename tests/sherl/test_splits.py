"""No text crosses parts, whatever the rows look like; sizes, classes and seeds are kept to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sherl.data.columns import Columns
from sherl.data.examples import Examples, Reading
from sherl.data.parting import PARTS, make_parts
from sherl.data.settings import DataSpec
from sherl.data.splits import part_sizes, split_rows, text_key
from sherl.errors import DataError

COLUMNS = Columns("text", None, "label")


def reading(**parts: list[tuple[str, str]]) -> Reading:
    made = {part: Examples([text for text, _ in rows], [label for _, label in rows]) for part, rows in parts.items()}
    return Reading(made, "classes", tuple(sorted(set(made["train"].labels))), COLUMNS, [])


def many(count: int, classes: int = 2) -> list[tuple[str, str]]:
    return [(f"text {number}", f"class {number % classes}") for number in range(count)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("Good  Film", "good film"), ("ﬁne", "FINE"), (" a\tb\n", "A b"), (("x", "y"), ("Y", "X"))],
)
def test_texts_that_differ_in_case_blanks_width_or_order_are_the_same(one: object, other: object) -> None:
    assert text_key(one) == text_key(other)  # type: ignore[arg-type]  # parametrised over both sorts of texts


def test_a_pair_is_another_text_than_its_halves_and_than_its_join() -> None:
    assert len({text_key("a b"), text_key(("a", "b")), text_key("a"), text_key(("a b", ""))}) == 4


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.sampled_from("xyz")), min_size=1, max_size=60),
    st.integers(-3, 3),
    st.tuples(st.integers(0, 40), st.integers(0, 20), st.integers(0, 20)),
)
def test_no_text_crosses_parts_and_no_row_comes_twice(
    rows: list[tuple[str, str]], seed: int, sizes: tuple[int, int, int]
) -> None:
    keys = [text_key(text) for text, _ in rows]
    wanted = dict(zip(PARTS, sizes, strict=True))
    parts = split_rows(keys, [label for _, label in rows], wanted, seed=seed)
    chosen = [row for part in parts.values() for row in part]
    assert len(chosen) == len(set(chosen))
    texts = [{keys[row] for row in part} for part in parts.values()]
    assert sum(map(len, texts)) == len(set().union(*texts))
    if sum(sizes) < len(rows):
        assert all(len(parts[part]) <= wanted[part] for part in PARTS)
    else:
        assert len(chosen) == len(rows)


@given(st.integers(20, 400), st.integers(0, 5))
def test_a_split_without_sizes_uses_every_row_in_about_the_fractions(count: int, seed: int) -> None:
    parts = make_parts(reading(train=many(count)), DataSpec(seed=seed), {}).parts
    assert sum(len(part) for part in parts.values()) == count
    assert len(parts["train"]) == pytest.approx(0.7 * count, abs=2)
    assert len(parts["valid"]) == pytest.approx(0.15 * count, abs=2)


def test_classes_have_about_the_same_share_in_all_parts() -> None:
    rows = [(f"text {number}", "rare" if number % 10 == 0 else "common") for number in range(1000)]
    for part in make_parts(reading(train=rows), DataSpec(), {}).parts.values():
        assert Counter(part.labels)["rare"] / len(part) == pytest.approx(0.1, abs=0.02)


def test_a_class_with_a_single_row_is_trained_on() -> None:
    rows = [*many(50), ("the only one", "lonely")]
    for seed in range(10):
        assert "lonely" in make_parts(reading(train=rows), DataSpec(seed=seed), {}).parts["train"].labels


def test_the_split_depends_on_seed_and_texts_and_not_on_the_order_of_rows() -> None:
    rows = many(100)

    def valid(order: list[tuple[str, str]], seed: int) -> set[str]:
        return set(make_parts(reading(train=order), DataSpec(seed=seed), {}).parts["valid"].texts)  # type: ignore[arg-type]  # single texts

    assert valid(rows, 0) == valid(rows[::-1], 0)
    assert valid(rows, 0) != valid(rows, 1)


@pytest.mark.parametrize(
    ("rows", "wanted", "expected"),
    [
        (1000, {}, (700, 150, 150)),
        (10, {}, (6, 2, 2)),
        (10000, {"train": 2000, "valid": 1000, "test": 2000}, (2000, 1000, 2000)),
        (1000, {"train": 200}, (200, 150, 150)),
        (1000, {"valid": 100, "test": 100}, (800, 100, 100)),
        (500, {"train": 2000, "valid": 1000, "test": 2000}, (200, 100, 200)),
    ],
)
def test_sizes(rows: int, wanted: dict[str, int | None], expected: tuple[int, int, int]) -> None:
    assert tuple(part_sizes(rows, PARTS, wanted).values()) == expected


@given(st.integers(0, 200), *[st.none() | st.integers(2, 300)] * 3)
def test_sizes_never_exceed_the_rows_where_there_are_enough(
    rows: int, train: int | None, valid: int | None, test: int | None
) -> None:
    sizes = part_sizes(rows, PARTS, {"train": train, "valid": valid, "test": test})
    assert all(size >= 0 for size in sizes.values())
    if rows >= 8:
        assert sum(sizes.values()) <= rows


def test_given_parts_stay_and_training_rows_with_their_texts_are_dropped_aloud() -> None:
    train, valid, test = many(50), [("TEXT 3", "class 1"), *many(10)[5:8]], [("text  4", "class 0"), ("new", "class 1")]
    made = make_parts(reading(train=train, valid=valid, test=test), DataSpec(), {})
    assert made.parts["valid"].texts == [text for text, _ in valid]
    assert made.parts["test"].texts == [text for text, _ in test]
    assert len(made.parts["train"]) == 50 - 4 - 1
    assert "4 rows of train dropped: the same text stands in valid" in made.notes
    assert "1 row of train dropped: the same text stands in test" in made.notes


def test_a_missing_part_is_split_off_train_without_the_given_parts_texts() -> None:
    made = make_parts(reading(train=many(100), test=many(20)), DataSpec(), {})
    texts = {part: set(rows.texts) for part, rows in made.parts.items()}
    assert len(texts["test"]) == 20
    assert len(texts["train"]) + len(texts["valid"]) == 80
    assert not texts["train"] & texts["valid"]
    assert not (texts["train"] | texts["valid"]) & texts["test"]


def test_given_parts_are_cut_to_the_rows_that_are_wanted() -> None:
    made = make_parts(
        reading(train=many(100), valid=[(f"v{n}", f"class {n % 2}") for n in range(40)]),
        DataSpec(valid_rows=10, train_rows=30),
        {},
    )
    assert {part: len(rows) for part, rows in made.parts.items()} == {"train": 30, "valid": 10, "test": 15}
    assert Counter(made.parts["valid"].labels) == {"class 0": 5, "class 1": 5}


def test_repeated_texts_and_conflicting_labels_are_noted() -> None:
    made = make_parts(reading(train=[*many(40), ("Text 1", "class 0"), ("text 2", "class 0")]), DataSpec(), {})
    assert "2 rows of train as read repeat a text of the same part, 1 text(s) with different labels" in made.notes


def test_too_little_data_is_refused_with_all_that_is_short() -> None:
    with pytest.raises(DataError, match=r"valid has 0 rows.*\n.*test has 0 rows.*\n.*1 different texts"):
        make_parts(reading(train=[("same", "a"), ("same", "b"), ("SAME", "a")] * 5), DataSpec(), {})
    with pytest.raises(DataError, match="train has 0 rows") as caught:
        make_parts(reading(train=many(4), valid=many(4), test=many(4)), DataSpec(), {})
    assert any("no row of the class 'class 1'" in problem for problem in caught.value.problems)
