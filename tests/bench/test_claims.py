"""Verdicts: paired differences and their intervals worked out by hand."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from bench import claims
from bench.claims import Verdict, decide, judge
from bench.errors import UsageError
from bench.intervals import Interval
from bench.results import Result
from tasks.base import Claim, Measure

WALKING: Any = SimpleNamespace(
    name="walking",
    measures=(Measure("speed", higher_is_better=True, unit="km/h"), Measure("error", higher_is_better=False)),
)
FASTER = Claim(method="new", over="old:plain", measure="speed", reported="+3 km/h (Table 2)")
SAFER = Claim(method="new", over="old:plain", measure="error")

_made = 0


def result(label: str, seed: int, speed: float, error: float = 0.5, **changes: Any) -> Result:
    global _made
    _made += 1
    trial: dict[str, Any] = {
        "method": label.partition(":")[0],
        "label": label,
        "task": "walking",
        "dataset": "park",
        "problem": "",
        "variant": "miniature",
        "data_version": "miniature-1",
        "profile": "mini",
        "seed": seed,
        "options": {},
    }
    trial |= {name: changes.pop(name) for name in list(changes) if name in trial}
    fields: dict[str, Any] = {
        "key": f"{_made:032x}",
        "trial": trial,
        "status": "ok",
        "fingerprint": "now",
        "primary": "speed",
        "metrics": {"speed": speed, "error": error},
        "cost": {},
        "selection": "last",
        "environment": {},
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 1.0,
    }
    return Result(**{**fields, **changes})


def both(new: list[float], old: list[float], **changes: Any) -> list[Result]:
    """Results of the two sides, seeds 0, 1, ..."""
    return [
        *(result("new", seed, speed, **changes) for seed, speed in enumerate(new)),
        *(result("old:plain", seed, speed, **changes) for seed, speed in enumerate(old)),
    ]


def verdict(results: list[Result], claim: Claim = FASTER) -> Verdict:
    (only,) = judge({"new": [(claim, WALKING)]}, results)
    return only


def test_holds() -> None:
    """Differences 1, 2, 3: 2 ± 4.30265 / sqrt(3) = 2 ± 2.484 holds zero; 3, 4, 5: 4 ± 2.484 doesn't."""
    found = verdict(both([13.0, 24.0, 35.0], [10.0, 20.0, 30.0]))
    assert found.outcome == "holds"
    assert found.difference is not None
    assert found.difference.mean == 4.0
    assert found.difference.half_width == pytest.approx(2.48414, abs=1e-5)
    assert found.seeds == (0, 1, 2)
    assert (found.why, found.stale, found.declared_by) == ("", False, "new")


def test_undecided_where_the_interval_holds_zero() -> None:
    found = verdict(both([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]))
    assert found.difference is not None
    assert found.difference.mean == 2.0
    assert (found.outcome, found.why) == ("undecided", "the interval holds zero")


def test_fails() -> None:
    found = verdict(both([10.0, 20.0, 30.0], [13.0, 24.0, 35.0]))
    assert found.difference is not None
    assert found.difference.mean == -4.0
    assert found.outcome == "fails"


def test_pairing_sees_what_the_seeds_share() -> None:
    """The spread between seeds dwarfs the difference, yet each seed agrees."""
    assert verdict(both([1.1, 50.1, 99.1], [1.0, 50.0, 99.0])).outcome == "holds"


def test_sign_follows_the_measure() -> None:
    """Errors 0.1, 0.2, 0.3 against 0.5: differences 0.4, 0.3, 0.2 in favour, 0.3 ± 0.2484."""
    results = [result("new", seed, 0.0, 0.1 * (seed + 1)) for seed in range(3)]
    results += [result("old:plain", seed, 0.0, 0.5) for seed in range(3)]
    found = verdict(results, SAFER)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.3)
    assert found.difference.half_width == pytest.approx(0.248414, abs=1e-6)
    assert found.outcome == "holds"


def test_differences_without_variance() -> None:
    assert verdict(both([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])).outcome == "holds"
    assert verdict(both([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])).outcome == "fails"
    same = verdict(both([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]))
    assert (same.outcome, same.difference) == ("undecided", Interval(0.0, 0.0, 3))


def test_only_shared_seeds_count() -> None:
    results = [result("new", seed, 9.0) for seed in (0, 1, 2, 5)]
    results += [result("old:plain", seed, 1.0) for seed in (1, 2, 3, 4)]
    found = verdict(results)
    assert found.seeds == (1, 2)
    assert (found.outcome, found.why) == ("undecided", "2 shared seeds, 3 are needed")


@pytest.mark.parametrize(("seeds", "said"), [((5, 6, 7), "0 shared seeds"), ((2, 6, 7), "1 shared seed,")])
def test_too_few_shared_seeds(seeds: tuple[int, ...], said: str) -> None:
    results = [result("new", seed, 9.0) for seed in (0, 1, 2)] + [
        result("old:plain", seed, 1.0) for seed in seeds
    ]
    found = verdict(results)
    assert found.outcome == "undecided"
    assert said in found.why
    assert (found.difference is None) == (said == "0 shared seeds")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_decide_nothing(bad: float) -> None:
    found = verdict(both([9.0, 9.0, bad], [1.0, 1.0, 1.0]))
    assert (found.outcome, found.why) == ("undecided", "a value is not finite")
    json.dumps(found.to_json(), allow_nan=False)


