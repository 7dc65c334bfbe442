"""FCFN-edge: fully convolutional fusion network for edge detection.

Liu, Guo and Lew, "On the Exploration of Convolutional Fusion Networks for Visual Recognition", MMM 2017, in
its extended form, a thesis chapter ("Convolutional Fusion Networks for Image Classification", section 2.3.2).
Against HED (Xie and Tu, ICCV 2015; here the preset `hed`) only the fusion of the five side outputs changes:
HED's 1x1 convolution has one weight a side output, FCFN one for every pixel and side output,

    z[i] = sum_j W[i, j] s[i, j] + b[i],   g[i] = sigmoid(z[i])      (Eq. 2.10: `EdgeNetwork.fusion`)
    L = L_fuse + sum_k L_side^(k), all weights 1                     (Eq. 2.13: `deep_supervision`)

What is left open or reads otherwise, and what is done here:
- Eq. 2.10 applies the activation of Eq. 2.3 (ReLU) to side *probabilities*, yet Eq. 2.11 takes the result's
  logarithm. Here side *logits* are fused and a sigmoid follows, as in HED.
- Eqs. 2.11 and 2.12 lack the label. Meant, as in HED: -beta log p where it is 1, -(1 - beta) log(1 - p) where
  it is 0, beta = |Y-| / |Y| of each picture, summed over pixels (Caffe's layer: mean over pictures).
- The label is 1 where at least 3 annotators marked an edge (`votes`; all of them where there are fewer).
- W is a fixed grid of 400x400, so pictures are resized to it for testing too, and the probabilities are
  resized back before thinning (`tasks.blocks.edge_nms`). HED, which takes any size, gets the same treatment.
- HED's learning rates a layer are not mentioned: off, `hed_multipliers` turns them on.
- The final map is the fused one; `final="average"` is the mean of all six, as HED's best entry.
- "25 epochs" over the training pictures as they are; no augmentation is mentioned and none is done.
- The small profiles train from scratch, so with batch normalisation, Adam and the loss divided by the number
  of pixels; without weight decay, which Adam rescales and which would pull the LC weights to 0.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import EdgeSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.edge_consensus import consensus
from tasks.blocks.edge_losses import balanced_cross_entropy, image_balance
from tasks.blocks.edge_nms import thin
from tasks.blocks.hed_multipliers import multiplied_groups
from tasks.blocks.locally_connected import LocallyConnectedFusion
from tasks.blocks.side_outputs import SideOutputs
from tasks.blocks.vgg import Convention, VGG16Trunk, normalise
from tasks.dense.edge_detection import EdgeDetection

FusionKind = Literal["lc", "conv"]
Reduction = Literal["sum", "mean"]

SIDES = 5
WEIGHTS_EVERY = 50
"""Steps between logs of the fusion weights."""


def deep_supervision(side: Tensor, fused: Tensor, target: Tensor, reduction: Reduction = "sum") -> Tensor:
    """Eq. 2.13: the balanced loss of the fused map plus that of each side output, a scalar.

    side [B, 5, H, W] and fused [B, 1, H, W] are logits, target [B, 1, H, W] is 0 or 1. "sum": summed over the
    pixels of a picture, mean over pictures (Eqs. 2.11, 2.12); "mean": divided by the pixels of a map as well.
    """
    logits = torch.cat([side, fused], dim=1)
    positive, negative = image_balance(target)
    total = balanced_cross_entropy(logits, target.expand_as(logits), positive, negative, "sum")
    pictures, _, height, width = logits.shape
    return total / (pictures if reduction == "sum" else pictures * height * width)


class EdgeNetwork(nn.Module):
    """VGG-16 trunk, five side outputs and their fusion on a grid of S x S pixels."""

    def __init__(
        self, channels: int, *, grid: int, width: float, batch_norm: bool, fusion: FusionKind, lc_init: float
    ) -> None:
        super().__init__()
        self.trunk = VGG16Trunk(channels, width, batch_norm)
        self.side_outputs = SideOutputs(self.trunk.widths)
        self.fusion: nn.Module
        if fusion == "lc":
            self.fusion = LocallyConnectedFusion(SIDES, (grid, grid), lc_init, activation="none")
        else:
            self.fusion = nn.Conv2d(SIDES, 1, 1)
            nn.init.constant_(self.fusion.weight, lc_init)
            nn.init.zeros_(self.fusion.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures [B, 3, S, S] -> side logits [B, 5, S, S] and fused logits [B, 1, S, S]."""
        side = self.side_outputs(self.trunk(x), (x.shape[-2], x.shape[-1]))
        fused = self.fusion(side)
        return side, fused if fused.ndim == 4 else fused[:, None]


