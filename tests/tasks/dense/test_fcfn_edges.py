from __future__ import annotations

import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules.dense.bsds500 import BSDS500
from datamodules.specs import EdgeSpec
from tasks.blocks.edge_consensus import consensus
from tasks.blocks.edge_nms import thin
from tasks.dense.fcfn_edges import EdgeNetwork, FCFNEdges, deep_supervision, resize

SPEC = EdgeSpec(dataset="none", annotators=5)
TINY = {"grid": 32, "width": 1 / 32}


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def batch(height: int = 32, width: int = 32, samples: int = 2) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    return {
        "image": torch.rand(samples, 3, height, width, generator=generator),
        "edges": (torch.rand(samples, 5, height, width, generator=generator) > 0.6).to(torch.uint8),
        "annotators": torch.tensor([5, 4][:samples]),
        "id": ["a", "b"][:samples],
    }


def quiet(method: FCFNEdges) -> FCFNEdges:
    method.log = method.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return method


# Labels and loss


def test_three_annotators_make_an_edge() -> None:
    # One row of six pixels that 0, 1, 2, 3, 4 and 5 annotators marked.
    edges = torch.tensor([[[[int(marks > a) for marks in range(6)]] for a in range(5)]], dtype=torch.uint8)
    assert consensus(edges, torch.tensor([5]), votes=3, dilate=False).tolist() == [[[[0, 0, 0, 1, 1, 1]]]]
    assert consensus(edges, torch.tensor([5]), votes=1, dilate=False).tolist() == [[[[0, 1, 1, 1, 1, 1]]]]
    # Maps 3 to 5 are padding: two annotators, who must agree.
    assert consensus(edges, torch.tensor([2]), votes=3, dilate=False).tolist() == [[[[0, 0, 1, 1, 1, 1]]]]


def test_loss_by_hand() -> None:
    # Four pixels, one edge: beta = 3/4. All probabilities 1/2: each of the six maps costs
    # 3/4 ln 2 for the edge and 3 * 1/4 ln 2 for the rest, 3/2 ln 2 together.
    target = torch.tensor([[[[1, 0], [0, 0]]]])
    side, fused = torch.zeros(1, 5, 2, 2), torch.zeros(1, 1, 2, 2)
    assert deep_supervision(side, fused, target).item() == pytest.approx(6 * 1.5 * math.log(2))
    assert deep_supervision(side, fused, target, "mean").item() == pytest.approx(6 * 1.5 * math.log(2) / 4)
    # The fused map at p = 3/4: 3/4 ln 4/3 + 3 * 1/4 ln 4.
    fused = torch.full((1, 1, 2, 2), math.log(3))
    expected = 5 * 1.5 * math.log(2) + 0.75 * math.log(4 / 3) + 0.75 * math.log(4)
    assert deep_supervision(side, fused, target).item() == pytest.approx(expected)
    # beta is each picture's own: a picture without edges weighs its negatives with 1 - beta = 0.
    both = torch.cat([target, torch.zeros_like(target)])
    twice = deep_supervision(side.repeat(2, 1, 1, 1), fused.repeat(2, 1, 1, 1), both)
    assert twice.item() == pytest.approx(expected / 2)


# The network


def test_fusion_by_pixel_and_by_convolution() -> None:
    torch.manual_seed(0)
    options = {"grid": 16, "width": 1 / 32, "batch_norm": False, "lc_init": 0.2}
    fcfn, hed = EdgeNetwork(3, fusion="lc", **options), EdgeNetwork(3, fusion="conv", **options)
    assert parameters(fcfn.fusion) == 16 * 16 * (5 + 1)
    assert parameters(hed.fusion) == 5 + 1
    for network in (fcfn, hed):
        for score in network.side_outputs.scores:
            torch.nn.init.normal_(score.weight)
        side, fused = network(torch.randn(2, 3, 16, 16))
        assert side.shape == (2, 5, 16, 16)
        assert fused.shape == (2, 1, 16, 16)
        assert fused[:, 0].allclose(0.2 * side.sum(1), atol=1e-4), "both start at the mean of the side logits"
        assert (fused < 0).any(), "no ReLU: logits may be negative"
    # Changing one pixel's weights changes that pixel alone.
    with torch.no_grad():
        fcfn.fusion.weight[:, 3, 4] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        stack = torch.ones(1, 5, 16, 16)
        fused = fcfn.fusion(stack)[0]
    assert fused[3, 4] == 15
    assert (fused == 1).sum() == 16 * 16 - 1


def test_sizes_of_the_paper() -> None:
    with torch.device("meta"):
        fcfn, hed = FCFNEdges(SPEC), FCFNEdges(SPEC, **FCFNEdges.presets["hed"])
    assert parameters(hed) == 14_714_688 + (64 + 128 + 256 + 512 + 512 + 5) + 6 == 14_716_171
    assert fcfn.network.fusion.weight.numel() == 400 * 400 * 5
    assert fcfn.network.fusion.bias.numel() == 400 * 400
    assert parameters(fcfn) - parameters(hed) == 400 * 400 * 6 - 6
    recipe = FCFNEdges.recipe
    assert (recipe.batch_size, recipe.max_epochs, recipe.data["train_size"]) == (8, 25, (400, 400))


