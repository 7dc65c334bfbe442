"""Result and the result store: what a finished trial leaves, one JSON file each, never half-written.

A result file is one strict JSON document in two lines. The first holds what tables are made of (row, metrics,
cost), the second what is looked at one result at a time (the whole trial, curve, traceback). It begins with
the CRC-32 of all that follows, so that loading a hundred thousand results vouches for every byte of them but
parses only the first lines. A document that was reformatted or edited is still read: where the checksum
doesn't fit, it is parsed and checked as a whole.

JSON has no word for some numbers. Under `metrics`, `diagnostics`, `cost` and `curve` NaN is `null` and the
infinities are "inf" and "-inf" (a cost of `null` is an unknown one, None); elsewhere all three are strings.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import math
import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

SCHEMA = 1
"""Version of the result file; a file of another one is reported and left alone."""

Reason = Literal["exception", "non-finite loss", "out of memory", "killed", "time-out"]
REASONS: tuple[Reason, ...] = ("exception", "non-finite loss", "out of memory", "killed", "time-out")
COSTS = (
    "parameters",
    "flops",
    "train_seconds",
    "train_samples_per_second",
    "test_samples_per_second",
    "host_peak_mb",
    "device_peak_mb",
)
"""What a result's cost is made of; None where it could not be measured."""


class ResultError(ValueError):
    """A document that is no result, or a value that a result cannot hold; the message says which."""


