"""ADTC: clustering against its definition, diagnostics by hand, rounds, the network's size, learning, no leaks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from datamodules.retrieval.duke_mtmc import DukeMTMC
from datamodules.retrieval.market1501 import Market1501
from datamodules.specs import PersonsSpec
from tasks.base import Need
from tasks.retrieval.adtc import (
    ADTC,
    Candidates,
    assign,
    decay,
    euclidean_candidates,
    k_reciprocal_candidates,
    kmeans,
    margin_difference,
    normalised_mutual_information,
    rank1_among,
)
from tasks.retrieval.adtc_network import ADTCNetwork, saliency
from tasks.retrieval.adtc_source import ADTCSource

SPEC = PersonsSpec(dataset="toy", identities=751, cameras=6, image_size=(256, 128))
SMALL = PersonsSpec(dataset="toy", identities=5, cameras=2, image_size=(64, 32))
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}
TINY = {**ADTC.profile("smoke"), "channels": 32, "attention_width": 8}


# Clustering.


def test_second_stage_follows_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    features, centroids = torch.randn(50, 3, generator=generator), torch.randn(6, 3, generator=generator)
    k, p = 6, 4
    together = torch.cat([features, centroids]).double()
    distance = (together[:, None] - together[None]).norm(dim=2)
    near = [set(row.argsort()[:k].tolist()) for row in distance]
    sets = [{j for j in near[i] if i in near[j]} for i in range(56)]
    expected = set()
    for m in range(6):
        a = sets[50 + m]
        claims = [(1 - len(a & sets[j]) / len(a | sets[j]), float(distance[50 + m, j]), j) for j in range(50)]
        expected |= {(m, j) for jaccard, _, j in sorted(claims)[:p] if jaccard < 1}
    found = k_reciprocal_candidates(features, centroids, k, p)
    assert set(zip(found.cluster.tolist(), found.point.tolist(), strict=True)) == expected
    assert 0 < len(expected) <= 24


def test_ambiguous_points_are_dropped_or_go_to_the_nearest() -> None:
    candidates = Candidates(
        cluster=np.array([0, 0, 1, 1, 2, 2]),
        point=np.array([0, 1, 1, 2, 3, 2]),
        distance=np.array([0.1, 0.5, 0.2, 0.4, 0.3, 0.4]),
        euclidean=np.array([1.0, 1.0, 2.0, 3.0, 1.0, 2.0]),
    )
    assert assign(candidates, 5, drop_ambiguous=True).tolist() == [0, -1, -1, 2, -1]
    # Point 1 is nearer to cluster 1 in J; point 2 ties in J and is nearer to cluster 2 in Euclidean distance.
    assert assign(candidates, 5, drop_ambiguous=False).tolist() == [0, 1, 2, 2, -1]


def test_euclidean_candidates_by_hand() -> None:
    found = euclidean_candidates(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.2], [4.0]]), 2)
    assert list(zip(found.cluster.tolist(), found.point.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (1, 2),
        (1, 1),
    ]


def test_kmeans_finds_clear_clusters_the_same_way_each_time() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 10 * torch.eye(3).repeat_interleave(8, 0) + 0.1 * torch.randn(24, 3, generator=generator)
    centroids, nearest = kmeans(features, 3, seed=4)
    assert [len(set(nearest[i : i + 8])) for i in (0, 8, 16)] == [1, 1, 1]
    torch.testing.assert_close(centroids[nearest[0]], features[:8].mean(0))
    assert torch.equal(kmeans(features, 3, seed=4)[0], centroids)
    with pytest.raises(ValueError, match="25 clusters of 24 crops"):
        kmeans(features, 25, seed=0)


def test_two_stages_make_purer_labels_than_kmeans() -> None:
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(200) % 20
    features = 3 * torch.randn(20, 8, generator=generator)[label] + torch.randn(200, 8, generator=generator)
    method = {
        kind: ADTC(SMALL, **{**TINY, "clusters": 20, "clustering": kind}) for kind in ("two_stage", "kmeans")
    }
    pseudo = {kind: adtc.cluster(features, seed=0) for kind, adtc in method.items()}
    assert (pseudo["kmeans"] >= 0).all()
    assert 0 < (pseudo["two_stage"] >= 0).mean() < 1
    assert (
        max(Counter(pseudo["two_stage"][pseudo["two_stage"] >= 0].tolist()).values())
        <= method["two_stage"].taken
    )

    def purity(labels: np.ndarray) -> float:
        kept = labels >= 0
        return normalised_mutual_information(labels, label.numpy()) * kept.any()

    assert purity(pseudo["two_stage"]) > purity(pseudo["kmeans"])


# Diagnostics and schedule.


def test_mutual_information_of_kept_points() -> None:
    label = np.array([5, 5, 6, 6, 7])
    assert normalised_mutual_information(np.array([1, 1, 0, 0, -1]), label) == pytest.approx(1.0)
    # H(C) = log 2, H(L) = log 4, I = log 2: log 2 / sqrt(log 2 log 4) = 1 / sqrt 2.
    assert normalised_mutual_information(np.array([0, 0, 1, 1]), np.arange(4)) == pytest.approx(2**-0.5)
    assert normalised_mutual_information(np.full(5, -1), label) == 0


def test_margin_difference_by_hand() -> None:
    # Two labels at 0 and 3, each label's points 1 apart: |g - g-|^2 is 9 + 0 or 9 + 1, |g - g+|^2 is 1.
    features = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0], [3.0, 1.0]])
    delta = margin_difference(features, torch.tensor([4, 4, 2, 2]), 2000)
    assert delta.shape == (2000,)
    assert set(delta.tolist()) == {8.0, 9.0}
    assert len(margin_difference(features, torch.arange(4))) == 0


def test_rank1_among_leaves_out_the_own_camera() -> None:
    features = torch.tensor([[0.0], [0.1], [1.0], [0.25]])
    label, camera = torch.tensor([1, 1, 1, 2]), torch.tensor([0, 0, 1, 1])
    # 0 and 1 are of one camera: their only right answer is 2, behind 3. 2 finds 3 first, too. 3 has no partner.
    assert rank1_among(features, label, camera) == 0
    assert rank1_among(features, label, torch.tensor([0, 1, 1, 1])) == pytest.approx(200 / 3)


def test_rate_in_a_round() -> None:
    factors = [decay(epoch, 5, 10) for epoch in range(10)]
    assert factors[:6] == [1.0] * 6
    assert factors[6:] == pytest.approx([0.001 ** (i / 5) for i in (1, 2, 3, 4)])


# The network.


def test_size_of_the_papers_network() -> None:
    with torch.device("meta"):
        network = ADTCNetwork()
    trunk = sum(p.numel() for p in network.trunk.parameters())
    attention = sum(p.numel() for p in network.attention.parameters())
    assert trunk == 25_557_032 - 2048 * 1000 - 1000  # ResNet-50 without its classifier
    assert attention == 2 * 2048 * 800
    assert network.feature_map(torch.zeros(2, 3, 256, 128, device="meta")).shape == (2, 2048, 16, 8)
    with torch.device("meta"):
        strided = ADTCNetwork(last_stride=2, attention="none")
    assert strided.feature_map(torch.zeros(2, 3, 256, 128, device="meta")).shape == (2, 2048, 8, 4)
    assert sum(p.numel() for p in strided.attention.parameters()) == 0


def test_paper_profile_steps_once() -> None:
    torch.manual_seed(0)
    method = ADTC(SPEC)
    assert ADTC.recipe.max_epochs / method.round_epochs == 20
    assert ADTC.recipe.batch_size == method.identities * method.pictures == 128
    method.pseudo_labels = {"a": 0, "b": 0, "c": 1, "d": 1}
    method.log = lambda *_, **__: None
    loss = method.training_step({"image": torch.rand(4, 3, 256, 128), "id": ["a", "b", "c", "d"]}, 0)
    loss.backward()
    assert loss > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("attention", ["voxel", "channel", "spatial", "none", "ha", "cbam"])
def test_embedding_of_each_attention(attention: str) -> None:
    torch.manual_seed(0)
    network = ADTCNetwork(attention=attention, backbone="small", channels=16, attention_width=4)
    image = torch.rand(6, 3, 64, 32)
    embedding = network(image)
    assert embedding.shape == (6, 16)
    # Batch normalisation undoes the scale of the softmax: active channels have unit variance.
    spread = embedding.std(0, correction=0)
    assert ((spread > 0.9) | (spread < 1e-3)).all()
    assert (spread > 0.9).float().mean() > 0.5
    network.eval()
    expected = network.norm(network.attention(network.feature_map(image)).flatten(2).max(2).values)
    torch.testing.assert_close(network(image), expected)
    assert saliency(network, image).shape == (6, 16, 8)


def test_options_and_presets_build() -> None:
    for preset in ADTC.presets:
        options = ADTC.profile("mini", preset)
        assert isinstance(ADTC(SMALL, **options), ADTC), preset
    with pytest.raises(ValueError, match="decay_from"):
        ADTC(SMALL, **{**TINY, "decay_from": 5})
    with pytest.raises(ValueError, match="last_stride"):
        ADTCNetwork(last_stride=3)
    with pytest.raises(ValueError, match="no ImageNet weights"):
        ADTCNetwork(backbone="small", weights="somewhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        ADTCNetwork(weights="nowhere.pth")


def test_needs_a_source_of_the_same_network() -> None:
    options = {
        **ADTC.profile("mini"),
        "initialise": "source",
        "last_stride": 1,
        "channels": 96,
        "weights": None,
    }
    (need,) = ADTC.needs({**options, "attention": "none"})
    assert isinstance(need, Need)
    assert (need.role, need.method, need.options["attention"]) == ("source", "adtc_source", "none")
    assert ADTC.needs({**options, "initialise": "imagenet"}) == ()
    torch.manual_seed(0)
    small = {name: TINY[name] for name in ("backbone", "channels", "attention_width")}
    source, target = ADTCSource(SMALL, **small), ADTC(SMALL, **TINY)
    target.adopt("source", source)
    image = torch.rand(2, 3, 64, 32)
    assert torch.equal(target.eval().predict({"image": image})["embedding"], source.eval().network(image))
    with pytest.raises(TypeError, match="adtc_source"):
        target.adopt("source", torch.nn.Identity())  # type: ignore[arg-type]


# Training.


def fit(cache: Path, changes: dict[str, Any], epochs: int, data: Market1501 | None = None) -> ADTC:
    pl.seed_everything(3, verbose=False)
    data = data or Market1501(cache=cache, image_size=(64, 32), seed=3)
    method = ADTC(data.spec, **{**TINY, "clusters": 30, **changes})
    pl.Trainer(max_epochs=epochs, limit_train_batches=2, **QUIET).fit(method, datamodule=data)
    return method


class Strangers(Market1501):
    """The miniature with its training labels shuffled."""

    def read(self, split: str) -> Any:
        crops = super().read(split)
        if split == "train":
            crops.crops = [
                type(c)(c.path, c.person, c.camera, (7 * i) % 40) for i, c in enumerate(crops.crops)
            ]
        return crops


def test_target_labels_change_nothing_but_diagnostics(cache: Path) -> None:
    changes = {"round_epochs": 1, "decay_from": 1}
    honest = fit(cache, changes, 2)
    shuffled = fit(cache, changes, 2, Strangers(cache=cache, image_size=(64, 32), seed=3))
    assert len(honest.rounds) == 2
    assert honest.rounds[0]["nmi"] > shuffled.rounds[0]["nmi"]
    for (name, mine), other in zip(honest.state_dict().items(), shuffled.state_dict().values(), strict=True):
        assert torch.equal(mine, other), name


def test_rounds_cluster_anew_with_fresh_moments(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int, bool]] = []
    original = ADTC.cluster

    def cluster(self: ADTC, features: torch.Tensor, seed: int) -> np.ndarray:
        crops = next(iter(self.trainer.datamodule.in_order("train")))["image"]
        self.network.eval()  # without flips, by running statistics
        with torch.no_grad():
            expected = self.network(crops)
        self.network.train()
        calls.append((self.current_epoch, seed, torch.allclose(features[: len(crops)], expected)))
        return original(self, features, seed)

    steps: list[tuple[int, float, float]] = []

    def watch(self: ADTC, *_: Any) -> None:
        optimiser = self.optimizers().optimizer
        state = next(iter(optimiser.state.values()))
        steps.append((self.current_epoch, float(state["step"]), optimiser.param_groups[0]["lr"]))

    monkeypatch.setattr(ADTC, "cluster", cluster)
    monkeypatch.setattr(ADTC, "on_train_batch_end", watch)
    method = fit(cache, {"round_epochs": 2, "decay_from": 1, "lr": 1e-3}, 4)
    assert calls == [(0, 3000, True), (1, 3001, True)]
    assert [int(step) for _, step, _ in steps] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert [rate for _, _, rate in steps] == pytest.approx([1e-3] * 8)
    assert method.network.training
    kept = [label for label in method.pseudo_labels.values() if label >= 0]
    assert method.rounds[-1]["kept"] == pytest.approx(len(kept) / len(method.pseudo_labels))


@pytest.mark.parametrize("preset", ["only_va", "pul", "keep_ambiguous", "l2_normalize"])
def test_variants_train(cache: Path, preset: str) -> None:
    method = fit(cache, ADTC.presets[preset], 1)
    assert all(p.isfinite().all() for p in method.parameters())
    assert set(method.diagnostics()) == {"nmi_1", "kept_1", "train_rank1_1", "clustering_seed_1"}
    assert (method.rounds[0]["kept"] == 1) == (preset == "only_va")


def test_source_learns_its_persons(cache: Path) -> None:
    pl.seed_everything(3, verbose=False)
    data = DukeMTMC(cache=cache, image_size=(64, 32), seed=3)
    options = {**ADTCSource.profile("mini"), "channels": 48, "attention_width": 24}
    method = ADTCSource(data.spec, **options)
    trainer = pl.Trainer(max_epochs=2, **QUIET)
    trainer.test(method, datamodule=data, verbose=False)
    before = method.scores["test"]["map"]
    trainer.fit(method, datamodule=data)
    trainer.test(method, datamodule=data, verbose=False)
    assert method.scores["test"]["map"] > max(1.5 * before, 15)
