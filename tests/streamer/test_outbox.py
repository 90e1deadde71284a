"""What waits for a slow reader: partials coalesce, finals never, and there is an end."""

from __future__ import annotations

import asyncio

from streamer.actions import Hangup
from streamer.outbox import Letter, Outbox
from streamer.protocols.events import Final, Partial


def partial(segment: int = 0) -> Letter:
    return Letter(Partial(segment=segment, start=0.0, text="", words=(), stable_words=0))


def final(segment: int = 0) -> Letter:
    return Letter(Final(segment=segment, start=0.0, end=0.0, text="", words=(), reason="endpoint"))


async def test_unsent_partials_coalesce_and_the_newest_is_kept() -> None:
    outbox = Outbox(4)
    letters = [partial() for _ in range(100)]
    assert all(outbox.put(letter) for letter in letters)
    assert len(outbox) == 1
    assert await outbox.get() is letters[-1]


async def test_a_partial_never_passes_a_final_nor_takes_its_place() -> None:
    outbox = Outbox(8)
    letters = [partial(0), final(0), partial(1), final(1)]
    for letter in letters:
        outbox.put(letter)
    assert [await outbox.get() for _ in letters] == letters


async def test_who_leaves_too_much_unread_is_given_up() -> None:
    outbox = Outbox(2)
    assert outbox.put(final(0))
    assert outbox.put(final(1))
    assert not outbox.given_up
    assert not outbox.put(final(2))
    assert outbox.given_up
    first = [await outbox.get(), await outbox.get()]
    assert not outbox.put(partial(3)), "there is room again, but no hole may be in what is said"
    assert outbox.put(Letter(Hangup(code=1011, reason="error"))), "a hangup always fits"
    hangups = [(await outbox.get()).event, (await outbox.get()).event]
    assert [type(letter.event) for letter in first] == [Final, Final]
    assert hangups == [Hangup(code=1008, reason="reads too slowly"), Hangup(code=1011, reason="error")]


async def test_the_reader_waits_until_something_comes() -> None:
    outbox = Outbox(2)
    getting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    assert not getting.done()
    letter = final()
    outbox.put(letter)
    assert await asyncio.wait_for(getting, 30) is letter