class Row(NamedTuple):
    """What places a result in a table; an excerpt of its trial. problem: "" also in files that don't know it yet."""

    method: str
    label: str
    task: str
    dataset: str
    variant: str
    data_version: str
    profile: str
    budget: float
    seed: int
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished trial leaves.

    key: the trial's, 32 hex characters.
    trial: method, preset (or None), label, task, dataset, problem, variant, data_version, profile, seed, options
        (all, resolved), overrides (those that differ from the default), needs.
    status: "ok", or "failed" with `reason` (one of `REASONS`), `message` and `traceback`.
    fingerprint: of the code and data that made it; where today's is another, the result is stale.
    primary: name of the task's primary measure; among `metrics` if the trial succeeded.
    metrics: the judge's measures on the test split; diagnostics: the method's own numbers.
    curve: points in the order of time, {"epoch": .., "step": .., <name>: ..}.
    cost: by the names in `COSTS`.
    selection: the rule that chose the weights that were tested.
    environment: python, torch, lightning, device, git_commit, git_dirty.
    pictures: paths relative to the store.
    started: ISO 8601 in UTC; seconds: wall-clock time of the whole trial.
    row: excerpt of the trial, derived.

    The mappings are plain dicts and not to be changed. In a result that was loaded, the fields after `row`
    are parsed when the first of them is asked for.
    """

    key: str
    status: Literal["ok", "failed"]
    reason: Reason | None = None
    fingerprint: str
    primary: str
    metrics: Mapping[str, float]
    cost: Mapping[str, float | None]
    started: str
    seconds: float
    row: Row = field(init=False)

    # No plain defaults here: they would be class attributes, which `__getattr__` is never asked for.
    trial: Mapping[str, Any]
    selection: str
    environment: Mapping[str, Any]
    message: str = field(default_factory=str)
    pictures: Sequence[str] = field(default_factory=tuple)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    traceback: str = field(default_factory=str)
    curve: Sequence[Mapping[str, float]] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", _row(self.trial))
        object.__setattr__(self, "pictures", tuple(self.pictures))
        object.__setattr__(self, "curve", tuple(self.curve))

    if not TYPE_CHECKING:  # mypy would take every misspelt attribute for one that this finds

        def __getattr__(self, name: str) -> Any:
            """Parse the fields that a loaded result still holds as text."""
            attributes = self.__dict__
            if name in _REST and (unparsed := attributes.get("_unparsed")) is not None:
                attributes.update(_parse_rest(_decode(unparsed)))
                attributes.pop("_unparsed", None)
            if name not in attributes:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return attributes[name]

    @property
    def ok(self) -> bool:
        """Whether the trial succeeded; only then is the result one that counts."""
        return self.status == "ok"

    def to_json(self) -> dict[str, Any]:
        """The result as strict JSON values."""
        return {**self._first_line(), **self._second_line()}

    def to_bytes(self) -> bytes:
        """The result file."""
        lines = _encode(self._first_line())[1:-1] + b",\n" + _encode(self._second_line())[1:] + b"\n"
        return _BEGIN + b'%08x",' % zlib.crc32(lines) + lines

    @classmethod
    def from_json(cls, document: Any) -> Result:
        """The result that `to_json` wrote; `ResultError` where the document is none."""
        head, rest = _parse_head(document), _parse_rest(document)
        return cls._of({**head, **rest, "row": _row(rest["trial"])})

    @classmethod
    def from_bytes(cls, content: bytes) -> Result:
        """The result in a file's content; `ResultError` where it holds none or only a part of one."""
        if content[: len(_BEGIN)] == _BEGIN:
            digits = content[len(_BEGIN) : _CHECKED_FROM - 2]
            if digits == b"%08x" % zlib.crc32(memoryview(content)[_CHECKED_FROM:]):
                head = _decode(content[: content.find(b",\n")] + b"}")
                if head["schema"] == SCHEMA:
                    head["row"] = Row(*head["row"])
                    head["metrics"] = _numbers(head["metrics"], "metrics")
                    if str in map(type, head["cost"].values()):
                        head["cost"] = _numbers(head["cost"], "cost", unknown=None)
                    return cls._of({**head, "_unparsed": content})
        return cls.from_json(_decode(content))

    @classmethod
    def _of(cls, attributes: Mapping[str, Any]) -> Result:
        result = object.__new__(cls)
        result.__dict__.update(attributes)
        return result

    def _first_line(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "key": self.key,
            "status": self.status,
            "reason": self.reason,
            "row": list(self.row),
            "fingerprint": self.fingerprint,
            "primary": self.primary,
            "metrics": _numbers_to_json(self.metrics, "metrics"),
            "cost": _numbers_to_json(self.cost, "cost"),
            "started": self.started,
            "seconds": float(self.seconds),
        }

    def _second_line(self) -> dict[str, Any]:
        return {
            "trial": _plain(self.trial, "trial"),
            "selection": self.selection,
            "environment": _plain(self.environment, "environment"),
            "message": _text(self.message),
            "pictures": [_text(path) for path in self.pictures],
            "diagnostics": _numbers_to_json(self.diagnostics, "diagnostics"),
            "traceback": _text(self.traceback),
            "curve": [_numbers_to_json(point, "curve") for point in self.curve],
        }


