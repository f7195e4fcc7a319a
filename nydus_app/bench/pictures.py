"""The joined result as bars, one panel a row. matplotlib is the optional extra `bench`."""

import importlib.util
from collections.abc import Sequence

from nydus_app.bench.joined import Column, Joined
from nydus_app.bench.rows import ROWS
from nydus_app.bench.tables import number
from nydus_app.config.bench_tree import Row

ADVICE = "no pictures: matplotlib is missing; pip install 'nydus-app[bench]' brings it"
OURS_COLOUR, THEIRS_COLOUR = "#2f6db5", "#b9b9b9"


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(joined: Joined, paths: Sequence[str]) -> None:
    """Write the picture to each path (.svg, .png). The same figures give the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = [*joined.ours, *joined.references.values()]
    across = min(2, len(joined.rows))
    down = -(-len(joined.rows) // across)
    settings = {"svg.fonttype": "none", "svg.hashsalt": "nydus-bench", "font.size": 8, "axes.titlesize": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.5 * across, (0.6 + 0.24 * len(columns)) * down + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        for i, row in enumerate(joined.rows):
            _panel(figure.add_subplot(down, across, i + 1), row, [c for c in columns if row in c.figures], joined.ours)
        for path in paths:
            figure.savefig(path, dpi=140, metadata={"Date": None} if path.endswith(".svg") else {"Software": None})


def _panel(axes, row: Row, columns: Sequence[Column], ours: Sequence[Column]) -> None:  # noqa: ANN001
    kind = ROWS[row]
    spreads = [c.figures[row] for c in columns]
    heights = [s.median for s in spreads]
    ends = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    colours = [OURS_COLOUR if c in ours else THEIRS_COLOUR for c in columns]
    places = range(len(columns))
    bars = axes.barh(places, heights, xerr=ends, color=colours, height=0.7, error_kw={"lw": 0.8})
    axes.bar_label(bars, [number(h, row) for h in heights], padding=3)
    axes.set_yticks(places, [c.name for c in columns])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(f"{kind.title}, {kind.unit} ({'more' if kind.is_rate else 'less'} is better)", loc="left")
