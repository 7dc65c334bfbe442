"""The key of a trial: what determines its outcome changes it, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.errors import UsageError
from bench.trial import Places, Trial, resolve


def make(cache: Path, label: str = "cfn", dataset: str = "cifar-10", **changes: Any) -> Trial:
    settings: dict[str, Any] = {"variant": "miniature", "profile": "mini", "seed": 0, "overrides": {}}
    return resolve(label, dataset, places=Places(cache=cache), **{**settings, **changes})


def test_key_depends_on_what_determines_the_outcome(cache: Path) -> None:
    keys = [
        make(cache).key,
        make(cache, seed=1).key,
        make(cache, profile="smoke").key,
        make(cache, "cfn:cnn").key,
        make(cache, dataset="cifar-100").key,
        make(cache, overrides={"batch_size": 7}).key,
    ]
    assert len(set(keys)) == len(keys)
    assert make(cache).key == make(cache).key
    assert len(keys[0]) == 32


def test_key_ignores_how_it_was_written(cache: Path) -> None:
    by_preset, by_option = make(cache, "cfn:cnn"), make(cache, overrides={"fusion": "none"})
    assert by_preset.key == by_option.key
    assert by_preset.label == "cfn:cnn"
    assert by_option.label == "cfn:cnn"
    assert make(cache, overrides={"fusion": "none", "batch_size": 7}).label == "cfn batch_size=7 fusion=none"
    assert (
        make(cache).key
        == resolve(
            "cfn",
            "cifar-10",
            variant="miniature",
            profile="mini",
            seed=0,
            places=Places(Path("/elsewhere"), cache),
        ).key
    )
    assert make(cache, overrides={"budget": 1}).key == make(cache).key


def test_options_that_state_another_problem_are_told_apart_from_those_of_the_method(cache: Path) -> None:
    plain = make(cache, "random_few_shot", "mini-imagenet")
    assert (plain.problem, plain.label) == ("", "random_few_shot")
    assert make(cache).problem == ""
    other = make(cache, "random_few_shot", "mini-imagenet", overrides={"data.ways": 3, "data.shots": 1})
    assert (other.problem, other.label) == ("shots=1 ways=3", "random_few_shot")
    assert other.to_json()["problem"] == "shots=1 ways=3"
    assert "on mini-imagenet shots=1 ways=3 (" in str(other)
    same_problem = make(cache, "random_few_shot", "mini-imagenet", overrides={"data.queries": 3})
    assert (same_problem.problem, same_problem.label) == ("", "random_few_shot data.queries=3")


def test_a_problem_names_options_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.dataset("mini-imagenet")
    monkeypatch.setattr(cls, "problem", ("ways", "legs"))
    with pytest.raises(UsageError, match=r"data\.legs"):
        registry.problem_options(cls)


def test_every_option_is_resolved(cache: Path) -> None:
    options = make(cache).options
    assert {"fusion", "batch_size", "budget", "selection"} <= options.keys()
    assert any(name.startswith("data.") for name in options)


def test_method_and_dataset_must_share_a_task(cache: Path) -> None:
    with pytest.raises(UsageError, match="serves"):
        make(cache, dataset="semantic-kitti")
