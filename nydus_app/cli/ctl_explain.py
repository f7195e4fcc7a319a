"""Why reads of a mounted image were slow: what its daemon has fetched lately, for which file, from where, how long it took.

  cold            nobody had read it before        ahead       fetched ahead of who reads on
  evicted         a bounded cache gave it up       prefetch    fetched because the configuration says so
  corrupt         the cache's copy was damaged     replay      fetched because a recorded start read it
  prefetch late   a reader came while it was being fetched ahead; the time is what he waited"""

import argparse
import json
from typing import Any

from nydus_app.cli.columns import format_bytes, format_columns
from nydus_app.cli.daemon_api import get

AWAITED = ("cold", "evicted", "corrupt", "prefetch late")
MAX_PATH = 56
ALL = (*AWAITED, "ahead", "prefetch", "replay", "chunk index")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--apisock", required=True, metavar="PATH", help="the daemon's API socket")
    parser.add_argument("--slowest", type=int, metavar="N", help="only the N slowest, slowest first")
    parser.add_argument("--why", action="append", choices=ALL, metavar="WHY", help="only these; may be repeated")
    parser.add_argument("--waited", action="store_true", help="only what a reader has waited for")
    parser.add_argument("--no-files", action="store_true", help="do not look for the names of files")
    parser.add_argument("--json", action="store_true", help="as the API tells it, with byte ranges")


def run(arguments: argparse.Namespace) -> int:
    told = get(arguments.apisock, f"/api/v1/explain?files={'false' if arguments.no_files else 'true'}")
    whys = arguments.why or (AWAITED if arguments.waited else ALL)
    told["fetches"] = fetches = [f for f in told["fetches"] if f["why"] in whys]
    if arguments.slowest is not None:
        fetches.sort(key=lambda f: f["latency_ms"], reverse=True)
        del fetches[max(arguments.slowest, 0) :]
    if arguments.json:
        print(json.dumps(told, indent=1))
        return 0
    head = ["time", "why", "file", "origin", "ms", "asked", "fetched", "status", "tries"]
    print(format_columns(head, [line(f) for f in fetches], 4))
    for why, total in told["totals"].items():
        print(f"{why}: {total['requests']} in all, {format_bytes(total['bytes'])}")
    return 0


def line(fetch: dict[str, Any]) -> list[str]:
    files = fetch["files"]
    what = shortened(files[0]) if files else f"{fetch['blob'][:12]} at {fetch['asked']['offset']}"
    what += " …" if len(files) > 1 else ""
    problem = f" ({fetch['error'] or fetch['trouble']})" if fetch["error"] or fetch["trouble"] else ""
    return [
        fetch["time"][11:23],
        fetch["why"],
        what + problem,
        fetch["origin"] or "-",
        f"{fetch['latency_ms']:.1f}",
        format_bytes(fetch["asked"]["size"]),
        format_bytes(fetch["fetched"]["size"]),
        str(fetch["status"] or "-"),
        str(fetch["tries"] or "-"),
    ]


def shortened(path: str) -> str:
    """Printable, and its end where it is long."""
    text = path.encode("unicode_escape").decode()
    return text if len(text) <= MAX_PATH else f"…{text[1 - MAX_PATH :]}"
