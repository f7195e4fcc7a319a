"""`bench.report=docs/benchmarks.md`: a page written from measured results alone.

Beside the page lies a directory of its name: each run's data and pictures. A run replaces its own and
writes the page anew from all that lie there, so that one page grows out of several sweeps.
"""

import json
import os
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from nydus_app.bench.joined import Column, Joined, from_data, ratios
from nydus_app.bench.pictures import draw
from nydus_app.bench.result import write_json
from nydus_app.bench.rows import ROWS
from nydus_app.bench.tables import as_markdown, layout
from nydus_app.config.bench_tree import Row

SLOWER = 0.95
"""Below this a row counts as slower: what is nearer lies within the noise of a shared machine."""
WARM = {Row.warm_seq, Row.warm_rand, Row.stat, Row.readdir, Row.warm_small}
PEERS = {"nydusd": set(Row), "plain EROFS": WARM}
"""By name, the rows in which they do the same work; a plain image lies there uncompressed, no cold row can match that."""
HEAD = """\
# Benchmarks

Written by `nydus-bench`; nobody types a figure here. Only ratios within one table mean anything: machines differ, and
shared ones differ from hour to hour. Each figure is a median, with the lowest and the highest of all rounds behind it;
rounds are interleaved, each begins with an empty cache directory and, where a row is cold, without a page cache.
"""


def write_report(joined: Joined, data: dict[str, Any], page: str, *, with_pictures: bool) -> None:
    """Raises OSError."""
    folder = os.path.splitext(page)[0]
    name = data["name"]
    write_json(os.path.join(folder, f"{name}.json"), data)
    if with_pictures:
        draw(joined, [os.path.join(folder, f"{name}.{kind}") for kind in ("svg", "png")])
    with open(page, "w", encoding="utf-8") as f:
        f.write("".join(_page(folder)))


def _page(folder: str) -> Iterator[str]:
    yield HEAD
    reasons = tomllib.loads((resources.files("nydus_app.bench") / "reasons.toml").read_text(encoding="utf-8"))
    for name in sorted(os.listdir(folder)):
        if name.endswith(".json"):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                data = json.load(f)
            yield from _section(data, from_data(data), folder, reasons)


def _section(data: dict[str, Any], joined: Joined, folder: str, reasons: dict[str, Any]) -> Iterator[str]:
    yield f"\n## {data['name'].replace('_', ' ').capitalize()}\n{data['purpose']}\n\n"
    yield f"```console\n$ {data['command']}\n```\n\n{_machine(joined.machine)}\n{_image(joined.image)}\n\n"
    yield as_markdown(layout(joined, is_wide=True))
    if len(joined.ours) == 1:
        yield "\nColumns with `/` say how many times better ours is.\n"
    else:
        yield "\nColumns with `/` say how many times better a setting is than who stands behind the stroke.\n"
    if any(c.serves for c in joined.ours):
        served = "; ".join(f"{c.name}: {c.serves}" for c in joined.ours if c.serves)
        yield f"\nAt the mountpoint was: {served}.\n"
    for note in joined.notes:
        yield f"\n{note}\n"
    picture = f"{data['name']}.svg"
    if os.path.exists(os.path.join(folder, picture)):
        yield f"\n![{data['name']}]({os.path.basename(folder)}/{picture})\n"
    slower = list(_slower(joined, reasons))
    if slower:
        yield "\n**Slower than a peer, and why**\n\n"
        yield from slower


def _machine(machine: dict[str, str]) -> str:
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['memory']}; {machine['kernel']},"
        f" Python {machine['python']}, nydus-app {machine['nydus-app']}"
        + (f", {machine['peer']}" if "peer" in machine else "")
        + "."
    )


def _image(image: dict[str, int | str]) -> str:
    return (
        f"Image: RAFS {image['rafs']}, {image['entries']} entries, {image['files']} files of {_mib(image['bytes'])};"
        f" {image['small_files']} small files of {_mib(image['small_bytes'])}; the big file has {_mib(image['big_bytes'])}."
    )


def _mib(value: int | str) -> str:
    return f"{int(value) / 2**20:.1f} MiB"


def _slower(joined: Joined, reasons: dict[str, Any]) -> Iterator[str]:
    """One line for each row: which settings fall behind whom, how far, and the reasons for their data paths."""
    for row in joined.rows:
        behind: list[str] = []
        why: list[str] = []
        for column in joined.ours:
            found = [f"{value:.2f} of {name}" for name, value in _behind(joined, column, row)]
            if found:
                behind.append(f"{column.name} {' and '.join(found)}")
                why.append(_reason(reasons, row, _data_path(column)))
        if behind:
            yield f"- **{ROWS[row].title}**: {', '.join(behind)}. {' '.join(dict.fromkeys(why))}".rstrip() + "\n"


def _behind(joined: Joined, column: Column, row: Row) -> Iterator[tuple[str, float]]:
    for name in column.beside:
        value = ratios(joined, column, name).get(row)
        if row in PEERS.get(name, ()) and value is not None and value < SLOWER:
            yield name, value


def _data_path(column: Column) -> str:
    return "erofs" if column.serves == "erofs" else "fuse"


def _reason(reasons: dict[str, Any], row: Row, path: str) -> str:
    """A row's reason for a data path, else the one for both."""
    known = reasons.get(row.name, {})
    return str(known.get(path, known.get("both", "")))
