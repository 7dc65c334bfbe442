"""Multiple instance learning: one label for a bag of pictures, whose own classes stay hidden in training.

Batch (bags have different sizes, so the pictures of all B bags are concatenated, in bag order)
    instances       float32 [N, C, H, W]  pictures in [0, 1]
    bag             int64 [N]             which bag of the batch a picture belongs to, 0..B-1, ascending
    label           int64 [B]             0 or 1, or a count, as `spec.rule` says
    instance_label  int64 [N]             the pictures' classes: for the judge, and for methods that say that they are
                                          fully supervised
    id              list[str]             one a bag
Prediction
    label             int64 [B]    0 or 1, or a count that is not negative
    score             float [B]    probability of 1, or the count before rounding
    instance_feature  float [N, D] optional: what the method makes of each picture alone
    instance_score    float [N]    optional: probability that the picture alone is of the witness class
Measures (percent but for mae)
    error              bags with a wrong label; of a count too, after rounding
    accuracy, f1       of binary labels; F1 of the positive class
    mae                of counts: mean absolute error after rounding
    purity             of the k-means clusters of instance features (as many as `spec.groups` tells apart), mean over
                       the clusters; the pictures' true groups are their labels
    tpr, tnr, instance_accuracy
                       of instance scores, threshold 0.5, where one class is the witness: right among the witnesses,
                       among the others, and the mean of both
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from datamodules.specs import BagsSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.bags import Gathered, cluster_purity, clusters_of, true_rates

COLUMNS, ROWS, TILE = 8, 4, 44
"""Pictures of a drawn bag, and their side in pixels."""
SPREAD = 200
"""Pictures in the figure of instance features."""


class BagBatch(TypedDict):
    """What a batch holds; shapes in the module's docstring."""

    instances: Tensor
    bag: Tensor
    label: Tensor
    instance_label: Tensor
    id: list[str]


class BagPrediction(TypedDict, total=False):
    """What a method answers; `label` and `score` always."""

    label: Tensor
    score: Tensor
    instance_feature: Tensor
    instance_score: Tensor


class MultipleInstanceJudge(Judge):
    """Scores bags, and instances where the method says something of them."""

    def __init__(self, spec: BagsSpec) -> None:
        super().__init__()
        self.spec = spec
        self.wrong = MeanMetric()
        self.mae = MeanMetric()
        self.accuracy = BinaryAccuracy()
        self.f1 = BinaryF1Score()
        self.features = Gathered("feature", "label")
        self.instances = Gathered("score", "label")
        self._shown: dict[str, Tensor] = {}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        """Take in one batch; `ValueError` where shapes or values don't fit."""
        label, truth = prediction["label"], batch["label"]
        if label.shape != truth.shape or label.is_floating_point():
            raise ValueError(
                f"label must be int64 {tuple(truth.shape)}, got {label.dtype} {tuple(label.shape)}"
            )
        largest = 1 if self.spec.rule != "count" else torch.iinfo(torch.int64).max
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) <= largest:
            raise ValueError(
                f"label must not be negative{'' if largest > 1 else ', nor above 1'}, got {label.tolist()}"
            )
        if prediction["score"].shape != truth.shape:
            raise ValueError(f"score must be {tuple(truth.shape)}, got {tuple(prediction['score'].shape)}")
        self.wrong.update((label != truth).float())
        if self.spec.rule == "count":
            self.mae.update((label - truth).abs().float())
        else:
            self.accuracy.update(label, truth)
            self.f1.update(label, truth)
        if "instance_feature" in prediction:
            self.features.update(
                feature=prediction["instance_feature"].float(), label=batch["instance_label"]
            )
        if "instance_score" in prediction:
            self.instances.update(score=prediction["instance_score"].float(), label=batch["instance_label"])

    def compute(self) -> dict[str, float]:
        scores = {"error": 100.0 * float(self.wrong.compute())}
        if self.spec.rule == "count":
            scores["mae"] = float(self.mae.compute())
        else:
            scores["accuracy"] = 100.0 * float(self.accuracy.compute())
            scores["f1"] = 100.0 * float(self.f1.compute())
        self._shown = {}
        if self.features.update_called:
            gathered = self.features.compute()
            groups = torch.tensor(self.spec.groups(), device=gathered["label"].device)
            clusters = int(groups.max()) + 1
            if len(gathered["label"]) > clusters:
                cluster = clusters_of(gathered["feature"], clusters)
                scores["purity"] = 100.0 * cluster_purity(cluster, groups[gathered["label"]])
                self._shown = gathered
        if self.instances.update_called and len(self.spec.witnesses) == 1:
            gathered = self.instances.compute()
            rates = true_rates(gathered["score"] >= 0.5, gathered["label"] == self.spec.witnesses[0])
            scores["tpr"], scores["tnr"] = (100.0 * rate for rate in rates)
            scores["instance_accuracy"] = 50.0 * sum(rates)
        return scores

    def figures(self) -> dict[str, np.ndarray]:
        """`instances`: t-SNE of what the method makes of single pictures, in the colours of their classes."""
        if not self._shown:
            return {}
        spread = torch.linspace(
            0, len(self._shown["label"]) - 1, min(SPREAD, len(self._shown["label"]))
        ).long()
        feature = self._shown["feature"].cpu()[spread]
        label = self._shown["label"].cpu()[spread]
        return {"instances": _scatter(in_the_plane(feature), label, self.spec)}


