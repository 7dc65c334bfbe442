"""Unrolled unbalanced transport: Algorithm 1 by hand and by the letter, its optimum, and what flows back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, minimize

from tasks.blocks.optimal_transport import barycentric_flow, cosine_cost, transport_plan, within


def everything(cost: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(cost, dtype=torch.bool)


def algorithm_1(cost: np.ndarray, epsilon: float, power: float, iterations: int) -> np.ndarray:
    """The paper's loop, in double precision, with masses 1/n and 1/m."""
    n, m = cost.shape
    a, kernel = np.full(n, 1 / n), np.exp(-cost / epsilon)
    for _ in range(iterations):
        b = ((1 / m) / (kernel.T @ a + 1e-8)) ** power
        a = ((1 / n) / (kernel @ b + 1e-8)) ** power
    return np.diag(a) @ kernel @ np.diag(b)


def test_two_points_by_hand() -> None:
    # U = [[1, 1/2], [1/2, 1]], a = 1/2: U'a = 3/4, so b = 2/3; U b = 1, so a = 1/2; T = U / 3.
    cost = torch.tensor([[[0.0, math.log(2)], [math.log(2), 0.0]]])
    plan = transport_plan(cost, everything(cost), torch.tensor(1.0), 1.0, 1)
    torch.testing.assert_close(plan, torch.tensor([[[1 / 3, 1 / 6], [1 / 6, 1 / 3]]]))
    # With the power 1/2: b = (2/3)^(1/2), U b = 1.5 b, a = (0.5 / (1.5 b))^(1/2).
    b = (2 / 3) ** 0.5
    a = (0.5 / (1.5 * b)) ** 0.5
    half = transport_plan(cost, everything(cost), torch.tensor(1.0), 0.5, 1)
    torch.testing.assert_close(half[0, 0], torch.tensor([a * b, a * b / 2]))


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 4), (3, 9)])
@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_it_is_algorithm_1_for_any_numbers_of_points(n: int, m: int, iterations: int) -> None:
    cost = 2 * torch.rand(2, n, m, generator=torch.Generator().manual_seed(n + m))
    plan = transport_plan(cost, everything(cost), torch.tensor(0.1), 0.64, iterations)
    for sample in range(2):
        expected = algorithm_1(cost[sample].double().numpy(), 0.1, 0.64, iterations)
        np.testing.assert_allclose(plan[sample].numpy(), expected, rtol=1e-4)


def test_b_is_updated_before_a() -> None:
    """Then rows, which are updated last, carry exactly their mass in balanced transport, columns not yet."""
    cost = 2 * torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0))
    plan = transport_plan(cost, everything(cost), torch.tensor(0.3), 1.0, 1)
    torch.testing.assert_close(plan.sum(2), torch.full((1, 5), 1 / 5), atol=1e-6, rtol=1e-5)
    assert (plan.sum(1) - 1 / 7).abs().max() > 1e-3
    settled = transport_plan(cost, everything(cost), torch.tensor(0.3), 1.0, 200)
    torch.testing.assert_close(settled.sum(1), torch.full((1, 7), 1 / 7), atol=1e-5, rtol=1e-4)


def test_balanced_transport_at_low_temperature_is_the_best_assignment() -> None:
    cost = torch.tensor(
        [[[0.1, 0.2, 1.0, 1.0], [0.1, 0.9, 1.0, 0.9], [0.8, 0.9, 0.3, 0.2], [1.0, 0.7, 0.9, 0.1]]]
    )
    plan = transport_plan(cost, everything(cost), torch.tensor(0.05), 1.0, 200)
    _, best = linear_sum_assignment(cost[0].numpy())
    assert plan[0].argmax(1).tolist() == best.tolist() == [1, 0, 2, 3]
    assert plan[0].argmax(1).tolist() != cost[0].argmin(1).tolist()  # rows alone would collide


def test_many_iterations_reach_the_optimum_of_the_relaxed_problem() -> None:
    """Eq. 2, minimised by SciPy without Sinkhorn."""
    epsilon, weight = 0.4, 0.9
    cost = np.array([[0.1, 1.0, 0.7], [0.8, 0.3, 0.2]])
    n, m = cost.shape

    def divergence(mass: np.ndarray, wanted: float) -> float:
        return float((mass * np.log(mass / wanted) - mass + wanted).sum())

    def objective(log_plan: np.ndarray) -> float:
        plan = np.exp(log_plan.reshape(n, m))
        entropy = (plan * (np.log(plan) - 1)).sum()
        masses = divergence(plan.sum(1), 1 / n) + divergence(plan.sum(0), 1 / m)
        return float((cost * plan).sum() + epsilon * entropy + weight * masses)

    best = minimize(objective, np.full(n * m, -2.0), tol=1e-12)
    tensor = torch.from_numpy(cost).float()[None]
    plan = transport_plan(tensor, everything(tensor), torch.tensor(epsilon), weight / (weight + epsilon), 300)
    np.testing.assert_allclose(plan[0].numpy(), np.exp(best.x.reshape(n, m)), rtol=1e-3)


