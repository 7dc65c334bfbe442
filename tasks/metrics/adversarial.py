"""How often attacked classifiers err, and what the noise looks like.

Gao et al., "Patch-Wise Attack for Fooling Deep Neural Network", ECCV 2020: Eq. 7 (patch map) and section 4.1
(success rates).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric


def quantise(image: Tensor) -> Tensor:
    """Pictures in [0, 1] as they'd be saved: rounded to 0..255, and back.

    >>> (quantise(torch.tensor([0.0, 0.5019, 1.0])) * 255).tolist()
    [0.0, 128.0, 255.0]
    """
    return (image.clamp(0, 1) * 255).round() / 255


def patch_map(noise: Tensor, eps: float) -> Tensor:
    """|noise| * 256 / eps (Eq. 7), values over 255 set to 0 as in the paper's footnote 1; noise and eps in
    one unit.

    The full noise |noise| = eps therefore shows black, in a patch of bright values just below it.

    >>> patch_map(torch.tensor([0.0, -8.0, 16.0]), eps=16).tolist()
    [0.0, 128.0, 0.0]
    """
    scaled = noise.abs() * (256.0 / eps)
    return torch.where(scaled > 255, torch.zeros_like(scaled), scaled)


def patchiness(noise: Tensor, *, signed: bool = False) -> Tensor:
    """Lag-1 spatial autocorrelation of |noise|: [B, C, H, W] -> float [B] in -1..1, 0 for noise of one strength.

    The mean over channels and both directions of the correlation between neighbouring pixels, with the mean and
    the variance of the whole channel. Independent pixels give about 0, large patches nearly 1.
    signed: of the noise itself, which tells patches apart where all of it has reached the bound.
    """
    if noise.ndim != 4 or min(noise.shape[-2:]) < 2:
        raise ValueError(f"noise must be [B, C, H, W] of at least 2 x 2 pixels, got {tuple(noise.shape)}")
    values = noise.double() if signed else noise.double().abs()
    centred = values - values.mean((2, 3), keepdim=True)
    variance = centred.square().mean((2, 3))
    across = (centred[..., 1:] * centred[..., :-1]).mean((2, 3))
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean((2, 3))
    flat = variance <= (1e-4 * noise.double().abs().mean((2, 3))).square()  # no more than float rounding
    correlation = (across + down) / (2 * torch.where(flat, torch.ones_like(variance), variance))
    return torch.where(flat, torch.zeros_like(correlation), correlation).mean(1).float()


class Rates(NamedTuple):
    """Percentages of V victims over all pictures, float64 [V] each.

    clean: errors on clean pictures. adversarial, quantised: on adversarial ones, as floats and rounded to
    0..255. clean_correct: errors on the adversarial pictures among those that the victim gets right when
    clean; NaN: none.
    """

    clean: Tensor
    adversarial: Tensor
    quantised: Tensor
    clean_correct: Tensor


def error_rates(clean: Tensor, adversarial: Tensor, quantised: Tensor) -> Rates:
    """From whether each victim errs on each picture: three bool [N, V].

    >>> clean = torch.tensor([[True], [False], [False], [False]])
    >>> attacked = torch.tensor([[True], [True], [False], [False]])
    >>> rates = error_rates(clean, attacked, attacked)
    >>> rates.adversarial.item(), round(rates.clean_correct.item(), 1)
    (50.0, 33.3)
    """
    shapes = [tuple(wrong.shape) for wrong in (clean, adversarial, quantised)]
    if len(set(shapes)) > 1 or clean.ndim != 2:
        raise ValueError(f"errors must be three [N, V] of one shape, got {shapes}")
    right = ~clean
    return Rates(
        *(100 * wrong.double().mean(0) for wrong in (clean, adversarial, quantised)),
        100 * (adversarial & right).double().sum(0) / right.double().sum(0),
    )


class VictimErrors(Metric):
    """The errors of V victims on clean, adversarial and rounded pictures, gathered over batches and
    processes."""

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("clean", "adversarial", "quantised"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, clean: Tensor, adversarial: Tensor, quantised: Tensor) -> None:
        """Whether each victim errs on each picture: three bool [B, V]."""
        self.clean.append(clean)
        self.adversarial.append(adversarial)
        self.quantised.append(quantised)

    def compute(self) -> Tensor:
        """The four `Rates` as one tensor [4, V], since torchmetrics takes the axis off a [V] of one
        victim."""
        return torch.stack(
            error_rates(*(_joined(part) for part in (self.clean, self.adversarial, self.quantised)))
        )


class NoiseStatistics(Metric):
    """Largest and mean |noise| in 0..255 and both kinds of mean patchiness over all pictures."""

    full_state_update = False
    largest: Tensor
    total: Tensor
    patchy: Tensor
    patchy_signed: Tensor
    pictures: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.tensor(0.0), dist_reduce_fx="max")
        for name in ("total", "patchy", "patchy_signed", "pictures"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, noise: Tensor) -> None:
        """noise: adversarial less clean pictures, [B, C, H, W], of values in [0, 1]."""
        noise = noise.float() * 255
        self.largest = torch.maximum(self.largest, noise.abs().max())
        self.total = self.total + noise.abs().double().mean((1, 2, 3)).sum()
        self.patchy = self.patchy + patchiness(noise).double().sum()
        self.patchy_signed = self.patchy_signed + patchiness(noise, signed=True).double().sum()
        self.pictures = self.pictures + len(noise)

    def compute(self) -> dict[str, float]:
        return {
            "max_noise": float(self.largest),
            "mean_noise": float(self.total / self.pictures),
            "patchiness": float(self.patchy / self.pictures),
            "patchiness_signed": float(self.patchy_signed / self.pictures),
        }


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    """A list state, which processes that were synchronised hold as one tensor."""
    return parts if isinstance(parts, Tensor) else torch.cat(parts)
