"""FLOT: Scene Flow on Point Clouds Guided by Optimal Transport (Puy, Boulch and Marlet, ECCV 2020).

A feature is learned for each point, cosine distances of features become the cost of transporting mass from the
first cloud to the second, a few iterations of unbalanced entropic optimal transport turn the cost into soft
correspondences, their barycentres into a flow, and a small residual network refines it. Against attention with a
learned temperature (FLOT_0, Eqs. 5 and 8; preset `k0`) the masses, about 1/n for each point, are what is new.

- Eqs. 1-6 and Algorithm 1: `tasks/blocks/optimal_transport.py`. Convolutions: `tasks/blocks/set_conv.py`.
- Eq. 3 multiplies the cost by infinity beyond d_max; exp(-C / eps) is masked there instead (Eq. 4).
- Eq. 6 sends a point without any partner within d_max to the origin; here it gets no flow, and is counted.
- Eq. 7: h is typed R^{n x 3} -> R^{n x c} in the text; it must answer three channels, by a linear layer.
- Eq. 9: `masked_l1`. The text sums over examples; the official code averages over all valid points of a batch,
  as here. There is no loss on the unrefined flow or on T.
- The official code's: what lambda and epsilon are learned as (the paper: "their log values", and 0.03 more for
  epsilon), their start at 0, the edge features, 1e-8 in denominators, no augmentation. The paper calls lambda
  gamma in Sec. 3.3.
- Recipe: that of the study (Sec. 4.3): 40 epochs, n = 2048, batch 4, constant rate. Presets `s` (Sec. 4.4) and `o`
  (Sec. 4.5) are those of the two trainings that are compared with other methods. Tests draw the points 5 times;
  the paper's 15 values are these for each of 3 seeds.
- The table without refinement is measured on the flow before h of the networks trained with it: preset
  `unrefined`, which takes the weights of that trial; `without_h` is trained without h.

The sparse form of T within d_max is not here: in the authors' code T is dense as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn

from datamodules.specs import SceneFlowSpec
from tasks.base import Batch, Claim, Method, Need, Paper, Prediction, Recipe
from tasks.blocks.optimal_transport import barycentric_flow, cosine_cost, transport_plan, within
from tasks.blocks.point_neighbours import pairwise_distance
from tasks.blocks.published_weights import load_renamed, read_checkpoint, state_of
from tasks.blocks.set_conv import NeighbourGraph, SetConv
from tasks.pointcloud.scene_flow import SceneFlow, without_padding

LEAST_EPSILON = 0.03


def masked_l1(flow: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the coordinates of all valid points of a batch (Eq. 9), float32 scalar.

    flow, truth: [B, n, 3]; mask: bool [B, n]. 0 where no point is valid.
    """
    error = (flow.float() - truth.float()).abs() * mask[..., None]
    return error.sum() / (3 * mask.sum()).clamp(min=1)


