"""SPVCNN, the super network and its search: parameter counts, by hand, identical outputs, and learning."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from datamodules.pointcloud.semantic_kitti import CLASSES, SemanticKITTI
from datamodules.specs import LidarSpec
from tasks.blocks.sparse_convolution import SparseTensor
from tasks.blocks.sparse_voxels import PointSet, voxelise_set
from tasks.pointcloud.position_prior import MajorityPoints
from tasks.pointcloud.spvcnn import SPVCNNSegmentation
from tasks.pointcloud.spvnas import SPVNAS, SPVNASSupernet
from tasks.pointcloud.spvnas_network import SPVCNN, Architecture, MinkUNet, Stage, published_name
from tasks.pointcloud.spvnas_search import (
    PER_STAGE,
    KernelStatistics,
    SearchSpace,
    SuperNetwork,
    evolve,
    macs,
    random_search,
    reestimate_statistics,
    segment_depths,
    shared_state,
    widest_uniform,
)
from tasks.pointcloud.spvnas_training import ActivatedPoints, PointVoxelMethod, cosine, point_loss, quantised

SPEC = LidarSpec(
    dataset="made-up",
    classes=CLASSES,
    class_frequency=(0.05,) * 20,
    beams=64,
    azimuths=2048,
    fov_up=3.0,
    fov_down=-25.0,
    mean=(12.12, 10.88, 0.23, -1.04, 0.21),
    std=(12.32, 11.47, 6.91, 0.86, 0.16),
    raw_ids=tuple(range(20)),
)
TINY = 0.125


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def make_batch(scans: int = 2, points: int = 400, seed: int = 0, spread: float = 3.0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(scans * points, 4, generator=generator) * torch.tensor([spread, spread, 0.5, 0.2])
    return {
        "points": cloud,
        "scan": torch.arange(scans).repeat_interleave(points),
        "label": torch.randint(0, 20, (scans * points,), generator=generator),
        "id": [str(number) for number in range(scans)],
    }


def make_points(
    batch: dict[str, object] | None = None, voxel_size: float = 0.4
) -> tuple[torch.Tensor, PointSet]:
    batch = batch or make_batch()
    return batch["points"], PointSet.of(batch["points"][:, :3], batch["scan"], voxel_size)


def silent(method: PointVoxelMethod) -> PointVoxelMethod:
    method.record = lambda loss, batch: loss  # type: ignore[method-assign]
    method.progress = lambda: 0.7  # type: ignore[method-assign]
    return method


# Networks.


@pytest.mark.parametrize(
    ("cr", "minkunet", "spvcnn"),
    [(1.0, 21_723_315, 21_778_003), (0.64, 8_771_298, 8_793_617), (0.5, 5_435_235, 5_449_267)],
)
def test_parameters_of_the_official_networks(cr: float, minkunet: int, spvcnn: int) -> None:
    with torch.device("meta"):
        network = SPVCNNSegmentation(SPEC, cr=cr).network
        assert parameters(SPVCNNSegmentation(SPEC, cr=cr, net="minkunet").network) == minkunet
    assert parameters(network) == spvcnn
    assert isinstance(network, SPVCNN)
    assert parameters(network.point_transforms) == spvcnn - minkunet


def test_parameters_of_the_largest_sub_network() -> None:
    with torch.device("meta"):
        assert parameters(SPVNASSupernet(SPEC).supernet) == 47_802_067


def test_without_its_point_branch_it_is_minkunet() -> None:
    torch.manual_seed(0)
    plain = SPVCNNSegmentation(SPEC, net="minkunet", width=TINY).eval()
    torch.manual_seed(0)
    off = SPVCNNSegmentation(SPEC, point_branch=False, width=TINY).eval()
    features, points = make_points()
    with torch.no_grad():
        assert torch.equal(plain.network(features, points), off.network(features, points))


def test_minkunet_has_one_answer_a_voxel_and_spvcnn_tells_its_points_apart() -> None:
    torch.manual_seed(0)
    cloud = torch.tensor([[0.1, 0.1, 0.1, 0.3], [0.3, 0.3, 0.3, 0.3], [5.0, 5.0, 0.0, 0.1]]).repeat(2, 1)
    cloud = torch.cat([cloud, make_batch()["points"]])
    points = PointSet.of(cloud[:, :3], torch.zeros(len(cloud)), 0.4)
    for devox, apart in (("trilinear", True), ("nearest", False)):
        network = SPVCNN(Architecture.uniform(TINY), 19, devox=devox).eval()
        with torch.no_grad():
            logits = network(cloud, points)
        assert bool((logits[0] - logits[1]).abs().max() > 1e-6) == apart
    stem = SPVCNN(Architecture.uniform(TINY), 19, devox="nearest", point_stem=True).eval()
    logits = stem(cloud, points)
    assert float((logits[0] - logits[1]).detach().abs().max()) > 1e-6, "the point stem sees raw features"
    logits = MinkUNet(Architecture.uniform(TINY), 19).eval()(cloud, points)
    assert torch.equal(logits[0], logits[1])


def test_scans_of_a_batch_are_independent_in_evaluation() -> None:
    torch.manual_seed(0)
    batch = make_batch()
    network = SPVCNN(Architecture.uniform(TINY), 19).eval()
    features, points = make_points(batch)
    own = batch["scan"] == 1
    with torch.no_grad():
        both = network(features, points)
        alone = network(features[own], PointSet(points.positions[own], points.batch[own]))
    torch.testing.assert_close(both[own], alone, atol=1e-5, rtol=1e-4)


def test_order_of_the_points_does_not_matter() -> None:
    torch.manual_seed(0)
    features, points = make_points()
    network = SPVCNN(Architecture.uniform(TINY), 19).eval()
    order = torch.randperm(len(features))
    with torch.no_grad():
        one = network(features, points)[order]
        two = network(features[order], PointSet(points.positions[order], points.batch[order]))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_architectures_are_checked() -> None:
    with pytest.raises(ValueError, match="4 or 8 stages"):
        Architecture(32, (Stage(32, 32, (32,)),))
    with pytest.raises(ValueError, match="positive"):
        Architecture(32, (Stage(32, 32, ()),) * 8)


# Method: inputs, loss, presets.


def test_loss_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [9.0, 0.0]])
    # Labels 1 and 2 (of 0 = unlabelled, 1, 2): -log 3/4 and -log 1/2; the third counts nowhere.
    loss = point_loss(logits, torch.tensor([1, 2, 0]))
    assert float(loss) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-6)
    assert float(point_loss(logits, torch.zeros(3, dtype=torch.int64))) == 0


def test_schedules() -> None:
    assert [cosine(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    with torch.device("meta"):
        method = SPVNASSupernet(SPEC, width=TINY)
    assert [method.rate(p) for p in (0, 0.25, 0.5, 0.75)] == pytest.approx([1, 0.5, 0.4, 0.2])
    assert segment_depths(0.49) == (2,)
    assert segment_depths(0.5) == segment_depths(1.0) == segment_depths(0.0, shrink=False) == (1, 2)


def test_quantised_points_are_the_official_codes() -> None:
    positions = PointSet(
        torch.tensor([[0.4, 0.6, -3.2], [2.5, 1.4, -1.0], [7.0, 7.0, 7.0]]), torch.tensor([0, 0, 1])
    )
    assert quantised(positions, 2).positions.tolist() == [[0, 0, 0], [2, 0, 2], [0, 0, 0]]
    method = SPVCNNSegmentation(SPEC, unique_points=True, voxel_size=0.5, width=TINY)
    batch = make_batch()
    inputs = method.inputs(batch)
    assert len(inputs.rows) < 800
    assert len(inputs.answers) == 800
    # The first point of each voxel stands for all of it.
    assert torch.equal(inputs.answers[inputs.rows], torch.arange(len(inputs.rows)))
    assert bool((inputs.rows[inputs.answers] <= torch.arange(800)).all())


def test_training_takes_so_many_voxels_and_test_takes_all() -> None:
    method = SPVCNNSegmentation(SPEC, max_voxels=50, voxel_size=0.4, width=TINY)
    batch = make_batch()
    seen = method.inputs(batch, augment=True)
    assert len(voxelise_set(seen.points, seen.features)[0].coordinates) == 100
    assert len(method.inputs(batch).rows) == 800


@pytest.mark.parametrize("preset", [None, *SPVCNNSegmentation.presets])
def test_every_preset_steps_in_small(preset: str | None) -> None:
    torch.manual_seed(0)
    method = silent(SPVCNNSegmentation(SPEC, **SPVCNNSegmentation.profile("smoke", preset)))
    batch = make_batch()
    loss = method.training_step(batch, 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    with torch.no_grad():
        label = method.predict(batch)["label"]
    assert label.shape == (800,)
    assert 1 <= int(label.min()) <= int(label.max()) <= 19


@pytest.mark.parametrize("preset", [None, *SPVNASSupernet.presets])
def test_every_super_network_steps(preset: str | None) -> None:
    torch.manual_seed(0)
    method = silent(SPVNASSupernet(SPEC, **SPVNASSupernet.profile("smoke", preset)))
    loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert method.supernet.network.stem[0].weight.grad is not None


@pytest.mark.slow
def test_the_paper_profile_steps_at_full_size() -> None:
    """Full networks; one scan of 20,000 points rather than two of 120,000, for time's sake."""
    torch.manual_seed(0)
    batch = make_batch(scans=1, points=20_000, spread=12.0)
    method = silent(SPVCNNSegmentation(SPEC, **SPVCNNSegmentation.profile("paper")))
    before = method.network.stem[0].weight.detach().clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.training_step(batch, 0)
    loss.backward()
    torch.optim.SGD(method.parameters(), lr=method.learning_rate).step()
    assert math.isfinite(loss.item())
    assert not torch.equal(before, method.network.stem[0].weight)


