"""An async client of the daemon: the whole native protocol. Knows nothing of files, microphones or terminals.

The shortest use, captions of audio that comes in pieces of any size:

    async with Client("ws://127.0.0.1:9000", Options(sample_rate=48000)) as client:
        async def speak():
            async for piece in microphone():    # bytes: 16-bit little-endian samples
                await client.send(piece)
            await client.close()                # everything that was sent is heard, then the events end
        speaking = asyncio.create_task(speak())
        async for event in client:
            match event:
                case Partial(text=text):        # may still change, but for its first `stable_words` words
                    print(text, end="\\r")
                case Final(start=start, text=text):
                    print(f"{start:7.2f}  {text}")
        await speaking

Turn taking (push to talk): `final = await client.finalize()` answers with what was said so far, and the stream goes
on. `keepalive()` keeps a silent stream from timing out; `configure(endpoint_silence_ms=400)` changes it underway.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections import deque
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from streamer.errors import CODES, Refusal
from streamer.protocols.events import (
    REASONS,
    Closed,
    Configure,
    Error,
    Final,
    Partial,
    Ready,
    ServerEvent,
    Word,
)

PATH = "/v1/stream"
DEFAULT_URL = "ws://127.0.0.1:9000"
OPEN_S = 10.0  # to connect, and then to be told `ready`
MAX_MESSAGE_BYTES = 4 << 20  # a final of a very long segment with all its words stays far below
_EVENTS: dict[str, type[Any]] = {"ready": Ready, "partial": Partial, "final": Final, "closed": Closed, "error": Error}
# What a word of a later server's is taken for: its final and its error still tell something.
_FAMILIAR = {"reason": (REASONS, "endpoint"), "code": (tuple(CODES), "internal")}
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


class StreamError(Exception):
    """The server refused the stream; `code` is the protocol's, the text is the server's sentence."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


class ConnectionLost(Exception):
    """The connection ended before the stream did; what was final before stays true."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a stream asks for when it opens; None leaves the choice to the server."""

    sample_rate: int | None = None  # hertz, 8000 to 192000; the server's default is 16000
    encoding: str | None = None  # pcm_s16le (default), pcm_f32le, mulaw, alaw; auto, webm, ogg, flac, mp3, mp4, wav
    channels: int | None = None  # interleaved
    multichannel: bool | None = None  # each channel by itself: events say which; else they are mixed
    latency_ms: int | None = None  # one of the model's
    interim: bool | None = None  # partials: yes unless False
    language: str | None = None  # where the model has prompts
    room: str | None = None  # what is said goes to the viewers of this room, too
    endpointing: bool | None = None
    endpoint_silence_ms: int | None = None
    endpoint_start_ms: int | None = None
    endpoint_max_ms: int | None = None

    def query(self) -> str:
        """The options as the query of the connection's URL."""
        wanted = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        names = {"latency_ms": "latency"}
        return urlencode({names.get(k, k): str(v).lower() if isinstance(v, bool) else v for k, v in wanted.items()})


@dataclasses.dataclass(slots=True, eq=False)
class _Answer:
    """A finalize that waits: the channels that owe a final, the first one's final, who waits for it."""

    first: asyncio.Future[Final]
    owing: set[int]
    final: Final | None = None


