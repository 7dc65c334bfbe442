"""The BSDS boundary benchmark: ODS, OIS and AP of edge maps against several annotators.

Martin, Fowlkes & Malik, TPAMI 2004; Arbelaez et al., TPAMI 2011. Counting and scores follow the published
evaluation (`boundaryPR_image`, and `edgesEvalImg` / `edgesEvalDir` of the Structured Edge toolbox):

1. binarise the probability at each of 99 thresholds t = .01 ... .99 (E >= t), and thin the result;
2. match its pixels one to one with each annotator's, no further than `max_distance` x image diagonal;
3. recall: matched / all annotated pixels, summed over annotators. Precision: a predicted pixel is right if
   any annotator's match covers it;
4. counts are summed over images before any ratio is taken.

The published code solves a sparse assignment of least total distance in which leaving a pixel alone costs far
more than any match. Here it is a matching of maximum cardinality over the pairs within tolerance, so that the
numbers of matched pixels of each annotator are the same; then pixels move to nearer partners while one is free.
Which predicted pixels are covered still may differ a little from the least total distance where a map has more
lines within tolerance than there is truth, and with it the union over annotators that precision counts (by less
than 1%, and ODS by .002, on three pictures of BSDS500 with their cluttered gradient maps).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

THRESHOLDS: tuple[float, ...] = tuple(step / 100 for step in range(1, 100))

MATCHED_TRUTH, TRUTH, MATCHED_PREDICTION, PREDICTION = range(4)
"""Columns of a table of counts."""


def thin_edges(edges: np.ndarray) -> np.ndarray:
    """Morphological thinning until nothing changes (Guo & Hall 1989, MATLAB's `bwmorph(., 'thin', inf)`).

    bool [H, W] -> bool [H, W]; equal to `skimage.morphology.thin`, but only visits pixels that are set.
    """
    padded = np.pad(np.asarray(edges, bool), 1).view(np.uint8)
    _thin(padded.reshape(-1), np.flatnonzero(padded), padded.shape[1])
    return padded[1:-1, 1:-1].astype(bool)


def match_edges(
    prediction: np.ndarray, truth: np.ndarray, max_distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one matching of maximum cardinality between the set pixels of two maps.

    prediction, truth: bool [H, W]. max_distance: as a fraction of the image diagonal, inclusive.
    Returns the pixels of each map that found a partner, bool [H, W] each, equally many.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    matching = _Matching(prediction.astype(bool), truth.astype(bool)[None], max_distance)
    matching.keep(np.ones(len(matching.kept), bool))
    matched_prediction, matched_truth = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    matched_prediction[np.nonzero(prediction)] = matching.covered()
    matched_truth[np.nonzero(truth)] = matching.partner[0] >= 0
    return matched_prediction, matched_truth


def edge_counts(
    probability: np.ndarray,
    annotators: np.ndarray,
    thresholds: np.ndarray | tuple[float, ...] = THRESHOLDS,
    max_distance: float = 0.0075,
) -> np.ndarray:
    """Counts of one image at all thresholds.

    probability: float [H, W] in [0, 1]; annotators: 0/1 [A, H, W]; thresholds: ascending, above 0.
    Returns int64 [T, 4]: matched annotated pixels, annotated pixels (both summed over annotators), predicted
    pixels matched with any annotator, predicted pixels.
    """
    if probability.ndim != 2 or annotators.ndim != 3 or annotators.shape[1:] != probability.shape:
        raise ValueError(
            f"need a probability [H, W] and annotators [A, H, W], got {probability.shape}, {annotators.shape}"
        )
    steps = np.asarray(thresholds, probability.dtype)
    if (np.diff(steps) < 0).any() or steps[0] <= 0:
        raise ValueError("thresholds must be positive and ascending")
    candidates = probability >= steps[0]
    matching = _Matching(candidates, annotators.astype(bool), max_distance)

    padded = np.pad(np.where(candidates, probability, -1), 1, constant_values=-1).reshape(-1)
    places = np.flatnonzero(padded >= 0)
    values, width = padded[places], probability.shape[1] + 2
    mask = np.zeros(padded.shape, np.uint8)

    counts = np.zeros((len(steps), 4), np.int64)
    counts[:, TRUTH] = matching.annotated
    before = 0
    # From the highest down: sets mostly grow, and what is matched stays matched.
    for row in range(len(steps) - 1, -1, -1):
        above = values >= steps[row]
        size = int(above.sum())
        if size == before:  # thresholded sets are nested: the same size is the same set
            if row + 1 < len(steps):
                counts[row] = counts[row + 1]
            continue
        before = size
        mask[places] = above
        _thin(mask, places[above], width)
        kept = mask[places].astype(bool)
        matching.keep(kept)
        counts[row, MATCHED_TRUTH] = (matching.partner[0] >= 0).sum()
        counts[row, MATCHED_PREDICTION] = matching.covered().sum()
        counts[row, PREDICTION] = kept.sum()
    return counts


def ods_ois_ap(counts: np.ndarray) -> dict[str, float]:
    """The three scores from the counts of all images, int [N, T, 4] as `edge_counts` gives them.

    ods: best F at one threshold for all images, linear between thresholds (100 steps) in P and R.
    ois: F of the counts pooled at each image's own best threshold (not the mean of the images' F).
    ap: P interpolated at R = 0, .01 ... 1, undefined ones dropped, summed and divided by 100. Of several
    thresholds with the same recall the lowest counts; a map with one recall, such as a binary one, has 0.

    >>> counts = np.array([[[8, 10, 4, 8], [5, 10, 3, 4]]])
    >>> {name: round(value, 4) for name, value in ods_ois_ap(counts).items()}
    {'ods': 0.6377, 'ois': 0.6154, 'ap': 0.1938}
    """
    if counts.ndim != 3 or counts.shape[-1] != 4 or len(counts) == 0:
        raise ValueError(f"counts must be [N, T, 4] of at least one image, got {counts.shape}")
    precision, recall = _precision_recall(counts.sum(0))
    best = _f_measure(precision, recall).max()
    if len(precision) > 1:
        step = np.linspace(0, 1, 100)[:, None]
        between_p = step * precision[1:] + (1 - step) * precision[:-1]
        between_r = step * recall[1:] + (1 - step) * recall[:-1]
        best = max(best, _f_measure(between_p, between_r).max())

    own_best = _f_measure(*_precision_recall(counts)).argmax(1)
    pooled = counts[np.arange(len(counts)), own_best].sum(0)

    levels, first = np.unique(recall, return_index=True)
    area = 0.0
    if len(levels) > 1:
        at = np.arange(101) / 100
        inside = (at >= levels[0]) & (at <= levels[-1])
        area = float(np.interp(at[inside], levels, precision[first]).sum() / 100)
    return {"ods": float(best), "ois": float(_f_measure(*_precision_recall(pooled))), "ap": area}


class EdgeScores(Metric):
    """ODS, OIS and AP of a data set. Its state is the counts of each image, 99 x 4 integers."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    counts: list[Tensor]

    def __init__(self, max_distance: float = 0.0075) -> None:
        super().__init__()
        if not 0 < max_distance < 1:
            raise ValueError(f"max_distance is a fraction of the diagonal, got {max_distance}")
        self.max_distance = max_distance
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, edge: Tensor, edges: Tensor, annotators: Tensor) -> None:
        """edge: [B, 1, H, W] in [0, 1]; edges: 0/1 [B, A, H, W], the first `annotators` [B] of which count."""
        if edge.ndim != 4 or edge.shape[1] != 1 or edge.shape[::2] != edges.shape[:1] + edges.shape[2:3]:
            raise ValueError(
                f"need edge [B, 1, H, W] and edges [B, A, H, W], got {edge.shape}, {edges.shape}"
            )
        probabilities = edge.detach().float().cpu().numpy()[:, 0]
        if not np.isfinite(probabilities).all():
            raise ValueError("edge probabilities must be finite")
        maps = edges.cpu().numpy()
        for image, number in enumerate(annotators.tolist()):
            table = edge_counts(probabilities[image], maps[image, :number], max_distance=self.max_distance)
            self.counts.append(torch.from_numpy(table)[None].to(self.device))

    def compute(self) -> dict[str, Tensor]:
        counts = dim_zero_cat(self.counts).cpu().numpy()
        return {name: torch.tensor(value) for name, value in ods_ois_ap(counts).items()}


