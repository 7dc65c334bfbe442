"""PSNR, SSIM and luma by hand, and beside scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity as reference_ssim

from tasks.metrics.image_quality import (
    ImageMeans,
    luma,
    peak_signal_noise_ratio,
    shaved,
    structural_similarity,
)


def test_psnr_by_hand_picture_by_picture() -> None:
    truth = torch.zeros(3, 3, 4, 4)
    restored = truth.clone()
    restored[0] += 0.1  # MSE 0.01 -> 20 dB
    restored[1, 0, 0, 0] = 1.0  # MSE 1/48 -> 10 log10 48
    expected = torch.tensor([20.0, 10 * np.log10(48), 100.0])
    torch.testing.assert_close(peak_signal_noise_ratio(restored, truth), expected.float())


def test_ssim_is_one_for_equals_and_that_of_scikit_image() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 3, 24, 20, generator=generator)
    restored = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    torch.testing.assert_close(structural_similarity(truth, truth), torch.ones(2))
    found = structural_similarity(restored, truth)
    for index in range(2):
        expected, _ = reference_ssim(
            restored[index].double().numpy(), truth[index].double().numpy(), data_range=1.0, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True,
        )  # fmt: skip
        assert float(found[index]) == pytest.approx(expected, abs=0.02)  # borders are treated otherwise
    with pytest.raises(ValueError, match="11 pixels"):
        structural_similarity(truth[..., :10], truth[..., :10])


def test_luma_of_known_colours() -> None:
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).T.view(1, 3, 1, 5)
    assert (luma(colours) * 255).round().flatten().tolist() == [16, 235, 81, 145, 41]
    with pytest.raises(ValueError, match="RGB"):
        luma(torch.zeros(1, 1, 2, 2))


def test_shaved() -> None:
    image = torch.arange(30.0).view(1, 1, 5, 6)
    assert shaved(image, 2).flatten().tolist() == [14.0, 15.0]
    with pytest.raises(ValueError, match="shave 3"):
        shaved(image, 3)


def test_means_over_batches_of_different_size() -> None:
    mean = ImageMeans()
    assert mean.empty
    mean.update(torch.tensor([1.0, 2.0, 3.0]))
    mean.update(torch.tensor([10.0]))
    assert float(mean.compute()) == 4.0
    with pytest.raises(ValueError, match="finite"):
        mean.update(torch.tensor([torch.nan]))


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="one shape"):
        peak_signal_noise_ratio(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
