"""What to try next: drawn off the record, and only what will run enters it.

A sampler that is told of refused configurations as failures stalls: it goes on proposing what does not fit. So it draws
from an in-memory copy of the study that is thrown away after each proposal; what does not fit or has been tried is
dropped, and when 50 draws gave nothing, a fitting configuration is taken at random from the list of all shapes.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.errors import ConfigError, NothingFitsError, StudyError
from autotune.outcome import Candidate, Refusal, Status, TrialRecord
from autotune.search.record import DIRECTIONS, StudyRecord
from autotune.search.rows import RefusedCandidate, identity
from autotune.search.samplers import SAMPLERS
from autotune.space import SearchSpace, shape_key
from autotune.space.parameters import Choice, IntRange, RealRange
from autotune.space.suggest import Scalar
from autotune.units import count_words, format_bytes
from sherl.errors import UnknownNameError

DRAWS = 50  # of the sampler, before a fitting configuration is taken at random
MOST_STARTS = 3  # of one configuration that is interrupted every time: perhaps it is what kills the node
_SPACE = "search space"  # the record's note of what the space allows
_TRIES = 20  # at a learning rate that was not tried before, for one shape
_MOST_COMPLETIONS = 10_000
_WANT_OF_MEMORY = (Status.OVER_CAP, Status.OUT_OF_MEMORY)


class Proposed(NamedTuple):
    """A trial that has entered the record and is to be run."""

    number: int
    candidate: Candidate
    seed: int


class Proposer:
    """Proposes the trials of one study, one by one.

    Args:
        record: open for writing; what is proposed is started there.
        space: what may be tried.
        fits: None where a configuration may be started, else why not. It is asked as late as possible, once for each
            shape that it refuses, and may take its time.
        total: how many trials are asked for. Every start counts but those that are started again: the interrupted
            ones (a configuration that was interrupted three times is given up and counts), and one that needed more
            memory than was predicted, once.
        plan: gives a fitting configuration its memory plan before it enters the record.
        cheaper: the configuration with the next memory plan that takes less, None where it has none.
        seed: of the draws and of every trial, so that trials differ by their configuration only. The same seed and the
            same record give the same proposal, also in a driver that was started anew.
        sampler: a name in :data:`autotune.search.samplers.SAMPLERS`.

    The first trials (half of ``total``, ten at most, one for each method at least) go through the methods of the space
    in its order, so that also a short study sees the rivals; what is left of them goes to methods by the logarithm of
    the number of shapes that each has, since one with hundreds has more to show than one with two. Then the sampler
    chooses.

    Raises:
        ConfigError: the sampler is unknown, or total is below 1.
        StudyError: the record was begun with a search space that allowed other values.
    """

    def __init__(
        self,
        record: StudyRecord,
        space: SearchSpace,
        fits: Callable[[Candidate], Refusal | None],
        *,
        total: int,
        seed: int,
        sampler: str = "tpe",
        plan: Callable[[Candidate], Candidate] = lambda candidate: candidate,
        cheaper: Callable[[Candidate], Candidate | None] = lambda _: None,
    ) -> None:
        if total < 1:
            raise ConfigError(f"A study needs at least 1 trial, {total} were asked for.")
        try:
            self._make_sampler = SAMPLERS.get(sampler)
        except UnknownNameError as error:
            raise ConfigError(str(error)) from error
        self.record = record
        self.space = space
        self.total = total
        self.seed = seed
        self.startup = max(len(space.methods), min(10, total // 2))
        self._fits, self._plan, self._cheaper = fits, plan, cheaper
        _keep_to_one_space(record, space)
        self._distributions = {name: _distribution(parameter) for name, parameter in space.parameters.items()}
        self._refused: dict[str, tuple[Candidate, Refusal]] = {}
        self._unwritten: list[RefusedCandidate] = []  # entered together, one write is slower than many rows
        self._shapes = list(space.shapes())
        shapes_of = Counter(shape.method["name"] for shape in self._shapes)
        self._shares = {method: math.log2(1 + shapes_of[method]) for method in space.methods}
        self._without_room: set[str] = set()  # methods of which nothing fits that was not tried

    @property
    def remaining(self) -> int:
        """How many trials are still to be started; an interrupted one comes back to this number."""
        return max(0, self.total - sum(self._counts(self.record.trials())))

    def next(self) -> Proposed | None:
        """The next trial, entered in the record; None when all are started or nothing is left that fits.

        Raises:
            NothingFitsError: nothing of the whole space fits and nothing was ever started; the message names the
                configuration that comes nearest.
        """
        try:
            return self._next()
        finally:
            if self._unwritten:
                self.record.refuse_all(self._unwritten)
                self._unwritten.clear()

    def _next(self) -> Proposed | None:
        rows = self.record.trials()
        if sum(self._counts(rows)) >= self.total:
            return None
        if (again := _to_start_again(rows) or self._to_start_cheaper(rows)) is not None:
            return self._enter(again, {})
        taken = {identity(row.candidate) for row in rows}
        while (method := self._method_due(rows)) is not None:
            if (found := self._draw(rows, taken, method)) is not None:
                return self._enter(self._plan(found[0]), found[1])
            self._without_room.add(method)
        if (found := self._draw(rows, taken, None)) is not None:
            return self._enter(self._plan(found[0]), found[1])
        if not rows and len(self._refused) >= len(self._shapes):
            raise self._nothing_fits()
        return None

    def _enter(self, candidate: Candidate, sampler_state: Mapping[str, Any]) -> Proposed:
        number = self.record.start(candidate, self.seed, distributions=self._distributions, sampler_state=sampler_state)
        return Proposed(number, candidate, self.seed)

    def _method_due(self, rows: Sequence[TrialRecord]) -> str | None:
        """In the first trials the method that was started least for its share, the first of the space among equals."""
        if sum(self._counts(rows)) >= self.startup or len(self.space.methods) == 1:
            return None
        started = Counter(row.candidate.method["name"] for row in rows)
        open_ones = [method for method in self.space.methods if method not in self._without_room]
        never = [method for method in open_ones if not started[method]]
        return next(iter(never), None) or min(
            open_ones, key=lambda method: started[method] / self._shares[method], default=None
        )

    def _draw(
        self, rows: Sequence[TrialRecord], taken: Collection[str], method: str | None
    ) -> tuple[Candidate, Mapping[str, Any]] | None:
        """What the sampler draws first that fits and is new, else one at random, else None."""
        # by method too: a method without room is drawn in vain once in each driver, and must not shift what follows
        rng = random.Random(f"{self.seed}/{len(rows)}/{method}")
        study = optuna.create_study(
            directions=DIRECTIONS, sampler=self._make_sampler(rng.randrange(2**32), self.startup)
        )
        study.add_trials(self.record.frozen_trials())
        pinned = {"method": method} if method is not None else {}
        for _ in range(DRAWS):
            # what is dropped stays in the copy as running, and by that the sampler keeps away from it
            trial = study.ask()
            candidate = self.space.draw(_Asking(trial, pinned))
            if identity(candidate) not in taken and self._refusal(candidate) is None:
                return candidate, study.get_trials(deepcopy=False)[trial.number].system_attrs
        candidate_at_random = self._at_random(rng, taken, method)
        return (candidate_at_random, {}) if candidate_at_random is not None else None

    def _at_random(self, rng: random.Random, taken: Collection[str], method: str | None) -> Candidate | None:
        shapes = [shape for shape in self._shapes if method in (None, shape.method["name"])]
        rng.shuffle(shapes)
        for shape in shapes:
            if shape_key(shape) in self._refused:
                continue
            candidate = self._untried(shape, rng, taken)
            if candidate is not None and self._refusal(candidate) is None:
                return candidate
        return None

    def _untried(self, shape: Candidate, rng: random.Random, taken: Collection[str]) -> Candidate | None:
        """A configuration of this shape that was not tried; None where there is none."""
        if any(isinstance(self.space.parameters[name], RealRange) for name in shape.params):
            drawn = (self.space.random(rng, like=shape) for _ in range(_TRIES))
            return next((candidate for candidate in drawn if identity(candidate) not in taken), None)
        left = [one for one in islice(self.space.of_shape(shape), _MOST_COMPLETIONS) if identity(one) not in taken]
        return rng.choice(left) if left else None

    def _counts(self, rows: Sequence[TrialRecord]) -> list[bool]:
        """For each row whether it counts towards the total: all but those that were, or will be, started again."""
        uncounted: set[int] = set()
        for same in _by_identity(rows):
            interrupted = [row.number for row in same if _status(row) is Status.INTERRUPTED]
            uncounted.update(interrupted[: MOST_STARTS - 1])
            uncounted.update(interrupted[MOST_STARTS:])
            rest = [row for row in same if _status(row) is not Status.INTERRUPTED]
            if len(rest) > 1 or self._retry(same) is not None:
                uncounted.update(row.number for row in rest[:1] if _status(row) in _WANT_OF_MEMORY)
        return [row.number not in uncounted for row in rows]

    def _retry(self, same: Sequence[TrialRecord]) -> Candidate | None:
        """What a configuration is tried with once more after it needed more memory than was predicted, if it is due."""
        rest = [row for row in same if _status(row) is not Status.INTERRUPTED]
        if len(rest) != 1 or _status(rest[0]) not in _WANT_OF_MEMORY or len(same) > MOST_STARTS:
            return None
        return self._cheaper(rest[0].candidate)

    def _to_start_cheaper(self, rows: Sequence[TrialRecord]) -> Candidate | None:
        retries = (self._retry(same) for same in _by_identity(rows))
        return next((candidate for candidate in retries if candidate is not None), None)

    def _refusal(self, candidate: Candidate) -> Refusal | None:
        key = shape_key(candidate)
        if key not in self._refused:
            refusal = self._fits(candidate)
            if refusal is None:
                return None
            self._refused[key] = (candidate, refusal)
            self._unwritten.append(RefusedCandidate(candidate, refusal.reason, refusal.predicted))
        return self._refused[key][1]

    def _nothing_fits(self) -> NothingFitsError:
        known = [(candidate, refusal) for candidate, refusal in self._refused.values() if refusal.predicted is not None]
        count = len(self._refused)
        whole = f"None of the {count_words(count, 'configuration')} of the search space {self.space.name!r}"
        if not known:
            reasons = list(dict.fromkeys(refusal.reason for _, refusal in self._refused.values()))
            more = f" And {len(reasons) - 3} other reasons." if len(reasons) > 3 else ""
            return NothingFitsError(f"{whole} suits this model and task. {' '.join(reasons[:3])}{more}")
        head = f"{whole} fits."
        candidate, refusal = min(known, key=lambda pair: pair[1].predicted.device if pair[1].predicted else 0)
        need = format_bytes(refusal.predicted.device) if refusal.predicted else "?"
        return NothingFitsError(
            f"{head} The one that comes nearest is {candidate.label}, which needs {need}: {refusal.reason.rstrip('.')}. "
            f"Give a --memory-cap above that, a smaller model, or a space with smaller batches."
        )


class _Asking:
    """A trial of Optuna as a source of values; pinned ones are not asked for."""

    def __init__(self, trial: optuna.Trial, pinned: Mapping[str, Scalar]) -> None:
        self.trial = trial
        self.pinned = pinned

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        if name in self.pinned:
            return self.pinned[name]
        return self.trial.suggest_categorical(name, choices)  # type: ignore[return-value]  # one of the choices, so no None

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return self.trial.suggest_int(name, low, high, log=log, step=step)

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.trial.suggest_float(name, low, high, log=log)


def _keep_to_one_space(record: StudyRecord, space: SearchSpace) -> None:
    """Notes what the space allows, or compares: samplers cannot learn from values of another space."""
    before = record.attributes.get(_SPACE)
    if before is None:
        record.set_attribute(_SPACE, space.signature)
        return
    changed = [
        f"{name} was {before.get(name, '(absent)')}, now {space.signature.get(name, '(absent)')}"
        for name in sorted({*before, *space.signature})
        if before.get(name) != space.signature.get(name)
    ]
    if changed:
        raise StudyError(
            f"The study {record.name!r} was begun with a search space that allowed other values: {'; '.join(changed)}. "
            f"Put the search space back as it was, or start another study with another --name."
        )


def _distribution(parameter: Choice | IntRange | RealRange) -> BaseDistribution:
    match parameter:
        case Choice(choices):
            return CategoricalDistribution(choices)
        case IntRange(low, high, step, log):
            return IntDistribution(low, high, log=log, step=step)
        case RealRange(low, high, log):
            return FloatDistribution(low, high, log=log)


def _status(row: TrialRecord) -> Status | None:
    return row.outcome.status if row.outcome is not None else None


def _by_identity(rows: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """The rows of each configuration, its memory plan apart, in the order of their first starts."""
    starts: dict[str, list[TrialRecord]] = {}
    for row in rows:
        starts.setdefault(identity(row.candidate), []).append(row)
    return list(starts.values())


def _to_start_again(rows: Sequence[TrialRecord]) -> Candidate | None:
    """The first configuration whose starts were all interrupted, and not too often."""
    for same in _by_identity(rows):
        if all(_status(row) is Status.INTERRUPTED for row in same) and len(same) < MOST_STARTS:
            return same[0].candidate
    return None
