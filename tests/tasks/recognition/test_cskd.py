"""CSKD: Eqs. 9 and 10 put together by hand, the frozen teacher, presets, weights from files, and learning."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from datamodules.recognition.cifar import CIFAR100
from datamodules.recognition.cifar100_scarce import CIFAR100Scarce
from datamodules.specs import ImageClassesSpec
from tasks.base import Recipe
from tasks.blocks.narrow_resnet import NarrowResNet
from tasks.recognition.category_structure import Grouping, category_similarity
from tasks.recognition.cskd import CSKD
from tasks.recognition.distillation_diagnostics import StructureRecord, draw_features
from tasks.recognition.kd_teacher import KDTeacher
from tasks.recognition.majority import Majority

CLASSES = 5
TINY = {"ratio": 1 / 16, "pool_stride": 2}
PLAIN = {**TINY, "canvas": "none"}


def spec(classes: int = CLASSES, side: int = 32) -> ImageClassesSpec:
    names = tuple(f"c{i}" for i in range(classes))
    return ImageClassesSpec(dataset="toy", classes=names, image_size=(side, side))


def make_batch(count: int = 8, side: int = 32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(count, 3, side, side, generator=generator),
        "label": torch.tensor([0, 1, 1, 3, 0, 1, 2, 3] * (count // 8 + 1))[:count],  # class 4 is absent
        "id": [str(i) for i in range(count)],
    }


def make_teacher(**options: Any) -> KDTeacher:
    torch.manual_seed(11)
    teacher = KDTeacher(spec(), **{"depth": 18, "ratio": 0.125, "pool_stride": 2, **options})
    teacher.train()
    with torch.no_grad():  # so that its statistics are those of no batch here
        teacher.network(torch.rand(16, 3, 32, 32))
    return teacher


def build(preset: str | None = None, *, teacher: KDTeacher | None = None, **options: Any) -> CSKD:
    torch.manual_seed(0)
    chosen = {
        **CSKD.profile("smoke", preset),
        "teacher": "kd_teacher",
        **options,
    }
    method = CSKD(spec(), **chosen)
    method.adopt("teacher", teacher or make_teacher())
    method.logged = {}  # type: ignore[assignment]
    method.log_dict = lambda numbers, **_: method.logged.update(numbers)  # type: ignore[method-assign]
    return method


def trainer(**options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **options,
    )


# Equations 9 and 10.


def reference_loss(method: CSKD, teacher: KDTeacher, batch: dict[str, Any]) -> dict[str, Tensor]:
    """The paper's loss with a loop over categories, of the networks as they stand."""
    own = method.network.stages(method.normalise(batch["image"]))
    with torch.no_grad():
        known = teacher.eval().network.stages(teacher.normalise(batch["image"]))
    brought = F.conv2d(own.map, method.connectors["3"].weight)
    present = sorted(set(batch["label"].tolist()))
    intra, centres = [], {"student": [], "teacher": []}
    for c in present:
        of_c = batch["label"] == c
        psi = [maps[of_c] - maps[of_c].mean(0) for maps in (known.map, brought)]
        intra.append((psi[0] - psi[1]).norm())
        centres["student"].append(own.map[of_c].mean(0).flatten())  # raw, without sigma
        centres["teacher"].append(known.map[of_c].mean(0).flatten())
    m = {
        name: torch.stack([torch.stack([torch.cosine_similarity(a, b, dim=0) for b in of]) for a in of])
        for name, of in centres.items()
    }
    return {
        "ce": 0.1 * F.cross_entropy(own.logits, batch["label"]),
        "kd": 0.9 * (own.logits - known.logits).square().mean(),
        "intra": 0.01 * sum(intra) / len(present),
        "inter": 0.2 * (m["teacher"] - m["student"]).norm(),
    }


