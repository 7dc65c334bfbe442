"""The task of point-cloud segmentation: what its judge counts and what it draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datamodules.specs import ImageClassesSpec, LidarSpec
from tasks.pointcloud.point_segmentation import PointSegmentation, class_colours


def make_spec(palette: tuple[tuple[int, int, int], ...] = ()) -> LidarSpec:
    return LidarSpec(
        dataset="made-up",
        classes=("unlabeled", "road", "person", "pole"),
        class_frequency=(0.1, 0.6, 0.2, 0.1),
        beams=16,
        azimuths=128,
        fov_up=3.0,
        fov_down=-25.0,
        mean=(0.0,) * 5,
        std=(1.0,) * 5,
        raw_ids=(0, 40, 30, 80),
        palette=palette,
    )


def make_batch() -> dict[str, object]:
    points = torch.tensor(
        [[10.0, 0.0, -2.0, 0.1], [0.0, 10.0, -2.0, 0.2], [5.0, 5.0, 0.0, 0.3], [9.0, 1.0, -1.0, 0.0]]
    )
    scan = torch.tensor([0, 0, 0, 1])
    return {"points": points, "scan": scan, "label": torch.tensor([1, 2, 0, 1]), "id": ["a", "b"]}


def test_points_by_hand() -> None:
    judge = PointSegmentation.judge(make_spec())
    judge.update({"label": torch.tensor([1, 0, 3, 2])}, make_batch())
    scores = judge.compute()
    # road: TP 1, FN 1 -> 50; person: TP 0, FP 1, FN 1 -> 0; pole: predicted only where no truth is -> 0.
    assert scores["miou"] == pytest.approx(50 / 3)
    assert scores["miou_present"] == pytest.approx(25.0)
    assert scores["miou_small"] == 0.0
    assert scores["accuracy"] == pytest.approx(100 / 3)
    assert scores["iou_road"] == 50.0
    assert "iou_pole" not in scores
    assert "miou_2d" not in scores


def test_point_measures_are_always_there_and_image_measures_only_with_images() -> None:
    judge = PointSegmentation.judge(make_spec())
    judge.update({"label": torch.tensor([1, 2, 0, 1])}, make_batch())
    scores = judge.compute()
    declared = {measure.name for measure in PointSegmentation.measures}
    assert declared - set(scores) == {"miou_2d", "accuracy_2d"}
    assert scores["miou"] == pytest.approx(200 / 3)
    assert scores["miou_small"] == pytest.approx(50.0)  # person 100, pole absent
    assert PointSegmentation.primary().name == "miou"


def test_the_two_dimensional_score_is_kept_apart() -> None:
    judge = PointSegmentation.judge(make_spec())
    prediction = {
        "label": torch.tensor([1, 2, 1, 1]),
        "image_label": torch.tensor([[1, 1], [2, 3]]),
        "image_truth": torch.tensor([[1, 2], [2, 0]]),
    }
    judge.update(prediction, make_batch())
    scores = judge.compute()
    assert scores["accuracy"] == 100.0
    assert scores["accuracy_2d"] == pytest.approx(200 / 3)
    assert scores["miou_2d"] == pytest.approx((50 + 50 + 0) / 3)
    judge.reset()
    judge.update({"label": torch.tensor([1, 2, 1, 1])}, make_batch())
    assert "miou_2d" not in judge.compute()


def test_half_a_two_dimensional_prediction_is_refused() -> None:
    judge = PointSegmentation.judge(make_spec())
    with pytest.raises(ValueError, match="together, or neither"):
        judge.update({"label": torch.tensor([1, 2, 1, 1]), "image_label": torch.tensor([1])}, make_batch())


def test_a_prediction_for_pixels_instead_of_points_is_refused() -> None:
    judge = PointSegmentation.judge(make_spec())
    with pytest.raises(ValueError, match="must be equal"):
        judge.update({"label": torch.ones(1, 16, 128).long()}, make_batch())


def test_nothing_small_in_a_spec_is_nan() -> None:
    spec = LidarSpec(**{**make_spec().__dict__, "classes": ("unlabeled", "road", "car", "wall")})
    judge = PointSegmentation.judge(spec)
    judge.update({"label": torch.tensor([1, 2, 0, 1])}, make_batch())
    assert math.isnan(judge.compute()["miou_small"])


def test_pictures_show_truth_and_prediction_in_class_colours() -> None:
    palette = ((0, 0, 0), (200, 0, 200), (200, 40, 40), (0, 120, 240))
    pictures = PointSegmentation.draw({"label": torch.tensor([1, 3, 3, 2])}, make_batch(), make_spec(palette))
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[1:] == (1024, 3)

    def seen(picture: np.ndarray) -> set[tuple[int, ...]]:
        return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}

    above = pictures[0][-512:]
    truth, prediction = above[:, :510], above[:, 512:1022]
    assert seen(truth) == {palette[0], palette[1], palette[2]}
    assert seen(prediction) == {
        palette[0],
        palette[1],
        palette[3],
        (0, 40, 80),
    }  # dimmed where truth is absent
    # The point 10 m ahead is up from the middle, the one 10 m to the left is left of it.
    rows, columns = np.nonzero((truth == palette[1]).all(axis=-1))
    assert rows.mean() < 250
    assert abs(columns.mean() - 256) < 4
    rows, columns = np.nonzero((truth == palette[2]).all(axis=-1))
    assert abs(rows.mean() - 256) < 4
    assert columns.mean() < 250


def test_colours_without_a_palette_are_distinct() -> None:
    colours = class_colours(make_spec())
    assert colours.shape == (4, 3)
    assert len(np.unique(colours, axis=0)) == 4
    assert colours[0].tolist() == [0, 0, 0]


def test_another_kind_of_spec_is_refused() -> None:
    with pytest.raises(TypeError, match="needs a LidarSpec"):
        PointSegmentation.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(2, 2)))
