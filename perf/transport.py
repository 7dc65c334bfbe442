"""Unrolled optimal transport, batched over samples, against a Python loop over them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perf.ratio import Ratio, alternate
from tasks.blocks.optimal_transport import barycentric_flow, cosine_cost, transport_plan, within

SIZES = ((4, 2048, 128, 1), (16, 256, 64, 3))
"""Samples, points of each cloud, channels and iterations: FLOT's training, and that of its small profile."""
REACH, EPSILON, POWER = 10.0, 0.03, 0.6


def flow(inputs: list[Tensor], iterations: int) -> Tensor:
    """Features and clouds to the unrefined flow, [B, n, 3]."""
    first_features, second_features, first, second = inputs
    support = within(first, second, REACH)
    cost = cosine_cost(first_features, second_features)
    plan = transport_plan(cost, support, torch.tensor(EPSILON), POWER, iterations)
    return barycentric_flow(plan, first, second, support.any(-1))[0]


def sample_by_sample(inputs: list[Tensor], iterations: int) -> Tensor:
    """The same, one sample at a time."""
    samples = range(len(inputs[0]))
    return torch.cat([flow([tensor[i : i + 1] for tensor in inputs], iterations) for i in samples])


def measure() -> list[Ratio]:
    """Forward, and forward with backward; that both give the same flow is checked on the way."""
    ratios = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for samples, points, channels, iterations in SIZES:
        generator = torch.Generator().manual_seed(0)
        features = [torch.randn(samples, channels, points, generator=generator) for _ in range(2)]
        clouds = [15 * torch.rand(samples, points, 3, generator=generator) for _ in range(2)]
        inputs = [tensor.to(device) for tensor in (*features, *clouds)]
        for tensor in inputs[:2]:
            tensor.requires_grad_()
        if not torch.allclose(flow(inputs, iterations), sample_by_sample(inputs, iterations), atol=1e-3):
            raise RuntimeError("the batched transport and the one sample by sample disagree")

        def forward(function: Callable[[list[Tensor], int], Tensor], *given: object) -> Callable[[], None]:
            def run() -> None:
                with torch.no_grad():
                    function(*given)  # type: ignore[arg-type]
                if device == "cuda":
                    torch.cuda.synchronize()

            return run

        def both(function: Callable[[list[Tensor], int], Tensor], *given: object) -> Callable[[], None]:
            def run() -> None:
                for tensor in given[0]:  # type: ignore[attr-defined]
                    tensor.grad = None
                function(*given).sum().backward()  # type: ignore[arg-type]
                if device == "cuda":
                    torch.cuda.synchronize()

            return run

        for what, pass_ in (("forward", forward), ("forward and backward", both)):
            best = alternate(
                {
                    "batched": pass_(flow, inputs, iterations),
                    "loop": pass_(sample_by_sample, inputs, iterations),
                },
                rounds=3,
            )
            name = f"transport, {samples} x {points} points, {channels} channels, K = {iterations}"
            ratios.append(Ratio(name, "loop over samples", best["batched"], best["loop"], what))
    return ratios
