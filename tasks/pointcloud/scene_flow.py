"""Scene flow on point clouds: where each point of a cloud is at the next instant.

Batch
    first        float32 [B, n, 3]   points at time t, metres
    second       float32 [B, m, 3]   points at time t + 1; in general not the same points moved
    flow         float32 [B, n, 3]   first + flow is where the points of `first` are at t + 1
    mask         bool [B, n]         whether the flow is valid (not occluded, not padding)
    match        int64 [B, n]        the point of `second` that is the very point moved; -1: none, or unknown
    first_valid  bool [B, n]         False: padding, which a scene with fewer points than others has at its end
    second_valid bool [B, m]
    id           list[str]
Prediction
    flow         float [B, n, 3]
    unrefined    float [B, n, 3]     optional: the flow before a method's refinement, judged beside it
    match        int64 [B, n]        optional: the partner in `second` that the method would name
Measures, of each example over its valid points, then the mean over examples
    epe                              mean end-point error e, metres
    as, ar                           strict and relaxed accuracy: share of points with e < 0.05 m or 5 %,
                                     e < 0.1 m or 10 % of the true flow's length
    outliers                         share of points with e > 0.3 m or 10 %
    epe_unrefined ... outliers_unrefined   the same of `unrefined`, where there is one
    match_hit                        share of points with a known match that is named
An example without a valid point has no score and is left out.

Results depend on the number of points drawn: they compare only for one n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from datamodules.specs import SceneFlowSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.scene_flow import MatchHits, SceneFlowScores, scene_flow_scores


class SceneFlowBatch(TypedDict):
    """What a batch holds; shapes and units in the module's docstring."""

    first: Tensor
    second: Tensor
    flow: Tensor
    mask: Tensor
    match: Tensor
    first_valid: Tensor
    second_valid: Tensor
    id: list[str]


class SceneFlowPrediction(TypedDict, total=False):
    """What a method answers; `flow` always."""

    flow: Tensor
    unrefined: Tensor
    match: Tensor


