"""Suites: what they expand to, and that whatever is misspelt is named with its nearest neighbour and its line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

GOOD = """\
seeds: [0, 1]
options:
  lr: 0.2
trials:
  - methods: [linear]
    datasets: [tiny]
    options: {pause: 0.5}
"""

WRONG = [
    ("seedz: [0]\ntrials: []", "suite.yaml:1: unknown suite key 'seedz'; did you mean 'seeds'?"),
    (
        GOOD.replace("methods", "method"),
        "suite.yaml:5: unknown key of a trial entry 'method'; did you mean 'methods'?",
    ),
    (GOOD.replace("[linear]", "[lineal]"), "suite.yaml:5: unknown method 'lineal'; did you mean 'linear'?"),
    (GOOD.replace("[linear]", '["linear:slo"]'), "unknown preset of linear 'slo'; did you mean 'slow'?"),
    (GOOD.replace("[tiny]", "[tinny]"), "suite.yaml:6: unknown dataset 'tinny'; did you mean 'tiny'?"),
    (
        GOOD.replace("pause", "pauze"),
        "suite.yaml:7: unknown option of linear on tiny 'pauze'; did you mean 'pause'?",
    ),
    (GOOD.replace("0.5", "fast"), "suite.yaml:7: option 'pause' takes float, not 'fast'"),
    (GOOD.replace("lr: 0.2", "lrr: 0.2"), "suite.yaml:3: unknown option 'lrr'; did you mean 'lr'?"),
    (GOOD.replace("lr: 0.2", "lr: much"), "suite.yaml:3: option 'lr' takes float, not 'much'"),
    ("profile: huge\n" + GOOD, "suite.yaml:1: unknown profile 'huge'"),
    (GOOD.replace("[0, 1]", "[0, one]"), "suite.yaml:1: seeds is a list of whole numbers"),
    (GOOD.replace("[0, 1]", "[-1]"), "seed -1 is not in 0.."),
    ("include: [denze]\ntrials: []", "suite.yaml:1: unknown suite 'denze'; did you mean 'dense'?"),
    (GOOD + "    methods: [linear]\n", "suite.yaml:8: 'methods' stands twice"),
    ("trials: [", "not YAML"),
    ("- linear", "a suite is a mapping"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_misspelt_suites_stop_before_anything_runs(playground: Any, text: str, message: str) -> None:
    answer = playground.run("run", playground.suite(text), "--jobs", "0", code=2)
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not playground.results.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "lineal"], "--methods: unknown method 'lineal'; did you mean 'linear'?"),
        (["--datasets", "tinny"], "--datasets: unknown dataset 'tinny'; did you mean 'tiny'?"),
        (["--set", "pauze=1"], "--set: unknown option 'pauze'; did you mean 'pause'?"),
        (["--set", "optimiser=adm"], "--set: option 'optimiser' takes Literal['sgd', 'adam'], not 'adm'"),
        (["--set", "pause"], "--set takes OPTION=VALUE, not 'pause'"),
        (["--methods", "student"], "has no trial of these methods and datasets"),
        (["--variant", "real"], "tiny: the real files need a root"),
        (["--variant", "real", "--data-root", "."], "tiny: not found under"),
    ],
)
def test_flags_that_do_not_fit(playground: Any, flags: list[str], message: str) -> None:
    answer = playground.run("run", playground.suite(GOOD), *flags, code=2)
    assert message in answer.stderr


def test_flags_narrow_and_override(playground: Any) -> None:
    suite = playground.suite(
        GOOD.replace("lr: 0.2", "optimiser: adam")
        .replace("[linear]", '[linear, "linear:slow", student]')
        .replace("    options: {pause: 0.5}\n", "")
    )
    said = playground.run(
        "run", suite, "--methods", "linear:slow", "--seeds", "5", "--set", "widths=[1, 2]", "--profile", "smoke",
        "--dry-run",
    ).stdout  # fmt: skip
    assert said.count(": run") == 1
    assert "linear:slow optimiser=adam widths=[1, 2] on tiny (miniature, smoke, seed 5)" in said
    said = playground.run("run", suite, "--methods", "linear", "--dry-run").stdout
    assert said.count(": run") == 4
    said = playground.run("run", suite, "--methods", "student", "--dry-run").stdout
    assert said.count("needed by another") == 2


def test_lists_as_json(playground: Any) -> None:
    methods = json.loads(playground.run("list", "methods", "--json").stdout)
    linear = next(method for method in methods if method["name"] == "linear")
    assert linear["options"]["lr"] == {"type": "float", "default": 0.1}
    assert linear["options"]["max_epochs"]["default"] == 2
    assert linear["profiles"] == ["paper", "mini", "smoke"]
    datasets = json.loads(playground.run("list", "datasets", "--json").stdout)
    tiny = next(dataset for dataset in datasets if dataset["name"] == "tiny")
    assert tiny["real_files_found"] is False
    assert {task["name"] for task in json.loads(playground.run("list", "tasks", "--json").stdout)} >= {
        "image-classification"
    }
    assert "tour" in {
        suite["name"] for suite in json.loads(playground.run("list", "suites", "--json").stdout)
    }


def test_show_and_claims(playground: Any) -> None:
    suite = playground.suite(
        'seeds: [0, 1, 2]\ntrials: [{methods: [linear, "linear:slow"], datasets: [tiny]}]'
    )
    playground.run("run", suite, "--jobs", "0")
    key = playground.stored()["linear/0"]["key"]
    shown = json.loads(playground.run("show", key[:8], "--json").stdout)
    assert shown["key"] == key
    assert "error" in playground.run("show", key[:8]).stdout
    assert "unknown trial 'zzzz'" in playground.run("show", "zzzz", code=2).stderr
    (verdict,) = [v for v in json.loads(playground.run("claims", "--json").stdout) if v["dataset"] == "tiny"]
    assert verdict["verdict"] in {"holds", "fails", "undecided"}
    boards = json.loads(playground.run("leaderboard", "--json").stdout)
    assert len(boards) == 1
    assert (
        playground.run("leaderboard", "--task", "image-classificatio", code=2).stderr.count("did you mean")
        == 1
    )


def test_data_check_and_prepare(playground: Any) -> None:
    playground.run("data", "prepare", "tiny")
    assert "all there" in playground.run("data", "check", "tiny").stdout
    assert (
        "expected as"
        in playground.run("data", "check", "tiny", "--data-root", playground.folder, code=1).stdout
    )


def test_help_imports_nothing_heavy(playground: Any) -> None:
    code = (
        "import sys, bench.cli; bench.cli._parser().format_help(); "
        "heavy = {'torch', 'ray', 'pandas', 'numpy', 'rich', 'yaml', 'wandb'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=playground.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
