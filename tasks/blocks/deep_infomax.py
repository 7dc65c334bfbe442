"""Deep InfoMax: features that say much of their pictures (Hjelm et al., ICLR 2019), for instances in bags.

    L_MI = alpha I_global + beta I_local + gamma Prior                         (Wang et al., ACCV 2020, Eq. 7.1)

Each I is the negative of the Jensen-Shannon bound of a mutual information,

    I = E[softplus(-T(x, f))] + E[softplus(T(x', f))],

with x' of another instance of the same bag; the discriminators T are learnt with the features, all in one sum. Prior
makes features like samples u of the uniform distribution on [0, 1]: -E[log D(u)] - E[log(1 - D(f))], added like the
others, with neither alternating steps nor a reversed gradient, as in the official code.

- global: an MLP (2K - 512 - 128 - 1). The official code feeds the feature beside itself, (f, f) against (f, f'); with
  `global_input="map"` it is the flattened map beside the feature, as the text says.
- local: 1x1 convolutions (K + C - 512 - 128 - 1) over the map with the feature at each place.
- prior: an MLP (K - 512 - 128 - 1) with a sigmoid.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tasks.blocks.bag_pooling import bag_sizes, positions


def jensen_shannon_loss(joint: Tensor, apart: Tensor, weight: Tensor) -> Tensor:
    """sum_i weight_i (softplus(-joint_i) + softplus(apart_i)), scores of an instance at several places averaged.

    joint: [N, ...], scores of pairs that belong together; apart: of others; weight: [N], summing to 1. -> scalar

    >>> jensen_shannon_loss(torch.zeros(2, 5), torch.zeros(2, 5), torch.tensor([0.5, 0.5]))
    tensor(1.3863)
    """
    each = softplus(-joint.float()) + softplus(apart.float())
    return (weight * each.flatten(1).mean(1)).sum()


def prior_loss(prior: Tensor, feature: Tensor) -> Tensor:
    """-E[log D(u)] - E[log(1 - D(f))] of logits, any shapes."""
    return softplus(-prior.float()).mean() + softplus(feature.float()).mean()


def others_of_the_bag(bag: Tensor, bags: int) -> tuple[Tensor, Tensor]:
    """For each instance another one of its bag, by a turn of each bag by a random number of places.

    bag: int64 [N], ascending -> index int64 [N]; valid bool [N], False for the only instance of a bag.
    """
    sizes = bag_sizes(bag, bags)
    turn = 1 + (torch.rand(bags, device=bag.device) * (sizes - 1)).long().clamp(max=(sizes - 2).clamp(min=0))
    place = positions(bag, sizes)
    first = sizes.cumsum(0) - sizes
    return first[bag] + (place + turn[bag]) % sizes[bag], (sizes > 1)[bag]


class DeepInfoMax(nn.Module):
    """L_MI of features and the maps they were made from.

    map_shape: (channels, height, width) of the map; features: K. weights: alpha, beta, gamma. hidden: of each
    discriminator.
    """

    def __init__(
        self,
        map_shape: tuple[int, int, int],
        features: int,
        *,
        weights: tuple[float, float, float] = (0.5, 1.0, 0.1),
        global_input: Literal["feature", "map"] = "feature",
        hidden: tuple[int, int] = (512, 128),
    ) -> None:
        super().__init__()
        self.weights = weights
        self.global_input = global_input
        channels, height, width = map_shape
        first = features if global_input == "feature" else channels * height * width
        self.global_score = _mlp(first + features, hidden)
        self.local_score = nn.Sequential(
            nn.Conv2d(features + channels, hidden[0], 1),
            nn.ReLU(),
            nn.Conv2d(hidden[0], hidden[1], 1),
            nn.ReLU(),
            nn.Conv2d(hidden[1], 1, 1),
        )
        self.prior_score = _mlp(features, hidden)

    def forward(self, maps: Tensor, feature: Tensor, bag: Tensor, bags: int) -> dict[str, Tensor]:
        """maps [N, C, H, W], feature [N, K], bag int64 [N] -> scalars `total`, `global`, `local`, `prior`.

        Instances alone in their bag have no negative, and take part in the prior only; where all are alone, both I
        are 0.
        """
        other, valid = others_of_the_bag(bag, bags)
        # Chosen by weight rather than by index: shapes don't depend on the values.
        weight = valid.float() / valid.sum().clamp(min=1)
        first = feature if self.global_input == "feature" else maps.flatten(1)
        parts = {
            "global": jensen_shannon_loss(
                self.global_score(torch.cat([first, feature], 1)),
                self.global_score(torch.cat([first[other], feature], 1)),
                weight,
            ),
            "local": jensen_shannon_loss(
                self._local(maps, feature), self._local(maps[other], feature), weight
            ),
            "prior": prior_loss(self.prior_score(torch.rand_like(feature)), self.prior_score(feature)),
        }
        alpha, beta, gamma = self.weights
        return {"total": alpha * parts["global"] + beta * parts["local"] + gamma * parts["prior"], **parts}

    def _local(self, maps: Tensor, feature: Tensor) -> Tensor:
        tiled = feature[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        return self.local_score(torch.cat([tiled, maps], dim=1))


def _mlp(inputs: int, hidden: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden[0]),
        nn.ReLU(),
        nn.Linear(hidden[0], hidden[1]),
        nn.ReLU(),
        nn.Linear(hidden[1], 1),
    )
