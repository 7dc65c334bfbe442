"""The task of LiDAR detection: image rectangles and measures by hand, and drawings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.pointcloud.kitti_object import KittiObject
from datamodules.specs import ImageClassesSpec, LidarBoxesSpec
from tasks.pointcloud.lidar_detection import LidarDetection, class_colours, image_rectangles

SPEC = LidarBoxesSpec(
    dataset="made-up",
    classes=("Car", "Pedestrian", "Cyclist"),
    point_range=(0.0, -10.0, -3.0, 40.0, 10.0, 1.0),
    mean_boxes=((4.0, 1.6, 1.5, -1.7), (0.8, 0.6, 1.7, -1.7), (1.8, 0.6, 1.7, -1.7)),
    min_overlaps=(0.7, 0.5, 0.5),
    min_heights=(40.0, 25.0, 25.0),
)
# x ahead, y left, z up -> pixels of a camera with focal length 700 and centre (600, 180).
PROJECTION = torch.tensor([[600.0, -700, 0, 0], [180, 0, -700, 0], [1, 0, 0, 0]])


def make_batch(
    boxes: list[list[float]], label: list[int], scan: list[int], scans: int = 1
) -> dict[str, object]:
    table = torch.tensor(boxes).reshape(-1, 7)
    frame = torch.tensor(scan, dtype=torch.int64)
    size = torch.tensor([1200, 360]).expand(scans, 2)
    projection = PROJECTION.expand(scans, 3, 4)
    return {
        "points": torch.rand(50, 4),
        "scan": torch.arange(scans).repeat_interleave(-(-50 // scans))[:50],
        "boxes": table,
        "box_scan": frame,
        "label": torch.tensor(label, dtype=torch.int64),
        "difficulty": torch.zeros(len(label), dtype=torch.int64),
        "neighbour": torch.zeros(len(label), dtype=torch.bool),
        "rectangle": image_rectangles(table, projection[frame], size[frame]).float(),
        "regions": torch.zeros(0, 4),
        "region_scan": torch.zeros(0, dtype=torch.int64),
        "projection": projection,
        "image_size": size,
        "id": [f"{k:06d}" for k in range(scans)],
    }


def answer(batch: dict[str, object], shift: float = 0.0) -> dict[str, Tensor]:
    boxes = batch["boxes"].clone()
    boxes[:, 0] += shift
    score = torch.linspace(0.9, 0.5, len(boxes))
    return {"boxes": boxes, "score": score, "label": batch["label"], "box_scan": batch["box_scan"]}


def judged(prediction: dict[str, Tensor], batch: dict[str, object]) -> dict[str, float]:
    judge = LidarDetection.judge(SPEC)
    judge.update(prediction, batch)
    return judge.compute()


def test_rectangles_by_hand() -> None:
    cube = torch.tensor([[11.0, 0, 0, 2, 2, 2, 0]])  # its face is 10 m away
    rectangle = image_rectangles(cube, PROJECTION[None], torch.tensor([[1200, 360]]))
    assert rectangle[0].tolist() == pytest.approx([530, 110, 670, 250])
    cut = image_rectangles(cube, PROJECTION[None], torch.tensor([[651, 201]]))
    assert cut[0].tolist() == pytest.approx([530, 110, 650, 200])
    behind = image_rectangles(
        torch.tensor([[-9.0, 0, 0, 2, 2, 2, 0]]), PROJECTION[None], torch.tensor([[1200, 360]])
    )
    assert behind[0].tolist() == [0.0] * 4
    around = image_rectangles(
        torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]]), PROJECTION[None], torch.tensor([[1200, 360]])
    )
    assert around[0].tolist() == [0, 0, 1199, 359]
    assert image_rectangles(cube[:0], PROJECTION[None][:0], torch.zeros(0, 2)).shape == (0, 4)


def test_measures_by_hand() -> None:
    batch = make_batch(
        [[20.0, 0, -1, 4, 1.6, 1.5, 0], [10.0, 3, -1, 0.8, 0.6, 1.7, 1.0]], [0, 1], [0, 1], scans=2
    )
    perfect = judged(answer(batch), batch)
    assert perfect["ap_moderate"] == perfect["bev_hard"] == perfect["image_easy"] == 100.0
    assert perfect["car_easy"] == perfect["pedestrian_moderate"] == 100.0
    assert not any(name.startswith("cyclist") for name in perfect)
    named = {measure.name for measure in LidarDetection.measures}
    assert set(perfect) <= named
    assert LidarDetection.primary().name == "ap_moderate"
    # Half a metre off: the car's IoU is 3.5 / 4.5, the pedestrian's too small.
    moved = judged(answer(batch, 0.5), batch)
    assert moved["car_moderate"] == 100.0
    assert moved["pedestrian_moderate"] == 0.0
    assert moved["ap_moderate"] == 50.0
    # 2 m higher there is no overlap but from above.
    lifted = answer(batch)
    lifted["boxes"][:, 2] += 2.0
    high = judged(lifted, batch)
    assert (high["ap_moderate"], high["bev_moderate"], high["image_moderate"]) == (0.0, 100.0, 0.0)
    none = {name: value[:0] for name, value in answer(batch).items()}
    assert judged(none, batch)["ap_moderate"] == 0.0
    assert judged(none, make_batch([], [], []))["ap_moderate"] == 0.0  # nothing to find


def test_odd_predictions_are_refused() -> None:
    batch = make_batch([[20.0, 0, -1, 4, 1.6, 1.5, 0]], [0], [0])
    for key, value in (("score", torch.zeros(2)), ("boxes", torch.zeros(1, 6)), ("label", torch.zeros(1, 1))):
        with pytest.raises(ValueError, match=r"boxes \[N, 7\]"):
            judged({**answer(batch), key: value}, batch)
    with pytest.raises(ValueError, match="not finite"):
        judged({**answer(batch), "boxes": torch.full((1, 7), torch.nan)}, batch)
    with pytest.raises(TypeError, match="needs a LidarBoxesSpec"):
        LidarDetection.judge(ImageClassesSpec(dataset="x", classes=("a",), image_size=(1, 1)))


def test_labels_of_the_miniature_score_100_on_themselves(cache: Path) -> None:
    data = KittiObject(cache=cache, test_batch_size=2)
    judge = LidarDetection.judge(data.spec)
    for batch in data.test_dataloader():
        judge.update(answer(batch), batch)
    scores = judge.compute()
    assert {name for name, value in scores.items() if value != 100.0} == set()
    assert len(scores) == 18


def test_drawing_shows_truth_and_prediction() -> None:
    batch = make_batch([[20.0, 0, -1, 4, 1.6, 1.5, 0], [10.0, 3, -1, 0.8, 0.6, 1.7, 1.0]], [0, 1], [0, 0])
    first, second = answer(batch), answer(batch, 5.0)
    pictures = [LidarDetection.draw(one, batch, SPEC)[0] for one in (first, second)]
    assert pictures[0].dtype == np.uint8
    assert pictures[0].ndim == 3
    half = pictures[0].shape[1] // 2
    assert np.array_equal(pictures[0][:, :half], pictures[1][:, :half])  # the truth
    assert not np.array_equal(pictures[0], pictures[1])
    unsure = {**first, "score": torch.full((2,), 0.1)}
    assert not np.array_equal(LidarDetection.draw(unsure, batch, SPEC)[0], pictures[0])
    two = make_batch([[20.0, 0, -1, 4, 1.6, 1.5, 0]], [0], [1], scans=2)
    assert len(LidarDetection.draw(answer(two), two, SPEC)) == 2
    assert len(LidarDetection.draw(answer(two), two, SPEC, limit=1)) == 1
    assert len({tuple(colour) for colour in class_colours(SPEC)}) == 3
