"""The edge metric on one BSDS500-sized picture against its obvious implementation.

The obvious one follows the protocol to the letter: for each threshold it thins with scikit-image, and for each
annotator it finds the pairs within tolerance by a KD-tree and matches them anew with SciPy.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree
from skimage.morphology import thin

from perf.ratio import Ratio, alternate
from tasks.blocks.edge_nms import thin as thin_ridges
from tasks.metrics.edges import THRESHOLDS, edge_counts

HEIGHT, WIDTH, ANNOTATORS, MAX_DISTANCE = 321, 481, 5, 0.0075


def obvious_counts(probability: np.ndarray, annotators: np.ndarray) -> np.ndarray:
    """int64 [T, 4], as `edge_counts`."""
    counts = np.zeros((len(THRESHOLDS), 4), np.int64)
    radius = MAX_DISTANCE * np.hypot(*probability.shape)
    for row, threshold in enumerate(THRESHOLDS):
        predicted = np.argwhere(thin(probability >= threshold))
        covered = np.zeros(len(predicted), bool)
        for annotator in annotators:
            true = np.argwhere(annotator)
            if len(predicted) and len(true):
                near = KDTree(predicted).query_ball_tree(KDTree(true), radius)
                pairs = np.array([(p, t) for p, found in enumerate(near) for t in found]).reshape(-1, 2)
                graph = csr_array((np.ones(len(pairs)), pairs.T), shape=(len(predicted), len(true)))
                partner = maximum_bipartite_matching(graph, perm_type="column")
                covered |= partner >= 0
                counts[row, 0] += (partner >= 0).sum()
            counts[row, 1] += len(true)
        counts[row, 2:] = covered.sum(), len(predicted)
    return counts


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A thinned probability map [H, W], and maps [A, H, W] of annotators who disagree a little."""
    random = np.random.default_rng(0)
    relief = gaussian_filter(random.normal(size=(HEIGHT, WIDTH)), 8)
    slope = np.hypot(*np.gradient(relief + 0.3 * gaussian_filter(random.normal(size=relief.shape), 4)))
    probability = thin_ridges(torch.from_numpy(slope / slope.max()).float()[None, None])[0, 0].numpy()
    return probability, np.stack([_outlines(relief, shift) for shift in random.normal(0, 0.3, ANNOTATORS)])


def _outlines(relief: np.ndarray, level: float) -> np.ndarray:
    inside = relief > level * relief.std()
    edges = np.zeros(relief.shape, bool)
    edges[:-1] |= inside[:-1] != inside[1:]
    edges[:, :-1] |= inside[:, :-1] != inside[:, 1:]
    return thin(edges)


def measure() -> list[Ratio]:
    """99 thresholds, five annotators; the counts that both must agree on are compared on the way."""
    probability, annotators = picture()
    fast, obvious = (
        edge_counts(probability, annotators, max_distance=MAX_DISTANCE),
        obvious_counts(probability, annotators),
    )
    for column, name in ((0, "matched truth"), (1, "truth"), (3, "predicted")):
        if not (fast[:, column] == obvious[:, column]).all():
            raise RuntimeError(f"the two implementations disagree on the {name} pixels")
    best = alternate(
        {
            "fast": lambda: edge_counts(probability, annotators, max_distance=MAX_DISTANCE),
            "obvious": lambda: obvious_counts(probability, annotators),
        },
        rounds=1,
    )
    what = f"edge counts, {WIDTH} x {HEIGHT}, {ANNOTATORS} annotators, {len(THRESHOLDS)} thresholds"
    note = f"{int(fast[0, 3])} predicted pixels at the lowest threshold"
    return [Ratio(what, "thin, KD-tree and match per threshold", best["fast"], best["obvious"], note)]
