"""LiDAR detection: oriented 3D boxes of objects in a scan.

Batch (scans and their objects differ in number, so those of all B scans are concatenated, in scan order)
    points      float32 [N, 4]  x, y, z in metres (x ahead, y left, z up, sensor in the origin), remission 0..1
    scan        int64 [N]       which scan of the batch a point belongs to, 0..B-1, ascending
    boxes       float32 [M, 7]  x, y, z of the centre, length, width, height in metres, yaw in radians from x to y
    box_scan    int64 [M]       which scan a box belongs to, ascending
    label       int64 [M]       0..C-1 as in `spec.classes`
    difficulty  int64 [M]       0 easy, 1 moderate, 2 hard, 3 so hard that it never counts
    neighbour   bool [M]        of a class that neighbours `label` (a van for a car): no truth, no error to find
    rectangle   float32 [M, 4]  left, top, right, bottom in the camera's image, pixels
    regions     float32 [K, 4]  image rectangles in which nothing was annotated (KITTI's DontCare)
    region_scan int64 [K]       which scan a region belongs to, ascending
    projection  float32 [B, 3, 4]  from the scan's axes to homogeneous pixels of the camera
    image_size  int64 [B, 2]    width, height
    id          list[str]       one a scan
Prediction (boxes of all scans, in scan order)
    boxes     float [N, 7]  as above
    score     float [N]     higher is surer; only its order counts
    label     int64 [N]     0..C-1
    box_scan  int64 [N]     ascending
Measures (percent): average precision at 40 recall positions as KITTI counts it (`tasks/metrics/box_ap.py`). A
prediction's image rectangle is that of its corners, cut to the image; the benchmark ignores what is too low in it.
    ap_moderate       3D overlap, moderate difficulty, mean over the classes that have truth: ranks
    ap_easy, ap_hard  the other difficulties
    bev_*, image_*    overlap seen from above, and of image rectangles, where DontCare regions count
    <class>_*         3D overlap, of each class that has truth
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.specs import LidarBoxesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.box_ap import DIFFICULTIES, KINDS, BoxAveragePrecision
from tasks.metrics.rotated_iou import corners, corners_3d

PREFIXES = {"3d": "ap", "bev": "bev", "image": "image"}
SHOWN = 0.3
"""The least score that is drawn."""


class BoxesBatch(TypedDict):
    """What a batch holds; shapes and units in the module's docstring."""

    points: Tensor
    scan: Tensor
    boxes: Tensor
    box_scan: Tensor
    label: Tensor
    difficulty: Tensor
    neighbour: Tensor
    rectangle: Tensor
    regions: Tensor
    region_scan: Tensor
    projection: Tensor
    image_size: Tensor
    id: list[str]


class BoxesPrediction(TypedDict):
    """What a method answers."""

    boxes: Tensor
    score: Tensor
    label: Tensor
    box_scan: Tensor


def image_rectangles(boxes: Tensor, projection: Tensor, image_size: Tensor) -> Tensor:
    """Image rectangles of boxes [N, 7], cut to the image: float64 [N, 4] (left, top, right, bottom) in pixels.

    projection: [N, 3, 4] and image_size: [N, 2] of each box's scan. Corners behind the camera are taken to be 0.1 m
    before it, so that a box beside the sensor reaches to the image's border; a box that is all behind is empty.
    """
    corner = corners_3d(boxes.double())
    matrix = projection.double()
    homogeneous = corner @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3]
    depth = homogeneous[..., 2]
    pixel = homogeneous[..., :2] / depth.clamp(min=0.1)[..., None]
    limit = image_size.double() - 1
    low = pixel.amin(dim=1).clamp(min=0).minimum(limit)
    high = pixel.amax(dim=1).clamp(min=0).minimum(limit)
    return torch.cat([low, high], dim=1) * (depth > 0).any(dim=1, keepdim=True)


