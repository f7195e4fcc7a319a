"""What an image fetches before anybody asks, as the tree says: a recorded start first, then prefetch; and recording one."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from nydus_app.config.tree import AUTO, Dummycache, Tree
from nydus_app.errors import ConfigFileError, InvalidImage
from nydus_app.formats.rafs.values import Bootstrap
from nydus_app.storage.background import Background
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.cache.whole_blob import WholeBlob
from nydus_app.storage.chunk_index import ChunkIndex

if TYPE_CHECKING:
    from nydus_app.storage.prefetch import Prefetcher
    from nydus_app.storage.replay import Replayer

log = logging.getLogger("nydus.builder")

DEFAULT_BATCH_SIZE = 1 << 20
"""Of a prefetch whose batch size is 0."""


def recording_beside(bootstrap: str) -> str:
    """Where a recording of an image's start is looked for."""
    return f"{bootstrap}.recording"


def record_and_fetch_ahead(
    tree: Tree,
    bootstrap: Bootstrap,
    caches: Sequence[ChunkCache],
    indexes: Sequence[ChunkIndex],
    background: Background,
) -> Sequence[ChunkCache]:
    """Hand what is to be done behind the requests to `background`; yields the caches to read through.

    Nothing is read ahead where nothing is kept (dummycache). Raises ConfigFileError for a list or a recording that was
    named and cannot be read.
    """
    if isinstance(tree.cache, Dummycache):
        if tree.prefetch.enable or tree.recording.save is not None:
            log.info("cache=dummycache keeps nothing: nothing is prefetched or recorded")
        return caches
    replay = _replayer(tree, bootstrap, caches, indexes)
    prefetch = _prefetcher(tree, bootstrap, caches, indexes, background)

    steps = [step for step in (replay, prefetch) if step is not None]

    async def ahead() -> None:
        for step in steps:
            await step.run()

    if steps:
        background.tasks.append(ahead)
    if tree.recording.save is None:
        return caches
    from nydus_app.storage.recorder import RecordedCache, Recorder

    recorder = Recorder(tree.recording.save, bootstrap.blobs, indexes, tree.recording.time)
    background.tasks.append(recorder.run)
    return [c if isinstance(c, WholeBlob) else RecordedCache(c, recorder, i) for i, c in enumerate(caches)]


def _replayer(
    tree: Tree, bootstrap: Bootstrap, caches: Sequence[ChunkCache], indexes: Sequence[ChunkIndex]
) -> "Replayer | None":
    assert tree.bootstrap is not None
    path = tree.recording.replay
    if path is None or (path == AUTO and not os.path.exists(recording_beside(tree.bootstrap))):
        return None
    from nydus_app.storage.replay import Replayer, read_recording, spans_in

    named, path = path != AUTO, recording_beside(tree.bootstrap) if path == AUTO else path
    try:
        spans = spans_in(read_recording(path), bootstrap.blobs)
    except OSError as e:
        if named:
            raise ConfigFileError(f"recording.replay {path}: {e.strerror}") from None
        return None
    except InvalidImage as e:
        log.warning("%s is not replayed: %s", path, e)
        return None
    return Replayer(spans, caches, indexes)


def _prefetcher(
    tree: Tree,
    bootstrap: Bootstrap,
    caches: Sequence[ChunkCache],
    indexes: Sequence[ChunkIndex],
    background: Background,
) -> "Prefetcher | None":
    # nydusd asks the image's section whether, the cache's how, which inherits from the former (contract 4.9).
    options = tree.cache.prefetch if tree.cache.prefetch.enable else tree.prefetch
    if not tree.prefetch.enable or not options.threads:
        return None
    from nydus_app.storage.prefetch import Prefetcher, plan_prefetch

    paths = None if tree.prefetch_files is None else _read_list(tree.prefetch_files)
    everything = tree.prefetch.prefetch_all
    if everything and any(cache.is_bounded for cache in caches):
        log.info("a bounded cache is not filled by prefetch_all: only what a list or the image names is prefetched")
        everything = False
    return Prefetcher(
        bootstrap,
        caches,
        indexes,
        background,
        partial(plan_prefetch, bootstrap, paths, everything),
        threads=options.threads,
        batch_size=options.batch_size or DEFAULT_BATCH_SIZE,
        bandwidth_limit=options.bandwidth_limit,
        stream=tree.prefetch.stream_prefetch,
    )


def _read_list(path: str) -> list[bytes]:
    """One absolute path a line, blanks around it and blank lines skipped (contract 1.4)."""
    try:
        with open(path, "rb") as f:
            return [line.strip() for line in f if line.strip()]
    except OSError as e:
        raise ConfigFileError(f"prefetch_files {path}: {e.strerror}") from None