class FeatureNet(nn.Module):
    """Three set convolutions in a row: signal [B, 3, n] -> [B, 4 width, n]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [SetConv(3, width), SetConv(width, 2 * width), SetConv(2 * width, 4 * width)]
        )

    def forward(self, signal: Tensor, graph: NeighbourGraph) -> Tensor:
        for layer in self.layers:
            signal = layer(signal, graph)
        return signal


def published_names(refined: bool = True) -> dict[str, str]:
    """The authors' parameter names -> this module's.

    `gamma`, `epsilon`; `feat_conv1` to `3` of g and `ref_conv1` to `3` of h, each with fc1 to 3 (weights) and bn1
    to 3 (weights and biases); `fc` of h.
    """
    names = {"gamma": "log_lambda", "epsilon": "log_epsilon"}
    for theirs, ours in (("feat_conv", "features"), ("ref_conv", "refiner"))[: 2 if refined else 1]:
        for layer in range(3):
            for part in range(3):
                here = f"{ours}.layers.{layer}"
                there = f"{theirs}{layer + 1}"
                names[f"{there}.fc{part + 1}.weight"] = f"{here}.convolutions.{part}.weight"
                for kind in ("weight", "bias"):
                    names[f"{there}.bn{part + 1}.{kind}"] = f"{here}.norms.{part}.{kind}"
    if refined:
        names |= {f"fc.{kind}": f"refined_to_flow.{kind}" for kind in ("weight", "bias")}
    return names


class FLOT(Method):
    """Scene flow by unrolled optimal transport.

    iterations: K of Algorithm 1; 0 is FLOT_0. balanced: strict masses (rho = 1) instead of a learned lambda.
    cost: of transport, the learned cosine cost or the points' distance. max_distance: d_max in metres.
    refinement: "on"; "discarded": the flow before h, of the same network trained with h; "off": no h.
    neighbours: of a point in the graph, itself included. width: channels of the first convolution (c = 4 width).
    first_scalars: lambda at the start, and epsilon less its 0.03. At the paper's rate they move by a thousandth a step,
        too slow for a short training: the small profiles begin lower, where epsilon ends in the paper's.
    learning_rate: of Adam; times 0.1 after the part `decay_at` of the training (1: never).
    weights: a checkpoint of the authors to start from (see `load_published_weights`); None: random ones.
    """

    name = "flot"
    task = SceneFlow
    paper = Paper(
        title="FLOT: Scene Flow on Point Clouds Guided by Optimal Transport",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_32",
        code="https://github.com/valeoai/FLOT",
    )
    recipe = Recipe(batch_size=4, max_epochs=40, data={"points": 2048, "draws": 5})
    profiles = {
        "mini": {
            "neighbours": 8,
            "width": 16,
            "first_scalars": 0.03,
            "learning_rate": 0.004,
            "max_epochs": 5,
            "batch_size": 4,
            "data.points": 256,
            "data.draws": 2,
            "validate_every": 0,
        },
        "smoke": {
            "neighbours": 4,
            "width": 4,
            "batch_size": 2,
            "max_epochs": 1,
            "max_steps": 2,
            "data.points": 64,
            "data.draws": 1,
        },
    }
    presets = {
        "k0": {"iterations": 0},
        "k1": {"iterations": 1},
        "k3": {"iterations": 3},
        "k5": {"iterations": 5},
        "unrefined": {"refinement": "discarded", "max_steps": 0},
        "without_h": {"refinement": "off"},
        "balanced": {"balanced": True},
        "euclid": {"cost": "euclid"},
        "s": {"max_epochs": 60, "decay_at": 50 / 60, "batch_size": 1, "data.points": 8192},
        "o": {"max_epochs": 400, "decay_at": 340 / 400},
    }
    baselines = (
        "flot:k0",
        "flot:unrefined",
        "flownet3d",
        "rigid_flow",
        "rigid_flow:nearest",
        "rigid_flow:zero",
    )
    claims = (
        Claim(
            method="flot",
            over="flot:k0",
            measure="epe",
            reported="FT3D_p .0011 against .0026, FT3D_s .0785 against .0811, FT3D_o .1798 against .1834 (Table 1)",
        ),
        Claim(
            method="flot",
            over="flot:unrefined",
            measure="epe",
            reported="FT3D_s .0785 against .1721 (Table 1); on FT3D_p there is no difference (.0011, .0010)",
        ),
    )

    def __init__(
        self,
        spec: SceneFlowSpec,
        *,
        iterations: int = 1,
        balanced: bool = False,
        cost: Literal["cosine", "euclid"] = "cosine",
        max_distance: float = 10.0,
        refinement: Literal["on", "discarded", "off"] = "on",
        neighbours: int = 32,
        width: int = 32,
        first_scalars: float = 1.0,
        learning_rate: float = 1e-3,
        decay_at: float = 1.0,
        weights: str | None = None,
    ) -> None:
        super().__init__(spec)
        if iterations < 0 or neighbours < 1 or width < 1 or max_distance <= 0 or first_scalars <= 0:
            raise ValueError(
                f"iterations {iterations}, neighbours {neighbours}, width {width}, max_distance {max_distance} and "
                f"first_scalars {first_scalars} must be positive (iterations may be 0)"
            )
        if cost not in ("cosine", "euclid") or refinement not in ("on", "discarded", "off"):
            raise ValueError(f"unknown cost {cost!r} or refinement {refinement!r}")
        self.iterations, self.balanced, self.cost = iterations, balanced, cost
        self.max_distance, self.refinement, self.neighbours = max_distance, refinement, neighbours
        self.learning_rate, self.decay_at = learning_rate, decay_at
        self.features = FeatureNet(width) if cost == "cosine" else None
        self.refiner = FeatureNet(width) if refinement != "off" else None
        self.refined_to_flow = nn.Linear(4 * width, 3) if refinement != "off" else None
        self.log_epsilon = nn.Parameter(torch.full((1,), math.log(first_scalars)))
        # FLOT_0 and balanced transport have no use for it; it stays, so that all have the same parameters.
        start = torch.full((1,), math.log(first_scalars))
        self.log_lambda = nn.Parameter(start.clone(), requires_grad=iterations > 0 and not balanced)
        self._tested: list[dict[str, float]] = []
        self._example: dict[str, Tensor] | None = None
        if weights is not None:
            self.load_published_weights(weights)

    # Step 1: soft correspondences (Sec. 3.1)

    @property
    def epsilon(self) -> Tensor:
        """Entropic regularisation, [1]."""
        return self.log_epsilon.exp() + LEAST_EPSILON

    @property
    def power(self) -> Tensor:
        """rho = lambda / (lambda + epsilon), [1]: 1 keeps masses, 0 frees them."""
        if self.balanced:
            return torch.ones_like(self.log_lambda)
        if self.iterations == 0:
            return torch.zeros_like(self.log_lambda)
        regularisation = self.log_lambda.exp()
        return regularisation / (regularisation + self.epsilon)

    def transport(self, first: Tensor, second: Tensor, graph: NeighbourGraph) -> tuple[Tensor, Tensor]:
        """Clouds [B, n, 3], [B, m, 3] -> transport plan and its support, [B, n, m] each."""
        if self.features is None:
            cost = pairwise_distance(first, second)
        else:
            other = NeighbourGraph.of(second, self.neighbours)
            cost = cosine_cost(
                self.features(first.transpose(1, 2), graph), self.features(second.transpose(1, 2), other)
            )
        support = within(first, second, self.max_distance)
        return transport_plan(cost, support, self.epsilon, self.power, self.iterations), support

    # Step 2: flow (Sec. 3.2)

    def refine(self, flow: Tensor, graph: NeighbourGraph) -> Tensor:
        """flow + h(flow) on the graph of the first cloud (Eq. 7), [B, n, 3]."""
        if self.refinement != "on" or self.refiner is None:
            return flow
        hidden = self.refiner(flow.transpose(1, 2), graph)
        return flow + self.refined_to_flow(hidden.transpose(1, 2)).float()

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Clouds [B, n, 3], [B, m, 3] without padding, metres.

        -> flow and unrefined [B, n, 3]; match int64 [B, n], where most mass goes; row_mass [B, n], the mass sent in
        units of 1/n; supported bool [B, n].
        """
        graph = NeighbourGraph.of(first, self.neighbours)
        plan, support = self.transport(first, second, graph)
        supported = support.any(-1)
        unrefined, mass = barycentric_flow(plan, first, second, supported)
        return {
            "flow": self.refine(unrefined, graph),
            "unrefined": unrefined,
            "match": plan.argmax(-1),
            "row_mass": mass * first.shape[1],
            "supported": supported,
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        estimate = without_padding(batch, self)
        loss = masked_l1(estimate["flow"], batch["flow"], batch["mask"])
        numbers = {
            "loss": loss,
            "epsilon": self.epsilon,
            "rho": self.power,
            **self._statistics(estimate, batch),
        }
        self.log_dict(
            {
                f"train/{name}": torch.as_tensor(value).detach().float().mean()
                for name, value in numbers.items()
            },
            batch_size=len(batch["id"]),
        )
        return loss

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=self.learning_rate)
        if self.decay_at >= 1:
            return optimiser
        falls = round(self.decay_at * self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.1 if step >= falls else 1.0)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def predict(self, batch: Batch) -> Prediction:
        estimate = without_padding(batch, self)
        if self._trainer is not None and self.trainer.testing:
            self._tested.append(self._statistics(estimate, batch))
            if self._example is None:
                self._example = _example(estimate, batch)
        kept = ("flow", "match") if self.refinement == "off" else ("flow", "unrefined", "match")
        return {name: estimate[name] for name in kept}

    # What the paper reports of the trained transport

    @torch.no_grad()
    def _statistics(self, estimate: Mapping[str, Tensor], batch: Batch) -> dict[str, float]:
        """End-point errors of both flows in metres over valid points, masses sent (in 1/n), shares in percent."""
        valid, real = batch["mask"], batch["first_valid"]
        error = {
            name: (estimate[name].float() - batch["flow"]).norm(dim=-1)[valid].mean()
            for name in ("flow", "unrefined")
        }
        numbers = {
            "epe": error["flow"],
            "epe_unrefined": error["unrefined"],
            "row_mass_mean": estimate["row_mass"][real].mean(),
            "row_mass_min": estimate["row_mass"][real].min(),
            "unsupported": 100 * (~estimate["supported"][real]).float().mean(),
        }
        known = batch["match"] >= 0
        if bool(known.any()):
            numbers["match_hit"] = 100 * (estimate["match"] == batch["match"])[known].float().mean()
        return {name: float(value) for name, value in numbers.items()}

    def on_test_start(self) -> None:
        self._tested, self._example = [], None

    def diagnostics(self) -> dict[str, float]:
        """epsilon and rho; of the last test the mass that points send, in units of 1/n, and the share of points (%)
        that have no partner within d_max."""
        numbers = {"epsilon": self.epsilon.item(), "rho": self.power.item()}
        if self._tested:
            for name in ("row_mass_mean", "unsupported"):
                numbers[name] = float(np.mean([batch[name] for batch in self._tested]))
            numbers["row_mass_min"] = min(batch["row_mass_min"] for batch in self._tested)
        return numbers

    def figures(self) -> dict[str, np.ndarray]:
        """Fig. 2: where most of a point's mass goes, on the first scene of the test."""
        return {"correspondences": _correspondences(self._example)} if self._example is not None else {}

    # Weights of others

    @classmethod
    def needs(cls, options: Mapping[str, Any]) -> Sequence[Need]:
        """What discards the refinement takes the network that was trained with it."""
        if options.get("refinement", "on") != "discarded":
            return ()
        shared = ("iterations", "balanced", "cost", "max_distance", "neighbours", "width", "weights")
        shared += ("first_scalars", "learning_rate", "decay_at")
        return (
            Need(
                role="refined", method="flot", options={key: options[key] for key in shared if key in options}
            ),
        )

    def adopt(self, role: str, trained: Method) -> None:
        if role != "refined":
            super().adopt(role, trained)
        if not isinstance(trained, FLOT):
            raise TypeError(f"flot takes the weights of another flot, not of {type(trained).__name__}")
        self.load_state_dict(trained.state_dict())

    def load_published_weights(self, path: str | Path) -> None:
        """Load a checkpoint of the official code: a dict with the state under `model` (names: `published_names`)
        and K under `nb_iter`.

        Raises FileNotFoundError, and ValueError where it was trained with another K, or lists the keys that are
        missing, unexpected or of another shape.
        """
        if self.features is None or self.refiner is None:
            raise ValueError("the published weights are of the learned cost with refinement")
        checkpoint = read_checkpoint(path)
        iterations = checkpoint.get("nb_iter", self.iterations)
        if iterations != self.iterations:
            raise ValueError(f"{path} was trained with iterations={iterations}, not {self.iterations}")
        load_renamed(self, state_of(checkpoint, path), published_names())


