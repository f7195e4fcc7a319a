"""Overrides without Hydra: strict, the same tree as Hydra's, and no secret in any text."""

import subprocess
import sys

import pytest

from nydus_app.config.composition import compose_config, to_tree
from nydus_app.config.overrides import (
    Override,
    compose,
    format_words,
    parse_overrides,
    parse_words,
    take_secrets_out,
)
from nydus_app.config.tree import Blobcache, FailoverPolicy, LogLevel, Registry
from nydus_app.errors import ConfigError

SECRET = "c2VjcmV0LXBhc3N3b3Jk"
BASE = ["bootstrap='/b'", "mountpoint='/m'", "backend.dir='/d'"]
REGISTRY = ["backend=registry", "backend.host=h", "backend.repo=r"]


@pytest.mark.parametrize(
    "words",
    [
        ["cache.prefetch.threads=3", "cache.prefetch={enable:true}"],
        ["rafs={batch_size:5}", "rafs={validate:false}"],
        ["backend={dir:/x}"],
        ["mode={threads:3}", "mode.writable=true"],
        ["mode='fuse'", 'cache="dummycache"'],
        ["backend=oss", "backend=localfs"],
        ["backend.dir=true", "rafs.id=12"],
        ["backend.dir=1e3", "rafs.id=1.50"],
        ["backend.dir="],
        ["backend.alt_dirs=[a,'b c',3]"],
        ["log.file=null", "mode.threads='4'", "mode.writable=yes", "cache.validate=1"],
        ["log.level=debug", "mode.failover_policy=none"],
        [*REGISTRY, "backend.proxy={url:x}", "backend.proxy.fallback=false"],
        [*REGISTRY, "backend.proxy.fallback=false", "backend.proxy={url:x}"],
        [*REGISTRY, "backend.mirrors=[{host:a,headers:{X-A:b}},{host:c}]"],
        ["external_backends=[{type:x,patch:{},config:{a:b}}]"],
        ["mode.threads=${oc.env:NYDUS_TEST_THREE}", "backend.dir=/a/${oc.env:NYDUS_TEST_THREE}/b"],
        ["backend.alt_dirs=[${oc.env:NYDUS_TEST_THREE},b]", "rafs.id=$${oc.env:NYDUS_TEST_NONE,x}"],
    ],
    ids=" ".join,
)
def test_both_ways_give_one_tree(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYDUS_TEST_THREE", "3")
    base = [w for w in BASE if not (w.startswith("backend") and words[0] == REGISTRY[0])]
    assert compose(parse_words([*base, *words])) == to_tree(compose_config([*base, *words]))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backend.dri=/x"], ["backend.dri", "did you mean `backend.dir`"]),
        (["bakend=localfs"], ["bakend", "did you mean `backend`"]),
        (["cache.prefetch={treads:3}"], ["cache.prefetch.treads", "did you mean `cache.prefetch.threads`"]),
        (["backend.dir.x=3"], ["backend.dir.x", "no such key"]),
        (["mode=fuze"], ["mode=fuze", "did you mean `fuse`", "virtiofs"]),
        (["mode=[fuse]"], ["mode", "no such choice"]),
        (["backend=null"], ["backend", "no such choice"]),
        (["rafs=null"], ["rafs", "a dictionary is wanted, not null"]),
        (["mode.threads=many"], ["mode.threads=many", "whole number"]),
        (["mode.threads=1.0"], ["mode.threads=1.0", "whole number"]),
        (["mode.threads=true"], ["mode.threads", "whole number"]),
        (["cache.validate=maybe"], ["cache.validate=maybe", "true or false"]),
        (["log.level=loud"], ["log.level=loud", "trace, debug, info, warn, error"]),
        (["backend.dir=[a]"], ["backend.dir", "a text is wanted, not a list"]),
        (["backend.dir=null"], ["backend.dir", "text"]),
        (["backend.alt_dirs=/x"], ["backend.alt_dirs", "a list"]),
        (["+backend.dir=/x"], ["+backend.dir", "added"]),
        (["~backend.dir"], ["key=value"]),
        (["~backend.dir=/x"], ["removed"]),
        (["backend.dir"], ["backend.dir", "key=value"]),
        (["backend.dir=/x=y"], ["backend.dir", "'='", "quote"]),
        (["backend.dir='/x"], ["backend.dir", "closing '"]),
        (["backend.dir='${nope}'"], ["backend.dir", "oc.env"]),
        (["backend.dir='${oc.env:NYDUS_NO_SUCH}'"], ["backend.dir", "NYDUS_NO_SUCH", "not set"]),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else None,
)
def test_what_is_wrong_is_named(words: list[str], said: list[str]) -> None:
    with pytest.raises(ConfigError) as wrong:
        compose(parse_words(words))
    for text in said:
        assert text in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    "word",
    [
        f"backend.auth=[{SECRET}]",
        f"backend.auth={{a:{SECRET}}}",
        f"backend.proxy='http://u:{SECRET}@p'",
        f"backend.proxy=['http://u:{SECRET}@p']",
        f"backend.mirrors={{headers:{{A:{SECRET}}}}}",
        f"backend.mirrors=[{{headers:{SECRET}}}]",
        f"backend.mirrors=[{{headers:{{A:[{SECRET}]}}}}]",
        f"backend.mirrors='http://{SECRET}'",
        f"backend.auth='{SECRET}",
        f"={SECRET}",
    ],
)
def test_errors_show_no_secret(word: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        compose(parse_words([*REGISTRY, word]))
    assert SECRET not in str(wrong.value)


def test_the_environment_gives_words_as_a_shell_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_DIR", "/a b")
    found = parse_overrides("""  "backend.dir='${oc.env:THE_DIR}'" log.level=debug\tmode.failover_policy=flush """)
    tree = compose(found)
    assert tree.backend.dir == "/a b"
    assert tree.log.level is LogLevel.debug
    assert tree.mode.failover_policy is FailoverPolicy.flush
    assert parse_overrides("") == []
    with pytest.raises(ConfigError, match="NYDUS_OVERRIDES"):
        parse_overrides("'backend.dir=x")


def test_choices_come_first_and_the_last_value_stays() -> None:
    tree = compose([Override("cache.work_dir", "/1"), Override("cache", "blobcache"), Override("cache.work_dir", "/2")])
    assert tree.cache == Blobcache(work_dir="/2")


def test_secrets_become_references(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"X-A": SECRET + "1", "X_A": SECRET + "2", "x-a": SECRET + "1"}
    given = [
        Override("backend", "registry"),
        Override("backend.host", "h"),
        Override("backend.repo", "r"),
        Override("backend.auth", SECRET),
        Override("backend.registry_token", None),
        Override("backend.proxy.url", f"http://u:{SECRET}@p"),
        Override("backend.proxy.ping_url", f"http://u:{SECRET}@ping"),
        Override("backend.mirrors", [{"host": "m", "headers": headers}]),
        Override("cache.encryption_key", ""),
    ]
    words = format_words(given)
    assert SECRET not in " ".join(words)
    assert "backend.auth='${oc.env:NYDUS_BACKEND_AUTH}'" in words
    _, environment = take_secrets_out(given)
    assert environment["NYDUS_BACKEND_AUTH"] == SECRET
    assert sorted(environment.values()) == sorted(
        [SECRET, f"http://u:{SECRET}@p", f"http://u:{SECRET}@ping", SECRET + "1", SECRET + "2"]
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tree = compose(parse_words(words))
    assert isinstance(tree.backend, Registry)
    assert tree.backend.mirrors[0].headers == headers
    assert tree == compose(given)


def test_a_tree_is_composed_without_hydra() -> None:
    code = """
import sys, nydus_app.cli.nydusd as n
n.compose(n.overrides_of(n.parse(["-M", "/m", "-B", "/b", "-D", "/d"])))
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"hydra", "omegaconf", "yaml", "trio", "pyfuse3"} & set(done.stdout.split())
