"""Result files: whole or not at all, never trusted blindly, never lost; and claims between processes."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.results import SCHEMA, Problem, Result, ResultError, ResultStore, Row, write_atomically

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
TRIAL: dict[str, Any] = {
    "method": "walker",
    "preset": "slow",
    "label": "walker:slow depth=3",
    "task": "walking",
    "dataset": "park",
    "variant": "miniature",
    "data_version": "miniature-1",
    "profile": "mini",
    "seed": 2,
    "options": {"budget": 0.5, "depth": 3, "sizes": [1, 2], "name": None},
    "overrides": {"depth": 3},
    "needs": {},
}


def ok(key: str = KEY, **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "key": key,
        "trial": TRIAL,
        "status": "ok",
        "fingerprint": "f00d",
        "primary": "speed",
        "metrics": {"speed": 1.25, "error": 0.5},
        "cost": {"parameters": 12, "flops": None, "train_seconds": 1.5},
        "selection": "last",
        "environment": {"python": "3.11", "git_dirty": False, "git_commit": None},
        "diagnostics": {"steps": 7.0},
        "curve": [{"epoch": 0, "step": 3, "loss": 2.0}, {"epoch": 1, "step": 6, "loss": 1.0}],
        "pictures": ["pictures/a.png"],
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 4.5,
    }
    return Result(**{**fields, **changes})


def failed(key: str = KEY, **changes: Any) -> Result:
    return ok(
        key,
        **{
            "status": "failed",
            "reason": "exception",
            "message": "no legs",
            "traceback": "Traceback ...",
            "metrics": {},
            "cost": {},
            "primary": "",
            **changes,
        },
    )


def put(store: ResultStore, name: str, content: bytes | str) -> Path:
    store.trials.mkdir(parents=True, exist_ok=True)
    path = store.trials / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


# The document.


def test_row_is_the_excerpt_of_the_trial() -> None:
    expected = Row(
        method="walker",
        label="walker:slow depth=3",
        task="walking",
        dataset="park",
        variant="miniature",
        data_version="miniature-1",
        profile="mini",
        budget=0.5,
        seed=2,
    )
    assert ok().row == expected
    assert ok(trial={**TRIAL, "options": {}}).row.budget == 1.0


def test_a_problem_of_its_own_is_in_the_row_and_files_from_before_have_none() -> None:
    result = ok(trial={**TRIAL, "problem": "shots=1"})
    assert result.row.problem == "shots=1"
    assert Result.from_bytes(result.to_bytes()) == result
    before = ok().to_bytes()
    shortened = before.replace(b',2,""],', b",2],")  # no problem in the row, as it was once written
    assert shortened != before
    assert Result.from_bytes(shortened) == ok()
    lines = shortened[before.index(b",") + 1 :]
    checked = b'{"checksum":"%08x",' % zlib.crc32(lines) + lines
    assert Result.from_bytes(checked) == ok()
    with pytest.raises(ResultError, match=r"trial\.problem"):
        ok(trial={**TRIAL, "problem": 5})


@pytest.mark.parametrize("result", [ok(), failed(), failed(reason="time-out"), ok(curve=[], pictures=[])])
def test_survives_json_and_bytes(result: Result) -> None:
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert Result.from_bytes(result.to_bytes()) == result


def test_file_is_one_strict_json_document_in_two_lines() -> None:
    content = ok(metrics={"speed": math.nan, "error": math.inf}).to_bytes()
    assert content.count(b"\n") == 2
    assert content.endswith(b"}\n")

    def reject(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads(content, parse_constant=reject)
    assert document["schema"] == SCHEMA
    assert document["trial"] == TRIAL
    assert document["metrics"] == {"speed": None, "error": "inf"}
    checked = content[content.index(b",") + 1 :]
    assert document["checksum"] == f"{zlib.crc32(checked):08x}"


def test_numbers_json_has_no_word_for() -> None:
    odd = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0}
    result = ok(
        metrics={"speed": 1.0, **odd},
        diagnostics=odd,
        curve=[{"epoch": 0, "step": 1, **odd}],
        cost={"parameters": 3, "flops": None, "host_peak_mb": math.inf},
    )
    for again in (Result.from_bytes(result.to_bytes()), Result.from_json(result.to_json())):
        for numbers in (again.metrics, again.diagnostics, again.curve[0]):
            assert math.isnan(numbers["a"])
            assert (numbers["b"], numbers["c"], numbers["d"]) == (math.inf, -math.inf, 1.0)
        assert again.cost == {"parameters": 3, "flops": None, "host_peak_mb": math.inf}
        assert isinstance(again.curve[0]["step"], int)


def test_infinite_options_become_strings() -> None:
    result = ok(trial={**TRIAL, "options": {"reach": math.inf, "floor": -math.inf, "gap": math.nan}})
    assert result.to_json()["trial"]["options"] == {"reach": "inf", "floor": "-inf", "gap": "nan"}


def test_takes_numpy_numbers() -> None:
    result = ok(
        metrics={"speed": np.float32(0.5)}, cost={"parameters": np.int64(7), "train_seconds": np.float64(2)}
    )
    document = result.to_json()
    assert document["metrics"] == {"speed": 0.5}
    assert document["cost"] == {"parameters": 7, "train_seconds": 2.0}
    assert isinstance(document["cost"]["parameters"], int)


def test_keeps_text_of_any_kind() -> None:
    message = 'quotes " \\ , \n},\n{ \x00 ünïcödé 走る \u2028'
    again = Result.from_bytes(failed(message=message, traceback=message * 100).to_bytes())
    assert again.message == message
    assert again.traceback == message * 100


def test_writes_out_undecodable_bytes(store: ResultStore) -> None:
    assert store.write(failed(message="file \udcff"))
    result = store.get(KEY)
    assert result is not None
    assert result.message == "file \\udcff"


def test_rest_is_parsed_when_asked_for() -> None:
    loaded = Result.from_bytes(ok().to_bytes())
    assert "curve" not in vars(loaded)
    assert loaded.row.seed == 2
    assert "curve" not in vars(loaded)
    assert loaded.curve[1]["loss"] == 1.0
    assert vars(loaded)["trial"] == TRIAL
    with pytest.raises(AttributeError, match="nonsense"):
        _ = loaded.nonsense  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), replace]
)
def test_unparsed_results_can_be_copied(duplicate: Any) -> None:
    assert duplicate(Result.from_bytes(ok().to_bytes())) == ok()


def test_reformatted_and_edited_documents_are_read() -> None:
    document = json.loads(ok().to_bytes())
    document["trial"]["seed"] = 9
    document["metrics"]["speed"] = 3
    for text in (json.dumps(document), json.dumps(document, indent=1), f"\n {json.dumps(document)}\n\n"):
        edited = Result.from_bytes(text.encode())
        assert (edited.row.seed, edited.trial["seed"], edited.metrics["speed"]) == (9, 9, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema 2, but this version reads 1"),
        ({"schema": None}, "schema None"),
        ({"key": "short"}, "32 hex"),
        ({"key": KEY.upper()}, "32 hex"),
        ({"status": "fine"}, "neither 'ok' nor 'failed'"),
        ({"status": "failed", "reason": "bad luck"}, "none of exception, non-finite loss, out of memory"),
        ({"status": "failed"}, "reason None is none of"),
        ({"reason": "killed"}, "ok result with a reason"),
        ({"primary": "grace"}, "'grace' is not among the metrics"),
        ({"metrics": {"speed": "fast"}}, "'metrics.speed' is fast, expected a number"),
        ({"metrics": {"speed": True}}, "'metrics.speed' is True"),
        ({"metrics": {"speed": [1.0]}}, "'metrics.speed'"),
        ({"metrics": {"speed": 10**400}}, "'metrics.speed'"),
        ({"metrics": [1.0]}, "'metrics' is list, expected dict"),
        ({"cost": {"flops": {}}}, "'cost.flops'"),
        ({"row": []}, "'row' doesn't hold method, label"),
        ({"seconds": "4"}, "'seconds' is str, expected float"),
        ({"trial": {}}, "'trial.method' is None"),
        ({"trial": {**TRIAL, "seed": 1.5}}, "'trial.seed' is 1.5, expected an int"),
        ({"trial": {**TRIAL, "seed": True}}, "'trial.seed' is True"),
        ({"trial": {**TRIAL, "options": []}}, "'trial.options' is no mapping"),
        ({"trial": {**TRIAL, "options": {"budget": "all"}}}, "'trial.options.budget' is 'all'"),
        ({"trial": {**TRIAL, "options": {"budget": 0}}}, "'trial.options.budget' is 0"),
        ({"curve": [1]}, "'curve' holds something else"),
        ({"curve": [{"epoch": "one"}]}, "'curve.epoch' is one"),
        ({"pictures": [1]}, "'pictures' holds something else"),
        ({"traceback": None}, "'traceback' is NoneType, expected str"),
    ],
)
def test_foreign_documents_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ResultError) as caught:
        Result.from_json({**ok().to_json(), **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize("name", [name for name in ok().to_json() if name not in ("reason", "schema")])
def test_missing_fields_are_named(name: str) -> None:
    document = ok().to_json()
    del document[name]
    with pytest.raises(ResultError, match=f"'{name}' is missing"):
        Result.from_json(document)


@pytest.mark.parametrize("document", [None, 1, "x", [], {}, {"key": KEY}])
def test_other_json_is_no_result(document: Any) -> None:
    with pytest.raises(ResultError, match="no schema"):
        Result.from_json(document)


def test_a_later_schema_with_a_right_checksum_is_refused() -> None:
    lines = ok().to_bytes()[len(b'{"checksum":"01234567",') :].replace(b'"schema":1', b'"schema":2')
    with pytest.raises(ResultError, match="schema 2"):
        Result.from_bytes(b'{"checksum":"%08x",' % zlib.crc32(lines) + lines)


def test_values_that_cannot_be_kept_are_named() -> None:
    with pytest.raises(ResultError, match=r"'trial.options.where' is PosixPath"):
        ok(trial={**TRIAL, "options": {"where": Path("/")}}).to_json()
    with pytest.raises(ResultError, match=r"'metrics\.speed'"):
        ok(metrics={"speed": "fast"}).to_json()


# The store.


def test_an_empty_store_holds_nothing_and_makes_nothing(store: ResultStore) -> None:
    assert store.load() == ([], [])
    assert store.get(KEY) is None
    assert not store.folder.exists()


def test_write_get_load(store: ResultStore) -> None:
    second = ok(OTHER, metrics={"speed": 2.0})
    assert store.write(second)
    assert store.write(ok())
    assert store.get(KEY) == ok()
    assert store.load() == ([ok(), second], [])
    assert sorted(os.listdir(store.trials)) == [f"{KEY}.json", f"{OTHER}.json"]
    assert ResultStore(str(store.folder)).get(OTHER) == second


@pytest.mark.parametrize("key", ["", "abc", KEY + "0", KEY.upper(), "../" + KEY[3:], KEY + "\n"])
def test_keys_are_32_hex_characters(store: ResultStore, key: str) -> None:
    for use in (store.get, store.claim, store.release, store.path):
        with pytest.raises(ValueError, match="32 hex"):
            use(key)
    with pytest.raises(ValueError, match="32 hex"):
        store.write(ok(key))


def test_failed_never_replaces_ok(store: ResultStore) -> None:
    assert store.write(ok())
    assert not store.write(failed())
    assert store.get(KEY) == ok()
    assert os.listdir(store.trials) == [f"{KEY}.json"]


def test_failed_is_replaced(store: ResultStore) -> None:
    assert store.write(failed())
    found = store.get(KEY)
    assert found is not None
    assert not found.ok
    assert store.write(failed(reason="killed"))
    assert store.get(KEY) == failed(reason="killed")
    assert store.write(ok())
    assert store.write(ok(seconds=9.0))
    assert store.get(KEY) == ok(seconds=9.0)


def test_only_an_ok_result_replaces_a_broken_file(store: ResultStore) -> None:
    path = put(store, f"{KEY}.json", "broken")
    assert store.get(KEY) is None
    assert not store.write(failed())
    assert path.read_text() == "broken"
    assert store.write(ok())
    assert store.get(KEY) == ok()


def test_a_result_that_could_not_be_read_again_is_not_written(store: ResultStore) -> None:
    with pytest.raises(ResultError, match="not among the metrics"):
        store.write(ok(metrics={}))
    assert store.load() == ([], [])


def test_garbage_is_reported_and_left_alone(store: ResultStore) -> None:
    store.write(ok())
    whole = ok(OTHER).to_bytes()
    garbage = {
        f"{'1' * 32}.json": (b"", "empty"),
        f"{'2' * 32}.json": (whole[: len(whole) // 2], "half-written or no JSON"),
        f"{'3' * 32}.json": (os.urandom(500), "half-written or no JSON"),
        f"{'4' * 32}.json": (b"[" * 100_000, "half-written or no JSON"),
        f"{'5' * 32}.json": (whole, f"holds the result of another key, {OTHER}"),
        f"{'6' * 32}.json": (b"{}", "names no schema"),
        f"{'7' * 32}.json": (b'{"schema": 99}', "schema 99"),
        f"{'8' * 32}.json": (whole + whole, "more follows"),
        f"{'9' * 32}.json": (b'{"schema": 1, "metrics": NaN}', "NaN is no JSON"),
        f"{'a' * 32}.json": (whole.replace(b'"last"', b'"\\udc80"'), "half-written or no JSON"),
        f"{'b' * 32}.json": (b"1" * 5000, "half-written or no JSON"),
        "notes.txt": (b"hello", "foreign"),
        ".DS_Store": (b"hello", "foreign"),
        f"{OTHER}.json.bak": (whole, "foreign"),
    }
    for name, (content, _) in garbage.items():
        put(store, name, content)
    (store.trials / f"{'c' * 32}.json").mkdir()
    os.mkfifo(store.trials / f"{'d' * 32}.json")
    (store.trials / f"{'e' * 32}.json").symlink_to("nowhere")

    results, problems = store.load()
    assert results == [ok()]
    reasons = {problem.path.name: problem.reason for problem in problems}
    assert reasons.pop(f"{'c' * 32}.json").startswith("cannot be read: Is a directory")
    assert reasons.pop(f"{'d' * 32}.json") == "empty"
    assert reasons.keys() == garbage.keys()
    for name, (content, said) in garbage.items():
        assert said in reasons[name]
        assert (store.trials / name).read_bytes() == content


def test_a_problem_can_always_be_printed() -> None:
    str(Problem(Path(os.fsdecode(b"\xff.json")), "foreign")).encode()


def test_every_truncation_is_noticed() -> None:
    content = ok().to_bytes()
    for length in range(len(content) - 1):
        with pytest.raises(ResultError):
            Result.from_bytes(content[:length])
    assert Result.from_bytes(content[:-1]) == ok()  # only the last newline is gone: still whole


def test_every_changed_byte_is_parsed_anew() -> None:
    """A flipped byte never slips through unparsed: the result is whole, or there is none."""
    content = ok().to_bytes()
    draw = random.Random(0)
    for _ in range(300):
        position = draw.randrange(len(content) - 1)
        changed = bytearray(content)
        changed[position] ^= 1 << draw.randrange(8)
        try:
            result = Result.from_bytes(bytes(changed))
        except ResultError:
            continue
        assert "curve" in vars(result)


def test_large_files_are_read_whole(store: ResultStore) -> None:
    large = failed(traceback="é" * 200_000)
    assert store.write(large)
    assert store.load() == ([large], [])


def test_unreadable_folder_is_a_problem(store: ResultStore) -> None:
    store.folder.mkdir()
    store.trials.write_text("a file where a folder should be")
    results, (problem,) = store.load()
    assert results == []
    assert "cannot be listed" in problem.reason


def test_leftover_temporary_files_are_ignored(store: ResultStore) -> None:
    store.write(ok())
    path = put(store, ".tmp-123-abc", ok(OTHER).to_bytes()[:50])
    assert store.load() == ([ok()], [])
    assert path.exists()


def test_a_failing_write_leaves_nothing(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(ok())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(ok(seconds=9.0))
    monkeypatch.undo()
    assert store.get(KEY) == ok()
    assert os.listdir(store.trials) == [f"{KEY}.json"]


def test_write_bytes(store: ResultStore) -> None:
    path = store.write_bytes("pictures/deep/a.png", b"\x89PNG")
    assert path == store.folder / "pictures/deep/a.png"
    assert path.read_bytes() == b"\x89PNG"
    store.write_bytes("pictures/deep/a.png", memoryview(b"new"))
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("relative", ["", ".", "/etc/x", "../x", "a/../../x", "trials/x.json", ".lock"])
def test_write_bytes_stays_in_its_place(store: ResultStore, relative: str) -> None:
    with pytest.raises(ValueError, match="no path for a picture"):
        store.write_bytes(relative, b"")


def test_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


# Other processes. `bench.results` loads quickly, so new interpreters are cheap.


def python(code: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    prelude = (
        "import os, sys, signal\n"
        "from pathlib import Path\n"
        ""
        "from bench.results import *\n"
        f"store = ResultStore({str(folder)!r}); KEY, OTHER = {KEY!r}, {OTHER!r}\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        **options,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_importing_the_store_is_cheap() -> None:
    code = "import sys, bench.results; print({'torch', 'pandas', 'numpy', 'rich'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "set()"


def test_claims_exclude_other_processes(store: ResultStore) -> None:
    assert store.claim(KEY)
    code = "print(store.claim(KEY), store.claim(OTHER), flush=True); sys.stdin.read()"
    other = python(code, store.folder)
    try:
        assert line(other) == "False True"
        assert not store.claim(OTHER)
        store.release(KEY)
        third = python("print(store.claim(KEY), store.claim(OTHER), flush=True)", store.folder)
        assert third.communicate()[0].strip() == "True False"
    finally:
        other.communicate()
    assert store.claim(OTHER)
    assert store.claim(KEY)
    store.release(OTHER)
    store.release(KEY)


def test_a_killed_runner_keeps_no_claim(store: ResultStore) -> None:
    other = python("print(store.claim(KEY), flush=True); sys.stdin.read()", store.folder)
    assert line(other) == "True"
    assert not store.claim(KEY)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert store.claim(KEY)
    store.release(KEY)


def test_claims_within_a_process(store: ResultStore) -> None:
    twin = ResultStore(store.folder)
    assert store.claim(KEY)
    assert not store.claim(KEY)
    assert not twin.claim(KEY)
    twin.claim(OTHER)
    twin.release(OTHER)
    del twin
    other = python("print(store.claim(KEY), flush=True)", store.folder)
    assert other.communicate()[0].strip() == "False"  # the twin's end dropped no lock of the first
    store.release(KEY)
    store.release(KEY)
    assert store.claim(KEY)
    store.release(KEY)


def test_reading_and_writing_drop_no_claim(store: ResultStore) -> None:
    assert store.claim(KEY)
    store.write(ok())
    store.load()
    other = python("print(store.claim(KEY), flush=True)", store.folder)
    assert other.communicate()[0].strip() == "False"
    store.release(KEY)


def test_a_forked_child_has_no_claim(store: ResultStore) -> None:
    code = """
