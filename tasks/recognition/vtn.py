"""VTN: volumetric transformer networks, fine-grained classification (ECCV 2020).

A spatial transformer moves all channels of a feature map alike, but channels stand for parts that move on their own.
Here each group of channels is warped by a dense field of its own before pooling, and a triplet loss on the warped
maps makes the fields agree over pictures of a class.

Group sampling, squeeze and expansion, Eqs. 1 and 2: `tasks/blocks/volumetric_transformer.py`. The other warps (STN,
SSN, ASN, deformable convolution) at the same place: `tasks/blocks/spatial_warps.py`. Where it sits:
`tasks/blocks/warped_backbone.py`. Eqs. 3 and 4: `tasks/blocks/warp_consistency.py`. Second-order heads:
`tasks/blocks/second_order_pooling.py`. Total loss: L_task + lambda L_cons.

Left open by the paper and chosen here, besides what those files say:
- global average pooling and a linear layer behind the last map of both backbones;
- batches of 8 classes x 2 pictures, so that each picture has a positive; the warps that have no use for triplets are
  trained on the same batches, crops and turns, and start from the same backbone and classifier;
- L_cons is averaged over the triplets of a batch; over pixels it is the sum, as written, or with
  `cons_reduction="mean"` their mean, because a sum over 196 to 784 pixels drowns the cross-entropy. Which of the two
  a trial used is in its options and its diagnostics;
- without ImageNet weights (`weights`) the backbone starts at random; for rendered pictures, whose small backbone has
  none, it may start from a Base trained before on the same pictures (`pretrained`), the same one for all warps;
- SGD with momentum 0.9 and weight decay 1e-4, learning rate 1e-3 for the backbone and 1e-2 for what is new, divided
  by ten after 50 and 80 of 100 epochs; turns of up to 15 degrees, pixels outside the picture repeating its border;
- the box of Grad-CAM (Table 5) is that of the largest region above 20 % of the map's maximum. For the top-k error a
  picture is right if its class is among the first k and the box of that class overlaps the true one by half. Grad-CAM
  is taken on V, as the paper has it; because V's pixels have moved, also on U (`localisation_before_warp`).

Baselines are trained by the task's loss alone, as in Table 1. `shared_field` is a control of our own: one group, so
that one field moves all channels, with all the rest of VTN. Not here: kernel pooling, TASN and DCL as the networks
around VTN (Tables 2 and 3), which are reported numbers only. The paper names a page for its code, but the names of
its weights aren't known well enough here to load them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchvision.ops import box_iou

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.field_pictures import draw_fields
from tasks.blocks.grad_cam import grad_cam, largest_boxes
from tasks.blocks.identity_batches import identity_batches
from tasks.blocks.second_order_pooling import PooledClassifier, Pooling
from tasks.blocks.training_labels import training_labels
from tasks.blocks.volumetric_transformer import VolumetricTransformer, group_samples, uniform_field
from tasks.blocks.warp_consistency import ConsistencyForm, Reduction, consistency_loss, draw_triplets
from tasks.blocks.warped_backbone import (
    Backbone,
    Warp,
    WarpedBackbone,
    field_statistics,
    group_statistics,
)
from tasks.recognition.image_classification import ImageClassification, classes_of

ALPHA: dict[str, float] = {"vgg19": 20.0, "resnet50": 30.0, "small": 30.0}
"""The threshold of Eq. 4 by backbone."""
ROLE = "start"
SHOWN = 4


def rotated_crops(
    image: Tensor, size: tuple[int, int], angle: Tensor, corner: Tensor, flip: Tensor
) -> Tensor:
    """Crops of turned and mirrored pictures, in one bilinear pass.

    image: [N, 3, H, W]; size: (h, w) of the crop; angle: radians [N], about the crop's centre; corner: [N, 2], (x, y)
    of the crop's upper left corner in pixels; flip: bool [N]. -> [N, 3, h, w], outside the picture its border.
    """
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device, dtype=image.dtype),
        torch.arange(width, device=image.device, dtype=image.dtype),
        indexing="ij",
    )
    x, y = x - (width - 1) / 2, y - (height - 1) / 2  # about the crop's centre
    x = torch.where(flip[:, None, None], -x, x.expand(len(image), -1, -1))
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    centre = corner + corner.new_tensor([(width - 1) / 2, (height - 1) / 2])
    source_x = cos * x - sin * y + centre[:, 0, None, None]
    source_y = sin * x + cos * y + centre[:, 1, None, None]
    extent = image.new_tensor([image.shape[3], image.shape[2]])
    grid = (2 * torch.stack([source_x, source_y], dim=-1) + 1) / extent - 1
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


class VTN(Method):
    """See the module's docstring.

    backbone, weights: see `WarpedBackbone`; weights is the file of ImageNet weights, without which the backbone
    starts at random. warp: what moves the last feature map. pooling: see `PooledClassifier`.
    pretrained, pretrain_epochs: start from the backbone of a Base that was trained for so many epochs (the trial
    `start`, on the same dataset unless a suite says otherwise): for pictures that no ImageNet weights exist for.
    groups, window, beta, use_squeeze, use_group, prob, shared_field: C, the side of the candidates' square, beta and
    the ablations of VTN. alpha: threshold of L_cons, None: 20 for VGG, 30 for ResNet. lambda_cons: its weight.
    consistency: Eq. 4 or, with "square", Eq. 3. cons_reduction: over pixels. cons_unit: what V is divided by for it, to
    bring the responses of another backbone to the range that lambda = 1 is meant for.
    identities, pictures: classes a batch and pictures of each. crop_size: side of the square cut out of the served
    pictures, at random in training, central in test; None: all of it. rotation: largest turn in degrees.
    optimiser: "adam" (AdamW) is for short runs. lr, new_lr: of the backbone, and of warp and classifier. drops: shares
    of the training after which both are divided by ten.
    cam_threshold: share of Grad-CAM's maximum above which a pixel belongs to the object.
    """

    name = "vtn"
    task = ImageClassification
    paper = Paper(
        title="Volumetric Transformer Networks",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58592-1_33",
        code="https://github.com/seungryong/VTNs",
    )
    recipe = Recipe(batch_size=16, max_epochs=100, validate_every=0, data={"image_size": 512})
    _plain = {"lambda_cons": 0.0}
    presets = {
        "base": {"warp": "none", **_plain},
        "stn": {"warp": "stn", **_plain},
        "defconv": {"warp": "defconv", **_plain},
        "ssn": {"warp": "ssn", **_plain},
        "asn": {"warp": "asn", **_plain},
        "shared_field": {"shared_field": True},
        "no_consistency": _plain,
        "no_squeeze": {"use_squeeze": False},
        "no_group": {"use_group": False},
        "no_probability": {"prob": False},
        "square_loss": {"consistency": "square"},
        "base_consistency": {"warp": "none"},
        "bp": {"pooling": "bp"},
        "base_bp": {"warp": "none", "pooling": "bp", **_plain},
        "cbp": {"pooling": "cbp"},
        "mpn": {"pooling": "mpn"},
        "isqrt": {"pooling": "isqrt"},
        "base_isqrt": {"warp": "none", "pooling": "isqrt", **_plain},
        "vgg19": {"backbone": "vgg19"},
        "base_vgg19": {"backbone": "vgg19", "warp": "none", **_plain},
    }
    _small = {
        "backbone": "small",
        "groups": 8,
        "window": 5,
        "crop_size": 96,
        "data.image_size": 104,
        "cons_reduction": "mean",
    }
    profiles = {
        # The range of the small backbone's responses is about 3, and squared distances of its maps are in the tens.
        "mini": {
            **_small,
            "pretrained": True,
            "pretrain_epochs": 14,
            "beta": 3.0,
            "alpha": 0.01,
            "cons_unit": 18.0,
            "optimiser": "adam",
            "lr": 3e-3,
            "new_lr": 3e-3,
            "max_epochs": 8,
        },
        "smoke": {**_small, "identities": 4, "batch_size": 8, "max_steps": 2},
    }
    baselines = ("vtn:base", "vtn:stn", "vtn:ssn", "vtn:shared_field", "vtn:no_consistency", "majority")
    claims = (
        Claim(
            method="vtn",
            over="vtn:base",
            measure="error",
            reported="CUB accuracy 83.1 vs 74.6 %, ResNet-50 (Table 1)",
        ),
        Claim(
            method="vtn",
            over="vtn:stn",
            measure="error",
            reported="CUB accuracy 83.1 vs 76.5 %, ResNet-50 (Table 1)",
        ),
        Claim(
            method="vtn",
            over="vtn:shared_field",
            measure="error",
            reported="no number: the paper's argument that channels need fields of their own",
        ),
        Claim(
            method="vtn",
            over="vtn:no_consistency",
            measure="error",
            reported="CUB accuracy 83.1 vs 82.4 %, ResNet-50 (Table 1)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        backbone: Backbone = "resnet50",
        weights: str | None = None,
        pretrained: bool = False,
        pretrain_epochs: int = 20,
        warp: Warp = "vtn",
        pooling: Pooling = "gap",
        groups: int = 32,
        window: int = 11,
        beta: float = 10.0,
        use_squeeze: bool = True,
        use_group: bool = True,
        prob: bool = True,
        shared_field: bool = False,
        alpha: float | None = None,
        lambda_cons: float = 1.0,
        consistency: ConsistencyForm = "triplet",
        cons_reduction: Reduction = "sum",
        cons_unit: float = 1.0,
        identities: int = 8,
        pictures: int = 2,
        crop_size: int | None = 448,
        rotation: float = 15.0,
        optimiser: Literal["sgd", "adam"] = "sgd",
        lr: float = 1e-3,
        new_lr: float = 1e-2,
        drops: Sequence[float] = (0.5, 0.8),
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        cam_threshold: float = 0.2,
    ) -> None:
        super().__init__(spec)
        self.classes = classes_of(spec)
        self.crop_size = crop_size
        if crop_size is not None and crop_size > min(spec.image_size):
            raise ValueError(f"cannot crop {crop_size} x {crop_size} out of pictures of {spec.image_size}")
        self.network = WarpedBackbone(
            backbone=backbone,
            weights=weights,
            warp=warp,
            groups=groups,
            window=window,
            beta=beta,
            use_squeeze=use_squeeze,
            use_group=use_group,
            prob=prob,
            shared_field=shared_field,
        )
        self.classifier = PooledClassifier(self.network.channels, len(self.classes), pooling)
        self.alpha = ALPHA[backbone] if alpha is None else alpha
        self.lambda_cons, self.consistency, self.cons_reduction = lambda_cons, consistency, cons_reduction
        self.cons_unit = cons_unit
        self.identities, self.pictures, self.rotation = identities, pictures, rotation
        self.optimiser, self.lr, self.new_lr, self.drops = optimiser, lr, new_lr, tuple(drops)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.cam_threshold = cam_threshold
        self._labels = np.zeros(0, np.int64)
        self._seed = 0
        self._means: dict[str, MeanMetric] = {}
        self._shown: tuple[Tensor, Tensor] | None = None

    # Where it starts from.

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        if not options["pretrained"]:
            return ()
        start = {"pretrained": False, "max_epochs": options["pretrain_epochs"], "drops": []}
        return (Need(role=ROLE, method="vtn:base", options=start),)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the backbone of a trained Base; warp and classifier stay as they are."""
        if role != ROLE or not isinstance(trained, VTN):
            raise TypeError(f"{self.name} needs a VTN as {ROLE!r}, not {trained.name} as {role!r}")
        self.network.take_layers(trained.network)

    # Batches of 8 classes x 2 pictures, the same under every warp.

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self._labels, self._seed = training_labels(data), data.seed
            self._schedule(0)

    def on_train_epoch_end(self) -> None:
        if len(self._labels):
            self._schedule(self.current_epoch + 1)

    def _schedule(self, epoch: int) -> None:
        random = np.random.default_rng((self._seed, epoch))
        self.trainer.datamodule.schedule(
            identity_batches(self._labels, self.identities, self.pictures, random)
        )

    def _chance(self) -> torch.Generator:
        """Chance of a step, by seed and step alone: what a warp draws at its construction doesn't shift it."""
        return torch.Generator().manual_seed(1_000_003 * self._seed + self.global_step)

    def crop(self, image: Tensor) -> Tensor:
        """The central crop of a test picture: [N, 3, H, W] -> [N, 3, crop, crop]."""
        top, left = self._corner(image)
        height, width = self._size(image)
        return image[..., top : top + height, left : left + width]

    def _size(self, image: Tensor) -> tuple[int, int]:
        size = self.crop_size
        return (image.shape[2], image.shape[3]) if size is None else (size, size)

    def _corner(self, image: Tensor) -> tuple[int, int]:
        """(top, left) of the central crop."""
        height, width = self._size(image)
        return (image.shape[2] - height) // 2, (image.shape[3] - width) // 2

    def augment(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """A random crop, turn and mirroring of each picture: [N, 3, H, W] -> [N, 3, crop, crop]."""
        size = self._size(image)
        chance = torch.rand(4, len(image), generator=generator).to(image.device)
        free = image.new_tensor([image.shape[3] - size[1], image.shape[2] - size[0]])
        corner = (chance[:2].T * (free + 1)).floor().clamp(max=free)
        angle = (2 * chance[2] - 1) * math.radians(self.rotation)
        return rotated_crops(image, size, angle, corner, chance[3] < 0.5)

    # Training.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = self._chance()
        triplets = draw_triplets(batch["label"], generator)
        warped, field = self.network(self.augment(batch["image"], generator))
        loss = F.cross_entropy(self.classifier(warped), batch["label"])
        self.log("train/cross_entropy", loss)
        if field is not None:
            self.log("train/field_mean", field.detach().norm(dim=-1).mean())
        if self.lambda_cons:
            consistency = consistency_loss(
                warped / self.cons_unit,
                triplets,
                alpha=self.alpha,
                reduction=self.cons_reduction,
                form=self.consistency,
            )
            self.log("train/consistency", consistency)
            loss = loss + self.lambda_cons * consistency
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        groups = self.network.parameter_groups(self.lr, self.new_lr, self.classifier)
        if self.optimiser == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, weight_decay=self.weight_decay)
        else:
            optimizer = torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)
        milestones = [max(1, round(fraction * total)) for fraction in self.drops]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # Prediction, and what is learnt about the warps on the way.

    def predict(self, batch: Batch) -> Prediction:
        warped, _ = self.network(self.crop(batch["image"]))
        return {"logits": self.classifier(warped)}

    def on_test_start(self) -> None:
        self._means, self._shown = {}, None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        image = self.crop(batch["image"])
        features = self.network.feature_map(image)
        warped, field = (features, None) if self.network.warp is None else self.network.warp(features)
        logits = self.classifier(warped)
        self.judge("test").update({"logits": logits}, batch)
        if field is not None:
            self._record_field(features, field)
            if self._shown is None:
                self._shown = image[:SHOWN].cpu(), field[:SHOWN].float().cpu()
        self._record_super_classes(logits, batch["label"])
        if "box" in batch:
            self._record_localisation(grad_cam(warped, self.classifier, batch["label"]), logits, batch)
            if field is not None:
                cam = grad_cam(features, self._classify_unwarped, batch["label"])
                self._record_localisation(cam, logits, batch, "localisation_before_warp")

    def _record_field(self, features: Tensor, field: Tensor) -> None:
        warp = self.network.warp
        volumetric = isinstance(warp, VolumetricTransformer)
        uniform = uniform_field(*features.shape[2:], warp.window if volumetric else 1, field)
        numbers = field_statistics(field, uniform)
        if volumetric:
            numbers |= group_statistics(group_samples(features, warp.groups).response)
        for name, value in numbers.items():
            self._mean(name).update(value, weight=len(field))
        lengths = field.norm(dim=-1).mean((2, 3))
        for group in range(min(SHOWN, field.shape[1])):
            self._mean(f"field_mean_group{group}").update(lengths[:, group])

    def _classify_unwarped(self, features: Tensor) -> Tensor:
        """Logits of U, the map before the warp."""
        warp = self.network.warp
        return self.classifier(features if warp is None else warp(features)[0])

    def _record_localisation(
        self, cam: Tensor, logits: Tensor, batch: Batch, name: str = "localisation"
    ) -> None:
        """Top-1 and top-5 localisation error (Table 5): a wrong class, or a box that overlaps by less than half; and
        the share of such boxes, whatever was predicted. cam: [N, h, w], of each picture's own class."""
        top, left = self._corner(batch["image"])
        size = self._size(batch["image"])
        truth = (batch["box"] - batch["box"].new_tensor([left, top, left, top])).float()
        truth = torch.minimum(truth.clamp(min=0), truth.new_tensor([size[1], size[0], size[1], size[0]]))
        found = box_iou(largest_boxes(cam, size, self.cam_threshold), truth).diagonal() >= 0.5
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch["label"][:, None]
        for count in (1, 5):
            wrong = ~(ranked[:, :count].any(1) & found)
            self._mean(f"{name}_error_top{count}").update(100.0 * wrong.float())
        self._mean(f"{name}_error_known_class").update(100.0 * (~found).float())

    def _record_super_classes(self, logits: Tensor, label: Tensor) -> None:
        """Accuracy within each super class, where class names state one: `super class/class`."""
        if not all("/" in name for name in self.classes):
            return
        right = (logits.argmax(1) == label).float()
        above = [self.classes[index].split("/")[0] for index in label.tolist()]
        for name in sorted(set(above)):
            inside = torch.tensor([other == name for other in above], device=right.device)
            self._mean(f"accuracy_{name.lower()}").update(100.0 * right[inside])

    def _mean(self, name: str) -> MeanMetric:
        return self._means.setdefault(name, MeanMetric().to(self.device))

    def diagnostics(self) -> dict[str, float]:
        """Of the test pictures: fields in pixels of the feature map (`field_statistics`), group responses, Grad-CAM
        localisation errors in %, accuracy by super class; and how L_cons was taken."""
        numbers = {name: float(mean.compute()) for name, mean in self._means.items()}
        if self.lambda_cons:
            numbers["cons_alpha"], numbers["cons_unit"] = self.alpha, self.cons_unit
            numbers["cons_summed_over_pixels"] = float(self.cons_reduction == "sum")
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Source positions of up to four groups' fields on the first test pictures, coloured by target position."""
        return {} if self._shown is None else {"warping-fields": draw_fields(*self._shown)}
