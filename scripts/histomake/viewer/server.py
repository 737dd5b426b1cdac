"""Web server of the viewer: loopback only; serves byte ranges of files in the results folder, and no other files.

`histomake.viewer.guard` says whose requests are answered.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import numpy as np
import pyarrow as pa
from zarr.errors import BaseZarrError

from histomake.base.errors import HistomakeError
from histomake.base.layout import Layout
from histomake.pictures import canvas
from histomake.slide.reader import SlideReader, open_slide
from histomake.viewer import (
    content,
    errors,
    graph_layers,
    guard,
    masks,
    outlines,
    progress,
    reader_layers,
    slide_list,
    virtual,
)
from histomake.viewer.guard import Guard, RefusedError
from histomake.viewer.neighbours import Neighbours

log = logging.getLogger(__name__)

ASSETS = Path(__file__).parent
OPENSEADRAGON = ASSETS / "vendor" / "openseadragon.min.js"
PAGES = {"viewer.html", "viewer.js", "store.js", "list.js", "regions.js", "progress.html", "progress.js"}
BLOCK = 1 << 20
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
TILE_QUALITY = 90
LAYER = re.compile(rf"{masks.ANNOTATION}|[\w-]+(\.\w+)?", re.ASCII)
"""Names of layers. Others could lead to files outside of the results."""
IDLE_SECONDS = 30
"""A connection without a request for this long is closed."""
CONNECTIONS = 512
"""Open connections at once; each has a thread. Further ones are closed."""
REQUESTS = 32
"""Requests that are worked on at once. Idle connections do not count."""


UNREADABLE = (HistomakeError, OSError, pa.ArrowException, msgspec.MsgspecError, json.JSONDecodeError, BaseZarrError)
"""Errors of files that are damaged or half written."""

NO_HEADERS: Mapping[str, str] = {}


class ViewerServer(ThreadingHTTPServer):
    """Server of one results folder. Readers of slides whose tiles browsers cannot decode stay open.

    ``allowed``: folders outside the results that symbolic links in them may lead to.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, results: Path, *, port: int, openseadragon: Path, allowed: Sequence[Path] = ()) -> None:
        self.layout = Layout(results.resolve())
        self.openseadragon = openseadragon
        self.allowed = [folder.resolve() for folder in allowed]
        self.guard = Guard()
        self.requests = threading.BoundedSemaphore(REQUESTS)
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        self._readers: dict[Path, tuple[Any, SlideReader]] = {}
        self._readers_lock = threading.Lock()
        self.neighbours = Neighbours(self.layout)
        self._outlines: tuple[Any, outlines.Outlines] | None = None
        self._outlines_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def outlines(self, slide: str) -> outlines.Outlines:
        """The outlines of a slide. The last slide's are cached; concurrent requests wait for one reading."""
        path = self.layout.outlines(slide)
        with self._outlines_lock:
            key = (slide, path.stat().st_mtime_ns) if path.is_file() else None
            if self._outlines is None or self._outlines[0] != key:
                self._outlines = (key, outlines.open_outlines(self.layout, slide))
            return self._outlines[1]

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        return self.guard.address(self.server_port)

    def reader(self, slide: str, transfer: str | None = None) -> SlideReader:
        """The open reader of a slide, or of its virtual slide; opened again if it was made again. Raises KeyError."""
        content.require(self.layout, slide)
        scanned = self.layout.manifest(slide)
        manifest = scanned if transfer is None else virtual.manifest_of(self.layout, slide, transfer)
        found = manifest.stat()
        key = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._readers_lock:
            if manifest not in self._readers or self._readers[manifest][0] != key:
                self._readers[manifest] = (key, open_slide(manifest))
            return self._readers[manifest][1]

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle a connection in its thread, unless there are too many."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore closed connections: browsers cancel requests for tiles that are no longer visible."""
        log.debug("connection of %s ended", client_address, exc_info=True)


