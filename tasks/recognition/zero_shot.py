"""The task `zero-shot-classification`: one of the classes that were never trained on, told by attributes alone.

Classes and their attributes stand in the spec (`ZeroShotSpec`): seen ones come first, then held-out ones (which
weights may be selected on), then unseen ones. Nothing but pictures of seen classes is ever trained on.

Batch
    image    float32 [B, channels, H, W] in [0, 1] (RGB)
    label    int64 [B], index into `spec.classes`
    clicks   float32 [B, P, W, 3], where people have clicked on the P parts of `spec.parts`: x, y in pixels of `image`
             (they may lie outside), and 1 if the part was visible, else 0; W: most workers a part had
    view     float32, like `image`: another crop of the same picture. In training only, where the dataset is asked to
    partner  float32, like `image`: a crop of another picture of the same class. As `view`
    id       list[str]
Prediction
    logits             float [B, C], scores of all classes of the spec, any monotone ones. The judge compares those
                       of the group that the true class is of (unseen, or held out), and no others
    parts, parts_truth float (logits) and bool [B, P, h, w], optional: whether a part is in sight at a place of the
                       method's local features, as a linear probe on them says, and as it is
    representation     float [B, D], and attribute_vectors float [1 + DRAWS, A, D], optional: what a picture is
                       represented by, and the vectors that should add up to it, fitted on seen classes, for the
                       true attributes and for each matrix of `attribute_draws`
Measures
    accuracy        %, mean over the classes of the share of their pictures that are right (as the benchmark has it)
    accuracy_micro  %, share of all pictures that are right
    parts_f1        mean over parts of F1 over all places of all pictures (threshold 0.5)
    tre             tree reconstruction error: mean 1 - cosine of representation and sum of the vectors of its class's
                    attributes, lower better
    tre_ratio       tre over its mean for random attributes, lower better: below 1, attributes explain more than
                    chance does
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MultilabelF1Score

from datamodules.specs import Spec, ZeroShotSpec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.tree_reconstruction import compositions, random_attributes, tree_errors

DRAWS = 5
THRESHOLD = 0.5


def zero_shot_of(spec: Spec) -> ZeroShotSpec:
    """The spec, checked to be of this task's kind; a `TypeError` where it isn't."""
    if not isinstance(spec, ZeroShotSpec):
        raise TypeError(
            f"zero-shot classification needs a ZeroShotSpec, {spec.dataset} has {type(spec).__name__}"
        )
    return spec


def class_groups(spec: ZeroShotSpec) -> dict[str, range]:
    """Labels of the seen, held-out and unseen classes; a group may be empty."""
    held = spec.seen + spec.held_out
    return {
        "seen": range(spec.seen),
        "held_out": range(spec.seen, held),
        "unseen": range(held, len(spec.classes)),
    }


def semantic_vectors(spec: ZeroShotSpec) -> Tensor:
    """Class attributes of unit length, float32 [C, A]."""
    return F.normalize(torch.tensor(spec.values, dtype=torch.float32), dim=1)


def present_attributes(spec: ZeroShotSpec) -> Tensor:
    """Which attributes a class has, bool [C, A]: as published, or else those of at least half the full strength."""
    if spec.present:
        return torch.tensor(spec.present, dtype=torch.bool)
    return torch.tensor(spec.values) >= THRESHOLD


def attribute_draws(spec: ZeroShotSpec) -> Tensor:
    """The classes' attributes, and DRAWS random matrices with as many in each class: bool [1 + DRAWS, C, A], always
    the same for a dataset."""
    true = present_attributes(spec)
    return torch.cat([true[None], random_attributes(true, DRAWS, torch.Generator().manual_seed(0))])


class ZeroShotJudge(Judge):
    """Accuracy among unseen (in validation, held-out) classes, parts F1 and tree reconstruction errors."""

    def __init__(self, spec: ZeroShotSpec) -> None:
        super().__init__()
        self.classes, self.parts = len(spec.classes), len(spec.parts)
        self.register_buffer("attributes", attribute_draws(spec), persistent=False)
        groups = class_groups(spec)
        self.groups = {name: groups[name] for name in ("held_out", "unseen") if len(groups[name])}
        accuracies: dict[str, MulticlassAccuracy] = {}
        for name, group in self.groups.items():
            # With a single class there is nothing to choose; torchmetrics asks for two.
            for average in ("macro", "micro"):
                accuracies[f"{name}_{average}"] = MulticlassAccuracy(max(2, len(group)), average=average)  # type: ignore[arg-type]
        self.accuracies = torch.nn.ModuleDict(accuracies)
        self.parts_f1 = MultilabelF1Score(self.parts, average="macro") if self.parts > 1 else None
        self.error, self.random_error = MeanMetric(), MeanMetric()

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` for other shapes, or a picture of a seen class."""
        logits, label = prediction["logits"], batch["label"]
        if logits.shape != (len(label), self.classes):
            raise ValueError(f"logits must be [{len(label)}, {self.classes}], got {tuple(logits.shape)}")
        counted = torch.zeros_like(label, dtype=torch.bool)
        for name, group in self.groups.items():
            mine = (label >= group.start) & (label < group.stop)
            counted |= mine
            if not bool(mine.any()):
                continue
            answer = logits[mine, group.start : group.stop].argmax(dim=1)
            for average in ("macro", "micro"):
                self.accuracies[f"{name}_{average}"].update(answer, label[mine] - group.start)
        if not bool(counted.all()):
            raise ValueError(
                f"pictures of seen classes are not tested, got labels {label[~counted].tolist()}"
            )
        if ("parts" in prediction) != ("parts_truth" in prediction):
            raise ValueError("a prediction carries parts and parts_truth together, or neither")
        if "parts" in prediction and self.parts_f1 is not None:
            self._update_parts(prediction["parts"], prediction["parts_truth"])
        if ("representation" in prediction) != ("attribute_vectors" in prediction):
            raise ValueError("a prediction carries representation and attribute_vectors together, or neither")
        if "representation" in prediction:
            composed = compositions(prediction["attribute_vectors"], self.attributes)
            errors = tree_errors(prediction["representation"], composed[:, label])
            self.error.update(errors[0])
            self.random_error.update(errors[1:])

    def _update_parts(self, parts: Tensor, truth: Tensor) -> None:
        if parts.shape != truth.shape or parts.ndim != 4 or parts.shape[1] != self.parts:
            raise ValueError(
                f"parts {tuple(parts.shape)} and parts_truth {tuple(truth.shape)} must be [B, {self.parts}, h, w]"
            )
        places = [value.permute(0, 2, 3, 1).reshape(-1, self.parts) for value in (parts, truth)]
        assert self.parts_f1 is not None
        self.parts_f1.update(places[0].float().sigmoid(), places[1].long())

    def compute(self) -> dict[str, float]:
        tested = [name for name in self.groups if self.accuracies[f"{name}_micro"].update_called]
        if not tested:
            raise ValueError("no picture has been judged")
        # Validation has held-out pictures alone, a test unseen ones alone.
        measures = {
            "accuracy": 100 * float(self.accuracies[f"{tested[0]}_macro"].compute()),
            "accuracy_micro": 100 * float(self.accuracies[f"{tested[0]}_micro"].compute()),
        }
        if self.parts_f1 is not None and self.parts_f1.update_called:
            measures["parts_f1"] = float(self.parts_f1.compute())
        if self.error.update_called:
            measures["tre"] = float(self.error.compute())
            measures["tre_ratio"] = measures["tre"] / float(self.random_error.compute())
        return measures


