"""Pattern-Net's layers: decomposition, entropy, descriptors and the linear mapping, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.blocks.edge_conv import feature_neighbours
from tasks.pointcloud.orderly_disorder_network import (
    CloneEncoder,
    Clones,
    Description,
    clone_entropy,
    decompose,
    fixed_order,
    mapping_loss,
    mapping_weights,
    random_orders,
    shape_descriptor,
)

CPU = torch.device("cpu")


def encoder(**options: object) -> CloneEncoder:
    torch.manual_seed(0)
    settings = {
        "neighbours": 5, "metric": "hilbert", "first_metric": "hilbert", "graph": "dynamic", "width": 4,
        "linkage_layers": 1,
    }  # fmt: skip
    return CloneEncoder(**{**settings, **options})  # type: ignore[arg-type]


# Cloning decomposition


@pytest.mark.parametrize("clones", [1, 3, 4, 5])
def test_clones_are_disjoint_of_one_size_and_together_the_cloud(clones: int) -> None:
    """Eqs. 3 and 4."""
    cut = decompose(random_orders(3, 60, CPU), clones, "drop")
    assert cut.index.shape == (3, clones, 60 // clones)
    assert cut.valid.all()
    for example in cut.index:
        assert sorted(example.flatten().tolist()) == list(range(60))


def test_a_remainder_is_dropped_or_shared() -> None:
    order = torch.arange(11).flip(0)[None]
    dropped = decompose(order, 4, "drop")
    assert dropped.index.tolist() == [[[10, 9], [8, 7], [6, 5], [4, 3]]]
    shared = decompose(order, 4, "share")
    assert shared.valid.tolist() == [[True] * 3] * 3 + [[True, True, False]]
    kept = [group[valid].tolist() for group, valid in zip(shared.index[0], shared.valid, strict=True)]
    assert kept == [[10, 9, 8], [7, 6, 5], [4, 3, 2], [1, 0]]
    assert decompose(order[:, :8], 4, "share").valid.all()
    with pytest.raises(ValueError, match="cannot cut 11 points into 12 clones"):
        decompose(order, 12, "drop")


def test_decompositions_are_redrawn_for_every_example_and_step() -> None:
    torch.manual_seed(0)
    one, two = random_orders(2, 40, CPU), random_orders(2, 40, CPU)
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, two)
    # Every point comes into every clone as often.
    orders = random_orders(4000, 8, CPU)
    place = orders.argsort(1).float()
    assert place.mean(0).tolist() == pytest.approx([3.5] * 8, abs=0.15)


def test_the_decomposition_of_inference_is_fixed_and_the_same_for_all_examples() -> None:
    torch.manual_seed(1)
    one = fixed_order(3, 40, CPU)
    torch.manual_seed(2)
    assert torch.equal(one, fixed_order(3, 40, CPU))
    assert torch.equal(one[0], one[2])
    assert torch.equal(one[:1], fixed_order(1, 40, CPU))
    assert sorted(one[0].tolist()) == list(range(40))
    assert one[0].tolist() != list(range(40))
    assert not torch.equal(one, fixed_order(3, 40, CPU, vote=1))


def test_entropy_by_hand() -> None:
    """Two clones of four points: one in a single cell, one in four cells."""
    corner = torch.zeros(4, 3)
    spread = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    points = torch.cat([corner, spread])[None]
    cut = Clones(torch.arange(8).view(1, 2, 4), torch.ones(2, 4).bool())
    assert clone_entropy(points, cut).tolist() == [[0, 2]]
    short = Clones(cut.index, torch.tensor([[True] * 4, [True, True, False, False]]))
    assert clone_entropy(points, short).tolist() == [[0, 1]]


def test_random_clones_of_a_cloud_have_about_equal_entropy() -> None:
    """Eq. 5, which chance is to provide; clones by place haven't."""
    torch.manual_seed(0)
    points = torch.rand(2, 2000, 3)
    by_chance = clone_entropy(points, decompose(random_orders(2, 2000, CPU), 4, "drop"))
    assert by_chance.std(1).max() < 0.1  # bits, of 8
    halves = points.clone()
    halves[:, :1000, 0] *= 0.01
    by_place = clone_entropy(halves, decompose(torch.arange(2000).expand(2, -1), 4, "drop"))
    assert by_place.std(1).min() > 0.5


