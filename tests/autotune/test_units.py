"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UnitError
from autotune.units import (
    format_bytes,
    format_duration,
    format_latency,
    parse_bytes,
    parse_duration,
    parse_latency,
)

DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@given(st.integers(1, 10**6), st.sampled_from(sorted(DECIMAL | BINARY)), st.sampled_from(["", " ", "  "]))
def test_a_whole_number_times_its_unit(count: int, unit: str, gap: str) -> None:
    expected = count * (DECIMAL | BINARY)[unit]
    assert parse_bytes(f"{count}{gap}{unit}") == expected
    assert parse_bytes(f" {count}{gap}{unit.lower()} ") == expected


@given(st.integers(1, 10**15))
def test_plain_numbers_are_bytes(count: int) -> None:
    assert parse_bytes(count) == parse_bytes(f"{count}B") == count
    if count >= 10**5:
        assert parse_bytes(str(count)) == count


@pytest.mark.parametrize("text", ["8", "8.5", " 8 ", "99999"])
def test_a_forgotten_unit_is_told_from_a_number_of_bytes(text: str) -> None:
    with pytest.raises(UnitError, match=rf"has no unit.* Probably {text.strip()}GB or {text.strip()}GiB is meant"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["8G", "8 gi"])
def test_half_a_unit_is_answered_with_whole_ones(text: str) -> None:
    with pytest.raises(UnitError, match=r"not a memory size.* Probably 8GB or 8GiB is meant"):
        parse_bytes(text)


def test_gb_and_gib_are_never_mixed_up() -> None:
    assert parse_bytes("8GB") == 8_000_000_000
    assert parse_bytes("8GiB") == 8_589_934_592
    assert format_bytes(8_000_000_000) == "8.00 GB (7.45 GiB)"


@given(st.integers(10**3, 10**15))
def test_both_readings_of_a_message_lead_back(count: int) -> None:
    decimal, binary = format_bytes(count).rstrip(")").split(" (")
    assert parse_bytes(decimal) == pytest.approx(count, rel=0.01, abs=10)
    assert parse_bytes(binary) == pytest.approx(count, rel=0.01, abs=15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8 XB",
        "GB",
        "-1GB",
        "0",
        "0GB",
        "1,5GB",
        "eight",
        "8GB8",
        "nan",
        "inf",
        "8 G B",
        "٨GB",
        "0.0001B",
        "1e400",
        "1e400GB",
    ],
)
def test_what_is_no_size_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(UnitError, match=r"GiB") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("20m", 1200), ("20 min", 1200), ("1.5h", 5400), ("2d", 172800), (0.5, 0.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-3m", "3 weeks", "1h30m", "soon", "1e999"])
def test_what_is_no_duration_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(UnitError, match=r"s, m, h or d") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (41, "41 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3900, "1 h 05 min"),
    ],
)
def test_durations_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 10**6))
def test_no_duration_shows_sixty_of_anything(seconds: float) -> None:
    assert "60" not in format_duration(seconds).replace(" h", " ").split()[1:]


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("0.5s", 0.5), ("0.5", 0.5), (2, 2.0), (" 1.5 MS ", 0.0015), ("1e3 ms", 1.0)]
)
def test_a_latency_is_milliseconds_or_seconds(text: str, seconds: float) -> None:
    assert parse_latency(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "ms", "0ms", "-1s", "20 min", "3h", "soon", "1e999s", "nan"])
def test_what_is_no_latency_is_told_what_is(text: str) -> None:
    with pytest.raises(UnitError, match="allowed are a number of seconds or a number with ms or s") as caught:
        parse_latency(text)
    assert repr(text) in str(caught.value)


@given(st.floats(1e-5, 1e3))
def test_a_latency_that_was_written_reads_back(seconds: float) -> None:
    assert parse_latency(format_latency(seconds)) == pytest.approx(seconds, rel=0.01, abs=6e-6)
