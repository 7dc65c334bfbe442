"""Conv-4: the four-block network of few-shot learning (Vinyals et al. 2016; Snell et al. 2017)."""

from __future__ import annotations

from torch import Tensor, nn


def conv_block(in_channels: int, channels: int, *, pool: bool = True) -> nn.Sequential:
    """3×3 convolution, batch normalisation, ReLU and, with `pool`, 2×2 max-pooling."""
    layers = [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class Conv4(nn.Module):
    """Four blocks of `width` channels: [B, channels, H, W] -> [B, width, H / 2^pools, W / 2^pools] (floored).

    pools: the first that many blocks pool (4: prototypical networks; 2: Relation Net).
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], *, width: int = 64, pools: int = 4
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(conv_block(width if block else channels, width, pool=block < pools) for block in range(4))
        )
        self.shape = (width, image_size[0] >> pools, image_size[1] >> pools)
        if 0 in self.shape:
            raise ValueError(f"pictures of {image_size} vanish under {pools} poolings")
        self.features = self.shape[0] * self.shape[1] * self.shape[2]

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(image)
