"""A checked-in recipe that no longer composes fails here; what it is for stands in its head."""

from pathlib import Path

import pytest

from nydus_app.config.check import check
from nydus_app.config.composition import compose_config, recipes, to_tree
from nydus_app.config.overrides import compose
from nydus_app.config.tree import Tree

ROOT = Path(__file__).parent.parent.parent
NEEDS = {"private_registry": ["backend.host=h", "backend.repo=r"]}


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_composes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH", "eDp5")
    needs = NEEDS.get(name, ["backend.dir=/blobs"])
    tree = to_tree(compose_config([f"+recipe={name}", *needs, "bootstrap=/boot", "mountpoint=/mnt"]))
    check(tree)
    plain = to_tree(compose_config(["backend.dir=/blobs", "bootstrap=/boot", "mountpoint=/mnt"]))
    assert tree != plain


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_says_what_for_and_how(name: str) -> None:
    first, purpose, call, *_ = (ROOT / "recipes/recipe" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert len(purpose) > 20
    assert f"nydus-run +recipe={name} " in call


def test_recipes_can_be_combined_and_overridden() -> None:
    words = ["+recipe=[low_memory,no_cache]", "mode.threads=2", "backend.dir=/d", "bootstrap=/b", "mountpoint=/m"]
    tree = to_tree(compose_config(words))
    assert (type(tree.cache).__name__, tree.mode.threads, tree.rafs.batch_size) == ("Dummycache", 2, 0)


def test_a_users_own_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text("# @package _global_\nmode:\n  threads: 7\n")
    words = ["+recipe=mine", "backend.dir=/d", "bootstrap=/b", "mountpoint=/m"]
    assert to_tree(compose_config(words, str(tmp_path))).mode.threads == 7


def test_the_yaml_repeats_no_default() -> None:
    """conf/ chooses and explains; what nobody overrides is what the dataclasses say."""
    tree = to_tree(compose_config(["bootstrap=/b", "mountpoint=/m", "backend.dir=/d"]))
    by_hand = compose([])
    by_hand.bootstrap, by_hand.mountpoint, by_hand.backend.dir = "/b", "/m", "/d"
    assert tree == by_hand
    assert isinstance(tree, Tree)
