"""Nydus image service: mounts RAFS container images in milliseconds, fetches their data on demand.

`mount` and `open_image` are for Python programs (`python_api.py`); they are loaded when first used,
because the command `nydusd` starts in the time that their imports would take.
"""

from nydus_app import version

TYPE_CHECKING = False  # typing's own would be the first thing that every command waits for
if TYPE_CHECKING:
    from nydus_app.python_api import mount, open_image

__version__ = version.__version__
__all__ = ["mount", "open_image"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from nydus_app import python_api

        return getattr(python_api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