def test_a_seed_without_the_measure_is_not_shared() -> None:
    results = both([9.0, 9.0, 9.0], [1.0, 1.0])
    results.append(result("old:plain", 2, 1.0, metrics={"error": 0.1}, primary="error"))
    assert verdict(results).seeds == (0, 1)


@pytest.mark.parametrize(
    ("difference", "outcome"),
    [
        (Interval(1.0, 0.999, 3), "holds"),
        (Interval(1.0, 1.0, 3), "undecided"),
        (Interval(-1.0, 0.999, 3), "fails"),
        (Interval(-1.0, 1.0, 3), "undecided"),
        (Interval(1.0, 0.1, 2), "undecided"),
        (None, "undecided"),
    ],
)
def test_decide(difference: Interval | None, outcome: str) -> None:
    assert decide(difference)[0] == outcome


def test_labels_must_fit_exactly() -> None:
    results = [
        result(label, seed, 1.0)
        for label in ("new depth=2", "new:other", "old", "old:plain")
        for seed in (0, 1, 2)
    ]
    assert judge({"new": [(FASTER, WALKING)]}, results) == []


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "beach"},
        {"problem": "hills=3"},
        {"variant": "real"},
        {"profile": "paper"},
        {"options": {"budget": 0.5}},
    ],
)
def test_places_are_judged_apart(other: dict[str, Any]) -> None:
    results = [*both([5.0, 6.0, 7.0], [1.0, 2.0, 3.0]), *both([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], **other)]
    found = judge({"new": [(FASTER, WALKING)]}, results)
    assert sorted(each.outcome for each in found) == ["fails", "holds"]
    first, second = (each.place for each in found)
    assert first != second
    one_side_here_one_there = results[:3] + results[9:]
    assert judge({"new": [(FASTER, WALKING)]}, one_side_here_one_there) == []


def test_only_the_latest_data_counts() -> None:
    old = both(
        [1.0, 2.0, 3.0], [5.0, 6.0, 7.0], data_version="miniature-0", started="2025-01-01T00:00:00+00:00"
    )
    found = verdict([*both([5.0, 6.0, 7.0], [1.0, 2.0, 3.0]), *old])
    assert (found.outcome, found.place.data_version) == ("holds", "miniature-1")


def test_another_task_is_not_asked() -> None:
    assert judge({"new": [(FASTER, WALKING)]}, both([5.0] * 3, [1.0] * 3, task="running")) == []


def test_failed_results_do_not_count() -> None:
    results = both([5.0, 6.0, 7.0], [1.0, 2.0])
    results.append(result("old:plain", 2, 3.0, status="failed", reason="killed"))
    assert verdict(results).seeds == (0, 1)


def test_stale_sides_are_marked() -> None:
    results = both([5.0, 6.0, 7.0], [1.0, 2.0, 3.0])
    old = [result("new", seed, -10.0, fingerprint="before") for seed in range(3)]

    def is_stale(each: Result) -> bool:
        return each.fingerprint == "before"

    (fresh,) = judge({"new": [(FASTER, WALKING)]}, [*results, *old], is_stale)
    assert (fresh.outcome, fresh.stale) == ("holds", False)
    (stale,) = judge({"new": [(FASTER, WALKING)]}, [*results[3:], *old], is_stale)
    assert (stale.outcome, stale.stale) == ("fails", True)
    assert "fails †" in claims.to_markdown([stale])


def test_an_unknown_measure_is_an_error() -> None:
    wrong = Claim(method="new", over="old", measure="sped")
    with pytest.raises(
        UsageError, match="claim of new: unknown measure of walking 'sped'; did you mean 'speed'"
    ):
        judge({"new": [(wrong, WALKING)]}, [])


def test_json() -> None:
    document = json.loads(json.dumps(claims.to_json([verdict(both([13.0, 24.0, 35.0], [10.0, 20.0, 30.0]))])))
    assert document[0] == {
        "declared_by": "new",
        "method": "new",
        "over": "old:plain",
        "measure": "speed",
        "higher_is_better": True,
        "reported": "+3 km/h (Table 2)",
        "task": "walking",
        "dataset": "park",
        "problem": "",
        "variant": "miniature",
        "profile": "mini",
        "budget": 1.0,
        "data_version": "miniature-1",
        "profile_label": "mini",
        "seeds": [0, 1, 2],
        "difference": 4.0,
        "ci95": pytest.approx(2.48414, abs=1e-5),
        "verdict": "holds",
        "why": "",
        "stale": False,
    }


def test_markdown_and_terminal(tmp_path: Path) -> None:
    results = [*both([13.0, 24.0, 35.0], [10.0, 20.0, 30.0]), *both([1.0], [2.0], dataset="beach")]
    found = judge({"new": [(FASTER, WALKING)]}, results)
    path = claims.write(found, tmp_path / "out")
    assert path == tmp_path / "out" / "claims.md"
    text = path.read_text()
    assert "holds: 1, fails: 0, undecided: 1" in text
    assert "| new beats old:plain | speed ↑ [km/h] | park | miniature | mini |" in text
    assert "| +4.00 ± 2.48 | 3 | holds | +3 km/h (Table 2) |" in text
    assert "| beach | miniature | mini | -1.00 | 1 | undecided: 1 shared seed, 3 are needed |" in text
    console = Console(width=220, file=io.StringIO())
    console.print(claims.render(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("new beats old:plain", "+4.00 ± 2.48", "holds: 1"):
        assert part in shown


def test_no_verdicts(tmp_path: Path) -> None:
    assert "holds: 0, fails: 0, undecided: 0" in claims.write([], tmp_path).read_text()
    Console(file=io.StringIO()).print(claims.render([]))
