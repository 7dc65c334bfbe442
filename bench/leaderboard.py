"""Results to leaderboards: one table for each task, dataset, variant and profile, and nothing mixed in one.

What makes a table of its own: options of the dataset that state another problem (`mini-imagenet shots=1`), the
budget, if it isn't 1 (the profile is then called `mini×0.25`, say), and the version of the data (the version
with the latest result has the plain file name). Results whose code has changed since may stem from another
definition of a metric: they are shown with a mark and without a rank, and only as long as their label has no
result of today's code. Numbers that papers print are shown below, never ranked.

A row is one label; of two results of one label and seed the later counts. Ranks: rows in the order of the
primary measure's mean; a row ties with the best row of the rank before it if their 95 % t-intervals over
seeds overlap. A single seed has no interval, so it ties only with an equal mean.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench.errors import UsageError
from bench.intervals import half_width
from bench.results import Result, Row, write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tasks.base import Measure

COST_COLUMNS = (
    "parameters",
    "flops",
    "train_samples_per_second",
    "test_samples_per_second",
    "train_seconds",
    "host_peak_mb",
    "device_peak_mb",
)
"""Means over seeds, but for the memory: that is the largest peak."""

_HEADERS = {
    "parameters": "parameters",
    "flops": "FLOPs",
    "train_samples_per_second": "train samples/s",
    "test_samples_per_second": "test samples/s",
    "train_seconds": "train s",
    "host_peak_mb": "host MB",
    "device_peak_mb": "device MB",
}
_PEAKS = ("host_peak_mb", "device_peak_mb")
_PROFILES = ("smoke", "mini", "paper")
_STALE_MARK = "†"


class Place(NamedTuple):
    """What results must have in common to stand in one table."""

    task: str
    dataset: str
    problem: str
    variant: str
    profile: str
    budget: float
    data_version: str

    @property
    def data_label(self) -> str:
        """The dataset, with the options that state another problem: `mini-imagenet shots=1`."""
        return f"{self.dataset} {self.problem}" if self.problem else self.dataset

    @property
    def profile_label(self) -> str:
        """The profile, with the budget if it isn't the whole one: `mini×0.25`."""
        return self.profile if self.budget == 1.0 else f"{self.profile}×{self.budget:.15g}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Leaderboard:
    """The table of all results that may be compared.

    measures: the task's, the primary one first.
    frame: a row for each label in the order shown, with the columns `rank` (int, or None for stale rows
        and those without a number), `method` (the label), `n` (seeds), for each measure its mean `<measure>`
        and `<measure>_ci95` (half of the interval), those of `COST_COLUMNS`, and `stale`.
    reported: what papers print for this task and dataset, columns as in `leaderboards/reported/*.csv`.
    failed: how many trials failed.
    keys: of all results that belong here, failed and superseded ones too.
    current: whether this is the data version of the latest result.
    """

    place: Place
    measures: tuple[Measure, ...]
    frame: pd.DataFrame
    reported: pd.DataFrame
    failed: int
    keys: tuple[str, ...] = field(repr=False)
    current: bool = True

    @property
    def name(self) -> str:
        """`<task>.<dataset>.<variant>.<profile>`, fit for a file name; the problem stands with the dataset."""
        place = self.place
        parts = [place.task, place.data_label, place.variant, place.profile_label.replace("×", "x")]
        return ".".join(
            _file_name(part) for part in [*parts, *([] if self.current else [place.data_version])]
        )

    @property
    def title(self) -> str:
        place = self.place
        version = "" if self.current else f", data version {place.data_version}"
        return f"{place.task} on {place.data_label} ({place.variant}, {place.profile_label}{version})"

    def to_json(self) -> dict[str, Any]:
        """The table as strict JSON values; null where there is no number, infinities as "inf" and "-inf"."""
        return {
            "name": self.name,
            **self.place._asdict(),
            "profile_label": self.place.profile_label,
            "current": self.current,
            "measures": [
                {
                    "name": measure.name,
                    "higher_is_better": measure.higher_is_better,
                    "unit": measure.unit,
                    "decimals": measure.decimals,
                }
                for measure in self.measures
            ],
            "rows": _records(self.frame),
            "reported": _records(self.reported),
            "failed": self.failed,
        }


