"""`nydusd`: nydusd's command line in front of the configuration tree.

    flags, JSON or TOML ─► overrides (+ NYDUS_OVERRIDES) ─► Tree ─► checks ─► builder.serve

Nothing of Hydra is imported: its imports would double the time to the mount.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from nydus_app.cli.ending import guarded
from nydus_app.config.check import check, check_paths, check_supported
from nydus_app.config.classic_flags import Parsed, UsageError, help_text, parse, to_overrides
from nydus_app.config.overrides import Override, compose, format_words, parse_overrides
from nydus_app.config.tree import Tree
from nydus_app.errors import ConfigError, ConfigFileError
from nydus_app.version import __version__

COMPATIBLE_WITH = "v2.4.4"
"""The contract that this program keeps; callers parse it."""


def overrides_of(parsed: Parsed) -> list[Override]:
    return [*to_overrides(parsed), *parse_overrides(os.environ.get("NYDUS_OVERRIDES", ""))]


def resolve(overrides: Sequence[Override]) -> Tree:
    """The checked tree. What is wrong with it came from a file: exit status 1, as nydusd has it."""
    try:
        tree = compose(overrides)
        check(tree)
    except ConfigError as e:
        raise ConfigFileError(str(e)) from None
    check_supported(tree)
    check_paths(tree, strict=False)
    return tree


def recipe(overrides: Sequence[Override]) -> str:
    """The overrides as a recipe file for `nydus-run +recipe=NAME`."""
    from nydus_app.config.recipe import format_recipe

    return format_recipe(overrides)


def version_text() -> str:
    """As nydusd prints it: the carriage return makes `Version:` begin a line for those who look for it."""
    python = ".".join(map(str, sys.version_info[:3]))
    return (
        f"nydusd \rVersion: \t{COMPATIBLE_WITH}\nGit Commit: \tnydus-app-{__version__}\nBuild Time: \tunknown\n"
        f"Profile: \trelease\nRustc: \t\tnone, Python {python}\n"
    )


def run(arguments: Sequence[str]) -> int:
    try:
        parsed = parse(arguments)
    except UsageError as e:
        print(f"error: {' '.join(str(e).split())} (see nydusd --help)", file=sys.stderr)
        return e.exit_code
    if parsed.wants == "help":
        print(help_text(parsed.command))
        return 0
    if parsed.wants == "version":
        print(version_text())
        return 0
    overrides = overrides_of(parsed)
    if "print-overrides" in parsed.given:
        print(shlex.join(["nydus-run", *format_words(overrides)]))
        return 0
    if "print-recipe" in parsed.given:
        print(recipe(overrides), end="")
        return 0
    tree = resolve(overrides)
    from nydus_app.builder.daemon import serve

    return serve(tree)


def main() -> None:
    guarded("Error:", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
