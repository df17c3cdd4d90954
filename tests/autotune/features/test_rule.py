"""Which hidden states are stored: only what saves more than it costs, within the room."""

from __future__ import annotations

from autotune.features.rule import Decision, Group, Speeds, decide
from sherl.features import Place

SIZES = {Place("blocks", n): 100 for n in range(7)}
FAST = Speeds(read=1e6, write=1e6, forward_seconds=1.0)


def group(*places: int, passes: float = 20.0, saved: float = 1.0) -> Group:
    return Group(places=frozenset(Place("blocks", n) for n in places), passes=passes, saved_seconds=saved)


def numbers(decision: Decision) -> list[int]:
    return sorted(place.n for place in decision.places)


def test_everything_is_stored_where_it_pays_and_fits() -> None:
    made = decide([group(0, 1, 2), group(6)], SIZES, FAST, room=1000)
    assert (made.verdict, numbers(made)) == ("all", [0, 1, 2, 6])
    # two groups of 20 passes that save a second each, less reading 300 and 100 bytes, less one pass and writing 400 bytes
    assert abs(made.gain_seconds - (20 * (1 - 3e-4) + 20 * (1 - 1e-4) - 1 - 4e-4)) < 1e-9


def test_without_room_for_all_the_group_that_saves_most_a_byte_comes_first() -> None:
    made = decide([group(0, 1, 2, 3, 4), group(6)], SIZES, FAST, room=250)
    assert (made.verdict, numbers(made)) == ("some", [6])
    assert "1 of 2 sorts of trials need more than the room of 250 B" in made.reason
    made = decide([group(0, 1, 2, 3, 4), group(6, passes=1.2)], SIZES, FAST, room=500)
    assert numbers(made) == [0, 1, 2, 3, 4]


def test_places_that_are_chosen_or_there_already_cost_no_room() -> None:
    made = decide([group(0, 1, 2), group(0, 1)], SIZES, FAST, room=300)
    assert (made.verdict, numbers(made)) == ("all", [0, 1, 2])
    made = decide([group(0, 1, 2)], SIZES, FAST, room=0, present=frozenset(SIZES))
    assert made.verdict == "all"
    assert abs(made.gain_seconds - 20 * (1 - 3e-4)) < 1e-9


def test_what_adds_nothing_needs_no_room_and_room_is_never_below_zero() -> None:
    made = decide(
        [group(0, 1), group(6)], SIZES, FAST, room=-1500, present=frozenset({Place("blocks", 0), Place("blocks", 1)})
    )
    assert (made.verdict, numbers(made)) == ("some", [0, 1])
    assert "the room of 0 B" in made.left_out
    assert "there is room for 0 B" in decide([group(0)], SIZES, FAST, room=-1500).reason


def test_reading_that_takes_longer_than_computing_is_not_worth_it() -> None:
    slow = Speeds(read=50.0, write=1e6, forward_seconds=1.0)
    made = decide([group(0, 1, 2)], SIZES, slow, room=1000)
    assert (made.verdict, numbers(made), made.gain_seconds) == ("none", [], 0.0)
    assert "reading" not in made.reason
    assert "6.0 s, computing them 1.0 s" in made.reason
    made = decide([group(0, 1, 2), group(6, saved=3.0)], SIZES, slow, room=1000)
    assert (made.verdict, numbers(made)) == ("some", [6])
    assert "1 of 2 would read longer than they compute" in made.reason
    assert made.slower == {group(0, 1, 2).places}


def test_what_others_have_stored_is_still_not_read_by_those_who_compute_it_faster() -> None:
    slow = Speeds(read=50.0, write=1e6, forward_seconds=1.0)
    few = group(0, 1)  # 4 s of reading, 1 s of computing
    made = decide([few, group(0, 1, 2, saved=30.0)], SIZES, slow, room=1000)
    assert few.places < made.places
    assert made.slower == {few.places}
    assert decide([few, group(6)], SIZES, FAST, room=1000).slower == set()


def test_storing_that_takes_longer_than_all_that_it_saves_is_not_worth_it() -> None:
    made = decide([group(0, passes=0.5)], SIZES, FAST, room=1000)
    assert made.verdict == "none"
    assert "storing them takes 1.0 s, and all trials together would save 0.5 s" in made.reason


def test_no_room_and_nothing_to_store_are_said() -> None:
    assert "there is room for 10 B" in decide([group(0)], SIZES, FAST, room=10).reason
    assert "no method of the space" in decide([], SIZES, FAST, room=10).reason
