"""A golden image mounted over any backend, by nydus-run or the real nydusd, and its whole tree compared."""

import json
from pathlib import Path

from manifest import differences
from mounting import BIN, Daemon, Mounts, boot_of, nydusd_config


def start_over(
    backend: list[str], golden: Path, name: str, mounts: Mounts, here: Path, *, data_path: str = "auto", wait: bool = True
) -> Daemon:
    """`backend` are the words that choose and configure it; `here` is a directory for mountpoint and cache."""
    image = {"name": name}
    return mounts.start(
        BIN / "nydus-run", "mode=fuse", f"mode.data_path={data_path}", *backend, f"bootstrap={boot_of(golden, image)}",
        f"cache.work_dir={here}/cache", f"mountpoint={here}/mnt", mountpoint=here / "mnt", wait=wait,
    )  # fmt: skip


def start_peer_over(kind: str, options: dict, golden: Path, name: str, mounts: Mounts, here: Path, peers: Path) -> Daemon:
    """The real nydusd; `kind` and `options` are its own names for the backend."""
    config = nydusd_config(here, here / "cache")
    config["device"]["backend"] = {"type": kind, "config": options}
    (here / "config").write_text(json.dumps(config))
    return mounts.start(
        peers / "nydusd", "fuse", "--config", here / "config", "--bootstrap", boot_of(golden, {"name": name}),
        "--mountpoint", here / "mnt", "--rlimit-nofile", "0", mountpoint=here / "mnt",
    )  # fmt: skip


def assert_tree(daemon: Daemon, golden: Path, name: str) -> None:
    """The mounted tree equals the image's manifest; then the daemon ends well."""
    image = next(i for i in json.loads((golden / "images.json").read_text()) if i["name"] == name)
    found = differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ())))
    assert found == [], daemon.output
    assert daemon.stop() == 0
