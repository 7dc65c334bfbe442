"""Pattern-Net's layers (Orderly Disorder in Point Cloud Domain, ECCV 2020, Sec. 3.2-3.3) up to the shape descriptor.

Cloning decomposition -> searching and learning relations inside each clone, four times -> clone descriptors psi_l and,
over all clones, the linkage patterns' global descriptor phi -> the linear mapping of one to the other.
Features stand last: [B, N, C].
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tasks.blocks.edge_conv import EdgeConv, Metric, feature_neighbours
from tasks.blocks.point_mlp import PointMLP

Descriptor = Literal["both", "clones", "global"]
Graph = Literal["dynamic", "static"]
OCCUPANCY_CELLS = 8


class Clones(NamedTuple):
    """index: which points are in which clone, int64 [B, L, N]; valid: bool [L, N], False where a clone is one short."""

    index: Tensor
    valid: Tensor


class Description(NamedTuple):
    """psi: clone descriptors [B, L, D]; phi: the global one [B, D]."""

    psi: Tensor
    phi: Tensor


# Cloning decomposition (CD)


def decompose(order: Tensor, clones: int, remainder: Literal["drop", "share"]) -> Clones:
    """Cut permutations int64 [B, M] into disjoint groups of M / L points (Eqs. 3 and 4).

    remainder: of M that L doesn't divide. "drop" leaves the last points out, "share" gives the first groups one more
    each; the others then end in an entry that isn't valid. Raises `ValueError` for fewer points than clones.
    """
    points = order.shape[1]
    if not 1 <= clones <= points:
        raise ValueError(f"cannot cut {points} points into {clones} clones")
    size, over = divmod(points, clones)
    if remainder == "drop" or over == 0:
        index = order[:, : clones * size].reshape(len(order), clones, size)
        return Clones(index, torch.ones(clones, size, dtype=torch.bool, device=order.device))
    group = torch.arange(clones, device=order.device)
    start = group * size + group.clamp(max=over)
    place = torch.arange(size + 1, device=order.device)
    valid = place < size + (group < over)[:, None]
    position = (start[:, None] + place).clamp(max=points - 1)
    return Clones(order[:, position], valid)


def random_orders(batch: int, points: int, device: torch.device) -> Tensor:
    """A random permutation an example from torch's global generator, int64 [B, M]: a new one at each call."""
    return torch.rand(batch, points, device=device).argsort(1)


def fixed_order(batch: int, points: int, device: torch.device, vote: int = 0) -> Tensor:
    """One permutation for all examples that depends on M and `vote` alone, int64 [B, M]: for inference."""
    generator = torch.Generator().manual_seed(vote)
    return torch.randperm(points, generator=generator).to(device).expand(batch, -1)


def clone_entropy(points: Tensor, clones: Clones) -> Tensor:
    """Shannon entropy H of each clone (Eq. 5) in bits: [B, M, 3] -> [B, L].

    Of its occupancy histogram on a grid of 8 x 8 x 8 cells over the cube that bounds the cloud.
    """
    low = points.amin(1, keepdim=True)
    side = (points.amax(1, keepdim=True) - low).amax(-1, keepdim=True).clamp(min=1e-8)
    cell = ((points - low) / side * OCCUPANCY_CELLS).long().clamp(0, OCCUPANCY_CELLS - 1)
    cell = (cell[..., 0] * OCCUPANCY_CELLS + cell[..., 1]) * OCCUPANCY_CELLS + cell[..., 2]
    batch, groups, size = clones.index.shape
    of_clone = cell.gather(1, clones.index.flatten(1)).view(batch, groups, size)
    weight = clones.valid.to(points.dtype).expand(batch, -1, -1).contiguous()
    count = torch.zeros(batch, groups, OCCUPANCY_CELLS**3, dtype=points.dtype, device=points.device)
    share = count.scatter_add(2, of_clone, weight) / weight.sum(2, keepdim=True)
    return -torch.special.xlogy(share, share).sum(2) / torch.log(torch.tensor(2.0))


# Searching and learning relations (SR, LR), linkage patterns (LP)


