"""What the check computes without any device: limits, the search for the most streams, who speaks when, the rule."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from models.config import ModelConfig
from streamer.gpu_check import limits
from streamer.gpu_check.generator import said_s
from streamer.gpu_check.job import B06, FULL, M114
from streamer.gpu_check.search import Search, complaints
from streamer.gpu_check.seats import Load, Seat, Wheel

WIDE = replace(B06, contexts=((70, 13), (70, 6), (70, 1), (70, 0)))  # as the table below was made
# Of one H200 (4.3 TB/s, 790 TFLOP/s), left context 70, bfloat16: GFLOP, MB, microseconds; worked out by hand.
TABLE = [
    (M114, 1, 64, 14.1, 389, 90), (M114, 1, 256, 56.2, 930, 216), (M114, 2, 1024, 450.1, 3131, 728),
    (M114, 7, 1, 1.5, 212, 49), (M114, 14, 256, 790.6, 1053, 1001), (M114, 14, 1024, 3162.5, 3587, 4003),
    (WIDE, 1, 1, 1.2, 1177, 274), (WIDE, 1, 1024, 1218.5, 9229, 2146), (WIDE, 2, 256, 609.3, 3210, 771),
    (WIDE, 7, 64, 533.6, 1712, 675), (WIDE, 14, 64, 1068.5, 1758, 1352), (WIDE, 14, 1024, 17095.2, 10592, 21640),
]  # fmt: skip


@pytest.mark.parametrize(("config", "chunk", "rows", "gflop", "megabytes", "us"), TABLE)
def test_a_steps_work_is_what_was_worked_out_by_hand(
    config: ModelConfig, chunk: int, rows: int, gflop: float, megabytes: float, us: float
) -> None:
    work = limits.encoder_step(config, rows, chunk)
    assert work.flops / 1e9 == pytest.approx(gflop, abs=0.05, rel=2e-3)
    assert work.bytes / 1e6 == pytest.approx(megabytes, abs=0.5, rel=2e-3)
    assert 1e6 * work.seconds(4.3e12, 790e12) == pytest.approx(us, rel=0.01)


def test_weights_and_state_are_those_of_the_published_sizes() -> None:
    assert limits.encoder_weights(M114) == pytest.approx(104e6, rel=0.01)
    assert limits.encoder_weights(B06) == pytest.approx(584e6, rel=0.01)
    assert limits.state_bytes(M114)["convolution"] == 17 * 8 * 512 * 2
    assert limits.state_bytes(B06)["keys and values"] == 2 * 24 * 70 * 1024 * 2
    assert B06.latencies_ms == (1120, 560, 320, 160, 80)
    assert M114.latencies_ms == (1120, 560, 160, 80)


def test_the_search_costs_more_with_more_tokens_and_more_rows() -> None:
    quiet, loud = (limits.decoder_step(B06, 64, 2, tokens) for tokens in (0, 64))
    assert loud.flops > quiet.flops
    assert loud.bytes > quiet.bytes
    assert limits.decoder_step(B06, 128, 2, 0).flops == 2 * quiet.flops
    both = quiet + loud
    assert both.flops == quiet.flops + loud.flops


@pytest.mark.parametrize("limit", [0, 1, 7, 999, 1000, 1001, 5300, 20_000])
def test_the_search_finds_the_limit_with_few_runs(limit: int) -> None:
    search, tried = Search(first=1000, top=16_000), []
    while (streams := search.next()) is not None:
        tried.append(streams)
        search.tell(streams, streams <= limit)
    assert len(tried) == len(set(tried))
    assert len(tried) <= 13
    assert search.good <= limit
    assert search.good >= min(16_000, limit - max(1, 0.05 * limit))


FINE = {"results": 1000.0, "late_share": 0.001, "final_p95_s": 1.0, "errors": 0.0, "lag_p99_s": 0.01}


def test_the_rule_lets_through_what_is_just_fine() -> None:
    assert complaints(FINE, 0.08) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"late_share": 0.0011}, "late chunks"), ({"final_p95_s": 1.01}, "finals"), ({"errors": 1.0}, "streams"),
        ({"lag_p99_s": 0.021}, "load"), ({"results": 0.0}, "no result"),
    ],
)  # fmt: skip
def test_the_rule_says_what_is_wrong(change: dict[str, float], word: str) -> None:
    (said,) = complaints(FINE | change, 0.08)
    assert word in said


def load(**changes: object) -> Load:
    return replace(Load(40, 2, 3.0, 1.0, (1.0, 2.0)), **changes)  # type: ignore[arg-type]


def test_every_seat_speaks_once_in_a_chunk_at_its_own_phase() -> None:
    seats = load().seats(100_000)
    for seat in seats:
        seat.first_turn = 0
    wheel, period = Wheel(seats, load().chunk_s), load().chunk_s
    luck, now, heard = random.Random(0), 0.0, [0] * len(seats)
    while now < 10 * period:
        for first, turn in wheel.due(now):
            assert first <= now
            for seat in turn:
                due = heard[seat.number] * period + seat.phase
                assert first <= due <= now
                heard[seat.number] += 1
        assert all(count * period + seat.phase > now for count, seat in zip(heard, by_number(seats), strict=True))
        assert wheel.next_s > now
        now += luck.uniform(0, 0.4)


def by_number(seats: list[Seat]) -> list[Seat]:
    return sorted(seats, key=lambda seat: seat.number)


def test_seats_are_silent_until_their_turn_in_the_ramp() -> None:
    seats = load().seats(100_000)
    wheel, last = Wheel(seats, load().chunk_s), max(seat.first_turn for seat in seats)
    begun = [
        {seat.number for _, turn in wheel.due((at + 1) * load().chunk_s - 1e-9) for seat in turn}
        for at in range(last + 1)
    ]
    for at, numbers in enumerate(begun):
        assert numbers == {seat.number for seat in seats if seat.first_turn <= at}


def test_phases_are_spread_over_the_chunk_and_beginnings_over_the_ramp() -> None:
    seats = load().seats(100_000)
    phases = [seat.phase for seat in seats]
    widest = max(b - a for a, b in pairwise(phases))
    assert 0 <= min(phases) <= max(phases) < load().chunk_s
    assert widest <= 2 * load().chunk_s / len(seats)
    turns = [seat.first_turn for seat in seats]
    assert min(turns) == 0
    assert max(turns) == pytest.approx(load().ramp_s / load().chunk_s, abs=1.5)


def test_the_generators_share_the_seats() -> None:
    parts = [load(part=part, of=3).seats(100_000) for part in range(3)]
    assert sorted(seat.number for seats in parts for seat in seats) == list(range(40))


@pytest.mark.parametrize(
    ("end", "chunk", "said"),
    [
        (0.013, 1, 0.08),
        (0.08, 1, 0.08),
        (0.081, 1, 0.08),
        (0.093, 1, 0.16),
        (0.16, 2, 0.16),
        (0.173, 2, 0.32),
        (1.12, 14, 1.12),
    ],
)
def test_a_words_chunk_is_the_one_that_its_end_lies_in(end: float, chunk: int, said: float) -> None:
    assert said_s(end, chunk) == pytest.approx(said)


def test_streams_are_as_long_as_asked_for() -> None:
    luck = random.Random(3)
    lengths = [load().messages(luck) * load().chunk_s for _ in range(200)]
    assert min(lengths) >= 1.0 - load().chunk_s
    assert max(lengths) <= 2.0 + load().chunk_s


def test_the_full_check_covers_what_was_asked_for() -> None:
    assert FULL.batches[0] == 1
    assert FULL.batches[-1] == 4096
    assert (FULL.search_s, FULL.confirm_s) == (20.0, 120.0)
