"""The viewer's server for tests and benchmarks, and a browser that shows one of its pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histomake.base.layout import Layout
from histomake.viewer.server import OPENSEADRAGON, ViewerServer, serve

from tests.browser import Browser
from tests.marked_slide import READY


@contextmanager
def served(layout: Layout, library: Path = OPENSEADRAGON) -> Iterator[ViewerServer]:
    """A running server of a results folder; ``library``: any file will do where no browser asks for it."""
    server = serve(layout.results, port=0, openseadragon=library)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def viewing(layout: Layout, page: str, *, ready: str = READY, **window: int) -> Iterator[Browser]:
    """A browser that shows a page, once ``ready`` is true there; ``window``: its width and height.

    ``browser.address`` is that of the server.
    """
    with served(layout) as server, Browser(**window) as browser:
        browser.address = f"http://127.0.0.1:{server.server_port}"
        browser.open(server.guard.address(server.server_port, page))
        browser.wait(ready)
        yield browser
