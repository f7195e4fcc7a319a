"""The two functions that Hydra calls: the task of a job, and the callback that joins all jobs of a sweep.

A job never raises what the others would suffer from: what went wrong stands in its result.
"""

import glob
import json
import os
import sys
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from nydus_app.bench.job import measure_job
from nydus_app.bench.joined import join
from nydus_app.bench.output import Run, publish
from nydus_app.bench.result import NAME, Result, read_result, write_result
from nydus_app.bench.signals import stop_on_sigterm
from nydus_app.config.bench_tree import BenchTree
from nydus_app.config.composition import to_tree
from nydus_app.config.masking import is_secret
from nydus_app.config.registration import BENCH
from nydus_app.errors import NydusError

JOBS = "jobs"
TRUTH = {"True": "true", "False": "false"}


def run_job(config: DictConfig) -> None:
    """The task: `jobs/<number>/result.json` in the sweep's directory."""
    stop_on_sigterm()
    hydra = HydraConfig.get()
    settings = settings_of(list(hydra.overrides.task))
    folder = os.path.join(hydra.sweep.dir, str(hydra.sweep.subdir))
    shown = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in settings.items() if k in _axes(hydra.sweep.dir))
    print(f"nydus-bench: job {hydra.job.num + 1}: {shown}", file=sys.stderr)
    try:
        tree = to_tree(config, BENCH)
        assert isinstance(tree, BenchTree)
        result = measure_job(tree, settings, sweep_dir=hydra.sweep.dir)
    except NydusError as e:
        result = Result(settings=settings, error=" ".join(str(e).split()))
    write_result(folder, result)


def settings_of(words: list[str]) -> dict[str, str]:
    """Override words by key, truth values as they are written in YAML; secrets are left out."""
    pairs = (word.partition("=")[::2] for word in words)
    return {key: TRUTH.get(value, value) for key, value in pairs if not is_secret(tuple(key.split(".")))}


def _axes(folder: str) -> list[str]:
    with open(os.path.join(folder, "run.json"), encoding="utf-8") as f:
        found = json.load(f)
    return [*found["axes"], "bench.round"]


class JoinResults(Callback):
    """Whatever launcher ran the jobs: their results lie in the sweep's directory."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        join_folder(config.hydra.sweep.dir)


def join_folder(folder: str) -> None:
    """Join the results in a sweep's directory as its `run.json` says."""
    with open(os.path.join(folder, "run.json"), encoding="utf-8") as f:
        run = Run(**json.load(f))
    results = results_in(folder)
    publish(join(results, run.axes), run, folder)


def results_in(folder: str) -> list[Result]:
    """Those of `jobs/*`, in the order of their numbers."""
    paths = glob.glob(os.path.join(glob.escape(folder), JOBS, "*", NAME))
    return [read_result(p) for p in sorted(paths, key=lambda p: int(os.path.basename(os.path.dirname(p))))]
