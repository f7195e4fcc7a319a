"""A layout is made once, believed only while it is whole, and gives each chunk its place."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nydus_app.errors import InvalidImage
from nydus_app.formats.erofs.kept import HEADER_SIZE
from nydus_app.formats.erofs.structs import SUPERBLOCK, SUPERBLOCK_AT
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.storage import kept_layout
from nydus_app.storage.address_space import BLOCK
from nydus_app.storage.kept_layout import Layout
from nydus_app.storage.laid_out import LaidOutPlaces

IMAGE = "v5-zstd"


@pytest.fixture
def laid_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each time that something was laid out."""
    times: list[int] = []
    real = kept_layout.ErofsImage

    def counted(*args: object, **options: object) -> object:
        times.append(1)
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(kept_layout, "ErofsImage", counted)
    return times


Open = Callable[..., Layout]


@pytest.fixture
def open_layout(golden: Path, tmp_path: Path) -> Iterator[Open]:
    files = []

    def open_it(name: str = IMAGE, work_dir: Path = tmp_path, owner: tuple[int, int] | None = None, verify: bool = False):
        layout = kept_layout.open_layout(bootstrap_of(golden, name), str(work_dir), owner=owner, verify=verify)
        files.append(layout.file)
        return layout

    yield open_it
    for file in files:
        file.close()


def bootstrap_of(golden: Path, name: str) -> BootstrapV5:
    bootstrap = open_bootstrap((golden / name / "boot").read_bytes())
    assert isinstance(bootstrap, BootstrapV5)
    return bootstrap


def rows(layout: Layout) -> list[list[list[int]]]:
    return [[list(t.indexes), list(t.starts), list(t.positions)] for t in layout.tables]


@contextmanager
def one_warning(caplog: pytest.LogCaptureFixture, text: str) -> Iterator[None]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "nydus"):
        yield
    assert [r.levelname for r in caplog.records] == ["WARNING"] and text in caplog.text


