"""Pairs of poses: no pair twice in one pose, each picture source and target once, masks, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import DataError
from datamodules.recognition.posed_images import Posed, load_mask, pose_number, targets


def posed(scene: str, yaw: int, pitch: int = 1) -> Posed:
    return Posed(f"{scene}-{yaw}-{pitch}", Path("x.jpg"), "car", (yaw, pitch), "1", scene)


def test_targets_are_a_shift_within_the_scene() -> None:
    pictures = [posed(scene, yaw) for yaw in (3, 1, 2, 6, 5, 4) for scene in ("a", "b", "c")] + [
        posed("d", 1)
    ]
    target = targets(pictures, "chance")
    assert sorted(target) == list(range(len(pictures)))
    assert target[-1] == len(pictures) - 1  # alone in its scene
    steps = {}
    for index, other in enumerate(target[:-1]):
        assert pictures[index].scene == pictures[other].scene
        step = (pictures[other].pose[0] - pictures[index].pose[0]) % 6
        assert steps.setdefault(pictures[index].scene, step) == step != 0
    assert target == targets(pictures, "chance")
    assert any(targets(pictures, f"another {n}") != target for n in range(3))


def test_pose_numbers() -> None:
    assert [pose_number((yaw, pitch), 6) for pitch in (1, 2) for yaw in (1, 6)] == [0, 5, 6, 11]


def test_masks(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4), np.uint8)
    pixels[:2, :2], pixels[0, 2] = 255, 255
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", (2, 2)).tolist() == [[True, False], [False, False]]
    assert load_mask(tmp_path / "mask.png", (4, 4)).sum() == torch.tensor(5)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read as a mask"):
        load_mask(tmp_path / "broken.png", (2, 2))
