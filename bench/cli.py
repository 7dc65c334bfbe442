"""The command line: `paragone list | run | show | leaderboard | claims | data`.

Only the parser is imported at start; everything heavier is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError, unknown

if TYPE_CHECKING:
    from rich.console import Console

    from bench.leaderboard import Leaderboard
    from bench.results import Result, ResultStore
    from bench.sweep import Plan
    from bench.trial import Places, Trial

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (a trial failed), 2 (a wrong name or value), 130 (Ctrl-C)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.command(options)
    except UsageError as error:
        print(f"paragone: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("\nparagone: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paragone", description="Sweep vision methods x datasets x seeds, and compare."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="what there is")
    listing.add_argument("what", choices=["tasks", "methods", "datasets", "suites"])
    _places(listing)
    _json(listing)
    listing.set_defaults(command=_list)

    run = commands.add_parser("run", help="run the trials of a suite that have no result yet")
    run.add_argument("suite", help="name of a suite (`paragone list suites`) or a YAML file")
    run.add_argument("--methods", type=_names, metavar="A,B", help="only these: name, or name:preset")
    run.add_argument("--datasets", type=_names, metavar="D,E", help="only these")
    run.add_argument("--variant", choices=["miniature", "real"])
    run.add_argument("--profile", choices=["smoke", "mini", "paper"])
    run.add_argument("--seeds", type=_numbers, metavar="0,1,2")
    run.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="for every method that has it"
    )
    _places(run)
    _results(run)
    run.add_argument(
        "--jobs", type=int, metavar="N", help="trials at a time; 0: in this process, without Ray"
    )
    run.add_argument("--address", help="of a running Ray cluster")
    run.add_argument(
        "--threads", type=int, default=1, help="torch threads a trial; numbers depend on it (default 1)"
    )
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="longest a trial may take")
    run.add_argument(
        "--memory", type=float, metavar="MIB", help="most host memory a trial may take (with --jobs >= 1)"
    )
    run.add_argument(
        "--retries", type=int, default=0, metavar="N", help="further tries of a trial that fails"
    )
    run.add_argument("--keep-checkpoints", action="store_true", help="keep every trial's weights")
    run.add_argument("--wandb", choices=["online", "offline", "disabled"], default="disabled")
    run.add_argument("--dry-run", action="store_true", help="say what would run")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="where leaderboards go (default RESULTS/leaderboards)"
    )
    run.set_defaults(command=_run)

    show = commands.add_parser("show", help="one result, whole")
    show.add_argument("trial", help="its key, or the first digits of it")
    _results(show)
    _json(show)
    show.set_defaults(command=_show)

    board = commands.add_parser("leaderboard", help="tables of all results that may be compared")
    board.add_argument("--task")
    board.add_argument("--dataset")
    board.add_argument("--profile", choices=["smoke", "mini", "paper"])
    _results(board)
    board.add_argument("--out", type=Path, metavar="DIR", help="also write Markdown and CSV there")
    _json(board)
    board.set_defaults(command=_leaderboard)

    claims = commands.add_parser("claims", help="does each paper's claim hold?")
    _results(claims)
    claims.add_argument("--out", type=Path, metavar="DIR", help="also write claims.md there")
    _json(claims)
    claims.set_defaults(command=_claims)

    data = commands.add_parser("data", help="check or prepare a dataset")
    data.add_argument("action", choices=["check", "prepare"])
    data.add_argument("dataset")
    data.add_argument(
        "--variant", choices=["miniature", "real"], help="default: real with --data-root, else miniature"
    )
    _places(data)
    data.set_defaults(command=_data)
    return parser


def _places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        default=_path("PARAGONE_DATA"),
        help="folder of the real datasets",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=_path("PARAGONE_CACHE"),
        help="folder of the rendered miniatures",
    )


def _results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, metavar="DIR", default=Path("results"), help="results folder")


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document to stdout, and nothing else")


def _path(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers separated by commas, not {text!r}") from None


# list


def _list(options: argparse.Namespace) -> int:
    from bench import listing

    document = listing.describe(options.what, _placed(options))
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        listing.show(options.what, document)
    return OK


# run


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from bench import suite as suites
    from bench import sweep
    from bench.console import SweepConsole
    from bench.results import ResultStore
    from bench.slots import InProcess, Limits, RaySlots, Slots
    from bench.tracking import Tracker

    if options.jobs is not None and options.jobs < 0:
        raise UsageError(f"--jobs {options.jobs} is negative")
    places = _placed(options)
    suite = suites.load(options.suite)
    trials = suites.trials(suite, _narrowing(options), places)
    store = ResultStore(options.results)
    console = Console(stderr=True)
    _report_problems(store, console.print)
    plan = sweep.plan(trials, store)
    if options.dry_run:
        _print_plan(plan)
        return OK
    _prepare(plan.todo, places, console.print)
    limits = Limits(options.timeout, options.memory)
    tracker = Tracker(
        options.wandb, suite.name, store.folder, _family, lambda text: console.print(text, style="yellow")
    )
    slots: Slots | None = None
    previous = signal.getsignal(signal.SIGTERM)
    try:
        with SweepConsole(console) as watcher:
            watcher.log = tracker.log
            if options.jobs == 0 or not plan.todo:
                slots = InProcess(places, limits, options.threads)
            else:
                slots = RaySlots(places, limits, options.threads, options.jobs, options.address)
            # After Ray has started, which brings a handler of its own.
            signal.signal(signal.SIGTERM, _interrupt)
            run = sweep.Sweep(
                plan,
                store,
                slots,
                watcher,
                retries=options.retries,
                keep_checkpoints=options.keep_checkpoints,
            )
            if isinstance(slots, InProcess):
                slots.on_activity = lambda: watcher.tick(slots.activity())
            tally = run.run()
    except KeyboardInterrupt:
        console.print("\nStopped. Finished trials are kept; the same command runs only what is missing.")
        return INTERRUPTED
    finally:
        if slots is not None:
            slots.close()
        signal.signal(signal.SIGTERM, previous)
    boards = _write_boards(store, options.out or store.folder / "leaderboards", trials)
    tracker.log_leaderboards(boards)
    tracker.close()
    if tally.failed:
        console.print(
            f"{len(tally.failed)} trials failed; `paragone show KEY` has the traceback:", style="red"
        )
        for key, result in tally.failed.items():
            console.print(
                f"  {key[:12]}  {result.trial['label']} on {result.trial['dataset']}: {result.reason}"
            )
    return OK if {trial.key for trial in trials} <= tally.ok else FAILED


def _narrowing(options: argparse.Namespace) -> Any:
    import yaml

    from bench.suite import Narrowing

    settings = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--set takes OPTION=VALUE, not {item!r}")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {item!r}: the value is no YAML") from None
    return Narrowing(
        methods=options.methods,
        datasets=options.datasets,
        variant=options.variant,
        profile=options.profile,
        seeds=options.seeds,
        options=settings,
    )


def _print_plan(plan: Plan) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True)
    waiting = {trial.key for trial in plan.todo}
    asked = {trial.key for trial in plan.asked}
    for trial in [*plan.todo, *(trial for trial in plan.asked if trial.key not in waiting)]:
        state = "run" if trial.key in waiting else "has a result"
        state += " (stale)" if trial.key in plan.stale else ""
        state += " (needed by another)" if trial.key not in asked else ""
        console.print(f"{trial.key[:12]}  {trial}: {state}", markup=False, highlight=False)


def _prepare(trials: Sequence[Trial], places: Places, say: Callable[[str], None]) -> None:
    """Render the miniatures that the trials read, so that no trial's time is spent on it."""
    from bench import registry
    from datamodules.base import DataError

    for name, variant in dict.fromkeys((trial.dataset, trial.variant) for trial in trials):
        data = registry.dataset(name)(places.data_root, variant, cache=places.cache)  # type: ignore[arg-type]
        if variant == "miniature" and not data.ready:
            say(f"rendering the miniature of {name}")
        try:
            data.prepare_data()
        except DataError as error:
            raise UsageError(str(error)) from None