def test_presets_and_profiles_only_name_options_that_exist() -> None:
    for cls in (SPVCNNSegmentation, SPVNASSupernet, SPVNAS):
        for preset in [None, *cls.presets]:
            for profile in ("paper", "mini", "smoke"):
                with torch.device("meta"):
                    cls(SPEC, **cls.profile(profile, preset))
    with pytest.raises(TypeError, match="voxle_size"):
        SPVCNNSegmentation(SPEC, voxle_size=0.1)
    with pytest.raises(ValueError, match="net must be"):
        SPVCNNSegmentation(SPEC, net="pointnet")
    with pytest.raises(ValueError, match="voxel_size"):
        SPVCNNSegmentation(SPEC, voxel_size=0.0)
    with pytest.raises(ValueError, match="search must be"):
        SPVNAS(SPEC, search="grid", width=TINY)


# The search space and weight sharing.


def test_samples_stay_in_the_space() -> None:
    space, chance = SearchSpace(), np.random.default_rng(0)
    samples = [space.sample(chance) for _ in range(200)]
    for genes in samples:
        architecture = space.decode(genes)
        assert architecture.stem == 32
        for number, stage in enumerate(architecture.stages):
            assert space.lower[number] <= stage.output <= space.upper[number]
            assert 16 <= stage.transition <= space.widest_transition(number)
            assert all(16 <= middle <= space.upper[number] for middle in stage.middles)
            assert stage.depth in (1, 2)
            assert all(width % 16 == 0 for width in (stage.output, stage.transition, *stage.middles))
    depths = [sum(stage.depth for stage in space.decode(genes).stages) for genes in samples]
    assert np.mean(depths) == pytest.approx(12, abs=0.4), "E[depth] = n (m + 1) / 2 (Eq. 3)"
    coarse = SearchSpace(fine_grained=False)
    stages = coarse.decode(coarse.sample(chance)).stages
    assert [stage.output for stage in stages] == [32, 64, 128, 256, 256, 128, 96, 96]
    assert [stage.transition for stage in stages] == [32, 32, 64, 128, 256, 128, 96, 96]
    assert SearchSpace.of(0.25).decode(SearchSpace.of(0.25).uniform(1.0)).stages[3].output == 64


