"""`nydusctl`: what operators do beside running daemons, with the files and sockets that these leave and serve.

Each verb is a module with `add_arguments(parser)` and `run(arguments) -> exit status`; only the one that is
asked for is loaded.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from nydus_app.cli.ending import guarded
from nydus_app.version import __version__


class Verb(NamedTuple):
    module: str
    summary: str


VERBS = {
    "cache": Verb("nydus_app.cli.ctl_cache", "what a cache directory holds; clean and repair it"),
    "explain": Verb("nydus_app.cli.ctl_explain", "why reads were slow: what a daemon has fetched lately"),
}


def overview() -> argparse.ArgumentParser:
    """The parser that knows the names of the verbs only, for `--help` and for what is none of them."""
    verbs = "\n".join(f"  {name:<10}{verb.summary}" for name, verb in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="nydusctl",
        description="Looks after what image daemons leave and do.",
        epilog=f"verbs:\n{verbs}\n\nnydusctl VERB --help says more about one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB")
    parser.add_argument("--version", action="version", version=f"nydusctl {__version__}")
    return parser


def run(words: Sequence[str]) -> int:
    """Exit status of the command; what is wrong with its words ends with status 2 and one line."""
    verb = overview().parse_args(words[:1] or ["--help"]).verb
    module = import_module(VERBS[verb].module)
    parser = argparse.ArgumentParser(
        prog=f"nydusctl {verb}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args(words[1:]))
    return status


def main() -> None:
    guarded("nydusctl:", lambda: run(sys.argv[1:]))


if __name__ == "__main__":
    main()
