"""What ``real_methods.py --figures`` runs: MiniLM's counterparts of the SHERL paper's figures 4, 5, 6 and 7."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from real_settings import BACKBONES, METHODS, VARIANTS, RealMethod

BACKBONE = next(one for one in BACKBONES if one.name == "minilm")
FACTORS = (2, 4, 8, 16, 32)
LIVE_SEEDS = (1, 2)
"""Of LoRA and Adapter in fig. 7: a run of theirs takes as long as the whole forward and backward pass, and they take over
the learning rate that their method got in the main table."""
_MAIN = {one.name: one for one in METHODS}
STANDARD = replace(_MAIN["sherl"], name="sherl-standard", features=True)


@dataclass(frozen=True)
class Bar:
    """One configuration of a figure. label: what it is called there. line: of fig. 6 and 7, what it is joined with."""

    label: str
    method: RealMethod
    line: str = ""


def _sherl(name: str, **settings: Any) -> RealMethod:
    """A form of the standard setting, reading stored features; one of the variants where it is the same."""
    standard = {**STANDARD.method, "insertion": "single", "aggregation": "mtsa"}
    for known in (STANDARD, *VARIANTS):
        if {**standard, **known.method} == {**standard, **settings}:
            return known
    return replace(STANDARD, name=name, method={**STANDARD.method, **settings})


def _live(kind: str, setting: str, value: int) -> RealMethod:
    main = _MAIN[kind]
    if main.method[setting] == value:
        return main
    return replace(main, name=f"{kind}-{value}", method={"name": kind, setting: value}, rate_of=main, seeds=LIVE_SEEDS)


def _stored(kind: str, factor: int) -> RealMethod:
    for known in VARIANTS:
        if known.method == {"name": kind, "reduction_factor": factor}:
            return known
    method = {"name": kind, "reduction_factor": factor}
    return replace(_MAIN[kind], name=f"{kind}-stored-r{factor}", method=method, features=True)


_AGGREGATIONS = {
    "max": "max",
    "mean": "mean",
    "attention": "attention",
    "linear": "linear",
    "linear, r learned": "linear_learned",
    "MTSA": "mtsa",
}
_ROUTES: dict[str, dict[str, Any]] = {
    "no regulation": {"regulate": False},
    "none (standard)": {},
    "LoRA": {"late_route": {"name": "lora", "rank": 16}},
    "Adapter": {"late_route": {"name": "adapter", "reduction_factor": 16}},
    "BitFit": {"late_route": {"name": "bitfit"}},
    "Prompt": {"late_route": {"name": "prompt", "num_prompts": 30}},
    "full layer": {"late_route": {"name": "full"}},
}
FIGURES: dict[int, tuple[Bar, ...]] = {
    5: tuple(
        Bar(label, _sherl(f"sherl-fig5-{label.lower().replace(' ', '-')}", **settings))
        for label, settings in _ROUTES.items()
    ),
    6: tuple(
        Bar(
            f"{start}",
            _sherl(f"sherl-{kind}{start}", insertion=kind if start < -1 else "single", start_layer=start),
            kind,
        )
        for start in (-1, -2, -3, -4, -5)
        for kind in ("single", "multi")
    ),
    4: tuple(
        Bar(label, _sherl(f"sherl-{name.replace('_', '-')}", aggregation=name)) for label, name in _AGGREGATIONS.items()
    ),
    7: (
        *(Bar(f"{r}", _sherl(f"sherl-r{r}", reduction_factor=r), "SHERL") for r in FACTORS),
        *(Bar(f"{r}", _stored("ladder", r), "LST") for r in FACTORS),
        *(Bar(f"{r}", _stored("unipt", r), "UniPT") for r in FACTORS),
        *(Bar(f"{width}", _live("adapter", "inner_width", width), "Adapter") for width in (12, 48, 192)),
        *(Bar(f"{rank}", _live("lora", "rank", rank), "LoRA") for rank in (4, 8, 32)),
    ),
}
"""By the paper's number, in the order in which they run."""

FIGURE_METHODS = tuple(
    sorted(
        {bar.method.name: bar.method for bars in FIGURES.values() for bar in bars}.values(),
        key=lambda method: method.rate_of is not None,
    )
)
"""Each once; those that take over another one's learning rate come behind it."""
