"""The captions pages over HTTP: what is served, with which headers, and nothing else of the disk."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from yarl import URL

import streamer
from streamer.config import load
from streamer.pages import FOLDER, KINDS, Pages
from streamer.sockets import page_url
from tests.streamer.house import house

STRICT = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; media-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small page, and beside the folder something that nobody should read."""
    made = tmp_path / "captions"
    (made / "parts").mkdir(parents=True)
    for name in ("index.html", "overlay.html", "watch.html"):
        (made / name).write_text(f"<!doctype html><title>{name}</title>", "utf-8")
    (made / "captions.js").write_text("export const page = 1;", "utf-8")
    (made / "parts" / "words.css").write_text("p { color: red }", "utf-8")
    (made / "favicon.ico").write_bytes(b"\0\0\1\0")
    (made / "notes.txt").write_text("for engineers", "utf-8")
    (made / ".secret.js").symlink_to(tmp_path / "gone.js")
    (tmp_path / "secret.js").write_text("secret", "utf-8")
    return made


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[str]:
    """The pages behind a server of their own."""
    app = web.Application()
    app.add_routes(Pages(folder).routes())
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/", "text/html; charset=utf-8", "index.html"),
        ("/?latency=160&theme=dark", "text/html; charset=utf-8", "index.html"),
        ("/overlay", "text/html; charset=utf-8", "overlay.html"),
        ("/watch/Main-stage_2", "text/html; charset=utf-8", "watch.html"),
        ("/captions/captions.js", "text/javascript; charset=utf-8", "export"),
        ("/captions/parts/words.css", "text/css; charset=utf-8", "color"),
        ("/favicon.ico", "image/x-icon", "\0\0\1\0"),
    ],
)
async def test_each_page_and_file_comes_with_its_type(
    site: str, http: ClientSession, path: str, kind: str, part: str
) -> None:
    async with http.get(site + path) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
        assert part in await answer.text()


@pytest.mark.parametrize(
    ("path", "framed_by"),
    [("/", "'none'"), ("/overlay", "'self'"), ("/watch/a", "'self'"), ("/captions/captions.js", "'none'")],
)
async def test_headers_are_strict_everywhere(site: str, http: ClientSession, path: str, framed_by: str) -> None:
    for _ in range(2):
        async with http.get(site + path) as answer:
            assert answer.headers["Content-Security-Policy"] == STRICT + framed_by
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Permissions-Policy"].startswith("microphone=(self), display-capture=(self), ")
        path = "/captions/gone.js"  # an answer that there is nothing is a page, too
        framed_by = "'none'"


@pytest.mark.parametrize(
    "path",
    [
        "/captions/",
        "/captions/gone.js",
        "/captions/notes.txt",
        "/captions/../secret.js",
        "/captions/%2e%2e/secret.js",
        "/captions/..%2fsecret.js",
        "/captions//etc/passwd",
        "/captions/%2fetc%2fpasswd",
        "/captions/parts/../../secret.js",
        "/captions/parts",
        "/captions/.secret.js",
        "/captions/captions.js%00",
        "/captions/..%5csecret.js",
        "/captions/" + "x" * 5000,
        "/watch/no%20name",
        "/watch/a%2fb",
        "/watch/" + "a" * 65,
        "/watch/caf%C3%A9",
    ],
)
async def test_anything_else_is_404_in_one_sentence(site: str, http: ClientSession, path: str) -> None:
    async with http.get(URL(site + path, encoded=True)) as answer:
        said = await answer.text()
        assert answer.status == 404
        assert said.count("\n") == 1
        assert ": expected " in said
        assert len(said) < 200
        assert "secret" not in said or "secret" in path


async def test_a_path_that_leaves_the_folder_on_the_wire_reads_nothing(site: str) -> None:
    url = URL(site)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /captions/../../secret.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    said = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert b" 404 " in said.splitlines()[0]
    assert b"secret\n" not in said


