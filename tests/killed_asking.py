"""killed_asking.py METHOD OVERRIDE…: a daemon that is killed while it answers its own first question of that kind.

METHOD is one of BlobDevices; between the kernel's request and our answer the process gets SIGKILL.
"""

import os
import signal
import sys

from nydus_app.builder.daemon import serve
from nydus_app.config.check import check
from nydus_app.config.overrides import compose, parse_words
from nydus_app.filesystems.blob_devices import BlobDevices


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


setattr(BlobDevices, sys.argv[1], die)
tree = compose(parse_words(sys.argv[2:]))
check(tree)
serve(tree)
