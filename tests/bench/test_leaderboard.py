"""Leaderboards: intervals and ranks worked out by hand, and what is never mixed in one table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from bench import leaderboard
from bench.errors import UsageError
from bench.intervals import t_interval
from bench.leaderboard import Leaderboard, build, rank
from bench.results import Result
from perf.leaderboards import MEASURES, synthetic_results
from tasks.base import Measure

SPEED = Measure("speed", higher_is_better=True, unit="km/h", decimals=1)
ERROR = Measure("error", higher_is_better=False)

# Quantiles t_{0.975, n-1} as printed in tables of Student's t.
T = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645}

_made = 0


def result(label: str, seed: int, speed: float = 1.0, error: float = 0.5, **changes: Any) -> Result:
    global _made
    _made += 1
    trial: dict[str, Any] = {
        "method": label.partition(" ")[0].partition(":")[0],
        "preset": None,
        "label": label,
        "task": "walking",
        "dataset": "park",
        "problem": "",
        "variant": "miniature",
        "data_version": "miniature-1",
        "profile": "mini",
        "seed": seed,
        "options": {"budget": 1.0},
        "overrides": {},
        "needs": {},
    }
    trial |= {name: changes.pop(name) for name in list(changes) if name in trial}
    if "budget" in changes:
        trial["options"] = {"budget": changes.pop("budget")}
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


def failure(label: str, seed: int, **changes: Any) -> Result:
    return result(
        label, seed, **{"status": "failed", "reason": "killed", "metrics": {}, "primary": "", **changes}
    )


def boards(
    results: list[Result],
    measures: tuple[Measure, ...] = (SPEED, ERROR),
    reported: pd.DataFrame | None = None,
) -> list[Leaderboard]:
    return build(results, reported, lambda task: measures, lambda result: result.fingerprint != "now")


def board(results: list[Result], **options: Any) -> Leaderboard:
    (only,) = boards(results, **options)
    return only


def seeds(label: str, *speeds: float, **changes: Any) -> list[Result]:
    return [result(label, seed, speed, **changes) for seed, speed in enumerate(speeds)]


def ranks(table: Leaderboard) -> list[tuple[Any, str]]:
    return list(zip(table.frame["rank"].tolist(), table.frame["method"].tolist(), strict=True))


# Intervals.


def test_interval_of_three_by_hand() -> None:
    """1, 2, 3: mean 2, sample deviation 1, so 4.30265 / sqrt(3) = 2.48414."""
    mean, half, n = t_interval([1.0, 2.0, 3.0])
    assert (mean, n) == (2.0, 3)
    assert half == pytest.approx(2.48414, abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_interval_of_alternating_values(n: int) -> None:
    values = [float(index % 2) for index in range(n)]
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    interval = t_interval(values)
    assert interval.half_width == pytest.approx(T[n] * deviation / math.sqrt(n), rel=1e-5)
    assert interval.high - interval.low == pytest.approx(2 * interval.half_width)


def test_interval_of_one_or_of_infinite_values() -> None:
    assert t_interval([5.0])[0] == 5.0
    assert math.isnan(t_interval([5.0]).half_width)
    assert t_interval([math.inf, 1.0])[0] == math.inf
    assert math.isnan(t_interval([math.inf, -math.inf]).mean)
    assert math.isnan(t_interval([math.nan, 1.0]).mean)
    assert t_interval([4.0, 4.0, 4.0]) == (4.0, 0.0, 3)
    with pytest.raises(ValueError, match="no values"):
        t_interval([])


def test_table_has_the_same_intervals() -> None:
    table = board([*seeds("a", 1.0, 2.0, 3.0), *seeds("b", 7.0), *seeds("c", 0.0, 0.5)]).frame.set_index(
        "method"
    )
    assert table["n"].to_dict() == {"a": 3, "b": 1, "c": 2}
    assert table["speed"].to_dict() == {"a": 2.0, "b": 7.0, "c": 0.25}
    assert table.loc["a", "speed_ci95"] == pytest.approx(2.48414, abs=1e-5)
    assert math.isnan(table.loc["b", "speed_ci95"])
    # 0, 0.5: deviation 0.353553, half width 12.7062 * 0.353553 / sqrt(2) = 3.17655
    assert table.loc["c", "speed_ci95"] == pytest.approx(3.17655, abs=1e-5)
    assert table.loc["a", "error"] == 0.5
    assert table.loc["a", "error_ci95"] == 0.0


# Ranks.


def test_ranks_with_ties() -> None:
    """10±1 leads; 8.5±0.5 touches it (9 = 9); 8.4±0.5 doesn't (8.9 < 9) and leads rank 3; 7 lies in it."""
    assert rank([10.0, 8.5, 8.4, 7.0], [1.0, 0.5, 0.5, 1.0]) == [1, 1, 3, 3]