def test_the_loss_is_eqs_9_and_10() -> None:
    teacher = make_teacher()
    method = build(teacher=teacher, **PLAIN).eval()  # statistics as they are, to compute twice
    batch = make_batch()
    expected = reference_loss(method, teacher, batch)
    loss = method.training_step(batch, 0)
    for name, value in expected.items():
        torch.testing.assert_close(method.logged[f"train/{name}"], value.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss, sum(expected.values()), rtol=1e-4, atol=1e-6)


def test_switches_leave_their_terms_out() -> None:
    terms = {}
    for preset in (None, "intra", "inter", "neither", "ce", "kd", "cckd"):
        method = build(preset, **PLAIN)
        method.training_step(make_batch(), 0)
        terms[preset] = {name.removeprefix("train/") for name in method.logged} - {"loss"}
    assert terms == {
        None: {"ce", "kd", "intra", "inter"},
        "intra": {"ce", "kd", "intra"},
        "inter": {"ce", "kd", "inter"},
        "neither": {"ce", "kd"},
        "ce": {"ce"},
        "kd": {"ce", "kd"},
        "cckd": {"ce", "kd", "correlation"},
    }


def test_sigma_is_where_it_is_used_and_is_trained() -> None:
    assert {
        preset: tuple(build(preset, **PLAIN).connectors)
        for preset in (None, "inter", "neither", "logits", "fitnet", "ab", "cckd", "repo")
    } == {
        None: ("3",),
        "inter": (),
        "neither": (),
        "logits": (),
        "fitnet": ("1",),
        "ab": ("0", "1", "2", "3"),
        "cckd": (),
        "repo": ("3",),
    }
    method = build(**PLAIN)
    assert method.connectors["3"].weight.shape == (64, 32, 1, 1)
    assert method.connectors["3"].bias is None
    method._trainer = SimpleNamespace(estimated_stepping_batches=10)  # type: ignore[assignment]
    group = method.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert any(p is method.connectors["3"].weight for p in group)
    batch = make_batch()
    before = method.eval().predict(batch)["logits"]
    torch.nn.init.zeros_(method.connectors["3"].weight)
    assert torch.equal(method.predict(batch)["logits"], before)


def test_sigma_in_both_terms_changes_the_inter_term_alone() -> None:
    one, two = build(**PLAIN), build(**PLAIN, transform="both")
    for method in (one, two):
        method.training_step(make_batch(), 0)
    assert one.logged["train/intra"] == two.logged["train/intra"]
    assert one.logged["train/inter"] != two.logged["train/inter"]


