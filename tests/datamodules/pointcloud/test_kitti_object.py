"""KITTI objects: conversion by calibration, difficulties, filters and pasting by hand, broken files, the miniature."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError, Visit
from datamodules.pointcloud.kitti_object import (
    CLASSES,
    Calibration,
    KittiObject,
    difficulty,
    in_view,
    read_calibration,
    read_objects,
)
from datamodules.pointcloud.pasted_objects import in_box
from datamodules.specs import LidarBoxesSpec, Spec

# Camera and scan share their origin; x of the camera is right, y down, z ahead.
CALIBRATION = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 0 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0
"""
CAR = "Car 0.00 0 0.00 100 150 200 200 1.50 1.60 4.00 -2.00 1.70 20.00 -1.57079633"


def write_frame(
    root: Path, name: str, points: list[list[float]], labels: str, calibration: str = CALIBRATION
) -> None:
    home = root / "training"
    for part in ("velodyne", "label_2", "calib"):
        (home / part).mkdir(parents=True, exist_ok=True)
    np.array(points, "<f4").tofile(home / "velodyne" / f"{name}.bin")
    (home / "label_2" / f"{name}.txt").write_text(labels)
    (home / "calib" / f"{name}.txt").write_text(calibration)


def write_splits(root: Path, train: str, val: str) -> None:
    (root / "ImageSets").mkdir(exist_ok=True)
    (root / "ImageSets" / "train.txt").write_text(train)
    (root / "ImageSets" / "val.txt").write_text(val)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    points = [
        [20.0, 2, -1, 0.5],
        [20.0, 30, -1, 0.1],
        [-5.0, 0, -1, 0.2],
        [80.0, 0, -1, 0.2],
        [30.0, 0, -5, 0.3],
    ]
    write_frame(tmp_path, "000003", points, CAR + "\n")
    write_splits(tmp_path, "000003\n", "000003\n")
    return tmp_path


def test_a_box_by_hand(root: Path) -> None:
    """20 m ahead and 2 m left, standing 1.7 m below the sensor; rotation -pi / 2 is heading ahead."""
    sample = KittiObject(root, "real").split("val")[0]
    expected = torch.tensor([[20.0, 2.0, -1.7 + 0.75, 4.0, 1.6, 1.5, 0.0]])
    torch.testing.assert_close(sample["boxes"], expected, atol=1e-5, rtol=0)
    assert sample["label"].tolist() == [0]
    assert sample["difficulty"].tolist() == [0]
    assert sample["rectangle"].tolist() == [[100, 150, 200, 200]]
    assert sample["id"] == "000003"
    # Of the points, one is out of the image, one behind the camera, one too far and one too low.
    torch.testing.assert_close(sample["points"], torch.tensor([[20.0, 2, -1, 0.5]]))
    pixel = sample["projection"] @ torch.tensor([20.0, 2.0, -1.0, 1.0])
    torch.testing.assert_close(pixel[:2] / pixel[2], torch.tensor([600 - 70.0, 180 + 35.0]))
    assert sample["image_size"].tolist() == [1242, 375]


@pytest.mark.parametrize(
    ("rotation", "yaw"), [(0.0, -math.pi / 2), (math.pi / 2, -math.pi), (-2.0, 2 - math.pi / 2)]
)
def test_yaw_is_that_of_the_scan(root: Path, rotation: float, yaw: float) -> None:
    line = CAR.rsplit(" ", 1)[0] + f" {rotation}"
    write_frame(root, "000003", [[20.0, 2, -1, 0.5]], line)
    (box,) = KittiObject(root, "real").split("val")[0]["boxes"]
    assert float(box[6]) == pytest.approx(yaw, abs=1e-5)


def test_a_tilted_calibration_is_undone() -> None:
    generator = np.random.default_rng(0)
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    rectified = np.eye(4)
    rectified[:3, :3], rectified[:3, 3] = turn, [0.1, -0.2, 0.3]
    calibration = Calibration(np.eye(3, 4), rectified)
    points = generator.normal(size=(5, 3))
    camera = points @ turn.T + [0.1, -0.2, 0.3]
    np.testing.assert_allclose(calibration.to_scan(camera), points, atol=1e-12)
    np.testing.assert_allclose(
        np.concatenate([points, np.ones((5, 1))], 1) @ calibration.to_image.T, camera, atol=1e-12
    )


def test_types_neighbours_and_regions(root: Path) -> None:
    rest = CAR.split(" ", 1)[1]
    kinds = ["Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc"]
    stuff = "DontCare -1 -1 -10 5 6 70 80 -1 -1 -1 -1000 -1000 -1000 -10"
    far = CAR.replace("20.00", "90.00")
    write_frame(
        root,
        "000003",
        [[20.0, 2, -1, 0.5]],
        "\n".join([f"{kind} {rest}" for kind in kinds] + [stuff, far, ""]),
    )
    sample = KittiObject(root, "real").split("val")[0]
    assert [CLASSES[label] for label in sample["label"]] == [
        "Car",
        "Car",
        "Pedestrian",
        "Pedestrian",
        "Cyclist",
    ]
    assert sample["neighbour"].tolist() == [False, True, False, True, False]
    assert sample["regions"].tolist() == [[5, 6, 70, 80]]


