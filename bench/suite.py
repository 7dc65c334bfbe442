"""Suites: a YAML file to a list of trials.

    profile: mini                  # smoke | mini | paper
    variant: miniature             # miniature | real
    seeds: [0, 1, 2]
    options: {budget: 0.5}         # for every trial whose method has the option
    include: [recognition, dense]  # other suites, whose entries come first
    pick: tour                     # all (default), or tour: of each task the first method and its direct baseline
    trials:
      - methods: [cfn, "cfn:cnn", majority]
        datasets: [cifar-10]
        options: {lr: 0.05}        # for the methods of this entry, all of which must have it
        needs: {backbone: imagenet}  # role -> dataset on which the needed trial is trained
        trained_on: imagenet           # train there, and only test on the entry's datasets
        profile: ...  variant: ...  seeds: ...   # override the suite's own

Whatever is misspelt is an error that names it, the nearest valid name, and file and line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bench import registry
from bench.errors import UsageError, unknown
from bench.trial import Places, Trial, resolve

SUITES = Path(__file__).parent / "suites"
DEFAULTS = {"profile": "mini", "variant": "miniature", "seeds": [0]}
CHOICES = {"profile": ("smoke", "mini", "paper"), "variant": ("miniature", "real"), "pick": ("all", "tour")}
SUITE_KEYS = ("name", "description", "profile", "variant", "seeds", "options", "include", "pick", "trials")
ENTRY_KEYS = ("methods", "datasets", "options", "needs", "trained_on", "profile", "variant", "seeds")


class Located(dict[str, Any]):
    """A YAML mapping that knows its file, and the line of each key."""

    file: Path
    lines: dict[str, int]

    def where(self, key: str) -> str:
        return f"{self.file}:{self.lines[key]}" if key in self.lines else str(self.file)


@dataclass(frozen=True)
class Entry:
    """A line of a suite: every method on every dataset with every seed."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    options: Mapping[str, Any]
    needs: Mapping[str, str]
    trained_on: str | None
    profile: str
    variant: str
    seeds: tuple[int, ...]
    where: Mapping[str, str]


