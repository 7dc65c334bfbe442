"""Prototypical network for zero-shot learning: a class's prototype is a linear map of its attributes.

Snell, Swersky, Zemel: Prototypical networks for few-shot learning, NIPS 2017, sections 2.6 and 3.3, whose recipe the
defaults follow: prototypes of unit length, features mapped by another linear layer, softmax over negative squared
distances, episodes of up to 50 classes with 10 pictures each, Adam with a rate of 1e-4 and weight decay of 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttributePrototypes(nn.Module):
    """Classes' scores for features: semantic vectors [C, A] of unit length are fixed, both maps are learned.

    forward: [..., features] -> negative squared distances to all C prototypes, float32 [..., C].
    """

    def __init__(self, features: int, semantics: Tensor, *, space: int = 1024) -> None:
        super().__init__()
        self.semantics: Tensor
        self.register_buffer("semantics", semantics)
        self.of_features = nn.Linear(features, space)
        self.of_attributes = nn.Linear(semantics.shape[1], space)

    def reset(self, generator: torch.Generator) -> None:
        """Draw new weights as `nn.Linear` draws them."""
        with torch.no_grad():
            for layer in (self.of_features, self.of_attributes):
                bound = layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))

    def prototypes(self) -> Tensor:
        """[C, space], of unit length."""
        return F.normalize(self.of_attributes(self.semantics).float(), dim=1)

    def forward(self, features: Tensor) -> Tensor:
        point, prototype = self.of_features(features).float(), self.prototypes()
        # |p|^2 is 1 for all: |f - p|^2 = |f|^2 - 2 f.p + 1.
        return 2 * point @ prototype.T - point.square().sum(-1, keepdim=True) - 1


def patch_log_probabilities(logits: Tensor, groups: Sequence[range]) -> Tensor:
    """Log of the mean over patches of the classes' probabilities: [B, P, C] -> [B, C].

    A softmax for each group of classes: no group's classes draw probability from those of another. Averages of logits
    or of squared distances would rank classes as the average feature does.
    """
    patches = logits.shape[1]
    parts = [logits[..., group.start : group.stop].log_softmax(dim=2) for group in groups if len(group)]
    return torch.cat(parts, dim=2).logsumexp(dim=1) - math.log(patches)


def episode(label: Tensor, ways: int, pictures: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw an episode: int64 [N] labels -> indices [ways x pictures] into them, and the classes [ways].

    As many classes as there are where there are fewer than `ways`; pictures of a class with replacement.
    """
    order = label.argsort(stable=True)
    classes, counts = label.unique(return_counts=True)
    starts = counts.cumsum(0) - counts
    chosen = torch.randperm(len(classes), generator=generator)[:ways]
    place = torch.rand(len(chosen), pictures, generator=generator, dtype=torch.float64)
    within = (place * counts[chosen, None]).long()
    return order[(starts[chosen, None] + within).flatten()], classes[chosen]


def fit_prototypes(
    head: AttributePrototypes,
    features: Tensor,
    label: Tensor,
    *,
    steps: int,
    generator: torch.Generator,
    ways: int = 50,
    pictures: int = 10,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
    per_patch: bool = False,
) -> float:
    """Train a head anew on fixed features, on the CPU [N, D], or with `per_patch` [N, P, D], and labels [N] of the
    seen classes. -> the mean loss of the last tenth of the episodes.

    per_patch: patches are classified one by one and their probabilities averaged, in training as in tests.
    """
    head.reset(generator)
    optimiser = torch.optim.Adam(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    device = head.semantics.device
    losses = []
    with torch.enable_grad():
        for _ in range(steps):
            indices, classes = episode(label, ways, pictures, generator)
            truth = torch.arange(len(classes)).repeat_interleave(pictures).to(device)
            logits = head(features[indices].float().to(device))[..., classes.to(device)]
            if per_patch:
                logits = patch_log_probabilities(logits, [range(len(classes))])
            loss = F.cross_entropy(logits, truth) if not per_patch else F.nll_loss(logits, truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
    if not losses:
        return float("nan")
    return float(torch.stack(losses[-max(1, steps // 10) :]).mean())
