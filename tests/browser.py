"""Control of a headless Chromium over its debugging pipe, without a driver or further packages."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of a headless Chromium, over the Chrome DevTools Protocol (NUL-separated JSON on descriptors 3, 4)."""

    def __init__(self, width: int = 1400, height: int = 900, switches: Sequence[str] = ()) -> None:
        if not CHROMIUM:
            raise FileNotFoundError("no Chromium here: apt-get install chromium")
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # a child may still write to it
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        pipes = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        driven = ["--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "--force-color-profile=srgb"]
        command = ["bash", "-c", pipes, "chromium", CHROMIUM, *quiet, *driven, *switches, "about:blank"]
        self._process = subprocess.Popen(command, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._buffer, self._loads, self.requests = itertools.count(1), b"", 0, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for the response."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            block = os.read(self._read, 1 << 16)
            if not block:
                raise RuntimeError("Chromium has exited")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer = json.loads(line)
        if answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"])
        self._loads += answer.get("method") == "Page.loadEventFired"
        return answer

    def open(self, url: str) -> None:
        """Load a page; it may continue to run afterwards."""
        self.call("Page.navigate", url=url)

    def reload(self) -> None:
        """Load the page again, and wait until the new one is loaded: a script that asks for it is cut off at times."""
        before = self._loads
        self.call("Page.reload")
        while self._loads == before:
            self._next()

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> float:
        """Wait until an expression is true; return the seconds it took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.value(expression):
                return time.monotonic() - started
            time.sleep(0.02)
        raise AssertionError(f"not true within {seconds} s: {expression}")

    def click(self, x: float, y: float) -> None:
        """Press and release the left mouse button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, places: Sequence[tuple[float, float]]) -> None:
        """Press the left mouse button at the first place, move through the others, and release it at the last."""
        for i, (x, y) in enumerate(places):
            kind = "mouseMoved" if i else "mousePressed"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        x, y = places[-1]
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)

    def screenshot(self) -> bytes:
        """Return the content of the window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def save(self, path: Path) -> None:
        """Save a screenshot."""
        path.write_bytes(self.screenshot())

    def close(self) -> None:
        """Stop Chromium."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        self.profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
