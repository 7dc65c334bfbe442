"""CFN: convolutional fusion networks, image classification (thesis chapter 2; MMM 2017).

Against the plain CNN: cheap side branches (1×1 convolution, global average pooling; Eq. 2.1) start from its
pooling layers and are fused with the main branch by a locally-connected layer, one weight for each feature
element and branch (Eq. 2.3, `tasks/blocks/locally_connected.py`). The fused feature has the one classifier
(early fusion, late prediction) and softmax cross-entropy is taken there only (Eq. 2.4). The networks stand in
`cfn_networks.py`: trunks A and B (Table 2.1, 32×32 pictures), 11 (Fig. 2.9) and 19, the baselines
`fusion=none` (plain CNN), `sum` and `conv` (one shared weight a branch), the peers DSN-11 and ResNet-11.

Where the chapter and the published Caffe networks contradict each other, the chapter is the default
(`schedule`, `lc_form`, per-pixel mean); where the chapter is silent, the published ones fill the gap: dropout
behind the pools is read by the side branch too, dropout on the fused vector of A and B, N(0, 0.05) and
N(0, 0.1) initial weights, twice the learning rate and no decay on biases, a tenth of it on the fusion.
Eq. 2.2's K(C + 1) miscounts a classifier with bias; it has C(K + 1) weights.

Left open by both and chosen here:
- global contrast normalisation is per picture: minus its mean, over its standard deviation (eps 1e-8);
  starred rows then pad with 4 zeros (the mean grey), crop and flip, per picture;
- the chapter gives B 192 channels in its first two convolutions "on CIFAR-100" and 96 on CIFAR-10: the width
  follows the number of classes, wide from 100 on; `wide_stem` says otherwise;
- trunk 19 has four 3×3 convolutions a stage instead of two (1 + 16 + 1 + classifier = 19); no table is given;
- ImageNet trunks start like Caffe's GoogLeNet (Glorot, biases 0.2: "following GoogLeNet"), convolutions under
  batch normalisation have no bias, and nothing is dropped out;
- the mean picture is that of the training crops of the first `mean_steps` batches, per pixel or channel;
- the fusion `conv` has the same activation, initial weights and learning rate as `lc`;
- with `strategy=eplf` the S predictions are fused without ReLU (on logits it would silence classes), and the
  transferable feature is the main branch's, since there is no fused one;
- DSN-11's side classifiers hang on the branches CFN-11 has, with loss weight 0.3 (the chapter names none);
  ResNet-11's shortcuts are 1×1 convolutions with BN around all four pairs, also the one of equal channels.
AlexNet (Table 2.4) and other published networks (Table 2.3) are reported numbers only. Transfer of the
feature and the fully convolutional forms are methods of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, pad

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.locally_connected import Activation
from tasks.recognition.cfn_networks import (
    FULL_FEATURES,
    Fusion,
    FusionNetwork,
    Init,
    Strategy,
    TrunkName,
    build_trunk,
)
from tasks.recognition.image_classification import ImageClassification, classes_of

Preprocessing = Literal["gcn", "mean_pixel", "mean_channel"]
Schedule = Literal["chapter", "repo"]
Peer = Literal["dsn", "resnet"]


@dataclass(frozen=True, kw_only=True)
class TrunkRecipe:
    """What is fixed for a kind of trunk. drops: fractions of the training after which the rate is a tenth."""

    lr: float
    drops: dict[str, tuple[float, ...]]
    init: Init
    preprocessing: Preprocessing
    dropout: float


SMALL = TrunkRecipe(
    lr=0.1,
    drops={"chapter": (100 / 120,), "repo": (40 / 120, 80 / 120)},
    init="gaussian",
    preprocessing="gcn",
    dropout=0.5,
)
LARGE = TrunkRecipe(
    lr=0.01,
    drops={"chapter": (100 / 200, 150 / 200), "repo": (100 / 200, 150 / 200)},
    init="xavier",
    preprocessing="mean_pixel",
    dropout=0.0,
)
WIDE_STEM_CLASSES = 100


def global_contrast_normalise(image: Tensor, eps: float = 1e-8) -> Tensor:
    """[B, C, H, W] -> each picture with mean 0 and standard deviation 1 (all 0 where it is constant)."""
    centred = image.float() - image.float().mean(dim=(1, 2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(eps)


def pad_crop_flip(image: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int = 4) -> Tensor:
    """Shift each picture inside a border of zeros and mirror some of them.

    image: [B, C, H, W]; top, left: int64 [B], corner of the crop in the padded picture, 0..2·padding;
    flip: bool [B]. Returns [B, C, H, W].
    """
    batch, channels, height, width = image.shape
    padded = pad(image, (padding,) * 4)
    rows = top[:, None] + torch.arange(height, device=image.device)
    columns = left[:, None] + torch.arange(width, device=image.device)
    columns = torch.where(flip[:, None], columns.flip(1), columns)
    sample = torch.arange(batch, device=image.device)[:, None, None, None]
    plane = torch.arange(channels, device=image.device)[None, :, None, None]
    return padded[sample, plane, rows[:, None, :, None], columns[:, None, None, :]]


def classification_loss(
    logits: Tensor, side_logits: Tensor | None, label: Tensor, side_weight: float
) -> Tensor:
    """Softmax cross-entropy (Eq. 2.4), for DSN plus `side_weight` times that of each side classifier.

    logits: [B, C]; side_logits: [B, S - 1, C] or None; label: [B]. Returns a scalar.
    """
    loss = cross_entropy(logits, label)
    if side_logits is None:
        return loss
    sides = side_logits.shape[1]
    return loss + side_weight * sides * cross_entropy(
        side_logits.flatten(0, 1), label.repeat_interleave(sides)
    )


class MeanPicture(nn.Module):
    """Running mean of the training pictures, fixed after `steps` batches; checkpoints carry it."""

    def __init__(self, channels: int, size: tuple[int, int], *, per_pixel: bool, steps: int) -> None:
        super().__init__()
        self.per_pixel = per_pixel
        self.steps = steps
        self.mean: Tensor
        self.seen: Tensor
        self.register_buffer("mean", torch.zeros(channels, *size))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def observe(self, image: Tensor) -> None:
        """Take in a training batch [B, C, H, W]."""
        self.seen += 1
        share = torch.where(self.seen <= self.steps, 1.0 / self.seen, 0.0)
        self.mean += share * (image.float().mean(dim=0) - self.mean)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] minus the mean, which is resized where the pictures have another size."""
        if not self.per_pixel:
            return image - self.mean.mean(dim=(1, 2))[:, None, None]
        mean = self.mean[None]
        if mean.shape[-2:] != image.shape[-2:]:
            mean = interpolate(mean, image.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        return image - mean


class CFN(Method):
    """A plain CNN with fused side branches; the options' defaults are CFN-A.

    trunk: "a", "b" (32×32 pictures), "11", "19" (224×224). fusion: "lc" (CFN), "none" (CNN), "sum", "conv".
    strategy: fuse features and predict once ("eflp"), or predict in each branch and fuse ("eplf").
    peer: "dsn" or "resnet", with fusion "none" on trunk 11 or 19.
    side_branches: which side branches, 1 the lowest; None: all the chapter draws.
    lc_init: initial fusion weight, None: 1/S. lc_act: activation of the fused vector.
    lc_form: "repo" fuses without bias and adds BN before the ReLU (published ImageNet networks).
    width: factor on all channels, K included. wide_stem: None: B has 192 stem channels from 100 classes on.
    augment: pad 4, random crop, flip (starred rows).
    preprocessing, init, dropout, lr: None: as the trunk's recipe has it.
    optimiser: "adam" is for short runs, which with plain SGD measure how fast a form starts, not how far it gets.
    schedule: when the learning rate falls. bias_lr, fusion_lr: factors on the learning rate of biases and of
    the fusion (its bias: both). side_loss: DSN's weight of each side loss.
    """

    name = "cfn"
    task = ImageClassification
    paper = Paper(
        title="On the Exploration of Convolutional Fusion Networks for Visual Recognition",
        venue="MMM 2017; thesis chapter 2",
        url="https://doi.org/10.1007/978-3-319-51811-4_23",
    )
    recipe = Recipe(batch_size=100, max_steps=120_000, validate_every=0)
    _large = {"batch_size": 64, "max_steps": 200_000}
    presets = {
        "cnn": {"fusion": "none"},
        "cnn_sum": {"fusion": "sum"},
        "cnn_conv": {"fusion": "conv"},
        "star": {"augment": True},
        "cnn_star": {"fusion": "none", "augment": True},
        "b": {"trunk": "b"},
        "cnn_b": {"trunk": "b", "fusion": "none"},
        "cnn_sum_b": {"trunk": "b", "fusion": "sum"},
        "cnn_conv_b": {"trunk": "b", "fusion": "conv"},
        "b_star": {"trunk": "b", "augment": True},
        "cnn_b_star": {"trunk": "b", "fusion": "none", "augment": True},
        "cfn_11": {"trunk": "11", **_large},
        "cnn_11": {"trunk": "11", "fusion": "none", **_large},
        "dsn_11": {"trunk": "11", "fusion": "none", "peer": "dsn", **_large},
        "resnet_11": {"trunk": "11", "fusion": "none", "peer": "resnet", **_large},
        "cfn_19": {"trunk": "19", **_large},
        "cnn_19": {"trunk": "19", "fusion": "none", **_large},
        "cfn_11_repo": {"trunk": "11", "lc_form": "repo", "preprocessing": "mean_channel", **_large},
        "eplf": {"strategy": "eplf"},
        "repo": {"schedule": "repo"},
        "top_side_only": {"side_branches": [2]},
        "lc_linear": {"lc_act": "none"},
    }
    profiles = {
        # A hundredth of the steps: weights start at the scale that ReLU needs, and the gradient is clipped
        # for the short, steep start.
        "mini": {
            "width": 0.25,
            "batch_size": 64,
            "max_steps": 900,
            "optimiser": "adam",
            "lr": 0.0015,
            "gradient_clip": 1.0,
            "init": "kaiming",
            "dropout": 0.1,
        },
        "smoke": {"width": 0.0625, "max_steps": 4, "batch_size": 16},
    }
    baselines = ("cfn:cnn", "cfn:cnn_sum", "cfn:cnn_conv", "majority")
    claims = (
        Claim(
            method="cfn", over="cfn:cnn", measure="error", reported="CIFAR-10 14.73 vs 15.57 % (Table 2.2)"
        ),
        Claim(
            method="cfn",
            over="cfn:cnn_sum",
            measure="error",
            reported="CIFAR-10 14.73 vs 15.33 % (Table 2.2)",
        ),
        Claim(
            method="cfn",
            over="cfn:cnn_conv",
            measure="error",
            reported="CIFAR-10 14.73 vs 15.19 % (Table 2.2)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        trunk: TrunkName = "a",
        fusion: Fusion = "lc",
        strategy: Strategy = "eflp",
        peer: Peer | None = None,
        side_branches: Sequence[int] | None = None,
        lc_init: float | None = None,
        lc_act: Activation = "relu",
        lc_form: Literal["chapter", "repo"] = "chapter",
        width: float = 1.0,
        wide_stem: bool | None = None,
        augment: bool = False,
        preprocessing: Preprocessing | None = None,
        mean_steps: int = 1000,
        init: Init | None = None,
        dropout: float | None = None,
        lr: float | None = None,
        schedule: Schedule = "chapter",
        optimiser: Literal["sgd", "adam"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        bias_lr: float = 2.0,
        fusion_lr: float = 0.1,
        side_loss: float = 0.3,
    ) -> None:
        super().__init__(spec)
        classes = classes_of(spec)
        if peer is not None and (fusion != "none" or trunk not in ("11", "19")):
            raise ValueError("the peers dsn and resnet have fusion='none' and trunk '11' or '19'")
        small = trunk in ("a", "b")
        facts = SMALL if small else LARGE
        dropout = facts.dropout if dropout is None else dropout
        self.network = FusionNetwork(
            build_trunk(
                trunk,
                image_channels=spec.channels,
                width=width,
                wide_stem=len(classes) >= WIDE_STEM_CLASSES if wide_stem is None else wide_stem,
                dropout=dropout,
                residual=peer == "resnet",
            ),
            len(classes),
            max(1, round(width * FULL_FEATURES[trunk])),
            fusion=fusion,
            strategy=strategy,
            branches=side_branches,
            init=init or facts.init,
            dropout=dropout,
            norm=not small,
            lc_init=lc_init,
            lc_act=lc_act,
            lc_norm=lc_form == "repo",
            deep_supervision=peer == "dsn",
        )
        preprocessing = preprocessing or facts.preprocessing
        self.mean_picture: MeanPicture | None = None
        if preprocessing != "gcn":
            self.mean_picture = MeanPicture(
                spec.channels, spec.image_size, per_pixel=preprocessing == "mean_pixel", steps=mean_steps
            )
        self.augment = augment
        self.peer = peer
        self.lr = facts.lr if lr is None else lr
        self.drops = facts.drops[schedule]
        self.optimiser, self.momentum, self.weight_decay = optimiser, momentum, weight_decay
        self.bias_lr, self.fusion_lr, self.side_loss = bias_lr, fusion_lr, side_loss

    def preprocess(self, image: Tensor) -> Tensor:
        """Pictures in [0, 1] [B, channels, H, W], contrast-normalised or minus the mean picture."""
        return global_contrast_normalise(image) if self.mean_picture is None else self.mean_picture(image)

    def features(self, batch: Batch) -> Tensor:
        """The transferable feature of `image`, [B, K]: g^f of CFN (K = 1024 for trunk 11), of a plain CNN its
        global average pooling. Gradients flow; evaluation mode is the caller's matter."""
        return self.network.feature(self.network.branches(self.preprocess(batch["image"])))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = batch["image"]
        if self.mean_picture is not None:
            self.mean_picture.observe(image)
        image = self.preprocess(image)
        if self.augment:
            corner = torch.randint(0, 9, (2, len(image)), device=image.device)
            image = pad_crop_flip(image, *corner, torch.rand(len(image), device=image.device) < 0.5)
        stack = self.network.branches(image)
        sides = self.network.side_logits(stack) if self.peer == "dsn" else None
        loss = classification_loss(self.network.logits(stack), sides, batch["label"], self.side_loss)
        self.log("train/loss", loss)
        for name, value in self.fusion_weights().items():
            self.log(f"train/{name}", value)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        if self.optimiser == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(self.parameter_groups(), lr=self.lr)
        else:
            optimizer = torch.optim.SGD(self.parameter_groups(), lr=self.lr, momentum=self.momentum)
        total = int(self.trainer.estimated_stepping_batches)
        milestones = [max(1, round(fraction * total)) for fraction in self.drops]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weights, biases (`bias_lr`, no decay), fusion weights (`fusion_lr`) and fusion biases (both)."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.startswith("fusion."), name.endswith("bias")), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.lr * (self.fusion_lr if fusion else 1.0) * (self.bias_lr if bias else 1.0),
                "weight_decay": 0.0 if bias else self.weight_decay,
            }
            for (fusion, bias), parameters in groups.items()
        ]

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.network(self.preprocess(batch["image"]))}

    def fusion_weights(self) -> dict[str, Tensor]:
        """Mean fusion weight of each branch by name, bottom to top (Fig. 2.8); empty without weights."""
        means = self.network.fusion_means()
        if means is None:
            return {}
        names = [f"fusion_weight_side{i}" for i in self.network.chosen] + ["fusion_weight_main"]
        return dict(zip(names, means, strict=True))

    def diagnostics(self) -> dict[str, float]:
        """Parameters of the plain CNN, the sides and the fusion; mean fusion weight of each branch."""
        split = self.network.parameter_split()
        numbers = {f"parameters_{part}": float(count) for part, count in split.items()}
        weights = {name: float(value) for name, value in self.fusion_weights().items()}
        if weights:
            numbers["main_branch_largest"] = float(
                max(weights, key=weights.__getitem__) == "fusion_weight_main"
            )
        return {**numbers, **weights}