def build(
    results: Iterable[Result],
    reported: pd.DataFrame | None,
    measures_of: Callable[[str], tuple[Measure, ...]],
    is_stale: Callable[[Result], bool],
) -> list[Leaderboard]:
    """All leaderboards of some results, by task, dataset, variant, profile and budget.

    reported: rows with the columns of `leaderboards/reported/*.csv`. measures_of: a task's measures by its
    name; where it raises `UsageError`, the task is gone and its results are left out with a warning.
    is_stale: asked once for all results that agree in method, dataset and fingerprint.
    """
    gathered = by_place(results)
    current = current_places(gathered)
    papers = _by_task_and_dataset(reported)
    stale = Staleness(is_stale)
    boards = []
    for place in sorted(gathered, key=_order):
        here = gathered[place]
        try:
            measures = measures_of(place.task)
        except UsageError as error:
            warnings.warn(f"{len(here)} results on {place.data_label} are left out: {error}", stacklevel=2)
            continue
        boards.append(
            Leaderboard(
                place=place,
                measures=measures,
                frame=_table(lines(here, stale), measures),
                reported=papers.get((place.task, place.dataset), _NOTHING_REPORTED),
                failed=sum(not result.ok for result in here),
                keys=tuple(result.key for result in here),
                current=place in current,
            )
        )
    return sorted(boards, key=lambda board: (*_order(board.place)[:-1], not board.current, board.place[-1]))


def by_place(results: Iterable[Result]) -> dict[Place, list[Result]]:
    """Results, failed ones too, by the table they belong to."""
    gathered: dict[tuple[Any, ...], list[Result]] = {}
    shared = itemgetter(*map(Row._fields.index, Place._fields))
    for result in results:
        gathered.setdefault(shared(result.row), []).append(result)
    return {Place._make(place): here for place, here in gathered.items()}


def current_places(gathered: Mapping[Place, Sequence[Result]]) -> set[Place]:
    """Of places that differ only in the version of the data, the one with the latest result."""
    latest: dict[tuple[Any, ...], tuple[str, Place]] = {}
    for place, here in gathered.items():
        candidate = (max(map(attrgetter("started"), here)), place)
        latest[place[:-1]] = max(latest.get(place[:-1], candidate), candidate)
    return {place for _, place in latest.values()}


def _order(place: Place) -> tuple[Any, ...]:
    known = _PROFILES.index(place.profile) if place.profile in _PROFILES else len(_PROFILES)
    return (*place[:4], known, place.profile, -place.budget, place.data_version)


class Staleness:
    """Remembers answers: to ask costs a look into the whole trial."""

    def __init__(self, is_stale: Callable[[Result], bool]) -> None:
        self._ask = is_stale
        self._answers: dict[tuple[str, str, str], bool] = {}

    def __call__(self, result: Result) -> bool:
        """Whether the result, and all of the same method, dataset and fingerprint, are stale."""
        what = (result.row.method, result.row.dataset, result.fingerprint)
        if what not in self._answers:
            self._answers[what] = self._ask(result)
        return self._answers[what]


# One table.


class Line(NamedTuple):
    """A label's results in a table, one a seed."""

    label: str
    stale: bool
    results: list[Result]


def lines(results: Iterable[Result], is_stale: Callable[[Result], bool]) -> list[Line]:
    """The ok results of one table by label: those of today's code or, without any, the last stale ones."""
    by_label: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        if result.status == "ok":
            by_label.setdefault(result.row.label, {}).setdefault(result.fingerprint, []).append(result)
    found = []
    for label, by_fingerprint in by_label.items():
        alike = by_fingerprint.values()
        kept = [result for same in alike if not is_stale(same[0]) for result in same]
        stale = not kept
        if stale:
            kept = max(alike, key=lambda same: max(map(_age, same)))
        found.append(Line(label, stale, _latest_by_seed(kept)))
    return found


