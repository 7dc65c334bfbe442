"""The spherical projection: pixels by hand, collisions, and a slow reference, point after point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tasks.blocks.spherical_projection import normalise, pixels, project, to_image

UP, DOWN = 3.0, -25.0


def at(pitch: float, yaw: float = 0.0, distance: float = 10.0) -> list[float]:
    """A point (x, y, z, remission 0.5) at a pitch and a counter-clockwise yaw in degrees."""
    p, a = math.radians(pitch), math.radians(yaw)
    flat = math.cos(p)
    return [distance * flat * math.cos(a), distance * flat * math.sin(a), distance * math.sin(p), 0.5]


def random_scans(count: int = 3000, scans: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(count, 4, generator=generator) * torch.tensor([9.0, 9.0, 1.5, 0.1])
    scan = torch.randint(0, scans, (count,), generator=generator).sort().values
    return points, scan


def test_columns_by_hand() -> None:
    # Columns go clockwise from behind: column 0 holds yaws (90, 180], 1 (0, 90], 2 (-90, 0], 3 (-180, -90].
    points = torch.tensor([at(0, 180), at(0, 90), at(0, 0), at(0, -90), at(0, 100), at(0, 80)])
    points[0, 1] = 0.0  # exactly behind: atan2(0, -1) = pi, yaw = -pi, column 0
    _, column, _ = pixels(points, 4, 4, UP, DOWN)
    assert column.tolist() == [0, 1, 2, 3, 0, 1]


def test_behind_from_the_other_side_is_clamped() -> None:
    _, column, _ = pixels(torch.tensor([[-1.0, -0.0, 0.0, 0.0]]), 4, 4, UP, DOWN)
    assert column.tolist() == [3]  # yaw = +pi would be column 4


def test_rows_by_hand() -> None:
    # 28 degrees in 28 rows: row k spans pitches from 3 - k down to 2 - k.
    points = torch.tensor([at(2.5), at(1.5), at(-10.5), at(-24.5), at(10.0), at(-40.0)])
    row, _, _ = pixels(points, 28, 8, UP, DOWN)
    assert row.tolist() == [0, 1, 13, 27, 0, 27]


def test_eq_1_as_printed_would_waste_the_lower_rows() -> None:
    pitch = math.radians(-24.5)
    printed = (1 - (pitch + math.radians(UP)) / math.radians(UP - DOWN)) * 64
    assert printed > 64  # far outside of the image: why the added term is |fov_down|
    row, _, _ = pixels(torch.tensor([at(-24.5)]), 64, 8, UP, DOWN)
    assert row.item() == 62


def test_range_and_the_sensors_origin() -> None:
    row, _, distance = pixels(torch.tensor([[3.0, 4.0, 12.0, 0.1], [0.0, 0.0, 0.0, 0.0]]), 28, 8, UP, DOWN)
    assert distance.tolist() == [13.0, 0.0]
    assert row.tolist() == [0, 3]


def test_nearest_or_farthest_survives_and_the_first_point_counts() -> None:
    points = torch.tensor([at(-5.0, 10.0, 5.0), at(-5.0, 10.0, 9.0), at(-5.0, 10.0, 7.0), at(-20.0, 120.0)])
    scan = torch.zeros(4, dtype=torch.int64)
    near = project(points, scan, 1, 28, 8, UP, DOWN)
    far = project(points, scan, 1, 28, 8, UP, DOWN, keep="far")
    shared = near.pixel[0]
    assert near.pixel[:3].unique().numel() == 1
    assert near.index.flatten()[shared] == 0
    assert far.index.flatten()[shared] == 1
    assert bool(near.mask.flatten()[shared])  # a mask of index > 0 would lose point 0
    assert int(near.mask.sum()) == 2


def test_equal_ranges_go_to_the_lowest_index() -> None:
    points = torch.tensor([at(-20.0, 120.0), at(-5.0, 10.0), at(-5.0, 10.0)])
    for keep in ("near", "far"):
        image = project(points, torch.zeros(3, dtype=torch.int64), 1, 28, 8, UP, DOWN, keep=keep)
        assert image.index.flatten()[image.pixel[1]] == 1


@pytest.mark.parametrize("keep", ["near", "far"])
def test_agrees_with_writing_point_after_point(keep: str) -> None:
    points, scan = random_scans()
    image = project(points, scan, 3, 16, 32, UP, DOWN, keep=keep)
    expected = torch.full((3, 16, 32), -1)
    distance = points[:, :3].norm(dim=1)
    for place in torch.argsort(distance, descending=keep == "near").tolist():  # the last written survives
        x, y, z, _ = points[place].tolist()
        r = math.sqrt(x * x + y * y + z * z)
        u = math.floor(0.5 * (-math.atan2(y, x) / math.pi + 1) * 32)
        v = math.floor((1 - (math.degrees(math.asin(z / r)) + 25) / 28) * 16)
        expected[scan[place], min(max(v, 0), 15), min(max(u, 0), 31)] = place
    assert torch.equal(image.index, expected)
    assert int(image.mask.sum()) < len(points)  # there were collisions


def test_the_order_of_points_does_not_matter() -> None:
    points, scan = random_scans()
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(2))
    image = project(points, scan, 3, 16, 32, UP, DOWN)
    shuffled = project(points[order], scan[order], 3, 16, 32, UP, DOWN)
    assert torch.equal(image.channels, shuffled.channels)
    assert torch.equal(image.pixel[order], shuffled.pixel)


def test_scans_of_a_batch_do_not_meet() -> None:
    points, scan = random_scans()
    whole = project(points, scan, 3, 16, 32, UP, DOWN)
    for number in range(3):
        own = points[scan == number]
        alone = project(own, torch.zeros(len(own), dtype=torch.int64), 1, 16, 32, UP, DOWN)
        assert torch.equal(alone.channels[0], whole.channels[number])
        assert torch.equal(alone.pixel + number * 16 * 32, whole.pixel[scan == number])


def test_channels_are_range_xyz_remission_and_empty_is_minus_one() -> None:
    points = torch.tensor([[3.0, 4.0, 0.0, 0.25]])
    image = project(points, torch.zeros(1, dtype=torch.int64), 1, 28, 8, UP, DOWN)
    flat = image.channels.permute(0, 2, 3, 1).reshape(-1, 5)
    assert flat[image.pixel[0]].tolist() == [5.0, 3.0, 4.0, 0.0, 0.25]
    empty = torch.arange(len(flat)) != image.pixel[0]
    assert bool((flat[empty] == -1).all())
    assert int(image.index[~image.mask].unique()) == -1


def test_normalised_empties_are_zero() -> None:
    points = torch.tensor([[3.0, 4.0, 0.0, 0.25]])
    image = project(points, torch.zeros(1, dtype=torch.int64), 1, 28, 8, UP, DOWN)
    mean, std = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0]), torch.tensor([2.0, 1.0, 1.0, 4.0, 0.5])
    result = normalise(image.channels, image.mask, mean, std)
    flat = result.permute(0, 2, 3, 1).reshape(-1, 5)
    assert flat[image.pixel[0]].tolist() == [2.0, 1.0, 1.0, -1.0, 0.5]
    assert float(result.abs().sum()) == pytest.approx(5.5)


def test_labels_go_to_the_image_and_back() -> None:
    points, scan = random_scans()
    label = torch.arange(1, len(points) + 1)
    image = project(points, scan, 3, 16, 32, UP, DOWN)
    labels = to_image(label, image.index, 0)
    assert labels.shape == (3, 16, 32)
    assert bool(((labels > 0) == image.mask).all())
    back = labels.flatten()[image.pixel]
    survives = back == label
    assert torch.equal(survives.nonzero().flatten(), image.index[image.mask].sort().values)
    assert bool((image.range[back - 1] <= image.range).all())  # a hidden point reads a nearer one's label


def test_a_scan_without_points_is_empty() -> None:
    image = project(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 2, 4, 8, UP, DOWN)
    assert not image.mask.any()
    assert image.channels.shape == (2, 5, 4, 8)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="points \\[N, 4\\]"):
        project(torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64), 1, 4, 8, UP, DOWN)
    with pytest.raises(ValueError, match="'near' or 'far'"):
        project(torch.zeros(3, 4), torch.zeros(3).long(), 1, 4, 8, UP, DOWN, keep="first")  # type: ignore[arg-type]
