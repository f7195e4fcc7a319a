"""The values that every RAFS version yields, and the port that both readers fill.

Offsets and sizes are bytes, ends are exclusive. Names, symlink targets and xattrs are bytes:
an image owes nobody UTF-8. Nothing here is kept per file: a value lives as long as the request
that asked for it.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol

from nydus_app.formats.chunkmap import Cutting


class Compressor(IntEnum):
    """Blob table entry, offset 76 (`v6.rs`)."""

    none = 0
    lz4_block = 1
    gzip = 2
    zstd = 3


class Digester(IntEnum):
    blake3 = 0
    sha256 = 1


class SuperFlags(IntFlag):
    """RafsSuperFlags (`rafs/src/metadata/mod.rs`)."""

    COMPRESSION_NONE = 0x1
    COMPRESSION_LZ4 = 0x2
    HASH_BLAKE3 = 0x4
    HASH_SHA256 = 0x8
    EXPLICIT_UID_GID = 0x10
    HAS_XATTR = 0x20
    COMPRESSION_GZIP = 0x40
    COMPRESSION_ZSTD = 0x80
    INLINED_CHUNK_DIGEST = 0x100
    TARFS = 0x200
    ENCRYPTION_NONE = 0x0100_0000
    ENCRYPTION_AES_XTS = 0x0200_0000


class BlobFeatures(IntFlag):
    """BlobFeatures (`storage/src/device.rs`); the low 16 bits are incompatible ones."""

    ALIGNED = 0x1
    INLINED_FS_META = 0x2
    CHUNK_INFO_V2 = 0x4
    ZRAN = 0x8
    SEPARATE = 0x10
    INLINED_CHUNK_DIGEST = 0x20
    TARFS = 0x40
    BATCH = 0x80
    ENCRYPTED = 0x100
    IS_CHUNKDICT_GENERATED = 0x200
    IS_SEPARATED_WITH_PREFETCH_FILES = 0x400
    EXTERNAL = 0x800
    HAS_TAR_HEADER = 0x1000_0000
    HAS_TOC = 0x2000_0000
    CAP_TAR_TOC = 0x4000_0000
    V5_NO_EXT_TABLE = 0x8000_0000  # never on disk


class InflateStart(NamedTuple):
    """Where in a deflate stream inflating begins (rafs-format 8.3)."""

    byte: int  # the one before the first, of which the stream has used all but `bits`
    bits: int
    dictionary_offset: int  # in the blob's uncompressed compression information
    dictionary_size: int


class Part(NamedTuple):
    """The place of a chunk in a unit: stored bytes that can only be decoded as one, perhaps for many chunks."""

    unit: int  # its number in the blob; the chunk's own where it is negative
    unit_size: int  # decoded
    offset: int  # of the chunk in the decoded unit
    is_encrypted: bool
    start: InflateStart | None  # zran


class Chunk(NamedTuple):
    """One chunk of a blob, whatever table it was read from.

    `digest` is None where the table that named the chunk carries none; `crc32c` is None unless
    the record says that it has one. Where there is a `part`, the compressed place is that of its unit.
    """

    blob_index: int
    index: int  # ci index: number of the chunk in its blob
    compressed_offset: int
    compressed_size: int
    uncompressed_offset: int
    uncompressed_size: int
    is_compressed: bool
    digest: bytes | None
    crc32c: int | None
    part: Part | None = None


ChunkRecord = tuple[int, int, bytes, int | None]
"""What v6's chunk table says of a chunk: uncompressed offset and size, digest, crc32c if it has one."""


class Segment(NamedTuple):
    """`size` bytes at `offset` inside `chunk`, in the order a reader wants them."""

    chunk: Chunk
    offset: int
    size: int


class Cipher(NamedTuple):
    """AES-128-XTS: the two halves of the key, and one tweak for everything in the blob (rafs-format 9.4)."""

    key: bytes  # 32 bytes
    iv: bytes  # 16 bytes


