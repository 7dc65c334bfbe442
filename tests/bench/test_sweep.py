"""The sweep as a user runs it, and what it must stand: crashes, kills, hangs, garbage, two runners, resuming."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

MANY = """
seeds: [{seeds}]
trials:
  - methods: [linear, "linear:slow", "linear:best"]
    datasets: [tiny]
    options: {{pause: {pause}}}
"""


def test_a_second_run_reruns_nothing(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0, 1", pause=0))
    first = playground.run("run", suite, "--jobs", "0")
    assert "6 trials to run" in first.stderr
    before = {path: path.stat().st_mtime_ns for path in (playground.results / "trials").iterdir()}
    second = playground.run("run", suite, "--jobs", "0")
    assert "0 trials to run" in second.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (playground.results / "trials").iterdir()}
    assert "linear" in second.stdout
    assert "written:" in second.stdout


def test_workers_and_this_process_give_the_same_numbers(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0, 1, 2", pause=0))
    playground.run("run", suite, "--jobs", "0")
    playground.run("run", suite, "--jobs", "2", "--results", "elsewhere")
    playground.run("run", suite, "--jobs", "0", "--seeds", "2", "--methods", "linear", "--results", "alone")
    here = playground.metrics()
    assert len(here) == 9
    assert here == playground.metrics("elsewhere")
    assert playground.metrics("alone").items() <= here.items()
    curves = {label: document["curve"] for label, document in playground.stored().items()}
    assert curves == {label: document["curve"] for label, document in playground.stored("elsewhere").items()}
    best = playground.stored()["linear:best/0"]
    assert best["selection"].startswith("best val/error")
    assert len({str(metrics) for metrics in here.values()}) > 1


def test_each_way_to_fail_is_recorded_and_hurts_no_other(playground: Any) -> None:
    suite = playground.suite(
        """
        trials:
          - methods: ["trouble:exits", linear, "trouble:hoards", "trouble:hangs", "trouble:killed",
                      "trouble:diverges", "trouble:raises", "linear:slow", "trouble:none"]
            datasets: [tiny]
        """
    )
    answer = playground.run("run", suite, "--jobs", "2", "--timeout", "25", "--memory", "2500", code=1)
    stored = playground.stored()
    reasons = {label.split("/")[0]: document["reason"] for label, document in stored.items()}
    assert reasons == {
        "trouble:exits": "killed",
        "trouble:killed": "killed",
        "trouble:hoards": "out of memory",
        "trouble:hangs": "time-out",
        "trouble:diverges": "non-finite loss",
        "trouble:raises": "exception",
        "linear": None,
        "linear:slow": None,
        "trouble:none": None,
    }
    assert "a trial that raises" in stored["trouble:raises/0"]["traceback"]
    assert "6 trials failed" in answer.stderr
    again = playground.run("run", suite, "--methods", "trouble:raises,linear", "--jobs", "0", code=1)
    assert "1 trials to run" in again.stderr


def test_failures_in_this_process(playground: Any) -> None:
    suite = playground.suite(
        'trials: [{methods: ["trouble:hangs", "trouble:diverges", linear], datasets: [tiny]}]'
    )
    playground.run("run", suite, "--jobs", "0", "--timeout", "3", code=1)
    reasons = {label: document["reason"] for label, document in playground.stored().items()}
    assert reasons == {
        "trouble:hangs/0": "time-out",
        "trouble:diverges/0": "non-finite loss",
        "linear/0": None,
    }


def test_what_has_finished_in_this_process_outlives_it(playground: Any) -> None:
    suite = playground.suite(
        'trials: [{methods: [linear, "linear:slow", "trouble:exits"], datasets: [tiny]}]'
    )
    playground.run("run", suite, "--jobs", "0", code=3)
    assert playground.stored().keys() == {"linear/0", "linear:slow/0"}


def test_pictures_lie_under_their_names(playground: Any) -> None:
    suite = playground.suite("trials: [{methods: [student], datasets: [tiny]}]")
    playground.run("run", suite, "--jobs", "0")
    pictures = playground.stored()["student/0"]["pictures"]
    shown = {Path(path).stem: np.asarray(Image.open(playground.results / path)) for path in pictures}
    assert {"prediction-0", "answer", "zest"} <= shown.keys()
    assert (shown["answer"] == 42).all()
    assert (shown["zest"] == 7).all()
    assert shown["answer"].shape == (2, 3, 3) != shown["prediction-0"].shape


def test_retries(playground: Any) -> None:
    suite = playground.suite(
        f'trials: [{{methods: ["trouble:once"], datasets: [tiny], options: {{marker: {playground.folder / "m"}}}}}]'
    )
    playground.run("run", suite, "--jobs", "0", "--retries", "1")
    (document,) = playground.stored().values()
    assert document["status"] == "ok"


def test_a_needed_trial_runs_first_and_once(playground: Any) -> None:
    suite = playground.suite(
        """
        trials:
          - {methods: [student], datasets: [tiny]}
          - {methods: [student], datasets: [tiny], options: {shift: 1.0}}
        """
    )
    answer = playground.run("run", suite, "--jobs", "2")
    assert "3 trials to run" in answer.stderr
    stored = playground.stored()
    assert [
        document["diagnostics"]["taught"] for label, document in stored.items() if "student" in label
    ] == [1, 1]
    teacher = stored["linear/0"]
    checkpoint = playground.results / "checkpoints" / f"{teacher['key']}.safetensors"
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    # A result without its checkpoint is run again for the sake of a new student, and gives the same numbers.
    checkpoint.unlink()
    more = playground.suite("trials: [{methods: [student], datasets: [tiny], options: {shift: 2.0}}]", "more")
    assert "2 trials to run" in playground.run("run", more, "--jobs", "0").stderr
    assert playground.stored()["linear/0"]["metrics"] == teacher["metrics"]


def test_what_needs_a_failed_trial_fails_with_its_name(playground: Any) -> None:
    suite = playground.suite(
        'trials: [{methods: [student], datasets: [tiny], options: {teacher: "trouble:raises"}}]'
    )
    playground.run("run", suite, "--jobs", "0", code=1)
    student = next(document for label, document in playground.stored().items() if label.startswith("student"))
    assert "a trial it needs failed: trouble:raises on tiny" in student["message"]


def test_what_is_needed_is_restored_with_its_own_needs(playground: Any) -> None:
    suite = playground.suite("trials: [{methods: [student], datasets: [tiny], options: {teacher: student}}]")
    playground.run("run", suite, "--jobs", "0")
    stored = playground.stored()
    assert len(stored) == 3  # and what the teacher was taught by
    assert stored["student teacher=student/0"]["diagnostics"] == {"taught": 1, "chain": 1}
    assert (
        sorted(path.suffix for path in (playground.results / "checkpoints").iterdir()) == [".safetensors"] * 2
    )


def test_a_trial_tests_what_was_trained_on_another_dataset(playground: Any) -> None:
    suite = playground.suite(
        """
        trials:
          - {methods: [linear, student], datasets: [tiny-bright], trained_on: tiny, options: {max_epochs: 40}}
          - {methods: [linear], datasets: [tiny], options: {max_epochs: 40}}
        """
    )
    # The student's own training, and the teacher of that, come along.
    assert "5 trials to run" in playground.run("run", suite, "--jobs", "0").stderr
    stored = playground.stored()
    tested, trained = stored["linear max_epochs=40 weights@tiny/0"], stored["linear max_epochs=40/0"]
    assert tested["trial"]["dataset"] == "tiny-bright"
    assert tested["trial"]["options"]["max_steps"] == 0
    assert tested["curve"] == []
    assert tested["trial"]["needs"]["weights"]["key"] == trained["key"]
    # Everything is brighter than what was learnt: it is called bright, and that is right for one in two.
    assert trained["metrics"]["error"] < tested["metrics"]["error"] == 50
    assert stored["student max_epochs=40 weights@tiny/0"]["diagnostics"]["taught"] == 1
    misspelt = playground.suite(
        "trials: [{methods: [linear], datasets: [tiny], trained_on: tinny}]", "misspelt"
    )
    answer = playground.run("run", misspelt, code=2).stderr
    assert "'tinny'" in answer
    assert "misspelt.yaml:1" in answer


def test_a_judge_consults_a_trained_model(playground: Any) -> None:
    suite = playground.suite('trials: [{methods: [parrot, "parrot:deaf"], datasets: [tiny]}]')
    assert "3 trials to run" in playground.run("run", suite, "--jobs", "0").stderr
    agreement = {label: metrics.get("agreement") for label, metrics in playground.metrics().items()}
    assert agreement["parrot/0"] == 100
    assert agreement["parrot:deaf/0"] < 100
    apart = playground.suite('trials: [{methods: ["parrot:mistaken"], datasets: [tiny]}]', "apart")
    assert "mean different trials by 'expert'" in playground.run("run", apart, code=2).stderr


def test_a_step_is_a_training_batch_whatever_optimisers_step(playground: Any) -> None:
    suite = playground.suite(
        """
        trials:
          - {methods: [duel], datasets: [tiny]}
          - {methods: [duel], datasets: [tiny], options: {max_epochs: 1}}
          - {methods: [linear], datasets: [tiny], options: {max_steps: 7, max_epochs: 9}}
          - {methods: [duel], datasets: [tiny], options: {gradient_clip: 1.0}}
        """
    )
    playground.run("run", suite, "--jobs", "0", code=1)
    stored = playground.stored()
    assert stored["duel/0"]["diagnostics"]["batches"] == 5
    assert [point["step"] for point in stored["duel/0"]["curve"]] == [3, 5]
    assert stored["duel max_epochs=1/0"]["diagnostics"]["batches"] == 3
    assert stored["linear max_epochs=9 max_steps=7/0"]["curve"][-1]["step"] == 7
    assert "gradient_clip" in stored["duel gradient_clip=1.0/0"]["message"]


def test_changed_code_makes_results_stale_and_comments_do_not(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0", pause=0))
    playground.run("run", suite, "--jobs", "0")
    module = playground.folder / "tasks" / "trying" / "trying.py"
    module.write_text("# a comment\n" + module.read_text().replace("Logistic regression on", "A model of"))
    unchanged = playground.run("run", suite, "--dry-run").stdout
    assert unchanged.count("has a result") == 3
    assert "stale" not in unchanged
    module.write_text(module.read_text().replace("nn.Dropout(0.2)", "nn.Dropout(0.3)"))
    assert playground.run("run", suite, "--dry-run").stdout.count("(stale)") == 3
    board = playground.run("leaderboard").stdout
    assert "† The code has changed" in board
    assert "3 trials to run, 3 of them stale" in playground.run("run", suite, "--jobs", "0").stderr
    assert "(stale)" not in playground.run("run", suite, "--dry-run").stdout
    # Of a file that many share, only what the trial's classes reach counts.
    shared = playground.folder / "datamodules" / "specs.py"
    shared.write_text(shared.read_text() + "\n\nclass Unused:\n    pass\n")
    assert "(stale)" not in playground.run("run", suite, "--dry-run").stdout
    shared.write_text(shared.read_text().replace("    channels: int = 3\n", "    channels: int = 4\n", 1))
    assert playground.run("run", suite, "--dry-run").stdout.count("(stale)") == 3


def test_garbage_in_the_results_folder_is_reported_and_left_alone(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0", pause=0))
    playground.run("run", suite, "--jobs", "0")
    trials = playground.results / "trials"
    whole = sorted(trials.iterdir())[0]
    half = trials / f"{'a' * 32}.json"
    half.write_bytes(whole.read_bytes()[:200])
    (trials / "notes.txt").write_text("shopping list")
    (trials / f"{'b' * 32}.json").write_bytes(os.urandom(500))
    (trials / f"{'c' * 32}.json").mkdir()
    answer = playground.run("run", suite, "--jobs", "0")
    assert "0 trials to run" in answer.stderr
    for name in ("notes.txt", "a" * 32, "b" * 32, "c" * 32):
        assert name in answer.stderr.replace("\n", "")
    assert half.stat().st_size == 200
    assert (trials / "notes.txt").read_text() == "shopping list"


def test_two_runners_share_a_folder(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0, 1, 2, 3, 4, 5", pause=0.05))
    both = [playground.start("run", suite, "--jobs", "0") for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ran = [
        line
        for _, err in said
        for line in err.splitlines()
        if line.startswith("[") and "another runner" not in line
    ]
    assert len(ran) == 18, said
    assert len(playground.stored()) == 18


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_terminate_stop_cleanly_and_say_how_to_go_on(
    playground: Any, stop: signal.Signals
) -> None:
    suite = playground.suite(MANY.format(seeds="0, 1, 2, 3", pause=0.2))
    process = playground.start("run", suite, "--jobs", "2")
    while not list((playground.results / "trials").glob("*.json")) and process.poll() is None:
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(stop)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command runs only what is missing" in err
    assert "Traceback" not in err
    _all_gone(family)
    done = len(playground.stored())
    assert 0 < done < 12
    assert f"{12 - done} trials to run" in playground.run("run", suite, "--jobs", "0").stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments_nothing_is_lost_or_doubled(playground: Any) -> None:
    seeds = ", ".join(map(str, range(20)))
    suite = playground.suite(MANY.format(seeds=seeds, pause=0.02))
    moments = random.Random(28)
    killed_at_work = 0
    for _ in range(10):
        process = playground.start("run", suite, "--jobs", "2")
        before = len(list((playground.results / "trials").glob("*.json")))
        # Half of the kills hit the start-up, half the work: a moment after the first new result.
        deadline = time.monotonic() + moments.uniform(0.5, 8.0)
        at_work = moments.random() < 0.5
        while process.poll() is None and time.monotonic() < deadline + 60 * at_work:
            if at_work and len(list((playground.results / "trials").glob("*.json"))) > before:
                time.sleep(moments.uniform(0.0, 0.6))
                killed_at_work += 1
                break
            time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.communicate(timeout=60)
        _all_gone(family)
    survived = {path: path.read_bytes() for path in (playground.results / "trials").glob("*.json")}
    playground.run("run", suite, "--jobs", "2")
    assert all(path.read_bytes() == content for path, content in survived.items()), (
        "a finished trial was run twice"
    )
    playground.run("run", suite, "--jobs", "0", "--results", "undisturbed")
    assert killed_at_work > 0
    assert len(playground.stored()) == 60
    assert playground.metrics() == playground.metrics("undisturbed")
    leftovers = [path for path in (playground.results / "trials").iterdir() if path.suffix != ".json"]
    assert all(path.name.startswith(".tmp-") for path in leftovers)


def test_runs_without_ray_wandb_and_albumentations(playground: Any) -> None:
    blocker = playground.folder / "blocked"
    for name in ("ray", "wandb", "albumentations", "plotly"):
        (blocker / name).mkdir(parents=True)
        (blocker / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')")
    playground.environment["PYTHONPATH"] = str(blocker)
    suite = playground.suite(MANY.format(seeds="0", pause=0))
    playground.run("run", suite, "--jobs", "0")
    assert len(playground.stored()) == 3
    refused = playground.run("run", suite, "--jobs", "1", "--results", "other", code=None)
    assert "ray is not here" in refused.stderr


def test_wandb_offline_needs_no_network_and_its_failure_harms_nothing(playground: Any) -> None:
    suite = playground.suite(MANY.format(seeds="0", pause=0))
    playground.run("run", suite, "--jobs", "0", "--wandb", "offline")
    assert (
        len(list((playground.results / "wandb").glob("offline-run-*"))) == 4
    )  # three trials and the leaderboards
    blocker = playground.folder / "blocked" / "wandb"
    blocker.mkdir(parents=True)
    (blocker / "__init__.py").write_text("raise RuntimeError('no wandb today')")
    playground.environment["PYTHONPATH"] = str(blocker.parent)
    answer = playground.run("run", suite, "--jobs", "0", "--wandb", "online", "--results", "other")
    assert "no wandb today" in answer.stderr
    assert len(playground.stored("other")) == 3


def _all_gone(processes: list[psutil.Process], seconds: float = 30.0) -> None:
    """Fails if any of the processes still lives after a while (a zombie doesn't)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        alive = [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return
        time.sleep(0.2)
    raise AssertionError(f"still alive: {[(p.pid, p.name()) for p in alive]}")
