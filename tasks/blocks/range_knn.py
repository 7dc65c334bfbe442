"""Nearest neighbours in a range image vote for each point's class (RangeNet++, IROS 2019, Sec. III-E).

A range image labels only the points that it shows; a point behind another one in the same pixel would inherit
a foreign label. Here every point asks the S x S window of pixels around its own: the k pixels whose range is
nearest to the point's range vote with their predicted classes.

Where the published code leaves a case open: pixels outside the image are empty (its zero padding makes them
range 0 and class 0) and equally near pixels are taken in the window's reading order. Among classes with the
same number of votes the lowest wins, as there. A point for which no labelled pixel votes gets the class of
`fallback` (there: class 1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def inverse_gaussian(size: int, sigma: float = 1.0) -> Tensor:
    """1 - G with G a Gaussian of unit sum over a size x size window: float32 [size * size].

    Ranges of pixels close to the centre count as nearer.
    """
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    squared = axis[:, None].square() + axis[None].square()
    gaussian = torch.exp(-squared / (2 * sigma**2))
    return (1 - gaussian / gaussian.sum()).flatten().float()


def range_knn(
    image_label: Tensor,
    image_range: Tensor,
    pixel: Tensor,
    point_range: Tensor,
    fallback: Tensor,
    *,
    classes: int,
    neighbours: int = 5,
    window: int = 5,
    cutoff: float = 1.0,
    sigma: float = 1.0,
    wrap: bool = False,
) -> Tensor:
    """A class of 1..classes for every point, by vote of its window -> int64 [N].

    image_label: int64 [B, H, W] predicted classes, 0..classes; pixels of class 0 occupy a place among the
        nearest but vote for nobody.
    image_range: float [B, H, W] metres; negative where a pixel is empty: infinitely far.
    pixel: int64 [N] (scan * H + row) * W + column of each point; point_range: float [N] metres, each point's
        own (it takes the window's centre, whose class is the pixel's).
    fallback: int64 [N], 1..classes, for points without any vote.
    window, neighbours: S (odd) and k <= S * S; cutoff: largest weighted distance in metres that may vote, 0
        for no limit; sigma: of the Gaussian, in pixels; wrap: the window goes around the turn.
    """
    if window % 2 == 0 or not 1 <= neighbours <= window * window:
        raise ValueError(f"window {window} must be odd and hold {neighbours} neighbours")
    if image_label.shape != image_range.shape or image_label.ndim != 3:
        raise ValueError(
            f"expected [B, H, W] twice, got {tuple(image_label.shape)}, {tuple(image_range.shape)}"
        )
    height, width = image_range.shape[1:]
    pad = window // 2
    ranges = torch.where(image_range < 0, torch.inf, image_range)
    ranges = _frame(ranges, pad, torch.inf, wrap)
    labels = _frame(image_label, pad, 0, wrap)

    scan, row, column = pixel // (height * width), pixel // width % height, pixel % width
    corner = (scan * (height + 2 * pad) + row) * (width + 2 * pad) + column
    step = torch.arange(window, device=pixel.device)
    offsets = (step[:, None] * (width + 2 * pad) + step[None]).flatten()
    places = corner[:, None] + offsets  # [N, S*S]

    distance = (ranges.flatten()[places] - point_range[:, None]).abs()
    distance[:, window * window // 2] = 0  # the point itself
    distance = distance * inverse_gaussian(window, sigma).to(distance)
    nearest, order = torch.sort(distance, dim=1, stable=True)
    nearest, order = nearest[:, :neighbours], order[:, :neighbours]
    voters = labels.flatten()[places.gather(1, order)]  # [N, k]
    counts = (voters > 0) & (nearest <= cutoff if cutoff > 0 else nearest < torch.inf)
    votes = torch.where(counts, voters, 0)
    # How many voters share each voter's class; the lowest class where several have most.
    support = (votes[:, :, None] == votes[:, None, :]).sum(2) * counts
    rank = support * (classes + 1) - votes
    winner = votes.gather(1, rank.argmax(1, keepdim=True)).squeeze(1)
    return torch.where(counts.any(1), winner, fallback)


def _frame(image: Tensor, pad: int, value: float, wrap: bool) -> Tensor:
    """[B, H, W] -> [B, H + 2 pad, W + 2 pad], filled with `value`; columns around the turn where `wrap`."""
    if wrap and pad:
        image = torch.cat([image[..., -pad:], image, image[..., :pad]], dim=-1)
    side = 0 if wrap else pad
    return F.pad(image, (side, side, pad, pad), value=value)
