"""LSTMs on bags: the paper's numbers of parameters, losses by hand, permutations, transfer, training on miniatures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import binary_cross_entropy

from datamodules.recognition.mnist_bags import MnistBagsMultiple, MnistBagsSingle
from datamodules.specs import BagsSpec
from tasks.recognition.mil_lstm import MilLSTM, bag_answer, bag_loss, published_name, unit_for

SPEC = BagsSpec(
    dataset="x",
    channels=1,
    instance_classes=tuple("0123456789"),
    rule="presence",
    witnesses=(9,),
    image_size=(28, 28),
    mean=(0.1307,),
    std=(0.3081,),
)
COUNTING = replace(SPEC, rule="count")
OUTLIER = replace(SPEC, rule="mixture", witnesses=())
NUCLEI = BagsSpec(
    dataset="y",
    instance_classes=("a", "b", "c", "d"),
    rule="presence",
    witnesses=(0,),
    image_size=(27, 27),
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
)
TINY = {"width": 0.2, "length": 8, "attention_hidden": 4, "mi_width": 0.02, "orders": 3}


def make_batch(spec: BagsSpec = SPEC, sizes: tuple[int, ...] = (4, 1, 6), seed: int = 0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    return {
        "instances": torch.rand(count, spec.channels, *spec.image_size, generator=generator),
        "bag": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "label": torch.arange(len(sizes)) if spec.rule == "count" else torch.arange(len(sizes)) % 2,
        "instance_label": torch.randint(0, len(spec.instance_classes), (count,), generator=generator),
        "id": [f"{number}" for number in range(len(sizes))],
    }


def build(spec: BagsSpec = SPEC, seed: int = 0, **options: object) -> MilLSTM:
    torch.manual_seed(seed)
    return silent(MilLSTM(spec, **{**TINY, **options}))


def silent(method: MilLSTM) -> MilLSTM:
    method.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return method


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# The paper's sizes.


def test_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        method = MilLSTM(SPEC)
    assert count(method.network.describer) == 426_070
    assert count(method.network.pooling) == 4_008_000
    assert count(method.network.head) == 1_001
    assert method.lr == 5e-4
    assert method.weight_decay == 1e-4
    assert method.network.dropout.p == 0.5
    assert (MilLSTM.recipe.batch_size, MilLSTM.recipe.max_epochs) == (1, 100)
    with torch.device("meta"):
        colon = MilLSTM(NUCLEI)
    assert colon.network.pooling.lstm.hidden_size == 512
    assert (colon.lr, colon.weight_decay) == (1e-4, 5e-4)
    assert unit_for(replace(NUCLEI, image_size=(64, 64))) == "lenet"


@pytest.mark.parametrize("spec", [SPEC, NUCLEI])
def test_the_paper_profile_steps_at_full_size(spec: BagsSpec) -> None:
    torch.manual_seed(0)
    method = silent(MilLSTM(spec, **MilLSTM.profile("paper")))
    optimiser = method.configure_optimizers()
    loss = method.training_step(make_batch(spec, (5,)), 0)
    loss.backward()
    optimiser.step()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_large_bags_go_through() -> None:
    method = build(NUCLEI)
    method.training_step(make_batch(NUCLEI, (796, 6)), 0).backward()
    assert torch.isfinite(method.network.pooling.lstm.weight_hh_l0.grad).all()


@pytest.mark.parametrize("preset", [None, *MilLSTM.presets])
@pytest.mark.parametrize("spec", [SPEC, COUNTING, OUTLIER])
def test_every_preset_steps_and_predicts(preset: str | None, spec: BagsSpec) -> None:
    options = {
        key: value
        for key, value in (MilLSTM.presets[preset] if preset else {}).items()
        if key != "max_steps" and not key.startswith("data.")
    }
    method, batch = build(spec, **options), make_batch(spec)
    method.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    with torch.no_grad():
        answer = method.predict(batch)
    assert answer["label"].shape == answer["score"].shape == (3,)
    assert answer["label"].dtype == torch.int64
    assert len(answer["instance_feature"]) == len(answer["instance_score"]) == 11
    assert 0 <= float(answer["instance_score"].min()) <= float(answer["instance_score"].max()) <= 1
    judge = method.task.judge(spec)
    judge.update(answer, batch)
    assert math.isfinite(judge.compute()["error"])


def test_who_has_mutual_information() -> None:
    """As in Table 7.1: the LSTM always, the others in the outlier experiment only."""
    assert build().mutual_information is not None
    assert build(mi=False).mutual_information is None
    for pool in ("attention", "gated_attention", "dynamic", "mean", "max"):
        assert build(pool=pool).mutual_information is None
        assert build(COUNTING, pool=pool).mutual_information is None
        assert build(OUTLIER, pool=pool).mutual_information is not None


# Losses and answers.


def test_losses_by_hand() -> None:
    raw, label = torch.tensor([0.3, -2.0]), torch.tensor([1, 0])
    assert bag_loss(raw, label, counting=False).item() == pytest.approx(
        binary_cross_entropy(raw.sigmoid(), label.float()).item()
    )
    counts = torch.tensor([2.5, -1.0])
    assert bag_loss(counts, torch.tensor([3, 0]), counting=True).item() == pytest.approx((0.25 + 1) / 2)


def test_counts_are_rounded_and_never_negative() -> None:
    label, score = bag_answer(torch.tensor([2.4, 2.6, -3.0, 0.2]), counting=True)
    assert label.tolist() == [2, 3, 0, 0]
    torch.testing.assert_close(score, torch.tensor([2.4, 2.6, 0.0, 0.2]))
    label, score = bag_answer(torch.tensor([0.0, -0.1, 4.0]), counting=False)
    assert label.tolist() == [1, 0, 1]
    assert score[0].item() == 0.5


def test_the_whole_loss_is_scaled_and_the_regressor_drops_nothing() -> None:
    batch = make_batch()
    losses = []
    for scale in (1.0, 5.0):
        method = build(loss_scale=scale, dropout=0.0)
        torch.manual_seed(1)
        losses.append(method.training_step(batch, 0).item())
    assert losses[1] == pytest.approx(5 * losses[0], rel=1e-5)
    assert build(COUNTING).network.dropout.p == 0.0
    assert build().network.dropout.p == 0.5


def test_bags_do_not_depend_on_each_other() -> None:
    method, batch = build().eval(), make_batch()
    with torch.no_grad():
        together = method.predict(batch)["score"]
        for number in range(3):
            chosen = batch["bag"] == number
            alone = {
                "instances": batch["instances"][chosen],
                "bag": torch.zeros(int(chosen.sum()), dtype=torch.long),
                "label": batch["label"][number : number + 1],
                "instance_label": batch["instance_label"][chosen],
                "id": ["alone"],
            }
            torch.testing.assert_close(method.predict(alone)["score"][0], together[number])


def test_singletons_are_bags_of_one() -> None:
    method, batch = build().eval(), make_batch()
    with torch.no_grad():
        answer = method.predict(batch)
        alone = method.predict({**batch, "bag": torch.arange(11), "id": list("abcdefghijk")})
    torch.testing.assert_close(answer["instance_score"], alone["score"])


def test_mixed_precision_gives_a_finite_loss() -> None:
    for options in ({}, {"pool": "gated_attention"}, {"pool": "dynamic"}, {"pool": "max"}):
        method = build(OUTLIER, **options)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = method.training_step(make_batch(OUTLIER), 0)
        loss.backward()
        assert math.isfinite(loss.item())


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="three numbers"):
        build(mi_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="pool 'median'"):
        build(pool="median")


# Weights of others.


def test_transfer_takes_the_default_trial_of_the_dataset() -> None:
    options = {**TINY, "pool": "lstm", "start": "trained", "lr": 0.01}
    (need,) = MilLSTM.needs(options)
    assert (need.role, need.method, need.dataset) == ("trained", "mil_lstm", None)
    assert need.options == {key: value for key, value in options.items() if key not in ("start", "orders")}
    assert not MilLSTM.needs({**TINY, "start": "random"})
    trained, fresh = build(seed=1), build(seed=2, start="trained")
    fresh.adopt("trained", trained)
    batch = make_batch()
    trained.eval()
    fresh.eval()
    with torch.no_grad():
        assert torch.equal(fresh.predict(batch)["score"], trained.predict(batch)["score"])
    with pytest.raises(TypeError, match="needs no 'teacher'"):
        fresh.adopt("teacher", trained)


def published_state() -> dict[str, torch.Tensor]:
    """Parameters as the official code is taken to name them."""
    torch.manual_seed(7)
    network = torch.nn.Module()
    network.feature_extractor_part1 = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(4, 10, 5),
    )
    network.feature_extractor_part2 = torch.nn.Sequential(torch.nn.Linear(160, 8), torch.nn.ReLU())
    network.lstm = torch.nn.LSTM(8, 8, batch_first=True, bidirectional=True)
    network.classifier = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(16, 1), torch.nn.Sigmoid())
    network.global_d = torch.nn.Linear(3, 3)
    return network.state_dict()


def test_a_published_checkpoint_is_loaded(tmp_path: Path) -> None:
    state = published_state()
    torch.save(state, tmp_path / "model.pth")
    method = build(weights=str(tmp_path / "model.pth"))
    assert torch.equal(
        method.network.describer.convolutions[3].weight, state["feature_extractor_part1.3.weight"]
    )
    assert torch.equal(method.network.pooling.lstm.weight_hh_l0_reverse, state["lstm.weight_hh_l0_reverse"])
    assert torch.equal(method.network.head.bias, state["classifier.1.bias"])
    assert published_name("classifier.0.weight") == "head.weight"
    assert published_name("something") == "something"


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = published_state()
    del state["lstm.bias_hh_l0"]
    state["attention.weight"] = torch.zeros(2)
    state["classifier.1.weight"] = torch.zeros(1, 99)
    torch.save(state, tmp_path / "model.pth")
    method = build()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(ValueError, match="don't fit BagNetwork") as caught:
        method.load_published_weights(tmp_path / "model.pth")
    for part in (
        "missing: pooling.lstm.bias_hh_l0",
        "attention.weight",
        "classifier.1.weight: (1, 99), expected (1, 16)",
    ):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        method.load_published_weights(tmp_path / "nowhere")


# Training.


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
    )


def test_training_on_the_miniature_beats_its_start_and_chance(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = MnistBagsSingle(
        cache=cache, batch_size=4, bags=240, val_bags=20, test_bags=100, mean_size=5, std_size=1
    )
    method = MilLSTM(
        data.spec, **{**MilLSTM.profile("mini"), "length": 32, "width": 0.3, "mi": False, "orders": 5}
    )
    (start,) = trainer(1).test(method, data, verbose=False)
    run = trainer(8)
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    assert end["test/error"] < 0.6 * min(start["test/error"], 50)
    assert end["test/instance_accuracy"] > start["test/instance_accuracy"]
    found = method.diagnostics()
    assert abs(found["permuted_error"] - end["test/error"]) < 10
    assert found["permuted_error_standard_error"] == pytest.approx(found["permuted_error_std"] / 5**0.5)
    assert method.figures()["states"].shape[2] == 3
    assert method.judged_figures["instances"].shape[2] == 3


def test_the_permutation_test_against_a_loop(cache: Path) -> None:
    """An untrained network whose answers change with the order, against orders drawn in the same way."""
    data = MnistBagsMultiple(cache=cache, bags=4, val_bags=2, test_bags=12, test_batch_size=12)
    method = build(data.spec, seed=3, orders=4)
    torch.nn.init.normal_(method.network.head.weight, std=50.0)
    trainer(1).test(method, data, verbose=False)
    batch = next(iter(data.test_dataloader()))
    method.eval()
    chance = torch.Generator().manual_seed(0)
    errors = []
    with torch.no_grad():
        _, features = method.describe(batch)
        for _ in range(4):
            keys = torch.rand(len(features), generator=chance, dtype=torch.float64)
            wrong = 0
            for number in range(12):
                chosen = (batch["bag"] == number).nonzero()[:, 0]
                order = chosen[keys[chosen].argsort()]
                raw = method.network.predict(
                    method.network.pooling(features[order], torch.zeros(len(order), dtype=torch.long), 1)
                )
                wrong += int(bag_answer(raw, counting=False)[0] != batch["label"][number])
            errors.append(100 * wrong / 12)
    assert method.diagnostics()["permuted_error"] == pytest.approx(sum(errors) / 4)
    assert build(SPEC, pool="mean").diagnostics() == {}


def test_same_seed_same_numbers(cache: Path) -> None:
    seen = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = MnistBagsSingle(cache=cache, batch_size=4, bags=12, val_bags=2, test_bags=4, seed=3)
        method = MilLSTM(data.spec, **MilLSTM.profile("smoke"))
        run = trainer(1)
        run.fit(method, data)
        (scores,) = run.test(method, data, verbose=False)
        seen.append(
            [
                float(run.callback_metrics["test/error"]),
                *method.network.head.weight[0].tolist(),
                scores["test/purity"],
            ]
        )
    assert seen[0] == seen[1]