def test_difficulties_by_hand() -> None:
    height = np.array([40.0, 39.9, 40.0, 40.0, 24.9, 30.0, 200.0, 200.0])
    occlusion = np.array([0.0, 0, 1, 2, 0, 2, 3, 0])
    truncation = np.array([0.15, 0, 0, 0, 0, 0.5, 0, 0.51])
    assert difficulty(height, occlusion, truncation).tolist() == [0, 1, 1, 2, 3, 2, 3, 3]


def test_the_size_of_an_image_is_read_where_there_is_one(root: Path) -> None:
    (root / "training" / "image_2").mkdir()
    Image.new("RGB", (320, 200)).save(root / "training" / "image_2" / "000003.png")
    write_frame(root, "000003", [[20.0, 2, -1, 0.5], [20.0, 9, -1, 0.5]], CAR)
    write_splits(root, "000003", "000003")
    with pytest.raises(DataError, match="no point in the camera's view"):
        KittiObject(root, "real").split("val")[0]  # pixels 530 and 285 x 215
    calibration = CALIBRATION.replace("180", "100")
    write_frame(root, "000003", [[20.0, 2, -1, 0.5], [20.0, 9, -1, 0.5]], CAR, calibration)
    sample = KittiObject(root, "real").split("val")[0]
    assert sample["points"][:, 1].tolist() == [9.0]
    assert sample["image_size"].tolist() == [320, 200]


