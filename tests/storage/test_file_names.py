"""Names of files: no blob takes another one's, and no writer another's."""

import os
from pathlib import Path

import pytest

from nydus_app.errors import InvalidImage
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.directory import SUFFIXES
from nydus_app.storage.whole_file import TEMPORARY, replacing


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".blob.data.1a2b.tmp"])
def test_a_blob_is_not_called_as_the_file_of_another(suffix: str) -> None:
    """Its map would be that one's: `<id>.chunk_map` is nydusd 2.2's name for it."""
    assert blob_file_name("b" * 64) == "b" * 64
    with pytest.raises(InvalidImage, match="another blob's file"):
        blob_file_name("b" * 64 + suffix)


def test_two_that_write_one_file_at_once_write_two(tmp_path: Path) -> None:
    """In containers of their own both may have number 1."""
    path = str(tmp_path / "file")
    with replacing(path) as a:
        a.write(b"A" * 4096)
        with replacing(path) as b:
            b.write(b"B")
            assert all(TEMPORARY.fullmatch(name) for name in os.listdir(tmp_path)) and len(os.listdir(tmp_path)) == 2
        assert Path(path).read_bytes() == b"B"
        a.write(b"A")
    assert Path(path).read_bytes() == b"A" * 4097 and os.listdir(tmp_path) == ["file"]