def _latest_by_seed(results: Iterable[Result]) -> list[Result]:
    """One result for each seed, the one that was started last, in the order of seeds."""
    by_seed: dict[int, Result] = {}
    for result in results:
        other = by_seed.get(result.row.seed)
        if other is None or _age(other) < _age(result):
            by_seed[result.row.seed] = result
    return [by_seed[seed] for seed in sorted(by_seed)]


def _age(result: Result) -> tuple[str, str]:
    return result.started, result.key


def _table(rows: Sequence[Line], measures: Sequence[Measure]) -> pd.DataFrame:
    n = np.array([len(line.results) for line in rows], dtype=int)
    first = np.cumsum(n) - n
    chosen = [result for line in rows for result in line.results]
    scores = _numbers([result.metrics for result in chosen], [measure.name for measure in measures])
    costs = _numbers([result.cost for result in chosen], COST_COLUMNS)
    columns: dict[str, Any] = {"method": np.array([line.label for line in rows], dtype=object), "n": n}
    for measure, values in zip(measures, scores, strict=True):
        columns[measure.name], columns[f"{measure.name}_ci95"] = _means(values, first, n)
    for name, values in zip(COST_COLUMNS, costs, strict=True):
        columns[name] = (_largest if name in _PEAKS else _known_mean)(values, first)
    columns["stale"] = np.array([line.stale for line in rows], dtype=bool)

    score, half = columns[measures[0].name], columns[f"{measures[0].name}_ci95"]
    unknown = np.isnan(score)
    falling = -score if measures[0].higher_is_better else score
    order = np.lexsort((columns["method"].astype(str), falling, unknown, columns["stale"]))
    ranks = np.full(len(rows), None, dtype=object)
    ranked = order[: np.count_nonzero(~columns["stale"] & ~unknown)]
    ranks[: len(ranked)] = rank(score[ranked].tolist(), half[ranked].tolist())
    return pd.DataFrame({"rank": ranks, **{name: values[order] for name, values in columns.items()}})


def rank(means: Sequence[float], half_widths: Sequence[float]) -> list[int]:
    """Competition ranks (1, 1, 3 ...) of means that are sorted, the best first.

    A mean shares the rank before it if it equals the best mean of that rank or their intervals overlap; NaN
    for a half width means that there is no interval.
    """
    ranks: list[int] = []
    best, reach, current = math.nan, math.nan, 0
    for position, (mean, half) in enumerate(zip(means, half_widths, strict=True), 1):
        if not (mean == best or abs(mean - best) <= half + reach):
            best, reach, current = mean, half, position
        ranks.append(current)
    return ranks


