"""A server of the embedded model, in a thread of this process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from runtime.model import load
from runtime.serve.app import Door
from runtime.serve.hosts import Hosts
from runtime.serve.limits import Limits
from runtime.serve.server import listen
from runtime.serve.service import Service
from tests.runtime.serve.fakes import Running

LICENCE = "Apache-2.0"


@contextlib.contextmanager
def serving() -> Iterator[Running]:
    """The server, on loopback without a key, while the block runs."""
    model = load(threads=1)
    service = Service(model, Limits(), Door(Hosts("127.0.0.1")), LICENCE)
    listener, is_up = listen("127.0.0.1", 0), threading.Event()
    server = service.server(is_up.set)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        assert is_up.wait(30)
        yield Running(*listener.getsockname(), service.leases)
    finally:
        server.should_exit = True
        thread.join()
        service.close()
        model.close()
