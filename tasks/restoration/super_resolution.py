"""The task `super-resolution`: a picture enlarged, alone or with the help of other pictures of the same thing.

Batch
    low        float32 [B, 3, h, w], RGB in [0, 1]
    high       float32 [B, 3, H, W], RGB in [0, 1], H = factor h, W = factor w
    exemplars  float32 [B, m, 3, H, W], RGB in [0, 1]; m may be 0
    identity   int64 [B], whose picture it is, where the dataset knows
    corrupted  bool [B, m, H, W], exemplar pixels that hide what the true picture shows; of rendered ones only
    id         list of B strings
Prediction
    image      float [B, 3, H, W] in [0, 1]
    weights    float [B, m, H', W'], optional: how much of each exemplar a place takes; sums to 1 over m

Measures, means over pictures
    psnr               dB on RGB, the whole picture (100 at most)
    ssim               on RGB
    identity           cosine between the features of restored and true picture under a frozen identity
                       network. It is the network that a method's perceptual loss may train against: between
                       a method with that loss and one without, it isn't an independent witness
    exemplar_identity  cosine between the restored picture's features and the mean of its exemplars', of unit
                       length: with exemplars of another person, how far the editing went
    weight_entropy     entropy of `weights` over the exemplars, over log m: 1 is a plain average; needs m > 1
    corrupted_mass     weight on corrupted exemplar pixels over 1/m, `weights` brought to the size of the
                       masks (nearest): 1 is a plain average, 0 is perfect choice; over pictures that have
                       such pixels
    psnr_y, ssim_y     on BT.601 luma rounded to 8 bits, `factor` pixels shaved off each side, as plain
                       super-resolution is published; for datasets of pictures of many sizes

The identity network is a juror: `face_classifier`, trained on the dataset that the data option `identities`
names (a dataset of faces has one). Without a juror both identity measures are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import Spec, SuperResolutionSpec
from tasks.base import Batch, Judge, Measure, Method, Need, Prediction, Profile, Task
from tasks.blocks.frozen_backbone import HasFeatures
from tasks.metrics.image_quality import (
    ImageMeans,
    luma,
    peak_signal_noise_ratio,
    shaved,
    structural_similarity,
)

JUROR = "identity"
SIDE = 160
SHOWN_EXEMPLARS = 3


def facts_of(spec: Spec) -> SuperResolutionSpec:
    """The dataset's facts; a `TypeError` where it isn't one of pictures to enlarge."""
    if not isinstance(spec, SuperResolutionSpec):
        raise TypeError(
            f"super-resolution needs a SuperResolutionSpec, {spec.dataset} has {type(spec).__name__}"
        )
    return spec


def identity_needs(options: Mapping[str, Any]) -> tuple[Need, ...]:
    """The identity network, trained on what the data option `identities` names; nothing where there is none."""
    dataset = options.get("data.identities")
    return (Need(role=JUROR, method="face_classifier", dataset=dataset),) if dataset else ()


def weight_entropy(weights: Tensor) -> Tensor:
    """weights [B, m, H, W] that sum to 1 over m -> mean entropy over the places over log m, [B]; m > 1."""
    share = weights.float()
    return torch.special.entr(share).sum(dim=1).flatten(1).mean(dim=1) / math.log(weights.shape[1])


def corrupted_mass(weights: Tensor, corrupted: Tensor) -> Tensor:
    """Mean weight on corrupted exemplar pixels times m, for each picture that has such pixels, [<= B].

    weights: [B, m, H', W'], sums to 1 over m; corrupted: bool [B, m, H, W].
    """
    fine = F.interpolate(weights.float(), size=corrupted.shape[-2:], mode="nearest-exact")
    pixels = corrupted.flatten(1).sum(dim=1)
    mass = (fine * corrupted).flatten(1).sum(dim=1)
    some = pixels > 0
    return weights.shape[1] * mass[some] / pixels[some]


class RestorationJudge(Judge):
    """Scores restored pictures; see the module's docstring.

    factor: of the enlargement. plain: whether the published luma measures are wanted.
    """

    def __init__(self, factor: int, *, plain: bool) -> None:
        super().__init__()
        self.factor = factor
        self.plain = plain
        self.juror: Method | None = None
        names = [measure.name for measure in SuperResolution.measures]
        self.means = torch.nn.ModuleDict({name: ImageMeans() for name in names})

    def adopt(self, role: str, trained: Method) -> None:
        """Take the identity network."""
        if role != JUROR or not isinstance(trained, HasFeatures):
            raise TypeError(
                f"the judge consults an {JUROR!r} with features(batch), no {role!r} ({trained.name})"
            )
        self.juror = trained.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, prediction: Prediction, batch: Batch) -> None:
        image, truth = prediction["image"].float(), batch["high"]
        if image.shape != truth.shape:
            raise ValueError(f"image must be {list(truth.shape)}, got {list(image.shape)}")
        image = image.clamp(0, 1)
        scores = {"psnr": peak_signal_noise_ratio(image, truth), "ssim": structural_similarity(image, truth)}
        if self.plain:
            grey = [shaved(luma(picture), self.factor) for picture in (image, truth)]
            scores["psnr_y"] = peak_signal_noise_ratio(*grey)
            scores["ssim_y"] = structural_similarity(*grey)
        if self.juror is not None:
            scores |= self._identities(image, batch)
        if "weights" in prediction:
            scores |= self._choices(prediction["weights"], batch)
        for name, values in scores.items():
            if len(values):
                self.means[name].update(values)

    def compute(self) -> dict[str, float]:
        return {name: float(mean.compute()) for name, mean in self.means.items() if not mean.empty}

    def _identities(self, image: Tensor, batch: Batch) -> dict[str, Tensor]:
        exemplars = batch["exemplars"]
        count, m = exemplars.shape[:2]
        every = torch.cat([image, batch["high"], exemplars.flatten(0, 1)])
        features = F.normalize(self.juror.features({"image": every}).float(), dim=1)  # type: ignore[union-attr, operator]
        restored, true = features[:count], features[count : 2 * count]
        scores = {"identity": (restored * true).sum(dim=1)}
        if m:
            others = F.normalize(features[2 * count :].unflatten(0, (count, m)).mean(dim=1), dim=1)
            scores["exemplar_identity"] = (restored * others).sum(dim=1)
        return scores

    @staticmethod
    def _choices(weights: Tensor, batch: Batch) -> dict[str, Tensor]:
        count, m = batch["exemplars"].shape[:2]
        if weights.ndim != 4 or weights.shape[:2] != (count, m):
            raise ValueError(f"weights must be [{count}, {m}, H', W'], got {list(weights.shape)}")
        scores = {"weight_entropy": weight_entropy(weights)} if m > 1 else {}
        if m and "corrupted" in batch:
            scores["corrupted_mass"] = corrupted_mass(weights, batch["corrupted"])
        return scores


class SuperResolution(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "super-resolution"
    family: ClassVar[str] = "restoration"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("psnr", True, "dB"),
        Measure("ssim", True, decimals=4),
        Measure("identity", True, decimals=4),
        Measure("exemplar_identity", True, decimals=4),
        Measure("weight_entropy", False, decimals=4),
        Measure("corrupted_mass", False, decimals=4),
        Measure("psnr_y", True, "dB"),
        Measure("ssim_y", True, decimals=4),
    )

    @classmethod
    def jury(cls, options: Mapping[str, Any], profile: Profile) -> Sequence[Need]:
        return identity_needs(options)

    @classmethod
    def judge(cls, spec: Spec) -> RestorationJudge:
        facts = facts_of(spec)
        return RestorationJudge(facts.factor, plain=facts.image_size == (0, 0))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """In a row, with captions: what was given, the true picture, the restored one with its PSNR, exemplars."""
        sheets = []
        for index in range(min(limit, len(batch["high"]))):
            restored = prediction["image"][index : index + 1].float().clamp(0, 1)
            truth = batch["high"][index : index + 1]
            quality = float(peak_signal_noise_ratio(restored, truth))
            low = batch["low"][index]
            tiles = [
                (low, f"given {low.shape[-2]} x {low.shape[-1]}"),
                (truth[0], "true"),
                (restored[0], f"restored {quality:.2f} dB"),
            ]
            exemplars = batch["exemplars"][index][:SHOWN_EXEMPLARS]
            tiles += [(exemplar, f"exemplar {number}") for number, exemplar in enumerate(exemplars, start=1)]
            sheets.append(np.concatenate([captioned(image, text) for image, text in tiles], axis=1))
        return sheets


def captioned(image: Tensor | np.ndarray, text: str, side: int = SIDE) -> np.ndarray:
    """A picture, [3, H, W] in [0, 1] or uint8 [H, W, 3], in a tile uint8 [side + 18, side, 3] over its caption."""
    if isinstance(image, Tensor):
        pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    else:
        pixels = image
    height, width = pixels.shape[:2]
    scale = (side - 4) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    sheet = Image.new("RGB", (side, side + 18), "white")
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how), corner)
    ImageDraw.Draw(sheet).text((4, side + 2), text, fill=(0, 0, 0))
    return np.asarray(sheet)