@dataclass(frozen=True)
class Problem:
    """A file in the store that is no result and was left as it is."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return _text(f"{self.path}: {self.reason}")


class ResultStore:
    """A folder of results that any number of runners write to and any number of readers look at.

    Results lie in `<folder>/trials/<key>.json`; pictures and checkpoints wherever `write_bytes` is told to
    put them. A file appears whole or not at all, also through a power cut: it is written beside its place
    under a name that starts with `.tmp-`, synced, and renamed. Such a name, left by a killed runner, is
    ignored.

    Claims keep two runners from running one trial twice. A claim is an advisory lock on one byte of
    `<folder>/.lock`, at the offset that the key's first 15 hex digits name. The kernel drops it when the
    process that holds it ends in whatever way, so nothing is left to clean up. `.lock` must not be deleted
    while a runner is at work. The file system must know POSIX locks (local ones and NFS do).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.trials = self.folder / "trials"

    def path(self, key: str) -> Path:
        """Where the result of a key lies."""
        if not _KEY.fullmatch(key):
            raise ValueError(f"a result's key is 32 hex characters in lower case, not {key!r}")
        return self.trials / f"{key}.json"

    def load(self) -> tuple[list[Result], list[Problem]]:
        """All results, failed ones too, in the order of their keys, and the files that are none."""
        results: list[Result] = []
        problems: list[Problem] = []
        try:
            names = sorted(os.listdir(self.trials))
        except FileNotFoundError:
            return [], []
        except OSError as error:
            return [], [Problem(self.trials, f"cannot be listed: {error.strerror}")]
        folder = f"{self.trials}/"
        with _no_collection():
            for name in names:
                if name.startswith(_TEMPORARY):
                    continue
                try:
                    results.append(_read(folder + name, name))
                except FileNotFoundError:
                    continue
                except ResultError as error:
                    problems.append(Problem(self.trials / name, str(error)))
                except OSError as error:
                    problems.append(Problem(self.trials / name, f"cannot be read: {error.strerror}"))
        return results, problems

    def get(self, key: str) -> Result | None:
        """The result of a key, failed or ok; None if there is none, or none that can be read."""
        path = self.path(key)
        try:
            return _read(str(path), path.name)
        except (OSError, ResultError):
            return None

    def write(self, result: Result) -> bool:
        """Keep a result; True if it was written.

        An ok one replaces whatever lies at its place. A failed one replaces nothing but a failed one:
        neither an ok result nor a file that cannot be read. `ResultError` where a value cannot be kept.
        """
        target = self.path(result.key)
        content = result.to_bytes()
        Result.from_json(_decode(content))
        with _temporary(target, content) as temporary, _LockFile.of(self.folder).writing():
            if not result.ok and os.path.lexists(target):
                there = self.get(result.key)
                if there is None or there.ok:
                    return False
            os.replace(temporary, target)
        _sync_folder(target.parent)
        return True

    def write_bytes(self, relative: str | PurePosixPath, content: bytes | memoryview) -> Path:
        """Put a picture or a checkpoint into the store, whole or not at all; returns its path."""
        inside = PurePosixPath(relative)
        if inside.is_absolute() or ".." in inside.parts or not inside.parts or inside.parts[0] in _OWN:
            raise ValueError(f"{str(relative)!r} is no path for a picture or a checkpoint inside the store")
        target = self.folder / inside
        write_atomically(target, content)
        return target

    def claim(self, key: str) -> bool:
        """Reserve a trial for this process; False if it is reserved already, by whomever.

        Look for a result again after a claim succeeded: another runner may just have finished it.
        """
        self.path(key)
        return _LockFile.of(self.folder).take(int(key[:15], 16))

    def release(self, key: str) -> None:
        """Give a claim back; nothing happens if this process holds none."""
        self.path(key)
        _LockFile.of(self.folder).drop(int(key[:15], 16))


# The result document.

_KEY = re.compile(r"[0-9a-f]{32}")
_BEGIN = b'{"checksum":"'
_CHECKED_FROM = len(_BEGIN) + len('01234567",')
_REST = frozenset(
    ("trial", "selection", "environment", "message", "pictures", "diagnostics", "traceback", "curve")
)
_HEAD_TYPES = {
    "key": str,
    "status": str,
    "fingerprint": str,
    "primary": str,
    "metrics": dict,
    "cost": dict,
    "started": str,
    "seconds": float,
    "row": list,
}
_REST_TYPES = {
    "trial": dict,
    "selection": str,
    "environment": dict,
    "message": str,
    "pictures": list,
    "diagnostics": dict,
    "traceback": str,
    "curve": list,
}
_ROW_TYPES = (str, str, str, str, str, str, str, float, int, str)
_TEXTS = tuple(name for name in Row._fields if name not in ("budget", "seed"))
_LARGEST_INT = 2**63 - 1
_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def _parse_head(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict) or "schema" not in document:
        raise ResultError("no result file: it names no schema")
    if document["schema"] != SCHEMA:
        raise ResultError(f"schema {document['schema']!r}, but this version reads {SCHEMA}")
    head = _fields(document, _HEAD_TYPES)
    head["metrics"] = _numbers(head["metrics"], "metrics")
    head["cost"] = _numbers(head["cost"], "cost", unknown=None)
    if tuple(map(type, head["row"])) not in (_ROW_TYPES, _ROW_TYPES[:-1]):
        raise ResultError(f"'row' doesn't hold {', '.join(Row._fields)}")
    head["row"] = Row(*head["row"])
    if not _KEY.fullmatch(head["key"]):
        raise ResultError(f"key {head['key']!r} isn't 32 hex characters")
    reason = head["reason"] = document.get("reason")
    if head["status"] == "ok":
        if reason is not None:
            raise ResultError("an ok result with a reason for failure")
        if head["primary"] not in head["metrics"]:
            raise ResultError(f"the primary measure {head['primary']!r} is not among the metrics")
    elif head["status"] != "failed":
        raise ResultError(f"status {head['status']!r} is neither 'ok' nor 'failed'")
    elif reason not in REASONS:
        raise ResultError(f"reason {reason!r} is none of {', '.join(REASONS)}")
    return head


