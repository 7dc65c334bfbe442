"""The task `few-shot-classification`: queries of M new classes, of each of which K pictures are known.

Batch: B episodes.
    support      float32 [B, M, K, C, H, W] in [0, 1]
    query        float32 [B, M * N, C, H, W] in [0, 1]
    query_label  int64 [B, M * N] in 0..M-1, the position of the query's class in `support`
    outlier      bool [B, M, K], absent where the dataset doesn't know: the support is an outlier
    id           list of B str
Prediction
    logits       float [B, M * N, M], logarithm of the classes' posterior up to a constant a query
    attention    float [B, M * N, M, K], optional: weights of a class's supports for a query, for drawings

Measures
    accuracy              mean over episodes, in %
    interval              half its 95 % interval over episodes, 1.96 standard deviations / sqrt(episodes)
    accuracy_outlier      accuracy on queries whose own class has an outlier among its supports, in %
    accuracy_clean        and on those whose class has none; both only where `outlier` is there
    accuracy_at_coverage  accuracy in % of the 80 % most confident answers of the whole split (largest posterior):
                          what is left when the least sure are refused
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.specs import EpisodesSpec, Spec
from tasks.base import Batch, Judge, Measure, Prediction, Task
from tasks.metrics.episodes import EpisodeScores, coverage_accuracy, mean_and_interval

COVERAGE = 0.8
SIDE = 56
"""Pixels of a drawn picture."""
QUERIES = 3
"""Drawn queries a class."""
GREEN, RED, ORANGE, GREY = (0, 130, 0), (200, 0, 0), (255, 140, 0), (90, 90, 90)


def episodes_of(spec: Spec) -> EpisodesSpec:
    """The spec, if it is one of episodes; a `TypeError` otherwise."""
    if not isinstance(spec, EpisodesSpec):
        raise TypeError(f"few-shot tasks need an EpisodesSpec, {spec.dataset} has {type(spec).__name__}")
    return spec


class FewShotJudge(Judge):
    """See the module's docstring for the measures."""

    def __init__(self, ways: int) -> None:
        super().__init__()
        self.ways = ways
        self.episodes = EpisodeScores()

    def update(self, prediction: Prediction, batch: Batch) -> None:
        logits, label = prediction["logits"], batch["query_label"]
        if logits.shape != (*label.shape, self.ways):
            raise ValueError(f"logits must be {[*label.shape, self.ways]}, got {list(logits.shape)}")
        self.episodes.update(logits, label, batch.get("outlier"))

    def scores(self) -> dict[str, Tensor]:
        """What was gathered; torchmetrics takes the axis off a result of one element."""
        return {name: torch.atleast_1d(value) for name, value in self.episodes.compute().items()}

    def compute(self) -> dict[str, float]:
        scores = self.scores()
        mean, interval = mean_and_interval(scores["accuracies"])
        measures = {"accuracy": 100 * mean, "interval": 100 * interval}
        right, seen = scores["by_outlier"].unbind(1)
        for name, hits, count in zip(("accuracy_clean", "accuracy_outlier"), right, seen, strict=True):
            if count > 0:
                measures[name] = 100 * float(hits / count)
        kept = coverage_accuracy(scores["confidence"], scores["correct"], torch.tensor([COVERAGE]))
        measures["accuracy_at_coverage"] = 100 * float(kept)
        return measures

    def figures(self) -> dict[str, np.ndarray]:
        """Accuracy over coverage, and how the episodes' accuracies are distributed."""
        scores = self.scores()
        coverage = torch.linspace(0.02, 1, 50)
        accuracy = coverage_accuracy(scores["confidence"], scores["correct"], coverage)
        return {
            "coverage_accuracy": _curve(100 * coverage.numpy(), 100 * accuracy.numpy(), 100 / self.ways),
            "episode_accuracies": _histogram(100 * scores["accuracies"].cpu().numpy(), 100 / self.ways),
        }


