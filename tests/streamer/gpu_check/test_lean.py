"""The load generator's client: its frames are what a WebSocket server reads, and it reads what one writes."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from streamer.gpu_check.lean import BINARY, TEXT, Lean, frame, kind_of, last_end
from streamer.protocols.events import Partial, Word
from streamer.protocols.native import write


class Wire:
    """Takes the place of a transport."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True

    def take(self) -> bytes:
        sent, self.sent = bytes(self.sent), bytearray()
        return sent


class Talk:
    """A lean client against the sans-I/O server of `websockets`."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float]] = []
        self.server, self.wire = ServerProtocol(), Wire()
        self.lean = Lean("/v1/stream?latency=80", lambda _, kind, end: self.told.append((kind, end)))
        self.lean.connection_made(self.wire)  # type: ignore[arg-type]

    def open(self) -> Talk:
        self.server.receive_data(self.wire.take())
        (request,) = self.server.events_received()
        assert request.path == "/v1/stream?latency=80"  # type: ignore[union-attr]
        self.server.send_response(self.server.accept(request))  # type: ignore[arg-type]
        self.to_client()
        return self

    def to_client(self, piece: int = 1 << 20) -> None:
        data = b"".join(self.server.data_to_send())
        for at in range(0, len(data), piece):
            self.lean.data_received(data[at : at + piece])

    def heard_by_server(self) -> list[Frame]:
        self.server.receive_data(self.wire.take())
        return [one for one in self.server.events_received() if isinstance(one, Frame)]


FIRST = Word(word="ab", start=0.5, end=0.75, confidence=1.0)
LAST = Word(word="c", start=0.75, end=12.08, confidence=0.5)
PARTIAL = write(Partial(segment=0, start=0.5, text="ab c", words=(FIRST, LAST), stable_words=1))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 2560, 65_535, 65_536])
def test_audio_arrives_as_it_was(size: int) -> None:
    talk, samples = Talk().open(), bytes(range(256)) * 257
    talk.lean.say(frame(BINARY, samples[:size]))
    (heard,) = talk.heard_by_server()
    assert (heard.opcode, heard.data) == (Opcode.BINARY, samples[:size])


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_messages_are_read_for_their_kind_whole_and_byte_by_byte(piece: int) -> None:
    talk = Talk().open()
    for text in (
        '{"type":"ready","session_id":"x"}',
        PARTIAL,
        '{"type":"final","end":3.5,"words":[]}',
        '{"type":"closed"}',
    ):
        talk.server.send_text(text.encode())
    assert not talk.lean.ready
    talk.to_client(piece)
    assert talk.told == [("ready", 0.0), ("partial", 12.08), ("final", 0.0), ("closed", 0.0)]
    assert talk.lean.ready


def test_a_ping_is_answered() -> None:
    talk = Talk().open()
    talk.server.send_ping(b"still there?")
    talk.to_client()
    (heard,) = talk.heard_by_server()
    assert (heard.opcode, heard.data) == (Opcode.PONG, b"still there?")


def test_closing_says_so_in_the_protocols_words() -> None:
    talk = Talk().open()
    talk.lean.close()
    (heard,) = talk.heard_by_server()
    assert (heard.opcode, heard.data) == (Opcode.TEXT, b'{"type":"close"}')


def test_a_refused_upgrade_and_a_lost_line_are_told() -> None:
    refused, lost, closed = Talk(), Talk().open(), Talk().open()
    refused.lean.data_received(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    lost.lean.connection_lost(None)
    closed.lean.close()
    closed.lean.connection_lost(None)
    assert (refused.told, lost.told, closed.told) == ([("refused", 0.0)], [("lost", 0.0)], [])
    assert refused.wire.aborted


def test_a_partial_without_words_has_no_end() -> None:
    assert last_end(write(Partial(segment=0, start=0.0, text="", words=(), stable_words=0)).encode()) == 0.0
    assert kind_of(PARTIAL.encode()) == "partial"
    assert frame(TEXT, b"")[0] == 0x81