def test_view_is_the_image_before_the_camera(root: Path) -> None:
    calibration = read_calibration(root / "training" / "calib" / "000003.txt")
    points = np.array(
        [[10.0, 0, 0], [-10.0, 0, 0], [0.0, 0, 0], [7.0, 5.9, 0], [7.0, 6.1, 0], [7.0, 0, 1.9]], "f4"
    )
    assert in_view(points, calibration, (1242, 375)).tolist() == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("label_2", "Car 0 0\n", r"label_2/000003\.txt, line 1: 3 fields instead of 15"),
        (
            "label_2",
            CAR + "\n" + CAR.replace("1.50", "tall"),
            r"line 2: could not convert string to float: 'tall'",
        ),
        ("label_2", CAR.replace("Car", "Horse"), "line 1: unknown type 'Horse'"),
        ("calib", "P2: 1 2 3\n", r"calib/000003\.txt: P2 must be 12 numbers"),
        ("calib", CALIBRATION.replace("R0_rect", "R"), r"no R0_rect; it has P0, P2, R, Tr_velo_to_cam"),
    ],
)
def test_broken_text_is_named(root: Path, part: str, content: str, message: str) -> None:
    (root / "training" / part / "000003.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        KittiObject(root, "real").split("val")[0]


def test_broken_scans_and_lists_are_named(root: Path) -> None:
    scan = root / "training" / "velodyne" / "000003.bin"
    scan.write_bytes(b"1234567")
    with pytest.raises(DataError, match=r"000003\.bin: 7 bytes"):
        KittiObject(root, "real").split("val")[0]
    np.full((1, 4), np.nan, "<f4").tofile(scan)
    with pytest.raises(DataError, match="1 points are not finite"):
        KittiObject(root, "real").split("val")[0]
    write_splits(root, "000003 000004", "\n")
    with pytest.raises(DataError, match=r"000004\.bin is missing, but .*train\.txt lists 000004"):
        KittiObject(root, "real").split("train")
    with pytest.raises(DataError, match=r"val\.txt: no frame is listed"):
        KittiObject(root, "real").split("val")
    scan.unlink()
    with pytest.raises(DataError, match=r"training/velodyne/\*\.bin"):
        KittiObject(root, "real").prepare_data()


def test_options_are_checked(root: Path) -> None:
    for options, message in (
        ({"max_train_scans": 0}, "max_train_scans must be positive"),
        ({"sampled_objects": (1, 2)}, "a number for each of Car, Pedestrian, Cyclist"),
        ({"sampled_objects": (1, 2, -1)}, "no sampled_objects negative"),
    ):
        with pytest.raises(ValueError, match=message):
            KittiObject(root, "real", **options)


# Pasting.


def test_scenes_are_filled_with_objects_of_others(tmp_path: Path) -> None:
    cluster = [[20.0 + 0.1 * k, 2.0, -1.0, 0.5] for k in range(6)]
    other = CAR.replace("20.00", "40.00").replace("-2.00", "2.00")  # 40 m ahead, 2 m to the right
    van = CAR.replace("Car", "Van").replace("20.00", "30.00")
    write_frame(tmp_path, "000000", [*cluster, [40.0, -2, -1, 0.9]], CAR)
    write_frame(
        tmp_path, "000001", [[40.0 + 0.1 * k, -2.0, -1.0, 0.7] for k in range(7)], "\n".join([other, van])
    )
    write_splits(tmp_path, "000000 000001", "000000")
    split = KittiObject(tmp_path, "real", sampled_objects=(2, 0, 0)).split("train")
    assert [len(objects) for objects in split.objects] == [2, 0, 0]
    first = split[Visit(0, 0)]
    # Whichever object is drawn: its own touches itself and is refused, the other is pasted with its points.
    drawn = [split[Visit(0, epoch)] for epoch in range(8)]
    pasted = [sample for sample in drawn if len(sample["boxes"]) == 2]
    assert 0 < len(pasted) < 8
    sample = pasted[0]
    assert sample["label"].tolist() == [0, 0]
    assert sample["boxes"][1, :2].tolist() == pytest.approx([40.0, -2.0], abs=1e-4)
    assert len(sample["points"]) == 13  # the scene's own point in the pasted box has gone
    assert (sample["points"][:, 3] == 0.9).sum() == 0
    assert set(sample) == set(first)
    again = split[Visit(0, 0)]
    assert torch.equal(first["points"], again["points"])
    plenty = KittiObject(tmp_path, "real", sampled_objects=(1, 0, 0)).split("train")
    assert len(plenty[0]["boxes"]) == 1
    few = KittiObject(tmp_path, "real", sampled_objects=(2, 0, 0), least_points=7).split("train")
    assert [len(objects) for objects in few.objects] == [1, 0, 0]
    assert not hasattr(KittiObject(tmp_path, "real", sampled_objects=(2, 0, 0)).split("val"), "objects")


# The miniature.


def test_the_miniature_is_in_the_published_layout(cache: Path) -> None:
    data = KittiObject(cache=cache, batch_size=2, test_batch_size=3)
    spec = data.spec
    assert isinstance(spec, LidarBoxesSpec)
    assert Spec.from_json(spec.to_json()) == spec
    assert not data.missing()
    assert not data.verify()
    assert (len(data.split("train")), len(data.split("val")), len(data.split("test"))) == (14, 6, 6)
    assert len(KittiObject(cache=cache, max_train_scans=3).split("train")) == 3
    length, width, height, bottom = spec.mean_boxes[0]
    assert 3.8 < length < 4.2
    assert 1.6 < width < 1.7
    assert 1.4 < height < 1.6
    assert bottom == pytest.approx(-1.73, abs=0.02)


def test_objects_of_the_miniature_stand_where_their_points_are(cache: Path) -> None:
    counts = np.zeros((3, 4), dtype=int)
    data = KittiObject(cache=cache)
    for split in ("train", "val"):
        for sample in data.split(split):
            points = sample["points"].numpy()
            for box, label, level, neighbour in zip(
                sample["boxes"].numpy(),
                sample["label"],
                sample["difficulty"],
                sample["neighbour"],
                strict=True,
            ):
                if not neighbour:
                    counts[label, level] += 1
                    if level < 2:
                        assert in_box(points, box).sum() >= 2
                assert box[2] - box[5] / 2 == pytest.approx(-1.73, abs=0.03)
            assert len(sample["regions"])
    assert (counts[:, :3].sum(axis=1) > 40).all()
    assert (counts > 0).all()


def test_a_batch_joins_frames(cache: Path) -> None:
    data = KittiObject(cache=cache, test_batch_size=3)
    batch = next(iter(data.test_dataloader()))
    alone = [data.split("test")[k] for k in range(3)]
    assert batch["id"] == [sample["id"] for sample in alone]
    for rows, of in (("points", "scan"), ("boxes", "box_scan"), ("regions", "region_scan")):
        for k, sample in enumerate(alone):
            assert torch.equal(batch[rows][batch[of] == k], sample[rows])
    assert batch["projection"].shape == (3, 3, 4)


def test_objects_reader_and_renderer_agree_on_rectangles(cache: Path) -> None:
    """The corners of a box, projected, span the rectangle that its label line names."""
    data = KittiObject(cache=cache)
    data.prepare_data()
    files = data.split("val").files[0]
    objects = read_objects(files.label, read_calibration(files.calibration))
    image = read_calibration(files.calibration).to_image
    for box, rectangle in zip(objects.boxes.astype(float), objects.rectangle, strict=True):
        signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) / 2
        along, across, up = (signs * box[3:6]).T
        cos, sin = np.cos(box[6]), np.sin(box[6])
        corner = np.stack([cos * along - sin * across, sin * along + cos * across, up, np.ones(8)], 1)
        corner[:, :3] += box[:3]
        pixel = corner @ image.T
        pixel = (pixel[:, :2] / pixel[:, 2:]).clip(0, [1241, 374])
        assert np.abs(np.concatenate([pixel.min(0), pixel.max(0)]) - rectangle).max() < 4
