"""The tree's dataclasses as Hydra schemas: `base_<name>` in the group of the YAML that extends it."""

from collections.abc import Callable
from typing import NamedTuple

from hydra.core.config_store import ConfigStore

from nydus_app.config.bench_tree import BENCH_OPTIONS, Bench, BenchTree
from nydus_app.config.tree import GROUPS, MISSING, Api, Daemon, Log, Prefetch, Rafs, Recording, Tree

SECTIONS: dict[str, type] = {
    "daemon": Daemon, "api": Api, "log": Log, "rafs": Rafs, "prefetch": Prefetch, "recording": Recording
}  # fmt: skip
CONFIG_PATH = "pkg://nydus_app.conf"


class Application(NamedTuple):
    """A program over the tree: its primary configuration, what may be chosen, where its recipes lie."""

    name: str
    primary: str
    schema: Callable[[], Tree]
    choices: dict[str, list[str]]
    recipe_groups: tuple[str, ...]
    launches: bool = False  # hydra/launcher may be chosen


_CHOICES = {group: list(options) for group, options in GROUPS.items()}
RUN = Application("nydus-run", "run", Tree, _CHOICES, ("recipe",))
BENCH = Application(
    "nydus-bench", "bench", BenchTree, {**_CHOICES, "bench": BENCH_OPTIONS}, ("recipe", "sweep"), launches=True
)


def register() -> None:
    """Fill Hydra's ConfigStore; once a process is enough, twice does no harm."""
    store = ConfigStore.instance()
    # The groups fill these; a default of one choice would refuse all others as of another type.
    chosen = {group: MISSING for group in GROUPS}
    store.store(name="base_tree", node=Tree(**chosen))
    store.store(name="base_bench_tree", node=BenchTree(**chosen, bench=MISSING))
    store.store(group="bench", name="base_bench", node=Bench)
    for group, options in GROUPS.items():
        for name, schema in options.items():
            store.store(group=group, name=f"base_{name}", node=schema)
    for section, schema in SECTIONS.items():
        store.store(group=section, name=f"base_{section}", node=schema)
