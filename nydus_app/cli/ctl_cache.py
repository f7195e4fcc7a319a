"""What a cache directory holds, and what is wrong with it. DIR is the cache.work_dir of the daemons.

All steps may be taken beside running daemons. What changes something needs the directory for itself for a moment: where
a daemon has it, nothing is changed, and the exit status is 1.
"""

import argparse
from importlib import import_module

STEPS = {
    "status": "what is there, blob by blob",
    "gc": "remove what nobody has used for a while, and what killed daemons left",
    "verify": "compare chunks with their digests; repair or drop what is damaged",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, summary in STEPS.items():
        module = import_module(f"nydus_app.cli.ctl_cache_{name}")
        step = steps.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        step.add_argument("directory", metavar="DIR")
        module.add_arguments(step)
        step.set_defaults(take=module.run)


def run(arguments: argparse.Namespace) -> int:
    status: int = arguments.take(arguments)
    return status
