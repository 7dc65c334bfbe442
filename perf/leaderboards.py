"""How long a hundred thousand result files take to become leaderboards, on one core."""

from __future__ import annotations

import hashlib
import json
import random
import tempfile
import time
from collections.abc import Iterator

from bench.results import Result, ResultStore
from perf.ratio import Ratio

RESULTS = 100_000
MEASURES = ("accuracy", "error", "calibration", "f1")
TASKS, DATASETS, SEEDS = 20, 5, 5


def synthetic_results(n: int, points: int = 20) -> Iterator[Result]:
    """n results of made-up methods on `TASKS` x `DATASETS` tables in `SEEDS` seeds each, always the same.

    Each has the size of a real one: 24 options and a curve of `points` points.
    """
    draw = random.Random(0)
    for number in range(n):
        seed, rest = number % SEEDS, number // SEEDS
        task, dataset, method = rest % TASKS, rest // TASKS % DATASETS, rest // TASKS // DATASETS
        trial = {
            "method": f"method{method}",
            "preset": None,
            "label": f"method{method}",
            "task": f"task{task}",
            "dataset": f"dataset{dataset}",
            "variant": "miniature",
            "data_version": "miniature-1",
            "profile": "mini",
            "seed": seed,
            "options": {"budget": 1.0, **{f"option_{index}": index / 8 for index in range(23)}},
            "overrides": {},
            "needs": {},
        }
        yield Result(
            key=hashlib.sha256(str(number).encode()).hexdigest()[:32],
            trial=trial,
            status="ok",
            fingerprint="0123456789abcdef",
            primary="accuracy",
            metrics={name: draw.gauss(70.0, 10.0) for name in MEASURES},
            cost={
                "parameters": 10**5 + method,
                "flops": 10**9 + method,
                "train_seconds": draw.uniform(20.0, 40.0),
                "train_samples_per_second": draw.uniform(100.0, 500.0),
                "test_samples_per_second": draw.uniform(100.0, 500.0),
                "host_peak_mb": draw.uniform(500.0, 900.0),
                "device_peak_mb": None,
            },
            selection="last",
            environment={"python": "3.11.9", "torch": "2.11.0", "git_commit": "0" * 40, "git_dirty": False},
            curve=[
                {
                    "epoch": epoch,
                    "step": 30 * epoch,
                    "train/loss": draw.random(),
                    "val/accuracy": draw.random(),
                }
                for epoch in range(points)
            ],
            started="2026-01-01T00:00:00+00:00",
            seconds=30.0,
        )


def measure() -> list[Ratio]:
    """Loading the files and building all tables from them, against `json.loads` of each file and nothing else."""
    from bench import leaderboard
    from tasks.base import Measure

    measures = tuple(Measure(name, higher_is_better=name != "error") for name in MEASURES)
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(folder)
        store.trials.mkdir()
        for result in synthetic_results(RESULTS):
            (store.trials / f"{result.key}.json").write_bytes(result.to_bytes())
        started = time.perf_counter()
        for path in store.trials.iterdir():
            json.loads(path.read_bytes())
        plain = time.perf_counter() - started
        started = time.perf_counter()
        results, problems = store.load()
        loaded = time.perf_counter() - started
        started = time.perf_counter()
        boards = leaderboard.build(results, None, lambda task: measures, lambda result: False)
        built = time.perf_counter() - started
    if len(results) != RESULTS or problems:
        raise RuntimeError(f"{len(results)} of {RESULTS} results were read, {len(problems)} files were not")
    note = f"{len(boards)} tables; loading {loaded:.2f} s, building {built:.2f} s"
    return [
        Ratio(f"leaderboards of {RESULTS:,} results", "json.loads of each file", loaded + built, plain, note)
    ]
