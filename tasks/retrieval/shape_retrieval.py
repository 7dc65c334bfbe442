"""Shape retrieval: for a query silhouette, all silhouettes of the split in the order of their likeness.

Batch
    shape     list of B tensors bool [H, W], True inside the shape; sizes differ
    label     int64 [B]: the class; -1 for a silhouette of no query's class (in the gallery only)
    is_query  bool [B]: whether this silhouette is also asked for
    index     int64 [B]: the silhouette's position in its split
    id        list of B strings
Prediction
    descriptor  float64 [B, D]

The judge gathers the descriptors of the whole split and ranks all silhouettes, the query included, by L1
distance (or the method's own `compare`); equal ones in the order of the split.

Measures, all in % and means over the queries
    knee                knee-point score: right answers among the first V of a query with V of them, itself
                        counted, where precision and recall are equal; the published measure
    knee_without_query  the same, the query taken out: a descriptor always finds itself
    bullseye            right answers among the first 2 V, itself counted: MPEG-7's standard measure
    nearest             whether the nearest other silhouette is of the query's class
A query that is alone in its class (a shortened run) counts for the first and third only.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from datamodules.specs import ShapesSpec, Spec
from tasks.base import Batch, Judge, Measure, Method, Prediction, Recipe, Task
from tasks.metrics.shapes import bulls_eye, knee_point, precision_recall, without

CHUNK = 256
"""Queries ranked at once: bounds the memory to CHUNK x N distances."""
SHOWN, LISTED, SIDE = 8, 8, 72
"""Answers of a drawn query, queries of the ranked lists, and pixels of a thumbnail with its frame."""
RIGHT, WRONG, QUERY = (0, 150, 0), (200, 0, 0), (0, 0, 0)


def l1_distance(queries: Tensor, gallery: Tensor) -> Tensor:
    """Sums of absolute differences: [Q, D], [G, D] -> [Q, G]."""
    return torch.cdist(queries, gallery, p=1)


def standardised_l1(queries: Tensor, gallery: Tensor) -> Tensor:
    """L1 distances after each number is divided by its standard deviation over the gallery.

    A number that is the same for the whole gallery (up to rounding) tells nothing and is left out.
    """
    spread = gallery.std(0, correction=0)
    size = gallery.abs().amax(0)
    factor = torch.where(spread > 1e-9 * size, 1 / spread, 0.0)
    return l1_distance(queries * factor, gallery * factor)


class GatheredShapes(Metric):
    """Descriptors, labels and thumbnails of everything taken in; one that comes twice counts once."""

    full_state_update = False
    STATES = ("descriptors", "labels", "queries", "indices", "thumbnails")

    def __init__(self) -> None:
        super().__init__()
        for state in self.STATES:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self, descriptor: Tensor, label: Tensor, is_query: Tensor, index: Tensor, thumbnail: Tensor
    ) -> None:
        """descriptor float64 [B, D]; label, index int64 [B]; is_query bool [B]; thumbnail uint8 [B, S, S]."""
        count = len(label)
        if descriptor.ndim != 2 or {len(descriptor), len(is_query), len(index), len(thumbnail)} != {count}:
            raise ValueError(
                f"expected descriptor [B, D] with B = {count} labels, queries and indices, got "
                f"{tuple(descriptor.shape)}, {tuple(is_query.shape)}, {tuple(index.shape)}"
            )
        if not descriptor.isfinite().all():
            raise ValueError("descriptors hold NaN or infinity")
        values = (descriptor.detach().double(), label.long(), is_query.bool(), index.long(), thumbnail)
        for state, value in zip(self.STATES, values, strict=True):
            getattr(self, state).append(value)

    def compute(self) -> dict[str, Tensor]:
        """The states by name, in the order of the split."""
        states = {}
        for state in self.STATES:
            value = getattr(self, state)
            states[state] = torch.cat(list(value)) if isinstance(value, list) else value
        order = states["indices"].argsort(stable=True)
        ordered = states["indices"][order]
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        return {name: state[order[first]] for name, state in states.items()}


class ShapeJudge(Judge):
    """Gathers descriptors over the split and ranks them when asked."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes = GatheredShapes()
        self._figures: dict[str, np.ndarray] = {}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        label = batch["label"]
        thumbnails = torch.stack([thumbnail(shape, SIDE - 8) for shape in batch["shape"]]).to(label.device)
        self.shapes.update(prediction["descriptor"], label, batch["is_query"], batch["index"], thumbnails)

    def compute(self) -> dict[str, float]:
        gathered = self.shapes.compute()
        label, descriptor = gathered["labels"], gathered["descriptors"]
        asking = gathered["queries"].nonzero()[:, 0]
        if not len(asking):
            raise ValueError("no silhouette of this split is a query")
        if (label[asking] < 0).any():
            raise ValueError("a query needs a class: its label is negative")
        relevant, itself = [], []
        for chunk in asking.split(CHUNK):
            order = self._distance(descriptor[chunk], descriptor).argsort(dim=1, stable=True)
            relevant.append(label[order] == label[chunk][:, None])
            itself.append(order == chunk[:, None])
        ranking, own = torch.cat(relevant), torch.cat(itself)
        others = without(ranking, own)
        answered = others.any(1)
        scores = {
            "knee": knee_point(ranking).mean(),
            "knee_without_query": knee_point(others[answered]).mean(),
            "bullseye": bulls_eye(ranking).mean(),
            "nearest": others[answered, 0].double().mean(),
        }
        self._draw(gathered, asking, others[answered])
        return {name: 100.0 * float(score) for name, score in scores.items()}

    def figures(self) -> dict[str, np.ndarray]:
        """`precision_recall`, the query taken out, and `ranked_lists` of some queries."""
        return self._figures

    def _distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        own = self.compare and self.compare({"descriptor": queries}, {"descriptor": gallery})
        return l1_distance(queries, gallery) if own is None else own

    def _draw(self, gathered: dict[str, Tensor], asking: Tensor, others: Tensor) -> None:
        # Queries evenly spread over the split, so that the same are shown for every method.
        spread = torch.linspace(0, len(asking) - 1, min(LISTED, len(asking))).round().long()
        chosen = asking[spread.to(asking.device)]
        distance = self._distance(gathered["descriptors"][chosen], gathered["descriptors"])
        distance[torch.arange(len(chosen)), chosen] = torch.inf
        label, tiles = gathered["labels"], gathered["thumbnails"]
        self._figures = {
            "ranked_lists": np.concatenate(
                [
                    ranked_list(tiles, label, int(query), row)
                    for query, row in zip(chosen, distance, strict=True)
                ]
            )
        }
        if len(others):
            self._figures["precision_recall"] = curve_picture(*precision_recall(others))


