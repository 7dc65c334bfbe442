"""Trial: the unit that is run once and never lost. What determines its outcome, and its key.

A trial is made by `resolve`, which fills in every option (defaults < preset < profile < overrides), checks
each against its type, and resolves the trials it depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from tasks.base import Method, Need

SEED_LIMIT = 2**31
WEIGHTS = "weights"
"""Role of the trial whose weights one takes over whole, only to test them on its own dataset."""


@dataclass(frozen=True)
class Places:
    """Where things lie on this machine: no part of a trial's identity.

    data_root: folder of the real datasets; cache: folder of the rendered miniatures (None: the default).
    """

    data_root: Path | None = None
    cache: Path | None = None


@dataclass(frozen=True)
class Trial:
    """method + options, dataset + variant, profile, seed, and the trials whose weights it starts from.

    options: every resolved option: constructor, recipe and `data.` ones, as plain JSON values.
    preset: the named option set it was written with; a label, no part of the key.
    overrides: what was set on top of preset and profile; a label as well.
    """

    method: str
    preset: str | None
    task: str
    options: Mapping[str, Any]
    overrides: Mapping[str, Any]
    dataset: str
    variant: str
    data_version: str
    profile: str
    seed: int
    needs: tuple[tuple[str, Trial], ...] = ()

    @cached_property
    def key(self) -> str:
        """32 hexadecimal digits of the SHA-256 of what determines the outcome."""
        identity = {
            "method": self.method,
            "options": self.options,
            "dataset": self.dataset,
            "variant": self.variant,
            "data_version": self.data_version,
            "profile": self.profile,
            "seed": self.seed,
            "needs": {role: trial.key for role, trial in self.needs},
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]

    @cached_property
    def closure(self) -> tuple[Trial, ...]:
        """The trials it needs and those that they need in turn, each once and after its own needs."""
        found: dict[str, Trial] = {}
        for _, needed in self.needs:
            found |= {trial.key: trial for trial in (*needed.closure, needed)}
        return tuple(found.values())

    @property
    def label(self) -> str:
        """`method[:preset] option=value ... role@dataset`, as leaderboards show it: what was set on top of preset
        and profile, and where needed trials were trained. The budget and the problem are part of the board's title."""
        name = f"{self.method}:{self.preset}" if self.preset else self.method
        elsewhere_said = {"budget", *registry.problem_options(registry.dataset(self.dataset))}
        shown = [
            f"{key}={_short(value)}" for key, value in self.overrides.items() if key not in elsewhere_said
        ]
        elsewhere = [f"{role}@{other.dataset}" for role, other in self.needs if other.dataset != self.dataset]
        return " ".join([name, *shown, *elsewhere])

    @cached_property
    def problem(self) -> str:
        """The dataset's options that state another problem than its defaults do: "shots=1 ways=10", or ""."""
        cls = registry.dataset(self.dataset)
        known = registry.dataset_options(cls)
        return " ".join(
            f"{name.removeprefix('data.')}={_short(self.options[name])}"
            for name in sorted(registry.problem_options(cls))
            if self.options[name] != known[name].default
        )

    def __str__(self) -> str:
        dataset = f"{self.dataset} {self.problem}".rstrip()
        return f"{self.label} on {dataset} ({self.variant}, {self.profile}, seed {self.seed})"

    def __hash__(self) -> int:
        return hash(self.key)

    def to_json(self) -> dict[str, Any]:
        """What a result records of its trial."""
        return {
            "method": self.method,
            "preset": self.preset,
            "label": self.label,
            "task": self.task,
            "dataset": self.dataset,
            "problem": self.problem,
            "variant": self.variant,
            "data_version": self.data_version,
            "profile": self.profile,
            "seed": self.seed,
            "options": dict(self.options),
            "overrides": dict(self.overrides),
            "needs": {role: {"key": trial.key, **trial.to_json()} for role, trial in self.needs},
        }


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def resolve(
    label: str,
    dataset: str,
    *,
    variant: str,
    profile: str,
    seed: int,
    overrides: Mapping[str, Any] | None = None,
    needs: Mapping[str, str] | None = None,
    trained_on: str | None = None,
    places: Places,
    where: Mapping[str, str] | None = None,
) -> Trial:
    """Make the trial of `label` ("name" or "name:preset") on `dataset`.

    overrides: option -> value on top of preset and profile. needs: role -> dataset of the trial it needs.
    trained_on: another dataset; the same method is trained there, and `dataset` only tests its weights.
    where: option -> "file:line", for messages. Raises `UsageError` for whatever doesn't fit.
    """
    where = where or {}
    cls, preset = registry.method(label)
    data_cls = registry.dataset(dataset)
    if cls.task.name not in data_cls.tasks:
        raise UsageError(
            f"method {cls.name!r} is for {cls.task.name}, but dataset {dataset!r} serves {', '.join(data_cls.tasks)}"
        )
    if profile != "paper" and profile not in cls.profiles:
        raise unknown(f"profile of {cls.name}", profile, [*cls.profiles, "paper"])
    if not 0 <= seed < SEED_LIMIT:
        raise UsageError(f"seed {seed} is not in 0..{SEED_LIMIT - 1}")
    known = {**registry.method_options(cls), **registry.dataset_options(data_cls)}
    preset_options = cls.presets[preset] if preset else {}
    profile_options = cls.profiles.get(profile, {})
    recipe_data = {f"data.{name}": value for name, value in cls.recipe.data.items()}
    asked = {**recipe_data, **preset_options, **profile_options}
    if preset_options.get("max_steps") == 0:
        asked["max_steps"] = 0  # a profile shrinks a training; it gives none to a preset that has none
    options = {name: option.default for name, option in known.items()}
    for layer, origin in ((asked, f"{cls.name}'s own settings"), (overrides or {}, "")):
        for name, value in layer.items():
            place = where.get(name, origin) if layer is not asked else origin
            if name not in known:
                raise unknown(f"option of {cls.name} on {dataset}", name, known, place)
            options[name] = known[name].parse(value, place)
    if trained_on:
        options["max_steps"] = 0
    changed = {
        name: options[name] for name in overrides or {} if options[name] != _without(name, asked, known)
    }
    if preset is None:
        preset = _named(cls.presets, changed, known)
        changed = {name: value for name, value in changed.items() if preset is None or name == "budget"}
    shared: dict[str, Any] = {
        "variant": variant,
        "profile": profile,
        "seed": seed,
        "needs": needs,
        "places": places,
    }
    needed: dict[str, Trial] = {}
    if trained_on:
        needed[WEIGHTS] = resolve(label, trained_on, overrides=overrides, where=where, **shared)
    for role, need in _needs(cls, options, profile, trained=trained_on is not None).items():
        other = (needs or {}).get(role) or need.dataset or dataset
        needed[role] = resolve(need.method, other, overrides=_inherited(need.options, options), **shared)
    return Trial(
        method=cls.name,
        preset=preset,
        task=cls.task.name,
        options=dict(sorted(options.items())),
        overrides=dict(sorted(changed.items())),
        dataset=dataset,
        variant=variant,
        data_version=data_version(dataset, variant, places),
        profile=profile,
        seed=seed,
        needs=tuple(needed.items()),
    )


