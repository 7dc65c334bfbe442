"""KNN post-processing against a loop over points, and the cases its definition leaves to be got wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.blocks.range_knn import inverse_gaussian, range_knn
from tasks.blocks.spherical_projection import project


def knn_of_one_point(
    labels: Tensor,
    ranges: Tensor,
    row: int,
    column: int,
    own: float,
    *,
    classes: int,
    neighbours: int,
    window: int,
    cutoff: float,
) -> int | None:
    """RangeNet++'s vote for one point of one scan, pixel by pixel; None where nobody votes."""
    height, width = ranges.shape
    half = window // 2
    total = sum(
        math.exp(-(i * i + j * j) / 2) for i in range(-half, half + 1) for j in range(-half, half + 1)
    )
    found = []
    for i in range(-half, half + 1):
        for j in range(-half, half + 1):
            y, x = row + i, column + j
            inside = 0 <= y < height and 0 <= x < width and ranges[y, x] >= 0
            distance = abs(float(ranges[y, x]) - own) if inside else math.inf
            distance = 0.0 if i == j == 0 else distance
            found.append((distance * (1 - math.exp(-(i * i + j * j) / 2) / total), len(found), y, x))
    votes = [0] * (classes + 1)
    for distance, _, y, x in sorted(found)[:neighbours]:
        if distance <= cutoff:
            votes[int(labels[y, x])] += 1
    best = max(votes[1:])
    return votes[1:].index(best) + 1 if best else None


@pytest.mark.parametrize(
    ("window", "neighbours", "cutoff"), [(5, 5, 1.0), (7, 7, 1.0), (3, 9, 0.4), (5, 1, 2.0)]
)
def test_against_a_loop_over_points(window: int, neighbours: int, cutoff: float) -> None:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(400, 4, generator=generator) * torch.tensor([6.0, 6.0, 0.8, 0.1])
    scan = torch.arange(400) // 200
    classes, height, width = 4, 6, 16
    image = project(points, scan, 2, height, width, 3.0, -25.0)
    labels = torch.randint(0, classes + 1, image.index.shape, generator=generator)
    fallback = torch.full((400,), 3)
    options = {"classes": classes, "neighbours": neighbours, "window": window, "cutoff": cutoff}
    ours = range_knn(labels, image.channels[:, 0], image.pixel, image.range, fallback, **options)
    slow = []
    for pixel, own in zip(image.pixel.tolist(), image.range.tolist(), strict=True):
        number, row, column = pixel // (height * width), pixel // width % height, pixel % width
        answer = knn_of_one_point(labels[number], image.channels[number, 0], row, column, own, **options)
        slow.append(3 if answer is None else answer)
    assert ours.tolist() == slow
    assert len(set(slow)) == classes
    assert ours.min() > 0


def test_inverse_gaussian_by_hand() -> None:
    kernel = inverse_gaussian(3)
    corner, edge = math.exp(-1.0), math.exp(-0.5)
    total = 1 + 4 * corner + 4 * edge
    assert kernel.shape == (9,)
    assert kernel[4].item() == pytest.approx(1 - 1 / total)
    assert kernel[1].item() == pytest.approx(1 - edge / total)
    assert kernel[8].item() == pytest.approx(1 - corner / total)


def wall_behind_a_pole() -> tuple[Tensor, Tensor]:
    """One row block: a pole (class 2) at 5 m in front of a wall (class 1) at 20 m."""
    ranges = torch.full((1, 5, 5), 20.0)
    labels = torch.ones(1, 5, 5, dtype=torch.int64)
    ranges[0, :, 2], labels[0, :, 2] = 5.0, 2
    return labels, ranges


def test_a_hidden_point_is_freed_from_the_label_in_front() -> None:
    labels, ranges = wall_behind_a_pole()
    middle = torch.tensor([12, 12])
    options = {"classes": 2, "neighbours": 5, "window": 5}
    own = torch.tensor([20.0, 5.0])  # the wall's point behind the pole, and the pole's own
    answer = range_knn(labels, ranges, middle, own, torch.tensor([2, 2]), **options)
    assert answer.tolist() == [1, 2]


