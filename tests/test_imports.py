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
    code = "import sys, nydus_app.cli.nydusd, nydus_app.builder, nydus_app.transports.fusedev; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"hydra", "omegaconf", "yaml", "fastapi", "uvicorn", "pydantic", "pyfuse3"}
