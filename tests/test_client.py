"""Claims about the Python client, against a real daemon on the toy backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

from clients.client import Client, ConnectionLost, Options, StreamError, parse, stream_url
from clients.send import NotAudio, read, send
from streamer.errors import Refusal
from streamer.protocols.events import Closed, Error, Final, Partial, Ready
from tests.served import served

RATE = 16000


def loud(seconds: float, level: float = 0.2) -> bytes:
    """A tone that the toy hears as one letter after the other."""
    tone = level * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)
    return (32767 * tone).astype("<i2").tobytes()


def quiet(seconds: float) -> bytes:
    return bytes(2 * int(seconds * RATE))


async def finals_of(client: Client) -> list[Final]:
    return [event async for event in client if isinstance(event, Final)]


async def test_everything_that_was_sent_is_final_when_close_returns() -> None:
    async with served() as url, Client(url, Options(latency_ms=80)) as client:
        await client.send(loud(1.0))
        closed = await client.close()
        finals = await finals_of(client)
    assert closed == Closed(audio_seconds=1.0)
    assert finals[-1].reason == "close"
    assert finals[-1].words


async def test_odd_pieces_give_the_same_finals_as_one_piece() -> None:
    pcm = loud(0.5) + quiet(0.4) + loud(0.3, 0.5)
    heard = []
    async with served() as url:
        for size in (len(pcm), 37):
            async with Client(url) as client:
                for at in range(0, len(pcm), size):
                    await client.send(pcm[at : at + size])
                await client.close()
                heard.append(await finals_of(client))
    assert heard[0] == heard[1]
    assert len(heard[0][0].words) == 2


async def test_finalize_answers_with_what_was_said_so_far_and_the_stream_goes_on() -> None:
    async with served() as url, Client(url, Options(latency_ms=80)) as client:
        await client.send(loud(0.4) + quiet(0.2))
        first = await client.finalize()
        await client.send(loud(0.4))
        second = await client.finalize()
        await client.close()
    assert first.reason == second.reason == "finalize"
    assert first.text
    assert second.text
    assert second.start >= first.end


async def test_finalize_is_answered_without_any_words() -> None:
    async with served() as url, Client(url) as client:
        assert (await client.finalize()).text == ""


async def test_partials_come_before_the_final_and_can_be_switched_off() -> None:
    seen = {}
    async with served() as url:
        for interim in (True, False):
            async with Client(url, Options(latency_ms=80, interim=interim)) as client:
                await client.send(loud(1.0))
                await client.finalize()
                await client.close()
                seen[interim] = [type(event) async for event in client]
    assert seen[True][0] is Partial
    assert Partial not in seen[False]


async def test_an_unread_partial_is_replaced_by_the_next_one() -> None:
    async with served() as url, Client(url, Options(latency_ms=80)) as client:
        for _ in range(20):
            await client.send(loud(0.08))
            await asyncio.sleep(0.01)
        await client.close()
        events = [event async for event in client]
    assert [type(event) for event in events] in ([Final, Closed], [Partial, Final, Closed])


async def test_configure_changes_endpointing_underway() -> None:
    async with served() as url, Client(url, Options(latency_ms=80, endpointing=False)) as client:
        await client.configure(endpointing=True, endpoint_silence_ms=160)
        await client.keepalive()
        await client.send(loud(0.4) + quiet(1.0))
        await client.close()
        reasons = [final.reason for final in await finals_of(client)]
    assert reasons[0] == "endpoint"


async def test_a_refused_stream_raises_the_servers_own_sentence() -> None:
    async with served() as url:
        with pytest.raises(StreamError, match="latency=333: expected one of the model's") as refused:
            await Client(url, Options(latency_ms=333)).connect()
    assert refused.value.code == "bad_request"


async def test_a_room_has_one_speaker_at_a_time_and_is_free_when_the_stream_has_ended() -> None:
    async with served() as url:
        async with Client(url, Options(room="demo")):
            with pytest.raises(StreamError, match="room=Demo: expected one without a speaker") as taken:
                await Client(url, Options(room="Demo")).connect()
            assert taken.value.code == "room_taken"
        async with Client(url, Options(room="demo")) as client:
            await client.send(loud(0.5))
            assert (await client.close()).audio_seconds == 0.5


async def test_the_key_travels_as_a_header() -> None:
    async with served("server.key=open-sesame") as url:
        async with Client(url, key="open-sesame") as client:
            assert isinstance(client.ready, Ready)
        for key in (None, "wrong"):
            with pytest.raises(StreamError) as refused:
                await Client(url, key=key).connect()
            assert refused.value.code == "unauthorized"


async def test_a_full_server_says_so() -> None:
    async with served(slots=2) as url, Client(url):
        with pytest.raises(StreamError) as refused:
            await Client(url).connect()
    assert refused.value.code == "at_capacity"


async def test_no_server_is_an_os_error() -> None:
    with pytest.raises(OSError, match="1"):
        await Client("ws://127.0.0.1:1").connect()


@asynccontextmanager
async def speaking(*messages: str | bytes) -> AsyncIterator[str]:
    """The URL of a server that says these things to everybody and then waits."""

    async def say(socket: ServerConnection) -> None:
        for message in messages:
            await socket.send(message)
        await socket.wait_closed()

    async with serve(say, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


async def scripted(
    handler: Callable[[ServerConnection], Awaitable[None]], talk: Callable[[Client], Awaitable[None]]
) -> None:
    """A client against a server that says what the test says."""
    async with serve(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        client = Client(f"ws://127.0.0.1:{port}")
        await client.connect()
        await talk(client)
        await client.abort()


READY = json.dumps({"type": "ready", "session_id": "s", "model": "m", "latency_ms": 80, "sample_rate": 16000})


async def test_a_connection_that_ends_before_its_stream_is_an_error_everywhere() -> None:
    async def hang_up(socket: ServerConnection) -> None:
        await socket.send(READY)
        await socket.recv()
        await socket.close(1011, "gone")

    async def talk(client: Client) -> None:
        waiting = asyncio.create_task(client.finalize())
        with pytest.raises(ConnectionLost, match="1011 gone"):
            await waiting
        with pytest.raises(ConnectionLost):
            await anext(client)
        with pytest.raises(ConnectionLost):
            await client.close()

    await scripted(hang_up, talk)


WORD = {"word": "hello", "start": 0.0, "end": 0.4, "confidence": 0.9}
FINAL = {"type": "final", "channel": 0, "segment": 0, "start": 0.0, "end": 0.4, "text": "hello", "words": [WORD]}


async def test_messages_and_fields_of_a_later_server_are_passed_over() -> None:
    said = [
        {"type": "speaker", "name": "a"},
        {**FINAL, "words": [{**WORD, "speaker": 2}], "reason": "speaker_change", "language": "en"},
        {"type": "error", "code": "too_loud", "message": "softer, please"},
        {"type": "closed", "audio_seconds": 1.5, "extra": 1},
    ]
    async with speaking(READY, *map(json.dumps, said)) as url:
        client = Client(url)
        await client.connect()
        final, error, closed = [event async for event in client]
        await client.abort()
    assert isinstance(final, Final)
    assert (final.text, final.reason) == ("hello", "endpoint")
    assert error == Error(code="internal", message="softer, please")
    assert closed == Closed(audio_seconds=1.5)


UNREADABLE = (
    "{",
    "[]",
    "3",
    b"\xff",
    '{"type": []}',
    '{"type": "closed"}',
    '{"type": "closed", "audio_seconds": -1}',
    json.dumps({**FINAL, "reason": 3}),
    json.dumps({**FINAL, "reason": "close", "words": 3}),
)


@pytest.mark.parametrize("message", UNREADABLE)
async def test_what_nobody_can_read_ends_the_stream_with_an_error_everywhere(message: str | bytes) -> None:
    async with speaking(READY, message) as url:
        client = Client(url)
        await client.connect()
        with pytest.raises(ConnectionLost, match="cannot be read"):
            await client.finalize()
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="cannot be read"):
                await anext(client)
        with pytest.raises(ConnectionLost):
            await client.close()
        await client.abort()


async def test_a_fault_while_reading_is_raised_to_who_waits_for_events(monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(Client, "_take", breaks)
    async with speaking(READY, '{"type": "closed", "audio_seconds": 1}') as url:
        client = Client(url)
        await client.connect()
        with pytest.raises(KeyError, match="a fault of ours"):
            await anext(client)
        await client.abort()


@pytest.mark.parametrize(
    ("first", "sentence"),
    [
        (None, "said nothing for 0.2 s"),
        ("hello", "another protocol"),
        ('{"type": "closed", "audio_seconds": 1}', "expected ready"),
    ],
)
async def test_a_server_of_something_else_is_an_error_at_once(first: str | None, sentence: str) -> None:
    async with speaking(*([first] if first else [])) as url:
        with pytest.raises(ConnectionLost, match=sentence):
            await Client(url, open_timeout_s=0.2 if first is None else 10.0).connect()


VALUES = st.recursive(
    st.none() | st.floats() | st.text() | st.sampled_from(["ready", "partial", "final", "closed", "error"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "words", "reason", "code"]), inner),
)


@example('{"type": "partial"}')
@example('{"type": "final", "words": null}')
@given(st.text() | VALUES.map(json.dumps))
def test_any_text_is_an_event_or_nothing_or_refused(message: str) -> None:
    with contextlib.suppress(Refusal):
        parse(message)


async def test_what_is_said_after_the_end_is_refused_and_waits_for_nothing() -> None:
    async with speaking(READY, '{"type": "closed", "audio_seconds": 1.5}') as url:
        client = Client(url)
        await client.connect()
        assert [event async for event in client] == [Closed(audio_seconds=1.5)]
        for verb in (client.finalize(), client.send(b""), client.keepalive()):
            with pytest.raises(ConnectionLost, match="has ended"):
                await verb
        assert await client.close() == Closed(audio_seconds=1.5)
        await client.abort()


def test_urls_are_completed() -> None:
    options = Options(latency_ms=160, interim=False)
    assert stream_url("http://h:1", options) == "ws://h:1/v1/stream?latency=160&interim=false"
    assert stream_url("h:1", Options()) == "ws://h:1/v1/stream"
    assert stream_url("wss://h/speech?a=1", options) == "wss://h/speech?a=1&latency=160&interim=false"
    for url in ("ftp://h", "ws://h:99999", "ws://h:abc", "ws://h:0", "ws://[::1", "ws://"):
        with pytest.raises(StreamError, match="expected ws://HOST:PORT"):
            stream_url(url, options)


def test_an_unknown_message_is_nothing() -> None:
    assert parse('{"type": "weather"}') is None


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (44100, 2), (96000, 1), (8000, 10)])
async def test_a_file_is_sent_whole_whatever_its_format(tmp_path: Path, rate: int, channels: int) -> None:
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.full((rate // 2, channels), 0.1, np.float32), rate)
    recording = read(file)
    options = Options(sample_rate=recording.rate, encoding=recording.encoding, channels=recording.channels)
    async with served() as url, Client(url, options) as client:
        await send(client, recording, fast=True)
        closed = await client.close()
    assert closed.audio_seconds == pytest.approx(0.5, abs=0.001)


async def test_a_file_at_real_time_takes_as_long_as_it_lasts(tmp_path: Path) -> None:
    file = tmp_path / "tone.wav"
    soundfile.write(file, np.full(RATE // 2, 0.1, np.float32), RATE)
    loop = asyncio.get_running_loop()
    async with served() as url, Client(url, Options(encoding="pcm_f32le")) as client:
        began = loop.time()
        await send(client, read(file))
        took = loop.time() - began
    assert 0.5 <= took < 30


@pytest.mark.parametrize("content", [None, b"this is no sound"])
def test_what_cannot_be_sent_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "talk.wav"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NotAudio, match=r"talk\.wav: (no such file|not audio)"):
        read(file)