def test_ranges_are_metres() -> None:
    # Pole and wall are 15 m apart, and 0.12 after a normalisation, which would let the wall vote for a pole.
    labels, ranges = wall_behind_a_pole()
    pixel, fallback = torch.tensor([12]), torch.tensor([2])
    options = {"classes": 2, "neighbours": 25, "window": 5, "cutoff": 1.0}
    answer = range_knn(labels, ranges, pixel, torch.tensor([5.0]), fallback, **options)
    assert answer.item() == 2
    normalised = range_knn(
        labels, (ranges - 12.12) / 122.3 + 1, pixel, torch.tensor([0.94]), fallback, **options
    )
    assert normalised.item() == 1


def test_empty_pixels_and_the_border_are_nobody() -> None:
    # A zero padding would have range 0 and class 0; a point at 0.5 m in a corner would find it near.
    labels = torch.tensor([[[2, 1], [1, 1]]])
    ranges = torch.tensor([[[0.5, -1.0], [-1.0, -1.0]]])
    answer = range_knn(
        labels,
        ranges,
        torch.tensor([0]),
        torch.tensor([0.5]),
        torch.tensor([1]),
        classes=2,
        window=3,
        neighbours=9,
    )
    assert answer.item() == 2


def test_class_zero_never_wins() -> None:
    labels = torch.zeros(1, 3, 3, dtype=torch.int64)
    ranges = torch.full((1, 3, 3), 4.0)
    pixel, own, fallback = torch.tensor([4]), torch.tensor([4.0]), torch.tensor([2])
    options = {"classes": 2, "window": 3, "neighbours": 9}
    assert range_knn(labels, ranges, pixel, own, fallback, **options).item() == 2
    labels[0, 0, 0] = 1  # one vote against eight for nobody
    assert range_knn(labels, ranges, pixel, own, fallback, **options).item() == 1


def test_equal_votes_go_to_the_lowest_class() -> None:
    labels = torch.tensor([[[3, 3, 0, 2, 2]]])
    ranges = torch.full((1, 1, 5), 4.0)
    pixel, own, fallback = torch.tensor([2]), torch.tensor([4.0]), torch.tensor([1])
    options = {"classes": 3, "window": 5, "neighbours": 5}
    assert range_knn(labels, ranges, pixel, own, fallback, **options).item() == 2


def test_scans_of_a_batch_do_not_see_each_other_and_wrapping_is_an_option() -> None:
    labels = torch.stack([torch.full((3, 8), 1), torch.full((3, 8), 2)])
    ranges = torch.full((2, 3, 8), 4.0)
    pixel = torch.arange(48)
    options = {"classes": 2, "window": 5, "neighbours": 5}
    answer = range_knn(labels, ranges, pixel, torch.full((48,), 4.0), torch.ones(48).long(), **options)
    assert answer.tolist() == [1] * 24 + [2] * 24
    # In column 0 a window of 5 sees one pixel, or around the turn two more.
    labels = torch.tensor([[[2, 2, 2, 2, 2, 2, 1, 1]]])
    ranges = torch.tensor([[[4.0, -1.0, -1.0, 4.0, 4.0, 4.0, 4.0, 4.0]]])
    point = (torch.tensor([0]), torch.tensor([4.0]), torch.tensor([2]))
    assert range_knn(labels, ranges, *point, **options).item() == 2
    assert range_knn(labels, ranges, *point, **options, wrap=True).item() == 1


def test_bad_options_are_named() -> None:
    labels, ranges = wall_behind_a_pole()
    point = (torch.tensor([0]), torch.tensor([4.0]), torch.tensor([2]))
    with pytest.raises(ValueError, match="odd"):
        range_knn(labels, ranges, *point, classes=2, window=4, neighbours=3)
    with pytest.raises(ValueError, match="B, H, W"):
        range_knn(labels[0], ranges, *point, classes=2)