def test_a_candidate_takes_first_channels_and_the_first_of_each_concatenated_part() -> None:
    space = SearchSpace.of(0.25)
    network = SPVCNN(space.largest(), 19)
    architecture = space.decode(space.sample(np.random.default_rng(1), (1,)))
    with torch.device("meta"):
        candidate = SPVCNN(architecture, 19)
    state = shared_state(network, candidate)
    assert set(state) == set(candidate.state_dict())
    assert all(state[name].shape == value.shape for name, value in candidate.state_dict().items())
    own = architecture.stages[5]
    skip = architecture.skip(5)
    largest = network.up2[1][0].net[0].weight
    split = space.upper[5]
    expected = torch.cat([largest[:, : own.transition], largest[:, split : split + skip]], dim=1)
    assert torch.equal(state["up2.1.0.net.0.weight"], expected[:, :, : own.middles[0]])
    assert torch.equal(
        state["stage2.1.net.1.weight"], network.stage2[1].net[1].weight[: architecture.stages[1].middles[0]]
    )
    assert torch.equal(
        state["point_transforms.0.0.weight"],
        network.point_transforms[0][0].weight[: architecture.stages[3].output, :8],
    )


@pytest.mark.parametrize("training", [False, True])
def test_extraction_has_identical_outputs(training: bool) -> None:
    torch.manual_seed(0)
    space = SearchSpace.of(TINY)
    supernet = SuperNetwork(space, 19, dropout=0.0).train(training)
    for norm in supernet.modules():
        if isinstance(norm, nn.BatchNorm1d):
            nn.init.normal_(norm.weight)
            norm.running_mean.normal_()
    features, points = make_points()
    for seed in range(2):
        architecture = space.decode(space.sample(np.random.default_rng(seed)))
        static = supernet.extract(architecture)
        with torch.no_grad():
            assert torch.equal(static(features, points), supernet(features, points, architecture))


