"""Blob ids become file names; an id comes from an image, so it is not trusted with a path."""

from nydus_app.errors import InvalidImage


def blob_file_name(blob_id: str) -> str:
    """`blob_id` itself if it is one harmless path component, else InvalidImage."""
    if not blob_id or blob_id in (".", "..") or "/" in blob_id or "\0" in blob_id or len(blob_id) > 200:
        raise InvalidImage(f"blob id {blob_id!r} is no file name")
    return blob_id
