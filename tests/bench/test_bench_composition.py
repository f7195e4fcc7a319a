"""The bench group, the sweeps that made the docs, and wrong command lines: named before anything is mounted."""

import re
import shlex
from pathlib import Path

import pytest

from nydus_app.bench.rows import ROWS
from nydus_app.cli import bench
from nydus_app.config.bench_check import check_bench
from nydus_app.config.bench_tree import BENCH_OPTIONS, Bench, BenchTree, Row
from nydus_app.config.composition import compose_config, recipes, to_tree
from nydus_app.config.registration import BENCH
from nydus_app.config.sweep_plan import plan_sweep
from nydus_app.linux.mount import mounts

ROOT = Path(__file__).parent.parent.parent
BLOBS, BOOT = f"{ROOT}/tests/images/v6/blobs", f"{ROOT}/tests/images/v6/boot"
GOOD = [f"backend.dir={BLOBS}", f"bootstrap={BOOT}"]
SECRET = "c2VjcmV0LXBhc3N3b3Jk"


def composed(*words: str) -> BenchTree:
    tree = to_tree(compose_config(words, app=BENCH), BENCH)
    assert isinstance(tree, BenchTree)
    check_bench(tree)
    return tree


@pytest.mark.parametrize("option", BENCH_OPTIONS)
def test_an_option_chooses_its_rows_and_repeats_no_default(option: str) -> None:
    rows = [row for row in Row if row is not Row.health] if option == "all" else [Row[option]]
    check = "/bin/true" if Row.health in rows else None
    more = [f"bench.check={check}"] if check else []
    assert composed(*GOOD, f"bench={option}", *more).bench == Bench(rows=rows, check=check)


def test_every_row_is_known_everywhere() -> None:
    assert list(ROWS) == list(Row)
    assert {p.stem for p in (ROOT / "conf/bench").iterdir()} == set(BENCH_OPTIONS)


