"""`pose_augmented_classifier`: a classifier whose training set lacks poses, with the missing ones synthesised.

Y. Ge, J. Zhao, L. Itti, "Pose Augmentation", ECCV 2020, sections 4.2 to 4.4. Of some classes training has a few poses
alone (P-UB). A pose transformer trained on that very P-UB synthesises exactly the missing poses; real and synthetic
pictures together (S-P-B) train the classifier, which is tested on real pictures of other objects in all poses.

Training sets (`training_set`)
    p-ub    the real pictures alone
    a-p-ub  the control: for each missing picture a randomly cropped, rescaled and flipped copy of the picture that
            S-P-B would have turned, so that both are of one size and differ in nothing but what fills the gaps
    s-p-b   with the missing poses synthesised
    sa-p-b  with the poses between two known yaws (1.5, 2.5, ...) of all objects synthesised as well
    p-b     all real poses: the reference above. The dataset serves them (`data.training_set`), nothing is synthesised
The synthetic pictures are made once, before training. A step's batch is drawn from the merged set: each of its places
is a synthetic picture with the probability that they are of the set. All settings take equally many steps.

Source of a synthetic picture (not in the paper): the picture of the same scene in the nearest pose of those that
training has of the class, the lower yaw of two; one synthetic picture a scene and missing pose.

Networks: ResNet-18 from scratch (iLab-20M), AlexNet for the RGB-D objects, as the paper has it. Left open and chosen
here: SGD with momentum 0.9, weight decay 1e-4, a rate of 0.05 (AlexNet 0.01) that falls along half a cosine, batches of
64, 30,000 steps; no augmentation besides. Sources are taken as they are served, also where a class has several
backgrounds; synthetic pictures lie in host memory as bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.specs import PosesSpec, Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.recognition.image_classification import ImageClassification
from tasks.recognition.pose_transformation import pose_text, pose_tile, poses_of, seen_table

ROLE = "transformer"
SHOWN = 24
MIN_ALEXNET = 63

TrainingSet = Literal["p-ub", "a-p-ub", "s-p-b", "sa-p-b", "p-b"]


@runtime_checkable
class TransformsPose(Protocol):
    """A method that shows the objects of pictures in other poses."""

    def transform(self, image: Tensor, pose: Tensor) -> Tensor:
        """image [B, 3, H, W] in [0, 1], target poses [B, 2] -> [B, 3, H, W] in [0, 1]"""
        ...


def missing_poses(spec: PosesSpec, *, between: bool) -> dict[tuple[int, int], list[tuple[float, float]]]:
    """What each training picture is the source of: (label, pose number) -> target poses (yaw, pitch).

    Each pose that training lacks of a class has one source, the nearest pose that it has. between: the poses half-way
    between two known yaws, of all classes, as well.
    """
    plane = [
        (float(yaw), float(pitch)) for pitch in range(1, spec.pitches + 1) for yaw in range(1, spec.yaws + 1)
    ]
    wanted: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for label, seen in enumerate(spec.seen):
        lacking = [pose for number, pose in enumerate(plane) if number not in seen]
        if between:
            lacking += [(yaw + 0.5, pitch) for yaw, pitch in plane if yaw < spec.yaws]
        for pose in lacking:
            nearest = min(seen, key=lambda number: (math.dist(plane[number], pose), plane[number]))
            wanted.setdefault((label, nearest), []).append(pose)
    return wanted


def classical_augmentation(image: Tensor, generator: torch.Generator) -> Tensor:
    """A random crop of 70 to 100 % of each side, brought back to size, flipped every other time; [B, C, H, W]."""
    count, _, height, width = image.shape
    scale = 0.7 + 0.3 * torch.rand(count, generator=generator)
    shift = (1 - scale)[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)
    flip = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    placed = torch.zeros(count, 2, 3)
    placed[:, 0, 0], placed[:, 1, 1], placed[:, :, 2] = scale * flip, scale, shift
    grid = F.affine_grid(placed.to(image), [count, image.shape[1], height, width], align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)


class AlexNet(nn.Module):
    """AlexNet in one column (Krizhevsky, arXiv:1404.5997), as in torchvision; pictures under 63 pixels are enlarged.

    width: factor on all channels.
    """

    def __init__(self, classes: int, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        a, b, c, d, hidden = (max(1, round(width * channels)) for channels in (64, 192, 384, 256, 4096))
        self.features = nn.Sequential(
            nn.Conv2d(3, a, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(a, b, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(b, c, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(c, d, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(d, d, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.AdaptiveAvgPool2d(6), nn.Flatten(),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(36 * d, hidden), nn.ReLU(),
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        if min(image.shape[-2:]) < MIN_ALEXNET:
            image = F.interpolate(
                image, size=(MIN_ALEXNET, MIN_ALEXNET), mode="bilinear", align_corners=False
            )
        return self.classifier(self.features(image))


def resnet18(classes: int, width: float = 1.0) -> nn.Module:
    """ResNet-18 (He et al., CVPR 2016), untrained; width: factor on all channels."""
    from timm.models.resnet import BasicBlock, ResNet

    channels = tuple(max(1, round(width * each)) for each in (64, 128, 256, 512))
    return ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        num_classes=classes,
        channels=channels,
        stem_width=channels[0],
        zero_init_last=False,
    )


class PoseAugmentedClassifier(Method):
    """See the module's docstring.

    training_set: what the classifier is trained on. transformer: "name" or "name:preset" of the method that synthesises
    poses, trained on the same dataset. network, width: of the classifier. lr, momentum, weight_decay: SGD's. steps:
    training steps over which the rate falls.
    """

    name = "pose_augmented_classifier"
    task = ImageClassification
    paper = Paper(
        title="Pose Augmentation: Class-Agnostic Object Pose Transformation for Object Recognition",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_9",
    )
    recipe = Recipe(batch_size=64, max_steps=30_000, validate_every=0)
    profiles = {
        "mini": {"width": 0.25, "batch_size": 32, "steps": 200, "max_steps": 200},
        "smoke": {"width": 0.0625, "batch_size": 8, "steps": 3, "max_steps": 3},
    }
    presets = {
        "p_ub": {"training_set": "p-ub"},
        "a_p_ub": {"training_set": "a-p-ub"},
        "s_p_b": {"training_set": "s-p-b"},
        "s_p_b_stargan": {"training_set": "s-p-b", "transformer": "optnet:stargan"},
        "sa_p_b": {"training_set": "sa-p-b"},
        "p_b": {"training_set": "p-b", "data.training_set": "p-b"},
        "alexnet_p_ub": {"network": "alexnet", "lr": 0.01, "training_set": "p-ub"},
        "alexnet_a_p_ub": {"network": "alexnet", "lr": 0.01, "training_set": "a-p-ub"},
        "alexnet_s_p_b": {
            "network": "alexnet",
            "lr": 0.01,
            "training_set": "s-p-b",
            "transformer": "optnet:finetuned",
        },
        "alexnet_p_b": {"network": "alexnet", "lr": 0.01, "training_set": "p-b", "data.training_set": "p-b"},
    }
    baselines = (
        "pose_augmented_classifier:p_ub",
        "pose_augmented_classifier:a_p_ub",
        "pose_augmented_classifier:s_p_b_stargan",
        "pose_augmented_classifier:p_b",
    )
    claims = tuple(
        Claim(
            method=f"pose_augmented_classifier:{better}",
            over=f"pose_augmented_classifier:{worse}",
            measure="error",
            reported=reported,
        )
        for better, worse, reported in (
            ("s_p_b", "p_ub", "accuracy +6.9 points on iLab-20M, Table 4"),
            ("s_p_b", "a_p_ub", "accuracy +6.9 points on iLab-20M, Table 4"),
            ("sa_p_b", "p_ub", "accuracy +9.0 points on iLab-20M, Table 4"),
            ("s_p_b", "s_p_b_stargan", "no number in the paper; its images are better, Table 1"),
        )
    )

    def __init__(
        self,
        spec: Spec,
        *,
        training_set: TrainingSet = "p-ub",
        transformer: str = "optnet",
        network: Literal["resnet18", "alexnet"] = "resnet18",
        width: float = 1.0,
        lr: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        steps: int = 30_000,
    ) -> None:
        super().__init__(spec)
        facts = poses_of(spec)
        lacking = int((~seen_table(facts)).sum())
        if (training_set == "p-b") != (lacking == 0):
            raise ValueError(
                f"training_set {training_set!r} doesn't fit a dataset whose training split lacks {lacking} poses: "
                "p-b needs all of them (data.training_set), the others a set that lacks some"
            )
        self.training_set, self.transformer_name = training_set, transformer
        self.network = (
            resnet18(len(facts.classes), width)
            if network == "resnet18"
            else AlexNet(len(facts.classes), width)
        )
        self.lr, self.momentum, self.weight_decay, self.steps = lr, momentum, weight_decay, steps
        self._transformer: list[TransformsPose] = []  # in a list: it is no weight of the classifier
        self._images = torch.zeros(0, facts.channels, *facts.image_size, dtype=torch.uint8)
        self._labels = torch.zeros(0, dtype=torch.long)
        self._poses = torch.zeros(0, 2)
        self._real = 0
        self._hits = torch.zeros(2, 2)

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        if options["training_set"] not in ("s-p-b", "sa-p-b"):
            return ()
        return (Need(role=ROLE, method=options["transformer"]),)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the pose transformer; a `ValueError` if it has seen other poses than this training set."""
        if role != ROLE or not isinstance(trained, TransformsPose):
            raise TypeError(
                f"{self.name} needs a {ROLE!r} with transform(image, pose), no {role!r} ({trained.name})"
            )
        own, theirs = poses_of(self.spec), poses_of(trained.spec)
        if (own.dataset, own.seen, own.image_size) != (theirs.dataset, theirs.seen, theirs.image_size):
            raise ValueError(
                f"{trained.name} was trained on other poses or sizes than this classifier: {theirs} and {own}"
            )
        self._transformer = [trained.requires_grad_(False).eval()]

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Fill the gaps of the training set, once: `_images` uint8 [M, 3, H, W], `_labels` [M], `_poses` [M, 2]."""
        loader = self.trainer.train_dataloader
        self._real = len(loader.dataset)
        if self.training_set in ("p-ub", "p-b"):
            return
        wanted = missing_poses(poses_of(self.spec), between=self.training_set == "sa-p-b")
        chance = torch.Generator().manual_seed(0)
        ordered = DataLoader(
            loader.dataset, batch_size=64, collate_fn=loader.collate_fn, num_workers=loader.num_workers
        )
        images, labels, poses = [], [], []
        for batch in ordered:
            pairs = zip(batch["label"].tolist(), batch["pose_class"].tolist(), strict=True)
            jobs = [(row, pose) for row, key in enumerate(pairs) for pose in wanted.get(key, [])]
            if not jobs:
                continue
            rows = torch.tensor([row for row, _ in jobs])
            pose = torch.tensor([pose for _, pose in jobs])
            labels.append(batch["label"][rows])
            poses.append(pose)
            images.append(self._fill(batch["image"][rows], pose, chance))
        self._images, self._labels, self._poses = torch.cat(images), torch.cat(labels), torch.cat(poses)

    def _fill(self, source: Tensor, pose: Tensor, chance: torch.Generator) -> Tensor:
        """What stands in for missing pictures: sources [B, 3, H, W], poses [B, 2] -> uint8 [B, 3, H, W], on the CPU."""
        if self.training_set == "a-p-ub":
            made = classical_augmentation(source, chance)
        else:
            if not self._transformer:
                raise RuntimeError(
                    f"{self.name}: {self.training_set} needs a trained {self.transformer_name} (adopt)"
                )
            transformer = self._transformer[0]
            if isinstance(transformer, nn.Module):
                transformer.to(self.device)
            made = torch.cat(
                [
                    transformer.transform(s.to(self.device), p.to(self.device)).float().cpu()
                    for s, p in zip(source.split(64), pose.split(64), strict=True)
                ]
            )
        return (255 * made.clamp(0, 1)).round().byte()

    @property
    def synthetic_share(self) -> float:
        """Synthetic pictures' share of the merged training set."""
        return len(self._images) / max(1, len(self._images) + self._real)

    def mixed(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of real pictures with some of its places taken by synthetic ones; the shapes stay."""
        if not len(self._images):
            return image, label
        places = torch.rand(len(image)) < self.synthetic_share
        chosen = torch.randint(len(self._images), (int(places.sum()),))
        image, label, places = image.clone(), label.clone(), places.to(image.device)
        image[places] = self._images[chosen].to(image.device).to(image.dtype) / 255
        label[places] = self._labels[chosen].to(label.device)
        return image, label

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> logits [B, classes]"""
        return self.network(2 * image - 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image, label = self.mixed(batch["image"], batch["label"])
        loss = F.cross_entropy(self(image).float(), label)
        self.log("train/loss", loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.SGD(
            self.network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self(batch["image"])}

    def on_test_start(self) -> None:
        self._hits = torch.zeros(2, 2, device=self.device)

    def on_test_batch_end(self, outputs: Any, batch: Batch, *_: Any) -> None:
        """Count hits apart for pictures whose class and pose training has, and those it lacks."""
        seen = seen_table(poses_of(self.spec)).to(self.device)[batch["label"], batch["pose_class"]].long()
        right = (self.predict(batch)["logits"].argmax(1) == batch["label"]).float()
        self._hits.index_put_((seen, torch.zeros_like(seen)), right, accumulate=True)
        self._hits.index_put_((seen, torch.ones_like(seen)), torch.ones_like(right), accumulate=True)

    def diagnostics(self) -> dict[str, float]:
        """Sizes of the training set; the error in % on test pictures in poses that training has or lacks of a class."""
        found = {"real_pictures": float(self._real), "synthetic_pictures": float(len(self._images))}
        for row, name in enumerate(("error_unseen_poses", "error_seen_poses")):
            if self._hits[row, 1] > 0:
                found[name] = 100 * (1 - float(self._hits[row, 0] / self._hits[row, 1]))
        return found

    def figures(self) -> dict[str, np.ndarray]:
        """`synthetic`: some of the pictures that fill the gaps, with class and pose."""
        if not len(self._images):
            return {}
        classes = poses_of(self.spec).classes
        chosen = torch.linspace(0, len(self._images) - 1, SHOWN).round().long().tolist()
        tiles = [
            pose_tile(
                self._images[i] / 255, f"{classes[int(self._labels[i])]} {pose_text(self._poses[i])}", side=96
            )
            for i in chosen
        ]
        rows = [np.concatenate(tiles[start : start + 8], axis=1) for start in range(0, SHOWN, 8)]
        return {"synthetic": np.concatenate(rows, axis=0)}