def test_training_a_candidate_moves_its_slices_only() -> None:
    torch.manual_seed(0)
    space = SearchSpace.of(TINY)
    supernet = SuperNetwork(space, 19)
    architecture = space.decode(space.uniform(0.5))
    features, points = make_points()
    norm = supernet.network.stage4[1].net[1]
    supernet(features, points, architecture).square().mean().backward()
    width = architecture.stages[3].middles[0]
    assert 0 < width < norm.num_features
    gradient = norm.weight.grad
    assert bool((gradient[:width] != 0).any())
    assert not gradient[width:].any()
    assert bool((norm.running_mean[:width] != 0).all())
    assert not norm.running_mean[width:].any()


def test_statistics_are_reestimated_as_the_mean_over_batches() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3))
    network[0].running_mean.fill_(9.0)
    network.forward = lambda features, points: network[0](features)  # type: ignore[method-assign]
    one, two = torch.randn(50, 3), 2 + torch.randn(50, 3)
    reestimate_statistics(network, [(one, None), (two, None)])  # type: ignore[list-item]
    torch.testing.assert_close(network[0].running_mean, (one.mean(0) + two.mean(0)) / 2)
    assert not network[0].training
    assert network[0].momentum == 0.1


# MACs and search.


def test_macs_by_hand() -> None:
    # One point: a voxel and a pair at each stride.
    sparse = SparseTensor(torch.ones(1, 4), torch.tensor([[0, 3, 3, 3]]))
    statistics = KernelStatistics.of(sparse, 1)
    assert statistics == KernelStatistics(1.0, (1.0,) * 5, (1.0,) * 5)
    architecture = Architecture(2, (Stage(3, 5, (7,)),) * 8)
    parts = macs(architecture, statistics, 19)
    assert parts["stem"] == 2 * 4 + 2 * 2
    block = lambda inputs: inputs * 7 + 7 * 5 + inputs * 5  # noqa: E731
    # The first stage sees the stem's 2, the others 5 channels.
    assert parts["down"] == 2 * 3 + 3 * 5 * 3 + 4 * block(3)
    # The last block sees 3 of its transition and 2 of the stem, as many as it gives: its shortcut is free.
    assert parts["up"] == 4 * 5 * 3 + 3 * block(3 + 5) + 5 * 7 + 7 * 5
    assert parts["points"] == 2 * 5 + 5 * 5 + 5 * 5
    assert parts["classifier"] == 5 * 19
    assert macs(architecture, statistics, 19, point_branch=False)["points"] == 0


