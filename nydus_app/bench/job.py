"""One job: a checked tree becomes contenders, rounds and a result.

Rounds are interleaved: every contender once, then every contender again. In a sweep a job is one round
of one setting (nydus-bench makes the round the first axis), and what stands beside ours is measured by
the job that comes first with the same key; a file in the sweep's directory says that it is taken.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from nydus_app.bench.contenders import Contender, Daemon, Native, PlainErofs
from nydus_app.bench.host_lock import host_to_ourselves
from nydus_app.bench.machine import describe_machine
from nydus_app.bench.measure import Round, drop_page_cache, survey_of
from nydus_app.bench.origin import serving
from nydus_app.bench.probe import MeasureError, Probe, Survey
from nydus_app.bench.progress import Progress
from nydus_app.bench.result import Reference, Result, Samples, write_json
from nydus_app.builder.image import open_image
from nydus_app.config.bench_origin import at_origin
from nydus_app.config.bench_tree import Bench, BenchTree
from nydus_app.config.classic_file import classic_config
from nydus_app.config.tree import Dummycache
from nydus_app.errors import MountError

CLAIMS = "claims"
T = TypeVar("T")


def measure_job(tree: BenchTree, settings: dict[str, str], sweep_dir: str | None = None) -> Result:
    """Raises NydusError, before anything is mounted or after everything is undone."""
    bench: Bench = tree.bench
    if bench.blobs is None:
        return _measure(tree, settings, sweep_dir)
    with serving(os.path.abspath(bench.blobs), bench.port, bench.network):
        return _measure(at_origin(tree), settings, sweep_dir)


def _measure(tree: BenchTree, settings: dict[str, str], sweep_dir: str | None) -> Result:
    bench: Bench = tree.bench
    result = Result(settings=settings, machine=describe_machine(bench.peer))
    with host_to_ourselves(), tempfile.TemporaryDirectory(prefix="nydus-bench-") as folder:
        probe = Probe.compiled(folder, bench.timeout)
        version = _rafs_version(tree)
        if not drop_page_cache():
            result.notes.append("The page cache was not dropped (that needs root): cold rows find the blobs in memory.")
        ours = _ours(tree, version)
        survey = _survey(ours, bench, probe, sweep_dir)
        result.image = {"rafs": f"v{version}", **survey._asdict()}
        others = _others(tree, version, result, sweep_dir)
        contenders: list[tuple[Contender, Samples]] = [(ours, result.ours), *others]
        if bench.round in (None, 1):
            _check_same_content(contenders[1:], survey, bench, probe, result)
        result.serves = _measure_rounds(contenders, bench, probe, survey)
    return result


def _survey(ours: Daemon, bench: Bench, probe: Probe, sweep_dir: str | None) -> Survey:
    """In a sweep the first job of an image leaves it for the others."""
    if sweep_dir is None:
        return _named(ours, lambda: survey_of(ours, bench, probe))
    tree = ours.tree
    kept = os.path.join(sweep_dir, CLAIMS, f"survey-{_key(bench, 'survey', tree.bootstrap, tree.backend)}.json")
    try:
        with open(kept, encoding="utf-8") as f:
            return Survey(**json.load(f))
    except FileNotFoundError:
        survey = _named(ours, lambda: survey_of(ours, bench, probe))
        write_json(kept, survey._asdict())
        return survey


def _rafs_version(tree: BenchTree) -> int:
    """Opens the image, which also refuses a broken one before anything is mounted."""
    with_nothing_kept = replace(tree, cache=Dummycache(validate=tree.cache.validate), mountpoint="/")
    image = open_image(with_nothing_kept)
    try:
        return image.bootstrap.version
    finally:
        image.close()


def _ours(tree: BenchTree, version: int) -> Daemon:
    return Daemon("nydus-app", tree, _peer_validates(tree, version), by=tree.bench.program)


def _peer_validates(tree: BenchTree, version: int) -> bool:
    """The legacy file has one switch for both, and nydusd 2.4 refuses it for RAFS v6."""
    return version == 5 and (tree.cache.validate or tree.rafs.validate)


def _others(tree: BenchTree, version: int, result: Result, sweep_dir: str | None) -> list[tuple[Contender, Samples]]:
    """Who stands beside ours; those that another job of the sweep measures get a reference without samples."""
    bench: Bench = tree.bench
    found: list[tuple[Contender, Reference]] = []
    if bench.peer is not None:
        found.append(_peer(tree, version, result))
    if bench.erofs is not None:
        erofs = PlainErofs(bench.erofs)
        found.append((erofs, Reference(name=erofs.name, key=_key(bench, erofs.name, bench.erofs))))
    if bench.tree is not None:
        native = Native(os.path.abspath(bench.tree))
        found.append((native, Reference(name=native.name, key=_key(bench, native.name, native.tree))))
    result.references = [reference for _, reference in found]
    return [(c, r.samples) for c, r in found if sweep_dir is None or _claim(sweep_dir, r.key, bench.round)]


def _peer(tree: BenchTree, version: int, result: Result) -> tuple[Contender, Reference]:
    bench: Bench = tree.bench
    validate = _peer_validates(tree, version)
    if version == 6 and (tree.cache.validate or tree.rafs.validate):
        result.notes.append("nydusd does not validate RAFS v6 images; beside rows that validate it runs without.")
    peer = Daemon("nydusd", tree, validate, program=bench.peer)
    network = bench.network.value if bench.blobs is not None else None
    known = (classic_config(tree, validate=validate), tree.bootstrap, tree.mode.threads, bench.peer, network)
    settings = {k: v for k, v in result.settings.items() if k in PEER_SETTINGS}
    return peer, Reference(name=peer.name, key=_key(bench, peer.name, *known), settings=settings)


PEER_SETTINGS = frozenset(
    {"backend", "backend.dir", "bench.network", "bench.check", "bootstrap", "cache", "rafs.batch_size", "mode.threads", "rafs.enable_xattr", "bench.peer"}
)
"""Keys of a sweep that make a peer another one; shown in its column where there are several."""


def _key(bench: Bench, name: str, *parts: object) -> str:
    """Hashed: a peer's configuration may hold secrets."""
    rows = sorted(row.name for row in bench.rows)
    text = repr((name, parts, rows, bench.seconds, bench.big_file, bench.small_limit, bench.check))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _claim(sweep_dir: str, key: str, round_number: int | None) -> bool:
    """Whether this job is the first; O_EXCL also decides between processes and hosts that share the directory."""
    folder = os.path.join(sweep_dir, CLAIMS)
    os.makedirs(folder, exist_ok=True)
    try:
        os.close(os.open(os.path.join(folder, f"{key}-{round_number}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except OSError as e:
        if e.errno == errno.EEXIST:
            return False
        raise
    return True


def remove_claims(sweep_dir: str) -> None:
    shutil.rmtree(os.path.join(sweep_dir, CLAIMS), ignore_errors=True)


def _check_same_content(
    others: Sequence[tuple[Contender, Samples]], survey: Survey, bench: Bench, probe: Probe, result: Result
) -> None:
    """A directory or a plain image with other files is measured, but the reader is told."""
    for contender, _ in others:
        if contender.has_cache:
            continue
        found = _named(contender, lambda c=contender: survey_of(c, bench, probe))
        if (found.files, found.bytes, found.big_bytes) != (survey.files, survey.bytes, survey.big_bytes):
            result.notes.append(
                f"{contender.name} has other content than the image: {found.files} files of {found.bytes} bytes,"
                f" not {survey.files} of {survey.bytes}."
            )


def _named(contender: Contender, call: Callable[[], T]) -> T:
    """Errors of a contender begin with its name."""
    try:
        return call()
    except (MeasureError, MountError) as e:
        raise type(e)(f"{contender.name}: {e}") from None


def _measure_rounds(
    contenders: Sequence[tuple[Contender, Samples]], bench: Bench, probe: Probe, survey: Survey
) -> str:
    """Fills the samples; what the first contender had at its mountpoint."""
    serves = ""
    rounds = [bench.round] if bench.round is not None else range(1, bench.rounds + 1)
    progress = Progress(len(rounds) * len(contenders) * len(bench.rows), sys.stderr)
    try:
        for number in rounds:
            for contender, samples in contenders:

                def asked(row: str, name: str = contender.name, number: int = number) -> None:
                    progress.step(f"round {number}: {name}: {row}")

                one = Round(contender, bench, probe, survey, number, asked)
                for row, figure in _named(contender, one.run).items():
                    samples.setdefault(row.name, []).append(figure)
                serves = serves or one.serves
    finally:
        progress.close()
    return serves


