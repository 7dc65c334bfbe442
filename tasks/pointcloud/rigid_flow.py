"""`rigid_flow`: scene flow without learning.

`motion="icp"`: one rigid motion for the whole scene, by the iterative closest point method (Besl and McKay,
"A Method for Registration of 3-D Shapes", PAMI 1992): each point is paired with its nearest one, and the rotation and
translation that fit the pairs best follow from an SVD (Kabsch); pairs further apart than `max_distance` don't count.
`motion="nearest"`: each point goes to the nearest point of the second cloud. `motion="zero"`: nothing moves.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datamodules.specs import SceneFlowSpec
from tasks.base import Batch, Method, Paper, Prediction, Recipe
from tasks.blocks.point_neighbours import nearest
from tasks.pointcloud.scene_flow import SceneFlow, without_padding


def fit_rigid(source: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation R and translation t that minimise sum_i w_i |R source_i + t - target_i|^2.

    source, target: [B, n, 3]; weight: [B, n], not negative. -> [B, 3, 3] with determinant 1, [B, 3]. Where all
    weights are 0, R = 1 and t = 0.
    """
    share = (weight / weight.sum(1, keepdim=True).clamp(min=1e-12))[..., None]
    source_mean, target_mean = (share * source).sum(1), (share * target).sum(1)
    covariance = (share * (source - source_mean[:, None])).transpose(1, 2) @ (target - target_mean[:, None])
    u, _, vh = torch.linalg.svd(covariance)
    v = vh.transpose(1, 2)
    sign = torch.ones_like(source_mean)
    sign[:, 2] = torch.sign(torch.linalg.det(v @ u.transpose(1, 2)))  # a reflection is no rotation
    rotation = (v * sign[:, None]) @ u.transpose(1, 2)
    rotation = torch.where(weight.sum(1)[:, None, None] > 0, rotation, torch.eye(3).to(rotation))
    return rotation, target_mean - (rotation @ source_mean[..., None])[..., 0]


def rigid_icp(first: Tensor, second: Tensor, iterations: int, max_distance: float) -> Tensor:
    """The flow [B, n, 3] of the one rigid motion that brings [B, n, 3] onto [B, m, 3]; double precision inside."""
    start, target = first.double(), second.double()
    moved = start
    for _ in range(iterations):
        paired = _paired(moved, target)
        weight = ((paired - moved).norm(dim=-1) < max_distance).double()
        rotation, translation = fit_rigid(moved, paired, weight)
        moved = moved @ rotation.transpose(1, 2) + translation[:, None]
    return (moved - start).float()


def _paired(first: Tensor, second: Tensor) -> Tensor:
    """The point of `second` nearest to each of `first`, [B, n, 3]."""
    return second.gather(1, nearest(first, second, 1).expand(-1, -1, 3))


class RigidFlow(Method):
    """See the module's docstring. iterations, max_distance (metres): of ICP."""

    name = "rigid_flow"
    task = SceneFlow
    paper = Paper(title="Rigid ICP, nearest neighbour and zero flow (trivial predictors)", venue="none")
    recipe = Recipe(max_steps=0, validate_every=0, data={"points": 2048, "draws": 5})
    profiles = {
        "mini": {"data.points": 256, "data.draws": 2},
        "smoke": {"data.points": 64, "data.draws": 1},
    }
    presets = {"zero": {"motion": "zero"}, "nearest": {"motion": "nearest"}}

    def __init__(
        self,
        spec: SceneFlowSpec,
        *,
        motion: Literal["icp", "nearest", "zero"] = "icp",
        iterations: int = 30,
        max_distance: float = 2.0,
    ) -> None:
        super().__init__(spec)
        if motion not in ("icp", "nearest", "zero") or iterations < 1 or max_distance <= 0:
            raise ValueError(
                f"motion {motion!r} must be icp, nearest or zero; iterations {iterations} and max_distance "
                f"{max_distance} positive"
            )
        self.motion, self.iterations, self.max_distance = motion, iterations, max_distance

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> None:
        return None

    def predict(self, batch: Batch) -> Prediction:
        return without_padding(batch, self._estimate)

    def _estimate(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        if self.motion == "zero":
            return {"flow": torch.zeros_like(first)}
        if self.motion == "icp":
            return {"flow": rigid_icp(first, second, self.iterations, self.max_distance)}
        return {"flow": _paired(first, second) - first}