def test_macs_equal_what_the_network_multiplies() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    features, points = make_points()
    frame, _ = voxelise_set(points, features)
    statistics = KernelStatistics.of(frame, len(features))
    space = SearchSpace.of(TINY)
    architecture = space.decode(space.sample(np.random.default_rng(0)))
    for network in (SPVCNN(architecture, 19).eval(), MinkUNet(architecture, 19).eval()):
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(features, points)
        ours = macs(architecture, statistics, 19, point_branch=isinstance(network, SPVCNN))
        assert counter.get_total_flops() == pytest.approx(2 * sum(ours.values()), rel=1e-6)


def test_kernel_statistics_of_a_line() -> None:
    line = torch.tensor([[0, 0, 0, z] for z in range(4)])
    statistics = KernelStatistics.of(SparseTensor(torch.ones(4, 1), line), 8, scans=2)
    assert statistics.points == 4
    assert statistics.voxels == (2.0, 1.0, 0.5, 0.5, 0.5)
    assert statistics.pairs == (5.0, 2.0, 0.5, 0.5, 0.5)
    assert KernelStatistics.mean([statistics, statistics]) == statistics


def test_evolution_finds_more_than_random_search_and_stays_in_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.pointcloud.spvnas_search.TRIALS", 200)
    space = SearchSpace()
    wanted = space.uniform(0.75)
    asked: list[tuple[int, ...]] = []

    def score(genes: tuple[int, ...]) -> float:
        asked.append(genes)
        return -float(np.abs(np.array(genes) - wanted).sum())

    def fits(genes: tuple[int, ...]) -> bool:
        return sum(genes) < 5000

    sizes = {"population": 10, "generations": 8}
    evolved = evolve(space, fits, score, np.random.default_rng(0), parents=5, **sizes)
    found = random_search(space, fits, score, np.random.default_rng(0), **sizes)
    assert all(map(fits, asked))
    assert evolved.score > found.score
    assert evolved.best()[-1] == evolved.score, "the best of the last generation wins"
    assert evolved.best()[-1] > evolved.best()[0]
    assert [len(scores) for scores in evolved.generations] == [10] * 8
    assert found.score == max(found.best())
    assert evolve(space, fits, score, np.random.default_rng(0), parents=5, **sizes).genes == evolved.genes
    with pytest.raises(ValueError, match="within the budget"):
        evolve(space, lambda genes: False, score, np.random.default_rng(0))


def test_a_small_budget_is_met_by_narrower_draws() -> None:
    space = SearchSpace()
    statistics = KernelStatistics(100.0, (90.0, 60.0, 30.0, 10.0, 4.0), (500.0, 400.0, 200.0, 80.0, 20.0))
    cost = lambda genes: sum(macs(space.decode(genes), statistics, 19).values())  # noqa: E731
    budget = 0.12 * cost(space.uniform(1.0))  # 15 of SPVCNN's 119 GMACs
    found = random_search(
        space,
        lambda genes: cost(genes) <= budget,
        lambda genes: 0.0,
        np.random.default_rng(0),
        population=2,
        generations=1,
    )
    assert cost(found.genes) <= budget