class CloneEncoder(nn.Module):
    """A cloud and its decomposition to clone and global descriptors of length 4 `width`.

    neighbours: K, of each point inside its clone, itself included. metric: of the graphs; first_metric: of the first,
    on coordinates. graph: sought anew on the features before each edge layer, or once. linkage_layers: of LP's MLP.
    """

    def __init__(
        self,
        *,
        neighbours: int,
        metric: Metric,
        first_metric: Metric,
        graph: Graph,
        width: int,
        linkage_layers: int,
    ) -> None:
        super().__init__()
        if graph not in ("dynamic", "static") or {metric, first_metric} - {"hilbert", "euclid"}:
            raise ValueError(f"unknown graph {graph!r}, metric {metric!r} or first_metric {first_metric!r}")
        if min(neighbours, width, linkage_layers) < 1:
            raise ValueError(
                f"neighbours {neighbours}, width {width} and linkage_layers {linkage_layers} must be positive"
            )
        self.neighbours, self.metric, self.first_metric, self.graph = neighbours, metric, first_metric, graph
        self.length = 4 * width
        self.relations = nn.ModuleList([EdgeConv(inputs, width) for inputs in (3, width, width, width)])
        self.linkage = nn.ModuleList([PointMLP(self.length, self.length) for _ in range(linkage_layers)])

    def forward(self, points: Tensor, clones: Clones) -> Description:
        """points [B, M, 3] -> descriptors. Batch statistics are over the points of all clones of all examples."""
        batch, groups, size = clones.index.shape
        chosen = clones.index.flatten(1)[..., None].expand(-1, -1, 3)
        features = points.gather(1, chosen).view(batch * groups, size, 3)
        valid = None
        if not bool(clones.valid.all()):
            valid = clones.valid.expand(batch, -1, -1).reshape(batch * groups, size)
        index, maps = None, []
        for relation in self.relations:
            if index is None or self.graph == "dynamic":
                metric = self.first_metric if index is None else self.metric
                index = feature_neighbours(features, self.neighbours, metric, valid)
            features = relation(features, index, valid)
            maps.append(features)
        low = torch.cat(maps, -1)
        psi = _most(low, valid).view(batch, groups, self.length)
        # All features of all clones (LP).
        patterns = low
        for layer in self.linkage:
            patterns = layer(patterns, valid)
        phi = _most(patterns, valid).view(batch, groups, self.length).amax(1)
        return Description(psi, phi)


def _most(features: Tensor, valid: Tensor | None) -> Tensor:
    """Maximum over the valid points: [B, N, C] -> [B, C]."""
    if valid is not None:
        features = features.masked_fill(~valid[..., None], -torch.inf)
    return features.amax(1)


def shape_descriptor(description: Description, kept: Descriptor = "both") -> Tensor:
    """psi*, the maximum over the clones' descriptors, before phi: [B, 2 D]; or one of them, [B, D]."""
    best = description.psi.amax(1)
    if kept == "both":
        return torch.cat([best, description.phi.to(best.dtype)], -1)
    return best if kept == "clones" else description.phi


# Linear mapping


def mapping_weights(psi: Tensor, phi: Tensor, ridge: float) -> Tensor:
    """omega = (Psi^T Psi)^-1 Psi^T phi of each example, which maps its clones to the whole: float32 [B, L].

    psi: [B, L, D]; phi: [B, D]. The more alike the clones become, the closer Psi^T Psi is to a singular matrix:
    `ridge` times its mean diagonal entry is added to its diagonal. Gradients flow through all of it.
    """
    with torch.autocast(psi.device.type, enabled=False):
        psi, phi = psi.float(), phi.float()
        gram = psi @ psi.transpose(1, 2)
        mean = gram.diagonal(dim1=1, dim2=2).mean(-1).clamp(min=1e-12)
        eye = torch.eye(psi.shape[1], device=psi.device)
        return torch.linalg.solve(gram + ridge * mean[:, None, None] * eye, (psi @ phi[..., None])).squeeze(
            -1
        )


def mapping_loss(omega: Tensor) -> Tensor:
    """sigma(omega) of Eq. 9: the population standard deviation over the L entries [B, L], averaged over examples.

    1e-12 is added under the root, whose slope at 0 is infinite.
    """
    return (omega.var(dim=1, unbiased=False) + 1e-12).sqrt().mean()
