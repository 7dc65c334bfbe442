"""SPVCNN: sparse point-voxel convolution for LiDAR segmentation (Tang et al., ECCV 2020, Sec. 3).

A sparse-voxel U-Net loses thin and small objects to coarse voxels and four downsamplings. SPVConv runs a few point-wise
layers beside it at full resolution; both exchange features by voxelising and devoxelising. `:minkunet` is the U-Net
alone, the baseline. `spvnas` searches the widths and depths.

- Eqs. 1-2 and devoxelisation: `tasks/blocks/sparse_voxels.py`; sparse convolution: `sparse_convolution.py` there.
  Networks: `spvnas_network.py`.
- Training is the official code's, the text has none: SGD 0.24 with Nesterov momentum for 16 scans a step, weight decay
  1e-4, 15 epochs, cosine a step, 80,000 random voxels a scan, rotation about z, scale; cross-entropy without weights.
  There, 8 devices have 2 scans each; here 8 batches of 2 are accumulated. For fewer scans a step the rate must be
  scaled down with them: at 2 scans 0.24 diverges. The rate in use is logged.
- The official code quantises scans before the network: round(p / 0.05) less the scan's least, one point a voxel
  (`unique_points`); others take its answer. The paper's Eq. 1 floors and keeps all points, which is the default.
- The official code's branch starts from the devoxelised stem; `point_stem` adds raw features to it.
- Chosen here: the loss at every point, also of MinkUNet, so that both are trained on the same.
- Sec. 6.1's branch analysis (Figs. 4-5) takes the 10 % of a scan's points with the largest norm in each branch of the
  last SPVConv (the text says 10 %, and 50 % for the picture, whose caption says 5 %).
- Left out: the official code's map of raw labels, which drops buses and lane markings (labels are the dataset's).
- Latency is the runner's throughput. MACs come from the kernel maps of the test scans.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor

from datamodules.specs import LidarSpec
from tasks.base import Batch, Claim, Recipe
from tasks.blocks.published_weights import load_renamed, read_published
from tasks.blocks.sparse_voxels import Align, Mode
from tasks.pointcloud.spvnas_network import SPVCNN, Architecture, MinkUNet, published_name, published_value
from tasks.pointcloud.spvnas_training import PAPER, PointVoxelMethod, cosine, point_loss


class SPVCNNSegmentation(PointVoxelMethod):
    """SPVCNN or MinkUNet of uniform width.

    net: with or without the point branch; point_branch=False turns the one into the other. cr: the official code's
    factor on all widths; width: a further one for small profiles. devox, align, point_stem, dropout: see `SPVCNN`.
    decoder: see `spvnas_network.py`. warmup_steps: linear steps before the cosine (the official code: 1000 / devices,
    with several devices only). Others: `PointVoxelMethod`. weights: a checkpoint of the authors to start from.
    """

    name = "spvcnn"
    paper = PAPER
    recipe = Recipe(batch_size=2, accumulate=8, max_epochs=15, validate_every=0, precision="16-mixed")
    profiles = {
        "mini": {
            "width": 0.25,
            "voxel_size": 0.2,
            "learning_rate": 0.06,
            "batch_size": 1,
            "accumulate": 1,
            "max_epochs": 3,
            "precision": "32-true",
        },
        "smoke": {
            "width": 0.125,
            "voxel_size": 0.4,
            "learning_rate": 0.03,
            "max_voxels": 1000,
            "batch_size": 2,
            "accumulate": 1,
            "max_epochs": 1,
            "max_steps": 2,
            "precision": "32-true",
        },
    }
    presets = {
        "minkunet": {"net": "minkunet"},
        "no_branch": {"point_branch": False},
        "cr_0.64": {"cr": 0.64},
        "cr_0.5": {"cr": 0.5},
        "minkunet_cr_0.64": {"net": "minkunet", "cr": 0.64},
        "minkunet_cr_0.5": {"net": "minkunet", "cr": 0.5},
        "point_stem": {"point_stem": True},
        "unique_points": {"unique_points": True},
        "minkunet_unique_points": {"net": "minkunet", "unique_points": True},
        "nearest": {"devox": "nearest"},
        "center": {"align": "center"},
        "no_decoder": {"decoder": False},
    }
    baselines = ("spvcnn:minkunet", "pvcnn", "position_prior", "majority_points")
    claims = (
        Claim(
            method="spvcnn",
            over="spvcnn:minkunet",
            measure="miou_small",
            reported="63.8 against 61.1 mIoU on sequence 08 at 119 and 114 GMACs (official code), most of it on "
            "small classes (Table 5)",
        ),
    )

    def __init__(
        self,
        spec: LidarSpec,
        *,
        net: Literal["spvcnn", "minkunet"] = "spvcnn",
        point_branch: bool = True,
        cr: float = 1.0,
        width: float = 1.0,
        decoder: bool = True,
        devox: Mode = "trilinear",
        align: Align = "corner",
        point_stem: bool = False,
        dropout: float = 0.3,
        voxel_size: float = 0.05,
        unique_points: bool = False,
        max_voxels: int = 80_000,
        rotate: bool = True,
        scale: tuple[float, float] = (0.95, 1.05),
        learning_rate: float = 0.24,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        warmup_steps: int = 0,
        weights: str | None = None,
    ) -> None:
        super().__init__(
            spec,
            voxel_size=voxel_size,
            unique_points=unique_points,
            max_voxels=max_voxels,
            rotate=rotate,
            scale=scale,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
        )
        if net not in ("spvcnn", "minkunet"):
            raise ValueError(f"net must be 'spvcnn' or 'minkunet', not {net!r}")
        self.warmup_steps = warmup_steps
        architecture = Architecture.uniform(cr * width, decoder=decoder)
        self.network: MinkUNet
        if net == "spvcnn" and point_branch:
            self.network = SPVCNN(
                architecture, self.classes, devox=devox, align=align, point_stem=point_stem, dropout=dropout
            )
        else:
            self.network = MinkUNet(architecture, self.classes)
        if weights is not None:
            self.load_published_weights(weights)

    @property
    def tested(self) -> MinkUNet:
        return self.network

    def rate(self, progress: float) -> float:
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warmup = min(self.warmup_steps / steps, 1.0)
        if progress < warmup:
            return (progress * steps + 1) / self.warmup_steps
        return cosine((progress - warmup) / max(1 - warmup, 1e-9))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        inputs = self.inputs(batch, augment=True)
        logits = self.network(inputs.features, inputs.points)
        return self.record(point_loss(logits, batch["label"][inputs.rows]), batch)

    def load_published_weights(self, path: str | Path) -> None:
        """Load a MinkUNet or SPVCNN of the official code, the state under `model` in torchsparse's layout
        (`published_value`); names follow the repository's modules as known, there was no file to try.

        Raises FileNotFoundError, and ValueError that lists the keys that are missing, unexpected or of another shape.
        """
        state = {name: published_value(name, value) for name, value in read_published(path).items()}
        load_renamed(self.network, state, published_name)
