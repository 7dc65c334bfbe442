"""What attacks that follow the gradient's sign share: losses of one or several classifiers, and what is done
to a gradient before its sign is taken.

FGSM (Goodfellow et al., ICLR 2015) and I-FGSM (Kurakin et al., ICLR 2017) are steps of the sign. MI (Dong et
al., CVPR 2018) accumulates normalised gradients, DI (Xie et al., CVPR 2019) takes them through a random
resize and padding, TI (Dong et al., CVPR 2019) smooths them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Interpolation = Literal["nearest", "bilinear"]


class Classifier(Protocol):
    """What can be attacked."""

    def logits(self, image: Tensor) -> Tensor:
        """float [B, 3, H, W] in [0, 1] -> [B, C]"""
        ...


def ensemble_loss(logits: Sequence[Tensor], label: Tensor, auxiliary: Sequence[Tensor] = ()) -> Tensor:
    """Cross-entropy of the true label under the mean of the models' logits, summed over the pictures.

    logits, auxiliary: [B, C] a model; the auxiliary heads' mean adds a second cross-entropy of weight 1. The
    sum keeps each picture's gradient free of the others in its batch.
    """
    loss = F.cross_entropy(torch.stack(list(logits)).mean(0), label, reduction="sum")
    if auxiliary:
        loss = loss + F.cross_entropy(torch.stack(list(auxiliary)).mean(0), label, reduction="sum")
    return loss


def input_gradient(
    models: Sequence[Classifier],
    image: Tensor,
    label: Tensor,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    use_aux: bool = False,
) -> Tensor:
    """Gradient of `ensemble_loss` by the picture, [B, 3, H, W]; the models' own gradients stay untouched.

    transform: the models see `transform(picture)` instead. use_aux: also the second heads of models that have
    one.
    """
    image = image.detach().requires_grad_(True)
    seen = image if transform is None else transform(image)
    logits, auxiliary = [], []
    for model in models:
        if use_aux and hasattr(model, "logits_and_auxiliary"):
            main, second = model.logits_and_auxiliary(seen)
            auxiliary += [] if second is None else [second]
        else:
            main = model.logits(seen)
        logits.append(main)
    (gradient,) = torch.autograd.grad(ensemble_loss(logits, label, auxiliary), image)
    return gradient


def normalise_l1(gradient: Tensor) -> Tensor:
    """Each picture's gradient divided by its L1 norm: [B, C, H, W]; a gradient of 0 stays 0."""
    norm = gradient.abs().sum((1, 2, 3), keepdim=True)
    return gradient / norm.clamp(min=torch.finfo(gradient.dtype).tiny)


def gaussian_kernel(size: int) -> Tensor:
    """[size, size], sum 1: outer product of the normal density at `size` points over -3..3 (size 1: one)."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a kernel's size must be odd and positive, got {size}")
    line = np.exp(-(np.linspace(-3, 3, size) ** 2) / 2) if size > 1 else np.ones(1)
    kernel = np.outer(line, line)
    return torch.from_numpy(kernel / kernel.sum()).float()


def convolve_channels(image: Tensor, kernel: Tensor) -> Tensor:
    """Each channel [B, C, H, W] by itself with one odd kernel [k, k], zeros around the picture, same size."""
    channels = image.shape[1]
    weight = kernel.to(image).expand(channels, 1, -1, -1)
    return F.conv2d(image, weight, padding=kernel.shape[-1] // 2, groups=channels)


def diversify(
    image: Tensor,
    generator: torch.Generator,
    *,
    probability: float = 0.7,
    enlargement: float = 330 / 299,
    interpolation: Interpolation = "nearest",
) -> Tensor:
    """DI's random transform: with `probability` resize [B, C, H, W] to a random size and pad with zeros at a
    random offset up to round(H * enlargement); otherwise the picture as it is. One draw for the whole batch.

    Sides are uniform integers in [H, round(H * enlargement)): [299, 330) for 299.
    """
    chance = torch.rand(3, generator=generator).tolist()
    if chance[0] >= probability:
        return image
    height, width = image.shape[-2:]
    tall, wide = round(height * enlargement), round(width * enlargement)
    side = int(torch.randint(height, max(height + 1, tall), (), generator=generator))
    across = max(1, round(side * width / height))
    resized = F.interpolate(image, (side, across), mode=interpolation)
    top = int(chance[1] * (tall - side + 1))
    left = int(chance[2] * (wide - across + 1))
    return F.pad(resized, (left, wide - across - left, top, tall - side - top))


def within(image: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Clip to the eps ball of the clean picture, then to [0, 1]."""
    return torch.minimum(torch.maximum(image, clean - eps), clean + eps).clamp(0, 1)
