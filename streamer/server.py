"""The daemon: sockets, tasks, timeouts, signals. Glue only; what is said and decided lives in the modules below it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Collection, Sequence

from aiohttp import web

from models.config import ConfigError
from streamer import auth, intake, logs, sockets
from streamer.backends import Place, load_backend
from streamer.backends.base import Backend
from streamer.config import Config
from streamer.connection import Connection, House, stream_key
from streamer.engine.lanes import Full, Lanes, Result, Step
from streamer.engine.remote import Remote
from streamer.errors import Refusal
from streamer.fronts import Fronts, calm
from streamer.guard import Guard
from streamer.line import CLOSE_S, hang_up
from streamer.metrics import CONTENT_TYPE, Metrics
from streamer.offer import door, engine_settings, info, lanes, offer, session_settings, slots, threads
from streamer.pages import Pages
from streamer.protocols.events import Error
from streamer.protocols.native import Native, parse_query
from streamer.rooms import Rooms, Speech
from streamer.session import Session
from streamer.signals import Signals
from streamer.watching import LONGEST_BYTES, Watching

log = logging.getLogger(__name__)

EXIT_STOPPED, EXIT_DEAD = 0, 1
TICK_S = 0.1  # how often sessions learn that time passed
DRAIN_S = 0.2  # after SIGTERM: audio that is in our sockets already is still heard
LAST_SHARE = 0.8  # of shutdown_s: streams that are not done by then end with what was heard
BACKLOG = 1024  # connections that the system keeps until we take them
HARD_LIMIT = 4  # messages up to so many times the limit are refused in words, longer ones with 1009 by the library


class Daemon:
    """One backend, here or in another process, behind one port. `start`, then `run` until it is told to stop."""

    engine: Lanes | Remote

    def __init__(self, config: Config, backend: Backend | Remote, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.backend, self.clock = config, backend, clock
        self.connections: dict[str, Connection] = {}
        self.rooms = Rooms(config.rooms, config.server.max_outgoing)
        self.metrics = Metrics(lambda: len(self.connections), lambda: self.rooms.opened, lambda: self.rooms.viewers)
        if isinstance(backend, Remote):
            self.engine, backend.deliver = backend, self._deliver
        else:
            self.engine = Lanes(backend, engine_settings(config), self._from_engine, self._count, clock)
            self.metrics.room(backend.config.latencies_ms, self.engine.fits)
        self.offer = offer(config, backend.config)
        self.port = 0
        self._house = House(self.engine, self.metrics, config.server, clock)
        self._settings = session_settings(config)
        self._door = door(config)
        self._open_door = dataclasses.replace(self._door, key="")
        self._guard = Guard(config.server.handshake_s)
        self._pages = Pages()
        self._stop = asyncio.Event()
        self._listeners: list[asyncio.Server] = []
        self._speaking: set[asyncio.Task[None]] = set()
        self._watching: dict[asyncio.Task[None], Watching | None] = {}
        self._stopping = False

    async def start(self, bound: Sequence[socket.socket] = ()) -> None:
        """Take the port (it may be `bound` already), measure the engine, listen and say where."""
        sockets.warn(self.config.server)
        await self.open(bound)
        sockets.announce(self.config.server, self.port, pages=self._pages.there)

    async def open(self, bound: Sequence[socket.socket] = ()) -> None:
        """The same without a word."""
        self._loop, server = asyncio.get_running_loop(), self.config.server
        tls, bound = sockets.tls(server), bound or sockets.bind(server)
        self.port = bound[0].getsockname()[1]
        with contextlib.ExitStack() as unless_all_is_well:
            for own in bound:
                unless_all_is_well.callback(own.close)
            await asyncio.to_thread(self.engine.start)
            await self._listen(bound, tls)
            unless_all_is_well.pop_all()

    async def _listen(self, bound: Sequence[socket.socket], tls: ssl.SSLContext | None) -> None:
        app = web.Application(middlewares=[self._guard.middleware])
        app.router.add_routes(self._pages.routes())
        app.router.add_get("/v1/stream", self._stream)
        app.router.add_get("/v1/watch/{room}", self._watch)
        app.router.add_get("/v1/info", self._info)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=self.config.server.handshake_s)
        await self._runner.setup()
        assert self._runner.server is not None
        factory = self._guard.factory(self._runner.server)
        tls_s = self.config.server.handshake_s if tls else None
        try:
            for own in bound:
                made = self._loop.create_server(
                    factory, sock=own, ssl=tls, ssl_handshake_timeout=tls_s, backlog=BACKLOG
                )
                self._listeners.append(await made)
        except OSError as error:
            raise sockets.refusal(self.config.server, error) from None

    async def run(self) -> int:
        """Until SIGTERM, SIGINT or the engine's death; the exit code."""
        with Signals(self._loop, self.stop):
            self._beat()
            await self._stop.wait()
            self._beating.cancel()
            return await self._end()

    def _beat(self) -> None:
        """A tick, and the timer of the next one."""
        self._beating = self._loop.call_later(TICK_S, self._beat)
        self._tick()

    # Ends.

    def stop(self) -> None:
        """Finish what is in flight and end."""
        self._stop.set()

    async def _end(self) -> int:
        """Stop accepting; a final for every stream, viewers hear it too; then the engine and the backend."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        until = self.clock() + self.config.server.shutdown_s
        log.info("stopping: %d streams to finish", len(self.connections))
        if self.engine.failure is None:
            await asyncio.sleep(DRAIN_S)
            for connection in list(self.connections.values()):
                connection.shutdown()
            await self._gone(self._speaking, (until - self.clock()) * LAST_SHARE)
            for connection in list(self.connections.values()):
                connection.fail("shutdown: got no end in time, expected it before the deadline")
        for watching in filter(None, self._watching.values()):
            watching.shutdown()
        await self._gone(self._speaking, until - self.clock())
        await self._gone(self._watching, until - self.clock())
        if handlers := [*self._speaking, *self._watching]:
            log.warning("%d connections did not take their last words in time", len(handlers))
        for handler in handlers:
            handler.cancel()
        await self._runner.cleanup()
        ended = await asyncio.to_thread(self.engine.stop)
        if ended:
            self.backend.close()
        log.info("stopped")
        return EXIT_STOPPED if self.engine.failure is None else EXIT_DEAD

    async def _gone(self, handlers: Collection[asyncio.Task[None]], timeout_s: float) -> None:
        """Until all of these connections have ended, or the time is over."""
        until = self.clock() + timeout_s
        while handlers and (left := until - self.clock()) > 0:
            self._tick()
            await asyncio.wait(handlers, timeout=min(left, TICK_S), return_when=asyncio.FIRST_COMPLETED)

    # The engine.

    def _from_engine(self, results: list[Result]) -> None:
        """On the engine's thread: hand a tick's results to the event loop."""
        with contextlib.suppress(RuntimeError):  # the event loop is closed already
            self._loop.call_soon_threadsafe(self._deliver, results)

    def _deliver(self, results: list[Result]) -> None:
        for result in results:
            if (connection := self.connections.get(result.stream_id.partition("/")[0])) is not None:
                connection.hear(result)
        if self.engine.failure is not None:
            log.critical("the engine is dead: %s", self.engine.failure)
            self._stop.set()

    def _count(self, step: Step) -> None:
        """On the engine's thread."""
        self.metrics.stepped(step.chunk, step.seconds, step.waits_s, step.late_s)

    def _tick(self) -> None:
        now = self.clock()
        for connection in list(self.connections.values()):
            connection.tick(now)
        self.rooms.tick(now)
        for watching in list(filter(None, self._watching.values())):
            watching.tick(now)
        self.engine.watch(self.config.engine.step_timeout_s, time.thread_time())

    # HTTP.

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = await self._no_room()
        return web.Response(text=f"{reason or 'ready'}\n", status=503 if reason else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=await self.numbers(), headers={"Content-Type": CONTENT_TYPE})

    async def numbers(self) -> bytes:
        """What /metrics says."""
        return self.metrics.exposition()

    async def _info(self, request: web.Request) -> web.Response:
        """What a page asks before it connects; pages of other origins only where they may connect, too."""
        if (closed := auth.refusal(request.headers, self._open_door)) is not None:
            return web.Response(status=closed.status, text=f"{closed.refusal}\n")
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Vary": "Origin"}
        if (origin := request.headers.get("Origin")) is not None:
            headers["Access-Control-Allow-Origin"] = origin
        said = info(self.offer, self.config, self.backend.config, self.engine.fits())
        return web.json_response(said, headers=headers)

    async def _no_room(self) -> str | None:
        if self._stopping:
            return "the server stops"
        return await self.engine.vacancy(self.backend.config.chunk_of(self.offer.latency_ms))

    # WebSockets.

    async def _upgrade(self, request: web.Request, door: auth.Door, longest: int) -> web.StreamResponse:
        """Who may not come in learns it by HTTP, everything later by a message and a close code."""
        if (closed := auth.refusal(request.headers, door)) is not None:
            self.metrics.refusals.labels(closed.refusal.code).inc()
            return web.Response(status=closed.status, text=f"{closed.refusal}\n")
        ws = web.WebSocketResponse(
            protocols=(auth.SUBPROTOCOL,), timeout=CLOSE_S, compress=False, autoping=False, writer_limit=0,
            max_msg_size=longest,
        )  # fmt: skip
        if not ws.can_prepare(request):
            return web.Response(status=426, text="request: expected a WebSocket\n", headers={"Upgrade": "websocket"})
        await ws.prepare(request)
        sockets.tune(request.transport)
        return ws

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """A room's viewer."""
        own_door = self._open_door if self.config.rooms.public else self._door
        ws = await self._upgrade(request, own_door, LONGEST_BYTES)
        if isinstance(ws, web.WebSocketResponse):
            task = _this_task()
            self._watching[task] = None
            try:
                await self._show(ws, request, task)
            finally:
                del self._watching[task]
        return ws

    async def _show(self, ws: web.WebSocketResponse, request: web.Request, task: asyncio.Task[None]) -> None:
        try:
            if request.query:
                raise Refusal("parameter", next(iter(request.query)), "none")
            if self._stopping:
                raise Refusal("server", "a viewer", "none any more: it stops", code="at_capacity")
            self._check_rooms(request.match_info["room"])
            viewer = self.rooms.watch(request.match_info["room"])
        except Refusal as refusal:
            return await self._refuse(ws, refusal)
        watching = self._watching[task] = Watching(ws, request, viewer, self.config.server, self.clock)
        try:
            await watching.run()
        finally:
            self.rooms.leave(viewer)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """A speaker."""
        ws = await self._upgrade(request, self._door, self.config.server.max_message_bytes * HARD_LIMIT)
        if isinstance(ws, web.WebSocketResponse):
            task = _this_task()
            self._speaking.add(task)
            try:
                await self._serve(ws, request)
            finally:
                self._speaking.discard(task)
        return ws

    async def _serve(self, ws: web.WebSocketResponse, request: web.Request) -> None:
        session_id = uuid.uuid4().hex[:16]
        try:
            session, speech = await self._admit(request, session_id)
        except (Refusal, ConfigError, Full) as why:
            return await self._refuse(ws, why)
        except Exception as fault:
            log.exception("a stream could not be opened", extra={"session": session_id})
            return await self._refuse(ws, fault)
        log.info("opened", extra={"session": session_id})
        self.metrics.opened.inc()
        try:
            connection = self.connections[session_id] = Connection(ws, request, session, self._house)
            connection.speech = speech
            await connection.run(session_id)
        except Exception:
            log.exception("a connection failed", extra={"session": session_id})
            await hang_up(ws, 1011, "internal", CLOSE_S)
        finally:
            self.connections.pop(session_id, None)
            if speech is not None:
                speech.end(session.audio_seconds, self.clock())
            log.info("ended after %.1f s of audio", session.audio_seconds, extra={"session": session_id})

    async def _admit(self, request: web.Request, session_id: str) -> tuple[Session, Speech | None]:
        """A session with its place in the engine and in its room, or the exception that says why not."""
        opening = parse_query(list(request.query.items()), self.offer)
        intake.check(opening.encoding)
        session = Session(opening, self.backend.config, self.backend.tokenizer, self._settings, self.clock())
        if self._stopping:
            raise Full("it stops, expected a running one")
        speech = None if opening.room is None else self._take(opening.room, session_id)
        with contextlib.ExitStack() as unless_all_have_room:
            if speech is not None:
                unless_all_have_room.callback(speech.end, 0.0, self.clock())
            for channel in range(session.voices):
                stream = stream_key(session_id, channel)
                await self.engine.admit(stream, session.chunk, session.prompt)
                unless_all_have_room.callback(self.engine.drop, stream)
            if self.engine.failure is not None:  # it died while the answer was on its way
                raise Full(self.engine.failure)
            unless_all_have_room.pop_all()
        return session, speech

    def _take(self, room: str, session_id: str) -> Speech:
        """The room, if nobody has it; whoever has it is asked at once whether he is still there."""
        self._check_rooms(room)
        if (holder := self.connections.get(self.rooms.speaker(room) or "")) is not None:
            holder.doubt()
        return self.rooms.speak(room, session_id)

    def _check_rooms(self, room: str) -> None:
        """Who comes in at one front would wait for a speaker at another."""
        if (fronts := self.config.server.fronts) > 1:
            raise Refusal("room", room, f"none: this server has server.fronts={fronts}, rooms need 0 or 1")

    async def _refuse(self, ws: web.WebSocketResponse, why: Exception) -> None:
        match why:
            case Refusal(code=code):
                error = Error(code=code, message=str(why))
            case ConfigError():
                error = Error(code="bad_request", message=str(why))
            case Full():
                error = Error(code="at_capacity", message=f"server: {why}")
            case _:
                error = Error(code="internal", message="server: got a fault of its own, expected none")
        self.metrics.refusals.labels(error.code).inc()
        with contextlib.suppress(ConnectionError):
            await ws.send_str(Native().send(error))
        await hang_up(ws, {"at_capacity": 1013, "internal": 1011}.get(error.code, 1008), error.code, CLOSE_S)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None
    return task


def serve(config: Config) -> int:
    """Run the daemon that the options describe; the process's exit code."""
    logs.set_up(config.log.format, config.log.level)
    sockets.allow_many()
    take = sockets.share if config.server.fronts else sockets.bind
    bound = take(config.server)  # before the model is loaded, which may take its time
    backend = _backend(config)
    return event_loop_runner()(_serve(config, backend, bound))


def _backend(config: Config) -> Backend:
    model, place = config.model, Place(config.model.device, config.model.precision)
    return load_backend(model.backend, model.path, slots(config), threads(config), place)


async def _serve(config: Config, backend: Backend, bound: Sequence[socket.socket] = ()) -> int:
    daemon = Fronts(config, backend) if config.server.fronts else Daemon(config, backend)
    daemon.metrics.describe({"name": backend.name, **backend.about})
    await daemon.start(bound)
    if config.server.fronts or backend.depth > 1 or lanes(config) > 1:
        calm()
    return await daemon.run()


def event_loop_runner() -> Callable[..., int]:
    """uvloop's where it is installed."""
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        return uvloop.run
    return asyncio.run
