"""Results joined, shown and reported: pure values, known figures."""

import csv
import io
import json
from pathlib import Path

import pytest

from nydus_app.bench.joined import Joined, as_data, from_data, join, ratios
from nydus_app.bench.pictures import can_draw, draw
from nydus_app.bench.report import write_report
from nydus_app.bench.result import Reference, Result, read_result, write_result
from nydus_app.bench.tables import as_csv, as_markdown, as_text, layout
from nydus_app.config.bench_tree import Row

IMAGE = {"rafs": "v6", "entries": 9, "directories": 2, "files": 5, "bytes": 4 << 20, "small_files": 4,
         "small_bytes": 1 << 20, "big_bytes": 3 << 20, "big_file": "big"}  # fmt: skip
MACHINE = {"processor": "a CPU", "cores": "2", "memory": "8.0 GiB", "kernel": "Linux 6.18", "python": "3.11",
           "nydus-app": "0.1"}  # fmt: skip


def job(number: int, path: str, ours: float, theirs: float | None, start: float = 0.25, size: int = 0) -> Result:
    """Round `number` of one setting; the peer's samples lie in the first job of its key."""
    samples = {} if theirs is None else {"cold_seq": [theirs], "start": [0.05]}
    return Result(
        settings={"bench.round": str(number), "mode.data_path": path, "rafs.batch_size": str(size)},
        ours={"cold_seq": [ours], "start": [start]},
        references=[Reference(name="nydusd", key=f"k{size}", settings={"rafs.batch_size": str(size)}, samples=samples)],
        image=dict(IMAGE),
        machine=dict(MACHINE),
        serves="erofs" if path == "erofs" else "fuse",
    )


@pytest.fixture
def joined() -> Joined:
    results = [job(1, "fuse", 400, 800), job(1, "erofs", 900, None), job(2, "fuse", 600, 1000), job(2, "erofs", 1100, None)]
    return join([*results, job(3, "fuse", 500, 900), job(3, "erofs", 1000, None)], ["mode.data_path"])


def test_rounds_are_pooled_and_a_peer_is_shared(joined: Joined) -> None:
    fuse, erofs = joined.ours
    assert fuse.figures[Row.cold_seq] == (500, 400, 600, 3)
    assert erofs.figures[Row.cold_seq] == (1000, 900, 1100, 3)
    (peer,) = joined.references.values()
    assert peer.figures[Row.cold_seq] == (900, 800, 1000, 3)
    assert ratios(joined, fuse, "nydusd")[Row.cold_seq] == pytest.approx(500 / 900)
    assert ratios(joined, fuse, "nydusd")[Row.start] == pytest.approx(0.05 / 0.25)


def test_few_settings_are_columns(joined: Joined) -> None:
    head, start, seq = as_text(layout(joined)).splitlines()
    assert head.split() == "unit data_path=fuse data_path=erofs nydusd fuse / nydusd erofs / nydusd".split()
    assert start.split() == "start s 0.250 ±0% 0.250 ±0% 0.050 ±0% 0.20 0.20".split()
    assert seq.split() == "cold_seq MiB/s 500 ±20% 1 000 ±10% 900 ±11% 0.56 1.11".split()
    assert "| cold sequential | MiB/s | 500 (400–600) |" in as_markdown(layout(joined, is_wide=True))


def test_many_settings_are_lines_and_each_has_its_peer() -> None:
    results = [job(1, path, 100 + size, 200 + size, size=size) for path in ("fuse", "erofs") for size in (0, 50)]
    joined = join(results, ["mode.data_path", "rafs.batch_size"])
    table = layout(joined)
    assert table.head[:4] == ["data_path", "batch_size", "start, s", "/ nydusd"]
    assert [line[:2] for line in table.lines][-2:] == [["nydusd (batch_size=0)", "0"], ["nydusd (batch_size=50)", "50"]]
    assert [line[-1] for line in table.lines] == ["0.50", "0.60", "0.50", "0.60", "–", "–"]


def test_csv_and_json_hold_what_the_table_shows(joined: Joined) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(joined))))
    fuse = next(x for x in lines if x["mode.data_path"] == "fuse" and x["row"] == "cold_seq")
    shown = [fuse[name] for name in ("contender", "median", "low", "high", "rounds")]
    assert shown == ["nydus-app", "500", "400", "600", "3"]
    assert fuse["times_nydusd"] == "0.5556"
    assert from_data(json.loads(json.dumps(as_data(joined)))) == joined


def test_a_failed_job_is_told_and_left_out() -> None:
    failed = Result(settings={"bench.round": "1", "mode.data_path": "erofs"}, error="nydus-app: ended with 1: no")
    joined = join([job(1, "fuse", 400, 800), failed], ["mode.data_path"])
    assert joined.errors == ["data_path=erofs: nydus-app: ended with 1: no"]
    assert [c.settings for c in joined.ours] == [{"mode.data_path": "fuse"}]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    result = job(1, "fuse", 400, 800)
    write_result(str(tmp_path), result)
    assert read_result(str(tmp_path / "result.json")) == result


def test_a_report_grows_by_sweeps_and_gives_reasons_for_what_is_slower(joined: Joined, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for name in ("windows", "side_by_side", "windows"):
        command = f"nydus-bench +sweep={name} backend.dir=$BLOBS"
        data = {"name": name, "purpose": f"Why {name}.", "command": command, **as_data(joined)}
        write_report(joined, data, str(page), with_pictures=False)
    text = page.read_text()
    assert text.count("\n## ") == 2
    assert text.index("## Side by side") < text.index("## Windows")
    assert "$ nydus-bench +sweep=windows backend.dir=$BLOBS" in text
    assert "a CPU, 2 cores, 8.0 GiB; Linux 6.18, Python 3.11" in text
    slower = next(line for line in text.splitlines() if line.startswith("- **cold sequential**"))
    assert "data_path=fuse 0.56 of nydusd" in slower and "erofs" not in slower
    assert len(slower) > len("- **cold sequential**: data_path=fuse 0.56 of nydusd. ") + 20


@pytest.mark.skipif(not can_draw(), reason="matplotlib (the extra `bench`) is not installed")
def test_pictures_are_the_same_for_the_same_figures(joined: Joined, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.svg", "b.svg", "a.png")]
    draw(joined, names)
    a, b, png = (Path(name).read_bytes() for name in names)
    assert a == b
    assert b"cold sequential" in a and b"data_path=erofs" in a
    assert png.startswith(b"\x89PNG")