class Blob(NamedTuple):
    """An entry of the blob table. `id` is the effective id (inlined bootstraps resolved)."""

    index: int
    id: str
    features: BlobFeatures
    compressor: Compressor
    digester: Digester
    chunk_size: int
    chunk_count: int
    compressed_size: int  # of the whole blob object
    uncompressed_size: int
    ci_compressor: Compressor
    ci_offset: int  # 0 and 0 sizes: no compression information (v5)
    ci_compressed_size: int
    ci_uncompressed_size: int
    toc_size: int
    toc_digest: bytes
    meta_id: str = ""  # of the object that holds the compression information of a SEPARATE blob
    cipher: Cipher | None = None

    @property
    def cutting(self) -> Cutting:
        return Cutting(self.chunk_count, self.chunk_size)

    @property
    def has_units(self) -> bool:
        """Some of its chunks are parts of units."""
        return bool(self.features & (BlobFeatures.BATCH | BlobFeatures.ZRAN | BlobFeatures.ENCRYPTED))

    @property
    def is_stargz(self) -> bool:
        """Nobody has said how long the compressed chunks of a legacy stargz blob are (rafs-format 9.1)."""
        return self.compressor is Compressor.gzip and not self.features & BlobFeatures.CHUNK_INFO_V2

    @property
    def data_size(self) -> int:
        """Bytes of the blob object that can hold chunk data (rafs-format "Data size")."""
        if self.features & BlobFeatures.SEPARATE or not self.features & BlobFeatures.CAP_TAR_TOC:
            return self.compressed_size
        end = self.ci_offset if self.ci_compressed_size else self.compressed_size
        return end - 512 if self.features & BlobFeatures.HAS_TAR_HEADER else end


class Inode(NamedTuple):
    """One inode as stored; `position` is the byte offset of its record in the bootstrap."""

    ino: int  # v5: number, root 1; v6: EROFS nid
    mode: int  # type and permissions
    nlink: int
    uid: int
    gid: int
    rdev: int  # as os.makedev() encodes it
    size: int
    blocks: int  # of 512 bytes
    mtime_s: int
    mtime_ns: int
    position: int


class DirEntry(NamedTuple):
    """`offset` is the cookie that continues the listing behind this entry (never 0)."""

    offset: int
    ino: int
    name: bytes
    kind: int  # S_IFMT bits, 0 where the directory does not say


class Bootstrap(Protocol):
    """A mapped bootstrap. Every method may raise InvalidImage and no other error for bad bytes."""

    version: int  # 5 or 6
    flags: SuperFlags
    chunk_size: int
    root_ino: int
    inode_count: int
    max_ino: int
    blobs: list[Blob]

    @property
    def content(self) -> memoryview:
        """Its bytes, as mapped."""
        ...

    def inode(self, ino: int) -> Inode: ...

    def lookup(self, parent: Inode, name: bytes) -> int | None:
        """Inode number of `name` in the directory; `.` and `..` included; None if absent."""
        ...

    def entries(self, directory: Inode, start: int) -> Iterator[DirEntry]:
        """Entries whose cookie is greater than `start` (0: all), `.` and `..` left out."""
        ...

    def readlink(self, inode: Inode) -> bytes: ...

    def xattr_names(self, inode: Inode) -> list[bytes]: ...

    def xattr(self, inode: Inode, name: bytes) -> bytes | None: ...

    def chunks(self, inode: Inode, first: int, count: int) -> list[Chunk]:
        """Records `first` … `first + count - 1` of a regular file.

        v6 leaves compressed_offset, compressed_size and is_compressed 0: the blob's compression
        information holds them (`formats/blob/compression_info.py`).
        """
        ...

    def segments(self, inode: Inode, offset: int, end: int) -> list[Segment]:
        """The chunks that hold bytes [offset, end) of a regular file, which has them, in that order."""
        ...

    def stored_chunk_records(self, blob_index: int, indexes: Sequence[int]) -> bytes:
        """v6: the chunk table's records of a blob's chunks, 80 bytes each as they are stored (`v6.decode_chunk_records`),
        NO_RECORD for what it does not name; v5 has no such table."""
        ...

    def neighbours(self, inode: Inode) -> Iterator[Chunk]:
        """v5: chunks of the up to 64 inodes behind this one, for read amplification; v6: none."""
        ...

    def prefetch_inos(self) -> list[int]:
        """The prefetch table without padding."""
        ...

    def verify_inode(self, inode: Inode) -> None:
        """Compare a v5 inode with its stored digest; v6 has none and passes."""
        ...

    def close(self) -> None: ...
