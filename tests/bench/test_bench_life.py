"""Real measurements of a tiny image: every row, a sweep, a peer that fails, Ctrl-C in the middle of a row."""

import csv
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from mounting import BIN, DEADLINE_S
from nydus_app.bench.pictures import can_draw
from nydus_app.config.bench_tree import Row
from nydus_app.linux.mount import mounts

pytestmark = pytest.mark.mounts

ROOT = Path(__file__).parent.parent.parent
IMAGE = ROOT / "tests/images/v6"
PEER = ROOT.parent / "shared/peers/nydusd"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A short measurement whose every file lies below tmp_path."""
    (tmp_path / "work").mkdir()
    return [
        str(BIN / "nydus-bench"), f"backend.dir={IMAGE}/blobs", f"bootstrap={IMAGE}/boot", "bench.rounds=1",
        "bench.seconds=0.01", f"bench.work_dir={tmp_path}/work", f"bench.output={tmp_path}/out",
        "bench.formats=[csv,json]",
    ]  # fmt: skip


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, **environment}
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=known)


def check_nothing_left(tmp_path: Path) -> None:
    assert list((tmp_path / "work").iterdir()) == []
    assert [m.path for m in mounts() if m.path.startswith(str(tmp_path))] == []


def test_who_stands_beside(words: list[str], tmp_path: Path) -> None:
    """The largest file of the image is c/three."""
    (tmp_path / "tree/c").mkdir(parents=True)
    (tmp_path / "tree/c/three").write_bytes(bytes(1 << 20))
    beside = [f"bench.peer={PEER}"] if PEER.exists() else []
    done = run([*words, *beside, f"bench.tree={tmp_path}/tree", "bench.rows=[warm_seq,stat]", "bench.program=nydus_run"])
    assert done.returncode == 0, done.stderr
    assert "note: native has other content than the image: 1 files" in done.stdout
    data = json.loads((tmp_path / "out/results.json").read_text())
    assert {r["name"] for r in data["references"].values()} == {"native", *(["nydusd"] if beside else [])}
    check_nothing_left(tmp_path)


def test_all_rows(words: list[str], tmp_path: Path) -> None:
    done = run([*words, "bench=all", "mode.data_path=fuse", "bench.formats=[json,png]"])
    assert done.returncode == 0, done.stderr
    assert can_draw() or "nydus-app[bench]" in done.stderr
    data = json.loads((tmp_path / "out/results.json").read_text())
    (ours,) = data["ours"]
    measured = [row.name for row in Row if row is not Row.health]
    assert set(ours["figures"]) == set(measured)
    assert all(spread["median"] > 0 for spread in ours["figures"].values())
    assert ours["serves"].startswith("fuse")
    assert str(tmp_path) not in json.dumps(data)
    assert [line.split()[0] for line in done.stdout.splitlines()[1 : 1 + len(measured)]] == measured
    check_nothing_left(tmp_path)


def test_a_sweep_is_joined(words: list[str], tmp_path: Path) -> None:
    sweep = ["-m", "cache.validate=true,false", "rafs.batch_size=0,1048576", "bench=cold_small"]
    sweep += ["mode.data_path=fuse", "bench.formats=[csv,json,png,svg]", f"bench.report={tmp_path}/page.md"]
    done = run([*words, *sweep])
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    head, *lines = done.stdout.splitlines()[:5]
    assert head.split() == ["validate", "batch_size", "cold_small,", "files/s"]
    settings = [[v, b] for v in ("true", "false") for b in ("0", "1048576")]
    assert [line.split()[:2] for line in lines] == settings
    with open(out / "results.csv", newline="") as f:
        table = list(csv.DictReader(f))
    assert [[x["cache.validate"], x["rafs.batch_size"]] for x in table] == settings
    data = json.loads((out / "results.json").read_text())
    assert [list(c["settings"].values()) for c in data["ours"]] == settings
    assert len(list((out / "jobs").glob("*/result.json"))) == 4
    files = {"jobs", "multirun.yaml", "run.json", "results.csv", "results.json"}
    pictures = {"results.png", "results.svg"} if can_draw() else set()
    assert {p.name for p in out.iterdir()} == files | pictures
    page = (tmp_path / "page.md").read_text() + (tmp_path / "page/results.json").read_text()
    assert str(tmp_path) not in page and str(ROOT) not in page
    check_nothing_left(tmp_path)


def test_joblib_launches_jobs_that_wait_for_each_other(words: list[str], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", exc_type=ImportError)
    done = run([*words, "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "mode.threads=1,2", "bench=start"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["unit", "threads=1", "threads=2"]
    check_nothing_left(tmp_path)


def test_secrets_of_a_sweep_stay_in_the_environment(words: list[str], tmp_path: Path) -> None:
    secret = "c2VjcmV0LXBhc3N3b3Jk"
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "conf/recipe/mine.yaml").write_text("# @package _global_\ncache:\n  encryption_key: ${oc.env:THE_KEY}\n")
    sweep = ["-m", "--config-dir", str(tmp_path / "conf"), "+recipe=mine", "bench=start"]
    done = run([*words, *sweep], THE_KEY=secret)
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]
    (tmp_path / "conf/recipe/mine.yaml").write_text(f"# @package _global_\ncache:\n  encryption_key: {secret}\n")
    done = run([*words, *sweep, f"bench.output={tmp_path}/other"])
    assert done.returncode == 2
    assert "cache.encryption_key" in done.stderr and secret not in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_peer_that_ends_is_one_line(words: list[str], tmp_path: Path) -> None:
    peer = tmp_path / "nydusd"
    peer.write_text("#!/bin/sh\necho some words\necho the last words\nexit 3\n")
    peer.chmod(0o755)
    done = run([*words, "bench=start", f"bench.peer={peer}"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nydus-bench: nydusd: ended with 3: the last words\n"
    assert not (tmp_path / "out").exists()
    done = run([*words, f"bench.output={tmp_path}/sweep", "-m", "bench=start", f"bench.peer={peer}"])
    assert done.returncode == 1
    assert "nydus-bench: nydusd: ended with 3: the last words\n" in done.stderr
    check_nothing_left(tmp_path)


@pytest.mark.parametrize(("number", "flags"), [(signal.SIGINT, []), (signal.SIGTERM, ["-m", "mode.threads=1,2"])])
def test_a_signal_in_the_middle_of_a_row_leaves_nothing(
    number: int, flags: list[str], words: list[str], tmp_path: Path
) -> None:
    terminal, theirs = pty.openpty()
    with open(tmp_path / "stdout", "wb") as out:
        process = subprocess.Popen([*words, *flags, "bench=stat", "bench.seconds=600"], stdout=out, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while b"nydus-app: stat" not in said:  # the progress line of a terminal
            said += os.read(terminal, 4096)
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 130
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert b"Traceback" not in said
    check_nothing_left(tmp_path)
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