@pytest.mark.slow
def test_paper_profile_takes_a_step() -> None:
    """One picture instead of eight, for memory."""
    torch.manual_seed(0)
    method = quiet(FCFNEdges(SPEC, **FCFNEdges.profile("paper")))
    optimizer = method.configure_optimizers()
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-6, 0.9, 2e-4)
    loss = method.training_step(batch(400, 400, samples=1), 0)
    # All side scores start at 0, so all six maps at p = 1/2.
    target = (
        consensus(batch(400, 400, samples=1)["edges"], torch.tensor([5]), votes=3, dilate=False)
        .float()
        .mean()
        .item()
    )
    assert loss.item() == pytest.approx(6 * 2 * target * (1 - target) * 400 * 400 * math.log(2), rel=1e-4)
    loss.backward()
    optimizer.step()
    assert all(score.weight.abs().sum() > 0 for score in method.network.side_outputs.scores)


def test_every_part_gets_a_gradient() -> None:
    torch.manual_seed(0)
    method = quiet(FCFNEdges(SPEC, **TINY))
    optimizer = torch.optim.SGD(method.parameters(), 1e-3)
    for _ in range(2):  # in the first step the side scores are 0 and hold back the trunk's gradient
        optimizer.zero_grad()
        method.training_step(batch(), 0).backward()
        optimizer.step()
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_training_pictures_must_lie_on_the_grid() -> None:
    with pytest.raises(ValueError, match=r"train_size=\(32, 32\)"):
        quiet(FCFNEdges(SPEC, **TINY)).training_step(batch(32, 48), 0)


@pytest.mark.parametrize("size", [(32, 32), (48, 64), (20, 41)])
def test_predictions_have_the_pictures_size_and_are_thin(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    method = FCFNEdges(SPEC, **TINY).eval()
    for score in method.network.side_outputs.scores:
        torch.nn.init.normal_(score.weight)
    sample = batch(*size)
    with torch.no_grad():
        probability, edge = method.probability(sample["image"]), method.predict(sample)["edge"]
    assert probability.shape == edge.shape == (2, 1, *size)
    assert 0 <= edge.min() <= edge.max() <= 1
    assert torch.equal(edge, thin(probability))
    assert (edge > 0).sum() < (probability > 0).sum()


def test_final_map_is_fused_or_average() -> None:
    torch.manual_seed(0)
    fused, average = FCFNEdges(SPEC, **TINY).eval(), FCFNEdges(SPEC, **TINY, final="average").eval()
    for score in fused.network.side_outputs.scores:
        torch.nn.init.normal_(score.weight)
    average.load_state_dict(fused.state_dict())
    images = batch()["image"]
    with torch.no_grad():
        side, logits = fused(images)
        assert fused.probability(images).allclose(logits.sigmoid())
        mean = (side.sigmoid().sum(1, keepdim=True) + logits.sigmoid()) / 6
        assert average.probability(images).allclose(mean, atol=1e-6)


def test_resizing() -> None:
    maps = torch.rand(1, 2, 6, 8)
    assert resize(maps, (6, 8)) is maps
    assert resize(torch.full((1, 1, 6, 8), 0.25), (12, 5)).allclose(torch.full((1, 1, 12, 5), 0.25))


def test_learning_rates_a_layer() -> None:
    method = FCFNEdges(SPEC, **TINY, hed_multipliers=True)
    rates = {
        id(parameter): group["lr"]
        for group in method.configure_optimizers().param_groups
        for parameter in group["params"]
    }
    network = method.network
    assert rates[id(network.trunk.convolutions["conv1_1"].weight)] == pytest.approx(1e-6)
    assert rates[id(network.trunk.convolutions["conv5_1"].weight)] == pytest.approx(1e-4)
    assert rates[id(network.side_outputs.scores[0].weight)] == pytest.approx(1e-8)
    assert rates[id(network.fusion.weight)] == pytest.approx(1e-9)
    assert len(rates) == len(list(method.parameters()))


@pytest.mark.parametrize(
    "wrong", [{"fusion": "sum"}, {"final": "best"}, {"loss_reduction": "valid"}, {"optimiser": "lion"}]
)
def test_unknown_switches_are_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong.values()))):
        FCFNEdges(SPEC, **TINY, **wrong)  # type: ignore[arg-type]


def test_diagnostics_and_figures() -> None:
    for preset in (None, *FCFNEdges.presets):
        method = FCFNEdges(SPEC, **FCFNEdges.profile("smoke", preset))
        assert method.diagnostics() == pytest.approx({f"weight_side{side}": 0.2 for side in range(1, 6)})
        if preset == "hed":
            assert method.figures() == {}
        else:
            assert method.figures()["lc_weights"].shape == (48, 5 * 48, 3)


# Learning


def test_learns_on_the_miniature(cache: Path) -> None:
    pl.seed_everything(0, verbose=False)
    data = BSDS500(cache=cache, batch_size=8, train_size=(64, 64))
    data.prepare_data()
    options = {**FCFNEdges.profile("mini"), "grid": 64, "width": 0.0625}
    method = FCFNEdges(data.spec, **options)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=50,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    (before,) = trainer.test(method, data, verbose=False)
    trainer.fit(method, data)
    (after,) = trainer.test(method, data, verbose=False)
    assert before["test/ods"] < 0.05, "untrained side outputs are flat: no better than the empty map's 0"
    assert after["test/ods"] > before["test/ods"] + 0.2
    assert (method.network.fusion.weight - 0.2).abs().max() > 0.01
