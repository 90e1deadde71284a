"""Watching over real sockets: viewers hear the speaker, late or not; whoever is slow, rude or gone harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import AsyncExitStack

import aiohttp
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus

from streamer.backends.fake import spell
from streamer.protocols.events import Final, Ready, Word
from tests.streamer.house import deaf_client, finals, house, kinds, listen, say, speaker, talk, told, until, wire


async def test_viewers_hear_what_the_speaker_hears_and_a_late_one_the_settled_text() -> None:
    async with house() as home, home.viewer("demo") as early, home.viewer("DEMO") as other:
        assert json.loads(await early.recv()) == {"type": "room", "room": "demo", "live": False}
        assert json.loads(await other.recv()) == {"type": "room", "room": "DEMO", "live": False}
        async with speaker(home) as socket:
            await socket.send(wire("one two three"))
            await say(socket, "finalize")
            said = [await until(socket, "final")]
            async with home.viewer("demo") as late:
                heard = await told(late, "final")
                assert kinds(heard) == ["room", "live", "final"]
                assert heard[0] == {"type": "room", "room": "demo", "live": True}
                assert heard[-1] == said[0]
                await socket.send(wire("four"))
                await say(socket, "close")
                said += [message for message in await listen(socket) if message["type"] == "final"]
                for viewer in (early, other):
                    everything = await told(viewer, "away")
                    assert [message for message in everything if message["type"] == "final"] == said
                    assert kinds(everything)[0] == "live"
                    assert "partial" in kinds(everything)
                rest = await told(late, "away")
                assert finals(rest) == finals(said[1:])


async def test_partials_reach_viewers_while_the_speaker_speaks_and_a_late_one_sees_the_last() -> None:
    async with house("session.stall_ms=60000") as home, speaker(home) as socket, home.viewer("demo") as viewer:
        await socket.send(wire("hello world"))
        shown = await until(socket, "partial")
        while shown["text"] != "hello world":
            shown = await until(socket, "partial")
        seen = await until(viewer, "partial")
        while seen["text"] != "hello world":
            seen = await until(viewer, "partial")
        assert seen == shown
        async with home.viewer("demo") as late:
            heard = await told(late, "partial")
            assert (kinds(heard), heard[-1]) == (["room", "live", "partial"], shown)


async def test_channels_that_are_heard_apart_reach_viewers_apart() -> None:
    both = np.column_stack([spell("left side"), spell("wry sight")])
    async with house() as home, home.viewer("demo") as viewer:
        async with speaker(home, query="channels=2&multichannel=true") as socket:
            await socket.send((both * 32767).astype("<i2").tobytes())
            await say(socket, "close")
            said = [message for message in await listen(socket) if message["type"] == "final"]
        heard = [message for message in await told(viewer, "away") if message["type"] == "final"]
        assert heard == said
        assert {message["channel"] for message in heard} == {0, 1}


# Viewers that are slow, rude, gone or too many.


async def test_a_viewer_that_never_reads_is_let_go_and_nobody_waits_for_it() -> None:
    """Partials of a long segment are long: they fill what the kernel keeps for the deaf one soon."""
    options = ("server.send_timeout_s=0.5", "endpoint.enabled=false", "session.stall_ms=60000")
    async with house(*options) as home, speaker(home) as socket, home.viewer("demo") as viewer:
        deaf = await deaf_client(home.port, "/v1/watch/demo")
        await home.settled(lambda: home.daemon.rooms.viewers == 2)
        reading = asyncio.create_task(told(viewer, "away", 90))
        heard = asyncio.create_task(listen(socket))
        while home.daemon.rooms.viewers == 2:
            await socket.send(wire(" ".join(["ab"] * 20)))
            await asyncio.sleep(0.1)  # what is sent until then has to be heard after it
        await say(socket, "close")
        said = [message for message in await heard if message["type"] == "final"]
        assert [message for message in await reading if message["type"] == "final"] == said
        deaf.transport.abort()


async def test_a_viewer_that_does_not_take_a_long_history_is_let_go() -> None:
    async with house("server.send_timeout_s=0.5") as home:
        speech = home.daemon.rooms.speak("demo", "s")
        speech.say(Ready(session_id="s", model="m", latency_ms=80, sample_rate=16000), 0.0)
        words = tuple(Word(word="x" * 1000, start=0.0, end=0.0, confidence=1.0) for _ in range(2))
        for segment in range(500):
            text = " ".join(word.word for word in words)
            speech.say(Final(segment=segment, start=0.0, end=0.0, text=text, words=words, reason="endpoint"), 0.0)
        async with home.viewer("demo") as viewer:
            deaf = await deaf_client(home.port, "/v1/watch/demo")
            await home.settled(lambda: home.daemon.rooms.viewers == 2)
            speech.end(1.0, 0.0)
            assert kinds(await told(viewer, "away")).count("final") == 500
            await home.settled(lambda: home.daemon.rooms.viewers == 1)
            deaf.transport.abort()


@pytest.mark.parametrize("message", ["{}", '{"type":"keepalive"}', "", b"", b"\0" * 640])
async def test_what_a_viewer_says_is_refused_in_words(message: str | bytes) -> None:
    async with house() as home, speaker(home) as socket, home.viewer("demo") as viewer, home.viewer("demo") as other:
        await viewer.send(message)
        heard = await listen(viewer)
        assert kinds(heard) == ["room", "live", "error"]
        assert heard[-1]["code"] == "bad_state"
        assert heard[-1]["message"] == "message='one of a viewer': expected none: a room is watched, not spoken to"
        assert viewer.close_code == 1008
        await socket.send(wire("undisturbed"))
        await say(socket, "close")
        await listen(socket)
        assert finals(await told(other, "away")) == "undisturbed"


async def test_a_huge_message_of_a_viewer_is_not_even_read() -> None:
    async with house() as home, home.viewer("demo") as viewer:
        with contextlib.suppress(Exception):
            await viewer.send(b"\0" * 1_000_000)
        await listen(viewer)
        assert viewer.close_code == 1009
        await home.settled(lambda: not home.daemon.rooms.viewers)


async def test_a_viewer_that_answers_no_ping_is_given_up_and_one_that_does_stays() -> None:
    async with house("server.heartbeat_s=0.3") as home, home.viewer("demo") as viewer:
        deaf = await deaf_client(home.port, "/v1/watch/demo")
        await home.settled(lambda: home.daemon.rooms.viewers == 2)
        await home.settled(lambda: home.daemon.rooms.viewers == 1)
        assert finals(await talk(home, "here", "room=demo")) == "here"
        assert finals(await told(viewer, "away")) == "here"
        await (await viewer.ping())
        deaf.transport.abort()


async def test_viewers_that_come_and_go_leave_nothing_behind() -> None:
    async with house() as home, speaker(home) as socket:
        for round_ in range(8):
            async with AsyncExitStack() as crowd:
                rooms = ["demo" if number % 2 else f"empty{number}" for number in range(25)]
                viewers = [await crowd.enter_async_context(home.viewer(room)) for room in rooms]
                for number, viewer in enumerate(viewers):
                    await viewer.recv()
                    if number % 3 == round_ % 3:
                        viewer.transport.abort()
        await home.settled(lambda: not home.daemon.rooms.viewers)
        await home.settled(lambda: len(home.daemon.rooms) == 1)
        assert not home.daemon._watching
        await say(socket, "close")
        await listen(socket)


async def test_too_many_viewers_are_refused_in_words_until_one_goes() -> None:
    async with house("rooms.most_viewers=1") as home:
        async with home.viewer("a") as first:
            await first.recv()
            async with home.viewer("b") as second:
                (error,) = await listen(second)
                assert (error["code"], error["message"]) == ("at_capacity", "viewers=1: expected at most 1 at once")
                assert second.close_code == 1013
        await home.settled(lambda: not home.daemon.rooms.viewers)
        async with home.viewer("b") as third:
            assert json.loads(await third.recv())["type"] == "room"


async def test_too_many_rooms_are_refused_in_words_and_a_stream_without_one_is_not() -> None:
    async with house("rooms.most=1") as home, speaker(home, "a"):
        async with home.client("room=b") as second:
            (error,) = await listen(second)
            assert (error["code"], error["message"]) == ("at_capacity", "rooms=1: expected at most 1 at once")
            assert second.close_code == 1013
        assert finals(await talk(home, "alone")) == "alone"


@pytest.mark.parametrize("room", ["no%20name", "a%2Fb", "caf%C3%A9", "a" * 65])
async def test_a_wrong_name_is_an_error_in_words_and_1008(room: str) -> None:
    async with house() as home:
        async with home.viewer(room) as viewer:
            (error,) = await listen(viewer)
            assert error["code"] == "bad_request"
            assert error["message"].endswith(": expected 1 to 64 of A-Z a-z 0-9 _ -")
            assert viewer.close_code == 1008
        assert await talk(home, "x", f"room={room}") == [error]
        assert not len(home.daemon.rooms)


async def test_a_viewer_has_nothing_to_ask_for() -> None:
    async with house() as home, home.viewer("demo?latency=80") as viewer:
        (error,) = await listen(viewer)
        assert (error["code"], error["message"]) == ("bad_request", "parameter=latency: expected none")
        assert viewer.close_code == 1008


async def test_the_numbers_of_rooms_and_viewers_are_among_the_metrics() -> None:
    async with house() as home, speaker(home), home.viewer("demo") as viewer, home.viewer("other") as waiting:
        await viewer.recv()
        await waiting.recv()
        async with aiohttp.ClientSession() as http, http.get(f"{home.http}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    assert "streamer_rooms 1.0" in lines
    assert "streamer_viewers 2.0" in lines


# Doors.


async def test_a_viewer_needs_the_key_unless_rooms_are_public_and_a_speaker_always_does() -> None:
    key = {"additional_headers": {"Authorization": "Bearer sesame"}}
    async with house("server.key=sesame") as home:
        with pytest.raises(InvalidStatus) as refused:
            async with home.viewer("demo"):
                pass
        assert refused.value.response.status_code == 401
        async with home.viewer("demo", **key) as viewer, home.viewer("demo", subprotocols=["bearer", "sesame"]) as page:
            assert json.loads(await viewer.recv())["type"] == "room"
            assert page.subprotocol == "bearer"
    async with house("server.key=sesame", "rooms.public=true") as home, home.viewer("demo") as viewer:
        assert json.loads(await viewer.recv())["type"] == "room"
        with pytest.raises(InvalidStatus) as refused:
            await talk(home, "x", "room=demo")
        assert refused.value.response.status_code == 401


@pytest.mark.parametrize("public", ["true", "false"])
@pytest.mark.parametrize("path", ["/v1/watch/demo", "/v1/stream?room=demo"])
async def test_pages_of_other_origins_stay_out_whether_rooms_are_public_or_not(path: str, public: str) -> None:
    async with house(f"rooms.public={public}") as home, aiohttp.ClientSession() as http:
        port = home.port
        for origin, host in (("evil.example", "127.0.0.1"), ("rebound.example", "rebound.example")):
            headers = {"Origin": f"http://{origin}:{port}", "Host": f"{host}:{port}"}
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(home.http + path, headers=headers)
            assert refused.value.status == 403
        for host in ("127.0.0.1", "localhost", "[::1]"):
            headers = {"Origin": f"http://{host}:{port}", "Host": f"{host}:{port}"}
            async with http.ws_connect(home.http + path, headers=headers) as socket:
                assert (await socket.receive_json())["type"] in ("room", "ready")
            await home.empty()


async def test_a_get_that_asks_for_no_websocket_is_told_so() -> None:
    async with house() as home, aiohttp.ClientSession() as http, http.get(f"{home.http}/v1/watch/demo") as answer:
        assert (answer.status, await answer.text()) == (426, "request: expected a WebSocket\n")
