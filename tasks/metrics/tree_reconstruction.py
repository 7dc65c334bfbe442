"""Tree reconstruction error: how well a representation is the sum of vectors of its attributes.

Andreas: Measuring compositionality in representation learning, ICLR 2019, with the composition (a sum) and the
distance (1 - cosine) of Sylvain, Petrini, Hjelm: Locality and compositionality in zero-shot learning, ICLR 2020,
appendix A.8. Its text names "cosine similarity" as the error; as one it must be the distance.
Pure functions. N pictures, C classes, A attributes, D features; R matrices of attributes at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_attributes(attributes: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """Random matrices with as many attributes in each class: bool [C, A] -> bool [draws, C, A].

    With another density the error of one could not be compared with that of the other.
    """
    order = torch.rand(draws, *attributes.shape, generator=generator).argsort(dim=2)
    return attributes.cpu().expand(draws, -1, -1).gather(2, order).to(attributes.device)


def compositions(vectors: Tensor, attributes: Tensor) -> Tensor:
    """The sum of the vectors of each class's attributes: [R, A, D], bool [R, C, A] -> float32 [R, C, D]."""
    if vectors.ndim != 3 or attributes.shape[::2] != vectors.shape[:2]:
        raise ValueError(
            f"vectors must be [R, A, D] for attributes [R, C, A], got {tuple(vectors.shape)} for "
            f"{tuple(attributes.shape)}"
        )
    return attributes.to(vectors.device, torch.float32) @ vectors.float()


def tree_errors(representation: Tensor, composed: Tensor) -> Tensor:
    """1 - cosine of representation and composition: [N, D], [..., N, D] -> [..., N] in 0..2; 1 where one is zero.

    >>> tree_errors(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([0.2929])
    """
    return 1 - F.cosine_similarity(representation.float(), composed.to(representation.device).float(), dim=-1)


def fit_attribute_vectors(
    representation: Tensor,
    label: Tensor,
    attributes: Tensor,
    *,
    generator: torch.Generator,
    steps: int = 400,
    learning_rate: float = 0.01,
) -> Tensor:
    """The vectors that minimise the mean error on training pictures: RMSprop on all of them at once, from N(0, 1).

    representation [N, D]; label int64 [N]; attributes bool [R, C, A], R problems solved side by side.
    -> float32 [R, A, D]. Pictures of a class share their composition, so that the mean error depends on them only by
    the sum of their unit vectors: a step costs as much as the classes, not the pictures.
    """
    count, classes, kinds = attributes.shape
    unit = F.normalize(representation.detach().float(), dim=1)
    by_class = unit.new_zeros(classes, unit.shape[1]).index_add_(0, label, unit)
    vectors = torch.randn(count, kinds, unit.shape[1], generator=generator).to(unit.device).requires_grad_()
    optimiser = torch.optim.RMSprop([vectors], lr=learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            composed = F.normalize(compositions(vectors, attributes), dim=2)
            errors = 1 - (composed * by_class).sum(dim=(1, 2)) / len(unit)
            errors.sum().backward()
            optimiser.step()
    return vectors.detach()
