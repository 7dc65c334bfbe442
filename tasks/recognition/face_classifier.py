"""`face_classifier`: a network that tells persons apart, for others to compare faces with.

No paper's method: a plain residual-free convolutional classifier. Each stage is a 3 x 3 convolution of
stride 2 and one of stride 1 with batch normalisation and ReLU; the last map, pooled to 4 x 4, becomes a
feature of `embedding` numbers, and persons are classified by the cosine between it and a vector each, times
`scale` (NormFace: Wang et al., ACM MM 2017), so that cosines of features mean likeness of persons.

`features(batch)` is that feature, the last layer before classification; `feature_maps(image)` are the
outputs of the stages, and `feature_of(maps)` is the feature that belongs to them. Pictures of any size are
brought to the one it was trained on (bilinear), and gradients pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.image_classification import ImageClassification, classes_of

POOLED = 4


class FaceClassifier(Method):
    """See the module's docstring.

    widths: channels of the stages. embedding: length of the feature. scale: of the cosines. lr,
    weight_decay: of AdamW; the rate falls along a cosine to 0. jitter: shift of training pictures in pixels
    of a 64-pixel picture, at random in all directions, the border repeated.
    """

    name = "face_classifier"
    task = ImageClassification
    paper = Paper(
        title="NormFace: L2 Hypersphere Embedding for Face Verification",
        venue="ACM Multimedia 2017 (the normalised softmax only)",
        url="https://doi.org/10.1145/3123266.3123359",
    )
    recipe = Recipe(batch_size=128, max_epochs=30, validate_every=0)
    profiles = {
        "mini": {
            "widths": (16, 32, 48, 64),
            "embedding": 64,
            "batch_size": 32,
            "max_steps": 300,
            "max_epochs": None,
        },
        "smoke": {"widths": (4, 8, 8), "embedding": 16, "batch_size": 16, "max_steps": 4, "max_epochs": None},
    }
    baselines = ("majority",)

    def __init__(
        self,
        spec: Spec,
        *,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        embedding: int = 512,
        scale: float = 16.0,
        lr: float = 2e-3,
        weight_decay: float = 5e-4,
        jitter: int = 3,
    ) -> None:
        super().__init__(spec)
        self.size: tuple[int, int] = tuple(spec.image_size)  # type: ignore[attr-defined, assignment]
        stages, previous = [], spec.channels
        for width in widths:
            stages.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 3, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                )
            )
            previous = width
        self.stages = nn.ModuleList(stages)
        self.embed = nn.Linear(previous * POOLED**2, embedding)
        # Of unit length: Adam's steps have a size of their own, and longer vectors would turn more slowly.
        self.persons = nn.Parameter(F.normalize(torch.randn(len(classes_of(spec)), embedding), dim=1))
        self.scale, self.lr, self.weight_decay, self.jitter = scale, lr, weight_decay, jitter

    def feature_maps(self, image: Tensor) -> list[Tensor]:
        """[B, 3, H, W] in [0, 1] -> the stages' outputs, [B, width, H / 2^k, W / 2^k] of the trained size."""
        if tuple(image.shape[-2:]) != self.size:
            image = F.interpolate(image, size=self.size, mode="bilinear", align_corners=False)
        x, maps = 2 * image - 1, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, batch: Batch) -> Tensor:
        """The feature of each `image`, [B, embedding], not of unit length."""
        return self.feature_of(self.feature_maps(batch["image"]))

    def feature_of(self, maps: Sequence[Tensor]) -> Tensor:
        """The feature that belongs to the outputs of the stages, [B, embedding]."""
        return self.embed(_pooled(maps[-1]).flatten(1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        image = _shifted(batch["image"], round(self.jitter * self.size[0] / 64))
        loss = F.cross_entropy(self._logits(image), batch["label"])
        self.log("train/loss", loss)
        return loss

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": self._logits(batch["image"])}

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _logits(self, image: Tensor) -> Tensor:
        features = F.normalize(self.features({"image": image}).float(), dim=1)
        return self.scale * features @ F.normalize(self.persons, dim=1).T


def _pooled(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, 4, 4]: means of equal blocks where 4 divides the sides (deterministic on any device)."""
    height, width = x.shape[-2:]
    if height % POOLED == 0 and width % POOLED == 0:
        return F.avg_pool2d(x, (height // POOLED, width // POOLED))
    return F.adaptive_avg_pool2d(x, POOLED)


def _shifted(image: Tensor, most: int) -> Tensor:
    """Each picture of [B, C, H, W] moved by up to `most` pixels each way, the border repeated."""
    if most == 0:
        return image
    count, _, height, width = image.shape
    padded = F.pad(image, (most,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * most + 1, (2, count), device=image.device)
    rows = (top[:, None] + torch.arange(height, device=image.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=image.device))[:, None, None, :]
    sample = torch.arange(count, device=image.device)[:, None, None, None]
    channel = torch.arange(image.shape[1], device=image.device)[None, :, None, None]
    return padded[sample, channel, rows, columns]
