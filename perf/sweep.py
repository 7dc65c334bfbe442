"""A sweep of 100 trials of a constant predictor against the same 100 fits and tests in one plain Lightning loop."""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
from rich.console import Console

from bench import sweep
from bench.console import SweepConsole
from bench.results import ResultStore
from bench.slots import Limits, RaySlots
from bench.trial import Places, Trial, resolve
from datamodules.recognition.cifar import CIFAR10
from perf.ratio import Ratio
from tasks.recognition.majority import Majority

TRIALS, JOBS = 100, 2


def measure() -> list[Ratio]:
    """Whole wall-clock times; the start of Ray's workers is shown apart."""
    places = Places()
    CIFAR10(cache=places.cache).prepare_data()
    plain = _plain_loop()
    trials = [
        resolve("majority", "cifar-10", variant="miniature", profile="mini", seed=seed, places=places)
        for seed in range(TRIALS)
    ]
    seconds, startup = _sweep(trials, places)
    note = f"{JOBS} jobs; starting Ray and its workers took {startup:.1f} s more"
    return [Ratio(f"sweep of {TRIALS} constant predictors", "plain Lightning loop", seconds, plain, note)]


def _plain_loop() -> float:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(TRIALS):
            pl.seed_everything(seed, verbose=False)
            data = CIFAR10(batch_size=Majority.recipe.batch_size, seed=seed)
            trainer = pl.Trainer(
                max_epochs=1,
                limit_val_batches=0,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            method = Majority(data.spec)
            trainer.fit(method, data)
            trainer.test(method, data, verbose=False)
    return time.perf_counter() - began


def _sweep(trials: list[Trial], places: Places) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder))
        slots = RaySlots(places, Limits(), threads=1, jobs=JOBS)
        try:
            began = time.perf_counter()
            with SweepConsole(Console(quiet=True)) as watcher:
                tally = sweep.Sweep(sweep.plan(trials, store), store, slots, watcher).run()
            seconds = time.perf_counter() - began
        finally:
            slots.close()
        if tally.failed:
            raise RuntimeError(
                f"{len(tally.failed)} trials failed: {next(iter(tally.failed.values())).message}"
            )
    return seconds, slots.startup_seconds
