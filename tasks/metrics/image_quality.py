"""How near a restored picture is to the true one: PSNR and SSIM on RGB, and on luma with the border shaved.

PSNR is 10 log10(1 / MSE) in dB for pictures in [0, 1], picture by picture, the mean over pictures reported; a
perfect picture counts 100 dB. SSIM (Wang et al., IEEE TIP 2004) has the Gaussian window of 11 x 11, sigma
1.5, as torchmetrics computes it. Luma is that of ITU-R BT.601 in "studio swing", rounded to 8 bits as
MATLAB's `rgb2ycbcr` does for uint8 pictures: the published figures of Set5, Set14, B100 are on it, with
`factor` pixels shaved off each side.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.functional.image import structural_similarity_index_measure

PSNR_LIMIT = 100.0
LUMA = (65.481, 128.553, 24.966)
WINDOW = 11


def peak_signal_noise_ratio(restored: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of each picture, [B], for pictures [B, C, H, W] in [0, 1].

    >>> peak_signal_noise_ratio(torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.5)).round().tolist()
    [20.0]
    """
    _same(restored, truth)
    error = (restored.double() - truth.double()).square().flatten(1).mean(dim=1)
    return (-10 * error.clamp(min=10 ** (-PSNR_LIMIT / 10)).log10()).float()


def structural_similarity(restored: Tensor, truth: Tensor) -> Tensor:
    """SSIM of each picture, [B], for pictures [B, C, H, W] in [0, 1] of at least 11 x 11 pixels."""
    _same(restored, truth)
    if min(restored.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM's window needs {WINDOW} pixels a side, got {tuple(restored.shape)}")
    index = structural_similarity_index_measure(
        restored.float(), truth.float(), data_range=1.0, reduction="none"
    )
    assert isinstance(index, Tensor)
    return index.reshape(len(restored))


def luma(image: Tensor) -> Tensor:
    """RGB in [0, 1], [B, 3, H, W] -> BT.601 luma of its 8-bit rounding, [B, 1, H, W] in whole 255ths (16..235).

    >>> (255 * luma(torch.ones(1, 3, 1, 1))).item()
    235.0
    """
    if image.shape[1] != 3:
        raise ValueError(f"luma expects RGB pictures [B, 3, H, W], got {tuple(image.shape)}")
    eight_bit = (image.clamp(0, 1) * 255).round() / 255
    weights = image.new_tensor(LUMA).view(1, 3, 1, 1)
    return (16 + (weights * eight_bit).sum(dim=1, keepdim=True)).round() / 255


def shaved(image: Tensor, border: int) -> Tensor:
    """[..., H, W] without `border` pixels on each side."""
    height, width = image.shape[-2:]
    if min(height, width) <= 2 * border:
        raise ValueError(f"cannot shave {border} pixels off each side of {height} x {width}")
    return image[..., border : height - border, border : width - border]


class ImageMeans(MeanMetric):
    """The mean over pictures of a number each. NaN and infinity are refused."""

    def __init__(self) -> None:
        super().__init__(nan_strategy="error")

    def update(self, values: Tensor) -> None:  # type: ignore[override]
        """values: float [B]."""
        if values.ndim != 1 or not values.isfinite().all():
            raise ValueError(f"expected one finite number a picture, got {values}")
        super().update(values.detach().float())

    @property
    def empty(self) -> bool:
        """Whether nothing was taken in."""
        return float(self.weight) == 0


def _same(restored: Tensor, truth: Tensor) -> None:
    if restored.shape != truth.shape or restored.ndim != 4:
        raise ValueError(
            f"the restored picture is {tuple(restored.shape)}, the true one {tuple(truth.shape)}; expected "
            "[B, C, H, W] of one shape"
        )
