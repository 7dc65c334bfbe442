"""The task `part-segmentation`: a part for each point of an object whose category is known.

Batch
    points    float32 [B, M, 3]  centred, in the unit sphere
    category  int64 [B]          0..K-1
    part      int64 [B, M]       0..S-1, counted over all categories
    id        list[str]
Prediction
    logits    float [B, M, S]    any monotone score; the judge takes the best of the parts that the category has, as
                                 all compared methods do
Measures (percent)
    instance_miou   mean over shapes of the mean IoU over the parts of their category (a part absent from truth and
                    prediction counts 1): the "Avg." that papers print
    category_miou   mean over categories of the mean over their shapes
    accuracy        share of points that are right
    iou_<category>  of each category, beside the measures
"""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.specs import ObjectPartsSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.part_iou import PartIoU, restricted_argmax


def object_parts_of(spec: Spec) -> ObjectPartsSpec:
    """The spec, if it is one of objects with parts; else a `TypeError`."""
    if not isinstance(spec, ObjectPartsSpec):
        raise TypeError(f"part segmentation needs an ObjectPartsSpec, got {type(spec).__name__}")
    return spec


def parts_of_categories(spec: ObjectPartsSpec) -> Tensor:
    """Which parts a category has: bool [K, S]."""
    ends = (*spec.first_part[1:], len(spec.parts))
    part = torch.arange(len(spec.parts))
    bounds = torch.tensor([spec.first_part, ends])[..., None]
    return (part >= bounds[0]) & (part < bounds[1])


class PartSegmentationJudge(Judge):
    """Scores logits, restricted to the parts of each shape's category."""

    allowed: Tensor

    def __init__(self, spec: ObjectPartsSpec) -> None:
        super().__init__()
        self.categories = spec.categories
        self.register_buffer("allowed", parts_of_categories(spec))
        self.iou = PartIoU(len(self.categories))

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` for logits of another shape or parts that a category hasn't."""
        logits, expected = prediction["logits"], (*batch["part"].shape, self.allowed.shape[1])
        if logits.shape != expected:
            raise ValueError(f"logits must be {list(expected)}, got {list(logits.shape)}")
        allowed = self.allowed[batch["category"]]
        self.iou.update(restricted_argmax(logits, allowed), batch["part"], allowed, batch["category"])

    def compute(self) -> dict[str, float]:
        scores = self.iou.compute()
        measured = {
            "instance_miou": float(scores.instance),
            "category_miou": float(scores.category),
            "accuracy": float(scores.accuracy),
        }
        for name, value in zip(self.categories, scores.by_category.reshape(-1).tolist(), strict=True):
            if not math.isnan(value):
                measured[f"iou_{name}"] = value
        return measured


class PartSegmentation(Task):
    """A part for each point."""

    name = "part-segmentation"
    family = "pointcloud"
    measures = (
        Measure("instance_miou", True, "%", 1),
        Measure("category_miou", True, "%", 1),
        Measure("accuracy", True, "%", 1),
    )

    @classmethod
    def judge(cls, spec: Spec) -> PartSegmentationJudge:
        return PartSegmentationJudge(object_parts_of(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The cloud with its true parts, its predicted parts and the points that are wrong, seen from one side."""
        facts = object_parts_of(spec)
        allowed = parts_of_categories(facts).to(batch["category"].device)[batch["category"]]
        guesses = restricted_argmax(prediction["logits"].detach(), allowed).cpu().numpy()
        pictures = []
        for number in range(min(limit, len(guesses))):
            points = batch["points"][number].detach().cpu().numpy()
            truth = batch["part"][number].cpu().numpy()
            category = int(batch["category"][number])
            pictures.append(_panels(points, truth, guesses[number], category, facts))
        return pictures


def _panels(
    points: np.ndarray, truth: np.ndarray, guess: np.ndarray, category: int, spec: ObjectPartsSpec
) -> np.ndarray:
    """points [M, 3]; truth, guess: parts [M] -> uint8 [H, W, 3]."""
    figure = Figure(figsize=(11, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    flat = [axis for axis in range(3) if axis != spec.up]
    # Half from the side, a little from above.
    across = 0.8 * points[:, flat[0]] - 0.6 * points[:, flat[1]]
    along = 0.9 * points[:, spec.up] + 0.3 * (0.6 * points[:, flat[0]] + 0.8 * points[:, flat[1]])
    panels = (("true parts", truth), ("predicted parts", guess), ("wrong points", None))
    for column, (name, part) in enumerate(panels, start=1):
        axis = figure.add_subplot(1, 3, column)
        if part is None:
            axis.scatter(across, along, c="lightgrey", s=9, linewidths=0)
            wrong = truth != guess
            axis.scatter(across[wrong], along[wrong], c="firebrick", s=12, linewidths=0)
            name = f"{name}: {wrong.mean():.1%}"
        else:
            for label in range(spec.first_part[category], len(spec.parts)):
                chosen = part == label
                if chosen.any():
                    colour = f"C{label - spec.first_part[category]}"
                    axis.scatter(
                        across[chosen], along[chosen], c=colour, s=9, linewidths=0, label=spec.parts[label]
                    )
            axis.legend(loc="upper right", fontsize=8, markerscale=2)
        axis.set(aspect="equal", xticks=[], yticks=[], title=name, xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
