"""Sets read by an LSTM for retrieval: loss and distances by hand, the paper's sizes, presets, a short training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torchvision.models import vgg16

from datamodules.retrieval.lookbook import LookBook
from datamodules.specs import PictureSetsSpec
from tasks.retrieval.mil_lstm_retrieval import MilLSTMRetrieval, catalogue_triplet, set_distances

SPEC = PictureSetsSpec(dataset="x", image_size=(32, 32))
TINY = {"length": 6, "width": 0.05, "grid": 1, "batch_norm": True, "attention_hidden": 4}


def make_batch(sizes: tuple[int, ...] = (3, 1, 2), side: int = 32) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(sum(sizes), 3, side, side, generator=generator),
        "set": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "catalogue": torch.rand(len(sizes), 3, side, side, generator=generator),
        "label": torch.arange(len(sizes)),
        "id": [str(number) for number in range(len(sizes))],
    }


def build(**options: object) -> MilLSTMRetrieval:
    torch.manual_seed(0)
    method = MilLSTMRetrieval(SPEC, **{**TINY, **options})
    method.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return method


def test_the_hinge_by_hand() -> None:
    query = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    catalogue = torch.tensor([[1.0, 0.0], [0.0, 1.1], [3.0, 4.5]])
    owner = torch.tensor([0, 2])
    near = min(math.hypot(2, 4), math.hypot(3, 2.9))
    expected = ((1 - 1.1 + 0.3) + max(0, 0.5 - near + 0.3)) / 2
    assert catalogue_triplet(query, catalogue, owner, 0.3).item() == pytest.approx(expected, abs=1e-5)
    alone = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = catalogue_triplet(alone, torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0.0
    assert not alone.grad.any()
    with pytest.raises(ValueError, match="owner"):
        catalogue_triplet(query, catalogue, torch.tensor([0]))


def test_distances_of_sets_by_hand_and_by_a_loop() -> None:
    query = torch.tensor([[0.0], [4.0], [10.0]])
    owner = torch.tensor([0, 0, 1])
    catalogue = torch.tensor([[1.0], [9.0]])
    assert set_distances(query, owner, catalogue, "ave").tolist() == [[2.0, 7.0], [9.0, 1.0]]
    assert set_distances(query, owner, catalogue, "min").tolist() == [[1.0, 5.0], [9.0, 1.0]]
    assert set_distances(query, owner, catalogue, "feature").tolist() == [[1.0, 7.0], [9.0, 1.0]]
    generator = torch.Generator().manual_seed(0)
    query, catalogue = torch.randn(7, 5, generator=generator), torch.randn(4, 5, generator=generator)
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 2])
    for match, reduce in (("ave", torch.mean), ("min", torch.amin)):
        slow = torch.stack([reduce(torch.cdist(query[owner == s], catalogue), dim=0) for s in range(3)])
        torch.testing.assert_close(set_distances(query, owner, catalogue, match), slow)


def test_the_papers_sizes() -> None:
    with torch.device("meta"):
        method = MilLSTMRetrieval(PictureSetsSpec(dataset="x", image_size=(224, 224)))
    lstm = method.pooling.lstm
    assert (lstm.input_size, lstm.hidden_size, lstm.bidirectional) == (2048, 2048, True)
    with torch.device("meta"):
        whole = sum(parameter.numel() for parameter in vgg16(weights=None).parameters())
    described = sum(parameter.numel() for parameter in method.describer.parameters())
    assert described == whole - 4097 * 1000 + 4097 * 2048


def test_paper_profile_steps_with_the_width_of_an_eighth() -> None:
    """All layers and the paper's LSTM, pictures of 224; VGG-16's filters are reduced for time and memory."""
    torch.manual_seed(0)
    method = MilLSTMRetrieval(SPEC, **{**MilLSTMRetrieval.profile("paper"), "width": 0.125})
    method.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    optimiser = method.configure_optimizers()
    assert [group["lr"] for group in optimiser.param_groups] == pytest.approx([1e-5, 1e-4])
    loss = method.training_step(make_batch((2, 1), 224), 0)
    loss.backward()
    optimiser.step()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


@pytest.mark.parametrize("preset", [None, *MilLSTMRetrieval.presets])
def test_every_preset_steps_and_is_judged(preset: str | None) -> None:
    options = MilLSTMRetrieval.presets[preset] if preset else {}
    method = build(**{key: value for key, value in options.items() if not key.startswith("data.")})
    batch = make_batch()
    method.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    method.eval()
    with torch.no_grad():
        answer = method.predict(batch)
    assert len(answer["query"]) == (6 if preset and preset.startswith("single") else 3)
    for rows in (answer["query"], answer["catalogue"]):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    judge = method.task.judge(SPEC)
    judge.compare = method.compare
    judge.update(answer, batch)
    assert 0 <= judge.compute()["recall_at_1"] <= 100


def test_a_catalogue_picture_is_a_set_of_one() -> None:
    method, batch = build().eval(), make_batch()
    with torch.no_grad():
        answer = method.predict(batch)
        swapped = method.predict({**batch, "image": batch["catalogue"], "set": torch.arange(3)})
    torch.testing.assert_close(swapped["query"], answer["catalogue"])


def test_sets_do_not_depend_on_each_other() -> None:
    method, batch = build().eval(), make_batch()
    with torch.no_grad():
        together = method.predict(batch)["query"][0]
        alone = method.predict(
            {
                "image": batch["image"][:3],
                "set": torch.zeros(3, dtype=torch.long),
                "catalogue": batch["catalogue"][:1],
            }
        )["query"][0]
    torch.testing.assert_close(together, alone)


def test_mixed_precision_gives_a_finite_loss() -> None:
    method = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert math.isfinite(loss.item())


def test_weights_of_imagenet(tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in build().describer.trunk.state_dict().items()}
    layers = [
        name.removesuffix(".weight") for name in state if "convolutions" in name and name.endswith("weight")
    ]
    published: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(layers):
        short = layer.removeprefix("convolutions.")
        published |= {
            f"{short}.{kind}": torch.full_like(state[f"{layer}.{kind}"], index) for kind in ("weight", "bias")
        }
    torch.manual_seed(1)
    method = MilLSTMRetrieval(SPEC, **{**TINY, "batch_norm": False})
    for name, layer in (("classifier.0", method.describer.fc6), ("classifier.3", method.describer.fc7)):
        published |= {
            f"{name}.{kind}": torch.full_like(value, 0.5) for kind, value in layer.named_parameters()
        }
    path = tmp_path / "vgg16.pth"
    torch.save(published, path)
    loaded = MilLSTMRetrieval(SPEC, **{**TINY, "batch_norm": False, "weights": str(path)})
    assert (loaded.describer.trunk.convolutions["conv1_2"].weight == 1).all()
    assert (loaded.describer.fc7.weight == 0.5).all()
    del published["classifier.3.bias"]
    torch.save(published, path)
    with pytest.raises(ValueError, match=r"classifier\.3\.bias is missing"):
        method.describer.load_imagenet(path)
    with pytest.raises(FileNotFoundError, match="VGG-16"):
        method.describer.load_imagenet(tmp_path / "nowhere")


def test_random_weights_with_the_papers_recipe_warn() -> None:
    with pytest.warns(UserWarning, match="hardly move"):
        build(batch_norm=False).on_fit_start()
    with pytest.raises(ValueError, match="match"):
        build(match="median")


def trainer(epochs: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )


def test_training_on_the_miniature_beats_its_start_and_chance(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = LookBook(cache=cache, batch_size=8, train_pictures=2)
    method = MilLSTMRetrieval(data.spec, **{**MilLSTMRetrieval.profile("mini"), "length": 32})
    (start,) = trainer(1).test(method, data, verbose=False)
    run = trainer(12)
    run.fit(method, data)
    (end,) = run.test(method, data, verbose=False)
    chance = 100 * 10 / len(data.split("test"))
    assert end["test/recall_at_10"] > max(start["test/recall_at_10"], 1.5 * chance)
    assert method.judged_figures["ranked_lists"].shape[2] == 3


def test_same_seed_same_numbers(cache: Path) -> None:
    seen = []
    for _ in range(2):
        pl.seed_everything(3, verbose=False)
        data = LookBook(cache=cache, batch_size=4, train_pictures=2, seed=3)
        method = MilLSTMRetrieval(data.spec, **MilLSTMRetrieval.profile("smoke"))
        run = trainer(1)
        run.fit_loop.epoch_loop.max_steps = 2
        run.fit(method, data)
        seen.append([float(run.callback_metrics["train/loss"]), method.describer.last.weight[0, 0].item()])
    assert seen[0] == seen[1]
