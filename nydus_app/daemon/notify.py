"""Telling the service manager how far we are: the sd_notify(3) protocol, one datagram a message.

Nothing happens without NOTIFY_SOCKET in the environment; a manager that does not listen is no error.
"""

import os
import socket
from contextlib import suppress


def send(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
        # A leading @ stands for the NUL of Linux's abstract namespace.
        s.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def ready() -> None:
    send(f"READY=1\nMAINPID={os.getpid()}")


def stopping() -> None:
    send("STOPPING=1")
