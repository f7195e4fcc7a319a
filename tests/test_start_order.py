"""The files of a start are asked for before the interpreter comes to them."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nydus_app.cli.ahead import ORDER
from page_cache import cached, evict

ROOT = Path(__file__).parent.parent


@pytest.mark.mounts
def test_what_a_start_reads_is_on_the_list() -> None:
    """Nine tenths of it: which modules are extensions differs between builds of Python."""
    done = subprocess.run([ROOT / "scripts/start_order"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    read, asked = set(done.stdout.split()), set(Path(ORDER).read_text().split())
    assert len(read & asked) > 0.9 * len(read), f"missing (scripts/start_order writes the list): {sorted(read - asked)}"
    assert len(read & asked) > 0.85 * len(asked), f"no longer read: {sorted(asked - read)}"


def test_byte_code_and_extensions_come_into_the_page_cache(tmp_path: Path) -> None:
    """And nobody waits for it: standard output is closed by the process that asks."""
    import nydus_app.formats.rafs.v5 as module

    file = str(module.__cached__)
    evict(file)
    code = "from nydus_app.cli.ahead import ask_ahead; ask_ahead()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    deadline = time.monotonic() + 30
    while not cached(file):
        assert time.monotonic() < deadline
        time.sleep(0.005)
