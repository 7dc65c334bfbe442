"""Scores of instances that were learnt from bags: purity of clusters, and what is said of single instances."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def cluster_purity(cluster: Tensor, label: Tensor) -> float:
    """Mean over the clusters of the share of their commonest label: (1/K) sum_k max_c |k and c| / |k|.

    cluster, label: int64 [N]. Clusters that nothing belongs to don't count. Unlike the purity of all samples together,
    (1/N) sum_k max_c |k and c|, a small mixed cluster counts as much as a large pure one. -> in 0..1

    >>> cluster_purity(torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([3, 3, 3, 3, 3, 5]))
    0.75
    """
    if cluster.shape != label.shape or cluster.ndim != 1 or not len(cluster):
        raise ValueError(
            f"cluster and label must be [N], of one length, got {tuple(cluster.shape)} and {tuple(label.shape)}"
        )
    _, cluster = cluster.unique(return_inverse=True)
    _, label = label.unique(return_inverse=True)
    classes = int(label.max()) + 1
    counts = torch.bincount(cluster * classes + label, minlength=(int(cluster.max()) + 1) * classes)
    counts = counts.view(-1, classes).double()
    return float((counts.max(dim=1).values / counts.sum(dim=1)).mean())


def clusters_of(features: Tensor, count: int) -> Tensor:
    """K-means (the best of ten starts, always the same ones): float [N, D] -> int64 [N] in 0..count-1."""
    from sklearn.cluster import KMeans

    if len(features) < count:
        raise ValueError(f"{len(features)} features cannot be split into {count} clusters")
    found = KMeans(count, n_init=10, random_state=0).fit_predict(features.detach().double().cpu().numpy())
    return torch.from_numpy(found).long().to(features.device)


class Gathered(Metric):
    """Gathers tensors [N, ...] by name over batches and processes.

    names: which; every update gives all of them.
    """

    full_state_update = False

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_state(f"of_{name}", default=[], dist_reduce_fx="cat")

    def update(self, **values: Tensor) -> None:
        """Tensors of one length by name."""
        if set(values) != set(self.names) or len({len(value) for value in values.values()}) > 1:
            shapes = {name: tuple(value.shape) for name, value in values.items()}
            raise ValueError(f"expected {', '.join(self.names)} of one length, got {shapes}")
        for name, value in values.items():
            getattr(self, f"of_{name}").append(value.detach())

    def compute(self) -> dict[str, Tensor]:
        """Everything that was taken in, by name."""
        return {name: dim_zero_cat(getattr(self, f"of_{name}")) for name in self.names}


def true_rates(positive: Tensor, truth: Tensor) -> tuple[float, float]:
    """Shares of the true that are called positive, and of the untrue that are not: bool [N] each -> in 0..1; NaN
    where there are none.

    >>> true_rates(torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False]))
    (0.5, 0.5)
    """
    if positive.shape != truth.shape or positive.dtype != torch.bool or truth.dtype != torch.bool:
        raise ValueError(
            f"expected two bool [N], got {positive.dtype} {tuple(positive.shape)} and {truth.dtype}"
        )
    return float(positive[truth].double().mean()), float((~positive[~truth]).double().mean())