class Client:
    """One stream. Iterate over it for events; partials that nobody read yet are replaced by newer ones."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        options: Options | None = None,
        key: str | None = None,
        *,
        open_timeout_s: float = OPEN_S,
        heartbeat_s: float | None = None,
    ) -> None:
        """`heartbeat_s`: ping so often, and take a line without an answer for dead after three times that. Only for
        audio at the pace of speech: a pong waits behind audio that was sent ahead."""
        self.url = stream_url(url, options or Options())
        self.ready: Ready | None = None
        self._key, self._open_timeout_s, self._heartbeat_s = key, open_timeout_s, heartbeat_s
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._unread: deque[ServerEvent] = deque()
        self._news = asyncio.Condition()
        self._ended = False
        self._lost: Exception | None = None  # why the events end without `closed`
        self._channels = (options.channels or 1) if options and options.multichannel else 1
        self._answers: deque[_Answer] = deque()  # of finalizes, in the order they were sent

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._ended:
            await self.close()
        await self.abort()

    async def connect(self) -> Ready:
        """Open the stream. Raises StreamError when the server refuses it, OSError when there is no server.

        A server that hangs up, says nothing for `open_timeout_s` or speaks otherwise raises ConnectionLost.
        """
        socket = await self._open()
        try:
            self.ready = await self._first(socket)
        except BaseException:
            await socket.close()
            raise
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket))
        return self.ready

    async def _open(self) -> ClientConnection:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            return await connect(
                self.url,
                additional_headers=headers,
                compression=None,
                max_size=MAX_MESSAGE_BYTES,
                ping_interval=self._heartbeat_s,  # the server pings, too
                ping_timeout=self._heartbeat_s and 3 * self._heartbeat_s,
                proxy=None,
                open_timeout=self._open_timeout_s,
            )
        except InvalidStatus as error:
            raise _refused(error) from None
        except (InvalidHandshake, InvalidURI, EOFError, UnicodeError) as error:  # UnicodeError: a host like a..b
            raise StreamError("bad_request", f"{self.url}: no stream of ours there: {error}") from None

    async def _first(self, socket: ClientConnection) -> Ready:
        """The server's first message, which is `ready` or says why not."""
        try:
            async with asyncio.timeout(self._open_timeout_s):
                first = parse(await socket.recv())
        except TimeoutError:
            raise ConnectionLost(f"the server said nothing for {self._open_timeout_s:g} s, expected ready") from None
        except ConnectionClosed as closed:
            raise ConnectionLost(f"the server hung up before the stream was open ({_why(closed)})") from None
        except Refusal as refusal:
            raise ConnectionLost(f"the server spoke another protocol: {refusal}") from None
        if isinstance(first, Error):
            raise StreamError(first.code, first.message)
        if not isinstance(first, Ready):
            raise ConnectionLost(f"the server spoke another protocol: got {first}, expected ready")
        return first

    async def send(self, pcm: bytes) -> None:
        """Audio in the encoding that was announced, a piece of any size. Waits when the server cannot take more."""
        await self._write(pcm)

    async def finalize(self) -> Final:
        """Ask for everything said so far to be final, and wait for it. The stream goes on.

        Of several channels that are heard apart, each is waited for and the first one's final returned.
        """
        answer = _Answer(asyncio.get_running_loop().create_future(), set(range(self._channels)))
        self._answers.append(answer)
        try:
            await self._write(json.dumps({"type": "finalize"}))
        except Exception:  # nobody will wait for it
            answer.first.cancel()
            raise
        return await answer.first

    async def configure(self, **values: Any) -> None:
        """Change interim, endpointing or endpoint_*_ms from here on; a wrong value raises before it is sent."""
        wanted = dataclasses.asdict(Configure(**values))
        await self._write(json.dumps({"type": "configure"} | {k: v for k, v in wanted.items() if v is not None}))

    async def keepalive(self) -> None:
        """Say that the stream is still wanted though no audio comes."""
        await self._write(json.dumps({"type": "keepalive"}))

    async def close(self) -> Closed:
        """No more audio: wait until everything that was sent is final. Events stay there to be read."""
        if not self._ended:
            with contextlib.suppress(ConnectionLost):  # whether the stream ended well the reader knows
                await self._write(json.dumps({"type": "close"}))
        if self._reader is not None:
            await asyncio.shield(self._reader)
        if self._lost is not None:
            raise self._lost
        assert self._closed is not None
        return self._closed

    async def abort(self) -> None:
        """Drop the connection, whatever state it is in."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ServerEvent:
        async with self._news:
            await self._news.wait_for(lambda: self._unread or self._ended)
        if self._unread:
            return self._unread.popleft()
        if self._lost is not None:
            raise self._lost
        raise StopAsyncIteration

    _closed: Closed | None = None

    async def _write(self, message: bytes | str) -> None:
        if self._socket is None:
            raise RuntimeError("Client: got a message before connect(), expected `async with Client(...)`")
        if self._ended:
            raise self._lost or ConnectionLost("the stream has ended, expected an open one")
        try:
            await self._socket.send(message)
        except ConnectionClosed as closed:
            raise self._lost or ConnectionLost(f"the connection is gone ({_why(closed)})") from None

    async def _read(self, socket: ClientConnection) -> None:
        """Every message of the server, in order, until `closed`, the line's end, or what nobody can read."""
        why = "the server said no reason"
        try:
            async for message in socket:
                if (event := parse(message)) is not None:
                    await self._take(event)
                if self._closed is not None:  # the last message: a server that does not hang up keeps nobody waiting
                    break
        except ConnectionClosed as closed:
            why = _why(closed)
        except Refusal as refusal:
            why = f"a message that cannot be read: {refusal}"
        except Exception as error:  # a fault of ours: whoever waits for events has to see it
            self._lost = error
        finally:
            if self._closed is None and self._lost is None:
                self._lost = ConnectionLost(f"the connection ended before the stream did ({why})")
            await self._end()
            await socket.close()

    async def _take(self, event: ServerEvent) -> None:
        async with self._news:
            if (place := _replaced(event, self._unread)) is not None:
                self._unread[place] = event
            else:
                self._unread.append(event)
            self._news.notify_all()
        if isinstance(event, Closed):
            self._closed = event
        if isinstance(event, Final) and event.reason == "finalize":
            self._answer(event)

    def _answer(self, final: Final) -> None:
        """The oldest finalize that waits for this channel has it."""
        answer = next((each for each in self._answers if final.channel in each.owing), None)
        if answer is None:
            return
        answer.owing.discard(final.channel)
        if answer.final is None or final.channel == 0:
            answer.final = final
        if not answer.owing:
            self._answers.remove(answer)
            if not answer.first.done():  # its task may have been cancelled
                answer.first.set_result(answer.final)

    async def _end(self) -> None:
        async with self._news:
            self._ended = True
            self._news.notify_all()
        for waiting in self._answers:
            if not waiting.first.done():
                waiting.first.set_exception(
                    self._lost or ConnectionLost("the stream was closed before the finalize was answered")
                )
        self._answers.clear()


