"""`nydusctl explain` in front of a daemon that serves an image."""

import json
import subprocess
import time
from pathlib import Path

from mounting import BIN, Mounts


def explain(sock: Path, *words: str) -> str:
    done = subprocess.run([BIN / "nydusctl", "explain", "--apisock", sock, *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_person_finds_the_file_and_a_program_the_ranges(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    sock = tmp_path / "s"
    daemon = mounts.nydusd(golden / "v6-zstd" / "boot", golden / "v6-zstd" / "blobs", args=("--apisock", sock))
    while not sock.exists():
        assert daemon.process.poll() is None, daemon.output
        time.sleep(0.01)
    size = len((daemon.mountpoint / "usr/bin/tool3").read_bytes())
    table = explain(sock, "--waited").splitlines()
    assert table[0].split() == ["time", "why", "file", "origin", "ms", "asked", "fetched", "status", "tries"]
    assert any("cold" in line and "/usr/bin/tool3" in line for line in table[1:]), table
    told = json.loads(explain(sock, "--json", "--slowest", "1", "--why", "cold"))
    (slowest,) = told["fetches"]
    assert slowest["files"] and slowest["latency_ms"] > 0 and slowest["asked"]["size"] >= size
    assert told["totals"]["cold"]["requests"] >= 1
    assert "/usr" not in explain(sock, "--no-files")
    assert daemon.stop() == 0


def test_no_daemon_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([BIN / "nydusctl", "explain", "--apisock", tmp_path / "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "none" in done.stderr