def serve(results: Path, *, port: int, openseadragon: Path, allowed: Sequence[Path] = ()) -> ViewerServer:
    """Create a server for ``results`` on loopback; port 0 chooses a free port. Raises HistomakeError if it fails."""
    if not (results / "slides").is_dir():
        raise HistomakeError(f"{results} holds no slides: give the results folder of a run")
    if not openseadragon.is_file():
        raise HistomakeError(f"{openseadragon} is missing: run `make viewer`, which fetches OpenSeadragon with npm")
    try:
        return ViewerServer(results, port=port, openseadragon=openseadragon, allowed=allowed)
    except OSError as error:
        raise HistomakeError(
            f"port {port} on 127.0.0.1 cannot be used ({error}); choose another with --port"
        ) from error


def safe_path(root: Path, relative: str, allowed: Sequence[Path] = ()) -> Path:
    """Resolve ``relative`` under ``root``. Raises RefusedError for paths, or links, that leave it and ``allowed``."""
    hidden = "\0" in relative or any(part.startswith(".") for part in relative.split("/"))
    target = root if hidden else (root / relative.lstrip("/")).resolve()
    if hidden or not any(target.is_relative_to(folder) for folder in (root, *allowed)):
        raise RefusedError(HTTPStatus.FORBIDDEN, "outside the results folder; see histomake view --allow")
    if not target.is_file():
        raise RefusedError(HTTPStatus.NOT_FOUND, "no such file")
    return target


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Start and end byte of a Range header (RFC 9110, 14.1.2), end exclusive; None if the whole file is requested.

    Only one range is understood. RefusedError when it lies outside the file.
    """
    match = RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    start = max(0, size - int(last)) if not first else int(first)
    stop = size if not first or not last else min(int(last) + 1, size)
    if start >= stop:
        raise RefusedError(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"bytes */{size}")
    return start, stop


class Handler(BaseHTTPRequestHandler):
    """Handler of GET and HEAD requests."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: ViewerServer

    def do_GET(self) -> None:
        """Answer a request. Every error becomes a response, so that the thread of the connection continues."""
        with self.server.requests:
            try:
                self.server.guard.check(self, self.server.server_port)
                self._route([unquote(part) for part in urlsplit(self.path).path.split("/") if part])
            except RefusedError as refusal:
                self._send(refusal.status, "text/plain", str(refusal).encode(), refusal.headers)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                self.close_connection = True
            except UNREADABLE as error:
                # A job may be writing it: the browser may ask again.
                message = f"cannot be read, now being written or damaged: {error}"
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", message.encode(), {"Retry-After": "5"})
            except (KeyError, ValueError) as error:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", f"not found: {error}".encode())

    do_HEAD = do_GET  # noqa: N815

    def _route(self, parts: list[str]) -> None:
        layout = self.server.layout
        routes: dict[tuple[str, int], Callable[..., Any]] = {
            ("slides", 1): lambda: slide_list.slides(layout),
            ("scores", 1): lambda: slide_list.scores(layout),
            ("progress", 1): lambda: progress.describe(layout, time.time()),
            ("slides", 2): lambda slide: content.describe(layout, slide),
            ("overlay", 4): lambda slide, task, fold: content.overlay(layout, slide, task, int(fold)),
            ("patch", 5): lambda slide, task, fold, patch: content.patch(layout, slide, task, int(fold), int(patch)),
            ("similar", 5): lambda slide, column, x, y: self.server.neighbours.similar(
                slide, column, float(x), float(y)
            ),
        }
        if not parts or parts[0] == "slide":
            self._send_file(ASSETS / "viewer.html")
        elif parts == ["progress"]:
            self._send_file(ASSETS / "progress.html")
        elif parts[0] == "files":
            path = safe_path(layout.results, "/".join(parts[1:]), self.server.allowed)
            self._send_file(path, policy=guard.FILE_POLICY)
        elif parts[0] == "assets" and len(parts) == 2:
            self._send_asset(parts[1])
        elif parts[0] == "label" and len(parts) == 7:
            self._send_label(parts[1], parts[2], *(int(number) for number in parts[3:]))
        elif parts[0] == "outline" and len(parts) == 5:
            self._send_outline(parts[1], *(int(number) for number in parts[2:]))
        elif parts[0] == "thumb" and len(parts) == 4:
            content.require(layout, parts[1])
            picture = self.server.neighbours.thumbnail(parts[1], parts[2], int(parts[3]))
            self._send(HTTPStatus.OK, "image/jpeg", picture)
        elif parts[0] == "preview" and len(parts) == 2:
            content.require(layout, parts[1])
            self._send(HTTPStatus.OK, "image/jpeg", slide_list.preview(layout.manifest(parts[1])))
        elif parts[0] == "tile" and len(parts) == 5:
            self._send_tile(self.server.reader(parts[1]), *(int(number) for number in parts[2:]))
        elif parts[0] == "virtual" and len(parts) == 6:
            self._send_tile(self.server.reader(parts[2], parts[1]), *(int(number) for number in parts[3:]))
        elif parts[0] == "api" and (parts[1:2] and (parts[1], len(parts) - 1) in routes):
            answer = routes[parts[1], len(parts) - 1](*parts[2:])
            self._send(HTTPStatus.OK, "application/json", json.dumps(answer).encode())
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such page")

    def _send_asset(self, name: str) -> None:
        if name == "openseadragon.js":
            self._send_file(self.server.openseadragon)
        elif name in PAGES:
            self._send_file(ASSETS / name)
        else:
            raise RefusedError(HTTPStatus.NOT_FOUND, "no such asset")

    def _send_file(self, path: Path, *, policy: str = guard.PAGE_POLICY) -> None:
        """Send a file or the requested range of it, with a Content Security Policy."""
        size = path.stat().st_size
        wanted = byte_range(self.headers.get("Range"), size)
        start, stop = wanted or (0, size)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        self.send_header("Content-Type", mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", policy)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if self.command == "HEAD":
            return
        with path.open("rb") as stream:
            stream.seek(start)
            while start < stop:
                block = stream.read(min(BLOCK, stop - start))
                self.wfile.write(block)
                start += len(block)

    def _send_label(self, slide: str, task: str, fold: int, level: int, row: int, column: int) -> None:
        """One tile of an annotated or predicted mask, of a graph or of a reader, coloured."""
        layout = self.server.layout
        content.require(layout, slide)
        if not LAYER.fullmatch(task):
            raise KeyError(f"{slide} has no mask of {task}")
        source = next((source for source in (graph_layers, errors, reader_layers) if source.named(task)), masks)
        layer = source.open_layer(layout, slide, task, fold)
        colours = errors.KINDS if source is errors else self._class_colours(slide)
        self._send(HTTPStatus.OK, "image/png", masks.picture(layer.tile(level, row, column), layer.classes, colours))

    def _class_colours(self, slide: str) -> Mapping[str, tuple[int, int, int]]:
        return canvas.class_colours(reader_layers.class_order(self.server.layout, slide))

    def _send_outline(self, slide: str, level: int, row: int, column: int) -> None:
        """One tile of the annotated outlines."""
        content.require(self.server.layout, slide)
        found = self.server.outlines(slide)
        labels = found.tile(level, row, column)
        self._send(HTTPStatus.OK, "image/png", masks.picture(labels, found.classes, self._class_colours(slide)))

    def _send_tile(self, reader: SlideReader, level: int, row: int, column: int) -> None:
        """One decoded tile as JPEG, for codecs that browsers lack."""
        if not 0 <= level < len(reader.levels):
            raise KeyError(level)
        rows, columns = reader.levels[level].grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise KeyError((row, column))
        pixels = reader.tile(level, row, column)
        if pixels is None:
            pixels = np.full(reader.levels[level].tile_shape, 255, np.uint8)
        self._send(HTTPStatus.OK, "image/jpeg", canvas.as_jpeg(pixels, quality=TILE_QUALITY))

    def end_headers(self) -> None:
        """Add the headers of every response."""
        for name, value in guard.SECURITY_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text") else kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives
        """Do not log successful requests."""
        log.debug(format, *args)
