"""The task `point-cloud-classification`: one of C classes for a cloud, clean or not.

Batch (clouds of one size; sizes differ from batch to batch in the test)
    points     float32 [B, M, 3]  centred, in the unit sphere; but noise and outliers may leave it
    label      int64 [B]          0..C-1
    condition  int64 [B]          what befell the cloud: a number of `spec.conditions`, 0 = clean. Never trained on
    id         list[str]
Prediction
    logits     float [B, C]       any monotone score of the classes
Measures (percent, of the test)
    accuracy          share of clean clouds that are right
    class_accuracy    mean over the classes of that share
    noise_<sigma>     accuracy with N(0, sigma^2) added to every coordinate
    robustness        area under the curve of accuracy over sigma from 0 (clean) on, over the length of its base
    half_points, quarter_points   accuracy with as many of the points
    density           with half of the points, thinned out along an axis
    outliers          with a tenth of the points replaced by random ones
A measure is absent where the dataset doesn't serve its condition, and in validation, which is clean.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datamodules.specs import PointClassesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.condition_accuracy import ConditionAccuracy, area_under_curve

CLEAN, NOISE = "clean", "noise_"


def point_classes_of(spec: Spec) -> PointClassesSpec:
    """The spec, if it is one of clouds with classes; else a `TypeError`."""
    if not isinstance(spec, PointClassesSpec):
        raise TypeError(f"point-cloud classification needs a PointClassesSpec, got {type(spec).__name__}")
    return spec


class PointClassificationJudge(Judge):
    """Scores logits, condition by condition."""

    def __init__(self, spec: PointClassesSpec) -> None:
        super().__init__()
        if spec.conditions[:1] != (CLEAN,):
            raise ValueError(f"the first condition must be {CLEAN!r}, got {spec.conditions}")
        self.conditions = spec.conditions
        self.classes = len(spec.classes)
        self.accuracy = ConditionAccuracy(self.classes, len(self.conditions))

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` for logits of another shape or labels and conditions out of range."""
        logits, label = prediction["logits"], batch["label"]
        if logits.shape != (len(label), self.classes):
            raise ValueError(f"logits must be [{len(label)}, {self.classes}], got {tuple(logits.shape)}")
        self.accuracy.update(logits.argmax(-1), label, batch["condition"])

    def compute(self) -> dict[str, float]:
        overall, by_class = self.accuracy.compute().tolist()
        measured = dict(zip(self.conditions, overall, strict=True))
        clean = measured.pop(CLEAN)
        scores = {"accuracy": clean, "class_accuracy": by_class[0]}
        scores |= {name: value for name, value in measured.items() if not math.isnan(value)}
        levels, curve = self._curve(overall)
        if len(levels) > 1 and not any(math.isnan(value) for value in curve):
            scores["robustness"] = area_under_curve(levels, curve)
        return scores

    def _curve(self, overall: list[float]) -> tuple[list[float], list[float]]:
        """Noise levels from 0 on and the accuracies at them."""
        named = zip(self.conditions, overall, strict=True)
        points = sorted(
            (float(name.removeprefix(NOISE)) if name != CLEAN else 0.0, value)
            for name, value in named
            if name == CLEAN or name.startswith(NOISE)
        )
        return [level for level, _ in points], [value for _, value in points]

    def figures(self) -> dict[str, np.ndarray]:
        """Accuracy over the noise levels, where the test had any."""
        overall = self.accuracy.compute()[0].tolist()
        levels, curve = self._curve(overall)
        if len(levels) < 2 or all(math.isnan(value) for value in curve[1:]):
            return {}
        figure = Figure(figsize=(6, 4), dpi=90, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        axis.plot(levels, curve, "o-")
        axis.axhline(100 / self.classes, color="grey", linestyle=":", label="chance")
        axis.set(
            xlabel="sigma of the noise (the object fits the unit sphere)",
            ylabel="accuracy (%)",
            ylim=(0, 101),
        )
        axis.legend()
        canvas.draw()
        return {"accuracy over noise": np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])}


class PointClassification(Task):
    """One class for a cloud, trained on clean clouds and tested under several conditions."""

    name = "point-cloud-classification"
    family = "pointcloud"
    measures = (
        Measure("accuracy", True, "%", 1),
        Measure("class_accuracy", True, "%", 1),
        Measure("robustness", True, "%", 1),
        Measure("noise_0.02", True, "%", 1),
        Measure("noise_0.05", True, "%", 1),
        Measure("noise_0.08", True, "%", 1),
        Measure("noise_0.1", True, "%", 1),
        Measure("noise_0.15", True, "%", 1),
        Measure("half_points", True, "%", 1),
        Measure("quarter_points", True, "%", 1),
        Measure("density", True, "%", 1),
        Measure("outliers", True, "%", 1),
    )

    @classmethod
    def judge(cls, spec: Spec) -> PointClassificationJudge:
        return PointClassificationJudge(point_classes_of(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The cloud seen from three sides, its true class and the predicted one with its confidence."""
        facts = point_classes_of(spec)
        shown = prediction["logits"][:limit].detach().float().softmax(-1).cpu()
        pictures = []
        for number, score in enumerate(shown):
            true, guess = facts.classes[int(batch["label"][number])], facts.classes[int(score.argmax())]
            title = f"{batch['id'][number]}   true: {true}   says: {guess} ({float(score.max()):.0%})"
            points = batch["points"][number].detach().cpu().numpy()
            pictures.append(_three_sides(points, title, facts.up, right=true == guess))
        return pictures


def _three_sides(points: np.ndarray, title: str, up: int, *, right: bool) -> np.ndarray:
    """points [M, 3] from the front, the side and above; colour: depth. uint8 [H, W, 3]."""
    figure = Figure(figsize=(9, 3.6), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    flat = [axis for axis in range(3) if axis != up]
    views = (("front", flat[0], up, flat[1]), ("side", flat[1], up, flat[0]), ("above", flat[0], flat[1], up))
    reach = max(1.0, float(np.abs(points).max()))
    for column, (name, across, along, depth) in enumerate(views, start=1):
        axis = figure.add_subplot(1, 3, column)
        order = np.argsort(points[:, depth])
        axis.scatter(points[order, across], points[order, along], c=points[order, depth], s=6, linewidths=0)
        axis.set(
            xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[], xlabel=name
        )
    figure.suptitle(title, color="darkgreen" if right else "firebrick", fontsize=11)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
