"""Methods of the test suite: a cheap honest one, a student of it, and one for each way to fail."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torchmetrics import MeanMetric

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Judge, Measure, Method, Need, Paper, Prediction, Profile, Recipe
from tasks.recognition.image_classification import ImageClassification


class Linear(Method):
    """Logistic regression on the pixels. pause: seconds it sleeps in each step."""

    name = "linear"
    task = ImageClassification
    paper = Paper(title="none", venue="none")
    recipe = Recipe(batch_size=8, max_epochs=2)
    profiles = {"mini": {}, "smoke": {"max_epochs": 1}}
    presets = {"slow": {"lr": 0.001}, "best": {"selection": "best"}}
    baselines = ("linear:slow",)
    claims = (Claim(method="linear", over="linear:slow", measure="error"),)

    def __init__(
        self,
        spec: Spec,
        *,
        lr: float = 0.1,
        pause: float = 0.0,
        optimiser: Literal["sgd", "adam"] = "sgd",
        widths: tuple[int, ...] = (4, 8),
    ) -> None:
        super().__init__(spec)
        self.lr, self.pause, self.optimiser = lr, pause, optimiser
        self.layer = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(192, 2))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        time.sleep(self.pause)
        loss = nn.functional.cross_entropy(self.layer(batch["image"]), batch["label"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.SGD if self.optimiser == "sgd" else torch.optim.Adam
        return kind(self.parameters(), lr=self.lr)

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.layer(batch["image"])}


class Student(Linear):
    """Starts from a teacher's weights."""

    name = "student"
    presets = {}
    baselines = ()
    claims = ()
    profiles = {"mini": {}, "smoke": {}}

    def __init__(self, spec: Spec, *, teacher: str = "linear", shift: float = 0.0) -> None:
        super().__init__(spec)
        self.shift = shift
        self.taught = False
        self.chain = 0

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return (Need(role="teacher", method=options["teacher"]),)

    def adopt(self, role: str, trained: Method) -> None:
        self.layer.load_state_dict(trained.layer.state_dict())
        self.taught = True
        if isinstance(trained, Student):
            self.chain = trained.chain + 1

    def diagnostics(self) -> dict[str, float]:
        return {"taught": float(self.taught), "chain": float(self.chain)}

    def figures(self) -> dict[str, np.ndarray]:
        return {"answer": np.full((2, 3, 3), 42, np.uint8), "zest": np.full((2, 3, 3), 7, np.uint8)}


class Duel(Linear):
    """Two optimisers that step in turns; counts its training batches."""

    name = "duel"
    presets = {}
    baselines = ()
    claims = ()
    recipe = Recipe(batch_size=8, max_steps=5)
    profiles = {"mini": {}, "smoke": {}}

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.automatic_optimization = False
        self.batches = 0

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        for optimiser in self.optimizers():
            optimiser.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimiser.step()
        self.batches += 1

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

    def diagnostics(self) -> dict[str, float]:
        return {"batches": float(self.batches)}


class AgreementJudge(Judge):
    """How often the method and a consulted one say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = MeanMetric()

    def adopt(self, role: str, trained: Method) -> None:
        self.expert = trained

    def update(self, prediction: Prediction, batch: Batch) -> None:
        same = prediction["logits"].argmax(1) == self.expert.predict(batch)["logits"].argmax(1)
        self.mean.update(100.0 * same.float())

    def compute(self) -> dict[str, float]:
        return {"agreement": float(self.mean.compute())}


class Agreement(ImageClassification):
    """A task whose judge asks a trained model."""

    name = "agreement"
    measures = (Measure("agreement", True),)

    @classmethod
    def jury(cls, options: Mapping[str, Any], profile: Profile) -> Sequence[Need]:
        return (Need(role="expert", method="linear"),)

    @classmethod
    def judge(cls, spec: Spec) -> Judge:
        return AgreementJudge()


class Parrot(Linear):
    """Says what the expert says, which its judge consults as well."""

    name = "parrot"
    task = Agreement
    recipe = Recipe(max_steps=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"deaf": {"listens": False}, "mistaken": {"expert": "linear:slow"}}
    baselines = ()
    claims = ()

    def __init__(self, spec: Spec, *, listens: bool = True, expert: str = "linear") -> None:
        super().__init__(spec)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return (Need(role="expert", method=options["expert"]),) if options["listens"] else ()

    def adopt(self, role: str, trained: Method) -> None:
        self.layer.load_state_dict(trained.layer.state_dict())


class Trouble(Linear):
    """Fails in the way it is told to, in its second step. marker: a file; `once` fails only where it isn't there."""

    name = "trouble"
    presets = {
        way: {"way": way}
        for way in ("raises", "exits", "killed", "hoards", "hangs", "diverges", "once", "none")
    }
    baselines = ()
    claims = ()

    def __init__(
        self,
        spec: Spec,
        *,
        way: Literal["raises", "exits", "killed", "hoards", "hangs", "diverges", "once", "none"] = "none",
        marker: str = "",
    ) -> None:
        super().__init__(spec)
        self.way, self.marker = way, marker

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 0:
            return loss
        if self.way == "raises":
            raise ValueError("a trial that raises")
        if self.way == "exits":
            os._exit(3)
        if self.way == "killed":
            os.kill(os.getpid(), 9)
        if self.way == "hoards":
            self.hoard = []
            while True:
                self.hoard.append(torch.ones(2**22))
                time.sleep(0.01)
        if self.way == "hangs":
            while True:
                time.sleep(1)
        if self.way == "diverges":
            return loss * float("nan")
        if self.way == "once" and not Path(self.marker).exists():
            Path(self.marker).write_text("was here")
            raise ValueError("the first try fails")
        return loss
