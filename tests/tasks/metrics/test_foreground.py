"""Foreground error: numbers by hand, the library's PSNR, groups of unequal size, segmentation of a plain scene."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from tasks.metrics.foreground import GroupMeans, foreground_mse, psnr_of, segment_foreground


def test_by_hand() -> None:
    true = torch.zeros(2, 3, 2, 2)
    made = true.clone()
    made[0, :, 0, 0] = 10 / 255
    made[0, 0, 1, 1] = 1.0
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0] = True
    assert foreground_mse(made, true, mask).tolist() == pytest.approx([50.0, 0.0])  # 100 at one of two pixels
    whole = foreground_mse(made, true, torch.ones_like(mask))
    assert whole[0].item() == pytest.approx((100 + 255**2 / 3) / 4)
    assert foreground_mse(made, true, torch.zeros_like(mask)).tolist() == pytest.approx(whole.tolist())
    assert psnr_of(torch.tensor([100.0, 0.0])).tolist() == pytest.approx([28.1308, 100.0])
    with pytest.raises(ValueError, match="expected two pictures"):
        foreground_mse(made, true, mask[:1])


def test_the_whole_picture_is_the_librarys_psnr() -> None:
    torch.manual_seed(0)
    made, true = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    mse = foreground_mse(made, true, torch.ones(1, 8, 8, dtype=torch.bool))
    assert mse.item() == pytest.approx(255**2 * mean_squared_error(true.numpy(), made.numpy()), rel=1e-4)
    assert psnr_of(mse).item() == pytest.approx(
        peak_signal_noise_ratio(true.numpy(), made.numpy(), data_range=1), rel=1e-4
    )


def test_groups_count_alike_whatever_their_size_and_the_batches() -> None:
    values, groups = torch.tensor([1.0, 3.0, 10.0, 2.0]), torch.tensor([7, 7, 2, 7])
    once, twice = GroupMeans(), GroupMeans()
    once.update(values, groups)
    twice.update(values[:1], groups[:1])
    twice.update(values[1:], groups[1:])
    assert float(once.compute()) == float(twice.compute()) == 6.0  # (2 + 10) / 2
    twice.reset()
    assert twice.empty
    for bad in (torch.tensor([1.0, torch.nan]), torch.ones(3)):
        with pytest.raises(ValueError, match="one finite number"):
            once.update(bad, torch.zeros(2, dtype=torch.long))


def test_segmentation_finds_an_object_on_a_plain_ground() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 64, 64), 0.4) + 0.01 * torch.randn(3, 64, 64)
    true = torch.zeros(64, 64, dtype=torch.bool)
    true[20:44, 12:50] = True
    image[:, true] = torch.tensor([0.9, 0.2, 0.1])[:, None]
    found = segment_foreground(image)
    overlap = (found & true).sum() / (found | true).sum()
    assert float(overlap) > 0.85
    assert bool(segment_foreground(torch.full((3, 16, 16), 0.5)).all())  # nothing stands out: all of it
