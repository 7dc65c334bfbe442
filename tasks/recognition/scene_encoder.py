"""`scene_encoder`: a small convolutional network whose averaged last map serves as a frozen image feature.

It stands to rendered scenes as ResNet-152, trained on ImageNet, stands to photographs in "Image-Text Matching
for Cross-modal Retrieval" (thesis chapter 5; ICCV 2017): trained once on the classes of other pictures, used
fully convolutionally on larger ones, its last map averaged over space (`features`), never trained again. It isn't
part of the paper.

Chosen here: pictures are halved by averaging, then four 3x3 convolutions of stride 1, 2, 1 and 2, each with batch
normalisation and ReLU; an output sees 26 pixels. A linear layer at each place and the log-sum-exp over all of them
make the logits: in an average, which one small thing moves but little, its shape would take long to be learnt. For
the feature the map is squared, so that few strong answers outweigh the background's many weak ones, and half of its
channels stand there thrice, as they are, times x and times y (each in [-1, 1]): the average still tells where
something was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.recognition.image_classification import ImageClassification, classes_of


class SceneEncoderNetwork(nn.Module):
    """channels: of the picture; width: filters of the first layer; last: filters of the last one."""

    def __init__(self, channels: int, width: int, last: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(channels, width, 1),
            *_layer(width, 2 * width, 2),
            *_layer(2 * width, 4 * width, 1),
            *_layer(4 * width, last, 2),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Pictures in [0, 1], [B, C, H, W] -> the last map [B, last, ceil(H / 8), ceil(W / 8)], not negative."""
        return self.layers(F.avg_pool2d(image - 0.5, 2, ceil_mode=True))


def averages(maps: Tensor) -> Tensor:
    """The means over space of a map, and of half of its channels times x and y: [B, C, H, W] -> [B, 2C]."""
    rows, columns = (
        (torch.arange(size, dtype=maps.dtype, device=maps.device) + 0.5) / size * 2 - 1
        for size in maps.shape[2:]
    )
    half = maps[:, : maps.shape[1] // 2]
    moments = (maps, half * columns, half * rows[:, None])
    return torch.cat([moment.mean(dim=(2, 3)) for moment in moments], dim=1)


def _layer(channels: int, filters: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
    return convolution, nn.BatchNorm2d(filters), nn.ReLU()


class SceneEncoder(Method):
    """See the module's docstring.

    width, last: see `SceneEncoderNetwork`; a feature has 2 x last numbers, and last is even. lr: highest rate of
        Adam, under a one-cycle schedule.
    """

    name = "scene_encoder"
    task = ImageClassification
    paper = Paper(
        title="Image-Text Matching for Cross-modal Retrieval (its stand-in for ImageNet features)",
        venue="thesis chapter 5; ICCV 2017",
    )
    recipe = Recipe(batch_size=64, max_steps=2000, validate_every=0)
    profiles = {
        "mini": {"max_steps": 400},
        "smoke": {"max_steps": 10},
    }
    baselines = ("majority",)

    def __init__(self, spec: Spec, *, width: int = 16, last: int = 64, lr: float = 0.01) -> None:
        super().__init__(spec)
        if last % 2:
            raise ValueError(f"last must be even, got {last}")
        self.lr = lr
        self.network = SceneEncoderNetwork(spec.channels, width, last)
        self.classifier = nn.Conv2d(last, len(classes_of(spec)), 1)

    def features(self, batch: Batch) -> Tensor:
        """The averaged square of the last map with its moments, [B, 2 x last]."""
        return averages(self.network(batch["image"]).square())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.predict(batch)["logits"], batch["label"])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        evidence = self.classifier(self.network(batch["image"]))
        return {"logits": evidence.flatten(2).logsumexp(dim=2)}