def test_a_tie_is_with_the_leader_not_with_the_neighbour() -> None:
    """A chain of overlaps: each meets the one before it, only the second meets the first."""
    assert rank([10.0, 9.0, 8.0, 7.0], [0.6, 0.6, 0.6, 0.6]) == [1, 1, 3, 3]


def test_single_seeds_tie_only_if_equal() -> None:
    nan = math.nan
    assert rank([3.0, 3.0, 2.9, 2.9], [nan, nan, nan, nan]) == [1, 1, 3, 3]
    assert rank([3.0, 2.9], [1.0, nan]) == [1, 2]
    assert rank([3.0, 2.9], [nan, 1.0]) == [1, 2]
    assert rank([3.0, 3.0], [1.0, nan]) == [1, 1]
    assert rank([math.inf, math.inf, 1.0], [nan, nan, 0.0]) == [1, 1, 3]
    assert rank([], []) == []


@pytest.mark.parametrize("higher", [True, False])
def test_order_follows_the_direction(higher: bool) -> None:
    measure = Measure("speed", higher_is_better=higher)
    table = board([*seeds("slow", 1.0), *seeds("fast", 3.0), *seeds("middle", 2.0)], measures=(measure,))
    names = ["fast", "middle", "slow"] if higher else ["slow", "middle", "fast"]
    assert ranks(table) == list(zip([1, 2, 3], names, strict=True))


def test_ties_in_a_table() -> None:
    """a: 10.0±0.248, b: 9.7±0.248 (overlap), c: 9.0±0.248 (none)."""
    spread = [-0.1, 0.0, 0.1]
    results = [
        r for name, m in (("c", 9.0), ("b", 9.7), ("a", 10.0)) for r in seeds(name, *(m + s for s in spread))
    ]
    assert ranks(board(results)) == [(1, "a"), (1, "b"), (3, "c")]


def test_rows_without_a_number_come_last_and_unranked() -> None:
    table = board(
        [*seeds("broken", 9.0, math.nan), *seeds("fine", 1.0), *seeds("missing", 1.0, metrics={"speed": 0.0})]
    )
    assert ranks(table) == [(1, "fine"), (2, "missing"), (None, "broken")]
    assert math.isnan(table.frame["speed"].tolist()[2])
    assert math.isnan(table.frame["error"].tolist()[1])


def test_infinite_values_rank() -> None:
    table = board([*seeds("perfect", math.inf, math.inf), *seeds("good", 40.0, 41.0)])
    assert ranks(table) == [(1, "perfect"), (2, "good")]
    assert "inf" in leaderboard.to_markdown(table)


# What is never mixed.


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("task", "running"),
        ("dataset", "beach"),
        ("variant", "real"),
        ("profile", "paper"),
        ("budget", 0.25),
        ("data_version", "miniature-2"),
        ("problem", "hills=3"),
    ],
)
def test_tables_of_their_own(field: str, other: Any) -> None:
    first, second = boards([result("a", 0), result("a", 1, **{field: other})])
    assert {len(first.frame), len(second.frame)} == {1}
    assert first.frame["n"].tolist() == second.frame["n"].tolist() == [1]
    assert first.name != second.name
    assert first.place != second.place


def test_budget_is_part_of_the_profile() -> None:
    table = board([result("a", 0, budget=0.25)])
    assert table.title == "walking on park (miniature, mini×0.25)"
    assert table.name == "walking.park.miniature.minix0_25"


def test_another_problem_is_named_with_the_dataset() -> None:
    table = board([result("a", 0, problem="hills=3")])
    assert table.title == "walking on park hills=3 (miniature, mini)"
    assert table.name == "walking.park_hills_3.miniature.mini"
    assert "[park hills=3](walking.park_hills_3.miniature.mini.md)" in leaderboard._index([table])


