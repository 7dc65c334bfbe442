"""Consensus of annotators: votes by hand, padding, few annotators, dilation."""

from __future__ import annotations

import torch

from tasks.blocks.edge_consensus import consensus


def votes(*marks: int) -> torch.Tensor:
    """Five annotators' maps of a row of pixels, the i-th marked by `marks[i]` of them."""
    return torch.tensor([[[[int(a < count) for count in marks]] for a in range(5)]], dtype=torch.uint8)


def test_consensus_needs_three_votes() -> None:
    target = consensus(votes(0, 1, 2, 3, 5), torch.tensor([5]), dilate=False)
    assert target.tolist() == [[[[0, 0, 0, 1, 1]]]]
    target = consensus(votes(0, 1, 2, 3, 5), torch.tensor([5]), dilate=False, low_consensus="ignore")
    assert target.tolist() == [[[[0, 2, 2, 1, 1]]]]


def test_consensus_leaves_padding_out_and_adapts_to_few_annotators() -> None:
    edges = votes(0, 1, 2, 3, 5)
    assert consensus(edges, torch.tensor([2]), dilate=False).flatten().tolist() == [0, 0, 1, 1, 1]
    assert consensus(edges, torch.tensor([1]), dilate=False).flatten().tolist() == [0, 1, 1, 1, 1]
    both = consensus(edges.expand(2, -1, -1, -1), torch.tensor([5, 1]), dilate=False)
    assert both[:, 0, 0].tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]


def test_dilation_is_a_square_of_three() -> None:
    edges = torch.zeros(1, 5, 7, 7, dtype=torch.uint8)
    edges[:, :3, 3, 2] = 1
    edges[:, :1, 3, 6] = 1
    target = consensus(edges, torch.tensor([5]), low_consensus="ignore")[0, 0]
    assert (target == 1).nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2, 3)]
    assert (target == 2).nonzero().tolist() == [[3, 6]]
