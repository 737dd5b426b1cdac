"""Owns the command ``python -m histomake.viewer RESULTS [--port N]``: serve a results folder on loopback."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from histomake.base.errors import HistomakeError
from histomake.viewer.server import serve

OPENSEADRAGON = Path(__file__).resolve().parents[3] / ".tools" / "openseadragon" / "openseadragon.min.js"
PORT = 8150


def main() -> None:
    """Parse the command line and serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m histomake.viewer", description="Look at slides in a browser.")
    parser.add_argument("results", type=Path, help="results folder of a run")
    parser.add_argument("--port", type=int, default=PORT, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--openseadragon", type=Path, default=OPENSEADRAGON, help="openseadragon.min.js")
    arguments = parser.parse_args()
    try:
        with serve(arguments.results, port=arguments.port, openseadragon=arguments.openseadragon) as server:
            print(f"http://127.0.0.1:{server.server_port}/", flush=True)
            server.serve_forever()
    except HistomakeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
