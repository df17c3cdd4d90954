"""The largest batch that ``autotune plan`` names: by true traces it fits, and one row more does not."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autotune.memory.scaling import NotEvenError
from autotune.outcome import Candidate
from autotune.study.largest_batch import MOST_ROWS, Cost, largest_confirmed, largest_within
from autotune.study.pricing import Pricer, PricingJob
from sherl.forms import TensorForm, text_form
from sherl.spec import TaskSpec
from tests.sherl.tiny import tiny_config

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
MB = 10**6

# ---- along a line -----------------------------------------------------------------------------------------------


@given(
    base=st.integers(0, 10**6),
    each=st.integers(1, 10**5),
    step=st.sampled_from([1, 512, 2 * 2**20]),
    cap=st.integers(0, 10**9),
    start=st.integers(1, 5000),
    least=st.sampled_from([0, 0, 7, 4095]),
)
def test_the_largest_count_fits_and_the_next_does_not(
    base: int, each: int, step: int, cap: int, start: int, least: int
) -> None:
    asked: list[int] = []

    def cost(count: int) -> int:
        asked.append(count)
        return -(-(base + each * count) // step) * step

    found = largest_within(cost, cap, start=start, most=4096, least=least)
    assert least <= found <= 4096
    assert all(least < count <= 4096 for count in asked)
    assert found == least or cost(found) <= cap
    assert found == 4096 or cost(found + 1) > cap
    assert len(asked) <= 30


def test_an_even_cost_is_asked_for_a_few_times_only() -> None:
    asked: list[int] = []

    def cost(count: int) -> int:
        asked.append(count)
        return 10**8 + 3_000_017 * count

    assert largest_within(cost, 8 * 10**9, start=32) == 2633
    assert len(asked) <= 5


# ---- held against the truth -------------------------------------------------------------------------------------


@given(
    each=st.integers(1, 10**5),
    bends=st.lists(st.tuples(st.integers(1, 4000), st.integers(-(10**7), 10**8)), max_size=3),
    step=st.sampled_from([1, 512, 2 * 2**20]),
    cap=st.integers(0, 10**9),
    start=st.integers(1, 5000),
    refuses=st.sampled_from(["never", "drawing", "asking"]),
)
def test_what_lines_say_is_held_against_the_truth(
    each: int, bends: list[tuple[int, int]], step: int, cap: int, start: int, refuses: str
) -> None:
    """The lines know nothing of the bends that are not near; the truth jumps there, also downwards."""
    asked: list[int] = []

    def true(count: int) -> int:
        jumps = sum(jump for beyond, jump in bends if count > beyond)
        return -(-(10**7 * len(bends) + each * count + jumps) // step) * step

    def cost(count: int) -> int:
        asked.append(count)
        return true(count)

    def lines(near: int) -> Cost:
        if refuses == "drawing":
            raise NotEvenError("of no use")

        def line(count: int) -> int:
            if refuses == "asking" and count > 2 * near:
                raise NotEvenError("too far")
            return true(near) + each * (count - near)

        return line

    found = largest_confirmed(cost, lines, cap, start=start, most=4096)
    assert len(asked) == len(set(asked)), "each is asked once"
    assert found == 0 or true(found) <= cap
    assert found == 4096 or true(found + 1) > cap
    near = min(start, 4096)
    assert found >= near or true(near) > cap


def test_lines_that_are_right_cost_two_true_ones_beside_the_start() -> None:
    asked: list[int] = []

    def cost(count: int) -> int:
        asked.append(count)
        return 10**8 + 3_000_017 * count

    assert largest_confirmed(cost, lambda near: lambda count: 10**8 + 3_000_017 * count, 8 * 10**9, start=32) == 2633
    assert asked == [32, 2633, 2634]


# ---- of configurations, by true traces --------------------------------------------------------------------------


def pricer_of(config: Any, tokens: int, cap: int, device: Any = "cuda") -> Pricer:
    return Pricer(
        PricingJob(
            backbone_config=config.to_dict(),
            task=CLASSES,
            row=text_form(1, tokens, TensorForm((1,))),
            cap=cap,
            device=device,
            capability=(8, 9) if device == "cuda" else None,
        )
    )


def candidate_of(method: dict[str, Any], rows: int, precision: str = "fp32") -> Candidate:
    return Candidate(
        method=method,
        training={"learning_rate": 1e-3, "batch_size": rows, "precision": precision, "accumulation": 1},
        params={},
    )


@given(
    vocabulary=st.sampled_from([40, 2500, 30000]),
    width=st.sampled_from([24, 128, 320]),
    tokens=st.sampled_from([16, 33, 128]),
    start=st.integers(1, 40),
    at_cap=st.integers(1, 300),
    method=st.sampled_from(
        [{"name": "full"}, {"name": "full", "activation_checkpointing": True}, {"name": "lora", "rank": 2}]
    ),
    precision=st.sampled_from(["fp32", "bf16"]),
    device=st.sampled_from(["cuda", "cuda", "cuda", "cpu"]),
)
@settings(max_examples=12, deadline=None)
# the gradient of the table sorts beyond 3072 lookups: 24 rows of 128 tokens are the last that need no buffers for it
@example(30000, 320, 128, 4, 200, {"name": "full"}, "fp32", "cuda")
@example(30000, 768, 128, 4, 64, {"name": "full"}, "fp32", "cuda")
@example(30000, 128, 128, 4, 25, {"name": "full"}, "fp32", "cuda")
# and there are no more different rows than the table has
@example(2500, 320, 33, 70, 200, {"name": "full", "activation_checkpointing": True}, "bf16", "cuda")
def test_the_batch_that_is_named_fits_and_one_row_more_does_not(
    vocabulary: int,
    width: int,
    tokens: int,
    start: int,
    at_cap: int,
    method: dict[str, Any],
    precision: str,
    device: str,
) -> None:
    config = transformers.BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=2, num_attention_heads=2, intermediate_size=width,
        max_position_embeddings=128,
    )  # fmt: skip
    truth = pricer_of(config, tokens, 10**15, device)  # a cap that nothing reaches
    cap = truth._device(candidate_of(method, at_cap, precision), at_cap)
    candidate = candidate_of(method, start, precision)
    price = pricer_of(config, tokens, cap, device).price(candidate, largest_batch=True)
    assert price.largest_batch
    fresh = pricer_of(config, tokens, cap, device)
    assert fresh._device(candidate, price.largest_batch) <= cap
    assert fresh._device(candidate, price.largest_batch + 1) > cap
    assert price.figures is not None
    assert price.figures.device == fresh._device(candidate, start)
    assert (price.largest_batch >= start) == price.fits(cap)


@pytest.mark.parametrize("start", [8, MOST_ROWS + 1000])
def test_what_fits_at_the_bound_is_said_to_be_a_bound(start: int) -> None:
    candidate = candidate_of({"name": "linear_probe"}, start)
    price = pricer_of(tiny_config("bert"), 2, 10**12).price(candidate, largest_batch=True)
    assert price.largest_batch == max(MOST_ROWS, start), "what was asked for fits, so no less is the largest"
    assert price.largest_words == f"{max(MOST_ROWS, start):,} or more"
    assert price.to_dict()["largest_batch_is_bound"]
    narrow = pricer_of(tiny_config("bert"), 2, 700 * MB).price(candidate, largest_batch=True)
    assert narrow.largest_batch is not None
    assert 8 < narrow.largest_batch < MOST_ROWS
    assert narrow.largest_words == str(narrow.largest_batch)
    assert not narrow.to_dict()["largest_batch_is_bound"]


def test_nothing_is_traced_twice_for_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two traces for the lines, which give the figures too, and two that hold what was found against the truth."""
    from autotune.memory import trace as module

    traced: list[int] = []
    rehearsed = module._rehearsed

    def counted(workload: Any, *arguments: Any, **settings: Any) -> Any:
        traced.append(workload.training.batch_size)
        return rehearsed(workload, *arguments, **settings)

    monkeypatch.setattr(module, "_rehearsed", counted)
    price = pricer_of(tiny_config("bert"), 16, 700 * MB).price(
        candidate_of({"name": "lora", "rank": 2}, 8), largest_batch=True
    )
    assert price.largest_batch
    assert traced == [8, 16, price.largest_batch, price.largest_batch + 1]