def stream_url(url: str, options: Options) -> str:
    """`http://host:port` or `ws://host:port/path` and the options as the URL to connect to."""
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        known = parts.scheme in _SCHEMES and parts.hostname and parts.port != 0  # a port out of range raises
    except ValueError:
        known = False
    if not known:
        raise StreamError("bad_request", f"url: got {url!r}, expected ws://HOST:PORT or wss://HOST:PORT")
    path = PATH if parts.path in ("", "/") else parts.path
    query = "&".join(filter(None, (parts.query, options.query())))
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, query, ""))


def parse(message: str | bytes) -> ServerEvent | None:
    """A server's message as an event; None for a type that this client does not know.

    Later servers may say more: unknown fields are passed over, unknown reasons and codes taken for familiar ones.
    Raises Refusal for what no version of the protocol says.
    """
    try:
        fields = json.loads(message)
        kind = _EVENTS.get(fields.pop("type", ""))
        if kind is None:
            return None
        for name, (familiar, instead) in _FAMILIAR.items():
            if isinstance(fields.get(name), str) and fields[name] not in familiar:
                fields[name] = instead
        if kind in (Partial, Final) and "words" in fields:
            fields["words"] = tuple(Word(**_known(Word, word)) for word in fields["words"])
        event: ServerEvent = kind(**_known(kind, fields))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # no JSON, or none of the protocol's
        raise Refusal("message", message[:60], f"JSON of the protocol ({error})", code="bad_message") from None
    return event


def _known(kind: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in fields.items() if name in names}


def _replaced(new: ServerEvent, unread: deque[ServerEvent]) -> int | None:
    """A partial supersedes the unread one of the same segment, so that a slow reader never falls behind."""
    if isinstance(new, Partial):
        for place in range(len(unread) - 1, -1, -1):
            old = unread[place]
            if not isinstance(old, Partial):
                return None
            if (old.channel, old.segment) == (new.channel, new.segment):
                return place
    return None


def _refused(error: InvalidStatus) -> StreamError:
    """What the server said in place of an upgrade."""
    status = error.response.status_code
    code = {401: "unauthorized", 503: "at_capacity"}.get(status, "bad_request")
    text = (error.response.body or b"").decode("utf-8", "replace").strip()
    return StreamError(code, f"the server answered {status}: {text or error.response.reason_phrase}")


def _why(closed: ConnectionClosed) -> str:
    frame = closed.rcvd or closed.sent
    return f"code {frame.code} {frame.reason}".rstrip() if frame else "no close frame"
