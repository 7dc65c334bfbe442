"""Runs one trial: seed, data, method, fit, test - and says what came of it.

`run_trial` never raises for what a trial does wrong: it answers with an outcome that carries the reason.
It touches no result folder; whoever calls it stores what it returns.
"""

from __future__ import annotations

import io
import json
import logging
import math
import random
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from bench import cost, provenance, registry
from bench.trial import WEIGHTS, Places, Trial
from datamodules.specs import Spec
from tasks.base import Method, Recipe

if TYPE_CHECKING:
    from datamodules.base import Dataset

PICTURES = 4
RECIPE_FIELDS = frozenset(Recipe.__dataclass_fields__) - {"data"}
Progress = Callable[[Mapping[str, Any]], None]


class NonFiniteLoss(Exception):
    """A training loss or a score that is NaN or infinite; the message says which and when."""


class TrialTimeout(Exception):
    """The trial took longer than it was allowed."""


@dataclass
class Outcome:
    """What `run_trial` hands back: the result's document, and the files that go with it.

    document: everything `bench.results.Result` holds. pictures: PNG bytes by name, in the document's order.
    checkpoint: safetensors bytes of the tested weights, where asked for.
    """

    document: dict[str, Any]
    pictures: dict[str, bytes] = field(default_factory=dict)
    checkpoint: bytes | None = None


