"""ADTC: attention-driven two-stage clustering for unsupervised person re-identification (Ji et al., ECCV 2020).

A model from a labelled source domain is fitted to unlabelled crops of a target in rounds: embed all crops, cluster
them, train on the pseudo-labels, again. What is changed against plain cluster-and-train:

- Voxel attention (section 3.1, equations 1 to 3: tasks/blocks/voxel_attention.py; network: adtc_network.py) turns
  the features to the person; without it crops gather by camera background.
- Two-stage clustering (section 3.2). Stage 1: k-means++ gives M centroids, and nothing else of it is used. Stage 2:
  each centroid takes the p crops with the smallest k-reciprocal Jaccard distance to it (equations 4, 5:
  tasks/blocks/k_reciprocal.py); crops that two centroids take are left out of the round, and so are those that
  none takes.
- Only the batch-hard triplet loss (equation 6: tasks/blocks/batch_hard_triplet.py) trains the network: pseudo-labels
  are permuted from round to round.

Presets: `direct_transfer` (the source model as it is), `no_da` (no source, ImageNet weights only), `only_va` (labels
are the k-means assignment of all crops), `only_tc` (no attention), `channel`, `spatial`, `ha`, `cbam` (other attention
at the same place), `pul` (as PUL: no attention, the crops nearest to a centroid in Euclidean distance, softmax loss),
and the switches `l2_normalize`, `keep_ambiguous`, `last_stride_2`, `small_width` (d = c / 16).

Left open by the paper and chosen here:
- "The output channels are set as 800 in the voxel attention kernel": C must have c entries, so 800 is read as the
  bottleneck width d.
- k = 20; a point is its own neighbour; centroids join the crops as M more points before neighbours are sought.
- Points at J = 1 from a centroid (no common neighbour) never join it; ties in J go by Euclidean distance.
- An ambiguous crop that is kept (`drop_ambiguous` off) goes to the centroid at the smallest J, then the nearest.
- An epoch is as many batches as 32 classes x 4 crops go into all N crops, whatever N_r, so that all ways of
  clustering train for as many steps; the batches are drawn anew in each.
- Rate 1e-4 x 0.001^((e - 5) / 5) from epoch e = 5 (from 0) of each round on; Adam's moments start anew with each
  round; weight decay 5e-4.
- The source network has the same attention as the target's, so that all of it is initialised.
- Last stride 1 (`last_stride`). The norm's eps is 1e-9 behind the softmax over positions, whose values are of order
  1 / (h w): the usual 1e-5 would outweigh their variance.
- Equation 6 takes squared distances of raw features, which are in the thousands for 2048 numbers, so that a margin of
  0.3 hardly acts; kept as it stands, with `l2_normalize` as a switch.

The target's labels are read for diagnostics only (NMI, rank-1 among the training crops by the test's protocol, margin
difference): they choose no round, M or weights, and the test split is not looked at before the test. The paper's
Fig. 6 draws test rank-1 by round; here it is rank-1 of the training crops, each a query among the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.specs import PersonsSpec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.batch_hard_triplet import batch_hard_triplet
from tasks.blocks.identity_batches import identity_batches
from tasks.blocks.k_reciprocal import jaccard_distances, k_reciprocal_sets, nearest_neighbours
from tasks.metrics.reid import cumulative_match, ranked
from tasks.retrieval.adtc_network import ADTCNetwork, Attention, Backbone
from tasks.retrieval.person_reid import PersonReId, persons_of

SOURCE = "source"
NETWORK_OPTIONS = ("attention", "attention_width", "backbone", "last_stride", "channels", "weights")
TRIPLETS = 10_000
"""Triplets of the margin difference."""


@dataclass(frozen=True)
class Candidates:
    """Which crops each centroid takes: parallel arrays [n]. cluster: 0..M-1; point: 0..N-1; distance, euclidean: to
    the cluster's centroid."""

    cluster: NDArray[np.int64]
    point: NDArray[np.int64]
    distance: NDArray[np.float64]
    euclidean: NDArray[np.float64]