def test_it_is_made_once(open_layout: Open, laid_out: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = open_layout(), open_layout()
    assert len(laid_out) == 1
    assert first.path == second.path and rows(first) == rows(second)
    assert os.listdir(tmp_path) == [os.path.basename(first.path)]
    assert not caplog.records


def test_its_use_shows_in_its_time(open_layout: Open) -> None:
    path = open_layout().path
    os.utime(path, (0, 0))
    open_layout()
    assert os.stat(path).st_mtime > 0


def test_another_bootstrap_another_layout(open_layout: Open, laid_out: list[int]) -> None:
    assert open_layout().path != open_layout("v5-sha256").path
    assert len(laid_out) == 2


def test_another_owner_is_laid_out_anew(open_layout: Open, laid_out: list[int]) -> None:
    for owner in (None, (0, 0), (1, 2), (1, 2)):
        open_layout(owner=owner)
    assert len(laid_out) == 3


def test_digests_count_once_they_were_compared(open_layout: Open, laid_out: list[int]) -> None:
    for verify, times in ((False, 1), (True, 2), (False, 2), (True, 2)):
        open_layout(verify=verify)
        assert len(laid_out) == times


def _flip(at: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[at] ^= 1
        return bytes(damaged)

    return flip


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "header": _flip(17),
    "owner": _flip(50),
    "padding of the header": _flip(900),
    "content digest": _flip(HEADER_SIZE - 1),
    "superblock": _flip(SUPERBLOCK_AT + 4),
    "image": _flip(20_000),
    "tables": _flip(-5),
    "cut": lambda content: content[:-4096],
    "cut in the header": lambda content: content[:500],
    "empty": lambda content: b"",
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_damaged_is_laid_out_anew(
    what: str, open_layout: Open, laid_out: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    layout = open_layout()
    right = Path(layout.path).read_bytes()
    # A running daemon has the file mapped: it must not change under it.
    damaged = Path(f"{layout.path}.other")
    damaged.write_bytes(DAMAGE[what](right))
    os.replace(damaged, layout.path)
    with one_warning(caplog, "laid out anew"):
        again = open_layout()
    assert len(laid_out) == 2
    assert rows(again) == rows(layout)
    assert Path(again.path).read_bytes() == right


def test_another_image_s_layout_is_not_believed(
    open_layout: Open, laid_out: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = open_layout(), open_layout("v5-sha256")
    shutil.copy(other.path, f"{ours.path}.other")
    os.replace(f"{ours.path}.other", ours.path)
    with one_warning(caplog, "another bootstrap"):
        again = open_layout()
    assert rows(again) == rows(ours) and len(laid_out) == 3


def test_without_a_place_to_keep_it_it_lasts_as_long_as_the_daemon(
    open_layout: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with one_warning(caplog, "is not kept"):
        layout = open_layout(work_dir=tmp_path / "missing")
    kept = open_layout()
    assert Path(layout.path).read_bytes() == Path(kept.path).read_bytes()
    assert rows(layout) == rows(kept)


def test_what_has_its_name_and_is_no_file_is_left_alone(
    open_layout: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = Path(open_layout().path).name
    Path(open_layout().path).unlink()
    (tmp_path / name).mkdir()
    layout = open_layout()
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    assert Path(layout.path).stat().st_size and os.listdir(tmp_path) == [name]


def test_who_is_stopped_before_it_is_complete_leaves_nothing(
    open_layout: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> list[bytes]:
        assert os.listdir(tmp_path) == []  # what SIGKILL would leave now
        raise KeyboardInterrupt

    monkeypatch.setattr(kept_layout, "encode_tables", stop)
    with pytest.raises(KeyboardInterrupt):
        open_layout()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["v5-zstd", "v5-chunk4k", "v5-merged", "v5-aligned"])
def test_every_address_leads_to_its_chunk(name: str, golden: Path, open_layout: Open) -> None:
    bootstrap, layout = bootstrap_of(golden, name), open_layout(name)
    blocks = SUPERBLOCK.unpack_from(Path(layout.path).read_bytes(), SUPERBLOCK_AT)[9]
    assert blocks * BLOCK <= os.stat(layout.path).st_size
    for blob, table in zip(bootstrap.blobs, layout.tables, strict=True):
        places = LaidOutPlaces(bootstrap, blob, table)
        if not places.size:
            continue
        whole = places.extents(0, places.size)
        assert [e.index for e in whole] == list(table.indexes)
        assert [e.end for e in whole[:-1]] == [e.start for e in whole[1:]] and whole[-1].end == places.size
        for extent, chunk in zip(whole, places.chunks(table.indexes), strict=True):
            assert (chunk.index, chunk.blob_index) == (extent.index, blob.index)
            assert (extent.place, extent.stop - extent.start) == (chunk.uncompressed_offset, chunk.uncompressed_size)
            assert places.extents(extent.end - 1, extent.end) == [extent]
            assert places.end_of(extent.index) == extent.end
        assert list(places.following(whole[0].index)) == places.chunks(table.indexes[1:])
        with pytest.raises(InvalidImage):
            places.extents(places.size - 1, places.size + 1)


def test_chunks_that_the_image_does_not_name_are_stepped_over(golden: Path, open_layout: Open) -> None:
    """The merged image has lost files of its lower layer."""
    bootstrap, layout = bootstrap_of(golden, "v5-merged"), open_layout("v5-merged")
    blob, table = next((b, t) for b, t in zip(bootstrap.blobs, layout.tables, strict=True) if t.longest_gap)
    places = LaidOutPlaces(bootstrap, blob, table)
    absent = sorted(set(range(len(places))) - set(table.indexes))
    assert absent and places.chunks(absent) == []
    for index in absent:
        assert places.end_of(index) == (places.end_of(index - 1) if index else 0)