# Descriptors


def test_lengths_and_what_the_descriptor_is_made_of() -> None:
    cloud, cut = torch.randn(2, 40, 3), decompose(random_orders(2, 40, CPU), 4, "drop")
    described = encoder()(cloud, cut)
    assert described.psi.shape == (2, 4, 16)
    assert described.phi.shape == (2, 16)
    psi, phi = torch.tensor([[[1.0, 5], [3, 2]]]), torch.tensor([[7.0, 8]])
    assert shape_descriptor(Description(psi, phi)).tolist() == [[3, 5, 7, 8]]
    assert shape_descriptor(Description(psi, phi), "clones").tolist() == [[3, 5]]
    assert shape_descriptor(Description(psi, phi), "global").tolist() == [[7, 8]]


def test_neighbours_are_sought_inside_a_clone() -> None:
    """What another clone holds changes nothing of a clone's descriptor, in evaluation."""
    net = encoder().eval()
    cloud, cut = torch.randn(1, 40, 3), decompose(random_orders(1, 40, CPU), 4, "drop")
    before = net(cloud, cut)
    moved = cloud.clone()
    moved[0, cut.index[0, 3]] += 0.5 * torch.randn(10, 3)
    after = net(moved, cut)
    torch.testing.assert_close(before.psi[:, :3], after.psi[:, :3])
    assert not torch.allclose(before.psi[:, 3], after.psi[:, 3])
    assert not torch.allclose(before.phi, after.phi)


def test_the_order_inside_a_clone_and_of_clones_does_not_matter() -> None:
    net = encoder().eval()
    cloud, cut = torch.randn(1, 40, 3), decompose(random_orders(1, 40, CPU), 4, "drop")
    before = net(cloud, cut)
    turned = Clones(cut.index.flip(1)[..., torch.randperm(10)], cut.valid)
    after = net(cloud, turned)
    torch.testing.assert_close(before.psi, after.psi.flip(1))
    torch.testing.assert_close(before.phi, after.phi)


def test_statistics_are_over_all_clones_not_clone_by_clone() -> None:
    """In training, a clone that is shifted away changes the other clones' normalised features."""
    cloud, cut = torch.randn(1, 40, 3), decompose(torch.arange(40)[None], 4, "drop")
    before = encoder()(cloud, cut).psi
    cloud[0, 30:] += 3
    assert not torch.allclose(before[:, 0], encoder()(cloud, cut).psi[:, 0], atol=1e-3)


def test_unequal_clones_are_described_as_if_alone() -> None:
    net = encoder(neighbours=3).eval()
    cloud = torch.randn(2, 11, 3)
    shared = decompose(random_orders(2, 11, CPU), 4, "share")
    described = net(cloud, shared)
    for group in range(4):
        own = shared.index[:, group][:, shared.valid[group]]
        # K is cut to what the smallest clone has.
        alone = net(cloud, Clones(own[:, None], torch.ones(1, own.shape[1]).bool()))
        if own.shape[1] == 3:
            net.neighbours = 2
            alone = net(cloud, Clones(own[:, None], torch.ones(1, 3).bool()))
            net.neighbours = 3
        torch.testing.assert_close(described.psi[:, group], alone.psi[:, 0])


def test_metrics_and_graphs_differ_and_unknown_ones_are_refused() -> None:
    cloud, cut = torch.randn(2, 40, 3), decompose(random_orders(2, 40, CPU), 2, "drop")
    answers = [
        encoder(**options).eval()(cloud, cut).phi
        for options in ({}, {"first_metric": "euclid"}, {"metric": "euclid"}, {"graph": "static"})
    ]
    for number, one in enumerate(answers):
        assert all(not torch.allclose(one, other) for other in answers[:number])
    with pytest.raises(ValueError, match="unknown graph 'none'"):
        encoder(graph="none")
    with pytest.raises(ValueError, match="must be positive"):
        encoder(width=0)