assert store.claim(KEY)
child = os.fork()
if not child:
    os._exit(0 if not store.claim(KEY) and store.claim(OTHER) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.claim(KEY), store.claim(OTHER))
"""
    out = python(code, store.folder).communicate(timeout=60)[0]
    assert out.strip() == "0 False True"


def _claim_all(folder: Path, keys: list[str], start: Any, queue: Any) -> None:
    store = ResultStore(folder)
    start.wait()
    queue.put([key for key in keys if store.claim(key)])
    start.wait()  # hold the claims until everybody has tried


def test_each_claim_has_one_winner(store: ResultStore) -> None:
    keys = [f"{number:032x}"[::-1] for number in range(300)]
    context = multiprocessing.get_context("fork")
    start, queue = context.Barrier(3), context.Queue()
    runners = [context.Process(target=_claim_all, args=(store.folder, keys, start, queue)) for _ in range(3)]
    for runner in runners:
        runner.start()
    won = [queue.get(timeout=60) for _ in runners]
    for runner in runners:
        runner.join()
    assert sorted(key for part in won for key in part) == sorted(keys)


KILLED = """
result = Result.from_bytes(sys.stdin.buffer.read())
name, after = os.environ["AT"], os.environ["AFTER"]
real = getattr(os, name)
def kill(*arguments, **options):
    if after == "1":
        real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, name, kill)
