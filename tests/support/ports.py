"""Ports of loopback for processes that have to be told where to listen."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[int]:
    """Keep a port at which nobody listens for whoever is told its number: the system gives it to nobody else, also while a server is started anew."""
    with socket.socket() as keeping:
        keeping.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeping.bind(("127.0.0.1", 0))
        port = int(keeping.getsockname()[1])
        if sys.platform != "linux":
            # Elsewhere nobody could listen there beside it.
            keeping.close()
        yield port
