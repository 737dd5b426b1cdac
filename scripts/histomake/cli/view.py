"""Serve the slide viewer on this machine (127.0.0.1 only) until interrupted, and print its address.

The viewer shows slides by deep zoom, with tissue, annotations, predictions and segmentations over them. The address
has a random token, without which nothing is served: other users of this machine cannot open it.

examples:
  histomake view
  histomake view results/demo --port 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from histomake.viewer.server import OPENSEADRAGON, serve

PORT = 8150


def configure(command: argparse.ArgumentParser) -> None:
    """Add the options."""
    command.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="results folder of a run (default: results)"
    )
    command.add_argument("--port", type=int, default=PORT, help=f"port; 0 takes a free one (default: {PORT})")
    command.add_argument(
        "--allow",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder outside the results to which links in them may lead; may be repeated",
    )
    command.add_argument(
        "--openseadragon",
        type=Path,
        default=OPENSEADRAGON,
        metavar="FILE",
        help="openseadragon.min.js (default: the one that `make viewer` fetched)",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    with serve(
        options.results, port=options.port, openseadragon=options.openseadragon, allowed=options.allow
    ) as server:
        print(server.address, flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0