@dataclass(frozen=True)
class Suite:
    name: str
    description: str
    entries: tuple[Entry, ...]
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Options for every trial whose method or dataset has them."""
    shared_where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Narrowing:
    """What the command line narrows or overrides; None leaves the suite as it is."""

    methods: Sequence[str] | None = None
    datasets: Sequence[str] | None = None
    variant: str | None = None
    profile: str | None = None
    seeds: Sequence[int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """The suites that come with the project."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load(name_or_file: str) -> Suite:
    """Read a suite by name or file; raises `UsageError`."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_file not in names():
            raise unknown("suite", name_or_file, names())
        path = SUITES / f"{name_or_file}.yaml"
    if not path.is_file():
        raise UsageError(f"no suite file {path}")
    return _read(path, ())


def trials(suite: Suite, narrowing: Narrowing, places: Places) -> list[Trial]:
    """Expand a suite: in its order, none twice. An option nobody knows or a filter nothing passes is an error."""
    _check_filter("method", narrowing.methods)
    _check_filter("dataset", narrowing.datasets)
    shared = {**suite.shared, **narrowing.options}
    shared_where = {**suite.shared_where, **dict.fromkeys(narrowing.options, "--set")}
    used: set[str] = set()
    found: dict[str, Trial] = {}
    for entry in suite.entries:
        for label in entry.methods:
            cls, _ = registry.method(label, entry.where.get("methods", ""))
            method_wanted = narrowing.methods is None or {label, cls.name} & set(narrowing.methods)
            for dataset in entry.datasets:
                data_cls = registry.dataset(dataset, entry.where.get("datasets", ""))
                known = registry.method_options(cls).keys() | registry.dataset_options(data_cls).keys()
                # The suite's own options need a taker somewhere in it, also where the flags leave that out.
                used |= suite.shared.keys() & known
                if not method_wanted or (
                    narrowing.datasets is not None and dataset not in narrowing.datasets
                ):
                    continue
                common = {name: value for name, value in shared.items() if name in known}
                used |= common.keys()
                for seed in narrowing.seeds if narrowing.seeds is not None else entry.seeds:
                    trial = resolve(
                        label,
                        dataset,
                        variant=narrowing.variant or entry.variant,
                        profile=narrowing.profile or entry.profile,
                        seed=seed,
                        overrides={
                            **common,
                            **entry.options,
                            **{k: common[k] for k in narrowing.options if k in common},
                        },
                        needs=entry.needs,
                        trained_on=entry.trained_on,
                        places=places,
                        where={**shared_where, **entry.where},
                    )
                    found.setdefault(trial.key, trial)
    if not found:
        raise UsageError(f"suite {suite.name!r} has no trial of these methods and datasets")
    for name in shared.keys() - used:
        raise unknown("option", name, _all_options(found.values()), shared_where.get(name, ""))
    return list(found.values())


def _check_filter(kind: registry.Kind, wanted: Sequence[str] | None) -> None:
    for name in wanted or ():
        if kind == "method":
            registry.method(name, "--methods")
        else:
            registry.find(kind, name, "--datasets")


def _all_options(of: Any) -> set[str]:
    return {name for trial in of for name in trial.options}


def _read(path: Path, above: tuple[Path, ...]) -> Suite:
    if path in above:
        raise UsageError(f"{path}: suite includes itself: {' -> '.join(p.name for p in (*above, path))}")
    document = _parse(path)
    _check_keys(document, SUITE_KEYS, "suite key")
    _check_choices(document)
    entries: list[Entry] = []
    for name in _strings(document, "include"):
        if name not in names():
            raise unknown("suite", name, names(), document.where("include"))
        for entry in _read(SUITES / f"{name}.yaml", (*above, path)).entries:
            entries.append(
                replace(
                    entry,
                    profile=document.get("profile", entry.profile),
                    variant=document.get("variant", entry.variant),
                    seeds=tuple(document["seeds"]) if "seeds" in document else entry.seeds,
                )
            )
    for item in document.get("trials") or []:
        if not isinstance(item, Located):
            raise UsageError(f"{document.where('trials')}: each of `trials` is a mapping, not {item!r}")
        entries.append(_entry(item, document))
    if document.get("pick") == "tour":
        entries = _tour(entries)
    options = document.get("options") or _empty(document)
    return Suite(
        name=path.stem,
        description=document.get("description", ""),
        entries=tuple(entries),
        shared=dict(options),
        shared_where={name: options.where(name) for name in options},
    )


def _entry(item: Located, suite: Located) -> Entry:
    _check_keys(item, ENTRY_KEYS, "key of a trial entry")
    _check_choices(item)
    for key in ("methods", "datasets"):
        if not item.get(key):
            line = min(item.lines.values(), default=suite.lines["trials"])
            raise UsageError(f"{item.file}:{line}: a trial entry needs `{key}`")
    defaults = {**DEFAULTS, **{key: suite[key] for key in DEFAULTS if key in suite}}
    options, needs = item.get("options") or _empty(item), item.get("needs") or _empty(item)
    seeds = item.get("seeds", defaults["seeds"])
    where = {key: item.where(key) for key in item} | {name: options.where(name) for name in options}
    entry = Entry(
        methods=tuple(_strings(item, "methods")),
        datasets=tuple(_strings(item, "datasets")),
        options=dict(options),
        needs=dict(needs),
        trained_on=next(_strings(item, "trained_on"), None),
        profile=item.get("profile", defaults["profile"]),
        variant=item.get("variant", defaults["variant"]),
        seeds=tuple(seeds),
        where=where,
    )
    for label in entry.methods:
        registry.method(label, item.where("methods"))
    trained_on = () if entry.trained_on is None else (entry.trained_on,)
    for key, mentioned in (
        ("datasets", entry.datasets),
        ("needs", entry.needs.values()),
        ("trained_on", trained_on),
    ):
        for name in mentioned:
            registry.find("dataset", name, item.where(key))
    return entry


def _empty(of: Located) -> Located:
    mapping = Located()
    mapping.file, mapping.lines = of.file, {}
    return mapping


def _tour(entries: Sequence[Entry]) -> list[Entry]:
    """Of each task, the first method on its first dataset, and its direct baseline."""
    seen: set[str] = set()
    picked = []
    for entry in entries:
        cls, _ = registry.method(entry.methods[0])
        if cls.task.name in seen:
            continue
        seen.add(cls.task.name)
        methods = (entry.methods[0], *cls.baselines[:1])
        picked.append(replace(entry, methods=methods, datasets=entry.datasets[:1]))
    return picked


def _check_keys(mapping: Located, known: Sequence[str], kind: str) -> None:
    for key in mapping:
        if key not in known:
            raise unknown(kind, key, known, mapping.where(key))


def _check_choices(mapping: Located) -> None:
    for key, choices in CHOICES.items():
        if key in mapping and mapping[key] not in choices:
            raise unknown(key, mapping[key], choices, mapping.where(key))
    seeds = mapping.get("seeds", [0])
    if not isinstance(seeds, list) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds
    ):
        raise UsageError(f"{mapping.where('seeds')}: seeds is a list of whole numbers, not {seeds!r}")
    for key in ("options", "needs"):
        if not isinstance(mapping.get(key) or Located(), Located):
            raise UsageError(f"{mapping.where(key)}: {key} is a mapping, not {mapping[key]!r}")


def _strings(mapping: Located, key: str) -> Iterator[str]:
    value = mapping.get(key) or []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str):
            raise UsageError(f"{mapping.where(key)}: {key} holds names, not {item!r}")
        yield item


def _parse(path: Path) -> Located:
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}: a suite is a mapping")
    document = _located(node, path)
    assert isinstance(document, Located)
    return document


def _located(node: yaml.Node, path: Path) -> Any:
    """A composed YAML node as plain values, each mapping with the lines of its keys."""
    if isinstance(node, yaml.MappingNode):
        mapping = Located()
        mapping.file, mapping.lines = path, {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in mapping:
                raise UsageError(f"{path}:{line}: {key!r} stands twice")
            mapping[key], mapping.lines[key] = _located(value_node, path), line
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_located(item, path) for item in node.value]
    constructor = yaml.SafeLoader("")
    try:
        return constructor.construct_object(node, deep=True)
    finally:
        constructor.dispose()
