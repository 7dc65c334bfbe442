"""MATLAB's bicubic: its kernel, a slow reference, its invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.restoration.bicubic import bicubic_matrix, bicubic_resize, cubic


def test_kernel_by_hand() -> None:
    # h(0) = 1, h(1/2) = 1.5/8 - 2.5/4 + 1 = 0.5625, h(3/2) = -0.5 * 3.375 + 2.5 * 2.25 - 6 + 2 = -0.0625.
    x = torch.tensor([0.0, 0.5, -0.5, 1.0, 1.5, 2.0, 2.5], dtype=torch.float64)
    assert cubic(x).tolist() == [1.0, 0.5625, 0.5625, 0.0, -0.0625, 0.0, 0.0]


def slow_row(line: list[float], new_size: int) -> list[float]:
    """`imresize` of one line, pixel by pixel."""
    size = len(line)
    scale = new_size / size
    widening = max(1.0, 1 / scale)
    result = []
    for out in range(new_size):
        centre = (out + 0.5) / scale - 0.5
        total = weight_sum = 0.0
        for tap in range(math.floor(centre - 2 * widening) - 1, math.ceil(centre + 2 * widening) + 2):
            weight = float(cubic(torch.tensor((centre - tap) / widening, dtype=torch.float64)))
            inside = tap
            while not 0 <= inside < size:
                inside = -1 - inside if inside < 0 else 2 * size - 1 - inside
            total += weight * line[inside]
            weight_sum += weight
        result.append(total / weight_sum)
    return result


@pytest.mark.parametrize(("size", "new_size"), [(8, 16), (9, 27), (12, 4), (16, 4), (3, 1), (7, 5)])
def test_matrix_is_the_slow_reference(size: int, new_size: int) -> None:
    line = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    found = bicubic_matrix(size, new_size) @ line
    torch.testing.assert_close(found, torch.tensor(slow_row(line.tolist(), new_size), dtype=torch.float64))


def test_rows_sum_to_one_and_a_ramp_stays_one_inside() -> None:
    matrix = bicubic_matrix(20, 40)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(40, dtype=torch.float64))
    ramp = matrix @ torch.arange(20.0, dtype=torch.float64)
    torch.testing.assert_close(ramp[8:32], (torch.arange(8, 32, dtype=torch.float64) + 0.5) / 2 - 0.5)


def test_agrees_with_pytorch_away_from_the_border() -> None:
    image = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(1))
    reference = F.interpolate(image, size=(16, 12), mode="bicubic", antialias=True)
    torch.testing.assert_close(
        bicubic_resize(image, (16, 12))[..., 3:-3, 3:-3], reference[..., 3:-3, 3:-3], atol=1e-5, rtol=0
    )


def test_flips_and_turns_with_the_picture_and_stays_float32() -> None:
    image = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(2))
    big = bicubic_resize(image, (36, 27))
    torch.testing.assert_close(bicubic_resize(image.flip(3), (36, 27)), big.flip(3))
    torch.testing.assert_close(bicubic_resize(image.transpose(2, 3), (27, 36)), big.transpose(2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(bicubic_resize(image, (36, 27)), big)
    with pytest.raises(ValueError, match="positive"):
        bicubic_matrix(4, 0)