@pytest.mark.parametrize("name", recipes("sweep"))
def test_a_sweep_composes_and_says_what_for_and_how(name: str) -> None:
    first, purpose, call, *_ = (ROOT / "recipes/sweep" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    assert len(purpose) > 20
    for example, real in (("/usr/bin/nydusd", "/bin/true"), (r"/blobs/\w+\.boot", BOOT), ("/blobs", BLOBS)):
        call = re.sub(rf"{example}\b", real, call)
    hash_sign, program, sweep, *words = shlex.split(call)
    assert (hash_sign, program, sweep) == ("#", "nydus-bench", f"+sweep={name}")
    plan = plan_sweep([sweep, *words], None)
    assert plan.axes
    assert composed(*plan.jobs[0]) != composed(*plan.jobs[-1])


def test_the_round_is_the_first_axis_and_later_words_win() -> None:
    plan = plan_sweep([*GOOD, "+sweep=windows", "rafs.batch_size=0,4096", "bench.rounds=2"], None)
    assert plan.words[0] == "bench.round=1,2"
    assert plan.axes == ["rafs.batch_size"]
    assert [composed(*job).rafs.batch_size for job in plan.jobs] == [0, 4096]


WRONG: list[tuple[str, int, list[str]]] = [
    ("bench=cold_smal", 2, ["bench=cold_smal", "did you mean `cold_small`"]),
    ("bench.rouns=3", 2, ["bench.rouns", "bench.rounds"]),
    ("bench.rounds=0", 2, ["bench.rounds=0", "1 to 1000"]),
    ("bench.seconds=0", 2, ["bench.seconds=0"]),
    ("bench.timeout=0", 2, ["bench.timeout=0"]),
    ("bench.rows=[]", 2, ["bench.rows"]),
    ("bench.rows=[start,sped]", 2, ["bench.rows[1]", "start"]),
    ("bench=health", 2, ["bench.check", "health"]),
    ("bench.check='\"'", 2, ["bench.check"]),
    ("bench.blobs=/no/blobs", 1, ["bench.blobs", "/no/blobs"]),
    ("bench.port=0", 2, ["bench.port=0"]),
    ("bench.network=fast", 2, ["bench.network", "narrow"]),
    ("bench.formats=[pdf]", 2, ["bench.formats[0]", "svg"]),
    ("bench.round=1", 2, ["bench.round", "bench.rounds"]),
    ("bench.peer=/no/nydusd", 1, ["bench.peer", "/no/nydusd"]),
    ("bench.tree=/no/tree", 1, ["bench.tree", "/no/tree"]),
    ("bench.erofs=/no/image", 1, ["bench.erofs", "/no/image"]),
    ("bench.work_dir=/no/dir", 1, ["bench.work_dir", "/no/dir"]),
    ("bench.output=/dev/null", 1, ["bench.output", "no directory"]),
    ("bench.report=/tmp", 1, ["bench.report", "directory"]),
    ("mountpoint=/mnt", 2, ["mountpoint", "bench.work_dir"]),
    ("cache.work_dir=/tmp", 2, ["cache.work_dir", "bench.work_dir"]),
    ("mode.threads=0", 2, ["mode.threads=0", "1 to 1024"]),
    ("mode.threads=1,2", 2, ["mode.threads", "-m"]),
    ("backend.dri=/x", 2, ["backend.dri", "did you mean `backend.dir`"]),
    ("bootstrap=/no/boot", 1, ["bootstrap", "/no/boot"]),
    ("+sweep=windos", 2, ["sweep=windos", "did you mean `windows`"]),
    ("sweep=windows", 2, ["+sweep=windows"]),
    ("+bogus=1", 2, ["+bogus", "cannot be added"]),
    ("hydra.sweep.dir=/x", 2, ["hydra.sweep.dir", "fixed"]),
    ("--bogus", 2, ["--bogus"]),
    ("-m mode.threads=1,x", 2, ["mode.threads=x", "whole number"]),
    ("-m mode.threads=1,0", 2, ["mode.threads=0", "1 to 1024"]),
    ("-m mode.threads=1,2 bench.rounds=1,2", 2, ["bench.rounds", "one value"]),
    ("-m mode.threads=1,2 bench.round=1", 2, ["bench.round"]),
    ("-m mode.threads=interval(1,2)", 2, ["mode.threads", "interval"]),
    ("-m hydra/launcher=jobli mode.threads=1,2", 2, ["hydra/launcher=jobli", "nydus-app[bench]"]),
    (f"-m backend=registry backend.host=h backend.repo=r backend.auth={SECRET}", 2, ["backend.auth", "oc.env"]),
    (f"-m mode.threads=1,2 backend=registry backend.mirrors=[{{headers:{{a:{SECRET}}}}}]", 2, ["oc.env"]),
]


@pytest.mark.parametrize(("words", "status", "said"), WRONG, ids=[words[:50] for words, _, _ in WRONG])
def test_wrong(
    words: str, status: int, said: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    good = [] if "registry" in words else GOOD
    monkeypatch.setattr("sys.argv", ["nydus-bench", *good, *words.split()])
    with pytest.raises(SystemExit) as end:
        bench.main()
    out, err = capfd.readouterr()
    assert end.value.code == status, err
    assert len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in said), err
    assert SECRET not in out + err
    assert list(tmp_path.iterdir()) == []
    assert not [m for m in mounts() if "nydus-bench-" in m.path]


def test_no_compiler_is_one_line(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-cc")
    monkeypatch.setattr("sys.argv", ["nydus-bench", *GOOD, "bench=start"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 2
    assert "no `no-such-cc` (Debian: gcc)" in capfd.readouterr().err


def test_a_dry_run_lists_the_jobs(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench.run([*GOOD, "--dry-run", "-m", "mode.data_path=fuse,erofs", "rafs.batch_size=0,4096"]) == 0
    *jobs, last = capfd.readouterr().out.splitlines()
    assert [shlex.split(job)[-2:] for job in jobs] == [
        [f"mode.data_path={path}", f"rafs.batch_size={size}"] for path in ("fuse", "erofs") for size in (0, 4096)
    ]
    assert last == "would measure 4 settings 5 times; nothing was done"
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_row_and_sweep(capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.run(["--help"]) == 0
    said = capfd.readouterr().out
    assert all(f"\n  {row.name} " in said for row in Row)
    assert all(name in said for name in recipes("sweep"))