def test_the_latest_data_version_has_the_plain_name() -> None:
    old = result("a", 0, variant="real", data_version="real-1-abc", started="2026-01-01T00:00:00+00:00")
    new = result("a", 0, variant="real", data_version="real-1-aaa", started="2026-01-02T00:00:00+00:00")
    first, second = boards([old, new])
    assert (first.name, first.current) == ("walking.park.real.mini", True)
    assert (second.name, second.current) == ("walking.park.real.mini.real-1-abc", False)
    assert "later results with another version" in leaderboard.to_markdown(second)
    assert "real-1-abc" in leaderboard.to_markdown(second)


def test_failed_results_are_only_counted() -> None:
    table = board([*seeds("a", 1.0, 3.0), failure("a", 2), failure("b", 0)])
    assert table.frame["n"].tolist() == [2]
    assert table.failed == 2
    assert len(table.keys) == 4
    assert "2 trials failed" in leaderboard.to_markdown(table)
    empty = board([failure("b", 0)])
    assert len(empty.frame) == 0
    assert "1 trial failed" in leaderboard.to_markdown(empty)


def test_stale_rows_are_marked_and_unranked() -> None:
    table = board([*seeds("old", 9.0, 9.0, fingerprint="before"), *seeds("new", 1.0)])
    assert ranks(table) == [(1, "new"), (None, "old")]
    assert table.frame["stale"].tolist() == [False, True]
    text = leaderboard.to_markdown(table)
    assert "| old † |" in text
    assert "| new |" in text
    assert "code has changed" in text
    assert "†" not in leaderboard.to_markdown(board(seeds("new", 1.0)))


def test_stale_seeds_are_not_averaged_with_fresh_ones() -> None:
    table = board([*seeds("a", 9.0, 9.0, 9.0, fingerprint="before"), result("a", 0, 1.0)])
    assert table.frame[["rank", "n", "speed"]].to_numpy().tolist() == [[1, 1, 1.0]]


def test_of_several_old_states_only_the_last_is_shown() -> None:
    older = seeds("a", 1.0, 1.0, fingerprint="older", started="2026-01-01T00:00:00+00:00")
    old = [result("a", 0, 5.0, fingerprint="old", started="2026-01-02T00:00:00+00:00")]
    assert board([*old, *older]).frame[["n", "speed"]].to_numpy().tolist() == [[1, 5.0]]


def test_of_one_label_and_seed_the_later_counts() -> None:
    early = result("a", 0, 1.0, started="2026-01-01T00:00:00+00:00")
    late = result("a", 0, 5.0, started="2026-01-02T00:00:00+00:00")
    for order in ([early, late], [late, early]):
        table = board([*order, result("a", 1, 7.0)])
        assert table.frame[["n", "speed"]].to_numpy().tolist() == [[2, 6.0]]


def test_staleness_is_asked_once_a_method_dataset_and_fingerprint() -> None:
    asked: list[Result] = []

    def is_stale(result: Result) -> bool:
        asked.append(result)
        return False

    results = [
        *seeds("a", 1, 2, 3),
        *seeds("a depth=2", 1, 2),
        *seeds("b", 1),
        *seeds("a", 1, fingerprint="x"),
    ]
    build(results, None, lambda task: (SPEED,), is_stale)
    assert len(asked) == 3


def test_results_of_a_task_that_is_gone_are_left_out() -> None:
    def measures_of(task: str) -> tuple[Measure, ...]:
        if task == "flying":
            raise UsageError("unknown task 'flying'")
        return (SPEED,)

    results = [result("a", 0), result("b", 0, task="flying")]
    with pytest.warns(UserWarning, match="1 results on park are left out: unknown task 'flying'"):
        found = build(results, None, measures_of, lambda result: False)
    assert [table.place.task for table in found] == ["walking"]


def test_order_of_tables() -> None:
    places = [
        ("b", "mini", 1.0),
        ("a", "paper", 1.0),
        ("a", "mini", 0.5),
        ("a", "mini", 1.0),
        ("a", "smoke", 1.0),
    ]
    found = boards([result("x", 0, dataset=d, profile=p, budget=b) for d, p, b in places])
    labels = [(table.place.dataset, table.place.profile_label) for table in found]
    assert labels == [("a", "smoke"), ("a", "mini"), ("a", "mini×0.5"), ("a", "paper"), ("b", "mini")]


