"""FCFN-seg: fully convolutional fusion network for semantic segmentation.

Liu, Guo and Lew, "On the Exploration of Convolutional Fusion Networks for Visual Recognition", MMM 2017, in
its extended form, a thesis chapter ("Convolutional Fusion Networks for Image Classification", section 2.3.1).
Against FCN-8s (Long, Shelhamer and Darrell, CVPR 2015; here the preset `fcn8s`) only the two fusions change:
where FCN-8s adds two score maps, FCFN learns a weight for every class, pixel and branch,

    g[k, i] = act(W1[k, i] a[k, i] + W2[k, i] b[k, i] + bias[k, i])           (Eqs. 2.7 and 2.8: `Fusion`)

once for the twice up-sampled scores of fc7 with those of pool4 and once for the twice up-sampled result with
those of pool3, which is up-sampled by 8. The loss is softmax cross-entropy (Eq. 2.9: `pixel_loss`).

What is left open or reads otherwise, and what is done here:
- Weights of single pixels need a fixed grid. The picture is pasted into the upper left corner of a square
  canvas (512, a multiple of 32; the mean colour around it) and the scores are cropped back, so the grids are
  canvas / 16 and canvas / 8. conv1_1 is padded by 1 and fc6 by 3 (FCN pads conv1_1 by 100 and crops). FCN-8s
  gets the same canvas. Pixels outside the picture get no loss.
- The input that stage 2 adds is called coarser in the text; pool3 is the finer one.
- Initial LC weights: 1/S = 0.5, the rule the chapter states for classification (`lc_init`; 1.0 starts at the
  sum of FCN-8s). The chapter's count of 2 H W C parameters a stage leaves the biases out.
- act is ReLU as in Eq. 2.3, on the final logits too (`lc_act`). Scores that start at exactly 0, as in FCN's
  release, would never get a gradient through it, so the score layers start from N(0, 0.01). With LC biases
  of 0 half of the logits are cut off and most classes die (on small scenes 4 of 6 were never predicted), so
  the biases start at 3 (`lc_bias`): equal for all classes, it changes no softmax, but keeps the ReLU open.
- Eq. 2.9 sums over pixels, yet the learning rate of 1e-4 (with momentum 0.9) is the one FCN states for a loss
  that is averaged; summed over 10^5 pixels it diverges. Default: divide by the number of labelled pixels
  (`loss_reduction="valid"`); "sum" is the equation to the letter.
- Bilinear up-sampling stays fixed, as in the released FCN-8s. It is `interpolate`, which equals the 4x4 and
  16x16 transposed convolutions inside the map and repeats the border instead of fading it to 0.
- `weights`: ImageNet's VGG-16; its fully connected layers become fc6 and fc7 where the file has them.
- FCN-8s "at once" scales the inputs of the pool4 and pool3 scores by 0.01 and 0.0001; the chapter does not
  mention it, and it is not done.
- The small profiles train from scratch, so with batch normalisation and Adam, and without weight decay: Adam
  rescales it, and it would pull the LC weights, whose gradients are tiny, to 0. Batch statistics over pad
  pixels would be wrong: with `batch_norm` the training pictures must fill the canvas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import PixelClassesSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.locally_connected import Activation, LocallyConnectedFusion
from tasks.blocks.vgg import Convention, VGG16Trunk, normalise
from tasks.dense.semantic_segmentation import SemanticSegmentation

FusionKind = Literal["lc", "sum"]
Reduction = Literal["valid", "sum"]

HEAD_CHANNELS = 4096
HEAD_GRID = 7
"""fc6 and fc7 of VGG-16: 4096 filters, fc6 over a window of 7x7."""
WEIGHTS_EVERY = 50
"""Steps between logs of the fusion weights."""


def pixel_loss(logits: Tensor, mask: Tensor, ignore_index: int, reduction: Reduction = "valid") -> Tensor:
    """Softmax cross-entropy over pixels (Eq. 2.9), a scalar.

    logits [B, C, H, W]; mask [B, H, W] with `ignore_index` where nothing is labelled. "sum": summed over the
    pixels of a picture, mean over pictures. "valid": mean over labelled pixels of the batch; 0 if none is.
    """
    total = F.cross_entropy(logits, mask, ignore_index=ignore_index, reduction="sum")
    count = logits.shape[0] if reduction == "sum" else (mask != ignore_index).sum().clamp(min=1)
    return total / count


def upsample(scores: Tensor, factor: int) -> Tensor:
    """Bilinear, [B, C, H, W] -> [B, C, factor H, factor W]; pixel centres as in a transposed convolution of
    kernel 2 factor."""
    return F.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)


def paste(images: Tensor, canvas: int) -> Tensor:
    """Pictures [B, C, H, W] into the upper left corner of [B, C, canvas, canvas], zeros around them."""
    height, width = images.shape[-2:]
    if max(height, width) > canvas:
        raise ValueError(
            f"a picture of {height}x{width} does not fit the canvas of {canvas}x{canvas}; enlarge `canvas`"
        )
    return F.pad(images, (0, canvas - width, 0, canvas - height))


class Fusion(nn.Module):
    """Two score maps into one: the sum of FCN-8s, or one weight a class, pixel and branch (Eq. 2.7)."""

    def __init__(
        self, kind: FusionKind, classes: int, grid: int, init: float, bias: float, activation: Activation
    ) -> None:
        super().__init__()
        self.lc: LocallyConnectedFusion | None = None
        if kind == "lc":
            self.lc = LocallyConnectedFusion(2, (classes, grid, grid), init, bias, activation)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Two [B, C, H, W] -> [B, C, H, W]."""
        return coarse + fine if self.lc is None else self.lc(torch.stack([coarse, fine], dim=1))


