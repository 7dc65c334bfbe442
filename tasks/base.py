"""Task and Method: the two contracts under which any method meets any dataset of its task.

A task says what a batch and a prediction hold and judges all its methods with one piece of code. A method
is a LightningModule that is built from a dataset's spec and its own options, and answers `predict(batch)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from datamodules.specs import Spec

Batch: TypeAlias = Mapping[str, Any]
Prediction: TypeAlias = Mapping[str, Tensor]
Compare: TypeAlias = Callable[[Prediction, Prediction], Tensor | None]
Profile = Literal["smoke", "mini", "paper"]
PROFILES: tuple[Profile, ...] = ("smoke", "mini", "paper")


@dataclass(frozen=True)
class Measure:
    """One number a task reports. unit: "%", "dB", "" for a plain ratio ..."""

    name: str
    higher_is_better: bool
    unit: str = ""
    decimals: int = 2


class Judge(nn.Module, ABC):
    """Scores predictions against batches. Its state lives in torchmetrics children, so it is right under DDP.

    compare: how the method itself compares gathered predictions, for a task that ranks; see `Method.compare`.
    """

    compare: Compare | None = None

    def adopt(self, role: str, trained: Method) -> None:
        """Take a trained model that the task's `jury` names; called before the first `update`."""
        raise TypeError(f"{type(self).__name__} consults no {role!r}")

    def figures(self) -> dict[str, np.ndarray]:
        """Pictures of the whole split after `compute` (curves, ranked lists), uint8 [H, W, 3] by name; default:
        none."""
        return {}

    @abstractmethod
    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The task's measures by name; a task may add further ones (per class, say)."""

    def reset(self) -> None:
        """Forget everything taken in."""
        for child in self.modules():
            if isinstance(child, Metric):
                child.reset()


class Task(ABC):
    """A standard problem of the field. Never instantiated: a namespace of facts and functions.

    Every batch is a dict with `id` (list of str, one a sample) beside what the task's docstring names.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    """The primary measure first: every method has it; it ranks, and it selects where a recipe says "best".
    A further measure may be absent where a method's prediction doesn't carry what it judges."""

    @classmethod
    def jury(cls, options: Mapping[str, Any], profile: Profile) -> Sequence[Need]:
        """The trials whose trained models the judge consults (an attack's victims, a network that compares
        faces), the same for all methods of the task; default: none. Options are the trial's."""
        return ()

    @classmethod
    @abstractmethod
    def judge(cls, spec: Spec) -> Judge:
        """A fresh judge for a dataset."""

    @classmethod
    @abstractmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A picture of each of the first `limit` samples, uint8 [H, W, 3]: input, truth, prediction."""

    @classmethod
    def primary(cls) -> Measure:
        return cls.measures[0]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a method is trained; a profile or a suite overrides any field like an option.

    batch_size: samples a step.
    max_steps, max_epochs: whichever is given (both: whichever comes first); max_steps=0 skips training. A step
        is `accumulate` training batches, also where several optimisers step in it, or none.
    selection: which weights are tested: the last, or the best on validation by the task's primary measure.
    validate_every: epochs between validations; 0: never.
    gradient_clip: largest global gradient norm; None: no clipping.
    accumulate: batches a step.
    precision: as Lightning names it.
    budget: factor on max_steps and max_epochs, for short runs of the same recipe.
    data: options handed to the dataset (`data.<option>` in profiles and suites), such as a training size.
    """

    batch_size: int = 32
    max_steps: int | None = None
    max_epochs: int | None = None
    selection: Literal["last", "best"] = "last"
    validate_every: int = 1
    gradient_clip: float | None = None
    accumulate: int = 1
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    budget: float = 1.0
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """Where a method comes from. url: the paper's page or DOI; code: the official repository, if any."""

    title: str
    venue: str
    url: str = ""
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's headline comparison: this method beats `over` in `measure`.

    method, over: "name" or "name:preset", the two that are compared on every dataset both have results on.
    measure: of the task; its direction says what "beats" means.
    reported: the paper's own margin, in words with the table.
    """

    method: str
    over: str
    measure: str
    reported: str = ""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Another trial's trained weights that a method starts from (a teacher, a backbone, a victim).

    role: the method's name for it, handed back in `adopt`.
    method: "name" or "name:preset"; options: on top of it.
    dataset: None means that of the trial itself, unless the suite names another under `needs`.
    """

    role: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None


