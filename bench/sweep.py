"""Runs the trials of a suite that have no result yet, each once, and stores what comes of them.

The driver alone writes to the results folder. What stands there when it is killed, by whatever signal, is
whole; the same command then runs only what is missing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from bench import provenance
from bench.results import Result, ResultStore
from bench.slots import POLL_SECONDS, Job, Lost, Slots
from bench.trial import Trial

if TYPE_CHECKING:
    from bench.execution import Outcome

CLAIMED_ELSEWHERE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What a sweep will do.

    asked: the suite's own trials. todo: those to run now, each after the ones it needs; besides asked ones
    these are needed ones whose checkpoint isn't there. stale: keys of asked results whose code has changed.
    checkpoints: keys of trials whose weights a trial of `todo` starts from.
    """

    asked: tuple[Trial, ...]
    todo: tuple[Trial, ...]
    stale: frozenset[str]
    checkpoints: frozenset[str]


class Watcher(Protocol):
    """Is told how the sweep goes."""

    def begin(self, plan: Plan) -> None: ...
    def tick(self, activity: Mapping[str, Mapping[str, Any]]) -> None: ...
    def finished(self, trial: Trial, result: Result, outcome: Outcome | None) -> None: ...


@dataclass
class Tally:
    """How a sweep ended: keys with a current result, failed results, and the keys that this sweep ran itself."""

    ok: set[str] = field(default_factory=set)
    failed: dict[str, Result] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)


def plan(trials: Sequence[Trial], store: ResultStore) -> Plan:
    """Pick the trials without a current result, and before each the trials whose checkpoints it lacks."""
    todo: dict[str, Trial] = {}
    stale: set[str] = set()
    checkpoints: set[str] = set()

    def require(trial: Trial, weights: bool) -> None:
        if weights:
            checkpoints.add(trial.key)
        if trial.key in todo:
            return
        result = store.get(trial.key)
        done = is_current(result, trial)
        if result is not None and result.ok and not done:
            stale.add(trial.key)
        if done and not (weights and not (store.folder / checkpoint_path(trial)).is_file()):
            return
        for needed in trial.closure:
            require(needed, True)
        todo[trial.key] = trial

    for trial in trials:
        require(trial, False)
    return Plan(tuple(trials), tuple(todo.values()), frozenset(stale), frozenset(checkpoints))


def is_current(result: Result | None, trial: Trial) -> bool:
    """Whether a result is there, ok, and of the code that the trial would run now."""
    return result is not None and result.ok and result.fingerprint == provenance.fingerprint(trial.to_json())


def _weights(store: ResultStore, trial: Trial) -> bytes | None:
    path = store.folder / checkpoint_path(trial)
    return path.read_bytes() if path.is_file() else None


def result_of(document: Mapping[str, Any]) -> Result:
    """The result that an outcome's document describes; a failed one has no numbers."""
    empty = {"metrics": {}, "cost": {}, "primary": "", "selection": "", "pictures": ()}
    return Result(**{**empty, **document})