def without_padding(
    batch: Batch, estimate: Callable[[Tensor, Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """`estimate(first, second)` on clouds without padding: at once where there is none, else sample by sample.

    estimate: [B, n, 3], [B, m, 3] -> tensors [B, n, ...] by name. -> the same, with zeros at padded points.
    """
    first, second = batch["first"], batch["second"]
    if bool(batch["first_valid"].all()) and bool(batch["second_valid"].all()):
        return estimate(first, second)
    rows = [
        estimate(p[None, p_valid], q[None, q_valid])
        for p, q, p_valid, q_valid in zip(
            first, second, batch["first_valid"], batch["second_valid"], strict=True
        )
    ]
    return {name: torch.cat([_padded(row[name], first.shape[1]) for row in rows]) for name in rows[0]}


def _padded(values: Tensor, points: int) -> Tensor:
    """[1, n, ...] -> [1, points, ...] with zeros behind."""
    return F.pad(values, (0, 0) * (values.ndim - 2) + (0, points - values.shape[1]))


class SceneFlowJudge(Judge):
    """Scores flows, flows before refinement and named partners, the last two where a method gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.refined = SceneFlowScores()
        self.unrefined = SceneFlowScores()
        self.match = MatchHits()

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` where shapes don't match."""
        self.refined.update(prediction["flow"], batch["flow"], batch["mask"])
        if "unrefined" in prediction:
            self.unrefined.update(prediction["unrefined"], batch["flow"], batch["mask"])
        if "match" in prediction:
            self.match.update(prediction["match"], batch["match"])

    def compute(self) -> dict[str, float]:
        scores = self.refined.compute()
        if self.unrefined.update_called:
            scores |= {f"{name}_unrefined": value for name, value in self.unrefined.compute().items()}
        if self.match.update_called and int(self.match.known):
            scores["match_hit"] = float(self.match.compute())
        return scores


class SceneFlow(Task):
    """Supervised scene flow from two point clouds."""

    name = "scene-flow"
    family = "pointcloud"
    measures = (
        Measure("epe", False, "m", 4),
        Measure("as", True, "%", 2),
        Measure("ar", True, "%", 2),
        Measure("outliers", False, "%", 2),
        Measure("epe_unrefined", False, "m", 4),
        Measure("as_unrefined", True, "%", 2),
        Measure("ar_unrefined", True, "%", 2),
        Measure("outliers_unrefined", False, "%", 2),
        Measure("match_hit", True, "%", 2),
    )

    @classmethod
    def judge(cls, spec: Spec) -> SceneFlowJudge:
        _scenes(spec)
        return SceneFlowJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A scene each, from above and from the front: both clouds with the true flow; the predicted flow, red
        where it is wrong; the first cloud moved by it over the second one."""
        _scenes(spec)
        pictures = []
        for number in range(min(limit, len(batch["id"]))):
            valid = batch["first_valid"][number]
            tensors = {
                "first": batch["first"][number][valid],
                "second": batch["second"][number][batch["second_valid"][number]],
                "truth": batch["flow"][number][valid],
                "mask": batch["mask"][number][valid],
                "flow": prediction["flow"][number][valid],
            }
            arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
            pictures.append(_picture(arrays, batch["id"][number]))
        return pictures


VIEWS = (("from above", 0, 2, "x (m)", "z, forwards (m)"), ("from the front", 0, 1, "x (m)", "y, up (m)"))
DRAWN_POINTS = 1500
WORST = 0.5


def _picture(scene: dict[str, np.ndarray], title: str) -> np.ndarray:
    """uint8 [H, W, 3] of one scene: first, second, truth, flow float [n, 3], mask float [n]."""
    epe = _epe(scene)
    first, second = scene["first"][:DRAWN_POINTS], scene["second"][:DRAWN_POINTS]
    truth, flow = scene["truth"][:DRAWN_POINTS], scene["flow"][:DRAWN_POINTS]
    known = scene["mask"][:DRAWN_POINTS] > 0
    error = np.linalg.norm(flow - truth, axis=1)
    figure = Figure(figsize=(16, 10), dpi=80)
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(2, 3, height_ratios=(1.7, 1))
    figure.subplots_adjust(left=0.05, right=0.9, bottom=0.09, top=0.9, wspace=0.16, hspace=0.26)
    size = float(np.clip(4000 / max(len(first), 1), 2, 14))
    heads = (
        "true flow (black) from the first cloud (blue) to the second (orange)",
        f"predicted flow, coloured by its error (EPE {epe:.3f} m)",
        "first cloud moved by the prediction, over the second (grey)",
    )
    shaded = None
    for row, (view, across, up, right, upwards) in enumerate(VIEWS):
        for column in range(3):
            axis = axes[row, column]
            arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.0025}
            start = first[:, across], first[:, up]
            other = second[:, across], second[:, up]
            if column == 0:
                axis.scatter(*other, s=size, c="tab:orange", linewidths=0)
                axis.scatter(*start, s=size, c="tab:blue", linewidths=0)
                axis.quiver(
                    *(part[known] for part in start), truth[known, across], truth[known, up], **arrows
                )
                hidden = tuple(part[~known] for part in start)
                axis.scatter(*hidden, s=4 * size, marker="x", c="tab:red", linewidths=0.8)
            elif column == 1:
                vectors = axis.quiver(*start, flow[:, across], flow[:, up], **arrows, cmap="turbo")
                vectors.set_array(np.where(known, error, np.nan))
                vectors.set_clim(0, WORST)
            else:
                axis.scatter(*other, s=size, c="0.75", linewidths=0)
                moved = (start[0] + flow[:, across])[known], (start[1] + flow[:, up])[known]
                shaded = axis.scatter(*moved, s=size, c=error[known], cmap="turbo", linewidths=0)
                shaded.set_clim(0, WORST)
            axis.set(aspect="equal", xlabel=right, ylabel=upwards, title=f"{heads[column]}\n{view}")
            axis.title.set_fontsize(10)
            points = np.concatenate([first, second])[:, [across, up]]
            low, high = points.min(0) - 1, points.max(0) + 1
            axis.set_xlim(low[0], high[0])
            axis.set_ylim(low[1], high[1])
    figure.colorbar(
        shaded, cax=figure.add_axes((0.925, 0.25, 0.012, 0.5)), label="end-point error (m)", extend="max"
    )
    if not known.all():
        figure.text(0.05, 0.02, "red crosses: points without a valid flow, which count nowhere")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _epe(scene: dict[str, np.ndarray]) -> float:
    flow, truth, mask = (torch.from_numpy(scene[name])[None] for name in ("flow", "truth", "mask"))
    return float(scene_flow_scores(flow, truth, mask > 0)[0, 0])


def _scenes(spec: Spec) -> SceneFlowSpec:
    if not isinstance(spec, SceneFlowSpec):
        raise TypeError(f"scene flow needs a SceneFlowSpec, got {type(spec).__name__}")
    return spec
