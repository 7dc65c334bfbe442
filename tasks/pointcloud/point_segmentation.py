"""Point-cloud segmentation: a class for every point of a LiDAR scan.

Batch (scans have different lengths, so the points of all B scans are concatenated, in scan order)
    points  float32 [N, 4]  x, y, z in metres (x ahead, y left, z up, sensor in the origin), remission 0..1
    scan    int64 [N]       which scan of the batch a point belongs to, 0..B-1, ascending
    label   int64 [N]       0 = unlabelled, else 1..C as in `spec.classes`
    id      list[str]       one a scan
Prediction
    label        int64 [N]      0..C for every point, also one that is hidden in a range image
    logits       float [N, C+1] optional
    image_label  int64 [M]      optional, with image_truth: predicted and true classes of the pixels of range
    image_truth  int64 [M]      images, for methods that are judged in 2D too (truth 0: empty or unlabelled)
Measures (percent), all from one dataset-wide confusion matrix from which points without truth are removed
    miou           mean IoU over classes 1..C; an absent class counts 0, a point predicted 0 is a miss
    miou_present   the same over the classes that have truth
    miou_small     as miou, over the small and thin classes (persons, two-wheelers, poles, trunks, signs)
    accuracy       share of points that are right
    iou_<class>    of each class that has truth, beside the measures
    miou_2d, accuracy_2d   of the 2D images, where the method gives them (else absent). They are no
                           substitute for the points' score: points that share a pixel with another vanish.

The evaluators of RangeNet++ and SqueezeSegV3 leave out points that are predicted unlabelled. This judge
doesn't; `class_scores(..., drop_unlabelled_predictions=True)` gives their number.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from datamodules.specs import LidarSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.blocks.spherical_projection import pixels
from tasks.metrics.class_confusion import ClassConfusion

SMALL_CLASSES = (
    "bicycle",
    "motorcycle",
    "person",
    "bicyclist",
    "motorcyclist",
    "trunk",
    "pole",
    "traffic-sign",
)


class PointBatch(TypedDict):
    """What a batch holds; shapes and units in the module's docstring."""

    points: Tensor
    scan: Tensor
    label: Tensor
    id: list[str]


class PointPrediction(TypedDict, total=False):
    """What a method answers; `label` always."""

    label: Tensor
    logits: Tensor
    image_label: Tensor
    image_truth: Tensor


class PointSegmentationJudge(Judge):
    """Scores points, and range images where a method gives them.

    classes: names in label order, class 0 being the unlabelled one.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.names = classes[1:]
        self.points = ClassConfusion(len(self.names))
        self.image = ClassConfusion(len(self.names))
        self._small = [label for label, name in enumerate(self.names) if name in SMALL_CLASSES]

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` where shapes don't match or one half of the 2D pair is missing."""
        self.points.update(prediction["label"], batch["label"])
        if ("image_label" in prediction) != ("image_truth" in prediction):
            raise ValueError("a prediction carries image_label and image_truth together, or neither")
        if "image_label" in prediction:
            self.image.update(prediction["image_label"].flatten(), prediction["image_truth"].flatten())

    def compute(self) -> dict[str, float]:
        scores = self.points.compute()
        small = scores.iou[self._small]
        measures = {
            "miou": float(scores.miou),
            "miou_present": float(scores.miou_present),
            "miou_small": float(small.mean()) if self._small else math.nan,
            "accuracy": float(scores.accuracy),
        }
        for name, iou, present in zip(self.names, scores.iou.tolist(), scores.present.tolist(), strict=True):
            if present:
                measures[f"iou_{name}"] = iou
        if self.image.update_called:
            image = self.image.compute()
            measures["miou_2d"] = float(image.miou)
            measures["accuracy_2d"] = float(image.accuracy)
        return measures


