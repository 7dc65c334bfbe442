"""Small networks that describe one picture of a bag (the instance description units of Wang et al., ACCV 2020).

Both answer the last feature map and the feature, since their mutual information may be asked for.

- `LeNet` (LeCun et al., 1998; sizes of the official code): 5x5 convolutions of 20 and 50 filters, each with ReLU and
  2x2 max-pooling, one linear layer of 500 with ReLU. 28x28 -> map 50x4x4; 426,070 parameters.
- `NucleusNet` (after Sirinukunwattana et al., 2016): 4x4 convolution of 36 filters and 3x3 of 48, each with ReLU and
  pooling, two linear layers of 512 with ReLU and dropout. 27x27 -> map 48x5x5.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Describer = Literal["lenet", "nucleus"]


class DescriptionUnit(nn.Module):
    """Convolutions, then linear layers.

    map_shape: (channels, height, width) of the last map; length: of the feature.
    """

    def __init__(
        self, convolutions: nn.Sequential, linear: nn.Sequential, map_shape: tuple[int, int, int], length: int
    ) -> None:
        super().__init__()
        self.convolutions = convolutions
        self.linear = linear
        self.map_shape = map_shape
        self.length = length

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] -> map [N, *map_shape], feature [N, length]"""
        maps = self.convolutions(picture)
        return maps, self.linear(maps.flatten(1))


def build_describer(
    kind: Describer,
    channels: int,
    size: tuple[int, int],
    *,
    length: int,
    width: float = 1.0,
) -> DescriptionUnit:
    """The network of that name for pictures of `channels` and `size`; width: factor on the filters.

    Raises `ValueError` where pictures are too small for it.
    """
    sides = [_after(side, kind) for side in size]
    if min(sides) < 1:
        raise ValueError(f"pictures of {size} are too small for {kind}")
    filters = [max(1, round(width * count)) for count in ((20, 50) if kind == "lenet" else (36, 48))]
    kernels = (5, 5) if kind == "lenet" else (4, 3)
    convolutions = nn.Sequential(
        nn.Conv2d(channels, filters[0], kernels[0]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(filters[0], filters[1], kernels[1]),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
    shape = (filters[1], sides[0], sides[1])
    flat = filters[1] * sides[0] * sides[1]
    if kind == "lenet":
        linear = nn.Sequential(nn.Linear(flat, length), nn.ReLU())
    else:
        linear = nn.Sequential(
            nn.Linear(flat, length),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(length, length),
            nn.ReLU(),
            nn.Dropout(),
        )
    return DescriptionUnit(convolutions, linear, shape, length)


def _after(side: int, kind: Describer) -> int:
    first, second = (5, 5) if kind == "lenet" else (4, 3)
    return ((side - first + 1) // 2 - second + 1) // 2
