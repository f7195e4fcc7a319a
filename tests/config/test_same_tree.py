"""200 classic command lines: nydusd's tree is the tree of its --print-overrides line through Hydra."""

import json
import random
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from mounting import BIN
from nydus_app.cli.nydusd import overrides_of
from nydus_app.config.classic_flags import parse
from nydus_app.config.composition import compose_config, to_tree
from nydus_app.config.masking import is_secret
from nydus_app.config.overrides import compose, format_words, parse_words, take_secrets_out
from nydus_app.config.recipe import format_recipe

NASTY = [
    "plain", "with blank", "it's", 'double"quote', "back\\slash", "trailing\\", "\\\\", "${oc.env:HOME}", "\\${x}",
    "\\\\${x}", "1e3", "true", "null", "0x10", "12", "a=b", "a,b", "[a]", "{a:b}", "(x)", "#no", "~/x", "ünïcödé", "a:b",
    "@", "%20", "*", "'", '"', "a\tb", "!x", "$HOME", "${", "}", "-5", "nan", "${a}'${b}", "\\'", "x\\'y", "~", "?",
]  # fmt: skip


def text(r: random.Random) -> str:
    return r.choice(["", "/"]) + "".join(r.sample(NASTY, r.randint(1, 3)))


def prefetch(r: random.Random, legacy: bool) -> dict:
    names = ("threads_count", "merging_size", "bandwidth_rate") if legacy else ("threads", "batch_size", "bandwidth_limit")
    values = {"enable": r.random() < 0.5, "prefetch_all": r.random() < 0.5}
    return values | {n: r.randint(1, 1000) for n in names if r.random() < 0.5}


def backend(r: random.Random, version: int) -> tuple[str, dict]:
    kind = r.choice(["localfs", "localfs", "localfs", "registry", "oss", "s3", "localdisk", *(["http-proxy"] if version == 2 else [])])
    http = {"timeout": r.randint(0, 90), "skip_verify": r.random() < 0.5, "ca_cert_files": [text(r)]}
    proxy = {"proxy": {"url": text(r), "fallback": r.random() < 0.5}} if r.random() < 0.5 else {}
    mirrors = {"mirrors": [{"host": text(r), "headers": {"X-Token": text(r)}}]} if r.random() < 0.3 else {}
    match kind:
        case "localfs":
            return kind, {"dir": text(r), "readahead": True, "alt_dirs": [text(r)] if r.random() < 0.3 else []}
        case "registry":
            return kind, {"host": text(r), "repo": text(r), "auth": text(r), **http, **proxy, **mirrors}
        case "oss":
            return kind, {"endpoint": text(r), "bucket_name": text(r), "access_key_secret": text(r), **http, **proxy}
        case "s3":
            return kind, {"endpoint": "", "region": text(r), "bucket_name": text(r), "access_key_id": text(r), **http}
        case "http-proxy":
            return kind, {"addr": "http://" + text(r), "path": text(r), **http, **proxy}
    return kind, {"device_path": text(r)}


def legacy(r: random.Random) -> dict:
    kind, config = backend(r, 1)
    cache = r.choice([None, {"type": ""}, {"type": "blobcache", "config": {"work_dir": text(r)}}, {"type": "dummycache"}])
    data: dict = {"device": {"backend": {"type": kind, "config": config}}, "mode": r.choice(["direct", "cached"])}
    if cache is not None:
        data["device"]["cache"] = cache
    for name in ("digest_validate", "enable_xattr", "iostats_files", "access_pattern", "latest_read_files"):
        if r.random() < 0.5:
            data[name] = r.random() < 0.5
    if r.random() < 0.5:
        data["fs_prefetch"] = prefetch(r, legacy=True)
    if r.random() < 0.5:
        data["amplify_io"] = r.choice([0, 4096, 1 << 20, 1 << 28])
    return data


def version_2(r: random.Random) -> dict:
    kind, config = backend(r, 2)
    data: dict = {"version": 2, "id": text(r), "backend": {"type": kind, kind: config}}
    data["cache"] = r.choice([{"type": ""}, {"type": "filecache", "filecache": {"work_dir": text(r)}}])
    data["cache"]["validate"] = r.random() < 0.5
    if r.random() < 0.5:
        data["cache"]["prefetch"] = prefetch(r, legacy=False)
    data["rafs"] = {"mode": "direct"}
    if r.random() < 0.2:
        data["overlay"] = {"upper_dir": text(r), "work_dir": text(r)}
    if r.random() < 0.2:
        data["external_backends"] = [{"type": text(r), "patch": {}, "config": {"auth": text(r), "host": text(r)}}]
    if r.random() < 0.7:
        data["rafs"] |= {"batch_size": r.randint(0, 1 << 28), "prefetch": prefetch(r, legacy=False)}
    return data