def test_the_official_form_by_hand() -> None:
    teacher = make_teacher()
    method = build("repo", teacher=teacher, **PLAIN).eval()
    batch = make_batch()
    label = batch["label"]
    own = method.network.stages(method.normalise(batch["image"]))
    known = teacher.eval().network.stages(teacher.normalise(batch["image"]))
    method.training_step(batch, 0)
    present = label.unique()
    centre = torch.stack([own.logits[label == c].mean(0) for c in present])
    own_centre = centre[torch.searchsorted(present, label)]
    known_centre = torch.stack([known.logits[label == c].mean(0) for c in present])
    drawn = 0.1 * (own.logits - own_centre).square().mean()
    torch.testing.assert_close(method.logged["train/compactness"], drawn)
    brought = F.conv2d(own.map, method.connectors["3"].weight)
    maps = [torch.stack([m[label == c].mean(0).flatten() for c in present]) for m in (known.map, brought)]
    gaps = [category_similarity(a) - category_similarity(b) for a, b in (maps, (known_centre, centre))]
    expected = 0.04 * sum(gap.square().mean() / len(present) for gap in gaps)
    torch.testing.assert_close(method.logged["train/inter"], expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(method.logged["train/kd"], 1e-5 * (own.logits - known.logits).square().mean())


def test_hints_and_boundaries_come_first_and_alone() -> None:
    for preset, name in (("fitnet", "hint"), ("ab", "boundary")):
        method = build(preset, **PLAIN)
        method._first_stage = 1
        loss = method.training_step(make_batch(), 0)
        assert set(method.logged) == {f"train/{name}", "train/loss"}
        loss.backward()
        assert method.network.fc.weight.grad is None
        assert method.network.conv1.weight.grad.any()
        method._first_stage = 0
        method.logged.clear()
        method.training_step(make_batch(), 0)
        assert set(method.logged) == {"train/ce", "train/kd", "train/loss"}


# The teacher.


def test_the_teacher_stays_as_it_is() -> None:
    teacher = make_teacher()
    batch = make_batch()
    before = teacher.eval().predict(batch)["logits"].clone()
    method = build(teacher=teacher.train(), **PLAIN).train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    for _ in range(2):
        method.training_step(batch, 0).backward()
        optimizer.step()
    assert torch.equal(method.teacher(batch["image"]).logits, before)
    assert all(p.grad is None for p in teacher.network.parameters())
    assert method.diagnostics()["teacher_unchanged"] == 1.0
    assert not any("teacher" in key for key in method.state_dict())
    mine = {id(p) for p in method.parameters()}
    assert not mine & {id(p) for p in teacher.parameters()}
    teacher.network.bn1.running_mean += 1
    assert method.diagnostics()["teacher_unchanged"] == 0.0


def test_all_presets_need_the_same_teacher_and_start_alike() -> None:
    (need,) = CSKD.needs({"teacher": "kd_teacher:r152"})
    assert (need.role, need.method, dict(need.options)) == ("teacher", "kd_teacher:r152", {})
    assert not CSKD.needs({"teacher": "kd_teacher", "teacher_weights": "w.pth"})
    starts = []
    for preset in (None, "ce", "fitnet", "ab", "cckd"):
        method = build(preset, **TINY)
        starts.append((method.network.state_dict(), torch.rand(3)))
    for state, chance in starts[1:]:
        assert all(torch.equal(value, starts[0][0][key]) for key, value in state.items())
        assert torch.equal(chance, starts[0][1])  # the same augmentation


def test_teachers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"has no teacher: call adopt"):
        CSKD(spec(), **TINY).training_step(make_batch(), 0)
    method = CSKD(spec(), **TINY)
    with pytest.raises(TypeError, match="majority is no ResNet"):
        method.adopt("teacher", Majority(spec()))
    with pytest.raises(TypeError, match="needs no 'critic'"):
        method.adopt("critic", make_teacher())
    with pytest.raises(ValueError, match="tells 7 classes apart, toy has 5"):
        method.adopt("teacher", KDTeacher(spec(7), **KDTeacher.profile("smoke")))
    with pytest.raises(ValueError, match="give both networks one pool_stride"):
        method.adopt("teacher", make_teacher(pool_stride=1))


