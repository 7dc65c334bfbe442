"""The miniature's scenes: deterministic, annotated as told, and hard for Canny in the way they should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from skimage.color import rgb2gray
from skimage.feature import canny

from datamodules.base import random_generator
from datamodules.miniature import contours


def scenes(count: int, style: contours.Style = "outdoor") -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [
        contours.render_scene(random_generator("test", style, index), *contours.SIZES[index % 2], style)
        for index in range(count)
    ]


def test_scenes_have_three_to_six_objects() -> None:
    counts = set()
    for index, (picture, masks, weak) in enumerate(scenes(30)):
        assert picture.shape == (*contours.SIZES[index % 2], 3)
        assert picture.dtype == np.uint8
        assert len(masks) == len(weak)
        assert masks.any((1, 2)).all()
        counts.add(len(masks))
    assert counts == {3, 4, 5, 6}


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        contours.render_nyud(tmp_path / folder)
        contours.render_context(tmp_path / folder / "p", tmp_path / folder / "t", count=2)
    first = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(first) == 24
    for path in first:
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_annotators_shift_by_a_pixel_at_most() -> None:
    mask = np.zeros((1, 30, 30), bool)
    mask[0, 10:20, 8:22] = True
    truth = contours.boundaries(contours.label_map(mask))
    near = binary_dilation(truth, np.ones((3, 3)))
    drawn = [
        contours.boundaries(contours.annotate(random_generator(seed), mask, np.array([False])))
        for seed in range(40)
    ]
    assert all((near | ~plane.astype(bool)).all() for plane in drawn)
    assert {plane.tobytes() for plane in drawn} > {truth.tobytes()}


def test_annotators_drop_weak_objects_more_often_than_clear_ones() -> None:
    masks = np.zeros((3, 30, 30), bool)
    masks[0, 2:8, 2:8] = masks[1, 12:18, 12:18] = masks[2, 22:28, 22:28] = True
    weak = np.array([False, True, False])
    seen = np.zeros(3)
    for seed in range(200):
        labels = contours.annotate(random_generator(seed), masks, weak)
        seen += [labels[5, 5] > 1, labels[15, 15] > 1, labels[25, 25] > 1]
    assert 0.4 < seen[1] / 200 < 0.6
    assert (seen[[0, 2]] / 200 > 0.9).all()


def test_a_front_object_hides_the_one_behind() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :, :3] = True
    masks[1, :, 2:] = True
    assert contours.label_map(masks)[0].tolist() == [2, 2, 3, 3]


def test_ground_texture_is_unannotated_and_in_the_lower_half() -> None:
    """Away from objects, the lower half has far more fine edges than the upper."""
    upper, lower = [], []
    for picture, masks, _ in scenes(20):
        edges = canny(rgb2gray(picture), 1.0, low_threshold=0.02, high_threshold=0.05)
        ground = ~binary_dilation(masks.any(0), iterations=3)
        half = picture.shape[0] // 2
        upper.append(edges[:half][ground[:half]].mean())
        lower.append(edges[half:][ground[half:]].mean())
    assert np.mean(lower) > 2 * np.mean(upper)
    assert np.min(lower) > 0.1


def test_canny_has_far_more_false_positives_at_a_small_sigma() -> None:
    false = {1.0: 0, 3.0: 0}
    for picture, masks, _ in scenes(20):
        near = binary_dilation(contours.boundaries(contours.label_map(masks)), iterations=2)
        for sigma in false:
            edges = canny(
                rgb2gray(picture), sigma, low_threshold=0.5, high_threshold=0.75, use_quantiles=True
            )
            false[sigma] += int((edges & ~near).sum())
    assert false[1.0] > 3 * false[3.0] > 0


def test_context_scenes_have_clear_objects_and_other_textures() -> None:
    assert not any(weak.any() for _, _, weak in scenes(20, "context"))
    assert any(weak.any() for _, _, weak in scenes(20))
    rows, columns = np.mgrid[:20, :20].astype(float)
    waves = contours._pattern(random_generator("w"), rows, columns, ("waves",), (4, 6))
    stripes = contours._pattern(random_generator("w"), rows, columns, ("stripes",), (4, 6))
    assert set(np.unique(stripes)) == {-1, 1}
    assert len(np.unique(waves)) > 100


def test_the_tolerance_is_two_pixels() -> None:
    assert contours.tolerance(0.0075) * np.hypot(64, 96) == pytest.approx(2.02, abs=0.01)
