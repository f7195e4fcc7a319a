"""`nydus-bench`: Hydra composes the trees, the checks look at all of them, then one job after the other runs."""

import argparse
import gc
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nydus_app.bench.job import measure_job, remove_claims
from nydus_app.bench.joined import join
from nydus_app.bench.output import Run, publish
from nydus_app.bench.probe import find_compiler
from nydus_app.bench.result import write_result
from nydus_app.bench.signals import stop_on_sigterm
from nydus_app.bench.sweep import results_in, run_job, settings_of
from nydus_app.cli.bench_help import help_text
from nydus_app.cli.ending import guarded
from nydus_app.config.bench_check import check_bench
from nydus_app.config.bench_tree import BenchTree
from nydus_app.config.composition import compose_config, explain, printed, recipes, sweep_purpose, to_tree
from nydus_app.config.quoting import quote
from nydus_app.config.registration import BENCH, CONFIG_PATH, register
from nydus_app.config.sweep_plan import Sweep, plan_sweep, refuse_literal_secrets, wants_sweep
from nydus_app.errors import ConfigError, NydusError
from nydus_app.version import __version__

SHOWN_AS = {
    "bootstrap": "$BOOTSTRAP",
    "backend.dir": "$BLOBS",
    "bench.peer": "$PEER",
    "bench.tree": "$TREE",
    "bench.erofs": "$EROFS",
}
"""Variables that stand for the paths of a host in a command that others will read."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (see nydus-bench --help)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="nydus-bench", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job",))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-cd", "--config-dir")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    return parser.parse_intermixed_args(list(arguments))


def run(arguments: Sequence[str]) -> int:
    gc.enable()  # no daemon: a sweep runs for hours
    asked = _parse(arguments)
    if asked.help:
        print(help_text(recipes("sweep")), end="")
        return 0
    if asked.version:
        print(f"nydus-bench {__version__}")
        return 0
    if asked.config_dir is not None:
        asked.config_dir = os.path.abspath(asked.config_dir)
        if not os.path.isdir(asked.config_dir):
            raise ConfigError(f"--config-dir {asked.config_dir}: no such directory")
    if asked.cfg:
        print(printed(compose_config(asked.words, asked.config_dir, BENCH), resolve=asked.resolve), end="")
        return 0
    if asked.multirun or wants_sweep(asked.words, asked.config_dir):
        return _sweep(asked)
    return _single(asked)


def _checked(config: DictConfig) -> BenchTree:
    tree = to_tree(config, BENCH)
    assert isinstance(tree, BenchTree)
    check_bench(tree)
    return tree


def _single(asked: argparse.Namespace) -> int:
    tree = _checked(compose_config(asked.words, asked.config_dir, BENCH))
    if tree.bench.round is not None:
        raise ConfigError("bench.round: nydus-bench counts the rounds itself; bench.rounds says how many")
    find_compiler()
    if asked.dry_run:
        print(f"would measure {', '.join(row.name for row in tree.bench.rows)}; nothing was done")
        return 0
    folder = _make_output(tree)
    try:
        result = measure_job(tree, settings_of(asked.words))
        write_result(folder, result)
    finally:
        with suppress(OSError):
            os.rmdir(folder)  # goes only while nothing is in it
    publish(join([result]), _run_of(asked, tree, []), folder)
    return 0


def _sweep(asked: argparse.Namespace) -> int:
    plan = plan_sweep(asked.words, asked.config_dir)
    trees = []
    for words in plan.jobs:
        config = compose_config(words, asked.config_dir, BENCH)
        refuse_literal_secrets(config)
        trees.append(_checked(config))
    _check_alike(trees)
    find_compiler()
    if asked.dry_run:
        for words in plan.jobs:
            print(shlex.join(["nydus-bench", *words]))
        print(f"would measure {len(plan.jobs)} settings {trees[0].bench.rounds} times; nothing was done")
        return 0
    folder = _make_output(trees[0])
    _run_of(asked, trees[0], plan.axes).write(folder)
    try:
        _call_hydra(plan, asked, folder)
    finally:
        remove_claims(folder)
    return _status(folder)


def _check_alike(trees: Sequence[BenchTree]) -> None:
    """One table, one place: these keys are of the sweep, not of its jobs."""
    for name in ("rounds", "output", "formats", "report"):
        if len({str(getattr(tree.bench, name)) for tree in trees}) > 1:
            raise ConfigError(f"bench.{name}: it belongs to the whole sweep and takes one value")


def _make_output(tree: BenchTree) -> str:
    folder = tree.bench.output or os.path.join("bench-results", time.strftime("%Y-%m-%d_%H-%M-%S"))
    folder = os.path.abspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        if os.listdir(folder):
            raise ConfigError(f"bench.output {folder}: it is not empty, and results of two runs would mix")
    except OSError as e:
        raise ConfigError(f"bench.output {folder}: {e.strerror}") from None
    return folder


def _run_of(asked: argparse.Namespace, tree: BenchTree, axes: list[str]) -> Run:
    sweep = next((w.partition("=")[2] for w in asked.words if w.startswith("+sweep=")), None)
    flags = ["-m"] if asked.multirun else []
    return Run(
        name=sweep if sweep and sweep.isidentifier() else "results",
        purpose=sweep_purpose(sweep, asked.config_dir) if sweep else "",
        command=" ".join(["nydus-bench", *flags, *map(_for_shell, _shown(asked.words))]),
        axes=axes,
        formats=[f.name for f in tree.bench.formats],
        report=os.path.abspath(tree.bench.report) if tree.bench.report else None,
    )


def _shown(words: Sequence[str]) -> list[str]:
    """The words without what is of this host alone; the keys that say where results go are left out."""
    shown = []
    for word in words:
        key, _, value = word.partition("=")
        if key in ("bench.output", "bench.report", "bench.work_dir"):
            continue
        if "/" in value.strip("'\"")[:1] or key in SHOWN_AS:
            value = SHOWN_AS.get(key, f"${key.rpartition('.')[2].upper()}")
        elif settings_of([word]) == {}:
            value = "***"
        shown.append(f"{key}={value}" if "=" in word else word)
    return shown


def _for_shell(word: str) -> str:
    return word if "=$" in word and " " not in word and "'" not in word else shlex.quote(word)


def _call_hydra(plan: Sweep, asked: argparse.Namespace, folder: str) -> None:
    """Raises ConfigError for what only Hydra finds wrong: a launcher's options."""
    import hydra

    register()
    flags = ["--config-dir", asked.config_dir] if asked.config_dir else []
    settings = [f"hydra.sweep.dir={quote(folder)}", "hydra.sweeper.params=null"]
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0][0], "--multirun", *flags, *settings, *plan.words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=CONFIG_PATH, config_name=BENCH.primary, version_base=None)(run_job)()
    except (HydraException, OmegaConfBaseException) as e:
        raise ConfigError(explain(e, plan.words, BENCH)) from None
    finally:
        sys.argv = before[0]
        os.environ.pop("HYDRA_FULL_ERROR")
        if before[1] is not None:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _status(folder: str) -> int:
    results = results_in(folder)
    if not results:
        raise NydusError(f"the launcher ran no job that left a result in {folder}")
    return 1 if any(r.error is not None for r in results) else 0


def main() -> None:
    stop_on_sigterm()
    guarded("nydus-bench:", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
