"""Average precision of oriented 3D boxes as the KITTI object benchmark counts it, at 40 recall positions.

Geiger, Lenz & Urtasun, CVPR 2012; the 40 positions: Simonelli et al., ICCV 2019, and KITTI's own evaluation since
then. For each class, difficulty and kind of overlap (3D; from above; of the image rectangles):

1. a true box counts if it is of the class and at most as difficult as the level; one that is more difficult, or of a
   neighbouring class (a van for a car), is *ignored*: who finds it gains and loses nothing. A detection whose image
   rectangle is less high than the level demands is ignored as well;
2. true boxes choose one after another, in the file's order, among the detections that overlap them by more than the
   class's threshold and aren't taken. Once to find scores: the one with the highest score. The scores of counted
   pairs give at most 41 thresholds, at recalls 0, 1/40 ... 1 (`score_thresholds`);
3. then at each threshold: the one of largest overlap among detections that score at least as much, an ignored one
   only where there is no other. What nobody takes is a false positive, unless it is ignored, or an image region
   labelled DontCare covers it. Such a region is a rectangle without 3D box: it matters for the image overlap only,
   where the covered part of the *detection* must exceed the threshold;
4. precision at each position becomes the largest at it or at any higher recall; AP is the mean over the positions
   1/40 ... 1, in percent.

The published program also lets a too small detection of *another* class be taken as an ignored one; here a detection
answers for its own class only. True boxes are gone through in a loop, frames and thresholds all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tasks.metrics.rotated_iou import bev_iou, iou_3d, rectangle_intersection, rectangle_iou

POSITIONS = 40
KINDS = ("3d", "bev", "image")
DIFFICULTIES = ("easy", "moderate", "hard")
COUNTED, IGNORED, ABSENT = 0, 1, -1
WIDTHS = {"boxes": 7, "rectangle": 4}

Overlap: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def score_thresholds(scores: Sequence[float], truths: int, positions: int = POSITIONS) -> list[float]:
    """The scores of found boxes at recalls 0, 1/positions, 2/positions ... of `truths` boxes, as far as they reach.

    At each position the score at the nearest recall, of two equally near ones that at the lower; the last score found
    closes the list. More than 1.5 truths a position give what KITTI's program gives. It takes each score once, so that
    a class with fewer truths than positions cannot reach 100 % there; here a score then stands for several positions.

    >>> score_thresholds([0.9, 0.8, 0.7, 0.6], truths=4, positions=2)
    [0.9, 0.8, 0.6]
    """
    descending = sorted(scores, reverse=True)
    found = len(descending)
    thresholds: list[float] = []
    rank = 0
    for position in range(positions + 1):
        nearest = max(1, -((positions - 2 * truths * position) // (2 * positions)))
        if nearest > found:
            if rank < found:
                thresholds.append(descending[-1])
            break
        rank = nearest
        thresholds.append(descending[rank - 1])
    return thresholds


def found_scores(overlap: Tensor, score: Tensor, detection: Tensor, truth: Tensor, least: float) -> Tensor:
    """Step 2: the scores of counted detections that counted true boxes choose, float [found].

    overlap: [F, G, D] of F frames; score: [F, D]; detection: [F, D] and truth: [F, G] with COUNTED, IGNORED or ABSENT.
    """
    free = detection != ABSENT
    found = []
    for one in range(overlap.shape[1]):
        candidate = free & (overlap[:, one] > least) & (truth[:, one, None] != ABSENT)
        taken = _first_best(score, candidate)
        counted = taken & (detection == COUNTED) & (truth[:, one, None] == COUNTED)
        found.append(score[counted])
        free = free & ~taken
    return torch.cat(found) if found else score.new_zeros(0)


def precisions(
    overlap: Tensor,
    score: Tensor,
    detection: Tensor,
    truth: Tensor,
    covered: Tensor,
    thresholds: Tensor,
    least: float,
) -> tuple[Tensor, Tensor]:
    """Step 3: true and false positives at each threshold, int64 [T] each.

    As for `found_scores`; covered: bool [F, D], whether a DontCare region covers a detection; thresholds: [T].
    """
    above = (score[:, None] >= thresholds[:, None]) & (detection != ABSENT)[:, None]  # [F, T, D]
    counts = above & (detection == COUNTED)[:, None]
    free = above
    hits = torch.zeros(len(thresholds), dtype=torch.int64, device=score.device)
    order = -torch.arange(score.shape[1], dtype=overlap.dtype, device=score.device)
    for one in range(overlap.shape[1]):
        near = (overlap[:, one] > least) & (truth[:, one, None] != ABSENT)
        candidate = free & near[:, None]
        best = _first_best(overlap[:, one, None].expand(candidate.shape), candidate & counts)
        ignored = _first_best(order.expand(candidate.shape), candidate & ~counts)
        taken = torch.where(best.any(dim=-1, keepdim=True), best, ignored)
        hits += (best & (truth[:, one] == COUNTED)[:, None, None]).sum(dim=(0, 2))
        free = free & ~taken
    wrong = (free & counts & ~covered[:, None]).sum(dim=(0, 2))
    return hits, wrong


def _first_best(value: Tensor, candidate: Tensor) -> Tensor:
    """The first candidate of largest value along the last axis, one-hot bool; nothing where there is none."""
    if not value.shape[-1]:
        return candidate
    masked = value.masked_fill(~candidate, -torch.inf)
    place = masked.argmax(dim=-1, keepdim=True)
    return torch.zeros_like(candidate).scatter_(-1, place, True) & candidate


def interpolated_ap(precision: Tensor, positions: int = POSITIONS) -> float:
    """Step 4: precision at the first recall positions [T], T <= positions + 1 -> AP in percent.

    >>> interpolated_ap(torch.tensor([1.0, 0.5, 0.75]), positions=4)
    37.5
    """
    full = precision.new_zeros(positions + 1)
    full[: len(precision)] = precision
    envelope = full.flip(0).cummax(0).values.flip(0)
    return 100 * float(envelope[1:].double().mean())


class BoxAveragePrecision(Metric):
    """AP of a whole dataset for each kind of overlap, class and difficulty.

    min_overlaps: of each class; min_heights: pixels of a detection's image height at easy, moderate, hard.
    chunk: frames that are matched at once.
    """

    higher_is_better = True
    full_state_update = False
    detections: list[Tensor]
    truths: list[Tensor]
    regions: list[Tensor]
    sizes: list[Tensor]

    def __init__(self, min_overlaps: Sequence[float], min_heights: Sequence[float], chunk: int = 256) -> None:
        super().__init__()
        if len(min_heights) != len(DIFFICULTIES):
            raise ValueError(f"min_heights are for {', '.join(DIFFICULTIES)}, got {tuple(min_heights)}")
        self.min_overlaps, self.min_heights, self.chunk = tuple(min_overlaps), tuple(min_heights), chunk
        for state in ("detections", "truths", "regions", "sizes"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        detections: dict[str, Tensor],
        truths: dict[str, Tensor],
        regions: dict[str, Tensor],
        frames: int,
    ) -> None:
        """Take in a batch of frames; rows in ascending order of `frame`, int64 in 0..frames-1.

        detections: boxes [N, 7], rectangle [N, 4] pixels, score [N], label [N], frame [N]
        truths: boxes [M, 7], rectangle [M, 4], label [M], difficulty [M] (0 easy .. 2 hard, 3 never counts),
            neighbour bool [M] (of a class that neighbours `label`), frame [M]
        regions: rectangle [K, 4] of DontCare regions, frame [K]
        """
        rows = {
            "detections": (detections, ("boxes", "rectangle", "label", "score")),
            "truths": (truths, ("boxes", "rectangle", "label", "difficulty", "neighbour")),
            "regions": (regions, ("rectangle",)),
        }
        sizes = []
        for state, (given, columns) in rows.items():
            frame = given["frame"]
            if len(frame) and (
                int(frame.min()) < 0 or int(frame.max()) >= frames or (frame.diff() < 0).any()
            ):
                raise ValueError(f"{state}: frame must ascend within 0..{frames - 1}")
            table = [given[name].double().view(len(frame), WIDTHS.get(name, 1)) for name in columns]
            getattr(self, state).append(torch.cat(table, dim=1))
            sizes.append(torch.bincount(frame, minlength=frames))
        self.sizes.append(torch.stack(sizes, dim=1))

    def compute(self) -> Tensor:
        """AP in percent, float64 [KINDS, C, DIFFICULTIES]; NaN where no true box counts."""
        sizes = dim_zero_cat(self.sizes)
        tables = [dim_zero_cat(state) for state in (self.detections, self.truths, self.regions)]
        number = torch.arange(len(sizes), device=sizes.device)
        frames = [torch.repeat_interleave(number, sizes[:, column]) for column in range(3)]
        scores = torch.full(
            (len(KINDS), len(self.min_overlaps), len(DIFFICULTIES)), torch.nan, dtype=torch.float64
        )
        for label, least in enumerate(self.min_overlaps):
            chunks = [
                _Chunk.of(tables, frames, label, start, min(start + self.chunk, len(sizes)), least)
                for start in range(0, len(sizes), self.chunk)
            ]
            for level, height in enumerate(self.min_heights):
                for kind, name in enumerate(KINDS):
                    scores[kind, label, level] = _ap(chunks, name, level, height, least)
        return scores


class _Chunk:
    """Some frames' detections and true boxes of one class, padded to one size."""

    def __init__(
        self, detections: Tensor, truths: Tensor, overlaps: dict[str, Tensor], covered: Tensor
    ) -> None:
        self.detections, self.truths, self.overlaps, self.covered = detections, truths, overlaps, covered

    @classmethod
    def of(
        cls,
        tables: Sequence[Tensor],
        frames: Sequence[Tensor],
        label: int,
        start: int,
        end: int,
        least: float,
    ) -> _Chunk:
        """detections [F, D, 13], truths [F, G, 14], NaN where there is none; overlaps [F, G, D] by kind."""
        padded = []
        for table, frame, column in zip(tables, frames, (11, 11, None), strict=True):
            chosen = (frame >= start) & (frame < end)
            if column is not None:
                chosen &= table[:, column] == label
            padded.append(_padded(table[chosen], frame[chosen] - start, end - start))
        detections, truths, regions = padded
        frame, truth, detection = (
            (~detections[:, None, :, 0].isnan()) & (~truths[:, :, None, 0].isnan())
        ).nonzero(as_tuple=True)
        left, right = truths[frame, truth], detections[frame, detection]
        reach = (left[:, 3:5].norm(dim=1) + right[:, 3:5].norm(dim=1)) / 2
        near = (left[:, :2] - right[:, :2]).norm(dim=1) < reach
        everywhere = torch.ones_like(near)
        columns: dict[str, tuple[Overlap, slice, Tensor]] = {
            "3d": (iou_3d, slice(0, 7), near),
            "bev": (bev_iou, slice(0, 7), near),
            "image": (rectangle_iou, slice(7, 11), everywhere),
        }
        overlaps = {}
        for name, (overlap, own, possible) in columns.items():
            matrix = detections.new_zeros(len(truths), truths.shape[1], detections.shape[1])
            values = overlap(left[possible][:, own], right[possible][:, own])
            matrix[frame[possible], truth[possible], detection[possible]] = values
            overlaps[name] = matrix
        rectangles = detections[:, :, None, 7:11]
        part = rectangle_intersection(rectangles, regions[:, None])
        area = (rectangles[..., 2:] - rectangles[..., :2]).prod(-1)
        return cls(detections, truths, overlaps, (part > least * area).any(dim=-1))