# Costs.


def test_costs_are_means_and_peaks_maxima() -> None:
    first = {
        "parameters": 1500,
        "flops": None,
        "train_seconds": 2.0,
        "host_peak_mb": 10.0,
        "device_peak_mb": None,
    }
    second = {"parameters": 1500, "flops": 3e9, "train_seconds": 4.0, "host_peak_mb": 30.0}
    frame = board([result("a", 0, cost=first), result("a", 1, cost=second)]).frame
    found = {name: frame[name].item() for name in leaderboard.COST_COLUMNS}
    assert found["parameters"] == 1500
    assert found["flops"] == 3e9
    assert found["train_seconds"] == 3.0
    assert found["host_peak_mb"] == 30.0
    assert math.isnan(found["device_peak_mb"])
    assert math.isnan(found["test_samples_per_second"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (7.0, "7"),
        (0.1234, "0.123"),
        (12.34, "12.3"),
        (999.4, "999"),
        (1000.0, "1 k"),
        (999_900.0, "1 M"),
        (1_234_567.0, "1.23 M"),
        (3.2e9, "3.2 G"),
        (math.nan, "–"),
        (math.inf, "inf"),
    ],
)
def test_short_numbers(value: float, shown: str) -> None:
    assert leaderboard._short(value) == shown


# What is written.

REPORTED = pd.DataFrame(
    [
        [
            "walking",
            "park",
            "test",
            "speed",
            "Runner (theirs)",
            "99.9",
            "km/h",
            "Runner et al. 2020",
            "Table 2",
        ],
        ["walking", "beach", "test", "speed", "Other", "11.1", "km/h", "Other et al. 2021", "Table 1"],
    ],
    columns=["task", "dataset", "split", "metric", "method", "value", "unit", "source", "table"],
)


def test_markdown() -> None:
    cost = {"parameters": 1_234_567, "host_peak_mb": 1234.4}
    table = board([*seeds("a|b", 10.0, 10.2, cost=cost), *seeds("c [x]", 3.0)], reported=REPORTED)
    lines = leaderboard.to_markdown(table).splitlines()
    assert lines[0] == "# walking on park (miniature, mini)"
    assert lines[2] == "| rank | method | speed ↑ [km/h] | error ↓ | n | parameters | host MB |"
    assert lines[3] == "| --: | :-- | --: | --: | --: | --: | --: |"
    assert lines[4] == "| 1 | a\\|b | 10.1 ± 1.3 | 0.50 ± 0.00 | 2 | 1.23 M | 1,234 |"
    assert lines[5] == "| 2 | c [x] | 3.0 | 0.50 | 1 | – | – |"
    heading = next(index for index, line in enumerate(lines) if line.startswith("## Reported by papers"))
    block = lines[heading:]
    assert any(
        "Runner (theirs) | 99.9 | km/h | test | Runner et al. 2020 | Table 2" in line for line in block
    )
    assert not any("Runner" in line for line in lines[:heading])
    assert "11.1" not in "\n".join(lines)


def test_csv_has_full_precision_and_measured_rows_only() -> None:
    table = board([*seeds("a, b", 1.0, 2.0), *seeds("c", 1 / 3)], reported=REPORTED)
    rows = list(csv.DictReader(io.StringIO(leaderboard.to_csv(table))))
    assert [row["method"] for row in rows] == ["a, b", "c"]
    assert float(rows[1]["speed"]) == 1 / 3
    assert rows[1]["speed_ci95"] == ""
    assert [row["rank"] for row in rows] == ["1", "2"]


def test_json_is_strict() -> None:
    table = board([*seeds("a", math.inf), *seeds("b", 1.0, fingerprint="x")], reported=REPORTED)
    (document,) = json.loads(json.dumps(leaderboard.to_json([table]), allow_nan=False))
    assert document["rows"][0]["rank"] == 1
    assert document["rows"][0]["speed"] == "inf"
    assert document["rows"][1]["rank"] is None
    assert document["rows"][1]["speed_ci95"] is None
    assert document["rows"][1]["stale"] is True
    assert document["task"] == "walking"
    assert document["measures"][0] == {
        "name": "speed",
        "higher_is_better": True,
        "unit": "km/h",
        "decimals": 1,
    }
    assert [row["method"] for row in document["reported"]] == ["Runner (theirs)"]


