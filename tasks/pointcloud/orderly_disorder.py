"""Pattern-Net: Orderly Disorder in Point Cloud Domain (Ghahremani et al., ECCV 2020), classification.

A cloud is cut at random into L disjoint subsets, clones, that show the same object. One network of edge convolutions
describes each clone by itself; another descriptor is made of all clones together. What differs between clones can be
no pattern of the object: the loss asks that each contributes alike to the linear combination that makes the global
descriptor. Trained on clean clouds alone, it is to tolerate noise in the test under which kNN networks (DGCNN) fail.

- Eqs. 3-5, 7, 8, the layers CD, SR, LR and LP and the linear mapping: `orderly_disorder_network.py` and
  `tasks/blocks/edge_conv.py`. Eq. 9: `total_loss`.
- Eq. 5, equal entropy of the clones, isn't enforced: chance is said to provide it. Diagnostics measure it.
- sigma in Eq. 9 is the standard deviation of omega = Psi^+ phi, no distance of phi from Psi omega; the pseudo-inverse
  is solved with a small ridge instead of the paper's SVD, whose gradient explodes for clones that are alike.

No code was published, and Fig. 4 with the layers' sizes is a drawing. Chosen here, with DGCNN as the model it follows:
- M that L doesn't divide loses its remainder; decompositions are drawn anew for every example and step.
- The graph is sought anew before each edge layer ("dynamic link"), and a point is its own first neighbour.
- An edge is [x_i, x_j - x_i]; leaky ReLU 0.2; layers without bias but the last. psi_l is the maximum over the clone's
  points of its four concatenated maps; LP is one MLP 256 -> 256 ("several": `linkage_layers`). So it has 299,432
  parameters for 40 classes, with a second LP layer 365,480; Table 4 says 399k.
- sigma is a population standard deviation (0 for L = 1). lambda is "determined by the smoothing label's value": equal
  to it, 0.2.
- Rotation about the vertical, scale and shift as in `point_augmentation.py`; the decomposition shuffles the points.
- Recipe: SGD, 0.1 falling to 0.001 along a cosine, 250 epochs, batches of 32. 2,048 points, those of the noise table.
- In the test one decomposition, the same for all examples; `votes` of them are averaged for another row (`votes10`).
- In the first layer Eq. 8 compares directions from the centre alone, points on one ray are equal. So it is written, and
  the default; `first_metric` says otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from datamodules.specs import PointClassesSpec
from tasks.base import Batch, Claim, Method, Paper, Prediction, Recipe
from tasks.blocks.cosine_schedule import Optimiser, cosine_optimiser
from tasks.blocks.edge_conv import Metric
from tasks.blocks.point_augmentation import turn_scale_shift
from tasks.blocks.point_mlp import PointMLP
from tasks.pointcloud.orderly_disorder_network import (
    CloneEncoder,
    Clones,
    Descriptor,
    Graph,
    clone_entropy,
    decompose,
    fixed_order,
    mapping_loss,
    mapping_weights,
    random_orders,
    shape_descriptor,
)
from tasks.pointcloud.point_classification import PointClassification, point_classes_of


def total_loss(
    logits: Tensor, label: Tensor, sigma: Tensor, mapping_weight: float, smoothing: float
) -> Tensor:
    """Cross-entropy with smoothed labels plus lambda sigma(omega) (Eq. 9), float32 scalar.

    logits: [B, C]; label: [B]; sigma: scalar; mapping_weight: lambda.
    """
    return cross_entropy(logits.float(), label, label_smoothing=smoothing) + mapping_weight * sigma


class OrderlyDisorder(Method):
    """Pattern-Net for classification.

    clones: L. neighbours: K. metric, first_metric: of the neighbours in feature space and of the coordinates.
    graph: sought before each edge layer, or once. width: channels of an edge layer; descriptors are 4 times as long.
    linkage_layers: of the MLP of linkage patterns. descriptor: what is classified, psi* and phi or one of them.
    mapping_weight: lambda. smoothing: of the labels. ridge: of the pseudo-inverse, relative.
    votes: decompositions whose logits are averaged in the test.
    """

    name = "orderly_disorder"
    task = PointClassification
    paper = Paper(
        title="Orderly Disorder in Point Cloud Domain",
        venue="ECCV 2020",
        url="https://doi.org/10.1007/978-3-030-58604-1_30",
    )
    recipe = Recipe(batch_size=32, max_epochs=250, validate_every=0, data={"points": 2048})
    profiles = {
        "mini": {
            "neighbours": 8,
            "width": 32,
            "dropout": 0.2,
            "optimiser": "adam",
            "lr": 2e-3,
            "final_lr": 2e-5,
            "max_epochs": 18,
            "batch_size": 16,
            "data.points": 256,
        },
        "smoke": {
            "neighbours": 4,
            "width": 8,
            "max_epochs": 1,
            "max_steps": 2,
            "batch_size": 8,
            "data.points": 64,
        },
    }
    presets = {
        "uncloned": {"clones": 1},
        "unmapped": {"mapping_weight": 0.0},
        "euclid": {"metric": "euclid", "first_metric": "euclid"},
        "euclid_first": {"first_metric": "euclid"},
        "static": {"graph": "static"},
        "clones_only": {"descriptor": "clones"},
        "global_only": {"descriptor": "global"},
        "three_clones": {"clones": 3},
        "five_clones": {"clones": 5},
        "two_linkage_layers": {"linkage_layers": 2},
        "votes10": {"votes": 10},
        "1k": {"data.points": 1024},
        "4k": {"data.points": 4096},
        "k5": {"neighbours": 5},
        "k10": {"neighbours": 10},
        "k20": {"neighbours": 20},
        "k40": {"neighbours": 40},
    }
    baselines = ("dgcnn", "orderly_disorder:uncloned", "pointnet", "box_ratio", "majority_cloud")
    claims = tuple(
        Claim(
            method="orderly_disorder",
            over="dgcnn",
            measure=f"noise_{sigma}",
            reported=f"ModelNet40, 2k points: {ours} against {theirs} % (Table 2)",
        )
        for sigma, ours, theirs in (("0.05", 92.4, 69.1), ("0.08", 89.1, 29.9), ("0.1", 84.2, 11.4))
    )

    def __init__(
        self,
        spec: PointClassesSpec,
        *,
        clones: int = 4,
        neighbours: int = 30,
        metric: Metric = "hilbert",
        first_metric: Metric = "hilbert",
        graph: Graph = "dynamic",
        width: int = 64,
        linkage_layers: int = 1,
        descriptor: Descriptor = "both",
        mapping_weight: float = 0.2,
        smoothing: float = 0.2,
        ridge: float = 1e-4,
        dropout: float = 0.5,
        votes: int = 1,
        optimiser: Optimiser = "sgd",
        lr: float = 0.1,
        final_lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(spec)
        if clones < 1 or votes < 1 or ridge <= 0 or descriptor not in ("both", "clones", "global"):
            raise ValueError(
                f"clones {clones}, votes {votes} and ridge {ridge} must be positive, descriptor {descriptor!r} one "
                "of both, clones, global"
            )
        self.encoder = CloneEncoder(
            neighbours=neighbours,
            metric=metric,
            first_metric=first_metric,
            graph=graph,
            width=width,
            linkage_layers=linkage_layers,
        )
        length = self.encoder.length
        self.classifier = nn.Sequential(
            PointMLP(2 * length if descriptor == "both" else length, length, dropout=dropout),
            PointMLP(length, length, dropout=dropout),
            nn.Linear(length, len(point_classes_of(spec).classes)),
        )
        self.clones, self.descriptor, self.votes = clones, descriptor, votes
        self.mapping_weight, self.smoothing, self.ridge = mapping_weight, smoothing, ridge
        self.optimiser, self.lr, self.final_lr = optimiser, lr, final_lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self._sigma_of_epochs: list[list[float]] = []
        self._tested: dict[str, list[Tensor]] = {}

    def forward(self, points: Tensor, clones: Clones) -> tuple[Tensor, Tensor]:
        """points [B, M, 3] and a decomposition -> logits [B, C], omega [B, L]."""
        description = self.encoder(points, clones)
        omega = mapping_weights(*description, self.ridge)
        return self.classifier(shape_descriptor(description, self.descriptor)), omega

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        points = turn_scale_shift(batch["points"], self.spec.up)
        clones = decompose(random_orders(*points.shape[:2], points.device), self.clones, "drop")
        logits, omega = self(points, clones)
        sigma = mapping_loss(omega)
        loss = total_loss(logits, batch["label"], sigma, self.mapping_weight, self.smoothing)
        entropy = clone_entropy(points, clones)
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/sigma": sigma.detach(),
                "train/clone_entropy": entropy.mean(),
                "train/clone_entropy_spread": (entropy.amax(1) - entropy.amin(1)).mean(),
            },
            batch_size=len(points),
        )
        if self._sigma_of_epochs:
            self._sigma_of_epochs[-1].append(float(sigma.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return cosine_optimiser(
            self.parameters(),
            int(self.trainer.estimated_stepping_batches),
            optimiser=self.optimiser,
            lr=self.lr,
            final_lr=self.final_lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )

    def predict(self, batch: Batch) -> Prediction:
        points = batch["points"]
        logits = []
        for vote in range(self.votes):
            order = fixed_order(*points.shape[:2], points.device, vote)
            clones = decompose(order, self.clones, "drop")
            answer, omega = self(points, clones)
            logits.append(answer)
            if self._trainer is not None and self.trainer.testing:
                self._measure(points, clones, omega)
        return {"logits": torch.stack(logits).mean(0)}

    # What is measured beside the task's measures

    def on_train_epoch_start(self) -> None:
        self._sigma_of_epochs.append([])

    def on_test_start(self) -> None:
        self._tested = {}

    @torch.no_grad()
    def _measure(self, points: Tensor, clones: Clones, omega: Tensor) -> None:
        entropy = clone_entropy(points, clones)
        numbers = {
            "sigma": omega.std(1, unbiased=False),
            "clone_entropy": entropy.mean(1),
            "clone_entropy_spread": entropy.amax(1) - entropy.amin(1),
        }
        for name, value in numbers.items():
            self._tested.setdefault(name, []).append(value.float().cpu())

    def diagnostics(self) -> dict[str, float]:
        """Over the last test: sigma(omega); entropy of a clone in bits (Eq. 5) and its range over the clones."""
        return {name: float(torch.cat(values).mean()) for name, values in self._tested.items()}

    def figures(self) -> dict[str, np.ndarray]:
        """Fig. 5b: the linear-mapping loss over the epochs."""
        curve = [float(np.mean(values)) for values in self._sigma_of_epochs if values]
        if not curve:
            return {}
        figure = Figure(figsize=(6, 4), dpi=90)
        canvas = FigureCanvasAgg(figure)
        axis = figure.add_subplot()
        points = self.spec.points // self.clones
        axis.plot(
            range(1, len(curve) + 1), curve, "o-", markersize=3, label=f"{self.clones} x {points} points"
        )
        axis.set(xlabel="epoch", ylabel="sigma(omega), the linear-mapping loss", ylim=(0, None))
        axis.legend()
        figure.tight_layout()
        canvas.draw()
        return {"mapping loss": np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])}
