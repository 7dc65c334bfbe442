"""SqueezeSegV3: Spatially-Adaptive Convolution for Efficient Point-Cloud Segmentation (Xu et al., ECCV 2020).

In a range image the features' statistics depend on the pixel, so shared filters lie idle in most of it.
Against RangeNet21/53 (RangeNet++, IROS 2019) the paper removes the last two downsamplings, adds a prediction
and a loss at each decoder output, and replaces the first convolution of each encoder block by SAC-ISK, whose
filter is multiplied by an attention map of the pixel's coordinates.

- Eq. 1, projection: `tasks/blocks/spherical_projection.py`. Eqs. 2-4, SAC and its peers:
  `tasks/blocks/spatially_adaptive.py`. Sec. 5.1, networks: `squeezesegv3_network.py`.
- Eq. 5: `multi_layer_loss`. It calls y the prediction and y^ the label, which is swapped. It divides by the
  pixels, H_i * W_i; the official code divides by the summed class weights, which is the default here.
- Class weights: the printed 1 / log(f + eps) is negative for any f below 1 - eps. The official code has
  1 / (f + 0.001) and 0 for the unlabelled class; `class_weights="log"` is the usable 1 / log(1.02 + f).
- The five supervised outputs, which the text calls those of stage 1 to 5 and labels at 1x, 2x, 4x, 8x and 8x,
  are the decoder's: the encoder's would be 2x to 8x.
- Collisions keep the nearest point as the official code does; the text keeps the farthest (`keep="far"`).
- Optimisation: the paper gives SGD's learning rate (0.01 for 21, 0.005 for 53) and one warm-up epoch;
  momentum, weight decay, decay per epoch, batch and epochs are the official code's, whose own learning rate
  for 21 is 0.001 (preset `repo`). Mean and spread of the input are the dataset's; no augmentation.
- KNN post-processing (`knn=True`, the paper's "*" rows) is RangeNet++'s with S = k = 5; the official code
  ships S = k = 7, switched off (`repo` plus `knn=True`).
- Selection: the best weights on validation by the task's primary measure, the points' mIoU; the paper's code
  selects by the image's. The recipe holds a sequence out of training for it, because the labelled test
  sequence is the official validation sequence.
- Sec. 6.4's ablations (Tables 3-5) have images of 64 x 512: set `image_width=512` for all that are compared.

Baselines of Table 5, each one thing more: `rangenet21`, `rangenet21_ds`, `rangenet21_ds_multi` (the 44.0 of
Tables 3-5), and the method itself. The last step also moves a stage's blocks before its downsampling and
widens their first convolution; `plain` is the control that keeps both and has attention 1 everywhere.

The supplement's pseudo-code and the CRF rows are not here (no details in the text), nor a reader of the
published weights: their exact parameter names are not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import LidarSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.range_knn import range_knn
from tasks.blocks.spherical_projection import RangeImage, normalise, project, to_image
from tasks.metrics.class_confusion import ClassConfusion
from tasks.pointcloud.point_segmentation import PointSegmentation
from tasks.pointcloud.squeezesegv3_network import Adaptive, Depth, Layout, SqueezeSegV3Network

RANGENET = {"sac": "none", "sac_position": "after_down", "ds_removal": False, "multi_loss": False}
DEEP = {"depth": 53, "learning_rate": 0.005, "decay": 0.99, "batch_size": 8}


def frequency_weights(frequency: Sequence[float], mode: Literal["inverse", "log", "none"]) -> Tensor:
    """Weights of the loss from the classes' shares of training points, unlabelled first -> float32 [C + 1].

    inverse: 1 / (f + 0.001); log: 1 / log(1.02 + f); none: 1. Class 0 always weighs 0.
    """
    share = torch.tensor(frequency, dtype=torch.float64)
    if mode == "inverse":
        weights = 1 / (share + 0.001)
    elif mode == "log":
        weights = 1 / torch.log(1.02 + share)
    elif mode == "none":
        weights = torch.ones_like(share)
    else:
        raise ValueError(f"class_weights must be 'inverse', 'log' or 'none', not {mode!r}")
    weights[0] = 0
    return weights.float()


def multi_layer_loss(
    logits: Sequence[Tensor], label: Tensor, weights: Tensor, norm: Literal["weights", "hw"] = "weights"
) -> Tensor:
    """Sum over heads of the class-weighted cross-entropy against nearest-downsampled labels (Eq. 5).

    logits: [B, C + 1, H, W / s] a head; label: int64 [B, H, W], 0 where there is none; weights: [C + 1].
    norm: divide a head's sum by the summed weights of its labels, or by its number of pixels.
    """
    total = logits[0].new_zeros((), dtype=torch.float32)
    for prediction in logits:
        target = downsample_label(label, prediction.shape[-1])
        loss = F.cross_entropy(prediction.float(), target, weights, reduction="sum")
        total = total + loss / (
            weights[target].sum().clamp(min=1e-6) if norm == "weights" else target.numel()
        )
    return total


def downsample_label(label: Tensor, width: int) -> Tensor:
    """Every s-th column of [B, H, W], s = W / width: classes can't be averaged. s must be whole."""
    if label.shape[-1] % width:
        raise ValueError(f"{label.shape[-1]} columns don't reduce to {width}")
    return label[..., :: label.shape[-1] // width]


def learning_rate_factor(step: int, epoch_steps: int, warmup_epochs: float, decay: float) -> float:
    """Linear from 0 to 1 over the warm-up, then times `decay` an epoch, applied at each step."""
    warmup = warmup_epochs * epoch_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return decay ** ((step - warmup) / epoch_steps)


def active_area(activation: Tensor, threshold: float = 0.1) -> Tensor:
    """Share of the image where a filter is active: mean activations [C, H, W] -> [C] in 0..1.

    Active means above `threshold` times the filter's own largest mean activation; a filter that is positive
    nowhere is active nowhere.
    """
    peak = activation.amax((1, 2), keepdim=True)
    return ((activation > threshold * peak) & (peak > 0)).double().mean((1, 2))


class PixelStatistics:
    """Means over scans at each pixel: coordinates of measured points, and activations of a layer (Fig. 3)."""

    def __init__(self) -> None:
        self.scans = 0
        self.measured: Tensor | float = 0.0
        self.coordinates: Tensor | float = 0.0
        self.activation: Tensor | float = 0.0

    def update(self, image: RangeImage, activation: Tensor) -> None:
        """image: of B scans; activation: [B, C, H, w], of which the positive part counts."""
        mask = image.mask[:, None]
        self.scans += len(activation)
        self.measured = self.measured + mask.sum(0).cpu()
        self.coordinates = self.coordinates + (image.channels[:, 1:4] * mask).double().sum(0).cpu()
        self.activation = self.activation + activation.clamp(min=0).double().sum(0).cpu()

    def means(self) -> tuple[Tensor, Tensor]:
        """Coordinates [3, H, W], NaN where no scan measured, and activations [C, H, w]."""
        return self.coordinates / self.measured, self.activation / self.scans


class SqueezeSegV3(Method):
    """Range-image segmentation with spatially-adaptive convolution.

    depth: 21 or 53 layers. width_multiplier: of all channels.
    image_height, image_width: of the range image; the width must divide by all strides.
    keep: which point of a pixel survives. wrap: convolutions and KNN see around the turn.
    sac: first convolution of an encoder block: a SAC variant, a peer (se, cbam, cam, pac), `plain` (attention
        1), or `none` for RangeNet's block; sac_position: blocks before or after a stage's downsampling.
    attention_kernel: odd size of the convolution that makes the attention.
    ds_removal: without the last two downsamplings (and 256 channels there). multi_loss: five heads, not one.
    detach_skips: no gradient through the skips. dropout, bn_momentum: of encoder and finest head; of all
        batch normalisations outside of SAC blocks.
    loss_norm, class_weights: see `multi_layer_loss` and `frequency_weights`.
    knn: post-processing with knn_neighbours of a knn_window squared, up to knn_cutoff metres.
    learning_rate, momentum, weight_decay, warmup_epochs, decay: of SGD; decay is a factor per epoch.
    """

    name = "squeezesegv3"
    task = PointSegmentation
    paper = Paper(
        title="SqueezeSegV3: Spatially-Adaptive Convolution for Efficient Point-Cloud Segmentation",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_1",
        code="https://github.com/chenfengxu714/SqueezeSegV3",
    )
    recipe = Recipe(batch_size=16, max_epochs=150, selection="best", data={"val_sequences": ["10"]})
    profiles = {
        "mini": {
            "image_height": 32,
            "image_width": 256,
            "width_multiplier": 0.25,
            "bn_momentum": 0.1,
            "learning_rate": 0.1,
            "decay": 0.8,
            "batch_size": 1,
            "max_epochs": 11,
            "selection": "last",
            "validate_every": 0,
            "data.val_sequences": ["08"],
        },
        "smoke": {
            "image_height": 16,
            "image_width": 64,
            "width_multiplier": 0.125,
            "batch_size": 2,
            "max_epochs": 1,
            "max_steps": 2,
            "selection": "last",
            "data.val_sequences": ["08"],
        },
    }
    presets = {
        "rangenet21": RANGENET,
        "rangenet21_ds": {**RANGENET, "ds_removal": True},
        "rangenet21_ds_multi": {**RANGENET, "ds_removal": True, "multi_loss": True},
        "rangenet53": {**RANGENET, **DEEP},
        "rangenet53_knn": {**RANGENET, **DEEP, "knn": True},
        "plain": {"sac": "plain"},
        "s": {"sac": "S"},
        "is": {"sac": "IS"},
        "sk": {"sac": "SK"},
        "pac": {"sac": "pac"},
        "se": {"sac": "se"},
        "cbam": {"sac": "cbam"},
        "cam": {"sac": "cam"},
        "attention_1": {"attention_kernel": 1},
        "attention_3": {"attention_kernel": 3},
        "attention_5": {"attention_kernel": 5},
        "after_down": {"sac_position": "after_down"},
        "far": {"keep": "far"},
        "hw": {"loss_norm": "hw"},
        "repo": {"learning_rate": 0.001, "knn_neighbours": 7, "knn_window": 7},
        "knn": {"knn": True},
        "53": DEEP,
        "53_knn": {**DEEP, "knn": True},
    }
    baselines = (
        "squeezesegv3:rangenet21_ds_multi",
        "squeezesegv3:plain",
        "squeezesegv3:rangenet21",
        "position_prior",
        "majority_points",
    )
    claims = (
        Claim(
            method="squeezesegv3",
            over="squeezesegv3:rangenet21_ds_multi",
            measure="miou_2d",
            reported="46.3 against 44.0 at 64 x 512 on the validation sequence (Tables 3 and 5)",
        ),
        Claim(
            method="squeezesegv3:knn",
            over="squeezesegv3",
            measure="miou",
            reported="51.6 against 48.8 on the test set (Table 2)",
        ),
    )

    def __init__(
        self,
        spec: LidarSpec,
        *,
        depth: Depth = 21,
        width_multiplier: float = 1.0,
        image_height: int = 64,
        image_width: int = 2048,
        keep: Literal["near", "far"] = "near",
        wrap: bool = False,
        sac: Adaptive = "ISK",
        sac_position: Literal["before_down", "after_down"] = "before_down",
        attention_kernel: int = 7,
        ds_removal: bool = True,
        multi_loss: bool = True,
        detach_skips: bool = True,
        dropout: float = 0.01,
        bn_momentum: float = 0.01,
        loss_norm: Literal["weights", "hw"] = "weights",
        class_weights: Literal["inverse", "log", "none"] = "inverse",
        knn: bool = False,
        knn_neighbours: int = 5,
        knn_window: int = 5,
        knn_cutoff: float = 1.0,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 1.0,
        decay: float = 0.995,
    ) -> None:
        super().__init__(spec)
        layout = Layout.of(depth, ds_removal, width_multiplier)
        if image_width % layout.reduction:
            raise ValueError(f"image_width {image_width} must divide by {layout.reduction}")
        self.size = (image_height, image_width)
        self.keep, self.wrap, self.loss_norm = keep, wrap, loss_norm
        self.knn = {"neighbours": knn_neighbours, "window": knn_window, "cutoff": knn_cutoff} if knn else None
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.warmup_epochs, self.decay = warmup_epochs, decay
        self.network = SqueezeSegV3Network(
            len(spec.classes),
            layout,
            channels=spec.channels,
            sac=sac,
            attention_kernel=attention_kernel,
            position=sac_position,
            detach_skips=detach_skips,
            heads=5 if multi_loss else 1,
            dropout=dropout,
            bn_momentum=bn_momentum,
            wrap=wrap,
        )
        weights = frequency_weights(spec.class_frequency, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("mean", torch.tensor(spec.mean), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std), persistent=False)
        self.train_scores = ClassConfusion(len(spec.classes) - 1)
        self.statistics: PixelStatistics | None = None
        self._collecting = False

    # From points to pixels.

    def range_image(self, batch: Batch) -> RangeImage:
        """The batch's scans as range images (Eq. 1)."""
        fov = (self.spec.fov_up, self.spec.fov_down)
        return project(batch["points"], batch["scan"], len(batch["id"]), *self.size, *fov, self.keep)

    def forward(self, image: RangeImage) -> list[Tensor]:
        """Logits of the heads, finest first: [B, C + 1, H, W / s] each."""
        return self.network(normalise(image.channels, image.mask, self.mean, self.std))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = self.range_image(batch)
        label = to_image(batch["label"], image.index, 0)
        logits = self(image)
        loss = multi_layer_loss(logits, label, self.class_weights, self.loss_norm)
        self.train_scores.update(logits[0].detach().argmax(1).flatten(), label.flatten())
        self.log("train/loss", loss, batch_size=len(batch["id"]))
        return loss

    def on_train_epoch_end(self) -> None:
        scores = self.train_scores.compute()
        self.train_scores.reset()
        self.log("train/miou_2d", scores.miou.float())
        self.log("train/accuracy_2d", scores.accuracy.float())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )
        self.trainer.fit_loop.setup_data()  # else the number of batches isn't known yet
        steps = max(1, -(-int(self.trainer.num_training_batches) // self.trainer.accumulate_grad_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, steps, self.warmup_epochs, self.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        """Each point has the class of its own pixel, also where another point is in front, or that of its
        window's vote."""
        image = self.range_image(batch)
        logits = self._observed(image)
        pixels = logits.argmax(1)
        label = pixels.flatten()[image.pixel]
        if self.knn is not None:
            labelled = logits[:, 1:].argmax(1) + 1
            label = range_knn(
                pixels,
                image.channels[:, 0],
                image.pixel,
                image.range,
                labelled.flatten()[image.pixel],
                classes=len(self.spec.classes) - 1,
                wrap=self.wrap,
                **self.knn,
            )
        truth = to_image(batch["label"], image.index, 0)
        return {"label": label, "image_label": pixels[image.mask], "image_truth": truth[image.mask]}

    # Fig. 3, gathered while testing.

    def on_test_start(self) -> None:
        self.statistics, self._collecting = PixelStatistics(), True

    def on_test_end(self) -> None:
        self._collecting = False

    def _observed(self, image: RangeImage) -> Tensor:
        """Logits of the finest head; while testing, the statistics of Fig. 3 are taken on the way."""
        if not self._collecting or self.statistics is None:
            return self(image)[0]
        seen: list[Tensor] = []
        # The paper looks at RangeNet21's 11th layer: the first convolution of stage 3's second block.
        layer = self.network.encoder[2].blocks[1].reduce
        hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            logits = self(image)[0]
        finally:
            hook.remove()
        self.statistics.update(image, seen[0])
        return logits

    def diagnostics(self) -> dict[str, float]:
        """active_area: mean share of the image, in %, where a filter of the 11th layer is active (Fig. 3)."""
        if self.statistics is None or not self.statistics.scans:
            return {}
        return {"active_area": 100 * float(active_area(self.statistics.means()[1]).mean())}

    def figures(self) -> dict[str, np.ndarray]:
        """Fig. 3: mean x, y, z at each pixel; mean activation of the least, middle and most active filter."""
        if self.statistics is None or not self.statistics.scans:
            return {}
        coordinates, activation = self.statistics.means()
        order = active_area(activation).argsort(stable=True)
        chosen = activation[order[[0, len(order) // 2, -1]]]
        chosen = chosen.repeat_interleave(self.size[1] // chosen.shape[-1], dim=-1)
        return {"mean_coordinates": _maps(coordinates), "mean_activation": _maps(chosen)}


def _maps(values: Tensor, width: int = 1024) -> np.ndarray:
    """Maps [K, H, W] under one another in viridis, each over its own range, NaN black: uint8 [h, w, 3]."""
    from matplotlib import colormaps

    panels = []
    for value in values:
        known = torch.isfinite(value)
        low, high = (value[known].min(), value[known].max()) if known.any() else (0.0, 1.0)
        scaled = ((value - low) / max(float(high - low), 1e-12)).nan_to_num(0.0)
        colour = np.uint8(255 * colormaps["viridis"](scaled.numpy())[..., :3])
        colour[~known.numpy()] = 0
        zoom = max(1, width // colour.shape[1])
        panels += [
            colour.repeat(zoom, 0).repeat(zoom, 1),
            np.full((4, zoom * colour.shape[1], 3), 255, np.uint8),
        ]
    return np.concatenate(panels[:-1])
