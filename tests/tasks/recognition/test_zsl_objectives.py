"""The objectives of the zero-shot study: losses by hand, which pairs are negatives, who learns from what."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.mutual_information import pair_loss
from tasks.recognition.zsl_encoders import Encoder
from tasks.recognition.zsl_objectives import (
    AdversarialAutoEncoder,
    Classifier,
    InfoMax,
    LocalClassifier,
    MultiscaleInfoMax,
    VariationalAutoEncoder,
    gaussian_divergence,
    negative_pairs,
    reconstruction_error,
)

LABEL = torch.tensor([0, 1, 0, 2])
IMAGE = torch.rand(4, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder("basic", (56, 56), width=0.0625, first_stride=1)


def test_reconstruction_and_divergence_by_hand() -> None:
    assert reconstruction_error(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)).item() == 36
    assert gaussian_divergence(torch.zeros(3, 5), torch.zeros(3, 5)).item() == 0
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    # One half of 1, and one half of 4 - 1 - log 4.
    assert gaussian_divergence(mean, log_variance).item() == pytest.approx(0.5 + 0.5 * (3 - math.log(4)))


def test_negatives_are_of_other_classes_or_other_pictures() -> None:
    classes = negative_pairs(LABEL, "other_class")
    assert classes.int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]
    pictures = negative_pairs(LABEL, "other_image")
    assert torch.equal(pictures, ~torch.eye(4, dtype=torch.bool))


def test_beta_weighs_the_divergence() -> None:
    losses = []
    for beta in (1.0, 4.0):
        network = encoder()
        torch.manual_seed(1)
        model = VariationalAutoEncoder(network, 3, beta=beta)
        torch.manual_seed(2)
        losses.append(model(network(IMAGE), IMAGE, LABEL))
    assert losses[1]["divergence"].item() == pytest.approx(4 * losses[0]["divergence"].item(), rel=1e-5)
    assert losses[1]["reconstruction"].item() == pytest.approx(losses[0]["reconstruction"].item())


def test_each_side_of_the_adversarial_auto_encoder_moves_its_own_weights() -> None:
    network = encoder()
    model = AdversarialAutoEncoder(network, 3)
    losses = model(network(IMAGE), IMAGE, LABEL)
    losses["adversarial"].backward(retain_graph=True)
    assert all(weight.grad is None for weight in model.discriminator.parameters())
    assert any(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    network.zero_grad()
    losses["discriminator"].backward()
    assert all(weight.grad is not None for weight in model.discriminator.parameters())
    assert not any(weight.grad is not None and weight.grad.any() for weight in network.parameters())
    assert losses["discriminator"].item() == pytest.approx(2 * math.log(2), abs=0.3)


def test_matched_features_take_the_place_of_own_ones() -> None:
    network = encoder()
    model = InfoMax(network, units=8, estimator="dv", negatives="other_class").eval()
    network.eval()
    first = network(IMAGE)
    own = model(first, IMAGE, LABEL)["information"]
    assert own.item() == model(first, IMAGE, LABEL, first.local)["information"].item()
    partner = first.local[[2, 1, 0, 3]]
    swapped = model(first, IMAGE, LABEL, partner)["information"]
    scores = model.scores(first.vector, first.local)[:, [2, 1, 0, 3]]
    assert swapped.item() == pytest.approx(
        pair_loss(scores, negative_pairs(LABEL, "other_class"), "dv").item()
    )


def test_both_directions_and_both_scales_of_the_multiscale_form() -> None:
    network = encoder().eval()
    model = MultiscaleInfoMax(network, units=8).eval()
    first, other = network(IMAGE), network(IMAGE.flip(3))
    losses = model(first, IMAGE, LABEL, other)
    assert set(losses) == {"information_local", "information_last"}
    back = model(other, IMAGE, LABEL, first)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(back[name].item(), rel=1e-5)
        assert loss.item() > 0


def test_local_losses_by_hand() -> None:
    attributes = torch.tensor([[True, False], [False, False], [True, True]])
    local = torch.randn(4, 5, 3, 3)
    for kind, expected in (("ac", math.log(2)), ("lc", math.log(3))):
        read = LocalClassifier(5, kind, attributes, 3)  # type: ignore[arg-type]
        torch.nn.init.zeros_(read.read.weight)
        torch.nn.init.zeros_(read.read.bias)
        assert read(local, LABEL).item() == pytest.approx(expected)
    read = LocalClassifier(5, "ac", attributes, 3)
    torch.nn.init.zeros_(read.read.weight)
    with torch.no_grad():
        read.read.bias.copy_(torch.tensor([100.0, -100.0]))
    # Classes 0, 1, 0, 2: sure of the first attribute and wrong for class 1; of the second and wrong for class 2.
    assert read(local, LABEL).item() == pytest.approx((100 + 100) / 8)


def test_the_classifier_reads_the_vector() -> None:
    network = encoder()
    losses = Classifier(network, 3)(network(IMAGE), IMAGE, LABEL)
    assert losses["classes"].item() == pytest.approx(math.log(3), abs=0.6)
