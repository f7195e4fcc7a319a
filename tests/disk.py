"""Disks with a GPT, made by sfdisk as nydus-image's users make them."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

SECTOR = 512
ALIGNED = 2048
BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


class Wanted(NamedTuple):
    """A partition; `guid` is 32 hexadecimal digits."""

    name: str
    content: bytes
    type: str = LINUX
    guid: str | None = None


def blob_partition(blob: Path, *, basic: bool = False) -> Wanted:
    """Under the name that nydusd finds a blob by: digits in name and GUID, or a half of them only."""
    name, content = blob.name, blob.read_bytes()
    return Wanted(name[:32], content, BASIC_DATA) if basic else Wanted(name[:32], content, LINUX, name[32:])


def make_disk(path: Path, partitions: Sequence[Wanted]) -> Path:
    if (sfdisk := shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin")) is None:
        pytest.skip("sfdisk (Debian's fdisk) is not here")
    script, start = ["label: gpt", "unit: sectors"], ALIGNED
    with open(path, "wb") as disk:
        for wanted in partitions:
            sectors = -(-len(wanted.content) // SECTOR)
            guid = f", uuid={_dashed(wanted.guid)}" if wanted.guid else ""
            script.append(f'start={start}, size={sectors}, type={wanted.type}, name="{wanted.name}"{guid}')
            disk.seek(start * SECTOR)
            disk.write(wanted.content)
            start += -(-sectors // ALIGNED) * ALIGNED
        disk.truncate((start + ALIGNED) * SECTOR)
    done = subprocess.run(
        [sfdisk, "--quiet", "--no-reread", "--wipe", "never", path], input="\n".join(script), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return path


def _dashed(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
