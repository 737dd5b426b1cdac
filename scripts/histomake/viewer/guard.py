"""Access control of the viewer's server: only a browser on this machine that was given the printed address.

Other users of the machine can reach a loopback port, and web pages can make a browser send requests to it. So the
printed address carries a random token, which becomes a cookie, and requests that another site caused are refused.
"""

from __future__ import annotations

import hmac
import secrets
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

LOCAL_NAMES = {"127.0.0.1", "localhost"}
OWN_SITES = {"same-origin", "none"}
"""Values of Sec-Fetch-Site of requests that no other site caused."""

PAGE_OPENED = ("navigate", "document")
"""Values of Sec-Fetch-Mode and Sec-Fetch-Dest when a browser opens a page."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content Security Policy of the viewer's page. OpenSeadragon sets styles of elements."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FILE_POLICY = "sandbox; default-src 'none'; frame-ancestors 'none'"
"""Content Security Policy of files of the results: a page among them cannot send requests as the viewer."""


class RefusedError(Exception):
    """A refused request; the response has ``status``, the message and ``headers``."""

    def __init__(self, status: HTTPStatus, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class Guard:
    """The token of one server, and the checks of its requests."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)

    def address(self, port: int, path: str = "/") -> str:
        """The address to open first. The browser then holds a cookie."""
        return f"http://127.0.0.1:{port}{path}?{urlencode({'token': self.token})}"

    def check(self, request: BaseHTTPRequestHandler, port: int) -> None:
        """Raise RefusedError unless the request may be answered; with the token in the address, redirect without it."""
        if request.headers.get("Host", "").rpartition(":")[0] not in LOCAL_NAMES:
            raise RefusedError(HTTPStatus.FORBIDDEN, "only 127.0.0.1 and localhost are served")
        parts = urlsplit(request.path)
        given = parse_qs(parts.query).get("token", [""])[0]
        if given and hmac.compare_digest(given.encode(), self.token.encode()):
            # The path is kept as it is, but never as the address of another host ("//host").
            clean = urlunsplit(("", "", "/" + parts.path.lstrip("/"), "", ""))
            cookie = f"{_cookie_name(port)}={self.token}; Path=/; HttpOnly; SameSite=Lax"
            raise RefusedError(HTTPStatus.SEE_OTHER, "", {"Location": clean, "Set-Cookie": cookie})
        if not hmac.compare_digest(_cookie(request, port).encode(), self.token.encode()):
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "open the whole address that `histomake view` printed; it has a token"
            )
        # A link in a report, which is another site, may open a page, but nothing else.
        opens_page = (request.headers.get("Sec-Fetch-Mode"), request.headers.get("Sec-Fetch-Dest")) == PAGE_OPENED
        if request.headers.get("Sec-Fetch-Site", "none") not in OWN_SITES and not opens_page:
            raise RefusedError(HTTPStatus.FORBIDDEN, "requests that other sites cause are refused")


def _cookie_name(port: int) -> str:
    """Cookies are shared by all ports of a host, so each server needs a name of its own."""
    return f"histomake-{port}"


def _cookie(request: BaseHTTPRequestHandler, port: int) -> str:
    try:
        found = SimpleCookie(request.headers.get("Cookie", "")).get(_cookie_name(port))
    except CookieError:
        return ""
    return found.value if found else ""
