"""`nydus-run`: Hydra composes the tree, the checks look at it, the builder runs it."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import NoReturn

from nydus_app.cli.ending import guarded
from nydus_app.cli.help import help_text
from nydus_app.config.check import check, check_paths, check_supported
from nydus_app.config.composition import compose_config, masked_words, printed, recipes, shown_matches, to_tree
from nydus_app.config.overrides import nearest
from nydus_app.config.registration import CONFIG_PATH, RUN, register
from nydus_app.config.tree import Tree
from nydus_app.errors import ConfigError
from nydus_app.version import __version__


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        wrong = message.removeprefix("unrecognized arguments: ").split()[0]
        flags = [f for f in self._option_string_actions if f.startswith("--")]
        raise ConfigError(f"{message}{nearest(wrong, flags)} (see nydus-run --help)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Flags may stand anywhere between the overrides, which Hydra itself does not allow."""
    parser = _Parser(prog="nydus-run", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("-cd", "--config-dir")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument(
        "-i", "--info", nargs="?", const="all",
        choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    )  # fmt: skip
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    return parser.parse_intermixed_args(list(arguments))


def run(arguments: Sequence[str]) -> int:
    asked = _parse(arguments)
    if asked.help:
        print(help_text(recipes()), end="")
        return 0
    if asked.version:
        print(f"nydus-run {__version__}")
        return 0
    if asked.shell_completion:
        return _complete(asked.words)
    if asked.multirun:
        raise ConfigError("-m: sweeps are not for a daemon; nydus-run takes one value a key")
    if asked.config_dir is not None:
        asked.config_dir = os.path.abspath(asked.config_dir)
        if not os.path.isdir(asked.config_dir):
            raise ConfigError(f"--config-dir {asked.config_dir}: no such directory")
    words = [*asked.words, *_environment_words()]
    if asked.info or asked.cfg in ("hydra", "all"):
        return _hydras_own(asked, words)
    config = compose_config(words, asked.config_dir)
    if asked.cfg == "job":
        print(printed(config, resolve=asked.resolve), end="")
        return 0
    tree = to_tree(config)
    check(tree)
    check_supported(tree)
    check_paths(tree, strict=True)
    from nydus_app.builder.daemon import serve
    from nydus_app.builder.image import examine

    if asked.dry_run:
        examine(tree)
        print(_intention(tree))
        return 0
    return serve(tree)


def _environment_words() -> list[str]:
    import shlex

    try:
        words = shlex.split(os.environ.get("NYDUS_OVERRIDES", ""))
    except ValueError as e:
        raise ConfigError(f"NYDUS_OVERRIDES: {e}") from None
    for word in words:
        if word.startswith("-"):
            raise ConfigError(f"NYDUS_OVERRIDES: {word} is no key=value")
    return words


def _intention(tree: Tree) -> str:
    backend, cache = type(tree.backend).__name__.lower(), type(tree.cache).__name__.lower()
    return f"would mount {tree.bootstrap} at {tree.mountpoint} (backend={backend}, cache={cache}); nothing was done"


def _hydras_own(asked: argparse.Namespace, words: Sequence[str]) -> int:
    """--info and --cfg hydra|all are printed by Hydra, which gets the overrides without secrets."""
    config = compose_config(words, asked.config_dir)
    flags = ["--config-dir", asked.config_dir] if asked.config_dir else []
    flags += ["--cfg", asked.cfg] if asked.cfg else ["--info", asked.info]
    return _call_hydra([*flags, *masked_words(words, config)])


def _complete(words: Sequence[str]) -> int:
    """Hydra's completion, without the schemas that nobody chooses, and with enum values as they are written."""
    verb, _, shell = words[0].partition("=") if len(words) == 1 else ("", "", "")
    if verb not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise ConfigError('-sc: install= or uninstall=, and bash, zsh or fish: eval "$(nydus-run -sc install=bash)"')
    with redirect_stdout(io.StringIO()) as said:
        status = _call_hydra(["-sc", *words])
    if verb != "query":
        print(said.getvalue(), end="")
    else:
        separator = "\n" if shell == "fish" else " "
        print(separator.join(shown_matches(said.getvalue().split())))
    return status


def _call_hydra(arguments: Sequence[str]) -> int:
    import hydra

    register()
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        hydra.main(config_path=CONFIG_PATH, config_name=RUN.primary, version_base=None)(lambda config: None)()
    finally:
        sys.argv = before
    return 0


def main() -> None:
    guarded("nydus-run:", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