class LidarDetectionJudge(Judge):
    """Scores boxes by KITTI's rules."""

    def __init__(self, spec: LidarBoxesSpec) -> None:
        super().__init__()
        self.names = [name.lower() for name in spec.classes]
        self.precision = BoxAveragePrecision(spec.min_overlaps, spec.min_heights)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` where the prediction's parts differ in length or are unordered."""
        boxes, frame = prediction["boxes"], prediction["box_scan"]
        shapes = {name: tuple(prediction[name].shape) for name in ("score", "label", "box_scan")}
        if boxes.shape != (len(frame), 7) or set(shapes.values()) != {(len(frame),)}:
            raise ValueError(
                f"a prediction needs boxes [N, 7] and score, label, box_scan [N], got {boxes.shape}, {shapes}"
            )
        if not bool(torch.isfinite(boxes).all()):
            raise ValueError("a predicted box is not finite")
        self.precision.update(
            {
                "boxes": boxes,
                "rectangle": image_rectangles(boxes, batch["projection"][frame], batch["image_size"][frame]),
                "label": prediction["label"],
                "score": prediction["score"],
                "frame": frame,
            },
            {
                **{key: batch[key] for key in ("boxes", "rectangle", "label", "difficulty", "neighbour")},
                "frame": batch["box_scan"],
            },
            {"rectangle": batch["regions"], "frame": batch["region_scan"]},
            frames=len(batch["id"]),
        )

    def compute(self) -> dict[str, float]:
        scores = self.precision.compute()
        measures = {}
        for kind, table in zip(KINDS, scores, strict=True):
            for level, values in zip(DIFFICULTIES, table.T, strict=True):
                known = values[~values.isnan()]
                measures[f"{PREFIXES[kind]}_{level}"] = float(known.mean()) if len(known) else 0.0
        for name, row in zip(self.names, scores[0].tolist(), strict=True):
            for level, value in zip(DIFFICULTIES, row, strict=True):
                if value == value:
                    measures[f"{name}_{level}"] = value
        return measures


class LidarDetection(Task):
    """3D object detection in single LiDAR scans."""

    name = "lidar-detection"
    family = "pointcloud"
    measures = (
        *(Measure(f"ap_{level}", True, "%", 1) for level in ("moderate", "easy", "hard")),
        *(Measure(f"bev_{level}", True, "%", 1) for level in ("moderate", "easy", "hard")),
        *(
            Measure(f"{name}_{level}", True, "%", 1)
            for name in ("car", "pedestrian", "cyclist")
            for level in ("moderate", "easy", "hard")
        ),
        *(Measure(f"image_{level}", True, "%", 1) for level in ("moderate", "easy", "hard")),
    )

    @classmethod
    def judge(cls, spec: Spec) -> LidarDetectionJudge:
        return LidarDetectionJudge(_boxes(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A scan each from above: left the true boxes in class colours, neighbours and uncounted ones in grey; right
        the predicted ones with a score of at least 0.3, dashed truth behind them. A stroke shows the heading."""
        boxes = _boxes(spec)
        return [_picture(prediction, batch, boxes, number) for number in range(min(limit, len(batch["id"])))]


def class_colours(spec: LidarBoxesSpec) -> list[tuple[float, ...]]:
    """RGB 0..1 a class: the spec's palette, or distinct hues where it has none."""
    if spec.palette:
        return [tuple(value / 255 for value in colour) for colour in spec.palette]
    turn = np.arange(len(spec.classes))[:, None] * 0.618 + np.array([0.0, 1 / 3, 2 / 3])
    return [tuple(colour) for colour in 0.5 + 0.5 * np.cos(2 * np.pi * turn)]


def _picture(prediction: Prediction, batch: Batch, spec: LidarBoxesSpec, number: int) -> np.ndarray:
    points = batch["points"][batch["scan"] == number].detach().cpu().numpy()
    palette = class_colours(spec)
    own = batch["box_scan"] == number
    truth = batch["boxes"][own].detach().cpu()
    counts = (~batch["neighbour"][own] & (batch["difficulty"][own] < 3)).tolist()
    colours = [
        palette[label] if count else (0.6, 0.6, 0.6)
        for label, count in zip(batch["label"][own].tolist(), counts, strict=True)
    ]
    shown = (prediction["box_scan"] == number) & (prediction["score"] >= SHOWN)
    guess = prediction["boxes"][shown].detach().float().cpu()
    score = prediction["score"][shown].tolist()

    figure = Figure(figsize=(13, 6.5), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    x0, y0, _, x1, y1, _ = spec.point_range
    for axis in axes:
        axis.set_facecolor("black")
        axis.scatter(
            -points[:, 1], points[:, 0], s=2.0, c=points[:, 2], cmap="gray", vmin=-3, vmax=1, linewidths=0
        )
        axis.set(aspect="equal", xlim=(-y1, -y0), ylim=(x0, x1), xlabel="right (m)")
    axes[0].set(title=f"{batch['id'][number]}: truth", ylabel="ahead (m)")
    axes[1].set_title("predicted, with scores; truth dashed")
    axes[0].add_collection(LineCollection(_outlines(truth), colors=colours, linewidths=1.4))
    axes[1].add_collection(
        LineCollection(_outlines(truth), colors=colours, linewidths=0.7, linestyles="dashed")
    )
    found = [palette[label] for label in prediction["label"][shown].tolist()]
    axes[1].add_collection(LineCollection(_outlines(guess), colors=found, linewidths=1.4))
    for box, value, colour in zip(guess.tolist(), score, found, strict=True):
        if x0 <= box[0] < x1 and y0 <= box[1] < y1:
            axes[1].annotate(
                f"{value:.2f}", (-box[1], box[0]), color=colour, fontsize=7, ha="left", va="bottom"
            )
    handles = [
        axes[0].plot([], [], color=colour, label=name)[0]
        for name, colour in zip(spec.classes, palette, strict=True)
    ]
    axes[0].legend(handles=handles, loc="lower left", fontsize=8)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _outlines(boxes: Tensor) -> np.ndarray:
    """Lines of boxes [N, 7] around them and from the middle of the front to beyond it, as drawn: [N, 7, 2]."""
    corner = corners(boxes)
    front = (corner[:, :1] + corner[:, 3:]) / 2
    nose = front + 0.2 * (front - boxes[:, None, :2])
    line = torch.cat([front, nose, front, corner[:, :1], corner[:, 1:], front], dim=1)
    return torch.stack([-line[..., 1], line[..., 0]], dim=-1).numpy()


def _boxes(spec: Spec) -> LidarBoxesSpec:
    if not isinstance(spec, LidarBoxesSpec):
        raise TypeError(f"LiDAR detection needs a LidarBoxesSpec, got {type(spec).__name__}")
    return spec
