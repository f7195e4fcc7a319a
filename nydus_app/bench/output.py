"""Where a joined result goes: the terminal, files of the output directory, and the report."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nydus_app.bench.joined import Joined, as_data
from nydus_app.bench.pictures import ADVICE, can_draw, draw
from nydus_app.bench.report import write_report
from nydus_app.bench.result import write_json
from nydus_app.bench.tables import as_csv, as_text, layout
from nydus_app.config.bench_tree import Format


@dataclass(kw_only=True)
class Run:
    """What a whole run is, known before its first job: `run.json` of the output directory."""

    name: str
    purpose: str
    command: str  # fit to be shown: no path of this host, no secret
    axes: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    report: str | None = None

    def write(self, folder: str) -> None:
        write_json(os.path.join(folder, "run.json"), asdict(self))


def publish(joined: Joined, run: Run, folder: str) -> None:
    """Print the table and write what `run` asks for. Raises OSError."""
    for error in joined.errors:
        print(f"nydus-bench: {error}", file=sys.stderr)
    if not joined.ours:
        return
    print(as_text(layout(joined)), end="")
    for note in joined.notes:
        print(f"note: {note}")
    data = {"name": run.name, "purpose": run.purpose, "command": run.command, **as_data(joined)}
    written = _write(joined, data, run.formats, os.path.join(folder, run.name))
    if run.report is not None:
        write_report(joined, data, run.report, with_pictures=can_draw())
        written.append(run.report)
    print(f"written: {', '.join(os.path.relpath(path) for path in written)}")
    if not can_draw() and {Format.png.name, Format.svg.name} & set(run.formats):
        print(f"nydus-bench: {ADVICE}", file=sys.stderr)


def _write(joined: Joined, data: dict[str, Any], formats: Sequence[str], stem: str) -> list[str]:
    written = []
    if Format.csv.name in formats:
        with open(f"{stem}.csv", "w", encoding="utf-8") as f:
            f.write(as_csv(joined))
        written.append(f"{stem}.csv")
    if Format.json.name in formats:
        write_json(f"{stem}.json", data)
        written.append(f"{stem}.json")
    pictures = [f"{stem}.{name}" for name in (Format.png.name, Format.svg.name) if name in formats]
    if pictures and can_draw():
        draw(joined, pictures)
        written += pictures
    return written
