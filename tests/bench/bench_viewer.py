"""Benchmark of the viewer's server: pages while many connections are idle."""

from __future__ import annotations

import http.client
import shutil
import socket
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from histomake.viewer.server import ViewerServer, serve

from tests.bench.figures import Figure
from tests.marked_slide import SLIDE, make_results

IDLE = 200
ROUNDS = 20
PAGES = ("/", "/api/slides", f"/api/slides/{SLIDE}", f"/files/slides/{SLIDE}.json")


def run(work: Path) -> list[Figure]:
    """Return the slowest answer while connections are idle, of which every second one has sent half a request."""
    folder = work / "viewer"
    shutil.rmtree(folder, ignore_errors=True)
    layout = make_results(folder / "results")
    library = folder / "openseadragon.min.js"
    library.write_text("")
    server = serve(layout.results, port=0, openseadragon=library)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with ExitStack() as idle:
            for number in range(IDLE):
                connection = idle.enter_context(socket.create_connection(("127.0.0.1", server.server_port)))
                connection.sendall(b"GET / HT" if number % 2 else b"")
            times = [_seconds(server, page) for _ in range(ROUNDS) for page in PAGES]
    finally:
        server.shutdown()
        server.server_close()
    slowest, note = max(times), f"median {statistics.median(times):.4f} s of {len(times)} requests"
    return [Figure(f"viewer: answer with {IDLE} idle connections, slowest", slowest, "<= 1", slowest <= 1, "s", note)]


def _seconds(server: ViewerServer, page: str) -> float:
    """Return the time from a new connection to the whole answer."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", page, headers={"Cookie": f"histomake-{server.server_port}={server.guard.token}"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{page}: {answer.status}")
    return time.perf_counter() - start