def test_no_iteration_is_attention() -> None:
    """FLOT_0 (Eq. 8): the barycentre is a softmax of -C / epsilon."""
    generator = torch.Generator().manual_seed(0)
    cost = 2 * torch.rand(1, 4, 6, generator=generator)
    first, second = torch.rand(1, 4, 3, generator=generator), torch.rand(1, 6, 3, generator=generator)
    plan = transport_plan(cost, everything(cost), torch.tensor(0.5), 0.0, 0)
    flow, _ = barycentric_flow(plan, first, second, torch.ones(1, 4).bool())
    torch.testing.assert_close(flow, (-cost / 0.5).softmax(-1) @ second - first, atol=1e-6, rtol=1e-5)


def test_far_pairs_exchange_nothing_and_a_point_without_partner_stays() -> None:
    first = torch.tensor([[[0.0, 0, 0], [0, 0, 50.0]]])
    second = torch.tensor([[[0.0, 0, 9.9], [0, 0, 10.1], [1.0, 0, 0]]])
    support = within(first, second, 10.0)
    assert support.tolist() == [[[True, False, True], [False, False, False]]]
    cost = torch.zeros(1, 2, 3, requires_grad=True)
    for iterations in (0, 1, 3):
        plan = transport_plan(cost, support, torch.tensor(0.03), 0.7, iterations)
        assert not plan[~support].any()
        flow, mass = barycentric_flow(plan, first, second, support.any(-1))
        assert flow[0, 1].tolist() == [0.0, 0.0, 0.0]  # Eq. 6 would give -50 m
        assert mass[0, 1].item() == 0.0
        (gradient,) = torch.autograd.grad(flow.sum(), cost)
        assert torch.isfinite(gradient).all()
    with pytest.raises(ValueError, match="must be equal"):
        transport_plan(cost, support[:, :1], torch.tensor(0.03), 0.7, 1)


def test_gradients_reach_both_scalars_and_the_cost_through_every_iteration() -> None:
    cost = (2 * torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
    weight = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(1))

    def loss(cost: torch.Tensor, epsilon: torch.Tensor, log_lambda: torch.Tensor) -> torch.Tensor:
        power = log_lambda.exp() / (log_lambda.exp() + epsilon)
        return (transport_plan(cost, everything(cost), epsilon, power, 3) * weight).sum()

    epsilon, log_lambda = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.2))
    gradients = torch.autograd.grad(loss(cost, epsilon, log_lambda), (cost, epsilon, log_lambda))
    for number, gradient in ((1, gradients[1]), (2, gradients[2])):
        step = [0.0, 1e-2, 0.0] if number == 1 else [0.0, 0.0, 1e-2]
        above = loss(cost, epsilon + step[1], log_lambda + step[2])
        below = loss(cost, epsilon - step[1], log_lambda - step[2])
        assert float(gradient) == pytest.approx(float((above - below).detach()) / 2e-2, rel=0.02)
        assert abs(float(gradient)) > 1e-4
    assert (gradients[0].abs() > 0).all()


def test_cosine_cost_by_hand() -> None:
    first = torch.tensor([[[3.0, 1.0, 0.0], [4.0, 0.0, 0.0]]])  # columns (3, 4), (1, 0), (0, 0)
    second = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])
    expected = torch.tensor([[[0.4, 1.6], [0.0, 2.0], [1.0, 1.0]]])
    torch.testing.assert_close(cosine_cost(first, second), expected, atol=1e-6, rtol=1e-6)


def test_transport_stays_in_single_precision_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(1, 8, 20, generator=generator) for _ in range(2)]
    clouds = [torch.rand(1, 20, 3, generator=generator) for _ in range(2)]

    def run(features: list[torch.Tensor]) -> torch.Tensor:
        plan = transport_plan(
            cosine_cost(*features), torch.ones(1, 20, 20).bool(), torch.tensor(0.03), 0.6, 3
        )
        return barycentric_flow(plan, *clouds, torch.ones(1, 20).bool())[0]

    plain = run(features)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(features)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)
    # exp(-2 / 0.03) is 1e-29: not zero in single precision, as it would be in half.
    far = transport_plan(torch.full((1, 1, 1), 2.0), torch.ones(1, 1, 1).bool(), torch.tensor(0.03), 0.0, 0)
    assert 0 < float(far) < 1e-28
