"""Accuracy and intersection over union from one dataset-wide confusion matrix with an unlabelled class 0.

As LiDAR benchmarks count: an element without truth counts nowhere; one that is *predicted* unlabelled is a
miss of its class.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


class ClassScores(NamedTuple):
    """Percentages of a confusion matrix over classes 1..C.

    iou: [C] TP / (TP + FP + FN), 0 for a class that is neither true nor predicted anywhere.
    present: [C] bool, whether the class has any truth.
    miou: mean over all C classes, absent ones as 0.
    miou_present: mean over the classes that have truth; NaN where none has.
    accuracy: sum of TP over all elements that count; NaN where there are none.
    """

    iou: Tensor
    present: Tensor
    miou: Tensor
    miou_present: Tensor
    accuracy: Tensor


def class_confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Count (truth, prediction) pairs: two int64 tensors [N] in 0..C -> int64 [C + 1, C + 1].

    Row: truth, column: prediction. Elements with truth 0 are left out, so row 0 is empty.
    classes: C, without the unlabelled class 0. Raises `ValueError` for other shapes or labels outside 0..C.

    >>> class_confusion(torch.tensor([1, 0, 2, 1]), torch.tensor([1, 1, 2, 0]), classes=2)
    tensor([[0, 0, 0],
            [1, 1, 0],
            [0, 0, 1]])
    """
    if prediction.shape != truth.shape or prediction.ndim != 1:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} must be equal and [N]"
        )
    size = classes + 1
    for name, label in (("prediction", prediction), ("truth", truth)):
        if label.is_floating_point():
            raise ValueError(f"{name} must hold integer class labels, not {label.dtype}")
        if label.numel() and (int(label.min()) < 0 or int(label.max()) > classes):
            low, high = int(label.min()), int(label.max())
            raise ValueError(f"{name} holds labels {low}..{high}, expected 0..{classes}")
    counted = truth > 0
    pairs = truth[counted].long() * size + prediction[counted].long()
    return torch.bincount(pairs, minlength=size * size).reshape(size, size)


def class_scores(confusion: Tensor, drop_unlabelled_predictions: bool = False) -> ClassScores:
    """The percentages of a confusion matrix [C + 1, C + 1] with rows of truth and columns of prediction.

    drop_unlabelled_predictions: leave out elements that were predicted 0, instead of counting each as a miss.
        RangeNet++'s and SqueezeSegV3's own evaluators do so, which flatters a method that abstains.

    >>> scores = class_scores(torch.tensor([[0, 0, 0], [1, 1, 0], [0, 0, 1]]))
    >>> scores.iou.tolist(), round(float(scores.accuracy), 2)
    ([50.0, 100.0], 66.67)
    """
    counts = confusion.double()[1:]
    if drop_unlabelled_predictions:
        counts = counts[:, 1:]
    else:
        counts = torch.cat([counts[:, 1:], counts[:, :1]], dim=1)  # a column that no truth can hit
    classes = counts.shape[0]
    hit = counts[:, :classes].diagonal()
    truth = counts.sum(dim=1)
    union = truth + counts[:, :classes].sum(dim=0) - hit
    iou = 100 * hit / union.clamp(min=1)
    present = truth > 0
    return ClassScores(
        iou=iou,
        present=present,
        miou=iou.mean(),
        miou_present=iou[present].mean(),
        accuracy=100 * hit.sum() / counts.sum(),
    )


class ClassConfusion(Metric):
    """The confusion matrix of a whole dataset, summed over batches and processes.

    classes: C, without the unlabelled class 0.
    drop_unlabelled_predictions: as in `class_scores`.
    """

    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int, *, drop_unlabelled_predictions: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.drop_unlabelled_predictions = drop_unlabelled_predictions
        empty = torch.zeros(classes + 1, classes + 1, dtype=torch.int64)
        self.add_state("confusion", empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Take in labels [N] in 0..C, truth 0 meaning unlabelled."""
        self.confusion += class_confusion(prediction, truth, self.classes)

    def compute(self) -> ClassScores:
        return class_scores(self.confusion, self.drop_unlabelled_predictions)