def toml(value: object) -> str:
    """Enough of TOML for the files above: inline tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def image_words(r: random.Random, tmp_path: Path) -> list[str]:
    words: list[str] = []
    if r.random() < 0.85:
        words += ["--bootstrap=" + text(r)]
        if r.random() < 0.3:
            words += [f"--localfs-dir={text(r)}"]
        else:
            data = legacy(r) if r.random() < 0.5 else version_2(r)
            path = tmp_path / "config"
            as_toml = "version" in data and r.random() < 0.5
            path.write_text("\n".join(f"{k} = {toml(v)}" for k, v in data.items()) if as_toml else json.dumps(data))
            words += ["--config", str(path)]
    elif r.random() < 0.5:
        words += [f"--shared-dir={text(r)}"]
    return words


def command_line(r: random.Random, tmp_path: Path) -> list[str]:
    optional = [
        [f"--apisock={text(r)}"], ["-l", r.choice(["trace", "debug", "warn"])], [f"--log-file={text(r)}"],
        ["--log-rotation-size", str(r.randint(0, 99))], ["--rlimit-nofile", str(r.randint(0, 99999))], ["--upgrade"],
        [f"--id={text(r)}", f"--supervisor={text(r)}"],
    ]  # fmt: skip
    mode = r.choice(["fuse", "fuse", "fuse", "", "", "virtiofs", "singleton"])
    match mode:
        case "singleton":
            words = [f"--fscache={text(r)}", "--fscache-tag", "t"] if r.random() < 0.5 else [f"--config={text(r)}"]
            optional += [["--fscache-threads", str(r.randint(1, 1024))]]
        case "virtiofs":
            words = [f"--sock={text(r)}", *image_words(r, tmp_path)]
            optional += [["--hybrid-mode"], [f"--virtual-mountpoint={text(r)}"]]
        case _:
            words = [f"--mountpoint={text(r)}", *image_words(r, tmp_path)]
            optional += [
                ["--writable"], ["--thread-num", str(r.randint(1, 1024))], ["--failover-policy", r.choice(["none", "flush"])],
                [f"--virtual-mountpoint={text(r)}"],
            ]  # fmt: skip
    for option in r.sample(optional, r.randint(0, 6)):
        words += option
    return [*([mode] if mode else []), *words]


@pytest.mark.parametrize("seed", range(200))
def test_both_ways_give_one_tree(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = command_line(random.Random(seed), tmp_path)
    overrides = overrides_of(parse(words))
    tree = compose(overrides)
    _, environment = take_secrets_out(overrides)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = format_words(overrides)
    for name, secret in environment.items():
        assert "${oc.env:" + name + "}" in " ".join(line)
        assert not any(w.endswith(f"='{secret}'") for w in line if is_secret(tuple(w.partition("=")[0].split("."))))
    assert to_tree(compose_config(line)) == tree
    assert compose(parse_words(line)) == tree


def test_the_printed_line_is_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands themselves: nydusd prints, a shell splits, nydus-run prints its tree."""
    words = ["fuse", "--mountpoint=/m it's", "--bootstrap=/b\"$HOME`x`", "--localfs-dir=/d ${oc.env:HOME}\\", "--id=#1", "--supervisor=a;b"]
    printed = subprocess.run([BIN / "nydusd", *words, "--print-overrides"], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("nydus-run mode=fuse ") and printed.count("\n") == 1
    shell = subprocess.run(
        ["sh", "-c", f"{BIN}/{printed.strip()} --cfg job --resolve"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    want = compose(overrides_of(parse(words)))
    assert yaml.safe_load(shell.stdout) == json.loads(json.dumps(asdict(want), default=lambda e: e.name))


@pytest.mark.parametrize("seed", range(20))
def test_a_printed_recipe_composes_to_the_same_tree(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = overrides_of(parse(command_line(random.Random(1000 + seed), tmp_path)))
    _, environment = take_secrets_out(overrides)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(format_recipe(overrides))
    assert asdict(to_tree(compose_config(["+recipe=mine"], str(tmp_path)))) == asdict(compose(overrides))
