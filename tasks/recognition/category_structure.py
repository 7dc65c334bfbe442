"""Structure of a batch at the level of categories: centres, offsets within a category, similarities between them.

Section 3.2 and Eq. 9 of "Improving Knowledge Distillation via Category Structure" (ECCV 2020). A category that isn't
in the batch has no centre and is left out; c is the number of those that are. All is computed in float32 and without a
loop over samples or categories. Norms have 1e-12 inside their root: they are not squared, and the gradient of a root
at 0 is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["l2", "mse"]
EPS = 1e-12


@dataclass(frozen=True)
class Grouping:
    """Which samples of a batch are of one category.

    member: int64 [n] in 0..c-1, a sample's category among those present. size: float [c], samples in each.
    """

    member: Tensor
    size: Tensor

    @classmethod
    def of(cls, label: Tensor) -> Grouping:
        """label: int64 [n], any numbers."""
        _, member, size = label.unique(return_inverse=True, return_counts=True)
        return cls(member, size.float())

    @property
    def categories(self) -> int:
        """c: categories in the batch."""
        return len(self.size)

    def total(self, value: Tensor) -> Tensor:
        """Sum over the samples of each category: [n, ...] -> float32 [c, ...]."""
        value = value.float()
        return value.new_zeros(self.categories, *value.shape[1:]).index_add(0, self.member, value)


def category_centres(features: Tensor, grouping: Grouping) -> Tensor:
    """C^i, the mean of the features of each category (Eq. 6): [n, ...] -> float32 [c, d], maps flattened."""
    return grouping.total(features.flatten(1)) / grouping.size[:, None]


def category_offsets(features: Tensor, grouping: Grouping, *, detach_centres: bool = False) -> Tensor:
    """Psi(F^i), each sample's offset from its category's centre (Eq. 7): [n, ...] -> float32 [n, d].

    detach_centres: centres are constants to the gradient.
    """
    centres = category_centres(features, grouping)
    return features.flatten(1).float() - (centres.detach() if detach_centres else centres)[grouping.member]


def category_similarity(centres: Tensor) -> Tensor:
    """M, the cosine similarity of each two centres (Eq. 8): [c, d] -> float32 [c, c]."""
    with torch.autocast(centres.device.type, enabled=False):
        unit = F.normalize(centres.float(), dim=1, eps=EPS)
        return unit @ unit.T


def intra_distance(teacher: Tensor, student: Tensor, grouping: Grouping, distance: Distance = "l2") -> Tensor:
    """How far two sets of offsets [n, d] are apart, a scalar.

    "l2": the mean over categories of one norm over all samples and elements of a category, the first term of Eq. 9
    without beta. "mse": the mean of squares over everything.
    """
    square = (teacher - student).square()
    if distance == "mse":
        return square.mean()
    return (grouping.total(square.sum(1)) + EPS).sqrt().mean()


def inter_distance(teacher: Tensor, student: Tensor, distance: Distance = "l2") -> Tensor:
    """How far two matrices M [c, c] are apart: Frobenius norm (second term of Eq. 9 without gamma), or mean square."""
    square = (teacher - student).square()
    return square.mean() if distance == "mse" else (square.sum() + EPS).sqrt()


def intra_of_the_right(
    teacher: Tensor,
    student: Tensor,
    grouping: Grouping,
    teacher_right: Tensor,
    student_right: Tensor,
    *,
    detach_centres: bool,
) -> Tensor:
    """The official code's term for maps: centres are means over the samples that a network itself classifies rightly.

    teacher, student: [n, ...] of one shape; *_right: bool [n]. The mean square between offsets of the samples whose
    category has a centre in both networks; 0 where there is none.
    """
    offsets, known = [], torch.ones_like(grouping.size, dtype=torch.bool)
    for features, right in ((teacher, teacher_right), (student, student_right)):
        flat, weight = features.flatten(1).float(), right.float()
        count = grouping.total(weight)
        centres = grouping.total(flat * weight[:, None]) / count.clamp(min=1)[:, None]
        known = known & (count > 0)
        offsets.append(flat - (centres.detach() if detach_centres else centres)[grouping.member])
    counted = known[grouping.member].float()
    square = (offsets[0] - offsets[1]).square().mean(1)
    return (square * counted).sum() / counted.sum().clamp(min=1)


def compactness(features: Tensor, grouping: Grouping) -> Tensor:
    """Mean square between features [n, d] and their own centre, a constant: a further term of the official code."""
    return category_offsets(features, grouping, detach_centres=True).square().mean()


def edge_counts(samples: int, categories: int) -> tuple[int, int]:
    """Relations that are used in a batch: (of category structure, m c + c^2; of correlation, (m c)^2).

    Section 4.6 has categories of m samples each, so m c is the number of samples.
    """
    return samples + categories**2, samples**2
