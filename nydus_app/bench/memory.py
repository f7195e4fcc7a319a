"""Memory of a process and all its descendants (`proc_pid_smaps_rollup`: Pss, shared pages in parts)."""

import os


def tree_pss_bytes(pid: int) -> int:
    """0 where the kernel tells nothing; processes that end meanwhile count nothing."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent(int(name)), []).append(int(name))
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        total += _pss_bytes(one)
    return total


def _parent(pid: int) -> int:
    """Field 4 of stat, behind the name in parentheses, which may itself hold any character."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return int(f.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as f:
            return next((int(line.split()[1]) * 1024 for line in f if line.startswith(b"Pss:")), 0)
    except OSError:
        return 0