def _write_boards(store: ResultStore, out: Path, trials: Sequence[Trial] | None) -> dict[str, Any]:
    """Write all boards of a results folder, and print those that the trials belong to; returns their tables."""
    from bench import leaderboard

    results, _ = store.load()
    boards = _boards(results)
    paths = leaderboard.write(boards, out)
    keys = {trial.key for trial in trials or ()}
    touched = [board for board in boards if keys & set(board.keys)]
    console = _stdout()
    for board in touched:
        console.print(leaderboard.render(board, console.width))
    for path in paths:
        if path.suffix == ".md" and any(path.stem == board.name for board in touched):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
    return {board.name: board.frame for board in touched}


def _boards(results: Sequence[Result]) -> list[Leaderboard]:
    from bench import leaderboard, registry
    from leaderboards import reported

    return leaderboard.build(results, reported(), lambda name: registry.task(name).measures, _is_stale)


def _is_stale(result: Result) -> bool:
    """Whether the code a result ran has changed since, or is gone."""
    from bench import provenance

    try:
        return provenance.fingerprint(result.trial) != result.fingerprint
    except UsageError:
        return True


def _family(task: str) -> str:
    from bench import registry

    return registry.find("task", task).family


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# show, leaderboard, claims, data


def _show(options: argparse.Namespace) -> int:
    from bench import listing
    from bench.results import ResultStore

    results, _ = ResultStore(options.results).load()
    found = [result for result in results if result.key.startswith(options.trial)]
    if len(found) != 1:
        known = [result.key for result in results]
        if not found:
            raise unknown("trial", options.trial, known[:20], str(options.results))
        raise UsageError(
            f"{options.trial!r} fits {len(found)} trials: {', '.join(result.key for result in found[:5])} ..."
        )
    if options.json:
        print(json.dumps(found[0].to_json(), indent=1))
    else:
        listing.show_result(found[0], _is_stale(found[0]))
    return OK