class ZeroShotClassification(Task):
    """One of the unseen classes for a picture."""

    name = "zero-shot-classification"
    family = "recognition"
    measures = (
        Measure("accuracy", higher_is_better=True, unit="%"),
        Measure("accuracy_micro", higher_is_better=True, unit="%"),
        Measure("parts_f1", higher_is_better=True, decimals=3),
        Measure("tre", higher_is_better=False, decimals=3),
        Measure("tre_ratio", higher_is_better=False, decimals=3),
    )

    @classmethod
    def judge(cls, spec: Spec) -> ZeroShotJudge:
        return ZeroShotJudge(zero_shot_of(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The picture, true and predicted class with its confidence among the candidates; where the prediction has
        parts, beside it where they are and where the probe sees them, a colour each."""
        zero_shot = zero_shot_of(spec)
        pictures = []
        for i in range(min(limit, len(batch["id"]))):
            label = int(batch["label"][i])
            group = next(group for group in class_groups(zero_shot).values() if label in group)
            sure, guess = prediction["logits"][i, group.start : group.stop].detach().float().softmax(0).max(0)
            panels = [_picture(batch["image"][i])]
            if "parts" in prediction:
                for mask in (prediction["parts_truth"][i], prediction["parts"][i] > 0):
                    panels.append(_overlay(panels[0], mask.detach().cpu()))
            said = int(guess) + group.start
            names = zero_shot.classes[label], zero_shot.classes[said]
            pictures.append(
                _captioned(np.concatenate(panels, axis=1), *names, float(sure), right=said == label)
            )
        return pictures


SIDE = 192


def _picture(image: Tensor) -> np.ndarray:
    """image [channels, H, W] in [0, 1] -> uint8 [SIDE, SIDE, 3]."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    rgb = pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def _overlay(picture: np.ndarray, mask: Tensor) -> np.ndarray:
    """The picture darkened, with the places of each part in a colour of its own; mask: bool [P, h, w]."""
    turn = torch.arange(len(mask))[:, None] * 0.618 + torch.tensor([0.0, 1 / 3, 2 / 3])
    colours = 127.5 + 127.5 * torch.cos(2 * torch.pi * turn)
    weight = mask.float()
    mixed = torch.einsum("phw,pc->chw", weight, colours) / weight.sum(0).clamp(min=1)
    grown = F.interpolate(torch.cat([mixed, mask.any(0, keepdim=True).float()])[None], (SIDE, SIDE))[
        0
    ].numpy()
    alpha = 0.6 * grown[3:].transpose(1, 2, 0)
    return ((1 - alpha) * picture * 0.7 + alpha * grown[:3].transpose(1, 2, 0)).astype(np.uint8)


def _captioned(picture: np.ndarray, true: str, guess: str, confidence: float, *, right: bool) -> np.ndarray:
    """uint8 [H, W, 3] -> [H + 36, W, 3] with two lines of text below."""
    height, width = picture.shape[:2]
    sheet = Image.new("RGB", (width, height + 36), "white")
    sheet.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(sheet)
    pen.text((4, height + 3), f"true: {true}", fill=(0, 0, 0))
    pen.text((4, height + 19), f"says: {guess} {confidence:.0%}", fill=(0, 130, 0) if right else (190, 0, 0))
    return np.asarray(sheet)
