"""Crops, mirrors and normalisation of small pictures."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tasks.blocks.crop_flip import ChannelNormalise, augment, crop_flip


def test_windows_by_hand() -> None:
    canvas = torch.arange(2 * 16.0).view(2, 1, 4, 4)
    cut = crop_flip(canvas, torch.tensor([1, 0]), torch.tensor([2, 1]), torch.tensor([False, True]), (2, 2))
    assert cut[0, 0].tolist() == [[6, 7], [10, 11]]
    assert cut[1, 0].tolist() == [[18, 17], [22, 21]]


def test_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    canvas = torch.rand(6, 3, 9, 11, generator=generator)
    top, left = (torch.randint(4, (6,), generator=generator) for _ in range(2))
    flip = torch.rand(6, generator=generator) < 0.5
    found = crop_flip(canvas, top, left, flip, (5, 7))
    for picture, y, x, mirrored, window in zip(canvas, top, left, flip, found, strict=True):
        expected = picture[:, y : y + 5, x : x + 7]
        assert torch.equal(window, expected.flip(2) if mirrored else expected)


@pytest.mark.parametrize(("canvas", "side", "larger"), [("pad", 32, 40), ("enlarge", 64, 72)])
def test_augmented_pictures_are_windows_of_the_larger_one(canvas: str, side: int, larger: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, side, side)
    full = (
        F.pad(image, (4, 4, 4, 4))
        if canvas == "pad"
        else F.interpolate(image, (larger, larger), mode="bilinear")
    )[0]
    windows = {
        picture[:, y : y + side, x : x + side].numpy().tobytes(): (y, x, mirrored)
        for mirrored, picture in ((False, full), (True, full.flip(2)))
        for y in range(larger - side + 1)
        for x in range(larger - side + 1)
    }
    found = [
        windows[view.contiguous().numpy().tobytes()]
        for view in augment(image.expand(300, -1, -1, -1), canvas)
    ]
    assert {y for y, _, _ in found} == {x for _, x, _ in found} == set(range(9))
    assert 0.4 < sum(mirrored for _, _, mirrored in found) / 300 < 0.6


def test_switched_off_and_unknown() -> None:
    image = torch.rand(2, 3, 8, 8)
    assert augment(image, "none") is image
    with pytest.raises(ValueError, match="unknown canvas 'zoom'"):
        augment(image, "zoom")


def test_normalisation_by_hand() -> None:
    normalise = ChannelNormalise((0.5, 0.25), (0.5, 0.25), 2)
    assert normalise(torch.ones(1, 2, 1, 1)).flatten().tolist() == [1.0, 3.0]
    assert set(normalise.state_dict()) == {"mean", "std"}
    with pytest.raises(ValueError, match="3 channels, mean and std have 2 and 2"):
        ChannelNormalise((0.5, 0.25), (0.5, 0.25), 3)
    with pytest.raises(ValueError, match="std must be positive"):
        ChannelNormalise((0.5,), (0.0,), 1)
