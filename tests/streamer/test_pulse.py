"""A silent client is asked, and given up when it does not answer."""

from __future__ import annotations

from streamer.pulse import Beat, Pulse


def test_a_ping_is_due_once_after_the_silence_and_a_client_without_an_answer_is_gone() -> None:
    pulse = Pulse(20.0, 100.0)
    seen = {now: beat for now in range(100, 140) if (beat := pulse.check(float(now))) is not None}
    assert min(seen.items()) == (120, Beat.PING)
    assert list(seen.values()).count(Beat.PING) == 1
    assert min(now for now, beat in seen.items() if beat is Beat.GONE) == 130


def test_anything_that_comes_is_an_answer() -> None:
    pulse = Pulse(20.0, 0.0)
    assert pulse.check(20.0) is Beat.PING
    pulse.felt(29.0)
    assert [pulse.check(now) for now in (30.0, 48.9, 49.0, 58.9, 59.0)] == [None, None, Beat.PING, None, Beat.GONE]


def test_a_clock_that_was_not_looked_at_for_long_is_no_fault_of_the_client() -> None:
    assert Pulse(20.0, 0.0).check(1e6) is Beat.PING


def test_a_doubt_asks_at_once_and_an_answer_settles_it() -> None:
    pulse = Pulse(20.0, 0.0)
    pulse.felt(10.0)
    pulse.doubt(11.0)
    assert [pulse.check(now) for now in (11.1, 15.0)] == [Beat.PING, None]
    pulse.doubt(16.0)  # a second one wins no time
    assert pulse.check(21.0) is None
    assert pulse.check(21.1) is Beat.GONE
    pulse.felt(22.0)
    assert [pulse.check(now) for now in (23.0, 41.9, 42.0)] == [None, None, Beat.PING]