class ShapeRetrieval(Task):
    """See the module's docstring for batch, prediction and measures."""

    name: ClassVar[str] = "shape-retrieval"
    family: ClassVar[str] = "retrieval"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("knee", True, "%"),
        Measure("knee_without_query", True, "%"),
        Measure("bullseye", True, "%"),
        Measure("nearest", True, "%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> ShapeJudge:
        if not isinstance(spec, ShapesSpec):
            raise TypeError(f"shape retrieval needs a ShapesSpec, not {type(spec).__name__}")
        return ShapeJudge()

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """The silhouette and the nearest others of its batch (green frame: same class, red: another)."""
        descriptor = prediction["descriptor"].detach()
        distance = l1_distance(descriptor, descriptor).fill_diagonal_(torch.inf)
        tiles = torch.stack([thumbnail(shape, SIDE - 8) for shape in batch["shape"]])
        return [
            ranked_list(tiles, batch["label"], row, distance[row])
            for row in range(min(limit, len(descriptor)))
        ]


class ShapeMethod(Method):
    """A descriptor that is computed, not learnt: a subclass writes `describe`.

    Its diagnostics are the time of both halves of a retrieval, apart from each other: `descriptor_ms` for each
    shape described, `retrieval_ms` for each query compared with the gallery.
    """

    task = ShapeRetrieval
    recipe = Recipe(max_steps=0, validate_every=0)
    profiles = {
        "mini": {"data.draw_classes": 20, "data.draw_views": 6},
        "smoke": {"data.draw_classes": 6, "data.draw_views": 3},
    }

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._seconds = {"descriptor": 0.0, "retrieval": 0.0}
        self._counts = {"descriptor": 0, "retrieval": 0}

    @abstractmethod
    def describe(self, shapes: Sequence[Tensor]) -> Tensor:
        """bool [H, W] each, of any sizes -> float64 [B, D]."""

    def distance(self, queries: Tensor, gallery: Tensor) -> Tensor:
        """float64 [Q, D], [G, D] -> distances [Q, G]; default: L1."""
        return l1_distance(queries, gallery)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing is learnt."""

    def configure_optimizers(self) -> Any:
        return None

    def on_test_start(self) -> None:
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._counts = dict.fromkeys(self._counts, 0)

    def predict(self, batch: Batch) -> Prediction:
        began = time.perf_counter()
        descriptor = self.describe(batch["shape"])
        self._clock("descriptor", began, len(descriptor))
        return {"descriptor": descriptor}

    def compare(self, queries: Prediction, gallery: Prediction) -> Tensor:
        began = time.perf_counter()
        distance = self.distance(queries["descriptor"], gallery["descriptor"])
        self._clock("retrieval", began, len(distance))
        return distance

    def diagnostics(self) -> dict[str, float]:
        return {
            f"{part}_ms": 1000 * self._seconds[part] / count for part, count in self._counts.items() if count
        }

    def _clock(self, part: str, began: float, count: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds[part] += time.perf_counter() - began
        self._counts[part] += count


def thumbnail(shape: Tensor, side: int) -> Tensor:
    """A silhouette, black on white, in a square of `side` pixels, its proportions kept: uint8 [side, side]."""
    height, width = shape.shape
    factor = side / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    small = F.adaptive_avg_pool2d(shape.detach()[None, None].float(), size)[0, 0].cpu()
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    tile = torch.zeros(side, side)
    tile[top : top + size[0], left : left + size[1]] = small
    return (255 * (1 - tile)).round().byte()


def ranked_list(tiles: Tensor, label: Tensor, query: int, distance: Tensor) -> np.ndarray:
    """The query (black frame) and its nearest answers (green: right, red: wrong), uint8 [SIDE, (SHOWN + 1) SIDE, 3].

    tiles: uint8 [N, S, S]; label: [N]; distance: [N] from the query, infinite where not to be shown.
    """
    order = distance.argsort(stable=True)
    found = order[distance[order].isfinite()][:SHOWN].tolist()
    sheet = [_framed(tiles[query], QUERY)]
    sheet += [_framed(tiles[i], RIGHT if label[i] == label[query] else WRONG) for i in found]
    sheet += [np.full((SIDE, SIDE, 3), 255, np.uint8)] * (SHOWN - len(found))
    return np.concatenate(sheet, axis=1)


def _framed(tile: Tensor, colour: tuple[int, int, int]) -> np.ndarray:
    framed = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    framed[1:-1, 1:-1] = colour
    framed[4:-4, 4:-4] = tile.cpu().numpy()[..., None]
    return framed


def curve_picture(precision: Tensor, recall: Tensor) -> np.ndarray:
    """The precision-recall curve in % as a picture, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(100 * recall.cpu().numpy(), 100 * precision.cpu().numpy(), color="tab:blue")
    axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8, linestyle="--")
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="recall, %", ylabel="precision, %", title="query taken out")
    axes.grid(alpha=0.3)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