class PointSegmentation(Task):
    """LiDAR semantic segmentation of single scans."""

    name = "point-cloud-segmentation"
    family = "pointcloud"
    measures = (
        Measure("miou", True, "%", 1),
        Measure("miou_present", True, "%", 1),
        Measure("miou_small", True, "%", 1),
        Measure("accuracy", True, "%", 1),
        Measure("miou_2d", True, "%", 1),
        Measure("accuracy_2d", True, "%", 1),
    )

    @classmethod
    def judge(cls, spec: Spec) -> PointSegmentationJudge:
        return PointSegmentationJudge(_lidar(spec).classes)

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A scan each: its range image, truth and prediction in class colours; below, both from above.

        A point predicted unlabelled is black; points without truth are black in the truth and dimmed in the
        prediction.
        """
        lidar = _lidar(spec)
        palette = class_colours(lidar)
        points, scan = batch["points"].detach().cpu(), batch["scan"].detach().cpu()
        truth = batch["label"].detach().cpu().numpy()
        guess = prediction["label"].detach().cpu().numpy()
        pictures = []
        for number in range(min(limit, len(batch["id"]))):
            chosen = (scan == number).numpy()
            colours = [palette[truth[chosen]], palette[guess[chosen]]]
            colours[1] = np.where(truth[chosen, None] > 0, colours[1], colours[1] // 3).astype(np.uint8)
            pictures.append(_picture(points[chosen], colours, lidar))
        return pictures


def class_colours(spec: LidarSpec) -> np.ndarray:
    """uint8 [C + 1, 3]: the spec's palette, or distinct hues where it has none."""
    if spec.palette:
        return np.array(spec.palette, dtype=np.uint8)
    turn = np.arange(len(spec.classes))[:, None] * 0.618 + np.array([0.0, 1 / 3, 2 / 3])
    colours = np.uint8(127.5 + 127.5 * np.cos(2 * np.pi * turn))
    colours[0] = 0
    return colours


def _picture(points: Tensor, colours: list[np.ndarray], spec: LidarSpec) -> np.ndarray:
    """Stack the panels of one scan: points [N, 4], colours of truth and prediction uint8 [N, 3] each."""
    width, reach = 1024, 40.0  # pixels across; metres from the sensor to the border of the view from above
    row, column, distance = pixels(points, spec.beams, width, spec.fov_up, spec.fov_down)
    far_first = torch.argsort(distance, descending=True, stable=True).numpy()
    where = (row.numpy()[far_first], column.numpy()[far_first])
    brightness = (255 * (1 - distance.clamp(max=reach) / reach * 0.9)).to(torch.uint8)
    grey = brightness[:, None].expand(-1, 3).numpy()
    # A panel is eight times as wide as high; gaps of a sensor with fewer azimuths than columns are filled.
    zoom = max(1, round(width / 8 / spec.beams))
    spread = max(1, width // spec.azimuths)
    panels = []
    for colour in (grey, *colours):
        panel = np.zeros((spec.beams, width, 3), dtype=np.uint8)
        for step in range(spread):
            panel[where[0], np.minimum(where[1] + step, width - 1)] = colour[far_first]
        panels += [panel.repeat(zoom, axis=0), np.full((4, width, 3), 255, dtype=np.uint8)]

    half = width // 2
    position = points[:, :2].numpy()
    inside = np.abs(position).max(axis=1) < reach
    low_first = np.flatnonzero(inside)[np.argsort(points[:, 2].numpy()[inside], kind="stable")]
    # Ahead (+x) is up, left (+y) is left.
    line = ((reach - position[low_first, 0]) / (2 * reach) * half).astype(int).clip(0, half - 2)
    cell = ((reach - position[low_first, 1]) / (2 * reach) * half).astype(int).clip(0, half - 2)
    above = []
    for colour in colours:
        view = np.zeros((half, half, 3), dtype=np.uint8)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            view[line + down, cell + right] = colour[low_first]
        view[:, -2:] = 255
        above.append(view)
    return np.concatenate([*panels, np.concatenate(above, axis=1)])


def _lidar(spec: Spec) -> LidarSpec:
    if not isinstance(spec, LidarSpec):
        raise TypeError(f"point-cloud segmentation needs a LidarSpec, got {type(spec).__name__}")
    return spec