def failed_result(trial: Trial, lost: Lost) -> Result:
    """The result of a trial whose process was lost, or that could not be started."""
    return result_of(
        {
            "key": trial.key,
            "trial": trial.to_json(),
            "fingerprint": provenance.fingerprint(trial.to_json()),
            "environment": provenance.environment(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "failed",
            "reason": lost.reason,
            "message": lost.message,
            "seconds": lost.seconds,
        }
    )


def checkpoint_path(trial: Trial) -> str:
    """Where a trial's weights lie in the results folder."""
    return f"checkpoints/{trial.key}.safetensors"


class Sweep:
    """Runs a plan. Every trial ends as a stored result, ok or failed; a failed one is tried `retries` times more."""

    def __init__(
        self,
        plan: Plan,
        store: ResultStore,
        slots: Slots,
        watcher: Watcher,
        *,
        retries: int = 0,
        keep_checkpoints: bool = False,
    ) -> None:
        self.plan, self.store, self.slots, self.watcher = plan, store, slots, watcher
        self.retries, self.keep_checkpoints = retries, keep_checkpoints
        self.tally = Tally()
        self._waiting = list(plan.todo)
        self._unfinished = {trial.key for trial in plan.todo}
        self._running: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._elsewhere: dict[str, float] = {}

    def run(self) -> Tally:
        """Run to the end. What is claimed by another runner on the same folder is waited for, not run twice."""
        self.tally.ok |= {trial.key for trial in self.plan.asked} - self._unfinished
        self.watcher.begin(self.plan)
        while self._waiting or self._running:
            started = self._fill()
            for job, finished in self.slots.poll():
                self._finish(job, finished)
            if not started and not self._running and self._waiting:
                time.sleep(POLL_SECONDS)
            self.watcher.tick(self.slots.activity())
        return self.tally

    def _fill(self) -> bool:
        """Start what can be started; says whether anything was."""
        started = False
        later: list[Trial] = []
        free = self.slots.free()
        position = 0
        while free and position < len(self._waiting):
            trial = self._waiting[position]
            position += 1
            if not self._startable(trial):
                if trial.key in self._unfinished:
                    later.append(trial)
                continue
            checkpoints = {needed.key: _weights(self.store, needed) for needed in trial.closure}
            lost = [str(needed) for needed in trial.closure if checkpoints[needed.key] is None]
            if lost:
                self._fail(trial, Lost("exception", f"no checkpoint of what it needs: {'; '.join(lost)}"))
                continue
            self._running.add(trial.key)
            keep = self.keep_checkpoints or trial.key in self.plan.checkpoints
            self.slots.start(
                Job(trial, {key: weights for key, weights in checkpoints.items() if weights}, keep)
            )
            started = True
            free = self.slots.free()
        self._waiting = later + self._waiting[position:]
        return started

    def _startable(self, trial: Trial) -> bool:
        if any(needed.key in self._unfinished for needed in trial.closure):
            return False
        failed = [str(needed) for needed in trial.closure if needed.key in self.tally.failed]
        if failed:
            self._fail(trial, Lost("exception", f"a trial it needs failed: {'; '.join(failed)}"))
            return False
        now = time.monotonic()
        if self._elsewhere.get(trial.key, 0.0) > now:
            return False
        if not self.store.claim(trial.key):
            self._elsewhere[trial.key] = now + CLAIMED_ELSEWHERE_SECONDS
            return False
        if trial.key in self._elsewhere and self._finished_elsewhere(trial):
            self.store.release(trial.key)
            return False
        return True

    def _finished_elsewhere(self, trial: Trial) -> bool:
        result = self.store.get(trial.key)
        if result is None or not is_current(result, trial):
            return False
        self._unfinished.discard(trial.key)
        self.tally.ok.add(trial.key)
        self.watcher.finished(trial, result, None)
        return True

    def _finish(self, job: Job, finished: Outcome | Lost) -> None:
        trial = job.trial
        self._running.discard(trial.key)
        self._attempts[trial.key] += 1
        if isinstance(finished, Lost):
            result, outcome = failed_result(trial, finished), None
        else:
            result, outcome = result_of(finished.document), finished
        if not result.ok and self._attempts[trial.key] <= self.retries:
            self._waiting.append(trial)
            self.store.release(trial.key)
            return
        if outcome is not None:
            for path, picture in zip(result.pictures, outcome.pictures.values(), strict=True):
                self.store.write_bytes(path, picture)
            if outcome.checkpoint is not None:
                self.store.write_bytes(checkpoint_path(trial), outcome.checkpoint)
        self._record(trial, result, outcome)

    def _fail(self, trial: Trial, lost: Lost) -> None:
        self._record(trial, failed_result(trial, lost), None)

    def _record(self, trial: Trial, result: Result, outcome: Outcome | None) -> None:
        self.store.write(result)
        self.store.release(trial.key)
        self._unfinished.discard(trial.key)
        self.tally.ran.add(trial.key)
        if result.ok:
            self.tally.ok.add(trial.key)
            self.tally.failed.pop(trial.key, None)
        else:
            self.tally.failed[trial.key] = result
        self.watcher.finished(trial, result, outcome)
