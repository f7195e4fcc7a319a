"""Damaged images and caches: refused, an errno, or bytes; with validation only the right bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from mutate import TARGETS

COUNTS = {"v5 bootstrap": 900, "v5 bootstrap laid out as EROFS": 900, "v6 bootstrap": 900, "inline bootstrap and TOC": 600,
          "batch blob": 60, "batch blob.meta": 60, "encrypted blob": 60, "zran layer": 50, "zran contexts": 100}  # fmt: skip
COUNT = 200
PEAK_KIB = 256 << 10

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def damaging(request: pytest.FixtureRequest, golden: Path) -> Iterator[dict[str, Future[Done]]]:
    """All targets that are asked for, as many at a time as there are processors."""

    def damage(target: str) -> Done:
        return subprocess.run(
            [sys.executable, Path(__file__).parent / "mutate.py", target, "1", str(COUNTS.get(target, COUNT)), golden],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    tests = [i for i in request.session.items if isinstance(i, pytest.Function) and i.path == Path(__file__)]
    targets = [i.callspec.params["target"] for i in tests if hasattr(i, "callspec")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {target: pool.submit(damage, target) for target in targets}


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_survived(target: str, damaging: dict[str, Future[Done]]) -> None:
    count = COUNTS.get(target, COUNT)
    done = damaging[target].result()
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["changed"] >= count // 2
    assert result["peak_kib"] <= PEAK_KIB


def test_there_are_enough_of_them() -> None:
    assert sum(COUNTS.get(t, COUNT) for t in TARGETS) >= 4000
