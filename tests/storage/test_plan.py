"""Planning of windows: properties that hold for every table, hostile ones included."""

from hypothesis import given, settings
from hypothesis import strategies as st

from nydus_app.formats.rafs.values import Chunk, Part
from nydus_app.storage.plan import JOB_BYTES, MAX_WINDOW_BYTES, Window, plan_jobs, plan_windows


def chunk(index: int, offset: int, size: int, decoded: int = 4096) -> Chunk:
    return Chunk(0, index, offset, size, index * 4096, decoded, True, None, None)


CHUNKS = st.lists(
    st.tuples(st.integers(0, 1 << 24), st.integers(1, 1 << 20), st.integers(1, 1 << 24)), min_size=1, max_size=40
).map(lambda rows: [chunk(i, *row) for i, row in enumerate(rows)])


@settings(deadline=None)
@given(wanted=CHUNKS, ahead=CHUNKS, batch=st.sampled_from([0, 4096, 1 << 20, 1 << 28]))
def test_every_wanted_chunk_lies_in_exactly_one_window(wanted: list[Chunk], ahead: list[Chunk], batch: int) -> None:
    ahead = [c._replace(index=c.index + len(wanted) // 2) for c in ahead]
    windows = plan_windows(wanted, iter(ahead), batch)
    planned = [c.index for w in windows for c in w.chunks]
    assert len(planned) == len(set(planned))
    assert {c.index for c in wanted} <= set(planned)
    for w in windows:
        assert all(w.offset <= c.compressed_offset and c.compressed_offset + c.compressed_size <= w.end for c in w.chunks)
        if len(w.chunks) > 1:
            assert w.end - w.offset <= MAX_WINDOW_BYTES
            assert sum(c.uncompressed_size for c in w.chunks) <= MAX_WINDOW_BYTES


def test_neighbours_become_one_request() -> None:
    chunks = [chunk(i, i * 1000, 1000) for i in range(10)]
    (window,) = plan_windows(chunks[3:5], (), 1 << 20)
    assert (window.offset, window.end) == (3000, 5000)


def test_amplification_follows_the_last_chunk_up_to_the_batch_size() -> None:
    chunks = [chunk(i, i * 1000, 1000) for i in range(100)]
    (window,) = plan_windows(chunks[:1], iter(chunks[1:]), 10_000)
    assert window.end == 10_000
    assert [c.index for c in window.chunks] == list(range(10))


def test_no_amplification_without_a_batch_size() -> None:
    chunks = [chunk(i, i * 1000, 1000) for i in range(4)]
    (window,) = plan_windows(chunks[:1], iter(chunks[1:]), 0)
    assert window.chunks == (chunks[0],)


def test_a_far_chunk_is_a_request_of_its_own() -> None:
    windows = plan_windows([chunk(0, 0, 100), chunk(1, 5 << 20, 100)], (), 1 << 20)
    assert [w.offset for w in windows] == [0, 5 << 20]


def test_an_endless_table_ends() -> None:
    def forever():  # type: ignore[no-untyped-def]
        while True:
            yield chunk(7, 0, 1)

    (window,) = plan_windows([chunk(0, 0, 1)], forever(), 1 << 20)
    assert [c.index for c in window.chunks] == [0, 7]


@settings(deadline=None)
@given(chunks=CHUNKS, wanted=st.sets(st.integers(0, 40)))
def test_jobs_hold_each_chunk_once_and_what_is_waited_for_first(chunks: list[Chunk], wanted: set[int]) -> None:
    window = Window(0, 1 << 40, tuple(chunks), sum(c.uncompressed_size for c in chunks), True)
    jobs = plan_jobs(window, wanted)
    assert sorted(c.index for job in jobs for c in job) == sorted(c.index for c in chunks)
    assert all(len(job) == 1 or sum(c.uncompressed_size for c in job) <= JOB_BYTES for job in jobs)
    kinds = [{c.index in wanted for c in job} for job in jobs]
    assert all(len(kind) == 1 for kind in kinds)
    assert kinds == sorted(kinds, key=lambda kind: True not in kind)


def in_unit(index: int, unit: int, offset: int, size: int, decoded: int = 4096) -> Chunk:
    return chunk(index, offset, size, decoded)._replace(part=Part(unit, 16 << 20, index * 4096, False, None))


def test_a_unit_longer_than_a_window_is_one_window_and_one_job() -> None:
    long = (3 << 20) // 2
    chunks = [in_unit(i, i // 5, (i // 5) * long, long, 300_000) for i in range(10)]
    windows = plan_windows(chunks, (), 1 << 20)
    assert [(w.offset, w.end, len(w.chunks)) for w in windows] == [(0, long, 5), (long, 2 * long, 5)]
    assert [plan_jobs(w, {7}) for w in windows] == [[tuple(chunks[:5])], [tuple(chunks[5:])]]


def test_what_shares_a_unit_with_what_is_wanted_comes_with_it() -> None:
    chunks = [in_unit(i, i // 3, (i // 3) * 1000, 1000, 500_000) for i in range(9)]
    window = Window(0, 3000, tuple(chunks), 9 * 500_000, True)
    assert [[c.index for c in job] for job in plan_jobs(window, {4})] == [[3, 4, 5], [0, 1, 2], [6, 7, 8]]


def test_a_window_holds_as_many_units_as_memory_is_for_not_as_many_chunks() -> None:
    """Each of these bytes lies in a unit of 16 MiB of its own."""
    chunks = [in_unit(i, i, i * 100, 100, 1) for i in range(64)]
    windows = plan_windows(chunks[:1], chunks[1:], 1 << 20)
    assert [len(w.chunks) for w in windows] == [1]
    assert [len(w.chunks) for w in plan_windows(chunks, (), 1 << 20)] == [1] * 64
    small = [c._replace(part=c.part._replace(unit_size=1 << 20)) for c in chunks]
    (window, *_) = plan_windows(small, (), 1 << 20)
    assert len(window.chunks) == 16
    assert [len(job) for job in plan_jobs(window, range(64))] == [1] * 16
