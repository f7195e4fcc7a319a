"""A command line of nydus-bench becomes jobs, each composed and checked before the first one runs.

    words, recipes ─ plan_sweep ─► Sweep(axes, jobs, words for Hydra)

The round is the first axis, so that all settings are measured once before any is measured again.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from nydus_app.config.composition import compose_config, expand_word
from nydus_app.config.masking import holds_secret, is_reference
from nydus_app.config.registration import BENCH
from nydus_app.errors import ConfigError

MAX_JOBS = 10_000


class Sweep(NamedTuple):
    """`words` are Hydra's command line; `jobs` are their combinations without the round."""

    axes: list[str]
    jobs: list[list[str]]
    words: list[str]


def wants_sweep(words: Sequence[str], config_dir: str | None) -> bool:
    """Whether a recipe asks for many jobs (hydra.mode: MULTIRUN). Raises ConfigError."""
    if not any(word.startswith("+") for word in words) or any(len(expand_word(word)) > 1 for word in words):
        return False
    return _params(words, config_dir)[1]


def plan_sweep(words: Sequence[str], config_dir: str | None, rounds: int | None = None) -> Sweep:
    """Raises ConfigError: a wrong word, too many jobs, a secret in clear."""
    given = {_key(word): expand_word(word) for word in words}
    if "bench.round" in given:
        raise ConfigError("bench.round: nydus-bench counts the rounds itself; bench.rounds says how many")
    params, _ = _params([options[0] for options in given.values()], config_dir)
    options = {**{key: expand_word(f"{key}={value}") for key, value in params.items() if key not in given}, **given}
    jobs = [list(job) for job in _bounded(itertools.product(*options.values()))]
    first = compose_config(jobs[0], config_dir, BENCH)
    rounds = rounds or int(first.bench.rounds)
    if not 1 <= rounds <= 1000:
        raise ConfigError(f"bench.rounds={rounds}: 1 to 1000 are legal")
    count = f"bench.round={','.join(map(str, range(1, rounds + 1)))}"
    lines = [f"{key}={','.join(w.partition('=')[2] for w in ways)}" for key, ways in options.items()]
    return Sweep([key for key, ways in options.items() if len(ways) > 1], jobs, [count, *lines])


def _bounded(jobs: Iterator[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    for number, job in enumerate(jobs):
        if number == MAX_JOBS:
            raise ConfigError(f"a sweep of more than {MAX_JOBS} settings")
        yield job


def _key(word: str) -> str:
    return word.partition("=")[0]


def _params(words: Sequence[str], config_dir: str | None) -> tuple[dict[str, str], bool]:
    """What recipes put into hydra.sweeper.params, and whether they ask for a sweep."""
    hydra = compose_config(words, config_dir, BENCH, with_hydra=True).hydra
    params = OmegaConf.to_container(hydra.sweeper.get("params") or OmegaConf.create({}))
    assert isinstance(params, dict)
    return {str(k): str(v) for k, v in params.items()}, getattr(hydra.mode, "name", hydra.mode) == "MULTIRUN"


def refuse_literal_secrets(config: DictConfig) -> None:
    """Hydra stores a sweep's configuration in multirun.yaml. Raises ConfigError with the first key."""
    for key in _literal_secrets(OmegaConf.to_container(config, enum_to_str=True), ()):
        raise ConfigError(f"{key}: no secret in clear in a sweep, which writes it down; write {key}='${{oc.env:NAME}}'")


def _literal_secrets(node: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _literal_secrets(value, (*path, str(name)))
    elif isinstance(node, list):
        for value in node:
            yield from _literal_secrets(value, path)
    elif path and node and holds_secret(path, node) and not is_reference(node):
        yield ".".join(path)