def _padded(table: Tensor, frame: Tensor, frames: int) -> Tensor:
    """Rows [N, K] of frames in ascending order -> [frames, most rows of a frame, K], NaN behind each frame's own."""
    sizes = torch.bincount(frame, minlength=frames)
    first = sizes.cumsum(0) - sizes
    place = torch.arange(len(frame), device=frame.device) - first[frame]
    padded = table.new_full((frames, int(sizes.max()) if len(sizes) else 0, table.shape[1]), torch.nan)
    padded[frame, place] = table
    return padded


def _ap(chunks: Sequence[_Chunk], kind: str, level: int, height: float, least: float) -> float:
    """AP in percent of one kind of overlap at one difficulty; NaN where no true box counts."""
    states = [(_detection_state(chunk, height), _truth_state(chunk, level)) for chunk in chunks]
    total = sum(int((truth == COUNTED).sum()) for _, truth in states)
    if not total:
        return float("nan")
    found = [
        found_scores(chunk.overlaps[kind], chunk.detections[..., 12], *state, least)
        for chunk, state in zip(chunks, states, strict=True)
    ]
    thresholds = torch.cat(found).new_tensor(score_thresholds(torch.cat(found).tolist(), total))
    hits = wrong = torch.zeros(len(thresholds), dtype=torch.int64, device=thresholds.device)
    for chunk, state in zip(chunks, states, strict=True):
        # A DontCare region has no place in space.
        covered = chunk.covered if kind == "image" else torch.zeros_like(chunk.covered)
        more = precisions(chunk.overlaps[kind], chunk.detections[..., 12], *state, covered, thresholds, least)
        hits, wrong = hits + more[0], wrong + more[1]
    return interpolated_ap(hits.double() / (hits + wrong).clamp(min=1))


def _detection_state(chunk: _Chunk, height: float) -> Tensor:
    rectangle = chunk.detections[..., 7:11]
    state = torch.where(rectangle[..., 3] - rectangle[..., 1] < height, IGNORED, COUNTED)
    return state.masked_fill(chunk.detections[..., 0].isnan(), ABSENT)


def _truth_state(chunk: _Chunk, level: int) -> Tensor:
    counted = (chunk.truths[..., 12] <= level) & (chunk.truths[..., 13] == 0)
    state = torch.where(counted, COUNTED, IGNORED)
    return state.masked_fill(chunk.truths[..., 0].isnan(), ABSENT)