def run_trial(
    trial: Trial,
    places: Places,
    *,
    checkpoints: Mapping[str, bytes] | None = None,
    keep_checkpoint: bool = False,
    threads: int = 1,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run a trial in this process.

    checkpoints: key -> safetensors bytes of the trials in its closure. threads: torch threads on the CPU; part of
    what makes numbers repeatable, so the same for every trial. timeout: seconds; enforced here only in the
    main thread (a sweep's driver enforces it for its workers). progress: told what the trial is doing.
    """
    began = time.perf_counter()
    document: dict[str, Any] = {
        "key": trial.key,
        "trial": trial.to_json(),
        "fingerprint": "",
        "environment": provenance.environment(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    outcome = Outcome(document)
    try:
        document["fingerprint"] = provenance.fingerprint(trial.to_json())
        with _global_state(trial.seed, threads), _alarm(timeout):
            _run(trial, places, checkpoints or {}, keep_checkpoint, progress or _silent, outcome)
        document["status"] = "ok"
    except Exception as error:  # a trial may fail in any way; the sweep goes on and the reason is kept
        outcome.pictures, outcome.checkpoint = {}, None
        document.update(failure(error))
    document["seconds"] = time.perf_counter() - began
    return outcome


def failure(error: BaseException) -> dict[str, Any]:
    """How a result records an error: status, reason class, message, traceback."""
    if isinstance(error, NonFiniteLoss):
        reason = "non-finite loss"
    elif isinstance(error, TrialTimeout):
        reason = "time-out"
    elif isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        reason = "out of memory"
    else:
        reason = "exception"
    return {
        "status": "failed",
        "reason": reason,
        "message": f"{type(error).__name__}: {error}",
        "traceback": "".join(traceback.format_exception(error)),
    }


def _run(
    trial: Trial,
    places: Places,
    checkpoints: Mapping[str, bytes],
    keep_checkpoint: bool,
    progress: Progress,
    outcome: Outcome,
) -> None:
    memory = cost.HostMemory()
    memory.start()
    recipe = recipe_of(trial)
    progress({"phase": "data"})
    data = open_dataset(trial, places, recipe)
    data.prepare_data()
    method = build(trial, data.spec)
    equip(method, trial, checkpoints)
    steps, stopwatch, best = Steps(recipe), cost.Stopwatch(), BestWeights(trial, recipe)
    curve = Curve(steps)
    trainer = pl.Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[
            steps,
            stopwatch,
            curve,
            FiniteLoss(),
            Report(progress, steps),
            *([best] if recipe.selection == "best" else []),
        ],
        precision=recipe.precision,
        **_length(recipe, method),
    )
    if recipe.max_steps != 0:
        trainer.fit(method, datamodule=data)
    selected = best.restore(method) if recipe.selection == "best" and recipe.max_steps != 0 else "last"
    progress({"phase": "test"})
    trainer.test(method, datamodule=data, verbose=False)
    scores = {name: float(value) for name, value in method.scores["test"].items()}
    primary = method.task.primary().name
    if not math.isfinite(scores[primary]):
        raise NonFiniteLoss(f"test score {primary} is {scores[primary]}")
    progress({"phase": "pictures"})
    outcome.pictures, flops = pictures(method, data)
    outcome.document.update(
        metrics=scores,
        primary=primary,
        selection=selected,
        curve=curve.points,
        diagnostics={name: float(value) for name, value in method.diagnostics().items()},
        pictures=[f"pictures/{trial.key}/{name}" for name in outcome.pictures],
        cost={
            "parameters": cost.parameters(method),
            "flops": flops,
            "train_seconds": stopwatch.seconds["train"],
            "train_samples_per_second": stopwatch.rate("train"),
            "test_samples_per_second": stopwatch.rate("test"),
            "host_peak_mb": memory.peak(),
            "device_peak_mb": cost.device_peak(),
        },
    )
    if keep_checkpoint:
        outcome.checkpoint = checkpoint(method, trial)


def recipe_of(trial: Trial) -> Recipe:
    """The recipe a trial's options spell out."""
    data = {
        name.removeprefix("data."): value for name, value in trial.options.items() if name.startswith("data.")
    }
    return Recipe(**{name: trial.options[name] for name in RECIPE_FIELDS}, data=data)


def open_dataset(trial: Trial, places: Places, recipe: Recipe) -> Dataset:
    """The trial's data module, shuffled by its seed."""
    cls = registry.dataset(trial.dataset)
    return cls(
        places.data_root,
        trial.variant,  # type: ignore[arg-type]
        batch_size=recipe.batch_size,
        seed=trial.seed,
        cache=places.cache,
        **recipe.data,
    )


def build(trial: Trial, spec: Spec) -> Method:
    """The trial's method, untrained."""
    cls = registry.find("method", trial.method).load()
    options = {
        name: value
        for name, value in trial.options.items()
        if name not in RECIPE_FIELDS and not name.startswith("data.")
    }
    method: Method = cls(spec, **options)
    return method


def checkpoint(method: Method, trial: Trial) -> bytes:
    """The weights as safetensors, with the trial and the spec they were built from."""
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in method.state_dict().items()}
    return save_safetensors(
        weights, {"trial": json.dumps(trial.to_json()), "spec": json.dumps(method.spec.to_json())}
    )


def equip(method: Method, trial: Trial, checkpoints: Mapping[str, bytes]) -> None:
    """Hand a new method, and its judge, what the trials it needs have learnt; checkpoints: by key."""
    needed = dict(trial.needs)
    for need in method.task.jury(trial.options, trial.profile):  # type: ignore[arg-type]
        method.empanel(need.role, restore(needed[need.role], checkpoints))
    source = needed.get(WEIGHTS)
    owner = source or trial
    for need in method.needs(owner.options):
        method.adopt(need.role, restore(dict(owner.needs)[need.role], checkpoints))
    if source:
        method.load_state_dict(restore(source, checkpoints).state_dict())


def restore(trial: Trial, checkpoints: Mapping[str, bytes]) -> Method:
    """A method as `checkpoint` saved it, on the CPU, in evaluation mode; checkpoints: of it and its closure, by key."""
    weights = checkpoints[trial.key]
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    method = build(trial, Spec.from_json(json.loads(header["__metadata__"]["spec"])))
    equip(method, trial, checkpoints)
    method.load_state_dict(load_safetensors(weights))
    return method.eval()


def pictures(method: Method, data: Dataset) -> tuple[dict[str, bytes], float]:
    """Up to `PICTURES` drawn predictions of the first test batches and the method's own figures, as PNG; and
    the floating-point operations of one forward pass, counted on the way."""
    method.eval()
    drawn: list[np.ndarray] = []
    flops = 0.0
    for number, batch in enumerate(data.test_dataloader()):
        batch = method.transfer_batch_to_device(batch, method.device, 0)
        with torch.no_grad(), cost.Operations() if number == 0 else nullcontext() as operations:
            prediction = method.predict(batch)
        if operations is not None:
            flops = operations.total / len(batch["id"])
        drawn += method.task.draw(prediction, batch, data.spec, limit=PICTURES - len(drawn))
        if len(drawn) >= PICTURES:
            break
    named = {f"prediction-{number}": picture for number, picture in enumerate(drawn)}
    named |= {**method.judged_figures, **method.figures()}
    return {f"{name}.png": _png(picture) for name, picture in named.items()}, flops


def _png(picture: np.ndarray) -> bytes:
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _scaled(limit: int | None, recipe: Recipe) -> int:
    """A limit with the budget counted in; -1: none."""
    return -1 if limit is None else max(1, round(limit * recipe.budget)) if limit else 0


def _length(recipe: Recipe, method: Method) -> dict[str, Any]:
    """How long Lightning trains and when it validates, the budget counted in. It counts the steps of optimisers;
    where a method steps them itself, `Steps` alone ends the training, and the method clips and accumulates."""
    if recipe.max_steps is None and recipe.max_epochs is None:
        raise ValueError("a recipe needs max_steps or max_epochs")
    automatic = method.automatic_optimization
    if not automatic and (recipe.gradient_clip is not None or recipe.accumulate != 1):
        raise ValueError(
            f"{method.name} steps its optimisers itself: gradient_clip and accumulate don't apply"
        )
    return {
        "max_steps": _scaled(recipe.max_steps, recipe) if automatic or recipe.max_steps == 0 else -1,
        "max_epochs": _scaled(recipe.max_epochs, recipe),
        "gradient_clip_val": recipe.gradient_clip,
        "accumulate_grad_batches": recipe.accumulate,
        "limit_val_batches": 1.0 if recipe.validate_every else 0,
        "check_val_every_n_epoch": recipe.validate_every or 1,
    }


class Steps(pl.Callback):
    """Counts steps (`accumulate` training batches each) and ends the training after the recipe's number of them."""

    def __init__(self, recipe: Recipe) -> None:
        self.limit, self.accumulate = _scaled(recipe.max_steps, recipe), recipe.accumulate
        self.batches = 0

    @property
    def done(self) -> int:
        return self.batches // self.accumulate

    def total(self, trainer: pl.Trainer) -> int | str:
        """Steps of the whole training as far as can be told, or "?"."""
        epochs, batches = trainer.max_epochs or -1, trainer.num_training_batches
        by_epochs = epochs * batches / self.accumulate if epochs > 0 else math.inf
        total = min(by_epochs, self.limit if self.limit >= 0 else math.inf)
        return round(total) if math.isfinite(total) else "?"

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches += 1
        if 0 <= self.limit <= self.done:
            trainer.should_stop = True


class Curve(pl.Callback):
    """The numbers a method logs, as they stand at the end of each epoch."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.points: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        logged = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train/", "val/")) and math.isfinite(float(value))
        }
        self.points.append({"epoch": trainer.current_epoch, "step": self.steps.done, **logged})


class FiniteLoss(pl.Callback):
    """Stops a trial whose loss is NaN or infinite; on a device it looks every 16 steps, to keep it busy."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        if module.device.type != "cpu" and trainer.global_step % 16:
            return
        watched = dict(outputs) if isinstance(outputs, Mapping) else {"loss": outputs}
        watched |= {
            name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")
        }
        for name, value in watched.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
                raise NonFiniteLoss(
                    f"{name} is {value.detach().cpu().tolist()} at step {trainer.global_step}"
                )


class BestWeights(pl.Callback):
    """Keeps the weights that were best on validation by the task's primary measure, on the CPU."""

    def __init__(self, trial: Trial, recipe: Recipe) -> None:
        self.measure = registry.task(trial.task).primary()
        self.best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        if recipe.selection == "best" and not recipe.validate_every:
            raise ValueError('selection "best" needs validation (validate_every > 0)')

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Method)
        score = module.scores["val"][self.measure.name]
        sign = 1 if self.measure.higher_is_better else -1
        if math.isfinite(score) and (self.best is None or sign * score > sign * self.best[0]):
            weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
            self.best = (score, trainer.current_epoch, weights)

    def restore(self, method: Method) -> str:
        """Put the best weights back; says which they were, for the result to record."""
        if self.best is None:
            raise NonFiniteLoss(f"no validation gave a finite {self.measure.name}")
        score, epoch, weights = self.best
        method.load_state_dict(weights)
        return f"best val/{self.measure.name} ({score:.6g} after epoch {epoch})"


class Report(pl.Callback):
    """Says how far training is, at most five times a second."""

    def __init__(self, progress: Progress, steps: Steps) -> None:
        self.progress, self.steps = progress, steps
        self._last = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        now = time.monotonic()
        if now - self._last >= 0.2:
            self._last = now
            total = self.steps.total(trainer)
            self.progress({"phase": "train", "step": self.steps.done, "steps": total})

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.state.fn == "fit":
            self.progress({"phase": "validate"})


def _silent(_: Mapping[str, Any]) -> None:
    return


@contextmanager
def _global_state(seed: int, threads: int) -> Iterator[None]:
    """Seeds, threads and determinism for one trial; what the process had before comes back after it."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        lightning.setLevel(logging.ERROR)
        pl.seed_everything(seed, workers=True, verbose=False)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(before[2])
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
        lightning.setLevel(level)


@contextmanager
def _alarm(seconds: float | None) -> Iterator[None]:
    """Raise `TrialTimeout` in the main thread after so many seconds."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> None:
        raise TrialTimeout(f"longer than {seconds:g} s")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