class FCFN(nn.Module):
    """FCN-8s with the fusion of choice: normalised pictures [B, 3, S, S] of the canvas' size S -> logits
    [B, C, S, S]."""

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        canvas: int,
        width: float,
        batch_norm: bool,
        dropout: float,
        fusion: FusionKind,
        lc_init: float,
        lc_bias: float,
        lc_act: Activation,
    ) -> None:
        super().__init__()
        self.trunk = VGG16Trunk(channels, width, batch_norm)
        pool3, pool4, pool5 = self.trunk.widths[2:]
        head = max(1, round(HEAD_CHANNELS * width))
        self.fc6 = nn.Conv2d(pool5, head, HEAD_GRID, padding=HEAD_GRID // 2)
        self.fc7 = nn.Conv2d(head, head, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.dropout = nn.Dropout(dropout)
        self.score_fc7 = nn.Conv2d(head, classes, 1)
        self.score_pool4 = nn.Conv2d(pool4, classes, 1)
        self.score_pool3 = nn.Conv2d(pool3, classes, 1)
        for layer in (self.score_fc7, self.score_pool4, self.score_pool3):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.stage1 = Fusion(fusion, classes, canvas // 16, lc_init, lc_bias, lc_act)
        self.stage2 = Fusion(fusion, classes, canvas // 8, lc_init, lc_bias, lc_act)

    def forward(self, x: Tensor) -> Tensor:
        _, _, conv3, conv4, conv5 = self.trunk(x)
        pool3, pool4, pool5 = (F.max_pool2d(stage, 2, 2) for stage in (conv3, conv4, conv5))
        deep = self.dropout(F.relu(self.fc6(pool5)))
        deep = self.dropout(F.relu(self.fc7(deep)))
        fused = self.stage1(upsample(self.score_fc7(deep), 2), self.score_pool4(pool4))
        fused = self.stage2(upsample(fused, 2), self.score_pool3(pool3))
        return upsample(fused, 8)

    def load_imagenet(self, path: str | Path) -> None:
        """VGG-16 weights into the trunk and, where the file has fully connected layers, into fc6 and fc7."""
        self.trunk.load_imagenet(path)
        path = Path(path).expanduser()
        if path.suffix == ".safetensors":
            given = load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
            given = given.get("state_dict", given)
        for layer, names in ((self.fc6, ("classifier.0", "fc6")), (self.fc7, ("classifier.3", "fc7"))):
            name = next((name for name in names if f"{name}.weight" in given), None)
            if name is None:
                continue
            weight, bias = given[f"{name}.weight"], given[f"{name}.bias"]
            if weight.numel() != layer.weight.numel() or bias.shape != layer.bias.shape:
                raise ValueError(
                    f"{path}: {name}.weight is {tuple(weight.shape)}, which does not reshape to "
                    f"{tuple(layer.weight.shape)}; the weights of VGG-16 need width=1"
                )
            with torch.no_grad():
                layer.weight.copy_(weight.view_as(layer.weight))
                layer.bias.copy_(bias)


class FCFNSegmentation(Method):
    """FCFN-seg and, as the preset `fcn8s`, FCN-8s.

    fusion: "lc" (Eqs. 2.7, 2.8) or "sum" (FCN-8s).
    lc_act, lc_init, lc_bias: activation after, and initial weights and biases of, both LC fusions.
    canvas: side of the fixed grid in pixels, a multiple of 32 that no picture exceeds.
    width: factor on all channels of VGG-16. batch_norm: normalise after each convolution of the trunk.
    dropout: after fc6 and fc7.
    weights: file of ImageNet weights of VGG-16 (the paper starts from them); None: from scratch.
    convention: the input these weights expect.
    loss_reduction: see `pixel_loss`.
    optimiser: "sgd" (with `momentum`) or "adam"; `learning_rate` stays fixed.
    """

    name = "fcfn_segmentation"
    task = SemanticSegmentation
    paper = Paper(
        title="On the Exploration of Convolutional Fusion Networks for Visual Recognition",
        venue="MMM 2017 (and thesis chapter 2)",
        url="https://doi.org/10.1007/978-3-319-51811-4_23",
        code="https://github.com/yuLiu24/CFN",
    )
    recipe = Recipe(batch_size=1, max_steps=100_000, validate_every=0)
    profiles = {
        "mini": {
            "canvas": 64,
            "width": 0.125,
            "batch_norm": True,
            "optimiser": "adam",
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "batch_size": 8,
            "max_steps": 250,
        },
        "smoke": {
            "canvas": 64,
            "width": 0.0625,
            "batch_norm": True,
            "optimiser": "adam",
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "batch_size": 4,
            "max_steps": 4,
        },
    }
    presets = {"fcn8s": {"fusion": "sum"}, "lc_linear": {"lc_act": "none"}, "lc_from_sum": {"lc_init": 1.0}}
    baselines = ("fcfn_segmentation:fcn8s", "majority_mask")
    claims = (
        Claim(
            method="fcfn_segmentation",
            over="fcfn_segmentation:fcn8s",
            measure="miou",
            reported="+1.6 mean IoU on PASCAL VOC 2012, 904 pictures (text; Table 2.7: 57.1 against 60.3)",
        ),
    )

    def __init__(
        self,
        spec: PixelClassesSpec,
        *,
        fusion: FusionKind = "lc",
        lc_act: Activation = "relu",
        lc_init: float = 0.5,
        lc_bias: float = 3.0,
        canvas: int = 512,
        width: float = 1.0,
        batch_norm: bool = False,
        dropout: float = 0.5,
        weights: str | None = None,
        convention: Convention = "torchvision",
        loss_reduction: Reduction = "valid",
        optimiser: Literal["sgd", "adam"] = "sgd",
        learning_rate: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if canvas < 32 or canvas % 32:
            raise ValueError(f"canvas must be a positive multiple of 32, not {canvas}")
        if fusion not in ("lc", "sum"):
            raise ValueError(f"fusion {fusion!r} is neither 'lc' nor 'sum'")
        if loss_reduction not in ("valid", "sum"):
            raise ValueError(f"loss_reduction {loss_reduction!r} is neither 'valid' nor 'sum'")
        if optimiser not in ("sgd", "adam"):
            raise ValueError(f"optimiser {optimiser!r} is neither 'sgd' nor 'adam'")
        self.canvas = canvas
        self.batch_norm = batch_norm
        self.convention: Convention = convention
        self.loss_reduction: Reduction = loss_reduction
        self.pretrained = weights is not None
        self.optimiser = optimiser
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.network = FCFN(
            spec.channels,
            len(spec.classes),
            canvas=canvas,
            width=width,
            batch_norm=batch_norm,
            dropout=dropout,
            fusion=fusion,
            lc_init=lc_init,
            lc_bias=lc_bias,
            lc_act=lc_act,
        )
        if weights is not None:
            self.network.load_imagenet(weights)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures in [0, 1], [B, 3, H, W] -> logits [B, C, H, W]."""
        height, width = images.shape[-2:]
        if self.training and self.batch_norm and (height, width) != (self.canvas, self.canvas):
            raise ValueError(
                f"pictures of {height}x{width} do not fill the canvas of {self.canvas}: batch statistics "
                "would count pad pixels. Train with batch_norm=False or a canvas of the pictures' size"
            )
        # Zeros after normalisation: the pad has the mean colour.
        return self.network(paste(normalise(images, self.convention), self.canvas))[..., :height, :width]

    def on_fit_start(self) -> None:
        if self.optimiser == "sgd" and not self.pretrained:
            rank_zero_warn(
                f"{self.name} trains random weights with a recipe made for ImageNet's: they will hardly move. "
                "Pass weights=<VGG-16 file>, or optimiser=adam for training from scratch."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self(batch["image"])
        loss = pixel_loss(logits, batch["mask"], self.spec.ignore_index, self.loss_reduction)
        self.log("train/loss", loss)
        if self.global_step % WEIGHTS_EVERY == 0:
            self.log_dict({f"train/{name}": value for name, value in self.diagnostics().items()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimiser == "adam":
            return torch.optim.Adam(self.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            self.parameters(), self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self(batch["image"])}

    def _fusions(self) -> dict[str, LocallyConnectedFusion]:
        stages = {"pool4": self.network.stage1.lc, "pool3": self.network.stage2.lc}
        return {branch: lc for branch, lc in stages.items() if lc is not None}

    def diagnostics(self) -> dict[str, float]:
        """Mean LC weight of the up-sampled branch and of the branch that joins, a stage."""
        means = {}
        for branch, lc in self._fusions().items():
            deep, joining = lc.branch_means().tolist()
            means[f"weight_{branch}_deep"] = deep
            means[f"weight_{branch}_side"] = joining
        return means

    def figures(self) -> dict[str, np.ndarray]:
        """Where a stage trusts the branch that joins more than the up-sampled one: mean over classes of
        W2 - W1 a pixel, blue (deep) to red (side)."""
        from matplotlib import colormaps

        pictures = {}
        for branch, lc in self._fusions().items():
            difference = (lc.weight[1] - lc.weight[0]).detach().mean(0).float().cpu().numpy()
            share = 0.5 + 0.5 * difference / max(float(np.abs(difference).max()), 1e-12)
            enlarge = max(1, 256 // share.shape[0])
            picture = (colormaps["coolwarm"](share)[..., :3] * 255).astype(np.uint8)
            pictures[f"lc_weights_{branch}"] = picture.repeat(enlarge, 0).repeat(enlarge, 1)
        return pictures
