"""Blob ids become file names; an id comes from an image, so it is not trusted with a path."""

from nydus_app.errors import InvalidImage

OF_CACHES = (
    ".blob.data", ".blob.raw", ".blob.meta", ".blob.digest", ".blob.toc", ".chunk_map", ".ages", ".encrypted", ".image.boot",
    ".erofs", ".tmp",
)  # fmt: skip
"""What ends the names of a cache directory's files: an id with such an end would be another blob's file."""


def blob_file_name(blob_id: str) -> str:
    """`blob_id` itself if it is one harmless path component, else InvalidImage."""
    if not blob_id or blob_id in (".", "..") or "/" in blob_id or "\0" in blob_id or len(blob_id) > 200:
        raise InvalidImage(f"blob id {blob_id!r} is no file name")
    if blob_id.endswith(OF_CACHES):
        raise InvalidImage(f"blob id {blob_id!r} is the name of another blob's file in a cache directory")
    return blob_id
