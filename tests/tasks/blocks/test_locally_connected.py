"""The locally-connected fusion: sums by hand, the unshared loop beside it, and what is not shared."""

from __future__ import annotations

import pytest
import torch

from tasks.blocks.locally_connected import LocallyConnectedFusion, locally_connected


def test_weights_each_element_and_branch_by_hand() -> None:
    stack = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])  # [1, S=3, K=2]
    weight = torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]])
    bias = torch.tensor([0.25, -9.0])
    # element 0: 1·1 + 0.5·3 + 0·5 + 0.25 = 2.75; element 1: 0·2 - 1·4 + 2·6 - 9 = -1
    assert locally_connected(stack, weight, bias).tolist() == [[2.75, -1.0]]
    assert locally_connected(stack, weight).tolist() == [[2.5, 8.0]]


@pytest.mark.parametrize("shape", [(5,), (4, 6), (3, 4, 6)])
def test_equals_a_loop_over_elements(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    fusion = LocallyConnectedFusion(3, shape, activation="none")
    torch.nn.init.normal_(fusion.weight)
    torch.nn.init.normal_(fusion.bias)
    stack = torch.randn(2, 3, *shape)
    slow = torch.empty(2, *shape)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape)).tolist():
        here = tuple(place)
        for sample in range(2):
            total = fusion.bias[here]
            for branch in range(3):
                total = total + fusion.weight[(branch, *here)] * stack[(sample, branch, *here)]
            slow[(sample, *here)] = total
    torch.testing.assert_close(fusion(stack), slow)


def test_begins_as_the_mean_of_the_branches_with_k_times_s_plus_1_parameters() -> None:
    fusion = LocallyConnectedFusion(3, (192,))
    assert sum(p.numel() for p in fusion.parameters()) == 768
    stack = torch.rand(4, 3, 192)
    torch.testing.assert_close(fusion(stack), stack.mean(dim=1))
    torch.testing.assert_close(fusion.branch_means(), torch.full((3,), 1 / 3))


def test_relu_is_optional_and_the_bias_too() -> None:
    stack = torch.full((1, 2, 3), -1.0)
    assert LocallyConnectedFusion(2, (3,), 1.0)(stack).tolist() == [[0.0, 0.0, 0.0]]
    assert LocallyConnectedFusion(2, (3,), 1.0, activation="none")(stack).tolist() == [[-2.0, -2.0, -2.0]]
    assert LocallyConnectedFusion(2, (3,), bias=False).bias is None
    assert LocallyConnectedFusion(2, (3,), 1.0, bias_init=5.0)(stack).tolist() == [[3.0, 3.0, 3.0]]


def test_gradient_of_one_element_stays_with_its_own_weights() -> None:
    fusion = LocallyConnectedFusion(2, (4,), activation="none")
    stack = torch.rand(3, 2, 4)
    fusion(stack)[:, 2].sum().backward()
    touched = fusion.weight.grad.abs() > 0
    assert touched.tolist() == [[False, False, True, False]] * 2
    torch.testing.assert_close(fusion.weight.grad[:, 2], stack[:, :, 2].sum(dim=0))


def test_refuses_other_shapes() -> None:
    fusion = LocallyConnectedFusion(2, (4, 4))
    with pytest.raises(ValueError, match="got"):
        fusion(torch.zeros(1, 2, 4, 5))
    with pytest.raises(ValueError, match="got"):
        fusion(torch.zeros(1, 1, 4, 4))  # would broadcast silently
    with pytest.raises(ValueError, match="cannot fuse"):
        LocallyConnectedFusion(2, ())