def test_children_mix_their_parents() -> None:
    space = SearchSpace()
    generations: list[list[tuple[int, ...]]] = [[]]

    def score(genes: tuple[int, ...]) -> float:
        generations[-1].append(genes)
        return float(sum(genes))

    evolve(
        space,
        lambda genes: True,
        score,
        np.random.default_rng(0),
        population=6,
        parents=2,
        mutation=0.0,
        generations=2,
    )
    seen = generations[0]
    elite = sorted(seen[:6], key=sum, reverse=True)[:2]
    for child in seen[6:]:
        assert all(gene in pair for gene, pair in zip(child, zip(*elite, strict=True), strict=True))


def test_the_uniform_baseline_is_the_widest_that_fits() -> None:
    space = SearchSpace()
    statistics = KernelStatistics(100.0, (90.0, 60.0, 30.0, 10.0, 4.0), (500.0, 400.0, 200.0, 80.0, 20.0))
    cost = lambda genes: sum(macs(space.decode(genes), statistics, 19).values())  # noqa: E731
    budget = 0.5 * cost(space.uniform(1.0))
    genes = widest_uniform(space, lambda one: cost(one) <= budget)
    assert cost(genes) <= budget
    assert cost(genes) > 0.3 * budget
    assert len(genes) == PER_STAGE * 8
    with pytest.raises(ValueError, match="raise it"):
        widest_uniform(space, lambda one: False)


def test_activated_points_by_hand() -> None:
    counts = ActivatedPoints(3)
    label = torch.tensor([1] * 10 + [2] * 10)
    points = torch.zeros(20, 2)
    points[[0, 1]] = 5.0
    voxels = torch.zeros(20, 2)
    voxels[[0, 15]] = 5.0
    counts.update((points, voxels), torch.zeros(20, dtype=torch.int64), label)
    assert counts.shares()["point"][1:].tolist() == [20, 0]
    assert counts.shares()["voxel"][1:].tolist() == [10, 10]


# Published weights.


@pytest.mark.parametrize("net", ["spvcnn", "minkunet"])
def test_published_weights_load(tmp_path: Path, net: str) -> None:
    torch.manual_seed(0)
    method = SPVCNNSegmentation(SPEC, net=net, width=TINY)
    published = {}
    for name, value in method.network.state_dict().items():
        value = torch.randn_like(value.float()).to(value.dtype)
        if value.ndim == 3:
            name = name.replace(".weight", ".kernel")
            value = value[0] if len(value) == 1 else value
        published[name] = value
    file = tmp_path / "weights.pt"
    torch.save({"model": published}, file)
    SPVCNNSegmentation(SPEC, net=net, width=TINY, weights=str(file))
    method.load_published_weights(file)
    assert torch.equal(method.network.stage1[0].net[0].weight, published["stage1.0.net.0.kernel"])
    assert torch.equal(
        method.network.stage2[1].downsample[0].weight[0], published["stage2.1.downsample.0.kernel"]
    )
    # x is the fastest there: their second offset is (0, -1, -1), here number 9.
    assert torch.equal(method.network.stem[0].weight[9], published["stem.0.kernel"][1])
    torch.save({"model": published | {"stem.9.kernel": torch.zeros(1)}}, file)
    with pytest.raises(ValueError, match=r"unexpected: stem\.9\.kernel"):
        method.load_published_weights(file)
    with pytest.raises(FileNotFoundError):
        method.load_published_weights(tmp_path / "none.pt")
    assert published_name("up1.0.net.1.bn.running_mean") == "up1.0.net.1.running_mean"


# Runs.