class MultipleInstance(Task):
    """See the module's docstring for batch, prediction and measures."""

    name = "multiple-instance"
    family = "recognition"
    measures = (
        Measure("error", False, "%"),
        Measure("accuracy", True, "%"),
        Measure("f1", True, "%"),
        Measure("mae", False),
        Measure("purity", True, "%"),
        Measure("tpr", True, "%"),
        Measure("tnr", True, "%"),
        Measure("instance_accuracy", True, "%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> MultipleInstanceJudge:
        return MultipleInstanceJudge(bags_of(spec))

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A bag each: its first pictures over the true label and the predicted one with its score.

        A frame is orange where the picture is of a witness class (or not of the bag's commonest one). Below a picture
        stands its instance score as a bar, where there are such scores.
        """
        bags = bags_of(spec)
        sheets = []
        for number in range(min(limit, len(batch["id"]))):
            chosen = (batch["bag"] == number).nonzero()[:, 0]
            instances = batch["instances"][chosen].detach().float().cpu()
            special = witness_of(batch["instance_label"][chosen].cpu(), bags).tolist()
            scores = prediction.get("instance_score")
            bars = [None] * len(chosen) if scores is None else scores[chosen].tolist()
            truth, guess = int(batch["label"][number]), int(prediction["label"][number])
            sheet = Image.new("RGB", (COLUMNS * TILE, ROWS * TILE + 34), "white")
            for place, picture in enumerate(instances[: COLUMNS * ROWS]):
                corner = (place % COLUMNS * TILE, place // COLUMNS * TILE)
                sheet.paste(_tile(picture, special=special[place], bar=bars[place]), corner)
            pen = ImageDraw.Draw(sheet)
            pen.text(
                (4, ROWS * TILE + 3),
                f"{batch['id'][number]}: {len(chosen)} pictures, true: {truth}",
                fill=(0, 0, 0),
            )
            says = f"says: {guess} ({float(prediction['score'][number]):.2f})"
            pen.text((4, ROWS * TILE + 18), says, fill=(0, 130, 0) if truth == guess else (190, 0, 0))
            sheets.append(np.asarray(sheet))
        return sheets


def bags_of(spec: Spec) -> BagsSpec:
    """The spec, if it is of bags; otherwise a `TypeError`."""
    if not isinstance(spec, BagsSpec):
        raise TypeError(
            f"multiple instance learning needs a BagsSpec, {spec.dataset} has {type(spec).__name__}"
        )
    return spec


def witness_of(instance_label: Tensor, spec: BagsSpec) -> Tensor:
    """Which pictures of one bag decide its label: int64 [m] -> bool [m]; those of a witness class, or for "mixture"
    those that aren't of the commonest class."""
    if spec.rule == "mixture":
        return instance_label != instance_label.mode().values
    return torch.isin(instance_label, torch.tensor(spec.witnesses, device=instance_label.device))


def in_the_plane(features: Tensor) -> np.ndarray:
    """t-SNE, always from the same start: float [N, D] -> float32 [N, 2]; fewer than four lie in the origin."""
    from sklearn.manifold import TSNE

    if len(features) < 4:
        return np.zeros((len(features), 2), np.float32)
    perplexity = min(30.0, (len(features) - 1) / 3)
    init = "pca" if features.shape[1] > 1 else "random"
    found = TSNE(perplexity=perplexity, init=init, max_iter=300, random_state=0).fit_transform(
        features.numpy()
    )
    return np.asarray(found)


def _scatter(places: np.ndarray, label: Tensor, spec: BagsSpec) -> np.ndarray:
    """The pictures' places [N, 2] in the colours of their classes, uint8 [H, W, 3]."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = colormaps["tab10"]
    for number, name in enumerate(spec.instance_classes):
        chosen = (label == number).numpy()
        if chosen.any():
            axes.scatter(*places[chosen].T, s=8, color=colours(number % 10), label=name)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xticks=[], yticks=[], title="single pictures (t-SNE)")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _tile(picture: Tensor, *, special: bool, bar: float | None) -> Image.Image:
    """A picture [C, H, W] in [0, 1] in its frame, TILE x TILE."""
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste((240, 130, 0) if special else (120, 120, 120), (1, 1, TILE - 1, TILE - 1))
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy()
    inner = TILE - 6
    tile.paste(Image.fromarray(pixels).resize((inner, inner), Image.Resampling.BILINEAR), (3, 3))
    if bar is not None:
        pen = ImageDraw.Draw(tile)
        pen.rectangle((3, TILE - 8, TILE - 4, TILE - 4), fill=(0, 0, 0))
        pen.rectangle(
            (3, TILE - 8, 3 + round((inner - 1) * min(max(bar, 0.0), 1.0)), TILE - 4), fill=(80, 200, 255)
        )
    return tile