def test_terminal() -> None:
    console = Console(width=160, file=io.StringIO())
    console.print(leaderboard.render(board(seeds("a sizes=[1, 2] [/red]", 10.0, 10.2), reported=REPORTED)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "a sizes=[1, 2] [/red]",
        "10.1 ± 1.3",
        "speed ↑ [km/h]",
        "Runner (theirs)",
        "Reported by papers",
    ):
        assert part in text


def test_write(tmp_path: Path) -> None:
    tied = [*seeds("a", 1.0), *seeds("b", 1.0)]
    found = boards([*tied, *seeds("c", 2.0, dataset="beach"), failure("d", 0, dataset="beach")])
    paths = leaderboard.write(found, tmp_path / "deep" / "boards")
    names = ["walking.beach.miniature.mini", "walking.park.miniature.mini"]
    assert [path.name for path in paths] == [f"{name}{end}" for name in names for end in (".md", ".csv")] + [
        "index.md"
    ]
    assert sorted(path.name for path in (tmp_path / "deep" / "boards").iterdir()) == sorted(
        path.name for path in paths
    )
    assert paths[0].read_text() == leaderboard.to_markdown(found[0])
    index = paths[-1].read_text()
    assert (
        "[beach](walking.beach.miniature.mini.md) | miniature | mini | c | 2.0 km/h | speed ↑ [km/h] | 1 | 0 | 1 |"
        in index
    )
    assert "| a (tied with 1) | 1.0 km/h |" in index
    assert leaderboard.write(found, tmp_path / "deep" / "boards") == paths


def test_write_without_tables(tmp_path: Path) -> None:
    assert leaderboard.write([], tmp_path) == [tmp_path / "index.md"]


def test_names_stay_in_the_folder(tmp_path: Path) -> None:
    found = boards([result("a", 0, dataset="../../etc/x", profile="")])
    for path in leaderboard.write(found, tmp_path):
        assert path.resolve().parent == tmp_path.resolve()


def test_tables_that_share_a_file_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one file: walking\.a_b\.miniature\.mini"):
        leaderboard.write(boards([result("a", 0, dataset="a/b"), result("a", 0, dataset="a:b")]), tmp_path)
    assert list(tmp_path.iterdir()) == []


# A hundred thousand.


def test_a_hundred_thousand_results() -> None:
    """The numbers are those of a slow, obvious count of one table."""
    measures = tuple(Measure(name, higher_is_better=name != "error") for name in MEASURES)
    results = list(synthetic_results(100_000, points=0))
    assert len({result.key for result in results}) == 100_000
    found = build(results, None, lambda task: measures, lambda result: False)
    assert len(found) == 100
    assert sum(int(table.frame["n"].sum()) for table in found) == 100_000
    table = next(table for table in found if table.place[:2] == ("task7", "dataset3"))
    by_label: dict[str, list[float]] = {}
    for each in results:
        if (each.row.task, each.row.dataset) == ("task7", "dataset3"):
            by_label.setdefault(each.row.label, []).append(each.metrics["accuracy"])
    slow = {label: t_interval(values) for label, values in by_label.items()}
    order = sorted(slow, key=lambda label: (-slow[label].mean, label))
    assert table.frame["method"].tolist() == order
    assert table.frame["accuracy"].tolist() == pytest.approx([slow[label].mean for label in order])
    assert table.frame["accuracy_ci95"].tolist() == pytest.approx([slow[label].half_width for label in order])
    leader, expected = 0, []
    for position, label in enumerate(order):
        if slow[label].high < slow[order[leader]].low:
            leader = position
        expected.append(leader + 1)
    assert table.frame["rank"].tolist() == expected


def test_a_narrow_terminal_keeps_rank_method_and_primary_measure() -> None:
    shown = board([*seeds("runner:with-a-long-preset", 10.0, 10.2), *seeds("walker", 4.0, 4.1)])
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(leaderboard.render(shown, console.width))
    said = console.export_text()
    assert "runner:with-a-long-preset" in said
    assert "speed" in said
    assert "Not shown for want of width" in said
