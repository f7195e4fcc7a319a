"""What a figure was measured on: facts that a reader needs, nothing that names the host."""

import os
import platform
import subprocess

from nydus_app.version import __version__


def describe_machine(peer: str | None) -> dict[str, str]:
    facts = {
        "processor": _cpu_model(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "nydus-app": __version__,
    }
    if peer is not None:
        facts["peer"] = _peer_version(peer)
    return facts


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Processor"):
                return " ".join(value.split())
    return platform.machine()


def _peer_version(peer: str) -> str:
    """`nydusd --version` has a line `Version: v2.4.4`."""
    try:
        said = subprocess.run([peer, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    versions = [line.split(":", 1)[1].strip() for line in said.splitlines() if line.strip().startswith("Version:")]
    return f"nydusd {versions[0]}" if versions else "unknown"
