"""`kd_teacher`: the large network that a small one is distilled from, trained with cross-entropy alone.

Its architectures are those of "Improving Knowledge Distillation via Category Structure" (ECCV 2020): ResNets with a
channel ratio and a stem for small pictures (tasks/blocks/narrow_resnet.py). The paper trains with them but doesn't say
how they were trained; chosen here: the students' recipe without a teacher.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.crop_flip import CIFAR_MEAN, CIFAR_STD, Canvas, ChannelNormalise, augment
from tasks.blocks.narrow_resnet import NarrowResNet
from tasks.blocks.stepped_sgd import stepped_sgd
from tasks.recognition.image_classification import ImageClassification, classes_of


class KDTeacher(Method):
    """A ResNet trained with cross-entropy.

    depth, ratio, pool_stride: see `NarrowResNet`. canvas: of the augmentation, see `augment`. mean, std: of the
    channels of pictures in [0, 1]. lr, momentum, weight_decay, drops, warmup: see `stepped_sgd`.
    """

    name = "kd_teacher"
    task = ImageClassification
    paper = Paper(
        title="Improving Knowledge Distillation via Category Structure",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_13",
        code="https://github.com/xeanzheng/CSKD",
    )
    recipe = Recipe(batch_size=128, max_epochs=200, validate_every=0)
    profiles = {
        "mini": {
            "depth": 18,
            "ratio": 0.25,
            "pool_stride": 2,
            "batch_size": 64,
            "max_epochs": 12,
            "warmup": 0.05,
        },
        "smoke": {
            "depth": 18,
            "ratio": 0.0625,
            "pool_stride": 2,
            "batch_size": 16,
            "max_epochs": 1,
            "max_steps": 3,
        },
    }
    presets = {
        "r152": {"depth": 152},
        "tiny": {
            "depth": 152,
            "ratio": 1.0,
            "canvas": "enlarge",
            "weight_decay": 5e-4,
            "drops": (0.25, 0.5, 0.75),
            "batch_size": 200,
        },
    }
    baselines = ("majority",)

    def __init__(
        self,
        spec: Spec,
        *,
        depth: int = 101,
        ratio: float = 0.5,
        pool_stride: int = 1,
        canvas: Canvas = "pad",
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        drops: tuple[float, ...] = (80 / 200, 120 / 200, 160 / 200),
        warmup: float = 0.0,
    ) -> None:
        super().__init__(spec)
        self.normalise = ChannelNormalise(mean, std, spec.channels)
        self.network = NarrowResNet(
            depth, ratio, len(classes_of(spec)), channels=spec.channels, pool_stride=pool_stride
        )
        self.canvas: Canvas = canvas
        self.sgd: dict[str, Any] = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.sgd |= {"drops": drops, "warmup": warmup}

    def features(self, batch: Batch) -> Tensor:
        """The pooled last stage of `image`, [B, K], for methods that build on it."""
        return self.network.stages(self.normalise(batch["image"])).pooled

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.network(self.normalise(augment(batch["image"], self.canvas)))
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train/loss", loss.detach())
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        return stepped_sgd(
            self.network.parameters(), int(self.trainer.estimated_stepping_batches), **self.sgd
        )

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self.network(self.normalise(batch["image"]))}
