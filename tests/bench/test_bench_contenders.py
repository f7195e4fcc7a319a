"""The command lines that are measured mean the tree that was asked for, and show no secret."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from nydus_app.bench.contenders import Daemon, Place
from nydus_app.config.bench_tree import Program
from nydus_app.config.check import check
from nydus_app.config.classic_flags import parse, to_overrides
from nydus_app.config.difference import difference
from nydus_app.config.overrides import Override, compose, parse_overrides, parse_words
from nydus_app.config.tree import Tree

LOCAL = ["backend=localfs", "backend.dir='/b d'", "bootstrap=/boot", "mountpoint=/mnt"]
REGISTRY = ["backend=registry", "backend.host=h", "backend.repo=r", "bootstrap=/boot", "mountpoint=/mnt"]
SECRET = "dXNlcjpzZWNyZXQtcGFzc3dk"  # user:secret-passwd
WAYS = [
    "cache=dummycache", "cache.validate=false", "rafs.validate=false", "rafs.batch_size=0", "mode.threads=7",
    "mode.data_path=erofs", "mode.failover_policy=flush", "log.level=warn", "rafs.enable_xattr=false",
    "prefetch.enable=true", "prefetch.threads=3", "daemon.rlimit_nofile=0", "log.file=/l", "rafs.iostats_files=true",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(*(str(tmp_path / name) for name in ("mnt", "cache", "run")))
    os.mkdir(place.run)
    return place


def tree_of(words: list[str]) -> Tree:
    tree = compose(parse_words(words))
    check(tree)
    return tree


@pytest.mark.parametrize("seed", range(20))
def test_both_programs_get_the_tree(seed: int, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(seed).sample(WAYS, seed % 8)
    secrets = [f"backend.auth={SECRET}", f"backend.mirrors=[{{host:m,headers:{{A:{SECRET}}}}}]"]
    base = LOCAL if seed % 2 else [*REGISTRY, *secrets]
    tree = tree_of([*base, *chosen])
    wanted = replace(tree, mountpoint=place.mnt)
    if hasattr(tree.cache, "work_dir"):
        wanted.cache = replace(tree.cache, work_dir=place.cache)
    for program in Program:
        words, environment = Daemon("ours", tree, validate=True, by=program).command(place)
        assert SECRET not in " ".join(words)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if program is Program.nydus_run:
            assert compose(parse_words(words[3:])) == wanted
        else:
            overrides = [*to_overrides(parse(words[3:])), *parse_overrides(environment["NYDUS_OVERRIDES"])]
            assert compose(overrides) == wanted
            assert os.stat(Path(place.run) / "config.json").st_mode & 0o077 == 0


def test_a_peer_gets_the_same_flags_and_nothing_else(place: Place) -> None:
    tree = tree_of([*LOCAL, "mode.threads=2", "rafs.batch_size=4096", "cache.validate=false", "rafs.validate=false"])
    words, environment = Daemon("nydusd", tree, validate=False, program="/peer").command(place)
    assert words[0] == "/peer" and environment == {}
    seen = compose(to_overrides(parse(words[1:])))
    assert (seen.mode.threads, seen.rafs.batch_size, seen.cache.validate) == (2, 4096, False)
    assert (seen.backend, seen.bootstrap, seen.cache.work_dir) == (tree.backend, "/boot", place.cache)


def test_no_difference_is_no_override() -> None:
    tree = tree_of(LOCAL)
    assert difference(tree, replace(tree)) == []
    assert difference(tree, replace(tree, prefetch_files="/p")) == [Override("prefetch_files", "/p")]
