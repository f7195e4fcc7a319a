"""The tree's dataclasses as Hydra schemas: `base_<name>` in the group of the YAML that extends it."""

from hydra.core.config_store import ConfigStore

from nydus_app.config.tree import GROUPS, MISSING, Api, Daemon, Log, Prefetch, Rafs, Tree

SECTIONS: dict[str, type] = {"daemon": Daemon, "api": Api, "log": Log, "rafs": Rafs, "prefetch": Prefetch}
CONFIG_PATH = "pkg://nydus_app.conf"
PRIMARY = "run"


def register() -> None:
    """Fill Hydra's ConfigStore; once a process is enough, twice does no harm."""
    store = ConfigStore.instance()
    # The groups fill these; a default of one choice would refuse all others as of another type.
    store.store(name="base_tree", node=Tree(mode=MISSING, backend=MISSING, cache=MISSING))
    for group, options in GROUPS.items():
        for name, schema in options.items():
            store.store(group=group, name=f"base_{name}", node=schema)
    for section, schema in SECTIONS.items():
        store.store(group=section, name=f"base_{section}", node=schema)