class FewShotClassification(Task):
    """See the module's docstring for batch, prediction and measures."""

    name = "few-shot-classification"
    family = "recognition"
    measures = (
        Measure("accuracy", higher_is_better=True, unit="%"),
        Measure("interval", higher_is_better=False, unit="%"),
        Measure("accuracy_outlier", higher_is_better=True, unit="%"),
        Measure("accuracy_clean", higher_is_better=True, unit="%"),
        Measure("accuracy_at_coverage", higher_is_better=True, unit="%"),
    )

    @classmethod
    def judge(cls, spec: Spec) -> FewShotJudge:
        return FewShotJudge(episodes_of(spec).ways)

    @classmethod
    def draw(cls, prediction: Prediction, batch: Batch, spec: Spec, limit: int = 4) -> list[np.ndarray]:
        """A sheet an episode, a class a row: its supports (orange frame: outlier; under them the weights for the
        row's first query, where the method has such), then its first queries with what they are taken for."""
        posterior = prediction["logits"].detach().float().softmax(dim=2).cpu()
        attention = prediction.get("attention")
        sheets = []
        for episode in range(min(limit, len(batch["id"]))):
            outlier = batch["outlier"][episode].cpu() if "outlier" in batch else None
            sheets.append(
                _sheet(
                    batch["support"][episode],
                    batch["query"][episode],
                    batch["query_label"][episode].cpu(),
                    posterior[episode],
                    None if attention is None else attention[episode].detach().float().cpu(),
                    outlier,
                )
            )
        return sheets


def _sheet(
    support: Tensor,
    query: Tensor,
    label: Tensor,
    posterior: Tensor,
    attention: Tensor | None,
    outlier: Tensor | None,
) -> np.ndarray:
    ways, shots = support.shape[:2]
    cell, row_height, left, gap = SIDE + 8, SIDE + 24, 56, 24
    shown = [torch.nonzero(label == way).flatten().tolist()[:QUERIES] for way in range(ways)]
    width = left + shots * cell + gap + max(map(len, shown), default=0) * (cell + 24)
    sheet = Image.new("RGB", (width, 20 + ways * row_height), "white")
    pen = ImageDraw.Draw(sheet)
    heading = "supports" + ("" if attention is None else ", % of weight for the row's first query")
    pen.text((left, 4), heading if shots > 3 else "supports", fill="black")
    pen.text((left + shots * cell + gap, 4), "queries: taken for, posterior", fill="black")
    for way in range(ways):
        top = 20 + way * row_height
        pen.text((4, top + SIDE // 2), f"class {way}", fill="black")
        for shot in range(shots):
            x = left + shot * cell
            odd = outlier is not None and bool(outlier[way, shot])
            _paste(sheet, support[way, shot], x, top, ORANGE if odd else None)
            if attention is not None and shown[way]:
                weight = float(attention[shown[way][0], way, shot])
                pen.text((x + 2, top + SIDE + 5), f"{weight:.0%}", fill=GREY)
            if odd:
                pen.text((x + 28, top + SIDE + 5), "outlier", fill=ORANGE)
        for position, number in enumerate(shown[way]):
            x = left + shots * cell + gap + position * (cell + 24)
            sure, guess = posterior[number].max(dim=0)
            colour = GREEN if int(guess) == way else RED
            _paste(sheet, query[number], x, top, colour)
            pen.text((x, top + SIDE + 5), f"class {int(guess)}, {float(sure):.0%}", fill=colour)
    return np.asarray(sheet)


def _paste(sheet: Image.Image, image: Tensor, x: int, y: int, frame: tuple[int, int, int] | None) -> None:
    """image [C, H, W] in [0, 1], enlarged, with a coloured frame."""
    if frame is not None:
        sheet.paste(frame, (x - 3, y, x + SIDE + 3, y + SIDE + 6))
    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().cpu().expand(3, -1, -1)
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), (x, y + 3))


def _curve(coverage: np.ndarray, accuracy: np.ndarray, chance: float) -> np.ndarray:
    figure, axes = _axes("answered queries, most confident first (%)", "accuracy of the answered (%)")
    axes.plot(coverage, accuracy, color="tab:blue")
    axes.axhline(chance, color="grey", linestyle=":", label="chance")
    axes.set(xlim=(0, 100), ylim=(0, 102))
    axes.legend(loc="lower left")
    return _pixels(figure)


def _histogram(accuracies: np.ndarray, chance: float) -> np.ndarray:
    figure, axes = _axes("accuracy of an episode (%)", "episodes")
    axes.hist(accuracies, bins=20, range=(0, 100), color="tab:blue")
    axes.axvline(chance, color="grey", linestyle=":", label="chance")
    axes.axvline(float(accuracies.mean()), color="tab:orange", label=f"mean {accuracies.mean():.1f}")
    axes.legend(loc="upper left")
    return _pixels(figure)


def _axes(across: str, up: str):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=across, ylabel=up)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _pixels(figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
