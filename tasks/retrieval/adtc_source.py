"""`adtc_source`: the supervised start of ADTC, trained on a labelled source domain (ECCV 2020, sections 4.2, 4.3).

The network of ADTC with an identity classifier on its batch-normalised feature. Another trial, on another dataset,
starts from it; tested as it is, on the dataset it was trained on, it shows what labels are worth.

The paper says no more than cross-entropy on the batch-normalised pooled feature. Chosen here: cross-entropy plus
the batch-hard triplet loss of the rounds (equation 6, margin 0.3), each weighted 1, the triplet on features of
unit length, because squared distances of a raw 2048-number feature are in the thousands and would drown the
cross-entropy; batches of 32 persons x 4 crops, Adam with a rate of 3.5e-4 and weight decay of 5e-4, divided by ten
after half and three quarters of 80 epochs; flips only, as in the rounds. A fixed length rather than "until the
source's validation stalls": the published sets have no validation split.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import PersonsSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.batch_hard_triplet import batch_hard_triplet
from tasks.blocks.identity_batches import identity_batches
from tasks.retrieval.adtc_network import ADTCNetwork, Attention, Backbone
from tasks.retrieval.person_reid import PersonReId, persons_of


class ADTCSource(Method):
    """See the module's docstring.

    attention, attention_width, backbone, last_stride, channels, weights: see `ADTCNetwork`. identities, pictures:
    persons a batch and crops of each. margin: of the triplet loss. l2_normalize: measure it on unit features.
    lr, weight_decay: of Adam.
    """

    name = "adtc_source"
    task = PersonReId
    paper = Paper(
        title="An Attention-Driven Two-Stage Clustering Method for Unsupervised Person Re-identification",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_2",
    )
    recipe = Recipe(batch_size=128, max_epochs=80, validate_every=0)
    profiles = {
        "mini": {
            "backbone": "small",
            "attention_width": 48,
            "identities": 8,
            "lr": 2e-3,
            "batch_size": 32,
            "max_epochs": 10,
            "data.image_size": (64, 32),
        },
        "smoke": {
            "backbone": "small",
            "attention_width": 48,
            "identities": 4,
            "batch_size": 16,
            "max_steps": 3,
            "max_epochs": None,
            "data.image_size": (64, 32),
        },
    }
    baselines = ("random_reid:mean_colour", "random_reid")

    def __init__(
        self,
        spec: PersonsSpec,
        *,
        attention: Attention = "voxel",
        attention_width: int = 800,
        backbone: Backbone = "resnet50",
        last_stride: Literal[1, 2] = 1,
        channels: int = 96,
        weights: str | None = None,
        identities: int = 32,
        pictures: int = 4,
        margin: float = 0.3,
        l2_normalize: bool = True,
        lr: float = 3.5e-4,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__(persons_of(spec))
        self.network = ADTCNetwork(
            attention=attention,
            attention_width=attention_width,
            backbone=backbone,
            last_stride=last_stride,
            channels=channels,
            weights=weights,
        )
        self.classifier = nn.Linear(self.network.channels, persons_of(spec).identities)
        self.identities, self.pictures = identities, pictures
        self.margin, self.l2_normalize = margin, l2_normalize
        self.lr, self.weight_decay = lr, weight_decay
        self._labels = np.zeros(0, np.int64)

    def on_fit_start(self) -> None:
        loader = self.trainer.datamodule.in_order("train")
        self._labels = np.concatenate([batch["label"].numpy() for batch in loader])
        self._schedule(0)

    def on_train_epoch_end(self) -> None:
        self._schedule(self.current_epoch + 1)

    def _schedule(self, epoch: int) -> None:
        data = self.trainer.datamodule
        random = np.random.default_rng((data.seed, epoch))
        data.schedule(identity_batches(self._labels, self.identities, self.pictures, random))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        embedding, label = self.network(batch["image"]), batch["label"]
        entropy = F.cross_entropy(self.classifier(embedding), label)
        measured = F.normalize(embedding, dim=1) if self.l2_normalize else embedding
        triplet = batch_hard_triplet(measured, label, self.margin)
        self.log("train/cross_entropy", entropy)
        self.log("train/triplet", triplet)
        return entropy + triplet

    def on_train_epoch_start(self) -> None:
        done = self._progress()
        for group in self.optimizers().optimizer.param_groups:
            group["lr"] = self.lr * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)

    def _progress(self) -> float:
        """Share of the epochs that are done; 0 where only steps are counted."""
        epochs = self.trainer.max_epochs or -1
        return self.current_epoch / epochs if epochs > 0 else 0.0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def predict(self, batch: Batch) -> Prediction:
        return {"embedding": self.network(batch["image"])}
