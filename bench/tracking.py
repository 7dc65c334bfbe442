"""Weights & Biases: one run per trial, and the leaderboards as tables at the end of a sweep.

Runs are written by the sweep's driver after a trial has finished, from what its result holds. Whatever goes
wrong here is reported once and never touches a trial. WANDB_DIR and the other WANDB_ variables are W&B's own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

    from bench.results import Result

Mode = Literal["online", "offline", "disabled"]
PROJECT = "paragone"


class Tracker:
    """Logs results to W&B in a thread of its own.

    mode: "disabled" imports nothing. group: the suite's name. folder: the results folder, where the pictures
    are. family: task name -> family. warn: told what went wrong.
    """

    def __init__(
        self, mode: Mode, group: str, folder: Path, family: Callable[[str], str], warn: Callable[[str], None]
    ) -> None:
        self.mode, self.group, self.folder, self.family, self.warn = mode, group, folder, family, warn
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._broken = False
        self._thread: threading.Thread | None = None
        if mode != "disabled":
            self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
            self._thread.start()

    def log(self, result: Result) -> None:
        """Queue a result."""
        if self._thread is not None:
            self._queue.put(lambda: self._log_result(result))

    def log_leaderboards(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Queue the leaderboards, as one run of their own."""
        if self._thread is not None and tables:
            self._queue.put(lambda: self._log_tables(tables))

    def close(self, timeout: float = 120.0) -> None:
        """Wait until everything queued is written, but not for ever: an unreachable server must not hold a sweep."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.warn(f"W&B: gave up after {timeout:.0f} s; some runs were not logged")

    def _work(self) -> None:
        while (step := self._queue.get()) is not None:
            if self._broken:
                continue
            try:
                step()
            except Exception as error:  # W&B raises what it likes; a sweep must not care
                self._broken = True
                self.warn(f"W&B: {type(error).__name__}: {error}; nothing more is logged there")

    def _start(self, **fields: Any) -> Any:
        import wandb

        return wandb.init(
            project=PROJECT,
            mode=self.mode,
            dir=str(self.folder),
            group=self.group,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
            **fields,
        )

    def _log_result(self, result: Result) -> None:
        import wandb

        trial = result.trial
        run = self._start(
            id=f"{result.key}-{result.started.replace(':', '').replace('+', 'p')}",
            name=" ".join(
                filter(None, [trial["label"], trial["dataset"], result.row.problem, f"s{trial['seed']}"])
            ),
            job_type=trial["task"],
            tags=[self.family(trial["task"]), trial["profile"], trial["variant"], result.status],
            config={
                **trial["options"],
                **{key: trial[key] for key in ("method", "dataset", "seed", "data_version")},
            },
        )
        for point in result.curve:
            run.log(dict(point), step=int(point["step"]))
        summary: dict[str, Any] = {f"test/{name}": value for name, value in result.metrics.items()}
        summary |= {f"cost/{name}": value for name, value in result.cost.items() if value is not None}
        summary |= {f"diagnostics/{name}": value for name, value in result.diagnostics.items()}
        run.summary.update({**summary, "status": result.status, "reason": result.reason})
        pictures: Sequence[str] = [path for path in result.pictures if (self.folder / path).is_file()]
        if pictures:
            run.log({Path(path).stem: wandb.Image(str(self.folder / path)) for path in pictures})
        run.finish(exit_code=0 if result.ok else 1)

    def _log_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        import wandb

        run = self._start(name=f"{self.group} leaderboards", job_type="leaderboards")
        run.log({name: wandb.Table(dataframe=table) for name, table in tables.items()})
        run.finish()
