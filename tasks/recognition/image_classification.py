"""The task `image-classification`: one of C classes for a picture.

Batch: `image` float32 [B, channels, H, W] in [0, 1] (RGB), `label` int64 [B] in 0..C-1, `id` list of B str.
Prediction: `logits` float [B, C], any monotone score of the classes.
Measures: top-1 and top-5 error in %, lower better; with fewer than five classes top-5 is top-C, which is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from datamodules.specs import ImageClassesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task


def classes_of(spec: Spec) -> tuple[str, ...]:
    """The class names in label order; a `TypeError` where the dataset has no classes."""
    if not isinstance(spec, ImageClassesSpec):
        raise TypeError(
            f"image classification needs an ImageClassesSpec, {spec.dataset} has {type(spec).__name__}"
        )
    return spec.classes


class ClassificationJudge(Judge):
    """Micro-averaged top-1 and top-5 error over all pictures."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.top1 = MulticlassAccuracy(num_classes=classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes=classes, average="micro", top_k=min(5, classes))

    def update(self, prediction: Prediction, batch: Batch) -> None:
        logits, label = prediction["logits"], batch["label"]
        if logits.shape != (label.shape[0], self.classes):
            raise ValueError(f"logits must be [{label.shape[0]}, {self.classes}], got {tuple(logits.shape)}")
        self.top1.update(logits, label)
        self.top5.update(logits, label)

    def compute(self) -> dict[str, float]:
        return {
            "error": 100.0 * (1.0 - float(self.top1.compute())),
            "error_top5": 100.0 * (1.0 - float(self.top5.compute())),
        }


class ImageClassification(Task):
    """One class for a picture."""

    name = "image-classification"
    family = "recognition"
    measures = (
        Measure("error", higher_is_better=False, unit="%"),
        Measure("error_top5", higher_is_better=False, unit="%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> ClassificationJudge:
        return ClassificationJudge(len(classes_of(spec)))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The picture, enlarged, over its true class and the predicted one with its confidence."""
        classes = classes_of(spec)
        shown = {key: batch[key][:limit] for key in ("image", "label")}
        confidence, predicted = prediction["logits"][:limit].detach().float().softmax(dim=1).max(dim=1)
        return [
            _captioned(image, classes[true], classes[guess], sure, right=guess == true)
            for image, true, guess, sure in zip(
                shown["image"], shown["label"].tolist(), predicted.tolist(), confidence.tolist(), strict=True
            )
        ]


def _captioned(
    image: Tensor, true: str, guess: str, confidence: float, *, right: bool, side: int = 192
) -> np.ndarray:
    """image [channels, H, W] in [0, 1] -> uint8 [side + 36, side, 3] with two lines of text below."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    rgb = pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    sheet = Image.new("RGB", (side, side + 36), "white")
    sheet.paste(Image.fromarray(rgb).resize((side, side), Image.Resampling.NEAREST), (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.text((4, side + 3), f"true: {true}", fill=(0, 0, 0))
    pen.text((4, side + 19), f"says: {guess} {confidence:.0%}", fill=(0, 130, 0) if right else (190, 0, 0))
    return np.asarray(sheet)
