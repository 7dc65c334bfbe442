"""The numbers papers print: in one form, and of tasks, datasets and measures that exist here."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import leaderboards
from bench import registry

BESIDES = {
    "accuracy",
    "accuracy_top5",
    "scans_per_second",
    "parameters",
    "parameters_m",
    "localisation_error_top1",
    "localisation_error_top5",
    "macs_g",
    "latency_ms",
    "iou_person",
    "iou_bicycle",
    "iou_bicyclist",
    "iou_motorcycle",
    "iou_motorcyclist",
    "user_error_rate",
    "nmi of the first round",
    "nmi of the last round",
}
"""What papers print and no judge here measures under that name."""


def test_every_row_is_of_something_that_exists() -> None:
    rows = leaderboards.reported()
    assert len(rows) > 100
    for _, row in rows.iterrows():
        task = registry.task(row.task)
        assert row.metric in {measure.name for measure in task.measures} | BESIDES, dict(row)
        assert task.name in registry.dataset(row.dataset).tasks, dict(row)
        assert float(row.value) >= 0
        assert row.source
        assert row.table


def test_no_number_stands_twice_with_two_values() -> None:
    rows = leaderboards.reported()
    same = ["task", "dataset", "split", "metric", "method", "source", "table"]
    assert not rows.duplicated(same).any()


def test_percentages_and_ratios_are_not_mixed() -> None:
    rows = leaderboards.reported().assign(value=lambda frame: frame.value.astype(float))
    assert (rows[rows.unit == "%"].value > 1).all()
    assert (rows[rows.metric.isin(["ods", "ois", "ap"])].value < 1).all()


def test_another_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.DataFrame({"task": ["x"]}).to_csv(tmp_path / "odd.csv", index=False)
    monkeypatch.setattr(leaderboards, "REPORTED", tmp_path)
    with pytest.raises(ValueError, match=r"odd\.csv: the header must be"):
        leaderboards.reported()
