"""Attentive Prototype Few-Shot Learning with Capsule Network-Based Embedding (Wu et al., ECCV 2020).

Against prototypical networks (Snell et al., 2017) the paper changes three things: the embedding is a modified
DeepCaps, whose longest class capsule is a picture's feature; each query has prototypes of its own, in which
the supports near to it weigh most; and a triplet loss compares it with several wrong classes at once.

- Eqs. 2 and 3, mean prototypes and their loss; Eqs. 4 and 5, attentive prototypes; Eqs. 7 and 9, the triplet
  loss with one and with E negatives: `tasks/blocks/prototypes.py`. The embedding (Fig. 2):
  `tasks/blocks/deepcaps.py`, its layers in `capsules.py`. Eq. 8, the nearest prototype: `predict`.
- Eq. 4 is printed without its minus sign; as printed, far supports would get the weight. "Normalised Gaussian
  functions" and "nearer ... more attention" need it. Eq. 5's denominator is 1.
- The posterior, named but not given, is Eq. 3 with attentive prototypes. The reject option, which the paper
  claims and doesn't test, is judged by it.
- Hard-triplet mining averages over the triplets that break the margin: dropping zeros from a sum would change
  nothing.
- Size: DeepCaps' own cells have 6.81 M parameters before the class capsules. With 64×64 pictures (2560 flat
  capsules), b = 10 and d = 32 (DeepCaps' d) there are 13.36 M. The paper's 7.22 M are those of 32×32
  pictures (640 flat capsules), b = 5 and d = 16: preset `small`.

Left open by the paper and chosen here: margin 0.5 and E = 3 negatives; b and d; 15 queries a class; a batch of
one episode; "dropped by 10%" read literally as a factor 0.9 (`lr_factor`), every 100,000 episodes or, with
`schedule="plateau"`, after 10 epochs of training loss without progress; the loss of setting 2 (Eq. 3's, or
Eq. 7: `setting2_triplet`); normal initialisation with `gain` 2.5 in the capsule convolutions (with He's 1.41
every squash shortens the capsules, and few arrive at the last cell) and standard deviation 0.1 in the class
capsules; no decoder, and no bias on the convolutions; "basic" augmentation is the dataset's (`data.augment`).
The weights that are tested are the best on the validation classes. miniImageNet trains for 600,000 episodes
as the recipe has it, tieredImageNet and FC100 for 1,000,000 (`max_steps`).

With one shot all weights are 1: a gain there comes from the loss alone.

Presets: `setting1` to `setting2_triplet`, and the method itself as setting 3 (Table 5); `average`, setting 3
with mean prototypes (Table 4); `protonet_conv4`, the prototypical network of Snell et al.; one switch each of
the rest.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.specs import Spec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.conv4 import Conv4
from tasks.blocks.deepcaps import DeepCaps, Embedding
from tasks.blocks.prototypes import (
    attentive_prototypes,
    episode_nll,
    mean_prototypes,
    random_negatives,
    squared_distances,
    triplet_loss,
)
from tasks.recognition.few_shot import FewShotClassification, episodes_of

AVERAGE_NLL = {"prototypes": "average", "loss": "nll"}


class AttentivePrototype(Method):
    """Capsule embedding, query-dependent prototypes, triplet loss.

    network: "deepcaps" or "conv4" (which has none of the capsules' options). prototypes: "attentive" (Eq. 5)
    or "average" (Eq. 2). loss: "triplet" (Eq. 9) or "nll" (Eq. 3).
    sigma: width of the Gaussian. negatives: E. margin: alpha. mining: average over hard triplets only.
    stem, capsules, dims: of DeepCaps, see there. class_capsules, class_dim: b and d. embedding: the longest
    class capsule or all. routing_iterations: 1 is no routing. gain: of the initialisation. width: of conv4.
    learning_rate, weight_decay: of Adam. schedule, lr_factor, lr_every: when the learning rate is multiplied by
    what; every so many steps, which are episodes at a batch of one.
    """

    name = "attentive_prototype"
    task = FewShotClassification
    paper = Paper(
        title="Attentive Prototype Few-Shot Learning with Capsule Network-Based Embedding",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_15",
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
    presets = {
        "setting1": AVERAGE_NLL,
        "setting2": {"loss": "nll"},
        "setting2_triplet": {"negatives": 1, "mining": False},
        "average": {"prototypes": "average"},
        "protonet_conv4": {"network": "conv4", **AVERAGE_NLL},
        "single_routing": {"routing_iterations": 1},
        "all_capsules": {"embedding": "all"},
        "no_mining": {"mining": False},
        "one_negative": {"negatives": 1},
        "wide_sigma": {"sigma": 0.5},
        "small": {"class_capsules": 5, "class_dim": 16, "data.image_size": 32},
        "augment": {"data.augment": True},
    }
    baselines = (
        "attentive_prototype:setting1",
        "attentive_prototype:average",
        "attentive_prototype:protonet_conv4",
        "relation_net",
        "relation_net:caps",
        "pixel_prototype",
        "random_few_shot",
    )
    claims = (
        Claim(
            method="attentive_prototype",
            over="attentive_prototype:setting1",
            measure="accuracy",
            reported="80.17 against 75.21 on miniImageNet, 5-way 5-shot (Table 5)",
        ),
        Claim(
            method="attentive_prototype",
            over="attentive_prototype:average",
            measure="accuracy",
            reported="80.17 against 76.32 on miniImageNet, 5-way 5-shot (Table 4)",
        ),
        Claim(
            method="attentive_prototype",
            over="attentive_prototype:average",
            measure="accuracy_outlier",
            reported='"robust to outliers by design", without a number',
        ),
    )

    def __init__(
        self,
        spec: Spec,
        *,
        network: Literal["deepcaps", "conv4"] = "deepcaps",
        prototypes: Literal["attentive", "average"] = "attentive",
        loss: Literal["triplet", "nll"] = "triplet",
        sigma: float = 0.1,
        negatives: int = 3,
        margin: float = 0.5,
        mining: bool = True,
        stem: int = 128,
        capsules: int = 32,
        dims: tuple[int, int] = (4, 8),
        class_capsules: int = 10,
        class_dim: int = 32,
        embedding: Embedding = "winner",
        routing_iterations: int = 3,
        gain: float = 2.5,
        width: int = 64,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0003,
        schedule: Literal["step", "plateau"] = "step",
        lr_factor: float = 0.9,
        lr_every: int = 100_000,
    ) -> None:
        super().__init__(spec)
        episodes = episodes_of(spec)
        if sigma <= 0:
            raise ValueError(f"sigma must be positive, got {sigma}")
        if loss == "triplet" and not 1 <= negatives < episodes.ways:
            raise ValueError(f"{episodes.ways} ways have 1..{episodes.ways - 1} negatives, not {negatives}")
        self.prototypes, self.loss, self.sigma = prototypes, loss, sigma
        self.negatives, self.margin, self.mining = negatives, margin, mining
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.schedule, self.lr_factor, self.lr_every = schedule, lr_factor, lr_every
        self.network: nn.Module
        if network == "conv4":
            self.network = Conv4(spec.channels, episodes.image_size, width=width)
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
                embedding=embedding,
                gain=gain,
            )
        self.attention_entropy = MeanMetric()
        self.outlier_weight = MeanMetric()
        self.outlier_share = MeanMetric()
        self._testing = False

    def embed(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) of all pictures of B episodes at once: [B, M, K, C, H, W] and [B, Q, C, H, W] -> float32
        [B, M, K, D] and [B, Q, D]."""
        pictures = torch.cat([support.flatten(0, 2), query.flatten(0, 1)])
        features = self.network(pictures).flatten(1).float()
        supports, queries = features.split([support.shape[:3].numel(), query.shape[:2].numel()])
        return supports.unflatten(0, support.shape[:3]), queries.unflatten(0, query.shape[:2])

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Squared distances [B, Q, M] of queries to prototypes, and the supports' weights [B, Q, M, K]."""
        support, query = self.embed(batch["support"], batch["query"])
        if self.prototypes == "average":
            return squared_distances(query, mean_prototypes(support)), None
        attentive = attentive_prototypes(support, query, self.sigma)
        return squared_distances(query, attentive.prototypes), attentive.weights

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        distance, _ = self(batch)
        label = batch["query_label"]
        if self.loss == "nll":
            loss = episode_nll(-distance, label)
        else:
            negatives = random_negatives(label, distance.shape[2], self.negatives)
            loss = triplet_loss(distance, label, negatives, self.margin, mining=self.mining)
        episodes = len(batch["id"])
        self.log("train/loss", loss, batch_size=episodes)
        self.log("train/accuracy", (distance.argmin(2) == label).float().mean(), batch_size=episodes)
        if self.schedule == "plateau":
            self.log("train/mean_loss", loss, batch_size=episodes, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        scheduler: dict[str, Any]
        if self.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=self.lr_factor)
            scheduler = {"scheduler": plateau, "interval": "epoch", "monitor": "train/mean_loss"}
        else:
            step = torch.optim.lr_scheduler.StepLR(optimizer, self.lr_every, self.lr_factor)
            scheduler = {"scheduler": step, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def predict(self, batch: Batch) -> Prediction:
        """Log-posterior of the classes (Eq. 3; its largest is Eq. 8's class) and the supports' weights."""
        distance, weights = self(batch)
        prediction = {"logits": (-distance).log_softmax(dim=2)}
        if weights is not None:
            prediction["attention"] = weights
            if self._testing:
                self._observe(weights, batch)
        return prediction

    # What the attention does, gathered while testing.

    def on_test_start(self) -> None:
        self._testing = True

    def on_test_end(self) -> None:
        self._testing = False

    def _observe(self, weights: Tensor, batch: Batch) -> None:
        """Take in the weights' entropy and, where outliers are known, their weight for queries of their class."""
        self.attention_entropy.update(torch.special.entr(weights).sum(dim=3))
        if "outlier" not in batch or not batch["outlier"].any():
            return
        label = batch["query_label"]
        own = weights.gather(2, label[:, :, None, None].expand(-1, -1, 1, weights.shape[3]))[:, :, 0]
        odd = batch["outlier"].gather(1, label[:, :, None].expand(-1, -1, weights.shape[3])).float()
        self.outlier_weight.update((own * odd).sum(dim=2))
        self.outlier_share.update(odd.mean(dim=2))

    def diagnostics(self) -> dict[str, float]:
        """attention_entropy: of the supports' weights, in nats, mean over queries and classes (0: one support has
        all, log K: the mean). outlier_weight: weight of outliers among the supports of a query's own class;
        outlier_share: their share, which is their weight in the mean."""
        found = {}
        for name in ("attention_entropy", "outlier_weight", "outlier_share"):
            metric = getattr(self, name)
            if metric.update_count:
                found[name] = float(metric.compute())
        return found
