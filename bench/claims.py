"""Results to verdicts: does a paper's claim, "this method beats that one", hold in our own results?

A claim is judged wherever both sides have results that may be compared (see `bench.leaderboard`), on the
latest version of the data. The seeds that both sides share are paired, since they share data order and
initialisation too; the sign of a difference is such that a positive one is in the claim's favour. It holds
if the 95 % t-interval of the mean difference lies above zero, fails if it lies below, and is undecided if the
interval holds zero or there are fewer than three shared seeds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import unknown
from bench.intervals import Interval, t_interval
from bench.leaderboard import (
    Line,
    Place,
    Staleness,
    by_place,
    current_places,
    header,
    lines,
    markdown_table,
    with_interval,
)
from bench.results import Result, write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tasks.base import Claim, Measure, Task

Outcome = Literal["holds", "fails", "undecided"]
FEWEST_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What our own results say about a claim in one place.

    declared_by: name of the method that declares it. seeds: those that both sides share. difference: mean
    over them of the paired differences, positive in the claim's favour; None without a shared seed. why: what
    keeps it undecided, or "". stale: whether code has changed since a side was measured.
    """

    declared_by: str
    claim: Claim
    measure: Measure
    place: Place
    seeds: tuple[int, ...]
    difference: Interval | None
    outcome: Outcome
    why: str = ""
    stale: bool = False

    def to_json(self) -> dict[str, Any]:
        """The verdict as strict JSON values; null where there is no number."""
        difference = self.difference
        return {
            "declared_by": self.declared_by,
            "method": self.claim.method,
            "over": self.claim.over,
            "measure": self.claim.measure,
            "higher_is_better": self.measure.higher_is_better,
            "reported": self.claim.reported,
            **self.place._asdict(),
            "profile_label": self.place.profile_label,
            "seeds": list(self.seeds),
            "difference": _finite(difference.mean) if difference else None,
            "ci95": _finite(difference.half_width) if difference else None,
            "verdict": self.outcome,
            "why": self.why,
            "stale": self.stale,
        }


def judge(
    declared: Mapping[str, Sequence[tuple[Claim, type[Task]]]],
    results: Iterable[Result],
    is_stale: Callable[[Result], bool] = lambda result: False,
) -> list[Verdict]:
    """A verdict for each claim in each place where both sides have results.

    declared: by the method's name, its claims with their task. Raises `UsageError` for a claim whose measure
    the task doesn't have.
    """
    gathered = by_place(results)
    current = current_places(gathered)
    stale = Staleness(is_stale)
    rows = {
        place: {_where_left_out(line.label): line for line in lines(gathered[place], stale)}
        for place in sorted(current)
    }
    verdicts = []
    for declared_by, claims in declared.items():
        for claim, task in claims:
            measures = {measure.name: measure for measure in task.measures}
            if claim.measure not in measures:
                raise unknown(f"measure of {task.name}", claim.measure, measures, f"a claim of {declared_by}")
            verdicts += [
                _verdict(
                    declared_by, claim, measures[claim.measure], place, here[claim.method], here[claim.over]
                )
                for place, here in rows.items()
                if place.task == task.name and claim.method in here and claim.over in here
            ]
    return verdicts


def _where_left_out(label: str) -> str:
    """A label without the datasets on which needed trials were trained: a claim says nothing of them."""
    return " ".join(part for part in label.split(" ") if "@" not in part)


def _verdict(
    declared_by: str, claim: Claim, measure: Measure, place: Place, method: Line, over: Line
) -> Verdict:
    ours, theirs = (
        {
            result.row.seed: result.metrics[measure.name]
            for result in side.results
            if measure.name in result.metrics
        }
        for side in (method, over)
    )
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    sign = 1.0 if measure.higher_is_better else -1.0
    difference = t_interval([sign * (ours[seed] - theirs[seed]) for seed in seeds]) if seeds else None
    outcome, why = decide(difference)
    return Verdict(
        declared_by=declared_by,
        claim=claim,
        measure=measure,
        place=place,
        seeds=seeds,
        difference=difference,
        outcome=outcome,
        why=why,
        stale=method.stale or over.stale,
    )


def decide(difference: Interval | None) -> tuple[Outcome, str]:
    """The verdict on a mean difference, and what keeps it undecided."""
    n = difference.n if difference else 0
    if difference is None or n < FEWEST_SEEDS:
        return "undecided", f"{n} shared {'seed' if n == 1 else 'seeds'}, {FEWEST_SEEDS} are needed"
    if not math.isfinite(difference.mean):
        return "undecided", "a value is not finite"
    if difference.low > 0:
        return "holds", ""
    if difference.high < 0:
        return "fails", ""
    return "undecided", "the interval holds zero"


# What people and programs read.


def to_json(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """All verdicts as strict JSON values."""
    return [verdict.to_json() for verdict in verdicts]


def write(verdicts: Sequence[Verdict], folder: Path) -> Path:
    """Write `claims.md`, whole or not at all; returns its path."""
    path = Path(folder) / "claims.md"
    write_atomically(path, to_markdown(verdicts).encode())
    return path


def to_markdown(verdicts: Sequence[Verdict]) -> str:
    """A page with the count of each verdict and the table."""
    table = markdown_table(_HEADERS, map(_cells, verdicts), left=_LEFT)
    return "\n\n".join(["# Claims", _summary(verdicts), table, *_footnotes(verdicts)]) + "\n"


def render(verdicts: Sequence[Verdict]) -> RenderableType:
    """The same for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    styles = {"holds": "green", "fails": "red", "undecided": "yellow"}
    table = Table(title="Claims", title_justify="left")
    for position, name in enumerate(_HEADERS):
        table.add_column(Text(name), justify="left" if position in _LEFT else "right", overflow="fold")
    for verdict in verdicts:
        cells = map(Text, _cells(verdict))
        table.add_row(*cells, style=None if verdict.stale else styles[verdict.outcome])
    notes = [Text(note, style="dim") for note in _footnotes(verdicts)]
    return Group(Text(_summary(verdicts)), table, *notes)


_HEADERS = (
    "claim",
    "measure",
    "dataset",
    "variant",
    "profile",
    "difference",
    "seeds",
    "verdict",
    "reported",
)
_LEFT = (0, 1, 2, 3, 4, 7, 8)


def _cells(verdict: Verdict) -> list[str]:
    difference = verdict.difference
    return [
        f"{verdict.claim.method} beats {verdict.claim.over}",
        header(verdict.measure),
        verdict.place.data_label,
        verdict.place.variant,
        verdict.place.profile_label,
        with_interval(difference.mean, difference.half_width, verdict.measure, signed=True)
        if difference
        else "–",
        str(len(verdict.seeds)),
        f"{verdict.outcome}{': ' if verdict.why else ''}{verdict.why}{' †' if verdict.stale else ''}",
        verdict.claim.reported,
    ]


def _summary(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.outcome for verdict in verdicts)
    return f"holds: {counts['holds']}, fails: {counts['fails']}, undecided: {counts['undecided']}"


def _footnotes(verdicts: Sequence[Verdict]) -> list[str]:
    notes = [
        "difference: mean over shared seeds of the paired differences ± half of its 95 % t-interval; a "
        f"positive one is in the claim's favour. To decide takes {FEWEST_SEEDS} shared seeds and an interval "
        "without zero."
    ]
    if any(verdict.stale for verdict in verdicts):
        notes.append("† The code of a side has changed since it was measured.")
    return notes


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