def _numbers(mappings: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """[names, mappings] float64, NaN where a mapping holds no number."""
    values = [[*map(mapping.get, names)] for mapping in mappings]
    return np.array(values, dtype=float).reshape(len(mappings), len(names)).T


def _means(values: np.ndarray, first: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half of the 95 % t-interval for each run of values; NaN if one of them is."""
    if not len(first):
        return np.zeros(0), np.zeros(0)
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(values, first) / n
        squares = np.add.reduceat((values - np.repeat(means, n)) ** 2, first)
        return means, half_width(np.sqrt(squares / np.maximum(n - 1, 1)), n)


def _known_mean(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    if not len(first):
        return np.zeros(0)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.add.reduceat(np.where(known, values, 0.0), first) / np.add.reduceat(known, first, dtype=int)


def _largest(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.fmax.reduceat(values, first) if len(first) else np.zeros(0)


_REPORTED_COLUMNS = ["task", "dataset", "split", "metric", "method", "value", "unit", "source", "table"]
_NOTHING_REPORTED = pd.DataFrame(columns=_REPORTED_COLUMNS, dtype=object)


def _by_task_and_dataset(reported: pd.DataFrame | None) -> dict[tuple[str, str], pd.DataFrame]:
    if reported is None or reported.empty:
        return {}
    groups = reported[_REPORTED_COLUMNS].groupby(["task", "dataset"], sort=False)
    return {(str(task), str(dataset)): group.reset_index(drop=True) for (task, dataset), group in groups}


# What people and programs read.


def to_json(boards: Iterable[Leaderboard]) -> list[dict[str, Any]]:
    """All tables as strict JSON values."""
    return [board.to_json() for board in boards]


def write(boards: Sequence[Leaderboard], folder: Path) -> list[Path]:
    """Write each table as Markdown and CSV, and `index.md`; returns the paths. Each file appears whole."""
    names = Counter(board.name for board in boards)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise ValueError(f"two leaderboards would be written to one file: {', '.join(twice)}")
    paths = []
    for board in boards:
        for suffix, text in ((".md", to_markdown(board)), (".csv", to_csv(board))):
            path = Path(folder) / f"{board.name}{suffix}"
            write_atomically(path, text.encode())
            paths.append(path)
    index = Path(folder) / "index.md"
    write_atomically(index, _index(boards).encode())
    return [*paths, index]


def to_csv(board: Leaderboard) -> str:
    """The measured rows in full precision; empty where there is no number."""
    return board.frame.to_csv(index=False, lineterminator="\n")


def to_markdown(board: Leaderboard) -> str:
    """A title, the table, its footnotes and, apart from it, what papers report."""
    headers, rows = _cells(board)
    parts = [f"# {board.title}", markdown_table(headers, rows, left=[1]), *_footnotes(board)]
    if len(board.reported):
        headers, rows = _reported_cells(board)
        parts += [f"## {_REPORTED_TITLE}", markdown_table(headers, rows, left=[0, 1, 3, 4, 5, 6])]
    return "\n\n".join(parts) + "\n"


def render(board: Leaderboard, width: int | None = None) -> RenderableType:
    """The same for a terminal. width: in characters; what doesn't fit is left out, the last columns first."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(
        title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]
    ) -> Table:
        shown = Table(title=Text(title), title_justify="left")
        for position, header in enumerate(headers):
            shown.add_column(Text(header), justify="left" if position in left else "right", overflow="fold")
        for row in rows:
            shown.add_row(*map(Text, row))
        return shown

    headers, rows = _cells(board)
    kept = _fitting(headers, rows, width) if width else len(headers)
    parts: list[RenderableType] = [table(board.title, headers[:kept], [row[:kept] for row in rows], left=[1])]
    if kept < len(headers):
        parts.append(Text(f"Not shown for want of width: {', '.join(headers[kept:])}.", style="dim"))
    parts += [Text(note, style="dim") for note in _footnotes(board)]
    if len(board.reported):
        headers, rows = _reported_cells(board)
        parts.append(table(_REPORTED_TITLE, headers, rows, left=[*range(len(headers))]))
    return Group(*parts, Text(""))