class FCFNEdges(Method):
    """FCFN-edge and, as the preset `hed`, HED.

    fusion: "lc" (Eq. 2.10) or "conv" (HED: one weight a side output).
    grid: side in pixels to which pictures are resized; training pictures must come in this size already, from
        the dataset's `train_size`, because each annotator's map has to be resized alone.
    lc_init: initial weight of each side output in the fusion, of either kind.
    final: the fused map, or its average with the five side maps.
    votes: annotators that must agree on an edge.
    width, batch_norm: of the VGG-16 trunk.
    weights: file of ImageNet weights of VGG-16 (the paper starts from them); None: from scratch.
    convention: the input these weights expect.
    loss_reduction: see `deep_supervision`.
    optimiser: "sgd" (with `momentum`) or "adam". hed_multipliers: HED's learning rates a layer.
    """

    name = "fcfn_edges"
    task = EdgeDetection
    paper = Paper(
        title="On the Exploration of Convolutional Fusion Networks for Visual Recognition",
        venue="MMM 2017 (and thesis chapter 2)",
        url="https://doi.org/10.1007/978-3-319-51811-4_23",
        code="https://github.com/yuLiu24/CFN",
    )
    recipe = Recipe(batch_size=8, max_epochs=25, validate_every=0, data={"train_size": (400, 400)})
    profiles = {
        "mini": {
            "grid": 96,
            "width": 0.125,
            "batch_norm": True,
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "loss_reduction": "mean",
            "max_epochs": None,
            "max_steps": 300,
            "data.train_size": (96, 96),
        },
        "smoke": {
            "grid": 48,
            "width": 0.0625,
            "batch_norm": True,
            "optimiser": "adam",
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "loss_reduction": "mean",
            "batch_size": 2,
            "max_epochs": None,
            "max_steps": 2,
            "data.train_size": (48, 48),
        },
    }
    presets = {
        "hed": {"fusion": "conv"},
        "average": {"final": "average"},
        "multipliers": {"hed_multipliers": True},
    }
    baselines = ("fcfn_edges:hed",)
    claims = (
        Claim(
            method="fcfn_edges",
            over="fcfn_edges:hed",
            measure="ods",
            reported=".784 against .780 on BSDS500 (Table 2.8)",
        ),
    )

    def __init__(
        self,
        spec: EdgeSpec,
        *,
        fusion: FusionKind = "lc",
        grid: int = 400,
        lc_init: float = 0.2,
        final: Literal["fused", "average"] = "fused",
        votes: int = 3,
        width: float = 1.0,
        batch_norm: bool = False,
        weights: str | None = None,
        convention: Convention = "torchvision",
        loss_reduction: Reduction = "sum",
        optimiser: Literal["sgd", "adam"] = "sgd",
        learning_rate: float = 1e-6,
        momentum: float = 0.9,
        weight_decay: float = 2e-4,
        hed_multipliers: bool = False,
    ) -> None:
        super().__init__(spec)
        for option, value, known in (
            ("fusion", fusion, ("lc", "conv")),
            ("final", final, ("fused", "average")),
            ("loss_reduction", loss_reduction, ("sum", "mean")),
            ("optimiser", optimiser, ("sgd", "adam")),
        ):
            if value not in known:
                raise ValueError(f"{option} {value!r} is none of {', '.join(known)}")
        if grid < 16 or votes < 1:
            raise ValueError(f"grid must be at least 16 and votes positive, not {grid} and {votes}")
        self.grid = grid
        self.final = final
        self.votes = votes
        self.convention: Convention = convention
        self.loss_reduction: Reduction = loss_reduction
        self.pretrained = weights is not None
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.hed_multipliers = hed_multipliers
        self.network = EdgeNetwork(
            spec.channels, grid=grid, width=width, batch_norm=batch_norm, fusion=fusion, lc_init=lc_init
        )
        if weights is not None:
            self.network.trunk.load_imagenet(weights)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures in [0, 1] on the grid, [B, 3, S, S] -> side logits [B, 5, S, S], fused [B, 1, S, S]."""
        return self.network(normalise(images, self.convention))

    def on_fit_start(self) -> None:
        if self.optimiser == "sgd" and not self.pretrained:
            rank_zero_warn(
                f"{self.name} trains random weights with a recipe made for ImageNet's: they will hardly move. "
                "Pass weights=<VGG-16 file>, or optimiser=adam for training from scratch."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        size = tuple(batch["image"].shape[-2:])
        if size != (self.grid, self.grid):
            raise ValueError(
                f"training pictures are {size}, but the grid of weights is {self.grid}x{self.grid}: "
                f"give the dataset train_size=({self.grid}, {self.grid})"
            )
        side, fused = self(batch["image"])
        target = consensus(batch["edges"], batch["annotators"], votes=self.votes, dilate=False)
        loss = deep_supervision(side, fused, target, self.loss_reduction)
        self.log("train/loss", loss)
        if self.global_step % WEIGHTS_EVERY == 0:
            self.log_dict({f"train/{name}": value for name, value in self.diagnostics().items()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": list(self.parameters())}]
        if self.hed_multipliers:
            groups = multiplied_groups(
                self.network.trunk,
                self.network.side_outputs,
                self.network.fusion,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
            )
        if self.optimiser == "adam":
            return torch.optim.Adam(groups, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            groups, self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def predict(self, batch: Batch) -> Prediction:
        """Resize to the grid, detect, resize the probabilities back, thin."""
        return {"edge": thin(self.probability(batch["image"]))}

    def probability(self, images: Tensor) -> Tensor:
        """Edge probability before thinning: pictures [B, 3, H, W] in [0, 1] -> [B, 1, H, W]."""
        side, fused = self(resize(images, (self.grid, self.grid)))
        probability = fused.sigmoid()
        if self.final == "average":
            probability = torch.cat([side.sigmoid(), probability], dim=1).mean(1, keepdim=True)
        return resize(probability, (images.shape[-2], images.shape[-1]))

    def diagnostics(self) -> dict[str, float]:
        """Mean fusion weight of each side output, finest first."""
        fusion = self.network.fusion
        weight = fusion.weight if isinstance(fusion, LocallyConnectedFusion) else fusion.weight[0]
        means = weight.detach().flatten(1).mean(1).tolist()
        return {f"weight_side{side}": mean for side, mean in enumerate(means, start=1)}

    def figures(self) -> dict[str, np.ndarray]:
        """The weight maps of the LC fusion side by side, finest first, on one scale (blue low, red high)."""
        fusion = self.network.fusion
        if not isinstance(fusion, LocallyConnectedFusion):
            return {}
        from matplotlib import colormaps

        maps = torch.cat(list(fusion.weight.detach().float().cpu()), dim=1).numpy()
        low, high = float(maps.min()), float(maps.max())
        picture = colormaps["coolwarm"]((maps - low) / max(high - low, 1e-12))[..., :3]
        return {"lc_weights": (picture * 255).astype(np.uint8)}


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear and antialiased where it shrinks, [B, C, H, W] -> [B, C, *size]; unchanged where it fits."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
