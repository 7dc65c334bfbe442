"""What a student can be taught beside category structure: logits, hints, activation boundaries, correlations.

- softened logits: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015;
- hints: Romero et al., "FitNets: hints for thin deep nets", ICLR 2015;
- boundaries: Heo et al., "Knowledge transfer via distillation of activation boundaries", AAAI 2019;
- correlation: Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Literal["gaussian", "cosine"]


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square between logits [n, C], a scalar."""
    return F.mse_loss(student.float(), teacher.float())


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean divergence of the student's softened answers from the teacher's, times temperature^2; logits [n, C].

    The square keeps the gradient's size whatever the temperature.
    """
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square between a student's map, already in the teacher's channels, and the teacher's, a scalar."""
    return F.mse_loss(student.float(), teacher.float())


def boundary_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], margin: float = 1.0) -> Tensor:
    """Squared hinge that wants the student's neurons on the teacher's side of 0, by a margin.

    student, teacher: activations before the ReLU, bottom to top, of equal shapes. The mean of each layer counts half
    as much as that of the layer above.
    """
    losses = []
    for own, wanted in zip(student, teacher, strict=True):
        side = torch.where(wanted > 0, 1.0, -1.0)
        losses.append((margin - side * own.float()).relu().square().mean())
    return sum(0.5**height * loss for height, loss in enumerate(reversed(losses)))  # type: ignore[return-value]


def sample_relations(features: Tensor, kernel: Kernel = "gaussian", gamma: float = 0.4) -> Tensor:
    """Phi, how alike each two samples are: [n, ...] -> float32 [n, n].

    Features are flattened and brought to unit length. "gaussian": exp(-gamma |x - y|^2) by its Taylor series in x . y
    to order 2, as the authors of correlation congruence have it. "cosine": x . y.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.flatten(1).float(), dim=1)
        cosine = unit @ unit.T
    if kernel == "cosine":
        return cosine
    scaled = 2 * gamma * cosine
    return math.exp(-2 * gamma) * (1 + scaled + scaled.square() / 2)


def correlation_loss(student: Tensor, teacher: Tensor, kernel: Kernel = "gaussian") -> Tensor:
    """(1 / n^2) |Phi(F^t) - Phi(F^s)|^2 (Eq. 4 of the category-structure paper); features [n, ...], a scalar."""
    return (sample_relations(teacher, kernel) - sample_relations(student, kernel)).square().mean()