def _fitting(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> int:
    """How many of the columns fit side by side; rank, method and the primary measure always stay."""
    taken, count = 1, 0
    for column in zip(headers, *rows, strict=True):
        taken += max(map(len, column)) + 3
        if taken > width and count >= 3:
            break
        count += 1
    return count


_REPORTED_TITLE = "Reported by papers, on their own data and terms: not ranked, not comparable with the above"


def _cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    """Headers and formatted cells; columns of costs that nobody knows are left out."""
    frame = board.frame
    costs = [name for name in COST_COLUMNS if frame[name].notna().any()]
    headers = ["rank", "method", *map(header, board.measures), "n", *(_HEADERS[name] for name in costs)]
    columns: list[Iterable[str]] = [
        ["" if value is None else str(value) for value in frame["rank"]],
        [
            f"{label} {_STALE_MARK}" if stale else label
            for label, stale in zip(frame["method"], frame["stale"], strict=True)
        ],
    ]
    for measure in board.measures:
        pairs = zip(frame[measure.name].tolist(), frame[f"{measure.name}_ci95"].tolist(), strict=True)
        columns.append([with_interval(mean, half, measure) for mean, half in pairs])
    columns.append(map(str, frame["n"].tolist()))
    for name in costs:
        shown = _whole if name in _PEAKS else _short
        columns.append(map(shown, frame[name].tolist()))
    return headers, [list(row) for row in zip(*columns, strict=True)]


def _reported_cells(board: Leaderboard) -> tuple[list[str], list[list[str]]]:
    columns = ["metric", "method", "value", "unit", "split", "source", "table"]
    return columns, board.reported[columns].astype(str).to_numpy().tolist()


def header(measure: Measure) -> str:
    """A measure's name with its direction and unit: `miou ↑ [%]`."""
    unit = f" [{measure.unit}]" if measure.unit else ""
    return f"{measure.name} {'↑' if measure.higher_is_better else '↓'}{unit}"


def with_interval(mean: float, half: float, measure: Measure, signed: bool = False) -> str:
    """`71.20 ± 0.85` with the measure's decimals; no interval where there is none."""
    if math.isnan(mean):
        return "–"
    number = f"{mean:{'+' if signed else ''}.{measure.decimals}f}"
    return number if math.isnan(half) else f"{number} ± {half:.{measure.decimals}f}"


def _short(value: float) -> str:
    """Three significant digits with a decimal prefix: 1.23 M."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else str(value)
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)}{prefix}"
    return _three_digits(value)


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else _short(value)


def _three_digits(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return str(int(value))
    return (
        f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.3g}"
    )


def _footnotes(board: Leaderboard) -> list[str]:
    notes = [
        "Mean over n seeds ± half of the 95 % t-interval. Rank by "
        f"{board.measures[0].name}; a rank is shared where the interval overlaps that of the rank's best."
    ]
    if board.frame["stale"].any():
        notes.append(f"{_STALE_MARK} The code has changed since this was measured: not ranked.")
    if not board.current:
        notes.append("There are later results with another version of the data.")
    if board.failed:
        notes.append(f"{board.failed} {'trial' if board.failed == 1 else 'trials'} failed and count nowhere.")
    return notes


def _index(boards: Sequence[Leaderboard]) -> str:
    rows = []
    for board in boards:
        primary = board.measures[0]
        first = board.frame[board.frame["rank"] == 1]
        leader = score = "–"
        if len(first):
            leader = first["method"].iloc[0] + (f" (tied with {len(first) - 1})" if len(first) > 1 else "")
            score = with_interval(first[primary.name].iloc[0], first[f"{primary.name}_ci95"].iloc[0], primary)
        place = board.place
        rows.append(
            [
                place.task,
                f"[{place.data_label}]({board.name}.md)",
                place.variant,
                place.profile_label + ("" if board.current else f", data version {place.data_version}"),
                leader,
                f"{score} {primary.unit}".strip(),
                header(primary),
                str(len(board.frame)),
                str(int(board.frame["stale"].sum())),
                str(board.failed),
            ]
        )
    headers = [
        "task",
        "dataset",
        "variant",
        "profile",
        "leader",
        "score",
        "measure",
        "methods",
        "stale",
        "failed",
    ]
    return f"# Leaderboards\n\n{markdown_table(headers, rows, left=[0, 1, 2, 3, 4, 6])}\n"


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]) -> str:
    """A table in Markdown; the columns whose positions are in `left` are set flush left, the others right."""
    rules = [":--" if position in left else "--:" for position in range(len(headers))]
    escaped = ([re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in row] for row in (headers, *rows))
    first, *others = (f"| {' | '.join(row)} |" for row in escaped)
    return "\n".join([first, f"| {' | '.join(rules)} |", *others])


def _file_name(part: str) -> str:
    return re.sub(r"[^\w+-]", "_", part) or "_"


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            str(name): (None if math.isnan(value) else str(value))
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in record.items()
        }
        for record in frame.to_dict("records")
    ]
