"""successor.py SOCKET OVERRIDE…: a daemon that shows its session to whoever keeps it, or goes on with one.

SOCKET is the descriptor of a Unix datagram socket. A message that waits there is a session to take
over (its table, and the descriptor beside it); ours is sent to the same socket when we serve.
"""

import os
import socket
import sys

from nydus_app.builder.daemon import serve
from nydus_app.config.check import check
from nydus_app.config.overrides import compose, parse_words
from nydus_app.daemon.handover import Inherited, Session, decode_session, encode_session


class Sender:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def keep(self, fd: int, session: Session) -> None:
        socket.send_fds(self._sock, [encode_session(session)], [fd])


def main() -> None:
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.setblocking(False)
    try:
        table, fds, _, _ = socket.recv_fds(sock, 65536, 1)
    except BlockingIOError:
        inherited = None
    else:
        inherited = Inherited(fds[0], decode_session(table))
    tree = compose(parse_words(sys.argv[2:]))
    check(tree)
    sys.exit(serve(tree, inherited, Sender(sock)))


main()