def kmeans(features: Tensor, clusters: int, seed: int) -> tuple[Tensor, NDArray[np.int64]]:
    """k-means++, one start: float [N, D] -> centroids float32 [M, D] and assignment int64 [N]."""
    from sklearn.cluster import KMeans

    if clusters > len(features):
        raise ValueError(f"cannot form {clusters} clusters of {len(features)} crops: lower `clusters`")
    fitted = KMeans(clusters, init="k-means++", n_init=1, random_state=seed).fit(features.cpu().numpy())
    return torch.from_numpy(fitted.cluster_centers_).float(), fitted.labels_.astype(np.int64)


def k_reciprocal_candidates(features: Tensor, centroids: Tensor, k: int, p: int) -> Candidates:
    """C_m^p: for each centroid the p points with the smallest Jaccard distance below 1, ties by Euclidean distance.

    features: float [N, D]; centroids: float [M, D].
    """
    together = torch.cat([features, centroids.to(features.device)])
    count = len(features)
    sets = k_reciprocal_sets(nearest_neighbours(together, k))
    cluster, point, distance = jaccard_distances(sets, np.arange(count, len(together)), np.arange(count))
    euclidean = _distances(features, centroids, cluster, point)
    return _first(Candidates(cluster, point, distance, euclidean), p)


def euclidean_candidates(features: Tensor, centroids: Tensor, p: int) -> Candidates:
    """For each centroid the p nearest points: float [N, D], [M, D]."""
    near = torch.cdist(centroids.to(features.device), features).topk(min(p, len(features)), largest=False)
    distance = near.values.cpu().double().numpy().ravel()
    cluster = np.repeat(np.arange(len(centroids)), near.indices.shape[1])
    return Candidates(cluster, near.indices.cpu().numpy().ravel(), distance, distance)


def assign(candidates: Candidates, points: int, drop_ambiguous: bool) -> NDArray[np.int64]:
    """Pseudo-labels int64 [N], -1 for points without one: taken by no centroid, or by two and `drop_ambiguous`.

    Without it, a point that several take goes to the one at the smallest distance, then Euclidean distance.
    """
    label = np.full(points, -1, np.int64)
    # The best claim of a point is written last.
    order = np.lexsort((candidates.euclidean, candidates.distance))[::-1]
    label[candidates.point[order]] = candidates.cluster[order]
    if drop_ambiguous:
        label[np.bincount(candidates.point, minlength=points) > 1] = -1
    return label


def normalised_mutual_information(cluster: NDArray[np.int64], label: NDArray[np.int64]) -> float:
    """I(C, L) / sqrt(H(C) H(L)) (equation 7) over the points with a pseudo-label (cluster >= 0); 0 without any."""
    from sklearn.metrics import normalized_mutual_info_score

    kept = cluster >= 0
    if not kept.any():
        return 0.0
    return float(normalized_mutual_info_score(label[kept], cluster[kept], average_method="geometric"))


def margin_difference(features: Tensor, label: Tensor, triplets: int = TRIPLETS, seed: int = 0) -> Tensor:
    """delta = |g - g-|^2 - |g - g+|^2 (section 4.4) of random triplets: float [N, D], int64 [N] -> float [triplets].

    g is any point of a label that has two; g+ another of them, g- one of another label. Empty where there are none.
    """
    label = label.to(features.device)
    order = label.argsort(stable=True)
    _, group, size = label[order].unique_consecutive(return_inverse=True, return_counts=True)
    start = size.cumsum(0) - size
    anchors = (size[group] > 1).nonzero()[:, 0]
    if not len(anchors) or len(size) < 2:
        return features.new_zeros(0)
    draws = torch.rand(3, triplets, generator=torch.Generator().manual_seed(seed)).to(features.device)
    anchor = anchors[(draws[0] * len(anchors)).long()]
    own, first = size[group[anchor]], start[group[anchor]]
    positive = first + (anchor - first + 1 + (draws[1] * (own - 1)).long()) % own
    negative = (first + own + (draws[2] * (len(label) - own)).long()) % len(label)
    g, near, far = (features[order[index]].float() for index in (anchor, positive, negative))
    return (g - far).square().sum(1) - (g - near).square().sum(1)


