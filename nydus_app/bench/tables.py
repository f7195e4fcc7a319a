"""The joined result as one table: text for a terminal, Markdown for the docs, CSV for a spreadsheet."""

import csv
import io
from collections.abc import Iterator
from typing import NamedTuple

from nydus_app.bench.joined import Column, Joined, Spread, ratios, reference_names, short
from nydus_app.bench.rows import ROWS
from nydus_app.config.bench_tree import Row

ROWS_DOWN = 3
"""Up to so many settings get a column each; more of them get a line each."""


class Table(NamedTuple):
    head: list[str]
    lines: list[list[str]]
    texts: int  # so many columns at the left are text, the others are figures


def layout(joined: Joined, *, is_wide: bool = False) -> Table:
    """`is_wide` spells titles and the spread out."""
    return _rows_down(joined, is_wide) if len(joined.ours) <= ROWS_DOWN else _settings_down(joined, is_wide)


def _rows_down(joined: Joined, is_wide: bool) -> Table:
    columns = [*joined.ours, *joined.references.values()]
    pairs = [(c, name) for c in joined.ours for name in reference_names(joined) if name in c.beside]
    head = ["", "unit", *(c.name for c in columns), *(_pair(joined, c, name) for c, name in pairs)]
    times = [ratios(joined, c, name) for c, name in pairs]
    lines = [
        [
            ROWS[row].title if is_wide else row.name,
            ROWS[row].unit,
            *(_cell(c.figures.get(row), row, is_wide) for c in columns),
            *(_times(t.get(row)) for t in times),
        ]
        for row in joined.rows
    ]
    return Table(head, lines, 2)


def _pair(joined: Joined, column: Column, name: str) -> str:
    return f"/ {name}" if len(joined.ours) == 1 else f"{column.name.partition('=')[2] or column.name} / {name}"


def _settings_down(joined: Joined, is_wide: bool) -> Table:
    names = reference_names(joined)
    head = [axis.rpartition(".")[2] if joined.axes else "" for axis in joined.axes]
    for row in joined.rows:
        head += [f"{ROWS[row].title if is_wide else row.name}, {ROWS[row].unit}", *(f"/ {name}" for name in names)]
    lines = [[*(short(v) for v in c.settings.values()), *_line(joined, c, names, is_wide)] for c in joined.ours]
    for c in joined.references.values():
        values = [short(c.settings[a]) if a in c.settings else "" for a in joined.axes]
        values[0] = c.name
        lines.append([*values, *_line(joined, c, names, is_wide)])
    return Table(head, lines, len(joined.axes))


def _line(joined: Joined, column: Column, names: list[str], is_wide: bool) -> Iterator[str]:
    times = {name: ratios(joined, column, name) if name in column.beside else {} for name in names}
    for row in joined.rows:
        yield _cell(column.figures.get(row), row, is_wide)
        for name in names:
            yield _times(times[name].get(row))


def _cell(spread: Spread | None, row: Row, is_wide: bool) -> str:
    """`612 ±4%`: the median, and half of the way from the lowest to the highest; wide: both ends."""
    if spread is None:
        return "–"
    median = number(spread.median, row)
    if spread.rounds == 1:
        return median
    if is_wide:
        return f"{median} ({number(spread.low, row)}–{number(spread.high, row)})"
    half = (spread.high - spread.low) / 2 / spread.median * 100 if spread.median else 0
    return f"{median} ±{half:.0f}%"


def number(value: float, row: Row) -> str:
    if ROWS[row].digits:
        return f"{value:.{ROWS[row].digits}f}"
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}".replace(",", " ")


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def as_text(table: Table) -> str:
    widths = [max(len(line[i]) for line in (table.head, *table.lines)) for i in range(len(table.head))]

    def aligned(line: list[str]) -> str:
        cells = (c.ljust(w) if i < table.texts else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join(aligned(line) for line in (table.head, *table.lines)) + "\n"


def as_markdown(table: Table) -> str:
    marks = ["---" if i < table.texts else "---:" for i in range(len(table.head))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (table.head, marks, *table.lines))


def as_csv(joined: Joined) -> str:
    """One line for each figure: settings, who, what, median and spread, times better than who."""
    out = io.StringIO()
    names = reference_names(joined)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [*joined.axes, "contender", "row", "unit", "median", "low", "high", "rounds", *(f"times_{n}" for n in names)]
    )
    for column, is_ours in [*((c, True) for c in joined.ours), *((c, False) for c in joined.references.values())]:
        times = {n: ratios(joined, column, n) if n in column.beside else {} for n in names}
        for row, spread in ((r, column.figures[r]) for r in joined.rows if r in column.figures):
            settings = [column.settings.get(axis, "") for axis in joined.axes]
            who = "nydus-app" if is_ours else column.name
            better = [f"{times[n][row]:.4g}" if row in times[n] else "" for n in names]
            figures = [f"{v:.6g}" for v in spread[:3]]
            writer.writerow([*settings, who, row.name, ROWS[row].unit, *figures, spread.rounds, *better])
    return out.getvalue()
