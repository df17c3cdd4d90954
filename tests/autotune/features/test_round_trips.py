"""What is written is what is read: every type, any lengths, any order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.features.layout import DTYPES, Layout
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import FIRST, KEY, SECOND, build, built, files, padded, ragged, read, row_values

ROUND_TRIPS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    if draw(st.booleans()):
        return Layout.tokens(draw(st.lists(st.integers(0, 6), max_size=9)), draw(st.integers(1, 5)), dtype)
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    return Layout.fixed(draw(st.integers(0, 9)), tuple(shape), dtype)


@ROUND_TRIPS
@given(layout=layouts(), data=st.data())
def test_any_rows_in_any_order(tmp_path_factory: pytest.TempPathFactory, layout: Layout, data: st.DataObject) -> None:
    store = FeatureStore.open(tmp_path_factory.mktemp("store"), KEY)
    values = row_values(layout)
    order = data.draw(st.permutations(range(layout.rows)))
    size = data.draw(st.integers(1, 4))
    with store.writer("train", {FIRST: layout}) as writer:
        for start in range(0, layout.rows, size):
            rows = order[start : start + size]
            # padding differs from zero and is wider than it must be: neither reaches the file
            batch = padded([values[row] for row in rows], layout, fill=5.0, extra=data.draw(st.integers(0, 2)))
            writer.put(FIRST, torch.tensor(rows), batch)
    with_repeats = data.draw(st.lists(st.integers(0, layout.rows - 1), max_size=6)) if layout.rows else []
    reader = store.reader("train", [FIRST], verify=True)
    assert reader is not None
    assert torch.equal(read(reader, FIRST, with_repeats), padded([values[row] for row in with_repeats], layout))
    assert reader.form(FIRST)[1] == layout.dtype
    assert store.notes == []


def test_the_file_is_raw_values_and_then_lengths(tmp_path: Path) -> None:
    layout = ragged((2, 0, 3), width=4)
    store = built(tmp_path, {FIRST: layout})
    content = files(store, ".bin")[0].read_bytes()
    flat = torch.cat(row_values(layout, seed=1)).numpy()
    assert content[: flat.nbytes] == flat.astype("<f4").tobytes()
    assert np.frombuffer(content, "<i8", count=3, offset=flat.nbytes).tolist() == [2, 0, 3]
    assert len(content) == layout.file_bytes == 5 * 4 * 4 + 3 * 16
    assert json.loads((store.folder / "meta.json").read_text())["key"] == KEY


def test_room_for_more_tokens_is_filled_with_zeros(tmp_path: Path) -> None:
    layout = ragged()
    reader = built(tmp_path, {FIRST: layout}).reader("train", [FIRST])
    assert reader is not None
    out = torch.full((2, 6, 2), 3.0)
    reader.read(FIRST, [3, 1], out)
    values = row_values(layout, seed=1)
    assert torch.equal(out, torch.nn.functional.pad(padded([values[3], values[1]], layout), (0, 0, 0, 2)))


def test_equal_keys_share_and_others_do_not(tmp_path: Path) -> None:
    built(tmp_path)
    assert FeatureStore.open(tmp_path, dict(reversed(KEY.items()))).has("train", FIRST)
    assert not FeatureStore.open(tmp_path, {**KEY, "version": 2}).has("train", FIRST)
    found = FeatureStore.find(tmp_path, KEY)
    assert found is not None
    assert found.has("train", FIRST)
    assert not found.has("valid", FIRST)
    assert not found.has("train", SECOND)


def test_finding_makes_nothing(tmp_path: Path) -> None:
    assert FeatureStore.find(tmp_path / "none", KEY) is None
    assert not (tmp_path / "none").exists()


def test_what_is_whole_is_not_written_again(tmp_path: Path) -> None:
    store = built(tmp_path)
    before = files(store, ".bin")
    assert build(store, {FIRST: ragged(), SECOND: ragged()}) == 1
    assert set(before) < set(files(store, ".bin"))
    assert len(files(store, ".bin")) == 2


def test_other_rows_under_the_same_key_take_the_place(tmp_path: Path) -> None:
    store = built(tmp_path)
    other = ragged((1, 1))
    assert build(store, {FIRST: other}) == 1
    reader = store.reader("train", [FIRST])
    assert reader is not None
    assert reader.layout(FIRST).same_rows(other)
    assert any("other rows" in note for note in store.notes)


def test_values_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, KEY)
    layout = ragged()
    right = padded(row_values(layout), layout)
    with store.writer("train", {FIRST: layout}) as writer:
        for rows, values, said in [
            ([0, 1, 2, 4], right, "Rows of train.blocks.1 are 0 to 3"),
            ([0, 1, 2, -1], right, "Rows of train.blocks.1 are 0 to 3"),
            ([0, 1, 2, 3], right.double(), "float64"),
            ([0, 1, 2, 3], right[:, :3], r"float32 \[4, 4, 2\]"),
            ([0, 1, 2, 3], right[..., :1], r"float32 \[4, 4, 2\]"),
            ([0, 1], right, r"float32 \[2, 4, 2\]"),
        ]:
            with pytest.raises(ValueError, match=said):
                writer.put(FIRST, rows, values)
        with pytest.raises(ValueError, match="not among the places"):
            writer.put(SECOND, [0], right[:1])
        writer.put(FIRST, range(4), right)
    with (
        pytest.raises(ValueError, match=r"1 of 4 rows .* never written, row 2"),
        store.writer("train", {SECOND: layout}) as w,
    ):
        w.put(SECOND, [0, 1, 3], right[[0, 1, 3]])
    assert store.has("train", FIRST)
    assert not store.has("train", SECOND)
    assert len(files(store, ".bin")) == 1


def test_layouts_and_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"float32, bfloat16, float16; torch\.float64"):
        Layout.fixed(2, (3,), torch.float64)
    with pytest.raises(ValueError, match="sizes are at least 1"):
        Layout.tokens([1], 0, torch.float32)
    with pytest.raises(ValueError, match="number of tokens, 0 or more"):
        Layout.tokens([1, -1], 2, torch.float32)
    store = FeatureStore.open(tmp_path, KEY)
    for part, place in [("../train", FIRST), ("train", ("a/b", 1)), ("train", ("blocks", -1))]:
        with pytest.raises(ValueError, match="Features are named by"):
            store.writer(part, {place: ragged()})
    with pytest.raises(ValueError, match="Features are named by"):
        store.writer("../train", {})
    with pytest.raises(ValueError, match="key consists of"):
        FeatureStore.open(tmp_path, {"x": Path("y")})


def test_reading_into_what_does_not_suit_is_refused(tmp_path: Path) -> None:
    reader = built(tmp_path).reader("train", [FIRST])
    assert reader is not None
    with pytest.raises(ValueError, match="not open for reading; open are: blocks 1"):
        reader.read(SECOND, [0], torch.empty(1, 3, 2))
    for rows in ([4], [-1]):
        with pytest.raises(ValueError, match="Rows are 0 to 3"):
            reader.read(FIRST, rows, torch.empty(1, 4, 2))
    for out in (torch.empty(1, 2, 2), torch.empty(2, 3, 2), torch.empty(1, 3, 2).half(), torch.empty(1, 2, 3).mT):
        with pytest.raises(ValueError, match=r"contiguous float32 tensor \[1, 3, 2\]"):
            reader.read(FIRST, [0], out)
    reader.close()
    with pytest.raises(ValueError, match="open are: none"):
        reader.read(FIRST, [0], torch.empty(1, 3, 2))
