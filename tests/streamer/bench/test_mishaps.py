"""Claims about what goes wrong on purpose: the seed decides, and cuts lie where nobody speaks."""

from __future__ import annotations

import random
from itertools import islice

from streamer.bench.mishaps import Fate, Mishaps, fate, quiet_places
from streamer.bench.order import Order, Speech, Take, from_json

MESSAGE_S = 0.02


def drawn(mishaps: Mishaps, seed: int, quiet: tuple[int, ...] = (40, 60, 90)) -> Fate:
    return fate(mishaps, random.Random(seed), 100, MESSAGE_S, quiet)


def test_nothing_happens_unless_it_is_asked_for() -> None:
    assert all(drawn(Mishaps(), seed) == Fate(frozenset(), None, None) for seed in range(20))


def test_shares_of_streams_stall_and_break() -> None:
    fates = [drawn(Mishaps(stalls=0.25, disconnects=0.5), seed) for seed in range(400)]
    assert 60 < sum(one.stall is not None for one in fates) < 140
    assert 150 < sum(one.drop is not None for one in fates) < 250
    assert {one.stall for one in fates} == {None, 40, 60, 90}, "a stall is a cut: it lies in a pause"
    assert all(one.drop is None or 1 <= one.drop < 100 for one in fates)


def test_a_stream_without_a_pause_is_not_stalled() -> None:
    assert all(drawn(Mishaps(stalls=1.0), seed, quiet=()).stall is None for seed in range(20))


def test_finalizes_come_at_the_first_pause_after_their_time_and_at_the_end() -> None:
    assert drawn(Mishaps(finalize_s=1.0), 0).finalizes == {60, 100}
    assert drawn(Mishaps(finalize_s=0.1), 0).finalizes == {40, 60, 90, 100}
    assert drawn(Mishaps(finalize_s=5.0), 0).finalizes == {100}


def test_quiet_places_keep_away_from_words_on_both_sides() -> None:
    words = [(1.0, 1.4), (1.5, 2.0), (4.0, 4.2)]
    places = quiet_places(words, 5.0, 0.08, MESSAGE_S)
    assert [place * MESSAGE_S for place in places] == [0.3, 2.88, 4.68]
    assert quiet_places(words, 5.0, 1.12, MESSAGE_S) == (15, 170), "a chunk that holds a word's end is not quiet"
    assert quiet_places([], 3.0, 0.08, MESSAGE_S) == (75,)


def order(**fields: object) -> Order:
    speeches = (Speech(begin=0, samples=16000, quiet=(10,)), Speech(begin=16000, samples=32000))
    values = {"url": "ws://host", "chunk": 1, "streams": 4, "audio": "a.npy", "speeches": speeches, **fields}
    return Order(**values)  # type: ignore[arg-type]


def takes(load: Order, most: int = 5) -> list[Take]:
    return [take for seat in load.seats() for take in islice(load.takes(seat), most)]


def test_the_same_seed_says_the_same_in_every_process() -> None:
    load = order(seconds=60.0, mishaps=Mishaps(jitter_ms=5, stalls=0.5, disconnects=0.5, finalize_s=1.0))
    assert takes(from_json(load.to_json())) == takes(load)
    assert takes(order(seconds=60.0, seed=1)) != takes(order(seconds=60.0))
    halves = [take for part in (0, 1) for take in takes(order(seconds=60.0, part=part, of=2))]
    assert sorted(take.seed for take in halves) == sorted(take.seed for take in takes(order(seconds=60.0)))


def test_without_a_time_each_seat_says_one_recording_in_turn() -> None:
    assert [take.recording for take in takes(order())] == [0, 1, 0, 1]
