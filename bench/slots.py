"""Where trials run: in this process, or in worker processes that Ray keeps and reuses.

Both kinds take a trial (`start`) and hand back finished ones (`poll`). A Ray slot is one actor: a process
that imports PyTorch once and runs trials one after another. An actor that dies, hangs or outgrows its memory
limit fails the one trial it runs and is replaced.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from bench import reaper
from bench.results import Reason
from bench.trial import Places, Trial

if TYPE_CHECKING:
    from bench.execution import Outcome

POLL_SECONDS = 0.1
VITALS_SECONDS = 0.5
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a trial may take. timeout: seconds; memory: MiB of resident host memory (Ray slots only)."""

    timeout: float | None = None
    memory: float | None = None


@dataclass(frozen=True)
class Job:
    """A trial to run, with the checkpoints of its closure by key, and whether its own is wanted."""

    trial: Trial
    checkpoints: Mapping[str, bytes]
    keep_checkpoint: bool


@dataclass(frozen=True)
class Lost:
    """A trial whose process is gone, or that could not start: the reason class, what is known, and its seconds."""

    reason: Reason
    message: str
    seconds: float = 0.0


class Slots(Protocol):
    """`free` slots take jobs; `poll` yields what has finished; `activity` says what each running trial does."""

    def free(self) -> int: ...
    def start(self, job: Job) -> None: ...
    def poll(self) -> Iterator[tuple[Job, Outcome | Lost]]: ...
    def activity(self) -> Mapping[str, Mapping[str, Any]]: ...
    def close(self) -> None: ...


class InProcess:
    """One slot: this very process, without Ray. A trial runs while it is started; a memory limit is not enforced."""

    def __init__(self, places: Places, limits: Limits, threads: int) -> None:
        self.places, self.limits, self.threads = places, limits, threads
        self._done: list[tuple[Job, Outcome | Lost]] = []
        self._activity: dict[str, Mapping[str, Any]] = {}
        self.on_activity: Any = None

    def free(self) -> int:
        return 0 if self._done else 1  # what has finished is fetched, and stored, before the next one runs

    def start(self, job: Job) -> None:
        from bench.execution import run_trial

        def note(state: Mapping[str, Any]) -> None:
            self._activity = {job.trial.key: state}
            if self.on_activity:
                self.on_activity()

        outcome = run_trial(
            job.trial,
            self.places,
            checkpoints=job.checkpoints,
            keep_checkpoint=job.keep_checkpoint,
            threads=self.threads,
            timeout=self.limits.timeout,
            progress=note,
        )
        self._activity = {}
        self._done.append((job, outcome))

    def poll(self) -> Iterator[tuple[Job, Outcome | Lost]]:
        done, self._done = self._done, []
        yield from done

    def activity(self) -> Mapping[str, Mapping[str, Any]]:
        return self._activity

    def close(self) -> None:
        return


class Worker:
    """What an actor runs. `run` has its own thread, so that `vitals` answers while a trial is under way."""

    def __init__(self) -> None:
        self._state: Mapping[str, Any] = {"phase": "start"}

    def warm(self) -> int:
        """Import what every trial needs; answers the process id."""
        import bench.execution  # noqa: F401

        return os.getpid()

    def run(self, job: Job, places: Places, threads: int) -> Outcome:
        from bench.execution import run_trial

        self._state = {"phase": "start"}
        return run_trial(
            job.trial,
            places,
            checkpoints=job.checkpoints,
            keep_checkpoint=job.keep_checkpoint,
            threads=threads,
            progress=self._note,
        )

    def vitals(self) -> tuple[Mapping[str, Any], float]:
        """What the trial is doing, and this process's resident memory in MiB."""
        import psutil

        return self._state, psutil.Process().memory_info().rss / MIB

    def _note(self, state: Mapping[str, Any]) -> None:
        self._state = state


class _Slot:
    """One actor and the job it runs."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.warming = actor.warm.remote()
        """Until it has imported what trials need, no trial's clock runs on it."""
        self.job: Job | None = None
        self.result: Any = None
        self.vitals: Any = None
        self.began = 0.0
        self.next_vitals = 0.0
        self.state: Mapping[str, Any] = {}
        self.doomed: Lost | None = None