class _Matching:
    """A matching of maximum cardinality of candidate and annotated pixels, kept up as candidates come and go.

    Pairs within tolerance are listed once. The annotators' graphs lie side by side: a candidate has one node
    for each annotator. Between thresholds the matching is repaired instead of found again: an augmenting path
    (Berge 1957) can only start at a candidate that came or at an annotated pixel whose partner went. Only
    these are searched from, all at once, in rounds of a breadth-first forest whose trees share no node.
    """

    def __init__(self, candidates: np.ndarray, annotators: np.ndarray, max_distance: float) -> None:
        height, width = candidates.shape
        radius = max_distance * float(np.hypot(height, width))
        reach = int(radius)
        number = np.full((height + 2 * reach, width + 2 * reach), -1, np.int64)
        size = int(candidates.sum())
        number[reach : reach + height, reach : reach + width][candidates] = np.arange(size)

        annotator, row, column = np.nonzero(annotators)
        self.annotators, self.annotated = len(annotators), len(row)
        step_row, step_column = _disc(reach, radius)
        place = (row + reach) * number.shape[1] + column + reach
        found = number.reshape(-1)[place[:, None] + (step_row * number.shape[1] + step_column)]  # [N, D]
        truth, rank = np.nonzero(found >= 0)
        node = found[truth, rank] + annotator[truth] * size
        by_node = np.lexsort((rank, node))
        # Neighbours of the annotated pixels (side 0) and of the candidates' nodes (side 1), nearest first.
        self.neighbours = (node, truth[by_node])
        self.starts = (_starts(truth, self.annotated), _starts(node, self.annotators * size))
        self.partner = tuple(np.full(len(starts) - 1, -1) for starts in self.starts)
        self.parent = tuple(np.full(len(starts) - 1, -1) for starts in self.starts)
        self.truth, self.squared = truth, (step_row**2 + step_column**2)[rank]
        self.truth_at, self.candidate_at = np.stack([row, column]), np.stack(np.nonzero(candidates))
        self.kept = np.zeros(size, bool)
        self.present = np.zeros(self.annotators * size, bool)

    def keep(self, kept: np.ndarray) -> None:
        """Make the matching one of exactly the candidates that are `kept`, bool [C]."""
        gone, new = self._nodes(self.kept & ~kept), self._nodes(kept & ~self.kept)
        left_alone = self.partner[1][gone]
        left_alone = left_alone[left_alone >= 0]
        self.partner[1][gone] = -1
        self.partner[0][left_alone] = -1
        # One side after the other, each on a graph of its own: if both were let in at once, a path between one
        # of each would use up two roots, and leave a longer pair of paths unfound.
        self.present = np.tile(kept & self.kept, self.annotators)
        self._augment(0, left_alone)
        self.kept = kept
        self.present = np.tile(kept, self.annotators)
        self._augment(1, new)
        self._settle()

    def covered(self) -> np.ndarray:
        """The candidates that any annotator's matching covers, bool [C]."""
        return (self.partner[1] >= 0).reshape(self.annotators, -1).any(0)

    def _settle(self) -> None:
        """Let annotated pixels move to a nearer candidate that is free, until none can; nobody loses its match."""
        mine, theirs = self.partner
        node = self.neighbours[0]
        if not len(node):
            return
        away = self.truth_at - self.candidate_at[:, mine % len(self.kept)]
        own = np.where(mine >= 0, (away**2).sum(0), -1)
        nearer = np.flatnonzero((self.squared < own[self.truth]) & self.present[node])
        while True:
            nearer = nearer[self.squared[nearer] < own[self.truth[nearer]]]
            better = nearer[theirs[node[nearer]] < 0]
            if not len(better):
                return
            better = better[np.diff(self.truth[better], prepend=-1) > 0]  # the nearest of each pixel
            gain = own[self.truth[better]] - self.squared[better]
            better = better[np.argsort(-gain, kind="stable")]
            better = better[np.unique(node[better], return_index=True)[1]]  # one pixel to each candidate
            movers, goals = self.truth[better], node[better]
            theirs[mine[movers]] = -1
            mine[movers], theirs[goals] = goals, movers
            own[movers] = self.squared[better]

    def _nodes(self, candidates: np.ndarray) -> np.ndarray:
        return (np.flatnonzero(candidates) + np.arange(self.annotators)[:, None] * len(candidates)).reshape(
            -1
        )

    def _augment(self, side: int, roots: np.ndarray) -> None:
        """Match as many of the free nodes `roots` of one side as augmenting paths allow."""
        mine, theirs, parent = self.partner[side], self.partner[1 - side], self.parent[1 - side]
        roots = roots[mine[roots] < 0]
        while len(roots):
            ends = self._forest(side, roots)
            if not len(ends):
                return
            while len(ends):  # flip all paths, one step of each at a time
                before = parent[ends]
                following = mine[before]
                mine[before], theirs[ends] = ends, before
                ends = following[following >= 0]
            roots = roots[mine[roots] < 0]

    def _forest(self, side: int, roots: np.ndarray) -> np.ndarray:
        """Grow an alternating tree from each root; the free nodes that end a path, at most one a tree."""
        starts, neighbours = self.starts[side], self.neighbours[side]
        theirs, parent = self.partner[1 - side], self.parent[1 - side]
        parent.fill(-1)
        growing = np.ones(len(roots), bool)
        nodes, trees = roots, np.arange(len(roots))
        ends = []
        while len(nodes):
            counts = starts[nodes + 1] - starts[nodes]
            origin = np.repeat(np.arange(len(nodes)), counts)
            pairs = np.arange(len(origin)) + (starts[nodes] + counts - np.cumsum(counts))[origin]
            targets = neighbours[pairs]
            fresh = parent[targets] < 0
            if side == 0:
                fresh &= self.present[targets]
            targets, origin = targets[fresh], origin[fresh]
            parent[targets[::-1]] = np.arange(len(targets))[::-1]  # the first to reach a node has it
            first = parent[targets] == np.arange(len(targets))
            targets, origin = targets[first], origin[first]
            parent[targets] = nodes[origin]
            tree = trees[origin]
            free = theirs[targets] < 0
            if free.any():
                complete, first_end = np.unique(tree[free], return_index=True)
                ends.append(targets[free][first_end])
                growing[complete] = False
            onward = ~free & growing[tree]
            nodes, trees = theirs[targets[onward]], tree[onward]
        return np.concatenate(ends) if ends else roots[:0]