def test_directions_from_the_centre_are_all_the_first_layer_compares() -> None:
    """The nearest by Eq. 8 may be far away on the same ray."""
    cloud = torch.tensor([[[1.0, 0, 0], [1.1, 0.4, 0], [9.0, 0, 0]]])
    assert feature_neighbours(cloud, 2, "hilbert")[0, 0].tolist() == [0, 2]
    assert feature_neighbours(cloud, 2, "euclid")[0, 0].tolist() == [0, 1]


# Linear mapping


def test_the_mapping_is_the_pseudo_inverse() -> None:
    torch.manual_seed(0)
    psi, phi = torch.randn(5, 4, 64), torch.randn(5, 64)
    expected = torch.stack([torch.linalg.pinv(p.T) @ f for p, f in zip(psi, phi, strict=True)])
    torch.testing.assert_close(mapping_weights(psi, phi, 1e-7), expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(mapping_weights(psi, phi, 1e-4), expected, atol=1e-3, rtol=1e-2)


def test_the_mapping_by_hand() -> None:
    """Orthogonal clones: each weight is <psi_l, phi> / |psi_l|^2."""
    psi = torch.tensor([[[2.0, 0, 0], [0, 4, 0]]])
    omega = mapping_weights(psi, torch.tensor([[3.0, 2, 9]]), 1e-8)
    assert omega.tolist() == [pytest.approx([1.5, 0.5], abs=1e-5)]
    assert mapping_loss(omega).item() == pytest.approx(0.5, abs=1e-5)  # population standard deviation


def test_clones_that_are_alike_share_the_weight_with_finite_gradients() -> None:
    one = torch.randn(2, 1, 8)
    psi = one.expand(-1, 4, -1).clone().requires_grad_()
    phi = one[:, 0].clone().requires_grad_()
    omega = mapping_weights(psi, phi, 1e-4)
    assert omega.flatten().tolist() == pytest.approx([0.25] * 8, abs=1e-3)
    loss = mapping_loss(omega)
    assert loss.item() < 1e-3
    loss.backward()
    assert torch.isfinite(psi.grad).all()
    assert torch.isfinite(phi.grad).all()


def test_the_loss_is_of_the_weights_not_of_the_distance() -> None:
    """phi far outside of what the clones span, all clones as much of it: no loss."""
    psi = torch.eye(4)[None, :, :] + torch.zeros(1, 4, 4)
    phi = torch.full((1, 4), 7.0)
    far = torch.cat([phi, torch.full((1, 3), 100.0)], 1)
    psi = torch.cat([psi, torch.zeros(1, 4, 3)], -1)
    assert mapping_loss(mapping_weights(psi, far, 1e-6)).item() < 1e-4
    far[0, 0] = 8.0
    assert mapping_loss(mapping_weights(psi, far, 1e-6)).item() == pytest.approx(math.sqrt(3) / 4, rel=1e-3)


def test_gradients_flow_through_the_pseudo_inverse() -> None:
    torch.manual_seed(0)
    psi = torch.randn(3, 4, 16, dtype=torch.float32, requires_grad=True)
    phi = torch.randn(3, 16)
    mapping_loss(mapping_weights(psi, phi, 1e-4)).backward()
    exact = psi.detach().double().requires_grad_()
    pinv = torch.linalg.pinv(exact.transpose(1, 2)) @ phi.double()[..., None]
    (pinv.squeeze(-1).var(1, unbiased=False) + 1e-12).sqrt().mean().backward()
    torch.testing.assert_close(psi.grad.double(), exact.grad, atol=1e-4, rtol=2e-2)


def test_a_single_clone_has_no_loss_and_no_nan() -> None:
    psi = torch.randn(3, 1, 8, requires_grad=True)
    loss = mapping_loss(mapping_weights(psi, torch.randn(3, 8), 1e-4))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=2e-6)
    assert torch.isfinite(psi.grad).all()


def test_the_mapping_is_single_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        omega = mapping_weights(torch.randn(2, 4, 8).bfloat16(), torch.randn(2, 8).bfloat16(), 1e-4)
    assert omega.dtype == torch.float32
    assert torch.isfinite(mapping_weights(torch.zeros(1, 3, 4), torch.zeros(1, 4), 1e-4)).all()