class RaySlots:
    """Local slots, or those of a running cluster.

    jobs: number of slots, None for one per GPU, else one per core (cluster-wide with `address`).
    address: of a running cluster; None starts one on this machine that ends with this process.
    """

    def __init__(
        self,
        places: Places,
        limits: Limits,
        threads: int,
        jobs: int | None = None,
        address: str | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray = _ray()
        self.ray, self.places, self.limits, self.threads = ray, places, limits, threads
        began = time.perf_counter()
        if address is None:
            reaper.watch()
            ray.init(
                num_cpus=max(jobs or 0, os.cpu_count() or 1),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        resources = ray.cluster_resources()
        self.gpus = int(resources.get("GPU", 0))
        self.size = jobs or self.gpus or max(1, int(resources.get("CPU", 1)) // threads)
        self._actor = ray.remote(
            num_cpus=min(threads, int(resources.get("CPU", 1))),
            num_gpus=min(1.0, self.gpus / self.size) if self.gpus else 0,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"vitals": 1},
        )(_grouped())
        self._slots = [_Slot(self._actor.remote()) for _ in range(self.size)]
        ray.get([slot.warming for slot in self._slots])
        self.startup_seconds = time.perf_counter() - began

    def free(self) -> int:
        return len(self._ready())

    def start(self, job: Job) -> None:
        slot = self._ready()[0]
        slot.job, slot.began, slot.state, slot.doomed = job, time.monotonic(), {"phase": "start"}, None
        slot.vitals, slot.next_vitals = None, slot.began + VITALS_SECONDS
        slot.result = slot.actor.run.remote(job, self.places, self.threads)

    def poll(self) -> Iterator[tuple[Job, Outcome | Lost]]:
        """Finished trials; waits a moment where there is none."""
        running = {slot.result: slot for slot in self._slots if slot.job is not None}
        if not running:
            self.ray.wait([slot.warming for slot in self._slots], num_returns=self.size, timeout=POLL_SECONDS)
            return
        done, _ = self.ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
        for reference in done:
            slot = running.pop(reference)
            job, slot.job = slot.job, None
            assert job is not None
            try:
                finished: Outcome | Lost = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                finished = Lost("exception", "".join(traceback.format_exception(error)))
            except self.ray.exceptions.OutOfMemoryError as error:
                finished = slot.doomed or Lost("out of memory", str(error))
            except self.ray.exceptions.RayError as error:
                finished = slot.doomed or Lost("killed", _first_lines(str(error)))
            if isinstance(finished, Lost):
                finished = replace(finished, seconds=time.monotonic() - slot.began)
            if isinstance(finished, Lost) and finished.reason != "exception":
                self._slots[self._slots.index(slot)] = _Slot(self._actor.remote())
            yield job, finished
        now = time.monotonic()
        for slot in running.values():
            self._watch(slot, now)

    def activity(self) -> Mapping[str, Mapping[str, Any]]:
        return {slot.job.trial.key: slot.state for slot in self._slots if slot.job is not None}

    def close(self) -> None:
        for slot in self._slots:
            with contextlib.suppress(self.ray.exceptions.RayError):
                self.ray.kill(slot.actor)
        self.ray.shutdown()

    def _ready(self) -> list[_Slot]:
        idle = [slot for slot in self._slots if slot.job is None]
        warm, _ = (
            self.ray.wait([slot.warming for slot in idle], num_returns=len(idle), timeout=0)
            if idle
            else ([], [])
        )
        return [slot for slot in idle if slot.warming in warm]

    def _watch(self, slot: _Slot, now: float) -> None:
        """Kill the actor of a trial that outlasts its time or outgrows its memory; ask the others how they are."""
        if slot.doomed is not None:
            return
        if self.limits.timeout is not None and now - slot.began > self.limits.timeout:
            self._doom(slot, Lost("time-out", f"longer than {self.limits.timeout:g} s"))
            return
        if slot.vitals is not None:
            ready, _ = self.ray.wait([slot.vitals], timeout=0)
            if not ready:
                return
            answered, slot.vitals = slot.vitals, None
            with contextlib.suppress(self.ray.exceptions.RayError):  # a dead actor shows in its result
                slot.state, resident = self.ray.get(answered)
                if self.limits.memory is not None and resident > self.limits.memory:
                    text = f"{resident:.0f} MiB resident, {self.limits.memory:.0f} MiB allowed"
                    self._doom(slot, Lost("out of memory", text))
        elif now >= slot.next_vitals:
            slot.vitals, slot.next_vitals = slot.actor.vitals.remote(), now + VITALS_SECONDS

    def _doom(self, slot: _Slot, why: Lost) -> None:
        slot.doomed = why
        self.ray.kill(slot.actor)


def _grouped() -> type:
    """`Worker` with `vitals` in a concurrency group of its own."""
    vitals = _ray().method(concurrency_group="vitals")(Worker.vitals)
    return type("GroupedWorker", (Worker,), {"vitals": vitals})


def _ray() -> Any:
    """Ray, imported only where it is used; its annotations don't know concurrency groups."""
    import ray

    return ray


def _first_lines(text: str, count: int = 6) -> str:
    return "\n".join(text.strip().splitlines()[:count])