store.write(result)
"""


@pytest.mark.parametrize(
    ("at", "after"), [("fsync", "0"), ("fsync", "1"), ("replace", "0"), ("replace", "1")]
)
def test_killed_at_any_instant_leaves_the_old_or_the_new(store: ResultStore, at: str, after: str) -> None:
    store.write(ok())
    new = ok(seconds=9.0)
    runner = python(KILLED, store.folder, env={**os.environ, "AT": at, "AFTER": after})
    assert runner.stdin is not None
    runner.stdin.buffer.write(new.to_bytes())  # type: ignore[attr-defined]
    runner.communicate()
    assert runner.returncode == -signal.SIGKILL
    results, problems = store.load()
    assert problems == []
    assert results == [new if (at, after) == ("replace", "1") else ok()]
    assert any(name.startswith(".tmp-") for name in os.listdir(store.trials)) == (
        (at, after) != ("replace", "1")
    )
    assert store.write(new)
    assert store.get(KEY) == new


def test_ok_wins_over_failed_whatever_the_order(store: ResultStore) -> None:
    """Many processes write one key at once, all but one of them a failure."""
    context = multiprocessing.get_context("fork")
    results = [failed(message=str(number)) for number in range(6)]
    results.insert(3, ok())
    writers = [context.Process(target=store.write, args=(result,)) for result in results]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert store.get(KEY) == ok()
    assert os.listdir(store.trials) == [f"{KEY}.json"]