def _starts(sorted_or_not: np.ndarray, size: int) -> np.ndarray:
    """Where each node's run begins in a list ordered by node, int [size + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_or_not, minlength=size))])


@lru_cache(maxsize=16)
def _disc(reach: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Steps (rows, columns) no longer than `radius`, the shortest first."""
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squared = row**2 + column**2
    order = np.argsort(squared, kind="stable")
    order = order[squared[order] <= radius**2]
    return row[order], column[order]


def _precision_recall(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tiny = np.finfo(float).eps
    return (
        counts[..., MATCHED_PREDICTION] / np.maximum(tiny, counts[..., PREDICTION]),
        counts[..., MATCHED_TRUTH] / np.maximum(tiny, counts[..., TRUTH]),
    )


def _f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    return 2 * precision * recall / np.maximum(np.finfo(float).eps, precision + recall)


def _thin(mask: np.ndarray, places: np.ndarray, width: int) -> None:
    """Thin a flat 0/1 map [rows * width] with an empty frame in place; `places`: its set pixels."""
    around = np.array([1, 1 - width, -width, -1 - width, -1, width - 1, width, width + 1])
    slot = np.empty(len(mask), np.int64)
    waiting = [places, places]  # for each sub-iteration, pixels whose neighbourhood it has not seen as it is
    while len(waiting[0]) or len(waiting[1]):
        for turn, removable in enumerate(_thinning_tables()):
            pixels = waiting[turn][mask[waiting[turn]] > 0]
            code = np.zeros(len(pixels), np.uint8)
            for bit, step in enumerate(around):
                code |= mask[pixels + step] << bit
            gone = pixels[removable[code]]
            mask[gone] = 0
            touched = (gone[:, None] + around).reshape(-1)
            touched = touched[mask[touched] > 0]
            order = np.arange(len(touched))
            slot[touched] = order
            touched = touched[slot[touched] == order]  # each once
            waiting[turn] = touched
            waiting[1 - turn] = np.concatenate([waiting[1 - turn], touched])


@lru_cache(maxsize=1)
def _thinning_tables() -> tuple[np.ndarray, np.ndarray]:
    """For each of the 256 neighbourhoods, whether the pixel goes in each of the two sub-iterations.

    Neighbours x1 ... x8 run counter-clockwise from the east; conditions G1 to G3' of Lam et al., TPAMI 1992.
    """
    x = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    following = np.roll(x, -1, axis=1)
    after_next = np.roll(x, -2, axis=1)
    odd = [0, 2, 4, 6]
    crossings = (~x[:, odd] & (following[:, odd] | after_next[:, odd])).sum(1)
    n1 = (x[:, odd] | following[:, odd]).sum(1)
    n2 = (following[:, odd] | after_next[:, odd]).sum(1)
    fewer = np.minimum(n1, n2)
    removable = (crossings == 1) & (fewer >= 2) & (fewer <= 3)
    x1, x2, x3, x4, x5, x6, x7, x8 = x.T
    return removable & ~((x2 | x3 | ~x8) & x1), removable & ~((x6 | x7 | ~x4) & x5)
