"""One client's socket: carries messages between it, its session and the engine. Decides nothing about speech."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import WSMessage, WSMsgType, web

from models.config import FRAME_S, SAMPLE_RATE
from streamer.actions import Action, Drain, Feed, Finish, Fork, Hangup, Say
from streamer.config import Server
from streamer.engine.lanes import Failed, Lanes, Result
from streamer.engine.remote import Remote
from streamer.gate import Gate
from streamer.intake import Intake
from streamer.line import Line
from streamer.metrics import Metrics
from streamer.outbox import Letter, Outbox
from streamer.protocols.events import BARE, Audio, ClientEvent, Close, Error, Final, Finalize, Partial, ServerEvent
from streamer.protocols.native import Native
from streamer.rooms import Speech
from streamer.session import Session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

log = logging.getLogger(__name__)

SLICE_BYTES = 1 << 16  # of a message of samples: a second or more of the dearest to resample
BREATH = 50  # messages of one client in a row; then the others have their turn
FAULT = "session: got a fault of the server, expected none"


def stream_key(session_id: str, channel: int) -> str:
    """What the engine calls a channel of a session."""
    return f"{session_id}/{channel}"


@dataclass(frozen=True, slots=True)
class House:
    """What all connections share."""

    engine: Lanes | Remote
    metrics: Metrics
    limits: Server
    clock: Callable[[], float]


class Connection:
    """Runs from `ready` to the close frame. `hear`, `tick` and `shutdown` are called on the event loop."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, session: Session, house: House) -> None:
        self.id = ""
        self.speech: Speech | None = None  # our place in a room: what we are told its viewers are told, too
        self._streams: list[str] = []  # the engine's, one a voice
        self._socket, self._session, self._house = socket, session, house
        self._native = Native()
        self._outbox = Outbox(house.limits.max_outgoing * session.voices)
        self._asked: deque[float] = deque()  # when finalizes and the close came that have no final yet
        self._gate = Gate(house.limits.max_waiting_s, session.chunk * FRAME_S)
        self._line = Line(socket, request, self._outbox, house.limits, house.clock)
        self._intake: Intake | None = None
        if session.encoding not in BARE:
            self._intake = Intake(session.encoding, self._decoded, self._damaged, self._break)
        self._draining: asyncio.Task[None] | None = None
        self._broken = False  # a bug was met

    async def run(self, session_id: str) -> None:
        """Until the client has gone or has got everything. The engine's stream is open already, and ends with us."""
        self.id = self._line.name = session_id
        self._streams = [stream_key(session_id, channel) for channel in range(self._session.voices)]
        self._guard(lambda: self._session.start(session_id))
        try:
            with contextlib.suppress(ConnectionError):
                if await self._send(await self._outbox.get()):  # what was said before `ready` is read after it
                    await self._line.talk(self._read(), self._line.write(self._send))
        finally:
            self._drop()
            if self._draining is not None:
                self._draining.cancel()
            if self._intake is not None:
                self._intake.close()
            self._line.let_go()

    def _drop(self) -> None:
        for stream in self._streams:
            self._house.engine.drop(stream)

    # What comes from elsewhere.

    def hear(self, result: Result) -> None:
        """The engine has something for this stream."""
        now = self._house.clock()
        if isinstance(result.heard, Failed):
            failed = result.heard
            self._guard(lambda: self._session.failed(failed.code, failed.message, now))
        else:
            heard = result.heard
            channel = int(result.stream_id.rpartition("/")[2])
            self._guard(lambda: self._session.heard(heard, now, channel), result.arrived)
        if self._gate.shut:
            self._watch(now)

    def tick(self, now: float) -> None:
        """Time passed. While we do not read, silence is our own and no pause of the client's."""
        if self._gate.shut:
            self._watch(now)
        listening = self._gate.listening(now)
        self._guard(lambda: self._session.tick(now, listening=listening))
        if not (listening and self._line.reading):
            self._line.pulse.felt(now)
        self._line.beat(now)

    def doubt(self) -> None:
        """Somebody wants our room: a client that is not there any more should not keep it for long."""
        self._line.pulse.doubt(self._house.clock())

    def shutdown(self) -> None:
        """Finish as if the client had closed."""
        self._guard(lambda: self._session.shutdown(self._house.clock()))

    def fail(self, message: str) -> None:
        """Nothing more can be heard: end with what was."""
        self._guard(lambda: self._session.failed("internal", message, self._house.clock()))

    # The socket.

    async def _read(self) -> None:
        """Until the client hangs up; a fault of ours is said to it before we do."""
        try:
            count = 0
            async for message in self._socket:
                if message.type is WSMsgType.BINARY and len(message.data) <= SLICE_BYTES and self._intake is None:
                    self._hear_client(bytes(message.data))
                else:
                    await self._take(message)
                if self._gate.shut:
                    await self._gate.passed()
                count += 1
                if count % BREATH == 0:  # messages that are there already come without a pause
                    await asyncio.sleep(0)
            self._line.gone = True
        except ConnectionError:
            self._line.gone = True
        except Exception:
            self._break()

    def _hear_client(self, data: bytes) -> None:
        """A message of samples, which is what nearly all are; most only come nearer to a chunk, and that is quick."""
        now = self._house.clock()
        self._line.pulse.felt(now)
        if self.speech is not None and data and not self._session.ending:
            self.speech.heard(now)
        if self._native.streaming and self._session.keep(data, now):
            return
        event = self._native.receive(data)
        self._guard(lambda: self._session.receive(event, now))

    async def _take(self, message: WSMessage) -> None:
        now = self._house.clock()
        self._line.pulse.felt(now)
        match message.type:
            case WSMsgType.BINARY | WSMsgType.TEXT:
                event = self._native.receive(message.data if message.type is WSMsgType.TEXT else bytes(message.data))
                if isinstance(event, (Finalize, Close)):
                    self._asked.append(now)
                if self._intake is not None:
                    with self._gate.held(self._house.clock):
                        await self._compressed(self._intake, event, now)
                elif isinstance(event, Audio) and SLICE_BYTES < len(event.pcm) <= self._house.limits.max_message_bytes:
                    await self._sliced(event.pcm)
                else:
                    self._guard(lambda: self._session.receive(event, now))
            case WSMsgType.PING:
                await self._socket.pong(message.data)
            case WSMsgType.ERROR:  # not WebSocket any more: the library has closed it with a code already
                log.info("closed %s by the library", self._socket.close_code, extra={"session": self.id})

    async def _sliced(self, pcm: bytes) -> None:
        """A long message takes long to resample: the others have their turn between its slices."""
        for at in range(0, len(pcm), SLICE_BYTES):
            piece, now = Audio(pcm=pcm[at : at + SLICE_BYTES]), self._house.clock()
            self._guard(partial(self._session.receive, piece, now))
            await asyncio.sleep(0)

    # Compressed audio: what the session hears comes later, from a decoder.

    async def _compressed(self, intake: Intake, event: ClientEvent, now: float) -> None:
        session = self._session
        if isinstance(event, Audio):
            size = len(event.pcm)
            self._guard(lambda: session.arrived(size, now))
            if session.ending or not (bare := await intake.feed(event.pcm)):
                return
            event = Audio(pcm=bare)
        elif isinstance(event, Finalize):  # it cuts where it was sent
            await intake.settle()
            now = self._house.clock()
        self._guard(lambda: session.receive(event, now))

    def _damaged(self, sentence: str) -> None:
        self._guard(lambda: self._session.damaged(sentence, self._house.clock()))

    async def _decoded(self, blocks: npt.NDArray[np.float32], sample_rate: int) -> None:
        """A few bytes can hold hours: while too much waits to be heard nothing more is decoded."""
        now = self._house.clock()
        self._guard(lambda: self._session.decoded(blocks, sample_rate, now))
        if self._session.deaf and self._intake is not None:
            return self._intake.close()
        await self._gate.passed()

    async def _drain(self, intake: Intake) -> None:
        try:
            held = await intake.finish()
            self._guard(lambda: self._session.drained(self._house.clock(), held))
        except Exception:
            self._break()

    async def _send(self, letter: Letter) -> bool:
        """False if the client did not take it in time."""
        message = None
        if isinstance(letter.event, ServerEvent):
            try:
                message = self._native.send(letter.event)
            except Exception:
                self._break()
                return True
        if not await self._line.send(message):
            return False
        self._count(letter)
        return True

    def _watch(self, now: float) -> None:
        self._gate.watch(max(map(self._house.engine.waiting_seconds, self._streams)), now)

    # What the session wants.

    def _guard(self, decide: Callable[[], Sequence[Action]], arrived: float | None = None) -> None:
        """A bug that one stream meets ends that stream, with an error, and touches no other."""
        if self._broken:
            return
        try:
            self._do(decide(), arrived)
        except Exception:
            self._break()

    def _break(self) -> None:
        """Say the error that is being handled: as the end of the stream if the session can still say one."""
        log.exception("a session failed", extra={"session": self.id})
        if self._broken:
            return
        self._broken = True
        self._drop()
        try:
            self._do(self._session.failed("internal", FAULT, self._house.clock()), None)
        except Exception:
            log.exception("a failed session could not say its last words", extra={"session": self.id})
            self._say(Letter(Error(code="internal", message=FAULT)))
        self._outbox.put(Letter(Hangup(code=1011, reason="error")))

    def _do(self, actions: Sequence[Action], arrived: float | None) -> None:
        engine = self._house.engine
        for action in actions:
            match action:
                case Feed(channel=channel, pcm=pcm):
                    now = self._house.clock()
                    if self.speech is not None:
                        self.speech.heard(now)
                    self._house.metrics.audio.add(len(pcm) / SAMPLE_RATE)
                    engine.feed(self._streams[channel], pcm)
                    self._watch(now)
                case Fork(channel=channel, mark=mark, pcm=pcm):
                    engine.fork(self._streams[channel], mark, pcm)
                case Finish(channel=channel, pcm=pcm):
                    engine.finish(self._streams[channel], pcm)
                case Drain():
                    assert self._intake is not None, "drain: got it of bare samples"
                    self._draining = asyncio.create_task(self._drain(self._intake))
                case Say(event=event):
                    self._say(Letter(event, arrived if isinstance(event, Partial) else None))
                case Hangup():
                    self._drop()
                    self._outbox.put(Letter(action))

    def _say(self, letter: Letter) -> None:
        event = letter.event
        if isinstance(event, Final) and event.reason in ("finalize", "close") and not event.channel and self._asked:
            letter = Letter(event, self._asked.popleft())
        if isinstance(letter.event, Error):
            self._house.metrics.errors.labels(letter.event.code).inc()
        given_up = self._outbox.given_up
        if not self._outbox.put(letter) and not given_up:
            log.warning("closed: too many messages unread", extra={"session": self.id})
            self._drop()
        if self.speech is not None and isinstance(event, ServerEvent):  # viewers after the speaker
            self.speech.say(event, self._house.clock())

    def _count(self, letter: Letter) -> None:
        if letter.since is None:
            return
        histogram = self._house.metrics.partial if isinstance(letter.event, Partial) else self._house.metrics.final
        histogram.observe(self._house.clock() - letter.since)
