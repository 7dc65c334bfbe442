"""Set convolution on a fixed neighbour graph: a small PointNet over each point's neighbours, without downsampling.

After PointNet++ (Qi et al., NeurIPS 2017) as FLOT (Puy et al., ECCV 2020) uses it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.blocks.point_neighbours import gather, nearest

SLOPE = 0.1


class NeighbourGraph(NamedTuple):
    """index: int64 [B, n, k], the neighbours of each point, itself among them; edge: [B, 3, n, k], p_j - p_i."""

    index: Tensor
    edge: Tensor

    @classmethod
    def of(cls, points: Tensor, neighbours: int) -> NeighbourGraph:
        """The graph of clouds [B, n, 3]; all n points are neighbours where there are no more than `neighbours`."""
        index = nearest(points, points, neighbours)
        coordinates = points.transpose(1, 2)
        return cls(index, gather(coordinates, index) - coordinates[..., None])


class SetConv(nn.Module):
    """Signal [B, inputs, n] -> [B, outputs, n].

    A neighbour's signal and its edge go through three times (1x1 convolution without bias, instance norm over
    points and neighbours, LeakyReLU 0.1); then the maximum over neighbours. Instance norm keeps no running
    statistics: training and evaluation are the same, and no sample depends on another.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs = inputs
        widths = (inputs + 3, outputs, outputs, outputs)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 1, bias=False) for before, after in itertools.pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.InstanceNorm2d(outputs, affine=True) for _ in range(3))

    def forward(self, signal: Tensor, graph: NeighbourGraph) -> Tensor:
        batch, _, n, k = graph.edge.shape
        first, second, third = (convolution.weight.flatten(1) for convolution in self.convolutions)
        # Channels before samples: then a 1x1 convolution is one matrix product, [O, C] @ [C, B n k].
        # The first is linear in the signal: applied before gathering it costs a k-th.
        of_signal = (first[:, : self.inputs] @ signal).transpose(0, 1)  # [O, B, n]
        index = graph.index.view(1, batch, n * k).expand(len(first), -1, -1)
        of_edge = first[:, self.inputs :] @ graph.edge.transpose(0, 1).reshape(3, -1)
        x = self._activate(of_signal.gather(2, index).flatten(1) + of_edge, 0, batch)
        x = self._activate(second @ x, 1, batch)
        x = self._activate(third @ x, 2, batch)
        return x.view(-1, batch, n, k).amax(-1).transpose(0, 1)

    def _activate(self, x: Tensor, layer: int, batch: int) -> Tensor:
        """Instance norm of [O, B n k] over n k for each channel and sample, and LeakyReLU."""
        norm = self.norms[layer]
        values = x.view(1, len(x) * batch, -1)
        weight, bias = norm.weight.repeat_interleave(batch), norm.bias.repeat_interleave(batch)
        if values.shape[-1] == 1:  # a single value is its own mean
            values = torch.zeros_like(values) + bias[:, None]
        else:
            values = F.instance_norm(values, weight=weight, bias=bias, eps=norm.eps)
        return F.leaky_relu(values, SLOPE, inplace=True).view(x.shape)
