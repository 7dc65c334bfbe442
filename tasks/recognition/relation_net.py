"""Relation Net: Learning to Compare (Sung et al., CVPR 2018), and its variant with a capsule embedding.

The baseline into which the paper on attentive prototypes puts its embedding (Wu et al., ECCV 2020, Table 4): a
learnt comparison of a query with the sum of a class's supports, instead of a distance to a prototype.

- As published (`backbone="conv4"`): Conv-4 of which only two blocks pool; class feature, the sum over the K
  supports' maps; relation module of two pooled convolution blocks and two linear layers (8 hidden, sigmoid) on
  the class's and the query's maps, one behind the other; mean squared error to 1 for the true class, 0 for the
  others. Its pooled maps may be as small as 2×2 pixels: then the blocks of the module do not pool.
- `caps`: "the embedding is switched to the modified DeepCaps model and the supervision loss is changed to the
  improved triplet-like loss". How the module compares vectors isn't described; chosen here: two linear layers
  (as wide as the embedding) on [class sum, query], sigmoid; 1 - score is the distance in Eq. 9, whose margin
  0.5 and E = 3 are those of `attentive_prototype`.

The posterior of a class is its score's share of all classes' scores. Optimiser and episodes are those of the
comparison, not Sung's own (Adam 1e-3, halved every 100,000 episodes).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.conv4 import Conv4, conv_block
from tasks.blocks.deepcaps import DeepCaps
from tasks.blocks.prototypes import random_negatives, score_mse, triplet_loss
from tasks.recognition.few_shot import FewShotClassification, episodes_of


class MapRelation(nn.Module):
    """Relation module on maps: pairs [P, 2 * width, h, w] -> score before the sigmoid [P]."""

    def __init__(self, width: int, height_width: tuple[int, int], hidden: int = 8) -> None:
        super().__init__()
        pool = min(height_width) >= 4
        self.blocks = nn.Sequential(
            conv_block(2 * width, width, pool=pool), conv_block(width, width, pool=pool)
        )
        shrink = 4 if pool else 1
        inputs = width * (height_width[0] // shrink) * (height_width[1] // shrink)
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        return self.layers(self.blocks(pairs).flatten(1))[:, 0]


class VectorRelation(nn.Module):
    """Relation module on vectors: pairs [P, 2 * features] -> score before the sigmoid [P]."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * features, features), nn.ReLU(), nn.Linear(features, 1))

    def forward(self, pairs: Tensor) -> Tensor:
        return self.layers(pairs)[:, 0]


class RelationNet(Method):
    """Learnt comparison of queries with class sums.

    backbone: "conv4" with the relation module on maps and the squared error, or "deepcaps" with the module on
    vectors and the triplet loss. width: of conv4. negatives, margin, mining: of the triplet loss. The other
    options are those of `attentive_prototype`.
    """

    name = "relation_net"
    task = FewShotClassification
    paper = Paper(
        title="Learning to Compare: Relation Network for Few-Shot Learning",
        venue="CVPR 2018",
        url="https://arxiv.org/abs/1711.06025",
        code="https://github.com/floodsung/LearningToCompare_FSL",
    )
    recipe = Recipe(batch_size=1, max_steps=600_000, selection="best", data={"episodes": 10_000})
    profiles = {
        "mini": {
            "stem": 16,
            "capsules": 8,
            "class_capsules": 5,
            "class_dim": 16,
            "width": 16,
            "max_steps": 240,
            "selection": "last",
            "validate_every": 0,
            "data.image_size": 32,
            "data.queries": 5,
            "data.episodes": 300,
            "data.test_episodes": 100,
        },
        "smoke": {
            "stem": 8,
            "capsules": 2,
            "class_capsules": 3,
            "class_dim": 4,
            "width": 4,
            "max_steps": 2,
            "selection": "last",
            "data.image_size": 16,
            "data.queries": 2,
            "data.episodes": 2,
            "data.val_episodes": 2,
            "data.test_episodes": 4,
        },
    }
    presets = {"caps": {"backbone": "deepcaps"}}
    baselines = ("pixel_prototype", "random_few_shot")
    claims = (
        Claim(
            method="relation_net:caps",
            over="relation_net",
            measure="accuracy",
            reported="80.91 against 65.32 on miniImageNet, 5-way 5-shot (ECCV 2020 paper, Table 4)",
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        backbone: Literal["conv4", "deepcaps"] = "conv4",
        width: int = 64,
        negatives: int = 3,
        margin: float = 0.5,
        mining: bool = True,
        stem: int = 128,
        capsules: int = 32,
        dims: tuple[int, int] = (4, 8),
        class_capsules: int = 10,
        class_dim: int = 32,
        routing_iterations: int = 3,
        gain: float = 2.5,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0003,
        lr_factor: float = 0.9,
        lr_every: int = 100_000,
    ) -> None:
        super().__init__(spec)
        episodes = episodes_of(spec)
        if backbone == "deepcaps" and not 1 <= negatives < episodes.ways:
            raise ValueError(f"{episodes.ways} ways have 1..{episodes.ways - 1} negatives, not {negatives}")
        self.backbone = backbone
        self.negatives, self.margin, self.mining = negatives, margin, mining
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.lr_factor, self.lr_every = lr_factor, lr_every
        self.network: nn.Module
        self.relation: nn.Module
        if backbone == "conv4":
            self.network = conv4 = Conv4(spec.channels, episodes.image_size, width=width, pools=2)
            self.relation = MapRelation(width, conv4.shape[1:])
        else:
            self.network = DeepCaps(
                spec.channels,
                episodes.image_size,
                stem=stem,
                capsules=capsules,
                dims=dims,
                class_capsules=class_capsules,
                class_dim=class_dim,
                routing_iterations=routing_iterations,
                gain=gain,
            )
            self.relation = VectorRelation(self.network.features)

    def forward(self, batch: Batch) -> Tensor:
        """Relation of each query with each class before the sigmoid, [B, Q, M]."""
        support, query = batch["support"], batch["query"]
        (episodes, ways, shots), queries = support.shape[:3], query.shape[1]
        features = self.network(torch.cat([support.flatten(0, 2), query.flatten(0, 1)])).float()
        shown, asked = features.split([episodes * ways * shots, episodes * queries])
        classes = shown.unflatten(0, (episodes, ways, shots)).sum(dim=2)
        asked = asked.unflatten(0, (episodes, queries))
        pairs = torch.cat(
            [
                classes[:, None].expand(-1, queries, *classes.shape[1:]),
                asked[:, :, None].expand(-1, -1, ways, *asked.shape[2:]),
            ],
            dim=3,
        )
        return self.relation(pairs.flatten(0, 2)).float().view(episodes, queries, ways)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        score = self(batch).sigmoid()
        label = batch["query_label"]
        if self.backbone == "conv4":
            loss = score_mse(score, label)
        else:
            negatives = random_negatives(label, score.shape[2], self.negatives)
            loss = triplet_loss(1 - score, label, negatives, self.margin, mining=self.mining)
        episodes = len(batch["id"])
        self.log("train/loss", loss, batch_size=episodes)
        self.log("train/accuracy", (score.argmax(2) == label).float().mean(), batch_size=episodes)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        step = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_every, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": step, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        return {"logits": F.logsigmoid(self(batch)).log_softmax(dim=2)}
