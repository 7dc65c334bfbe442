"""How near a synthesised picture is to the true one where the object is: mean squared error and PSNR of the foreground.

MSE is on the 0..255 scale over the foreground's pixels and the three channels, PSNR = 10 log10(255^2 / MSE) of each
picture; both are averaged over the pictures of a group (an instance in its poses) first, then over the groups.
The foreground is an exact mask where there is one; else `segment_foreground` finds it by Felzenszwalb and
Huttenlocher's graph-based segmentation (IJCV 2004): segments that hardly touch the border are the object.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

PSNR_LIMIT = 100.0


def foreground_mse(made: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error on the 0..255 scale over the masked pixels of each picture, [B].

    made, true: [B, 3, H, W] in [0, 1]; mask: bool [B, H, W]; a mask without a pixel counts as the whole picture.

    >>> made, true = torch.full((1, 3, 1, 2), 0.5), torch.tensor([0.5, 0.9]).expand(1, 3, 1, 2)
    >>> [round(foreground_mse(made, true, torch.tensor([[[a, b]]])).item()) for a, b in ((True, False), (False, True))]
    [0, 10404]
    """
    if made.shape != true.shape or mask.shape != (len(made), *made.shape[-2:]):
        raise ValueError(
            f"expected two pictures [B, 3, H, W] and a mask [B, H, W], got {tuple(made.shape)}, "
            f"{tuple(true.shape)} and {tuple(mask.shape)}"
        )
    empty = ~mask.flatten(1).any(dim=1)
    weight = (mask | empty[:, None, None]).double()
    error = (255 * (made.double() - true.double())).square().mean(dim=1)
    return ((error * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2))).float()


def psnr_of(mse: Tensor) -> Tensor:
    """MSE on the 0..255 scale -> PSNR in dB, 100 at most.

    >>> psnr_of(torch.tensor([255.0**2 / 100, 0.0])).tolist()
    [20.0, 100.0]
    """
    return (10 * (255.0**2 / mse.double()).log10()).clamp(max=PSNR_LIMIT).float()


def segment_foreground(
    image: Tensor, *, scale: float = 200.0, sigma: float = 0.8, border_share: float = 0.12
) -> Tensor:
    """The object of a picture [3, H, W] in [0, 1] by graph-based segmentation: bool [H, W].

    scale, sigma: of `skimage.segmentation.felzenszwalb`; segments smaller than 1 % of the picture join others.
    A segment is background if more than `border_share` of the picture's border pixels are its own, or if it is the
    largest of those that touch the border. Where nothing is left, the whole picture is the object.
    """
    from skimage.segmentation import felzenszwalb

    pixels: NDArray[np.float64] = image.detach().double().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    height, width = pixels.shape[:2]
    segments = felzenszwalb(pixels, scale=scale, sigma=sigma, min_size=max(2, height * width // 100))
    border = np.concatenate([segments[0], segments[-1], segments[1:-1, 0], segments[1:-1, -1]])
    touching = np.bincount(border, minlength=segments.max() + 1)
    area = np.bincount(segments.ravel()) * (touching > 0)
    background = touching > border_share * len(border)
    background[area.argmax()] = True
    mask = ~background[segments]
    return torch.from_numpy(mask if mask.any() else np.ones_like(mask)).to(image.device)


class GroupMeans(Metric):
    """The mean over groups of the mean within each. NaN and infinity are refused."""

    full_state_update = False
    values: list[Tensor]
    groups: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("groups", default=[], dist_reduce_fx="cat")

    def update(self, values: Tensor, groups: Tensor) -> None:
        """values: float [B]; groups: int64 [B], which group each belongs to."""
        if values.ndim != 1 or values.shape != groups.shape or not values.isfinite().all():
            raise ValueError(f"expected one finite number and one group a picture, got {values} and {groups}")
        self.values.append(values.detach().double())
        self.groups.append(groups.detach())

    def compute(self) -> Tensor:
        if self.empty:
            return torch.tensor(torch.nan)
        values, groups = (torch.cat(list(part)) for part in (self.values, self.groups))
        _, member, size = groups.unique(return_inverse=True, return_counts=True)
        sums = torch.zeros(len(size), dtype=values.dtype, device=values.device).index_add_(0, member, values)
        return (sums / size).mean()

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in."""
        return not len(self.values)
