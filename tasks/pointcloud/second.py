"""SECOND and its SPVConv variant: the detection transfer (Sec. 5.2) of Searching Efficient 3D Architectures with Sparse
Point-Voxel Convolution (Tang et al., ECCV 2020).

SECOND (Yan, Mao & Li, Sensors 2018) averages points in voxels, encodes the occupied ones with sparse convolutions and
finds boxes by anchors in a view from above. The paper replaces each of its sparse convolutions by SPVConv (preset
`spvcnn`), a point branch beside the voxels that keeps full resolution, and changes nothing else.

- Network, SPVConv (Eqs. 1-2, Sec. 3.3): `second_network.py`. Anchors, coding, losses: `second_anchors.py`. Suppression:
  `tasks/blocks/rotated_nms.py`.
- The paper names neither layers nor training. Here they are those of OpenPCDet's SECOND for KITTI, which later papers
  compare with: 5,325,576 parameters, voxels of 0.05 x 0.05 x 0.1 m, focal loss, smooth L1 on residuals with the sine
  of the yaw's difference, cross-entropy of the heading's half (weights 1, 2, 0.2), Adam with decoupled decay on a
  one-cycle schedule, 80 epochs, gradient norm 10. Its batch of 4 is for each of eight GPUs; on one device the rate
  of 0.003 is that of a batch of 32.
- Augmentation, as there: objects of other scenes (`data.sampled_objects`; by the dataset), then for each scan a flip
  across the street, a rotation by up to 45 degrees, a scaling by up to 5 %. Pasted objects keep their height.
- How SPVConv replaces a strided convolution is left open; see `second_network.py`. `spvcnn_stage` exchanges once a
  stage of the encoder instead of once a convolution.
- Voxels take the mean of all their points and all voxels are kept (public code: of at most 5 points, and at most
  16,000 voxels in training).
- Suppression is over all classes at once, on each box's best class. In training neighbouring classes (vans)
  are background and objects too hard to count are truth, as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.specs import LidarBoxesSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.rotated_nms import rotated_nms
from tasks.pointcloud.lidar_detection import LidarDetection
from tasks.pointcloud.second_anchors import (
    anchor_grid,
    decode,
    detection_losses,
    directed,
    match_anchors,
)
from tasks.pointcloud.second_network import Fusion, SECONDNetwork, Sizes

LOSS_WEIGHTS = (1.0, 2.0, 0.2)
"""Of classes, boxes and directions."""


def augment(
    points: Tensor, scan: Tensor, boxes: Tensor, box_scan: Tensor, scans: int, rotation: float, scaling: float
) -> tuple[Tensor, Tensor]:
    """Each scan flipped (y to -y) at even odds, turned by U(-rotation, rotation) radians, scaled by
    U(1 - scaling, 1 + scaling), by the global generator: points [N, 3 or more], boxes [M, 7] -> the same, moved."""
    device = points.device
    flip = 1 - 2 * torch.randint(2, (scans,), device=device).to(points.dtype)
    angle = rotation * (2 * torch.rand(scans, device=device) - 1)
    scale = 1 + scaling * (2 * torch.rand(scans, device=device) - 1)

    def move(places: Tensor, of: Tensor) -> Tensor:
        x, y, z = places[:, 0], places[:, 1] * flip[of], places[:, 2]
        cos, sin = angle[of].cos(), angle[of].sin()
        return torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=1) * scale[of][:, None]

    yaw = boxes[:, 6] * flip[box_scan] + angle[box_scan]
    sizes = boxes[:, 3:6] * scale[box_scan][:, None]
    return (
        torch.cat([move(points[:, :3], scan), points[:, 3:]], dim=1),
        torch.cat([move(boxes[:, :3], box_scan), sizes, yaw[:, None]], dim=1),
    )


def inside(places: Tensor, point_range: Sequence[float]) -> Tensor:
    """Which rows [N, 3 or more] lie in the half-open range (x, y, z, x, y, z), bool [N]."""
    low, high = places.new_tensor(point_range).view(2, 3)
    return ((places[:, :3] >= low) & (places[:, :3] < high)).all(dim=1)


class SECOND(Method):
    """One-stage detection of oriented boxes by sparse convolutions.

    fusion: "off": SECOND; "layer": an SPVConv for each sparse convolution; "stage": one for each encoder stage.
    voxel_size: metres (x, y, z). encoder, encoder_out, rpn, upsampled, depth: see `Sizes`. bn_momentum: of all batch
        normalisations.
    matched, unmatched: overlap from which, and below which, an anchor is positive, or background, a class.
    rotation, scaling: of augmentation, radians and share.
    least_score, before_nms, nms_overlap, most_boxes: what boxes are suppressed and kept, a scan.
    learning_rate, weight_decay: of Adam; the rate rises to this over `rising` of the training, from a tenth, and falls
        to nothing.
    """

    name = "second"
    task = LidarDetection
    paper = Paper(
        title="Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution (detection)",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_41",
    )
    recipe = Recipe(
        batch_size=4,
        max_epochs=80,
        gradient_clip=10.0,
        validate_every=0,
        data={"sampled_objects": [20, 15, 15]},
    )
    profiles = {
        "mini": {
            "voxel_size": (0.1, 0.1, 0.1),
            "encoder": (8, 8, 16, 24, 24),
            "encoder_out": 32,
            "rpn": (32, 64),
            "upsampled": (48, 48),
            "depth": 2,
            "bn_momentum": 0.1,
            "rotation": 0.1,
            "least_score": 0.05,
            "learning_rate": 0.01,
            "batch_size": 2,
            "max_epochs": 20,
            "data.sampled_objects": [8, 8, 8],
        },
        "smoke": {
            "voxel_size": (0.2, 0.2, 0.1),
            "encoder": (4, 4, 8, 8, 8),
            "encoder_out": 8,
            "rpn": (8, 8),
            "upsampled": (8, 8),
            "depth": 1,
            "batch_size": 2,
            "max_epochs": 1,
            "max_steps": 2,
            "data.sampled_objects": [6, 6, 6],
        },
    }
    presets = {"spvcnn": {"fusion": "layer"}, "spvcnn_stage": {"fusion": "stage"}}
    baselines = ("box_prior",)
    claims = (
        Claim(
            method="second:spvcnn",
            over="second",
            measure="ap_moderate",
            reported="KITTI test, moderate: car 78.4 against 77.9, cyclist 63.7 against 59.7, "
            "pedestrian 41.4 against 41.7 (Table 4)",
        ),
    )

    def __init__(
        self,
        spec: LidarBoxesSpec,
        *,
        fusion: Fusion = "off",
        voxel_size: tuple[float, float, float] = (0.05, 0.05, 0.1),
        encoder: tuple[int, ...] = (16, 16, 32, 64, 64),
        encoder_out: int = 128,
        rpn: tuple[int, ...] = (128, 256),
        upsampled: tuple[int, ...] = (256, 256),
        depth: int = 5,
        bn_momentum: float = 0.01,
        matched: tuple[float, ...] = (0.6, 0.5, 0.5),
        unmatched: tuple[float, ...] = (0.45, 0.35, 0.35),
        rotation: float = math.pi / 4,
        scaling: float = 0.05,
        least_score: float = 0.1,
        before_nms: int = 4096,
        nms_overlap: float = 0.01,
        most_boxes: int = 500,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        rising: float = 0.4,
    ) -> None:
        super().__init__(spec)
        if fusion not in ("off", "layer", "stage"):
            raise ValueError(f"fusion must be 'off', 'layer' or 'stage', not {fusion!r}")
        classes = len(spec.classes)
        if len(matched) != classes or len(unmatched) != classes:
            raise ValueError(
                f"matched {matched} and unmatched {unmatched} need a number for each of {classes} classes"
            )
        if len(encoder) != 5 or len(rpn) != len(upsampled):
            raise ValueError(
                f"encoder {encoder} needs five widths, upsampled {upsampled} as many as rpn {rpn}"
            )
        self.rotation, self.scaling = rotation, scaling
        self.least_score, self.before_nms = least_score, before_nms
        self.nms_overlap, self.most_boxes = nms_overlap, most_boxes
        self.learning_rate, self.weight_decay, self.rising = learning_rate, weight_decay, rising
        self.network = SECONDNetwork(
            classes,
            spec.channels,
            spec.point_range,
            voxel_size,
            Sizes(tuple(encoder), encoder_out, tuple(rpn), tuple(upsampled), depth),
            fusion,
            bn_momentum,
        )
        anchors = anchor_grid(spec.point_range, self.network.coarse[:2], spec.mean_boxes)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("matched", torch.tensor(matched), persistent=False)
        self.register_buffer("unmatched", torch.tensor(unmatched), persistent=False)

    anchors: Tensor
    matched: Tensor
    unmatched: Tensor

    def forward(self, points: Tensor, scan: Tensor, scans: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, A, C], residuals [B, A, 7] and directions [B, A, 2] of scans; see `SECONDNetwork.forward`."""
        kept = inside(points, self.spec.point_range)
        return self.network(points[kept], scan[kept], scans)

    def assign(self, boxes: Tensor, label: Tensor, scan: Tensor, scans: int) -> Tensor:
        """The box each anchor answers for, int64 [B, A]: a row of `boxes`, or as in `match_anchors`."""
        rows, columns, classes, rotations, _ = self.anchors.shape
        by_class = self.anchors.permute(2, 0, 1, 3, 4).reshape(classes, -1, 7)
        assigned = match_anchors(by_class, boxes, label, scan, scans, self.matched, self.unmatched)
        grid = assigned.view(scans, classes, rows * columns, rotations)
        return grid.transpose(1, 2).reshape(scans, -1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scans = len(batch["id"])
        truth = ~batch["neighbour"]
        boxes, label, box_scan = batch["boxes"][truth], batch["label"][truth], batch["box_scan"][truth]
        points, boxes = augment(
            batch["points"], batch["scan"], boxes, box_scan, scans, self.rotation, self.scaling
        )
        kept = inside(boxes, self.spec.point_range)
        boxes, label, box_scan = boxes[kept], label[kept], box_scan[kept]
        logits, residuals, directions = self(points, batch["scan"], scans)
        assigned = self.assign(boxes, label, box_scan, scans)
        anchors = self.anchors.view(-1, 7)
        losses = detection_losses(logits, residuals, directions, anchors, assigned, boxes, label)
        loss = sum(
            (w * one for w, one in zip(LOSS_WEIGHTS, losses, strict=True)), torch.zeros_like(losses[0])
        )
        numbers = {"loss": loss, **losses._asdict(), "positive": (assigned >= 0).sum() / scans}
        self.log_dict(
            {f"train/{name}": value.detach().float() for name, value in numbers.items()}, batch_size=scans
        )
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, betas=(0.95, 0.99), weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.rising,
            div_factor=10.0,
            base_momentum=0.85,
            max_momentum=0.95,
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        scans = len(batch["id"])
        logits, residuals, directions = self(batch["points"], batch["scan"], scans)
        score, label = logits.float().sigmoid().max(dim=2)
        found: dict[str, list[Tensor]] = {"boxes": [], "score": [], "label": [], "box_scan": []}
        for scan in range(scans):
            chosen = (score[scan] >= self.least_score).nonzero().squeeze(1)
            chosen = chosen[score[scan, chosen].argsort(descending=True, stable=True)[: self.before_nms]]
            boxes = decode(residuals[scan, chosen].float(), self.anchors.view(-1, 7)[chosen])
            yaw = directed(boxes[:, 6], directions[scan, chosen].argmax(dim=1))
            boxes = torch.cat([boxes[:, :6], yaw[:, None]], dim=1)
            kept = rotated_nms(boxes, score[scan, chosen], self.nms_overlap, self.most_boxes)
            found["boxes"].append(boxes[kept])
            found["score"].append(score[scan, chosen][kept])
            found["label"].append(label[scan, chosen][kept])
            found["box_scan"].append(torch.full_like(kept, scan))
        return {name: torch.cat(parts) for name, parts in found.items()}