async def test_what_a_browser_has_already_is_not_sent_again(site: str, http: ClientSession) -> None:
    async with http.get(site + "/captions/captions.js") as answer:
        etag = answer.headers["ETag"]
        assert answer.headers["Cache-Control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        async with http.get(site + "/captions/captions.js", headers={"If-None-Match": known}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
            assert answer.headers["ETag"] == etag
    for other in ('"other"', "nonsense"):
        async with http.get(site + "/captions/captions.js", headers={"If-None-Match": other}) as answer:
            assert answer.status == 200


async def test_head_tells_the_length_and_nothing_else_is_allowed(site: str, http: ClientSession) -> None:
    async with http.head(site + "/captions/captions.js") as answer:
        assert (answer.status, answer.headers["Content-Length"], await answer.read()) == (200, "22", b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        async with http.request(method, site + "/") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")


async def test_a_folder_that_is_not_there_has_no_pages(tmp_path: Path, http: ClientSession) -> None:
    pages = Pages(tmp_path / "none")
    assert not pages.there
    app = web.Application()
    app.add_routes(pages.routes())
    async with TestServer(app) as server, http.get(server.make_url("/")) as answer:
        assert answer.status == 404


def test_every_file_of_the_pages_has_a_type() -> None:
    kinds = {path.suffix for path in FOLDER.rglob("*") if path.is_file()}
    assert kinds <= {*KINDS, ".md"}


# The daemon.


async def test_the_daemon_serves_pages_without_the_key_and_says_where(
    caplog: pytest.LogCaptureFixture, folder: Path, monkeypatch: pytest.MonkeyPatch, http: ClientSession
) -> None:
    monkeypatch.setattr("streamer.server.Pages", lambda: Pages(folder))
    with caplog.at_level(logging.INFO):
        async with house("server.key=sesame") as home:
            for path in ("/", "/overlay", "/watch/demo", "/captions/captions.js", "/favicon.ico"):
                async with http.get(home.http + path, headers={"Origin": "https://evil.example"}) as answer:
                    assert answer.status == 200
                    assert "Access-Control-Allow-Origin" not in answer.headers
            assert f"captions on http://127.0.0.1:{home.port}/" in caplog.messages


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ((), "http://127.0.0.1:9000/"),
        (("server.host=localhost",), "http://localhost:9000/"),
        (("server.host=::1",), "http://[::1]:9000/"),
        (("server.host=0.0.0.0",), "http://localhost:9000/"),
        (("server.host=::",), "http://localhost:9000/"),
        (("server.host=",), "http://localhost:9000/"),
        (("server.host=10.1.2.3", "server.tls_cert=a", "server.tls_key=b"), "https://10.1.2.3:9000/"),
    ],
)
def test_the_address_of_the_page_is_one_that_a_browser_gives_its_microphone_to(
    options: tuple[str, ...], url: str
) -> None:
    assert page_url(load(env={}, overrides=options).server, 9000) == url


async def test_info_tells_the_page_what_it_can_ask_for(http: ClientSession) -> None:
    async with house() as home, http.get(home.http + "/v1/info") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        assert await answer.json() == {
            "model": "fake",
            "latencies_ms": [80, 160, 560, 1120],
            "latency_ms": 80,
            "languages": [],
            "language": None,
            "key_required": False,
            "capacity": {"80": 7, "160": 7, "560": 7, "1120": 7},
            "rooms": {"watch_needs_key": False},
            "version": streamer.__version__,
        }


@pytest.mark.parametrize(("public", "needed"), [("false", True), ("true", False)])
async def test_info_tells_who_needs_the_key_and_not_the_key(http: ClientSession, public: str, needed: bool) -> None:
    async with house("server.key=sesame", f"rooms.public={public}") as home, http.get(home.http + "/v1/info") as answer:
        said = await answer.text()
    assert "sesame" not in said
    told = json.loads(said)
    assert (told["key_required"], told["rooms"]) == (True, {"watch_needs_key": needed})


async def test_info_is_for_pages_that_may_open_a_stream(http: ClientSession) -> None:
    async with house("server.origins=https://page.example") as home:
        own = f"http://localhost:{home.port}"
        for origin, host, status in (
            ("https://page.example", None, 200),
            (own, f"localhost:{home.port}", 200),
            ("https://evil.example", None, 403),
            (f"http://rebound.example:{home.port}", f"rebound.example:{home.port}", 403),
        ):
            headers = {"Origin": origin, **({"Host": host} if host else {})}
            async with http.get(home.http + "/v1/info", headers=headers) as answer:
                assert answer.status == status, origin
                allowed = answer.headers.get("Access-Control-Allow-Origin")
                assert allowed == (origin if status == 200 else None)
