"""The captions pages: the files of one folder, read once, with strict headers. Knows nothing of streams or keys.

    /              index.html
    /overlay       overlay.html
    /watch/ROOM    watch.html
    /captions/...  all files below the folder, by their path in it

A path of a request is looked up among the names that were read, so none leads out of the folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from streamer.errors import Refusal
from streamer.protocols.events import room_name

FOLDER = Path(__file__).resolve().parents[1] / "clients" / "captions"
KINDS = {  # nothing else in the folder is served
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".webmanifest": "application/manifest+json; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
ICON = "favicon.ico"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "media-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), display-capture=(self), camera=(), geolocation=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, but asked for again: the ETag answers that it is still the same
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is sent."""

    body: bytes
    kind: str
    etag: str


class Pages:
    """What is in the folder when the daemon starts; a folder that is not there has no pages."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._pages = {
            path.relative_to(folder).as_posix(): _read(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in KINDS and path.is_file()
        }

    @property
    def there(self) -> bool:
        """Whether there is a page to send a person to."""
        return "index.html" in self._pages

    def routes(self) -> list[web.RouteDef]:
        """All answer GET and HEAD alone."""
        return [
            web.get("/", self._index),
            web.get("/overlay", self._overlay),
            web.get("/watch/{room}", self._watch),
            web.get("/captions/{name:.*}", self._file),
            web.get(f"/{ICON}", self._icon),
        ]

    async def _index(self, request: web.Request) -> web.Response:
        return self._answer(request, "index.html")

    async def _overlay(self, request: web.Request) -> web.Response:
        return self._answer(request, "overlay.html", framed=True)

    async def _watch(self, request: web.Request) -> web.Response:
        try:
            room_name(request.match_info["room"])
        except Refusal as refusal:
            return _missing(str(refusal))
        return self._answer(request, "watch.html", framed=True)

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["name"])

    async def _icon(self, request: web.Request) -> web.Response:
        return self._answer(request, ICON)

    def _answer(self, request: web.Request, name: str, *, framed: bool = False) -> web.Response:
        """The file, 304 where the browser has it already, or 404."""
        if (page := self._pages.get(name)) is None:
            return _missing(str(Refusal("page", request.path, "one of the captions pages or a file of theirs")))
        headers = {**HEADERS, "Content-Security-Policy": POLICY + ("'self'" if framed else "'none'")}
        headers["ETag"] = f'"{page.etag}"'
        if any(known.value in (page.etag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=page.body, headers={**headers, "Content-Type": page.kind})


def _read(path: Path) -> Page:
    body = path.read_bytes()
    return Page(body, KINDS[path.suffix], hashlib.sha256(body).hexdigest()[:16])


def _missing(sentence: str) -> web.Response:
    headers = {**HEADERS, "Content-Security-Policy": POLICY + "'none'"}
    return web.Response(status=404, text=f"{sentence}\n", headers=headers)
