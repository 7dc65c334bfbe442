"""The flow-embedding peer: its loss by hand, its size, what it may depend on, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch

from datamodules.specs import SceneFlowSpec
from tasks.pointcloud.flownet3d import FlowNet3D, masked_huber

SPEC = SceneFlowSpec(dataset="made-up", points=64)


def make_batch(batch: int = 2, n: int = 64) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    first = 10 * torch.rand(batch, n, 3, generator=generator)
    shift = torch.tensor([0.5, -0.3, 0.8])
    return {
        "first": first,
        "second": first[:, torch.randperm(n, generator=generator)] + shift,
        "flow": shift.expand(batch, n, 3),
        "mask": torch.ones(batch, n).bool(),
        "match": torch.full((batch, n), -1),
        "first_valid": torch.ones(batch, n).bool(),
        "second_valid": torch.ones(batch, n).bool(),
        "id": [str(number) for number in range(batch)],
    }


def silent(method: FlowNet3D) -> FlowNet3D:
    method.log = lambda *args, **options: None  # type: ignore[method-assign]
    return method


def test_huber_by_hand() -> None:
    truth = torch.zeros(1, 2, 3)
    flow = torch.tensor([[[0.5, 2.0, 0.0], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, False]])
    assert masked_huber(flow, truth, mask).item() == pytest.approx((0.125 + 1.5) / 3)
    assert masked_huber(flow, truth, torch.zeros(1, 2).bool()).item() == 0.0


def test_it_is_as_large_as_flownet3d() -> None:
    with torch.device("meta"):
        method = FlowNet3D(SPEC, **FlowNet3D.profile("paper"))
    # 15 MB (Table 2) are 1.23 million parameters in single precision with Adam's two moments.
    assert sum(parameter.numel() for parameter in method.parameters()) == 1_229_987


@pytest.mark.parametrize("profile", ["paper", "mini", "smoke"])
def test_every_profile_steps(profile: str) -> None:
    torch.manual_seed(0)
    method = silent(FlowNet3D(SPEC, **FlowNet3D.profile(profile)))
    loss = method.training_step(make_batch(), 0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_shifting_both_clouds_changes_nothing() -> None:
    torch.manual_seed(0)
    method = FlowNet3D(SPEC, **FlowNet3D.profile("smoke")).eval()
    batch = make_batch()
    moved = {**batch, "first": batch["first"] + 4, "second": batch["second"] + 4}
    torch.testing.assert_close(
        method.predict(batch)["flow"], method.predict(moved)["flow"], atol=1e-4, rtol=1e-3
    )


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    method = FlowNet3D(SPEC, **FlowNet3D.profile("smoke")).eval()
    batch = make_batch()
    padded = dict(batch)
    for key in ("first", "second", "first_valid", "second_valid"):
        grown = torch.zeros(2, 80, *batch[key].shape[2:], dtype=batch[key].dtype)
        grown[:, :64] = batch[key]
        padded[key] = grown
    flow = method.predict(padded)["flow"]
    torch.testing.assert_close(flow[:, :64], method.predict(batch)["flow"], atol=1e-5, rtol=1e-4)
    assert not flow[:, 64:].any()


def test_it_learns_a_shift() -> None:
    torch.manual_seed(0)
    method = silent(FlowNet3D(SPEC, coarse_points=32, neighbours=8, width=0.25, learning_rate=3e-3))
    batch, optimiser = make_batch(), method.configure_optimizers()
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = method.training_step(batch, 0)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
