"""The rooms and the directions between them (docs/architecture.md), checked by import-linter."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nydusd_starts_without_the_heavy_ones() -> None:
    code = (
        "import sys; from nydus_app.cli.late_module import load_late; load_late('trio');"
        "import nydus_app.cli.nydusd, nydus_app.builder, nydus_app.transports.fusedev; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"hydra", "omegaconf", "yaml", "fastapi", "uvicorn", "pydantic", "pyfuse3", "trio._core"}


def test_a_late_module_is_the_module_once_it_is_used() -> None:
    """Also for who has it already, for submodules, and for several threads at once."""
    code = """
import sys, threading
from nydus_app.cli.late_module import load_late
load_late("trio"); load_late("trio"); load_late("no_such_module")
import trio
assert "no_such_module" not in sys.modules and "trio._core" not in sys.modules
found = []
threads = [threading.Thread(target=lambda: found.append(trio.run)) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
import trio._core, trio.lowlevel
assert found == [trio._core.run] * 4 and type(trio).__name__ != "_LateModule"
assert trio.run(trio.lowlevel.checkpoint) is None
try: trio.no_such_name
except AttributeError: print("right")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("right\n", "")
