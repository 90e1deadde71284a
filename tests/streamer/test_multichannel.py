"""Channels heard apart: each is a speaker of its own, and says what it would say alone."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt
import pytest

from clients.client import Client, Options
from streamer.actions import Say
from streamer.backends.base import BackendError, Row
from streamer.backends.fake import FakeBackend, Faults, spell
from streamer.protocols.events import Audio, Final, Finalize, Opening
from streamer.session import Session
from tests.streamer.house import House, Message, house, kinds, listen, until
from tests.streamer.life import OFF, SETTINGS
from tests.streamer.toy import Pieces, toy_config

LEFT, RIGHT = "abc def ghi", "zyx w vut srq"


def samples(*texts: str) -> npt.NDArray[np.int16]:
    """16-bit samples [n, channels] of several speakers; the shorter ones are silent at the end."""
    voices = [spell(text) for text in texts]
    longest = max(voice.size for voice in voices)
    rows = [np.pad(voice, (0, longest - voice.size)) for voice in voices]
    return (np.column_stack(rows) * 32767).astype("<i2")


async def heard(home: House, pcm: npt.NDArray[np.int16], query: str) -> list[Message]:
    """All that the server says of these samples, sent in odd pieces."""
    data = pcm.tobytes()
    async with home.client(query) as socket:
        for at in range(0, len(data), 4001):
            await socket.send(data[at : at + 4001])
        await socket.send('{"type":"close"}')
        return await asyncio.wait_for(listen(socket), 30)


def finals(events: list[Message], channel: int) -> list[Message]:
    """A channel's finals, without saying whose they are."""
    own = [event for event in events if event["type"] == "final" and event["channel"] == channel]
    return [{name: value for name, value in event.items() if name != "channel"} for event in own]


@pytest.mark.parametrize("query", ["latency=80", "latency=560&endpoint_silence_ms=80"])
async def test_each_channel_says_what_it_says_alone(query: str) -> None:
    stereo = samples(LEFT, RIGHT)
    async with house() as home:
        both = await heard(home, stereo, f"{query}&channels=2&multichannel=true")
        for channel in (0, 1):
            alone = await heard(home, stereo[:, channel], query)
            assert finals(both, channel) == finals(alone, 0)
            assert finals(both, channel)[-1]["reason"] == "close"
    assert " ".join(final["text"] for final in finals(both, 1)).split() == RIGHT.split()
    assert kinds(both)[-3:] == ["final", "final", "closed"]
    assert both[-1]["audio_seconds"] == round(len(stereo) / 16000, 3)


async def test_without_the_wish_channels_are_mixed() -> None:
    async with house() as home:
        mixed = await heard(home, samples("abc", "abc"), "channels=2&latency=80")
        assert [event["text"] for event in finals(mixed, 0)] == ["abc"]
        assert not finals(mixed, 1)


async def test_a_finalize_is_answered_by_each_channel() -> None:
    stereo = samples(LEFT, RIGHT)

    async def finalized(home: House, pcm: npt.NDArray[np.int16], options: Options) -> list[Final]:
        """Two finalizes, one in the middle, and the close."""
        async with Client(f"ws://127.0.0.1:{home.port}", options) as client:
            for piece in np.array_split(pcm, 2):
                await client.send(piece.tobytes())
                answer = await asyncio.wait_for(client.finalize(), 30)
                assert (answer.channel, answer.reason) == (0, "finalize")
            await client.close()
            return [event async for event in client if isinstance(event, Final)]

    async with house("endpoint.enabled=false") as home:
        both = await finalized(home, stereo, Options(channels=2, multichannel=True, latency_ms=80))
        for channel in (0, 1):
            own = [(final.reason, final.text) for final in both if final.channel == channel]
            alone = await finalized(home, stereo[:, channel], Options(latency_ms=80))
            assert own == [(final.reason, final.text) for final in alone]
            assert [reason for reason, _ in own] == ["finalize", "finalize", "close"]


async def test_many_finalizes_at_once_are_answered_by_all_channels() -> None:
    own, query = house("engine.max_load=100", backend=FakeBackend(16)), "channels=8&multichannel=true&latency=80"
    async with own as home, home.client(query) as socket:
        await socket.send(bytes(16 * 1600))
        for _ in range(60):
            await socket.send('{"type":"finalize"}')
        await socket.send('{"type":"close"}')
        said = await asyncio.wait_for(listen(socket), 60)
        assert socket.close_code == 1000
    for channel in range(8):
        assert [final["reason"] for final in finals(said, channel)] == ["finalize"] * 60 + ["close"]


async def test_finals_that_are_owed_come_before_the_last_ones_of_all_channels() -> None:
    opening = Opening(encoding="pcm_f32le", channels=2, multichannel=True, latency_ms=160, endpointing=OFF)
    session = Session(opening, toy_config(), Pieces(), SETTINGS, 0.0)
    session.start("id")
    session.receive(Audio(pcm=bytes(8 * 1280)), 0.0)
    session.receive(Finalize(), 0.0)
    said = [a.event for a in session.failed("internal", "as ordered", 0.0) if isinstance(a, Say)]
    assert [(e.channel, e.reason) for e in said if isinstance(e, Final)] == [
        (0, "finalize"), (1, "finalize"), (0, "error"), (1, "error"),
    ]  # fmt: skip


def free_slots(home: House) -> int:
    return sum(lane.engine._slots.free for lane in home.daemon.engine.lanes)


async def test_every_channel_takes_a_place_and_gives_it_back() -> None:
    async with house() as home:
        free = free_slots(home)
        async with home.client("channels=2&multichannel=true&latency=80") as socket:
            await socket.recv()
            assert free_slots(home) == free - 2
            async with home.client("channels=8&multichannel=true&latency=80") as eight:
                full = await listen(eight)
            assert [event.get("code") for event in full] == ["at_capacity"]
            assert free_slots(home) == free - 2, "a refused stream kept places"
        await home.empty()
        assert free_slots(home) == free


async def test_a_fault_on_one_channel_ends_both_with_what_was_heard() -> None:
    def on_row(row: Row) -> Exception | None:
        loud = float(np.abs(row.pcm).max(initial=0))
        return BackendError("row", "loud samples", "none, as ordered") if loud > 0.95 else None

    good, bad = np.split(samples(LEFT, "abc").astype(np.int16), [-2560])
    bad[:, 1] = 32767
    query, said = "channels=2&multichannel=true&latency=80", []
    async with house(backend=FakeBackend(8, faults=Faults(on_row=on_row))) as home, home.client(query) as socket:
        await socket.send(good.tobytes())
        while not said or (said[-1].get("channel"), said[-1].get("text")) != (1, "abc"):
            said.append(await until(socket, "partial"))
        await socket.send(bad.tobytes())
        said += await asyncio.wait_for(listen(socket), 30)
    assert [event["code"] for event in said if event["type"] == "error"] == ["internal"]
    assert kinds(said)[-3:] == ["final", "final", "closed"]
    assert finals(said, 1)[-1]["text"] == "abc"
    assert finals(said, 0)[-1]["reason"] == "error"
