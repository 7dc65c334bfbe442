"""The suite `real-samples` on real files in published formats, where they are there: a short pass over all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import suite
from bench.execution import run_trial
from bench.trial import Places, Trial

SHORTER = {"budget": 0.0005, "data.test_limit": 2, "data.test_episodes": 2}

REAL = {"cifar-10", "bsds500", "semantic-kitti", "mpeg7", "omniglot", "set5", "set5-x3", "set5-x4"}


def trials(root: Path, cache: Path) -> list[Trial]:
    places = Places(root, cache)
    return suite.trials(suite.load("real-samples"), suite.Narrowing(options=SHORTER), places)


@pytest.mark.timeout(1800)
def test_every_trial_of_the_suite_reads_trains_and_tests(real_data: Path, cache: Path) -> None:
    expanded = trials(real_data, cache)
    assert {trial.dataset for trial in expanded} == REAL
    assert {trial.variant for trial in expanded} == {"real"}
    weights: dict[str, bytes] = {}
    for trial in expanded:
        for needed in (*trial.closure, trial):
            if needed.key in weights:
                continue
            outcome = run_trial(needed, Places(real_data, cache), checkpoints=weights, keep_checkpoint=True)
            assert outcome.document["status"] == "ok", outcome.document["traceback"]
            assert outcome.pictures
            weights[needed.key] = outcome.checkpoint or b""


def test_real_and_miniature_never_share_a_data_version(real_data: Path, cache: Path) -> None:
    real = {(trial.dataset, trial.data_version) for trial in trials(real_data, cache)}
    assert all(version.startswith("real-") for _, version in real)
    assert {dataset for dataset, _ in real} == REAL
    assert len(real) == len(REAL)


def test_a_missing_root_is_an_error_not_a_miniature(cache: Path, tmp_path: Path) -> None:
    from bench.errors import UsageError

    with pytest.raises(UsageError, match="not found under"):
        trials(tmp_path, cache)
