"""One feature for a bag of them: a bidirectional LSTM, attention, dynamic pooling, mean and maximum.

All poolings take the features of all bags of a batch, one after another [N, K], and which bag each belongs to [N],
ascending; bags have any size from 1 on, and no bag's feature depends on another's. All but the LSTM do not depend on
the order of a bag either.

    lstm              [state of the forward direction after the last; of the backward one after it reached the first]:
                      2 S numbers (Wang et al., ACCV 2020)
    attention         sum_i softmax_i(w tanh(V h_i)) h_i        (Ilse et al., ICML 2018, Eq. 8)
    gated_attention   sum_i softmax_i(w (tanh(V h_i) * sigmoid(U h_i))) h_i      (Eq. 9)
    dynamic           routing: three times c = softmax(b), z = squash(sum_i c_i h_i), b_i += h_i . z  (after Yan et al.,
                      ACML 2018; without their weights of the instances, which the paper does not describe)
    mean, max
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Pooling = Literal["lstm", "attention", "gated_attention", "dynamic", "mean", "max"]
POOLINGS: tuple[Pooling, ...] = ("lstm", "attention", "gated_attention", "dynamic", "mean", "max")


def bag_sizes(bag: Tensor, bags: int) -> Tensor:
    """int64 [N], ascending -> int64 [bags]; `ValueError` where one of the bags is empty or the order is another."""
    sizes = torch.bincount(bag, minlength=bags)
    if len(sizes) != bags or int(sizes.min()) < 1 or bool((bag.diff() < 0).any()):
        raise ValueError(f"bag must be ascending and name each of 0..{bags - 1}, got sizes {sizes.tolist()}")
    return sizes


def positions(bag: Tensor, sizes: Tensor) -> Tensor:
    """The place of each instance in its own bag, from 0: int64 [N]."""
    first = sizes.cumsum(0) - sizes
    return torch.arange(len(bag), device=bag.device) - first[bag]


def padded(features: Tensor, bag: Tensor, sizes: Tensor) -> Tensor:
    """[N, K] -> [B, M, K], M the largest bag, zeros behind the smaller ones."""
    table = features.new_zeros(len(sizes), int(sizes.max()), features.shape[1])
    return table.index_put((bag, positions(bag, sizes)), features)


def softmax_in_bags(score: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Softmax over the instances of each bag: float [N] -> [N]."""
    largest = score.new_full((bags,), -torch.inf).scatter_reduce(0, bag, score.detach(), "amax")
    weight = (score - largest[bag]).exp()
    return weight / weight.new_zeros(bags).index_add(0, bag, weight)[bag]


def weighted_sum(features: Tensor, weight: Tensor, bag: Tensor, bags: int) -> Tensor:
    """sum_i weight_i h_i in each bag: [N, K], [N] -> [bags, K]."""
    weighted = weight[:, None] * features
    return weighted.new_zeros(bags, features.shape[1]).index_add(0, bag, weighted)


def squash(vector: Tensor) -> Tensor:
    """|v|^2 / (1 + |v|^2) v / |v| along the last axis."""
    square = vector.square().sum(-1, keepdim=True)
    return square / (1 + square) * vector / (square + 1e-9).sqrt()


class LSTMPooling(nn.Module):
    """One pass of a one-layer LSTM over each bag. features: K; state: S. bidirectional: else forward alone."""

    def __init__(self, features: int, state: int, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, state, batch_first=True, bidirectional=bidirectional)
        self.length = (2 if bidirectional else 1) * state

    def _packed(self, features: Tensor, bag: Tensor, sizes: Tensor) -> PackedSequence:
        table = padded(features, bag, sizes)
        return pack_padded_sequence(table, sizes.cpu(), batch_first=True, enforce_sorted=False)

    def forward(self, features: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[N, K] -> [bags, 2 S], or [bags, S] with one direction; in float32 under mixed precision too."""
        with torch.autocast(features.device.type, enabled=False):
            _, (last, _) = self.lstm(self._packed(features.float(), bag, bag_sizes(bag, bags)))
        return last.transpose(0, 1).flatten(1)  # of each direction after its own last step

    def states(self, features: Tensor, bag: Tensor, bags: int) -> Tensor:
        """The forward direction's state after each instance, [N, S]."""
        sizes = bag_sizes(bag, bags)
        with torch.autocast(features.device.type, enabled=False):
            packed, _ = self.lstm(self._packed(features.float(), bag, sizes))
        out, _ = pad_packed_sequence(packed, batch_first=True)
        return out[bag, positions(bag, sizes), : self.lstm.hidden_size]


class AttentionPooling(nn.Module):
    """Attention, plain or gated. features: K; hidden: rows of V and U."""

    def __init__(self, features: int, hidden: int = 128, *, gated: bool = False) -> None:
        super().__init__()
        self.value = nn.Linear(features, hidden)
        self.gate = nn.Linear(features, hidden) if gated else None
        self.weight = nn.Linear(hidden, 1)
        self.length = features

    def forward(self, features: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[N, K] -> [bags, K]"""
        hidden = self.value(features).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(features).sigmoid()
        weight = softmax_in_bags(self.weight(hidden)[:, 0].float(), bag, bags)
        return weighted_sum(features.float(), weight, bag, bags)


class DynamicPooling(nn.Module):
    """Routing by agreement with the bag's feature; it has no weights. features: K; rounds: of the routing."""

    def __init__(self, features: int, rounds: int = 3) -> None:
        super().__init__()
        self.rounds = rounds
        self.length = features

    def forward(self, features: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[N, K] -> [bags, K]"""
        features = features.float()
        agreement = features.new_zeros(len(features))
        for number in range(self.rounds):
            pooled = squash(weighted_sum(features, softmax_in_bags(agreement, bag, bags), bag, bags))
            if number + 1 < self.rounds:
                agreement = agreement + (features * pooled[bag]).sum(1)
        return pooled


class PlainPooling(nn.Module):
    """Mean or maximum of each number. features: K."""

    def __init__(self, features: int, kind: Literal["mean", "max"]) -> None:
        super().__init__()
        self.kind = kind
        self.length = features

    def forward(self, features: Tensor, bag: Tensor, bags: int) -> Tensor:
        """[N, K] -> [bags, K]"""
        index = bag[:, None].expand_as(features)
        empty = features.new_zeros(bags, features.shape[1])
        return empty.scatter_reduce(
            0, index, features, "mean" if self.kind == "mean" else "amax", include_self=False
        )


def build_pooling(
    pool: Pooling, features: int, state: int, *, hidden: int = 128, bidirectional: bool = True
) -> nn.Module:
    """The pooling of that name; `length` is what it makes of K features. state: S of the LSTM; hidden: of attention."""
    if pool == "lstm":
        return LSTMPooling(features, state, bidirectional=bidirectional)
    if pool in ("attention", "gated_attention"):
        return AttentionPooling(features, hidden, gated=pool == "gated_attention")
    if pool == "dynamic":
        return DynamicPooling(features)
    if pool in ("mean", "max"):
        return PlainPooling(features, pool)
    raise ValueError(f"pool {pool!r} is none of {', '.join(POOLINGS)}")
