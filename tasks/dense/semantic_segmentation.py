"""Semantic segmentation: a class for every pixel of a picture.

Batch
    image  float32 [B, 3, H, W], RGB in [0, 1]
    mask   int64 [B, H, W], labels 0 .. C-1 in the order of `spec.classes`, or `spec.ignore_index` (void)
    id     list of B strings
Prediction
    logits float32 [B, C, H, W] at the picture's own size; the label is their argmax

Measures, all in percent and from one confusion matrix over the whole split (void pixels count nowhere):
    miou             mean over all classes, background included, of TP / (TP + FP + FN)
    miou_foreground  the same mean without class 0 (the background)
    pixel_accuracy   share of pixels whose label is right
    iou/<class>      of each class
A class that is predicted somewhere but never true has an IoU of 0. A class that occurs neither in the truth
nor in the predictions of the split (TP + FP + FN = 0) has no IoU: it is left out of the means and not listed.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from datamodules.specs import PixelClassesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task

VOID_COLOUR = (224, 224, 192)
"""Of ignored pixels in drawings: the cream of VOC's own void ring."""


def class_iou(confusion: torch.Tensor) -> torch.Tensor:
    """Intersection over union a class: [C, C] counts (rows: truth) -> [C] float64 in [0, 1].

    NaN for a class that neither the truth nor the prediction contains.

    >>> class_iou(torch.tensor([[2, 1, 0], [1, 4, 0], [0, 0, 0]]))
    tensor([0.5000, 0.6667,    nan], dtype=torch.float64)
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"a confusion matrix is square, not {tuple(confusion.shape)}")
    counts = confusion.to(torch.float64)
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)  # 0 / 0 is NaN


class SegmentationJudge(Judge):
    """Accumulates one confusion matrix over the split."""

    def __init__(self, spec: PixelClassesSpec) -> None:
        super().__init__()
        self.spec = spec
        self.confusion = MulticlassConfusionMatrix(
            num_classes=len(spec.classes), ignore_index=spec.ignore_index, validate_args=False
        )

    def update(self, prediction: Prediction, batch: Batch) -> None:
        logits, mask = prediction["logits"], batch["mask"]
        expected = (mask.shape[0], len(self.spec.classes), *mask.shape[1:])
        if tuple(logits.shape) != expected:
            raise ValueError(f"logits must be {expected}, the mask's size, not {tuple(logits.shape)}")
        self.confusion.update(logits.argmax(1), mask)

    def compute(self) -> dict[str, float]:
        confusion = self.confusion.compute()
        iou = class_iou(confusion)
        hits, seen = confusion.diagonal().sum(), confusion.sum()
        scores = {
            "miou": iou.nanmean(),
            "miou_foreground": iou[1:].nanmean(),
            "pixel_accuracy": hits / seen,
        }
        scores.update(
            (f"iou/{name}", value)
            for name, value in zip(self.spec.classes, iou, strict=True)
            if not value.isnan()
        )
        return {name: 100.0 * float(value) for name, value in scores.items()}


class SemanticSegmentation(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "semantic-segmentation"
    family: ClassVar[str] = "dense"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("miou", True, "%"),
        Measure("miou_foreground", True, "%"),
        Measure("pixel_accuracy", True, "%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> SegmentationJudge:
        return SegmentationJudge(pixel_classes(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """Picture | truth | predicted labels, in the dataset's palette, uint8 [H, 3 W, 3] a sample."""
        spec = pixel_classes(spec)
        images = (batch["image"].clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        truths = batch["mask"].cpu().numpy()
        labels = prediction["logits"].argmax(1).cpu().numpy()
        return [
            np.concatenate([image, colour(truth, spec), colour(label, spec)], axis=1)
            for image, truth, label in zip(images[:limit], truths[:limit], labels[:limit], strict=True)
        ]


def colour(labels: np.ndarray, spec: PixelClassesSpec) -> np.ndarray:
    """Labels [H, W] -> uint8 [H, W, 3] in the palette (greys where the spec has none); void in cream."""
    classes = len(spec.classes)
    if spec.palette:
        table = np.array([*spec.palette, VOID_COLOUR], dtype=np.uint8)
    else:
        greys = np.linspace(0, 255, classes).astype(np.uint8)
        table = np.concatenate([np.repeat(greys[:, None], 3, 1), np.array([VOID_COLOUR], np.uint8)])
    return table[np.where(labels == spec.ignore_index, classes, labels)]


def pixel_classes(spec: Spec) -> PixelClassesSpec:
    """The spec, if it is one of pixel classes."""
    if not isinstance(spec, PixelClassesSpec):
        raise TypeError(f"semantic segmentation needs a PixelClassesSpec, not {type(spec).__name__}")
    return spec
