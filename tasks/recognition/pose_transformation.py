"""The task `pose-transformation`: a picture of an object, and a pose to see the same object in.

Poses are points (yaw, pitch), yaw in 1..yaws and pitch in 1..pitches; whole numbers are the poses that the data has.

Batch
    image         float32 [B, 3, H, W], RGB in [0, 1]: the source
    pose          float32 [B, 2], its yaw and pitch; pose_class int64 [B], the number of that pose
    label         int64 [B], the object's class; scene int64 [B], which object before which background
    target_image  float32 [B, 3, H, W], the true picture in the target pose; not in training
    target_pose   float32 [B, 2]; target_class int64 [B]; not in training
    paired        bool [B], whether there is a true picture of another pose; the others aren't judged
    mask          bool [B, H, W], the foreground of the true picture; where a dataset has none, the judge segments it
    id            list of B strings
Prediction
    image         float [B, 3, H, W] in [0, 1]

Measures, the mean over a scene's pictures first, then over scenes
    psnr_foreground  dB over the foreground's pixels: a copied background earns nothing
    mse_foreground   on the 0..255 scale, likewise
    psnr             dB over the whole picture, a side figure
    psnr_unseen      as the first, over the classes and target poses that training lacks (absent where it lacks none)
The paper takes 200 instances and their 6 poses; here it is the whole test split, each picture the target once, made
from a source in another pose that the dataset drew once.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.specs import PosesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.foreground import GroupMeans, foreground_mse, psnr_of, segment_foreground

SIDE = 160


def poses_of(spec: Spec) -> PosesSpec:
    """The dataset's facts; a `TypeError` where its pictures have no poses."""
    if not isinstance(spec, PosesSpec):
        raise TypeError(f"pose transformation needs a PosesSpec, {spec.dataset} has {type(spec).__name__}")
    return spec


def seen_table(spec: PosesSpec) -> Tensor:
    """bool [classes, poses]: which poses training has of each class."""
    table = torch.zeros(len(spec.classes), spec.yaws * spec.pitches, dtype=torch.bool)
    for label, numbers in enumerate(spec.seen):
        table[label, list(numbers)] = True
    return table


class TransformationJudge(Judge):
    """Scores synthesised pictures; see the module's docstring."""

    def __init__(self, spec: PosesSpec) -> None:
        super().__init__()
        self.seen: Tensor
        self.register_buffer("seen", seen_table(spec))
        self.means = torch.nn.ModuleDict({m.name: GroupMeans() for m in PoseTransformation.measures})

    @torch.no_grad()
    def update(self, prediction: Prediction, batch: Batch) -> None:
        made, true = prediction["image"].float(), batch["target_image"]
        if made.shape != true.shape:
            raise ValueError(f"image must be {list(true.shape)}, got {list(made.shape)}")
        rows = batch["paired"].nonzero().squeeze(1)
        if not len(rows):
            return
        made, true, scene = made[rows].clamp(0, 1), true[rows], batch["scene"][rows]
        mask = batch["mask"][rows] if "mask" in batch else torch.stack([segment_foreground(t) for t in true])
        mse = foreground_mse(made, true, mask)
        self._take("mse_foreground", mse, scene)
        self._take("psnr_foreground", psnr_of(mse), scene)
        self._take("psnr", psnr_of(foreground_mse(made, true, torch.ones_like(mask))), scene)
        unseen = ~self.seen[batch["label"][rows], batch["target_class"][rows]]
        self._take("psnr_unseen", psnr_of(mse)[unseen], scene[unseen])

    def _take(self, name: str, values: Tensor, scene: Tensor) -> None:
        if len(values):
            self.means[name].update(values, scene)

    def compute(self) -> dict[str, float]:
        return {name: float(mean.compute()) for name, mean in self.means.items() if not mean.empty}


class PoseTransformation(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "pose-transformation"
    family: ClassVar[str] = "recognition"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("psnr_foreground", True, "dB"),
        Measure("mse_foreground", False, decimals=1),
        Measure("psnr", True, "dB"),
        Measure("psnr_unseen", True, "dB"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> TransformationJudge:
        return TransformationJudge(poses_of(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """In a row, with captions: source, true picture, synthesised one with its PSNR, and the true foreground."""
        sheets = []
        for index in range(min(limit, len(batch["image"]))):
            made, true = prediction["image"][index].float().clamp(0, 1), batch["target_image"][index]
            mask = batch["mask"][index] if "mask" in batch else segment_foreground(true)
            quality = float(psnr_of(foreground_mse(made[None], true[None], mask[None])))
            tiles = [
                pose_tile(batch["image"][index], f"source, pose {pose_text(batch['pose'][index])}"),
                pose_tile(true, f"true, pose {pose_text(batch['target_pose'][index])}"),
                pose_tile(made, f"made {quality:.2f} dB"),
                pose_tile(true * mask, "judged"),
            ]
            sheets.append(np.concatenate(tiles, axis=1))
        return sheets


def pose_text(pose: Tensor) -> str:
    """A pose [2] as text: the yaw, and the pitch where it isn't 1.

    >>> pose_text(torch.tensor([2.5, 1.0])), pose_text(torch.tensor([3.0, 2.0]))
    ('2.5', '3, pitch 2')
    """
    yaw, pitch = (f"{float(value):g}" for value in pose)
    return yaw if pitch == "1" else f"{yaw}, pitch {pitch}"


def pose_tile(image: Tensor, text: str, side: int = SIDE) -> np.ndarray:
    """A picture [3, H, W] in [0, 1], enlarged over its caption: uint8 [side + 18, side, 3]."""
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    sheet = Image.new("RGB", (side, side + 18), "white")
    how = Image.Resampling.NEAREST if pixels.shape[0] < side else Image.Resampling.BOX
    sheet.paste(Image.fromarray(pixels).resize((side - 4, side - 4), how), (2, 0))
    ImageDraw.Draw(sheet).text((4, side + 2), text, fill=(0, 0, 0))
    return np.asarray(sheet)
