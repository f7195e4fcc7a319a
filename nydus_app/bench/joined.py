"""Results of all jobs become one: samples of equal settings pooled, medians and spread, ratios to who stands beside.

Pure: results in, values out.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nydus_app.bench.result import OURS, Result, Samples
from nydus_app.bench.rows import ROWS, ratio
from nydus_app.config.bench_tree import Row


class Spread(NamedTuple):
    median: float
    low: float
    high: float
    rounds: int


class Column(NamedTuple):
    """One contender under one setting. `beside` are keys of the references, by name, of one of ours."""

    name: str
    settings: dict[str, str]
    figures: dict[Row, Spread]
    beside: dict[str, str]
    serves: str = ""  # file system type at the mountpoint of ours


class Joined(NamedTuple):
    axes: list[str]
    rows: list[Row]
    ours: list[Column]
    references: dict[str, Column]
    image: dict[str, int | str]
    machine: dict[str, str]
    notes: list[str]
    errors: list[str]


def join(results: Sequence[Result], axes: Sequence[str] = ()) -> Joined:
    """`axes` are the keys that the sweep varies; results differ in nothing else but the round."""
    ours: dict[tuple[str, ...], tuple[Result, Samples]] = {}
    pooled: dict[str, Samples] = {}
    named: dict[str, tuple[str, dict[str, str]]] = {}
    for result in results:
        if result.error is not None:
            continue
        _, samples = ours.setdefault(tuple(result.settings.get(a, "") for a in axes), (result, {}))
        _pool(samples, result.ours)
        for reference in result.references:
            named.setdefault(reference.key, (reference.name, reference.settings))
            _pool(pooled.setdefault(reference.key, {}), reference.samples)
    columns = [
        Column(
            _label(dict(zip(axes, values, strict=True))), dict(zip(axes, values, strict=True)), _figures(samples),
            {r.name: r.key for r in first.references}, first.serves,
        )
        for values, (first, samples) in ours.items()
    ]  # fmt: skip
    good = [r for r in results if r.error is None]
    references = {key: _reference(named, key, axes, pooled[key]) for key in named}
    present = {row for c in (*columns, *references.values()) for row in c.figures}
    return Joined(
        axes=list(axes),
        rows=[row for row in Row if row in present],
        ours=columns,
        references=references,
        image=good[0].image if good else {},
        machine=good[0].machine if good else {},
        notes=list(dict.fromkeys(note for r in good for note in r.notes)),
        errors=list(dict.fromkeys(_error(r, axes) for r in results if r.error is not None)),
    )


def _pool(into: Samples, samples: Mapping[str, list[float]]) -> None:
    for row, values in samples.items():
        into.setdefault(row, []).extend(values)


def _figures(samples: Samples) -> dict[Row, Spread]:
    return {
        Row[name]: Spread(statistics.median(values), min(values), max(values), len(values))
        for name, values in samples.items()
        if values
    }


def _label(settings: Mapping[str, str]) -> str:
    """`data_path=fuse`; a path is its last part, which is all a table has room for."""
    return ", ".join(f"{k.rpartition('.')[2].lstrip('+')}={short(v)}" for k, v in settings.items()) or OURS


def short(value: str) -> str:
    return value.strip("'").rstrip("/").rpartition("/")[2] if value.strip("'").startswith("/") else value


def _reference(named: Mapping[str, tuple[str, dict[str, str]]], key: str, axes: Sequence[str], samples: Samples) -> Column:
    """Where a name stands for several measurements, its column says which settings they differ in."""
    name, settings = named[key]
    settings = {k: v for k, v in settings.items() if k in axes}
    alone = sum(other == name for other, _ in named.values()) == 1
    label = name if alone or not settings else f"{name} ({_label(settings)})"
    return Column(label, settings, _figures(samples), {})


def _error(result: Result, axes: Sequence[str]) -> str:
    settings = {a: result.settings[a] for a in axes if a in result.settings}
    return f"{_label(settings)}: {result.error}" if settings else str(result.error)


def ratios(joined: Joined, column: Column, name: str) -> dict[Row, float]:
    """How many times better `column` is than the reference of that name, by row."""
    reference = joined.references[column.beside[name]]
    found = {
        row: ratio(row, column.figures[row].median, reference.figures[row].median)
        for row in joined.rows
        if row in column.figures and row in reference.figures
    }
    return {row: value for row, value in found.items() if value is not None}


def reference_names(joined: Joined) -> list[str]:
    return list(dict.fromkeys(name for column in joined.ours for name in column.beside))


def as_data(joined: Joined) -> dict[str, Any]:
    """For JSON: everything that the tables show, and the number of samples behind it."""

    def figures(column: Column) -> dict[str, dict[str, float]]:
        return {row.name: column.figures[row]._asdict() for row in joined.rows if row in column.figures}

    return {
        "axes": joined.axes,
        "rows": {row.name: {"title": ROWS[row].title, "unit": ROWS[row].unit} for row in joined.rows},
        "ours": [
            {
                "name": c.name,
                "settings": c.settings,
                "serves": c.serves,
                "figures": figures(c),
                "beside": c.beside,
                "times_better": {n: {r.name: v for r, v in ratios(joined, c, n).items()} for n in c.beside},
            }
            for c in joined.ours
        ],
        "references": {
            key: {"name": c.name, "settings": c.settings, "figures": figures(c)} for key, c in joined.references.items()
        },
        "image": joined.image,
        "machine": joined.machine,
        "notes": joined.notes,
        "errors": joined.errors,
    }


def from_data(data: Mapping[str, Any]) -> Joined:
    """The inverse of `as_data`."""

    def figures(of: Mapping[str, Any]) -> dict[Row, Spread]:
        return {Row[row]: Spread(**spread) for row, spread in of["figures"].items()}

    return Joined(
        axes=data["axes"],
        rows=[Row[name] for name in data["rows"]],
        ours=[Column(c["name"], c["settings"], figures(c), c["beside"], c["serves"]) for c in data["ours"]],
        references={k: Column(c["name"], c["settings"], figures(c), {}) for k, c in data["references"].items()},
        image=data["image"],
        machine=data["machine"],
        notes=data["notes"],
        errors=data["errors"],
    )
