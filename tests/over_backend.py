"""A golden image mounted by nydus-run over any backend, and its whole tree compared."""

import json
from pathlib import Path

from manifest import differences
from mounting import BIN, Daemon, Mounts, boot_of


def start_over(
    backend: list[str], golden: Path, name: str, mounts: Mounts, here: Path, *, data_path: str = "auto", wait: bool = True
) -> Daemon:
    """`backend` are the words that choose and configure it; `here` is a directory for mountpoint and cache."""
    image = {"name": name}
    return mounts.start(
        BIN / "nydus-run", "mode=fuse", f"mode.data_path={data_path}", *backend, f"bootstrap={boot_of(golden, image)}",
        f"cache.work_dir={here}/cache", f"mountpoint={here}/mnt", mountpoint=here / "mnt", wait=wait,
    )  # fmt: skip


def assert_tree(daemon: Daemon, golden: Path, name: str) -> None:
    """The mounted tree equals the image's manifest; then the daemon ends well."""
    image = next(i for i in json.loads((golden / "images.json").read_text()) if i["name"] == name)
    found = differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ())))
    assert found == [], daemon.output
    assert daemon.stop() == 0