class Method(pl.LightningModule, ABC):
    """One algorithm for a task, built from a dataset's spec and keyword options (defaults: the paper's).

    A subclass declares the class attributes below and writes `training_step`, `configure_optimizers` and
    `predict`; validation and test are here, once. It never names a dataset or a device.
    """

    name: ClassVar[str]
    task: ClassVar[type[Task]]
    paper: ClassVar[Paper]
    recipe: ClassVar[Recipe] = Recipe()
    """The paper's own training recipe."""
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Overrides of options and recipe fields for "mini" and "smoke". They shrink sizes, never parts."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named option sets: baselines, ablations and the paper's other networks; written `name:preset`."""
    baselines: ClassVar[tuple[str, ...]] = ()
    """What the method is measured against, the direct one first: "name" or "name:preset"."""
    claims: ClassVar[tuple[Claim, ...]] = ()

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.spec = spec
        self.scores: dict[str, dict[str, float]] = {}
        """The last scores of each stage ("val", "test"), in full precision."""
        self.judged_figures: dict[str, np.ndarray] = {}
        """The judge's pictures of the last test."""
        self._judges: dict[str, Judge] = {}
        self._jurors: dict[str, Method] = {}

    @classmethod
    def profile(cls, profile: Profile, preset: str | None = None) -> dict[str, Any]:
        """The constructor options of a profile (without the recipe's fields), for use without the runner."""
        recipe_fields = set(Recipe.__dataclass_fields__)
        merged = {**(cls.presets[preset] if preset else {}), **cls.profiles.get(profile, {})}
        return {
            key: value
            for key, value in merged.items()
            if key not in recipe_fields and not key.startswith("data.")
        }

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """The trials whose weights these options call for; default: none."""
        return ()

    def adopt(self, role: str, trained: Method) -> None:
        """Take what a needed trial has learnt; called once after construction, before training."""
        raise TypeError(f"{self.name} needs no {role!r}")

    @abstractmethod
    def predict(self, batch: Batch) -> Prediction:
        """The task's prediction for a batch, in evaluation mode and without gradients."""

    def compare(self, queries: Prediction, gallery: Prediction) -> Tensor | None:
        """Distances [Q, G] between gathered predictions, nearer is smaller, for a task that ranks; default: None,
        the distance that the task names."""
        return None

    def figures(self) -> dict[str, np.ndarray]:
        """Pictures of the method's own diagnostics after the test, uint8 [H, W, 3] by name; default: none."""
        return {}

    def diagnostics(self) -> dict[str, float]:
        """Numbers about the trained method beside the task's measures; default: none."""
        return {}

    # Validation and test, the same for all methods.

    def empanel(self, role: str, trained: Method) -> None:
        """Give the judge a model of the task's `jury`; called once after construction."""
        self._jurors[role] = trained

    def judge(self, stage: str) -> Judge:
        """The judge of a stage ("val" or "test"), on the method's device. Not a child: it is no weight."""
        if stage not in self._judges:
            judge = self._judges[stage] = self.task.judge(self.spec)
            judge.compare = self.compare
            for role, trained in self._jurors.items():
                judge.adopt(role, trained)
        return self._judges[stage].to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.judge("val").update(self.predict(batch), batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.judge("test").update(self.predict(batch), batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        return self.predict(batch)

    def on_validation_epoch_end(self) -> None:
        self._close("val")

    def on_test_epoch_end(self) -> None:
        self._close("test")

    def _close(self, stage: str) -> None:
        judge = self.judge(stage)
        scores = self.scores[stage] = judge.compute()
        if stage == "test":
            self.judged_figures = judge.figures()
        judge.reset()
        primary = self.task.primary().name
        self.log_dict(
            {f"{stage}/{name}": torch.tensor(float(value)) for name, value in scores.items()},
            prog_bar=False,
        )
        self.log(f"{stage}_{primary}", torch.tensor(float(scores[primary])), prog_bar=True, logger=False)