def rank1_among(features: Tensor, label: Tensor, camera: Tensor) -> float:
    """Rank-1 in %, each point a query among all others, its own camera's crops of its person taken out (and so the
    point itself)."""
    ranks = ranked(lambda chunk: torch.cdist(features[chunk], features), label, camera, label, camera)
    return 100.0 * float(cumulative_match(ranks.first, 1)[0]) if ranks.valid.any() else float("nan")


class ADTC(Method):
    """See the module's docstring.

    initialise: from the source's weights, or ImageNet's (`weights`) alone. attention, attention_width, backbone,
    last_stride, channels, weights: see `ADTCNetwork`. clustering: two stages, or the assignment of k-means.
    nearness: distance of the second stage. loss: triplet, or softmax over this round's clusters. clusters: M.
    k: neighbours of the Jaccard distance. taken: p, crops a centroid takes. drop_ambiguous: leave out what two
    centroids take. round_epochs: epochs a round; T is `max_epochs` / `round_epochs`. decay_from: epoch of a
    round from which the rate falls. identities, pictures: clusters a batch and crops of each. margin: m.
    l2_normalize: measure the triplet loss on features of unit length. lr, weight_decay: of Adam.
    """

    name = "adtc"
    task = PersonReId
    paper = Paper(
        title="An Attention-Driven Two-Stage Clustering Method for Unsupervised Person Re-identification",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_2",
    )
    recipe = Recipe(batch_size=128, max_epochs=200, validate_every=0)
    profiles = {
        "mini": {
            "backbone": "small",
            "attention_width": 48,
            "clusters": 50,
            "identities": 8,
            "round_epochs": 3,
            "decay_from": 2,
            "lr": 5e-4,
            "batch_size": 32,
            "max_epochs": 12,
            "data.image_size": (64, 32),
        },
        "smoke": {
            "backbone": "small",
            "attention_width": 48,
            "clusters": 50,
            "identities": 4,
            "round_epochs": 1,
            "decay_from": 1,
            "batch_size": 16,
            "max_steps": 3,
            "max_epochs": 2,
            "data.image_size": (64, 32),
        },
    }
    presets = {
        "direct_transfer": {"max_steps": 0},
        "no_da": {"initialise": "imagenet"},
        "only_va": {"clustering": "kmeans"},
        "only_tc": {"attention": "none"},
        "channel": {"attention": "channel"},
        "spatial": {"attention": "spatial"},
        "ha": {"attention": "ha"},
        "cbam": {"attention": "cbam"},
        "pul": {"attention": "none", "nearness": "euclidean", "loss": "softmax"},
        "l2_normalize": {"l2_normalize": True},
        "keep_ambiguous": {"drop_ambiguous": False},
        "last_stride_2": {"last_stride": 2},
        "small_width": {"attention_width": 128},
    }
    baselines = ("adtc:only_tc", "adtc:only_va", "adtc:direct_transfer", "random_reid")
    claims = (
        Claim(
            method="adtc",
            over="adtc:only_tc",
            measure="map",
            reported="+18.6 (Duke to Market), +24.3 (Market to Duke), Tables 1, 2",
        ),
        Claim(
            method="adtc",
            over="adtc:only_va",
            measure="map",
            reported="+24.2 (Duke to Market), +19.9 (Market to Duke), Tables 1, 2",
        ),
        Claim(
            method="adtc",
            over="adtc:direct_transfer",
            measure="map",
            reported="+40.9 (Duke to Market), +34.3 (Market to Duke), Table 1",
        ),
        Claim(
            method="adtc",
            over="adtc:only_tc",
            measure="ice",
            reported="588 -> 340 of 2,228 queries (Market to Duke, Fig. 4)",
        ),
    )

    def __init__(
        self,
        spec: PersonsSpec,
        *,
        initialise: Literal["source", "imagenet"] = "source",
        attention: Attention = "voxel",
        attention_width: int = 800,
        backbone: Backbone = "resnet50",
        last_stride: Literal[1, 2] = 1,
        channels: int = 96,
        weights: str | None = None,
        clustering: Literal["two_stage", "kmeans"] = "two_stage",
        nearness: Literal["k_reciprocal", "euclidean"] = "k_reciprocal",
        loss: Literal["triplet", "softmax"] = "triplet",
        clusters: int = 1000,
        k: int = 20,
        taken: int = 20,
        drop_ambiguous: bool = True,
        round_epochs: int = 10,
        decay_from: int = 5,
        identities: int = 32,
        pictures: int = 4,
        margin: float = 0.3,
        l2_normalize: bool = False,
        lr: float = 1e-4,
        weight_decay: float = 5e-4,
    ) -> None:
        super().__init__(persons_of(spec))
        if min(clusters, k, taken, round_epochs) < 1:
            raise ValueError("clusters, k, taken and round_epochs must be positive")
        if not 0 <= decay_from <= round_epochs:
            raise ValueError(f"decay_from must be in 0..{round_epochs}, got {decay_from}")
        self.network = ADTCNetwork(
            attention=attention,
            attention_width=attention_width,
            backbone=backbone,
            last_stride=last_stride,
            channels=channels,
            weights=weights,
        )
        self.classifier = nn.Linear(self.network.channels, clusters) if loss == "softmax" else None
        self.initialise, self.clustering, self.nearness = initialise, clustering, nearness
        self.clusters, self.k, self.taken, self.drop_ambiguous = clusters, k, taken, drop_ambiguous
        self.round_epochs, self.decay_from = round_epochs, decay_from
        self.identities, self.pictures = identities, pictures
        self.margin, self.l2_normalize = margin, l2_normalize
        self.lr, self.weight_decay = lr, weight_decay
        self.pseudo_labels: dict[str, int] = {}
        """By sample id, of the present round; -1: none."""
        self.rounds: list[dict[str, float]] = []
        """Diagnostics of each round: nmi, kept (N_r / N), train_rank1, clustering_seed."""
        self.final: dict[str, float] = {}
        self._ids: list[str] = []

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        if options["initialise"] == "imagenet":
            return ()
        network = {name: options[name] for name in NETWORK_OPTIONS}
        return (Need(role=SOURCE, method="adtc_source", options=network),)

    def adopt(self, role: str, trained: Method) -> None:
        """Take the network of a source model; its classifier stays behind."""
        if role != SOURCE or not isinstance(getattr(trained, "network", None), ADTCNetwork):
            raise TypeError(
                f"{self.name} needs an adtc_source as {SOURCE!r}, not a {type(trained).__name__} as {role!r}"
            )
        self.network.load_state_dict(trained.network.state_dict())

    # Rounds (algorithm 1).

    def on_fit_start(self) -> None:
        self.rounds = []
        self._begin_round(0)

    def on_train_epoch_start(self) -> None:
        epoch = self.current_epoch % self.round_epochs
        for group in self.optimizers().optimizer.param_groups:
            group["lr"] = self.lr * decay(epoch, self.decay_from, self.round_epochs)
        for name, value in self.rounds[-1].items():
            self.log(f"train/{name}", value)

    def on_train_epoch_end(self) -> None:
        following = self.current_epoch + 1
        if 0 < (self.trainer.max_epochs or -1) <= following or self.trainer.should_stop:
            return
        if following % self.round_epochs == 0:
            self._begin_round(following)
            self.trainer.strategy.setup_optimizers(self.trainer)  # fresh moments
        else:
            self._schedule(following)

    def _begin_round(self, epoch: int) -> None:
        """Embed, cluster, label."""
        features, label, camera = self._embed_training()
        seed = self.trainer.datamodule.seed * 1000 + len(self.rounds)
        pseudo = self.cluster(features, seed)
        kept = pseudo >= 0
        self.pseudo_labels = dict(zip(self._ids, pseudo.tolist(), strict=True))
        self.rounds.append(
            {
                "nmi": normalised_mutual_information(pseudo, label.cpu().numpy()),
                "kept": float(kept.mean()),
                "train_rank1": rank1_among(features, label, camera),
                "clustering_seed": float(seed),
            }
        )
        if self.classifier is not None:  # last round's weights belong to other clusters
            self.classifier.reset_parameters()
        self._schedule(epoch)

    def _schedule(self, epoch: int) -> None:
        data = self.trainer.datamodule
        pseudo = np.array([self.pseudo_labels[name] for name in self._ids])
        random = np.random.default_rng((data.seed, epoch))
        steps = max(1, len(pseudo) // (self.identities * self.pictures))
        data.schedule(identity_batches(pseudo, self.identities, self.pictures, random, steps))

    @torch.no_grad()
    def _embed_training(self) -> tuple[Tensor, Tensor, Tensor]:
        """g of all training crops as they are, in evaluation mode: float [N, D]; and what only diagnostics may use,
        their true labels and cameras, int64 [N]."""
        was_training = self.network.training
        self.network.eval()
        gathered: list[tuple[Tensor, Tensor, Tensor]] = []
        self._ids = []
        for batch in self.trainer.datamodule.in_order("train"):
            embedding = self.network(batch["image"].to(self.device))
            gathered.append((embedding, batch["label"].to(self.device), batch["camera"].to(self.device)))
            self._ids += batch["id"]
        self.network.train(was_training)
        features, label, camera = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        return features, label, camera

    def cluster(self, features: Tensor, seed: int) -> NDArray[np.int64]:
        """Pseudo-labels int64 [N] of features float [N, D], -1: none in this round (section 3.2)."""
        centroids, nearest = kmeans(features, self.clusters, seed)
        if self.clustering == "kmeans":
            return nearest
        if self.nearness == "euclidean":
            candidates = euclidean_candidates(features, centroids, self.taken)
        else:
            candidates = k_reciprocal_candidates(features, centroids, self.k, self.taken)
        return assign(candidates, len(features), self.drop_ambiguous)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        embedding = self.network(batch["image"])
        pseudo = torch.tensor([self.pseudo_labels[name] for name in batch["id"]], device=embedding.device)
        if self.classifier is not None:
            loss = F.cross_entropy(self.classifier(embedding), pseudo)
        else:
            measured = F.normalize(embedding, dim=1) if self.l2_normalize else embedding
            loss = batch_hard_triplet(measured, pseudo, self.margin)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    # Test.

    def predict(self, batch: Batch) -> Prediction:
        return {"embedding": self.network(batch["image"])}

    def on_test_start(self) -> None:
        """Diagnostics of the tested weights on the training crops."""
        features, label, camera = self._embed_training()
        delta = margin_difference(features, label)
        self.final = {
            "margin_difference": float(delta.mean()) if len(delta) else 0.0,
            "margin_share": float((delta > 0).float().mean()) if len(delta) else 0.0,
            "train_rank1": rank1_among(features, label, camera),
        }

    def diagnostics(self) -> dict[str, float]:
        """On the training crops. Of the tested weights: the mean margin difference, the share of triplets in which it
        is positive, rank-1 in %; by round: `nmi_1` .., `kept_1` .., `train_rank1_1` .., before its training."""
        by_round = {
            f"{name}_{number}": value
            for number, seen in enumerate(self.rounds, start=1)
            for name, value in seen.items()
        }
        return {**self.final, **by_round}


def decay(epoch: int, decay_from: int, epochs: int) -> float:
    """Factor on the rate in an epoch (from 0) of a round: 1, then 0.001^((e - decay_from) / (epochs - decay_from))."""
    return 0.001 ** ((epoch - decay_from) / (epochs - decay_from)) if epoch >= decay_from else 1.0


def _distances(
    features: Tensor, centroids: Tensor, cluster: NDArray[np.int64], point: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Euclidean distances of pairs of a centroid and a point."""
    between = torch.cdist(centroids.to(features.device), features).cpu().double().numpy()
    return between[cluster, point]


def _first(candidates: Candidates, p: int) -> Candidates:
    """The p best of each cluster."""
    order = np.lexsort((candidates.euclidean, candidates.distance, candidates.cluster))
    cluster = candidates.cluster[order]
    size = np.bincount(cluster)
    place = np.arange(len(cluster)) - (size.cumsum() - size)[cluster]
    order = order[place < p]
    return Candidates(
        candidates.cluster[order],
        candidates.point[order],
        candidates.distance[order],
        candidates.euclidean[order],
    )
