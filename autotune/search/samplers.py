"""Search strategies by name. One more is a function in a file, registered by its decorator and imported."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler

from sherl.registry import Registry

SamplerMaker = Callable[[int, int], BaseSampler]
"""(seed, startup) -> a fresh sampler. It is made anew for each proposal, so all that it learns must come from the
study's copy; startup: how many comparable trials there are before it has something to learn from."""

SAMPLERS: Registry[SamplerMaker] = Registry("search strategy")


@SAMPLERS.register("tpe")
def tpe(seed: int, startup: int) -> BaseSampler:
    """Tree-structured Parzen estimator, Optuna's default for two objectives and for conditional spaces."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)


@SAMPLERS.register("random")
def random(seed: int, startup: int) -> BaseSampler:  # noqa: ARG001 - it never learns
    """Uniformly at random: the strategy to beat."""
    return optuna.samplers.RandomSampler(seed=seed)


@SAMPLERS.register("nsga2")
def nsga2(seed: int, startup: int) -> BaseSampler:
    """A genetic search for fronts; its first generation is random, so it wants some dozens of trials."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, startup))


@SAMPLERS.register("gp")
def gp(seed: int, startup: int) -> BaseSampler:
    """Gaussian process over the parameters that every trial has; the conditional ones are drawn at random."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