def test_teacher_weights_come_from_a_file(tmp_path: Path) -> None:
    teacher = make_teacher(mean=(0.1, 0.2, 0.3)).eval()
    image = make_batch()["image"]
    state = {key: value.contiguous() for key, value in teacher.state_dict().items()}
    save_file(state, tmp_path / "teacher.safetensors")
    method = CSKD(spec(), **TINY, teacher_weights=str(tmp_path / "teacher.safetensors"))
    torch.testing.assert_close(method.teacher(image).logits, teacher.predict({"image": image})["logits"])
    assert "3" in method.connectors
    torch.save({"net": teacher.network.state_dict()}, tmp_path / "resnet.pth")
    method = CSKD(spec(), **TINY, teacher_weights=str(tmp_path / "resnet.pth"))
    expected = teacher.network(method.normalise(image))
    torch.testing.assert_close(method.teacher(image).logits, expected)
    torch.save({"a": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: no weights of a ResNet"):
        CSKD(spec(), **TINY, teacher_weights=str(tmp_path / "odd.pth"))


def test_published_students_are_loaded(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = NarrowResNet(18, 1 / 16, CLASSES, pool_stride=2)
    torch.save({"state_dict": published.state_dict()}, tmp_path / "student.pth")
    method = CSKD(spec(), **TINY, weights=str(tmp_path / "student.pth")).eval()
    image = make_batch()["image"]
    torch.testing.assert_close(
        method.predict({"image": image})["logits"], published.eval()(method.normalise(image))
    )
    state = published.state_dict()
    del state["fc.bias"]
    state["fc.weight"] = torch.zeros(9, 32)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="don't fit NarrowResNet") as caught:
        method.load_published_weights(tmp_path / "odd.pth")
    for part in ("missing: fc.bias", "fc.weight: (9, 32), expected (5, 32)"):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError):
        method.load_published_weights(tmp_path / "nowhere.pth")


# Presets and profiles.


@pytest.mark.parametrize("preset", [None, *CSKD.presets])
def test_every_preset_steps(preset: str | None) -> None:
    method = build(preset, **({"depth": 18} if preset in ("r50", "r152_r50") else {}))
    if method.transfer in ("hint", "boundary"):
        method._first_stage = 1
    batch = make_batch(2)  # as small as a batch may be
    loss = method.training_step(batch, 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    if method.transfer != "hint" and method.transfer != "boundary":
        assert all(p.grad is not None for p in method.parameters())


def test_names_in_tables_exist_and_typos_are_refused() -> None:
    known = set(Recipe.__dataclass_fields__) | set(CSKD.__init__.__kwdefaults__)
    for preset, options in CSKD.presets.items():
        assert set(options) <= known
        name, _, of_teacher = options.get("teacher", "kd_teacher").partition(":")
        assert name == KDTeacher.name
        assert not of_teacher or of_teacher in KDTeacher.presets
        with torch.device("meta"):
            CSKD(spec(), **CSKD.profile("mini", preset))
    for label in (*CSKD.baselines, *(name for claim in CSKD.claims for name in (claim.method, claim.over))):
        name, _, preset = label.partition(":")
        assert name != "cskd" or not preset or preset in CSKD.presets
    for options, message in (
        ({"alpha": 2.0}, "alpha"),
        ({"balanced": 1}, "balanced"),
        ({"form": "repo"}, "form='repo'"),
    ):
        with pytest.raises(ValueError, match=message):
            CSKD(spec(), **TINY, **options)
    with pytest.raises(TypeError, match="gama"):
        CSKD(spec(), gama=1.0)


def test_the_paper_profile_steps_with_its_teacher() -> None:
    torch.manual_seed(0)
    method = CSKD(spec(10), **CSKD.profile("paper"))
    method.log_dict = lambda *args, **options: None  # type: ignore[method-assign]
    method.adopt("teacher", KDTeacher(spec(10), **KDTeacher.profile("paper")))
    assert sum(p.numel() for p in method.network.parameters()) == 701_466
    assert method.connectors["3"].weight.numel() == 128 * 1024
    batch = make_batch(4)
    before = method.network.conv1.weight.clone()
    loss = method.training_step(batch, 0)
    loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    assert math.isfinite(loss.item())
    assert not torch.equal(before, method.network.conv1.weight)
    found = method.diagnostics()
    assert (found["student_parameters"], found["teacher_parameters"]) == (701_466, 10_660_138)
    assert found["compression"] == pytest.approx(6.58, abs=0.005)


def test_mixed_precision_gives_a_finite_loss() -> None:
    for preset in (None, "repo", "ab", "cckd", "kd"):
        method = build(preset, **PLAIN)
        method._first_stage = 1
        with torch.autocast("cpu", torch.bfloat16):
            loss = method.training_step(make_batch(), 0)
        loss.backward()
        assert math.isfinite(loss.item())
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


# Diagnostics.


def test_edges_and_singletons_of_training_batches() -> None:
    record = StructureRecord(CLASSES)
    record.batch(torch.tensor([0, 0, 1, 3]))  # c = 3, two alone
    record.batch(torch.tensor([2, 2, 2, 2]))  # c = 1
    found = record.diagnostics()
    assert found["edges_structure"] == (4 + 9 + 4 + 1) / 2
    assert found["edges_correlation"] == 16
    assert found["edge_ratio"] == pytest.approx((16 / 13 + 16 / 5) / 2)
    assert found["singleton_share"] == 50.0
    assert found["edge_ratio"] <= found["edge_ratio_bound"]


def test_the_structure_of_the_test_set_is_of_all_batches_together() -> None:
    teacher = make_teacher()
    method = build(teacher=teacher, **PLAIN).eval()
    batch = make_batch(16)
    method.on_test_start()
    for start in (0, 8):
        part = {key: value[start : start + 8] for key, value in batch.items()}
        method.on_test_batch_end(None, part, start // 8)
    found = method.diagnostics()
    grouping = Grouping.of(batch["label"])
    centres = []
    own = method.network.stages(method.normalise(batch["image"]))
    known = teacher.network.stages(teacher.normalise(batch["image"]))
    for stages in (known, own):
        flat = stages.map.flatten(1)
        centres.append(torch.stack([flat[batch["label"] == c].mean(0) for c in batch["label"].unique()]))
    gap = (category_similarity(centres[0]) - category_similarity(centres[1])).norm()
    assert grouping.categories == 4
    assert found["structure_gap"] == pytest.approx(gap.item(), rel=1e-4)
    wrong = known.logits.argmax(1) != batch["label"]
    assert found["teacher_error"] == pytest.approx(100 * float(wrong.float().mean()))
    figure = method.figures()["features"]
    assert figure.dtype == np.uint8
    assert figure.shape[2] == 3
    method.on_test_start()
    assert "structure_gap" not in method.diagnostics()
    assert method.figures() == {}


def test_the_picture_of_features_is_the_same_each_time() -> None:
    features = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    label = np.arange(24) % 3
    one, two = (draw_features({"student": features}, label, ("a", "b", "c")) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.std() > 5


# Training.


def test_distillation_learns_on_the_miniature(cache: Path) -> None:
    """Few steps on few pictures: better than its start and than guessing; the teacher is left alone."""
    pl.seed_everything(0, verbose=False)
    whole = CIFAR100(cache=cache, labels="coarse", batch_size=64)
    options = {"ratio": 0.125, "pool_stride": 2, "canvas": "none"}
    teacher = KDTeacher(whole.spec, depth=10, lr=0.05, **options)
    trainer(max_epochs=1, limit_train_batches=30).fit(teacher, whole)
    data = CIFAR100Scarce(cache=cache, labels="coarse", per_class=60, batch_size=30)
    method = CSKD(data.spec, depth=10, balanced=6, lr=0.05, **options)
    method.adopt("teacher", teacher)
    (start,) = trainer().test(method, data, verbose=False)
    run = trainer(max_epochs=4)
    run.fit(method, data)
    logged = dict(run.callback_metrics)
    (end,) = run.test(method, data, verbose=False)
    assert end["test/error"] < min(start["test/error"], 80.0) - 5  # five classes
    found = method.diagnostics()
    assert found["teacher_unchanged"] == 1.0
    assert found["singleton_share"] == 0.0  # six of each
    assert found["edges_structure"] == 30 + 5**2
    assert all(logged[f"train/{name}"].isfinite() for name in ("ce", "kd", "intra", "inter"))


def test_same_seed_same_numbers(cache: Path) -> None:
    losses = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = CIFAR100Scarce(cache=cache, batch_size=16, seed=3)
        method = CSKD(data.spec, **CSKD.profile("smoke"))
        method.adopt("teacher", KDTeacher(data.spec, **KDTeacher.profile("smoke")))
        run = trainer(max_steps=3)
        run.fit(method, data)
        losses.append([float(run.callback_metrics[f"train/{name}"]) for name in ("loss", "intra", "inter")])
    assert losses[0] == losses[1]