def _example(estimate: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    own = batch["first_valid"][0]
    scene = {
        "first": batch["first"][0][own],
        "second": batch["second"][0][batch["second_valid"][0]],
        "flow": batch["flow"][0][own],
        "mask": batch["mask"][0][own],
        "match": estimate["match"][0][own],
    }
    return {name: value.detach().cpu() for name, value in scene.items()}


def _correspondences(scene: Mapping[str, Tensor]) -> np.ndarray:
    """Lines from points to the points where most of their mass goes, from above; uint8 [H, W, 3]."""
    step = max(1, len(scene["first"]) // 400)
    first, target = scene["first"][::step], scene["second"][scene["match"]][::step]
    miss = (
        (target - first - scene["flow"][::step]).norm(dim=-1).masked_fill(~scene["mask"][::step], torch.nan)
    )
    figure = Figure(figsize=(11, 8), dpi=80)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.scatter(
        *scene["second"][:, [0, 2]].T.numpy(), s=10, c="tab:orange", linewidths=0, label="second cloud"
    )
    axis.scatter(*first[:, [0, 2]].T.numpy(), s=10, c="tab:blue", linewidths=0, label="first cloud")
    way = (target - first)[:, [0, 2]].T.numpy()
    lines = axis.quiver(
        *first[:, [0, 2]].T.numpy(), *way, angles="xy", scale_units="xy", scale=1, width=0.0015, cmap="turbo"
    )
    lines.set_array(miss.numpy())
    lines.set_clim(0, 1)
    figure.colorbar(lines, ax=axis, label="distance of that point from the true place (m)", extend="max")
    axis.set(aspect="equal", xlabel="x (m)", ylabel="z, forwards (m)")
    axis.set_title("From each point to the point of the second cloud that gets most of its mass, from above")
    axis.legend(loc="lower right")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