def _parse_rest(document: Mapping[str, Any]) -> dict[str, Any]:
    rest = _fields(document, _REST_TYPES)
    rest["diagnostics"] = _numbers(rest["diagnostics"], "diagnostics")
    if not all(type(path) is str for path in rest["pictures"]):
        raise ResultError("'pictures' holds something else than paths")
    if not all(type(point) is dict for point in rest["curve"]):
        raise ResultError("'curve' holds something else than points")
    rest["pictures"] = tuple(rest["pictures"])
    rest["curve"] = tuple(_numbers(point, "curve") for point in rest["curve"])
    return rest


def _fields(document: Mapping[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
    fields = {name: document.get(name) for name in types}
    if [*map(type, fields.values())] != [*types.values()]:
        for name, expected in types.items():
            if type(fields[name]) is not expected:
                found = type(fields[name]).__name__ if name in document else "missing"
                raise ResultError(f"{name!r} is {found}, expected {expected.__name__}")
    return fields


def _row(trial: Mapping[str, Any]) -> Row:
    """The excerpt of a trial; `ResultError` names what it misses."""
    trial = {"problem": "", **trial}
    for name in _TEXTS:
        if type(trial.get(name)) is not str:
            raise ResultError(f"'trial.{name}' is {trial.get(name)!r}, expected a str")
    if type(trial.get("seed")) is not int:
        raise ResultError(f"'trial.seed' is {trial.get('seed')!r}, expected an int")
    if not isinstance(trial.get("options"), Mapping):
        raise ResultError("'trial.options' is no mapping")
    budget = trial["options"].get("budget", 1.0)
    if type(budget) not in (int, float) or not 0 < budget < math.inf:
        raise ResultError(f"'trial.options.budget' is {budget!r}, expected a positive number")
    return Row(**{name: trial[name] for name in _TEXTS}, budget=float(budget), seed=trial["seed"])


def _numbers(values: dict[str, Any], where: str, unknown: float | None = math.nan) -> dict[str, Any]:
    """Numbers by name from their JSON; `unknown` stands for null."""
    if {*map(type, values.values())} == {float}:
        return values
    numbers = {}
    for name, value in values.items():
        kind = type(value)
        if value is None:
            value = unknown
        elif kind is str and value in _INFINITIES:
            value = _INFINITIES[value]
        elif kind is not float and not (kind is int and -_LARGEST_INT <= value <= _LARGEST_INT):
            raise ResultError(f"'{where}.{name}' is {str(value)[:80]}, expected a number")
        numbers[name] = value
    return numbers


def _numbers_to_json(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            number: float | int | None = None
        elif isinstance(value, Integral) and not isinstance(value, bool):
            number = int(value)
        else:
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                raise ResultError(f"'{where}.{name}' is {value!r}, expected a number") from error
        if isinstance(number, float) and not math.isfinite(number):
            numbers[_text(name)] = None if math.isnan(number) else str(number)
        else:
            numbers[_text(name)] = number
    return numbers


def _plain(value: Any, where: str) -> Any:
    """A value as strict JSON; `ResultError` names one that is none."""
    if isinstance(value, Mapping):
        return {_text(str(name)): _plain(inner, f"{where}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise ResultError(f"'{where}' is {type(value).__name__} {value!r}, which JSON cannot hold")


def _text(value: str) -> str:
    """The string with lone surrogates (undecodable bytes of file names and output) written out."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _reject(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_reject)


def _decode(content: bytes) -> Any:
    try:
        text = str(content, "utf-8").strip(" \t\r\n")
        document, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError(f"more follows after character {end}")
        if b"\\u" in content:  # an escape may spell a lone surrogate, which no file could be written with
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ResultError(f"half-written or no JSON: {error}" if content else "empty") from error
    return document


# Files.

_TEMPORARY = ".tmp-"
_OWN = ("trials", ".lock")
_CHUNK = 2**16
_LARGEST = 64 * 2**20


def _read(path: str, name: str) -> Result:
    key, suffix = name[:32], name[32:]
    if suffix != ".json" or not _KEY.fullmatch(key):
        raise ResultError("a foreign file: its name isn't <key>.json")
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not stop the reader
    try:
        content = os.read(file, _CHUNK)
        if len(content) == _CHUNK:
            chunks = [content]
            while chunks[-1]:
                chunks.append(os.read(file, 2**20))
                if len(chunks) > _LARGEST // 2**20:
                    raise ResultError(f"larger than {_LARGEST // 2**20} MiB")
            content = b"".join(chunks)
    finally:
        os.close(file)
    result = Result.from_bytes(content)
    if result.key != key:
        raise ResultError(f"holds the result of another key, {result.key}")
    return result


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector, which would go through all results again and again while many are
    made and none is dropped."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write_atomically(target: Path, content: bytes | memoryview) -> None:
    """Write a file that appears whole or not at all, and stays; makes its folder."""
    with _temporary(target, content) as temporary:
        os.replace(temporary, target)
    _sync_folder(target.parent)


@contextmanager
def _temporary(target: Path, content: bytes | memoryview) -> Iterator[Path]:
    """A synced file with the content in the target's folder, gone afterwards unless it was renamed."""
    _make_folder(target.parent)
    temporary = target.parent / f"{_TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(file)


class _LockFile:
    """This process's one handle on a lock file.

    POSIX locks belong to the process, and all of them fall when it closes any handle on the file. So there
    is one handle for all stores on a folder, never closed, and beside it a set of what is held.
    """

    _WRITING = 2**60  # beyond the offsets of all claims
    _known: dict[tuple[int, int], _LockFile] = {}
    _opening = threading.Lock()

    def __init__(self, file: int) -> None:
        self._file = file
        self._held: set[int] = set()
        self._claiming = threading.Lock()
        self._renaming = threading.Lock()

    @classmethod
    def of(cls, folder: Path) -> _LockFile:
        """The handle on `<folder>/.lock`, which is made if need be."""
        path = folder / ".lock"
        with cls._opening:
            _make_folder(folder)
            try:
                status = os.stat(path)
            except FileNotFoundError:
                status = None
            if status is not None and (status.st_dev, status.st_ino) in cls._known:
                return cls._known[status.st_dev, status.st_ino]
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            status = os.fstat(file)
            return cls._known.setdefault((status.st_dev, status.st_ino), cls(file))

    @classmethod
    def forget(cls) -> None:
        """A forked child inherits no lock, so it must not believe that it holds some."""
        cls._known = {}
        cls._opening = threading.Lock()

    def take(self, offset: int) -> bool:
        with self._claiming:
            if offset in self._held:
                return False
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise
            self._held.add(offset)
            return True

    def drop(self, offset: int) -> None:
        with self._claiming:
            if offset in self._held:
                self._held.remove(offset)
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold off other writers while what lies at a result's place is looked at and replaced."""
        with self._renaming:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._WRITING)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._WRITING)


os.register_at_fork(after_in_child=_LockFile.forget)
