"""What a sweep shows: a progress bar and a line per running trial on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from bench.execution import Outcome
    from bench.results import Result
    from bench.sweep import Plan
    from bench.trial import Trial

PLAIN_SECONDS = 30.0


class SweepConsole:
    """A watcher of a sweep; use it as a context manager. Writes to stderr, so that stdout stays for results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self._live,
        )
        self._all: TaskID | None = None
        self._rows: dict[str, TaskID] = {}
        self._trials: dict[str, Trial] = {}
        self._count = self._total = 0
        self._last_plain = time.monotonic()
        self.log: Callable[[Result], None] = lambda result: None
        """Is handed every result this sweep made, for tracking."""

    def __enter__(self) -> SweepConsole:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, plan: Plan) -> None:
        """Say how much there is to do."""
        self._trials = {trial.key: trial for trial in plan.todo}
        self._total = len(plan.todo)
        there = len({trial.key for trial in plan.asked} - self._trials.keys())
        stale = f", {len(plan.stale)} of them stale" if plan.stale else ""
        self.console.print(f"{self._total} trials to run{stale}; {there} have a result", highlight=False)
        self._all = self._progress.add_task("sweep", total=self._total, note="")

    def tick(self, activity: Mapping[str, Mapping[str, Any]]) -> None:
        """Show what each running trial does."""
        if not self._live:
            if activity and time.monotonic() - self._last_plain > PLAIN_SECONDS:
                self._last_plain = time.monotonic()
                running = "; ".join(
                    f"{self._trials[key]}: {_describe(state)}" for key, state in activity.items()
                )
                self.console.print(f"  ... {running}", highlight=False, markup=False, soft_wrap=True)
            return
        for key in self._rows.keys() - activity.keys():
            self._progress.remove_task(self._rows.pop(key))
        for key, state in activity.items():
            if key not in self._rows:
                self._rows[key] = self._progress.add_task(f"  {self._trials[key]}", total=None, note="")
            steps = state.get("steps")
            total = steps if isinstance(steps, int) and steps > 0 else None
            self._progress.update(
                self._rows[key], total=total, completed=state.get("step", 0), note=str(state.get("phase", ""))
            )

    def finished(self, trial: Trial, result: Result, outcome: Outcome | None) -> None:
        """One line for each trial that ended."""
        self._count += 1
        self._last_plain = time.monotonic()
        if outcome is not None or not result.ok:
            self.log(result)
        if self._all is not None:
            self._progress.update(self._all, completed=self._count)
        if result.ok:
            said = f"{result.primary} {result.metrics[result.primary]:.4g}"
        else:
            last = result.message.strip().splitlines()[-1] if result.message.strip() else ""
            said = f"FAILED ({result.reason}) {last}"
        where = "" if outcome is not None or not result.ok else " (another runner)"
        line = f"[{self._count}/{self._total}] {trial}: {said} in {result.seconds:.1f} s{where}"
        self.console.print(
            line, style=None if result.ok else "red", highlight=False, markup=False, soft_wrap=True
        )


def _describe(state: Mapping[str, Any]) -> str:
    phase = str(state.get("phase", ""))
    return f"{phase} {state['step']}/{state['steps']}" if "step" in state else phase
