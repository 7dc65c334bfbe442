"""Training scenes filled up with objects of other scenes, as SECOND does (Yan, Mao & Li, Sensors 2018, Sec. 3.4.1).

The objects of the training split are kept in memory with the points inside their boxes. A scene gets some of those of
each class, where they stood in their own scene; one whose box would touch another one seen from above is left out. The
scene's points inside a pasted box go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as MapDataset

from datamodules.base import visit_generator

Floats = NDArray[np.float32]


class FilledFrames(MapDataset[dict[str, Any]]):
    """Training frames filled up with objects of other frames. numbers: of objects a class to fill up to."""

    def __init__(
        self, frames: MapDataset[dict[str, Any]], numbers: Sequence[int], least_points: int, seed: int
    ) -> None:
        self.frames, self.numbers, self.seed = frames, tuple(numbers), seed
        self.objects: list[list[tuple[Floats, dict[str, Any]]]] = [[] for _ in numbers]
        for place in range(len(frames)):  # type: ignore[arg-type]
            frame = frames[place]
            points = frame["points"].numpy()
            rows = zip(frame["boxes"].numpy(), frame["label"].tolist(), strict=True)
            for row, (box, label) in enumerate(rows):
                own = points[in_box(points, box)]
                if len(own) >= least_points and frame["difficulty"][row] < 3 and not frame["neighbour"][row]:
                    facts = {
                        key: frame[key][row]
                        for key in ("boxes", "rectangle", "label", "difficulty", "neighbour")
                    }
                    self.objects[label].append((own, facts))

    def __len__(self) -> int:
        return len(self.frames)  # type: ignore[arg-type]

    def __getitem__(self, place: int) -> dict[str, Any]:
        frame = self.frames[place]
        rng = visit_generator(place, "pasted objects", self.seed)
        drawn = []
        for label, number in enumerate(self.numbers):
            there = int(((frame["label"] == label) & ~frame["neighbour"]).sum())
            size = min(max(0, number - there), len(self.objects[label]))
            drawn += [
                self.objects[label][k] for k in rng.choice(len(self.objects[label]), size, replace=False)
            ]
        drawn = _without_collisions(frame["boxes"].numpy(), drawn)
        if not drawn:
            return frame
        points = frame["points"].numpy()
        for _, facts in drawn:
            points = points[~in_box(points, facts["boxes"].numpy())]
        filled = {
            key: torch.cat([frame[key], torch.stack([facts[key] for _, facts in drawn])])
            for key in drawn[0][1]
        }
        return {
            **frame,
            **filled,
            "points": torch.from_numpy(np.concatenate([points, *(own for own, _ in drawn)])),
        }


def in_box(points: Floats, box: Floats) -> NDArray[np.bool_]:
    """Which points [N, 3 or more] lie in a box [7], its faces included."""
    x, y, z = (points[:, :3] - box[:3]).T
    cos, sin = np.cos(box[6]), np.sin(box[6])
    offset = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1)
    return (np.abs(offset) <= box[3:6] / 2).all(axis=1)


def collide(first: Floats, second: Floats) -> NDArray[np.bool_]:
    """Whether boxes [N, 7] and [M, 7] touch seen from above, [N, M]: no side of either separates them."""
    corner = [_corners(boxes) for boxes in (first, second)]
    apart = np.zeros((len(first), len(second)), dtype=bool)
    for turned, swap in ((first, False), (second, True)):
        for quarter in (0.0, np.pi / 2):
            axis = np.stack([np.cos(turned[:, 6] + quarter), np.sin(turned[:, 6] + quarter)], axis=1)
            own = np.einsum("nd,nkd->nk", axis, corner[swap])
            other = np.einsum("nd,mkd->nmk", axis, corner[not swap])
            gap = (own.min(1)[:, None] > other.max(2)) | (own.max(1)[:, None] < other.min(2))
            apart |= gap.T if swap else gap
    return ~apart


def _corners(boxes: Floats) -> Floats:
    along, across = boxes[:, 3:4] / 2 * (1, 1, -1, -1), boxes[:, 4:5] / 2 * (1, -1, -1, 1)
    cos, sin = np.cos(boxes[:, 6:]), np.sin(boxes[:, 6:])
    return np.stack([cos * along - sin * across, sin * along + cos * across], axis=2) + boxes[:, None, :2]


def _without_collisions(
    boxes: Floats, drawn: list[tuple[Floats, dict[str, Any]]]
) -> list[tuple[Floats, dict[str, Any]]]:
    """The drawn objects that touch neither the scene's boxes nor one drawn and kept before them."""
    kept: list[tuple[Floats, dict[str, Any]]] = []
    for one in drawn:
        box = one[1]["boxes"].numpy()[None]
        if not collide(box, boxes).any():
            kept.append(one)
            boxes = np.concatenate([boxes, box])
    return kept
