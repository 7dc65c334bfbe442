"""What is measured of a distillation beside its error: relations in training batches, structure of test features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from tasks.blocks.narrow_resnet import Stages
from tasks.metrics.class_compactness import class_compactness
from tasks.recognition.category_structure import category_similarity, edge_counts

SHOWN_CLASSES = 4
SHOWN_SAMPLES = 100
"""Of each class, the first ones of the test."""


class StructureRecord:
    """Gathers what `CSKD.diagnostics` and `figures` tell. classes: of the dataset."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.restart()
        self.clear()

    def restart(self) -> None:
        """Forget the training batches."""
        self._batches: list[Tensor] = []

    def clear(self) -> None:
        """Forget the test."""
        self._labels: list[Tensor] = []
        self._wrong: list[Tensor] = []
        self._features: dict[str, list[Tensor]] = {"student": [], "teacher": []}
        self._map_sums: dict[str, Tensor] = {}

    def batch(self, label: Tensor) -> None:
        """Take in the labels [n] of a training batch; waits for no device."""
        size = torch.bincount(label, minlength=self.classes)
        self._batches.append(torch.stack([size.sum(), (size > 0).sum(), (size == 1).sum()]))

    def test(self, own: Stages, known: Stages | None, label: Tensor) -> None:
        """Take in a test batch; known: of the teacher, if there is one."""
        self._labels.append(label.cpu())
        if known is not None:
            self._wrong.append((known.logits.argmax(1) != label).cpu())
        for name, stages in (("student", own), ("teacher", known)):
            if stages is None:
                continue
            self._features[name].append(stages.pooled.float().cpu())
            flat = stages.map.flatten(1).double()
            if name not in self._map_sums:
                self._map_sums[name] = flat.new_zeros(self.classes, flat.shape[1])
            self._map_sums[name].index_add_(0, label, flat)

    def diagnostics(self) -> dict[str, float]:
        """Means over training batches: `edges_structure`, `edges_correlation`, `edge_ratio`, the bound of Eq. 11 on it,
        `singleton_share` (% of the categories in a batch); of the test: `student_compactness` and
        `teacher_compactness` (`class_compactness` of pooled features), `teacher_error` (%), and `structure_gap`,
        |M^t - M^s|_F over the whole test set."""
        numbers: dict[str, float] = {}
        if self._batches:
            samples, categories, single = torch.stack(self._batches).double().cpu().T.numpy()
            structure, correlation = edge_counts(samples, categories)
            numbers |= {
                "edges_structure": float(np.mean(structure)),
                "edges_correlation": float(np.mean(correlation)),
                "edge_ratio": float(np.mean(correlation / structure)),
                "edge_ratio_bound": float(np.mean(samples / categories / 2 * np.sqrt(samples))),
                "singleton_share": 100 * float(np.sum(single) / np.sum(categories)),
            }
        if self._labels:
            label = torch.cat(self._labels)
            for name, features in self._features.items():
                if features:
                    numbers[f"{name}_compactness"] = class_compactness(torch.cat(features), label)
            if self._wrong:
                numbers["teacher_error"] = 100 * float(torch.cat(self._wrong).double().mean())
            if len(self._map_sums) == 2:
                # A centre's length doesn't change its cosines, so sums do as well as means.
                present = torch.bincount(label, minlength=self.classes) > 0
                student, teacher = (
                    category_similarity(self._map_sums[name].cpu()[present])
                    for name in ("student", "teacher")
                )
                numbers["structure_gap"] = float((teacher - student).norm())
        return {name: value for name, value in numbers.items() if np.isfinite(value)}

    def figures(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """`features`: t-SNE of pooled features of four classes, one panel a network; names: of all classes."""
        if not self._labels:
            return {}
        label = torch.cat(self._labels)
        shown = np.unique(np.linspace(0, self.classes - 1, SHOWN_CLASSES).round().astype(int))
        chosen = torch.cat([(label == int(c)).nonzero()[:SHOWN_SAMPLES, 0] for c in shown])
        panels = {
            name: torch.cat(features)[chosen].numpy() for name, features in self._features.items() if features
        }
        if len(chosen) < 8:
            return {}
        return {"features": draw_features(panels, label[chosen].numpy(), names)}


def draw_features(panels: dict[str, np.ndarray], label: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """t-SNE of each panel's features [n, K], coloured by class (Fig. 4): uint8 [H, W, 3]."""
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(5 * len(panels), 4.6), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for number, (title, features) in enumerate(panels.items(), start=1):
        place = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), random_state=0).fit_transform(features)
        axis = figure.add_subplot(1, len(panels), number)
        for c in np.unique(label):
            axis.scatter(place[label == c, 0], place[label == c, 1], s=14, label=names[c])
        ratio = class_compactness(torch.from_numpy(features), torch.from_numpy(label))
        axis.set_title(f"{title}: within / between {ratio:.2f}")
        axis.set(xticks=[], yticks=[])
    axis.legend(fontsize=8)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