def trainer(folder: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def data_of(cache: Path, cls: type[PointVoxelMethod], **options: object) -> SemanticKITTI:
    settings = {**cls.recipe.data, **options}
    return SemanticKITTI(cache=cache, batch_size=2, max_train_scans=4, **settings)


def test_supernet_search_and_training_on(cache: Path, tmp_path: Path) -> None:
    coarse = {"voxel_size": 0.8}

    def searched() -> tuple[SPVNAS, dict[str, float]]:
        pl.seed_everything(0, verbose=False)
        data = data_of(cache, SPVNAS)
        supernet = SPVNASSupernet(data.spec, **{**SPVNASSupernet.profile("smoke"), **coarse})
        trainer(tmp_path, max_steps=2, limit_val_batches=0).fit(supernet, data)
        method = SPVNAS(data.spec, **{**SPVNAS.profile("smoke"), **coarse})
        method.adopt("supernet", supernet)
        run = trainer(tmp_path, max_steps=2, limit_val_batches=0, limit_test_batches=1)
        run.fit(method, data)
        return method, run.test(method, data, verbose=False)[0]

    method, scores = searched()
    numbers = method.diagnostics()
    assert numbers["searched_macs_g"] <= method.mac_budget
    assert numbers["macs_g"] == pytest.approx(numbers["searched_macs_g"], rel=0.2)
    assert numbers["parameters_m"] == parameters(method) / 1e6
    assert method.search is not None
    assert [len(generation) for generation in method.search.generations] == [2, 2]
    assert {"search", "activated_points"} <= set(method.figures())
    assert method.network.architecture == method.space.decode(method.genes.tolist())
    again, same = searched()
    assert same == scores
    assert torch.equal(again.genes, method.genes)
    # A fresh method takes the searched network's shape from its weights.
    fresh = SPVNAS(method.spec, **{**SPVNAS.profile("smoke"), **coarse})
    fresh.load_state_dict(method.state_dict())
    assert fresh.network.architecture == method.network.architecture
    batch = make_batch()
    method.eval(), fresh.eval()
    with torch.no_grad():
        assert torch.equal(method.predict(batch)["label"], fresh.predict(batch)["label"])


def test_searching_on_test_scans_is_refused(cache: Path, tmp_path: Path) -> None:
    data = data_of(cache, SPVNAS, val_sequences=["08"])
    method = SPVNAS(data.spec, **SPVNAS.profile("smoke"))
    with pytest.raises(RuntimeError, match="trained super network"):
        trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(method, data)
    method._searched_on = {"08/000000"}
    with pytest.raises(ValueError, match="the search saw the test scans"):
        trainer(tmp_path, limit_test_batches=1).test(method, data, verbose=False)
    with pytest.raises(TypeError, match="needs a spvnas_supernet"):
        method.adopt("teacher", method)
    with pytest.raises(ValueError, match="space is"):
        method.adopt("supernet", SPVNASSupernet(SPEC, width=0.25))


@pytest.mark.slow
def test_it_learns_on_the_miniature(cache: Path, tmp_path: Path) -> None:
    """Two passes over six scans at 0.4 m beat the untrained network and the majority class."""
    pl.seed_everything(0, verbose=False)
    data = SemanticKITTI(cache=cache, batch_size=1, max_train_scans=6)
    options = {**SPVCNNSegmentation.profile("mini"), "width": TINY, "voxel_size": 0.4}
    method = SPVCNNSegmentation(data.spec, **options)
    limits = {"limit_val_batches": 0, "limit_test_batches": 2}
    run = trainer(tmp_path, max_epochs=6, **limits)
    before = run.test(method, data, verbose=False)[0]
    run.fit(method, data)
    after = run.test(method, data, verbose=False)[0]
    majority = MajorityPoints(data.spec)
    counting = trainer(tmp_path, max_epochs=1, **limits)
    counting.fit(majority, data)
    trivial = counting.test(majority, data, verbose=False)[0]
    for name in ("test/miou", "test/accuracy"):
        assert after[name] > before[name]
    assert after["test/miou"] > 1.5 * trivial["test/miou"]
    assert after["test/accuracy"] > trivial["test/accuracy"]
