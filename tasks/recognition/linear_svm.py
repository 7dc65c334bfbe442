"""`linear_svm`: a linear support vector machine on the frozen features of a trained network.

How CFN is transferred to scene and fine-grained recognition (thesis chapter 2, section 2.4.3, Table 2.6; MMM
2017): the network trained elsewhere stays as it is, every training picture becomes one feature (CFN-11: the
fused g^f, CNN-11: its global average pooling, 1024 numbers each), and one linear SVM against the rest is
fitted for each class on all of them at once. The baseline is the same machine on the plain network's feature
(`:cnn_11`).

Left open by the chapter and chosen here:
- the SVM is LIBLINEAR's L2-regularised one with squared hinge loss and a bias,
      min_w  1/2 |w|^2 + C sum_i max(0, 1 - y_i (w . x_i))^2      (x_i with a 1 appended),
  with LIBLINEAR's default C = 1 on every dataset, so nothing is tuned;
- features are brought to unit length first (`normalise`), which makes one C fit networks of any feature
scale; - no augmentation: one feature a picture, the central crop in training and test. AlexNet's row of Table
2.6 (another network, 4096 numbers of fc7) is a reported number only.

All training pictures are read once in the order of the training split, the last incomplete batch included:
the training loader, which drops it, would leave a random part of a small dataset out. There is no gradient
step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.frozen_backbone import FrozenBackbone
from tasks.recognition.image_classification import ImageClassification, classes_of

Normalise = Literal["l2", "none"]


def fit_one_against_rest(
    feature: Tensor, label: Tensor, classes: int, C: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Fit one linear SVM a class with LIBLINEAR (see the module's docstring for the objective).

    feature: float [N, K]; label: int64 [N] in 0..classes-1; C: weight of the loss; seed: of the order in
    which coordinates are visited. Returns weight [classes, K] and bias [classes], float32. Raises
    `ValueError` where a class has no picture.
    """
    from sklearn.svm import LinearSVC

    present = label.unique()
    if len(present) != classes or classes < 2:
        raise ValueError(f"an SVM of {classes} classes needs pictures of each, got labels of {len(present)}")
    machine = LinearSVC(C=C, loss="squared_hinge", dual=True, random_state=seed, max_iter=10_000)
    machine.fit(feature.cpu().double().numpy(), label.cpu().numpy())
    weight, bias = machine.coef_, machine.intercept_
    if classes == 2:  # scikit-learn keeps the second class's plane only
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


class LinearSVM(Method):
    """See the module's docstring.

    backbone: "name" or "name:preset" of the method whose `features(batch)` are used; its dataset is named by
    the suite (`needs: {backbone: <dataset>}`). C: weight of the hinge losses. normalise: bring features to
    unit length.
    """

    name = "linear_svm"
    task = ImageClassification
    paper = Paper(
        title="On the Exploration of Convolutional Fusion Networks for Visual Recognition",
        venue="MMM 2017; thesis chapter 2, section 2.4.3",
        url="https://doi.org/10.1007/978-3-319-51811-4_23",
    )
    recipe = Recipe(batch_size=64, max_epochs=1, validate_every=0)
    profiles = {"mini": {}, "smoke": {}}
    presets = {"cnn_11": {"backbone": "cfn:cnn_11"}}
    baselines = ("linear_svm:cnn_11", "majority")
    claims = (
        Claim(
            method="linear_svm",
            over="linear_svm:cnn_11",
            measure="error",
            reported="accuracy +2.51 and +1.79 (scenes), +5.78 (flowers), +2.14 points (birds), Table 2.6",
        ),
    )

    def __init__(
        self, spec: Spec, *, backbone: str = "cfn:cfn_11", C: float = 1.0, normalise: Normalise = "l2"
    ) -> None:
        super().__init__(spec)
        if C <= 0:
            raise ValueError(f"C must be positive, got {C}")
        self.automatic_optimization = False
        self.classes = len(classes_of(spec))
        self.backbone = FrozenBackbone(f"{self.name} ({backbone})")
        self.C = C
        self.normalise = normalise
        self.weight: Tensor
        self.bias: Tensor
        self.train_error: Tensor
        self.register_buffer("weight", torch.zeros(self.classes, 0))
        self.register_buffer("bias", torch.zeros(self.classes))
        self.register_buffer("train_error", torch.tensor(torch.nan))

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        return (FrozenBackbone.need(options["backbone"]),)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the backbone; one blank picture tells the length K of its features."""
        self.backbone.adopt(role, trained)
        height, width = self.spec.image_size
        features = self.backbone({"image": torch.zeros(1, self.spec.channels, height, width)})
        self.weight = torch.zeros(self.classes, features.shape[1])

    def features(self, batch: Batch) -> Tensor:
        """What the SVM reads: the backbone's features, [B, K], of unit length with `normalise="l2"`."""
        features = self.backbone(batch)
        return F.normalize(features, dim=1) if self.normalise == "l2" else features

    @torch.no_grad()
    def on_train_start(self) -> None:
        """Gather the features of the whole training split and fit."""
        loader = self.trainer.train_dataloader
        ordered = DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
        )
        gathered = []
        for batch in ordered:
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            gathered.append((self.features(batch), batch["label"]))
        feature, label = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        weight, bias = fit_one_against_rest(feature, label, self.classes, self.C)
        self.weight, self.bias = weight.to(self.device), bias.to(self.device)
        wrong = F.linear(feature, self.weight, self.bias).argmax(1) != label
        self.train_error = 100.0 * wrong.float().mean()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int:
        """-1 ends the epoch before its first step: everything is learnt by then."""
        return -1

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is left to learn from a single batch: see `on_train_start`."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": F.linear(self.features(batch), self.weight, self.bias)}

    def diagnostics(self) -> dict[str, float]:
        """Length of a feature and error in % on the training pictures."""
        return {"feature_length": float(self.weight.shape[1]), "train_error": float(self.train_error)}