def _named(
    presets: Mapping[str, Mapping[str, Any]], changed: Mapping[str, Any], known: Mapping[str, registry.Option]
) -> str | None:
    """The preset that sets just what was set by hand, so that one trial has one label."""
    by_hand = {name: value for name, value in changed.items() if name != "budget"}
    for preset, options in presets.items():
        if by_hand.keys() == options.keys() <= known.keys() and by_hand == {
            name: known[name].parse(value) for name, value in options.items()
        }:
            return preset
    return None


def _without(name: str, asked: Mapping[str, Any], known: Mapping[str, registry.Option]) -> Any:
    return known[name].parse(asked[name]) if name in asked else known[name].default


def _needs(cls: type[Method], options: Mapping[str, Any], profile: str, *, trained: bool) -> dict[str, Need]:
    """What the method needs (unless its weights come whole from elsewhere) and what its judge consults, by role.
    One role is one trial: method and judge may share it."""
    found: dict[str, Need] = {}
    own = () if trained else cls.needs(options)
    for need in (*own, *cls.task.jury(options, profile)):  # type: ignore[arg-type]
        if found.setdefault(need.role, need) != need:
            raise UsageError(
                f"{cls.name} and the judge of {cls.task.name} mean different trials by {need.role!r}: "
                f"{found[need.role]} and {need}"
            )
    return found


def _inherited(own: Mapping[str, Any], dependent: Mapping[str, Any]) -> dict[str, Any]:
    """A needed trial takes the need's options, and the budget of the trial that needs it."""
    budget = {} if dependent["budget"] == 1.0 else {"budget": dependent["budget"]}
    return {**budget, **own}


@cache
def data_version(name: str, variant: str, places: Places) -> str:
    """The version of a dataset's data on this machine; reads file names and sizes of real data."""
    from datamodules.base import DataError

    cls = registry.dataset(name)
    if variant not in cls.variants:
        raise unknown(f"variant of {name}", variant, cls.variants)
    try:
        data = cls(places.data_root, variant, cache=places.cache)
        if variant == "real":
            data.prepare_data()
        return data.data_version()
    except DataError as error:
        raise UsageError(str(error)) from None