def _leaderboard(options: argparse.Namespace) -> int:
    from bench import leaderboard, registry
    from bench.results import ResultStore

    if options.task:
        registry.find("task", options.task, "--task")
    if options.dataset:
        registry.find("dataset", options.dataset, "--dataset")
    store = ResultStore(options.results)
    results, _ = store.load()
    _report_problems(store, lambda text: print(text, file=sys.stderr))
    wanted = [
        result
        for result in results
        if options.task in (None, result.row.task)
        and options.dataset in (None, result.row.dataset)
        and options.profile in (None, result.row.profile)
    ]
    boards = _boards(wanted)
    paths = leaderboard.write(boards, options.out) if options.out else []
    if options.json:
        print(json.dumps(leaderboard.to_json(boards), indent=1))
        return OK
    console = _stdout()
    for board in boards:
        console.print(leaderboard.render(board, console.width))
    for path in paths:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if not boards:
        console.print(f"no results in {options.results}")
    return OK


def _claims(options: argparse.Namespace) -> int:
    from bench import claims, registry
    from bench.results import ResultStore

    results, _ = ResultStore(options.results).load()
    declared = {
        name: [(claim, cls.task) for claim in cls.claims]
        for name, cls in ((name, entry.load()) for name, entry in registry.entries("method").items())
        if cls.claims
    }
    verdicts = claims.judge(declared, results, _is_stale)
    if options.out:
        claims.write(verdicts, options.out)
    if options.json:
        print(json.dumps(claims.to_json(verdicts), indent=1))
    else:
        _stdout().print(claims.render(verdicts))
    return OK


def _data(options: argparse.Namespace) -> int:
    from bench import registry
    from datamodules.base import DataError

    cls = registry.dataset(options.dataset)
    variant = options.variant or ("real" if options.data_root else "miniature")
    try:
        data = cls(options.data_root, variant, cache=options.cache)  # type: ignore[arg-type]
        if options.action == "prepare":
            data.prepare_data()
            print(f"{options.dataset} ({variant}): ready under {data.root}")
            return OK
        problems = data.verify()
    except DataError as error:
        raise UsageError(str(error)) from None
    for problem in problems:
        print(f"{options.dataset} ({variant}): {problem}")
    if problems:
        print(data.instructions() if variant == "real" else "`paragone data prepare` renders it.")
        return FAILED
    print(f"{options.dataset} ({variant}): all there under {data.root}")
    return OK


def _placed(options: argparse.Namespace) -> Places:
    from bench.trial import Places

    return Places(
        options.data_root.resolve() if options.data_root else None,
        options.cache.resolve() if options.cache else None,
    )


def _stdout() -> Console:
    """A console for tables; where stdout is no terminal, wide enough for all their columns."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _report_problems(store: ResultStore, say: Callable[[str], None]) -> None:
    _, problems = store.load()
    for problem in problems:
        say(f"skipped {problem.path}: {problem.reason}")


if __name__ == "__main__":
    sys.exit(main())
