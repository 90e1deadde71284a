"""Where a stream's text is cut: by frames, never by chunks; and that no cut loses or doubles a token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.decoding import Token
from streamer.transcript.endpoint import Rules
from streamer.transcript.transcript import Transcript
from streamer.transcript.utterance import Segment
from streamer.transcript.words import Speller
from tests.streamer.toy import ID, PIECES, Pieces, token

EOU = ID["<EOU>"]
SPELLER = Speller(Pieces(), (EOU, ID["<EOB>"]))
RULES = Rules(silence=5, start=10, longest=20)
NEVER = Rules(silence=10**6, start=10**6, longest=10**6, enabled=False)


def transcript(rules: Rules = RULES, chunk: int = 1) -> Transcript:
    return Transcript(SPELLER, rules, chunk, (EOU,))


def texts(segments: list[Segment]) -> list[str]:
    return [" ".join(w.text for w in segment.words) for segment in segments]


def test_silence_after_speech_ends_the_segment_in_the_middle_of_a_chunk() -> None:
    one = transcript(chunk=14)
    segments = one.hear([token("\u2581v1", 2), token("\u2581v2", 9)], 14)
    assert texts(segments) == ["v1"]
    assert [w.text for w in one.draft().words] == ["v2"]


def test_an_end_of_utterance_token_ends_the_segment_after_it() -> None:
    one = transcript()
    segments = one.hear([token("\u2581v1", 2), token("<EOU>", 2), token("\u2581v2", 2)], 3)
    assert texts(segments) == ["v1"]
    assert [t.id for t in segments[0].tokens] == [ID["\u2581v1"], EOU]
    assert [w.text for w in one.draft().words] == ["v2"]


def test_an_end_of_utterance_token_ends_nothing_where_endpointing_is_off_or_no_word_was_said() -> None:
    assert transcript(NEVER).hear([token("\u2581v1", 2), token("<EOU>", 2)], 3) == []
    assert transcript().hear([token("<EOU>", 2)], 3) == []


def test_a_long_segment_ends_before_its_last_word_and_the_clock_goes_on_from_that_word() -> None:
    one = transcript()
    speech = [token(f"\u2581v{1 + frame % 6}", frame) for frame in range(0, 60, 4)]
    segments = one.hear(speech, 60)
    assert texts(segments) == ["v1 v5 v3 v1", "v5 v3 v1 v5", "v3 v1 v5 v3"]


def test_silence_without_speech_says_nothing() -> None:
    one = transcript()
    assert one.hear([], 100) == []
    segments = one.hear([token("\u2581v1", 100)], 106)
    assert [s.index for s in segments] == [0]


def test_the_silence_that_a_close_adds_ends_no_segment_and_its_tokens_are_said() -> None:
    one = transcript()
    one.end(samples=3 * 1280)
    assert one.hear([token("\u2581v1", 2)], 12) == []
    assert one.hear([token("a", 20), token("<EOU>", 21)], 40) == []
    last = one.cut(samples=3 * 1280)
    assert texts([last]) == ["v1a"]
    assert last.end_s <= 0.24


def test_a_fork_s_tokens_are_final_and_the_stream_does_not_repeat_them() -> None:
    one = transcript()
    one.hear([token("\u2581v1", 0)], 1)
    one.ahead([token("a", 1), token("\u2581v2", 2)], 5)
    assert texts([one.cut(samples=2 * 1280)]) == ["v1a v2"]
    one.hear([token("a", 1), token("\u2581v2", 3), token("\u2581v3", 4)], 5)
    assert [w.text for w in one.draft().words] == ["v3"]


def test_what_differs_from_a_fork_s_tokens_is_said() -> None:
    one = transcript()
    one.ahead([token("\u2581v1", 0), token("a", 1)], 5)
    assert texts([one.cut(samples=2 * 1280)]) == ["v1a"]
    one.hear([token("\u2581v1", 0), token("b", 3)], 4)
    assert [w.text for w in one.draft().words] == ["b"]


streams = st.lists(st.lists(st.sampled_from(PIECES), max_size=2), max_size=60).map(
    lambda frames: ([token(p, f) for f, pieces in enumerate(frames) for p in pieces], len(frames))
)


def heard_in_chunks(one: Transcript, tokens: list[Token], frames: int, chunk: int) -> list[Segment]:
    segments: list[Segment] = []
    for begin in range(0, frames // chunk * chunk, chunk):
        segments += one.hear([t for t in tokens if begin <= t.frame < begin + chunk], begin + chunk)
    rest = [t for t in tokens if t.frame >= frames // chunk * chunk]
    one.end(frames * 1280)
    return [*segments, *one.hear(rest, frames), one.cut(frames * 1280)]


@given(streams, st.integers(1, 6), st.integers(1, 12), st.integers(1, 30))
def test_the_segments_tokens_joined_are_the_unsegmented_tokens(
    stream: tuple[list[Token], int], silence: int, start: int, longest: int
) -> None:
    tokens, frames = stream
    segments = heard_in_chunks(transcript(Rules(silence, start, longest)), tokens, frames, 1)
    assert [t for s in segments for t in s.tokens] == tokens


@given(streams, st.sampled_from([2, 7, 14]))
def test_cuts_do_not_depend_on_chunks(stream: tuple[list[Token], int], chunk: int) -> None:
    tokens, frames = stream
    single = heard_in_chunks(transcript(chunk=1), tokens, frames, 1)
    chunked = heard_in_chunks(transcript(chunk=chunk), tokens, frames, chunk)
    assert [s.tokens for s in chunked] == [s.tokens for s in single]
    assert texts(chunked) == texts(single)


@given(streams, st.integers(1, 5), st.integers(4, 30))
def test_every_word_that_no_cut_goes_through_is_what_it_is_without_cuts(
    stream: tuple[list[Token], int], silence: int, longest: int
) -> None:
    tokens, frames = stream
    whole = heard_in_chunks(transcript(NEVER), tokens, frames, 1)[-1].words
    segments = heard_in_chunks(transcript(Rules(silence, 10, longest)), tokens, frames, 1)
    cuts, said = set(), 0
    for segment in segments[:-1]:
        said += len(segment.tokens)
        cuts.add(said)
    kept = [w for s in segments for w in s.words]
    uncut = [w for w, places in zip(whole, word_places(tokens), strict=True) if not cuts & places]
    assert is_subsequence([(w.text, w.confidence) for w in uncut], [(k.text, k.confidence) for k in kept])


def word_places(tokens: list[Token]) -> list[set[int]]:
    """For each word of the unsegmented stream the places between its tokens, where a cut would go through it."""
    groups: list[list[int]] = []
    for i, one in enumerate(tokens):
        if not SPELLER.visible(one):
            continue
        if not groups or SPELLER.starts_word(one):
            groups.append([])
        groups[-1].append(i)
    spelled = [g for g in groups if SPELLER.group([tokens[i] for i in g]) is not None]
    return [set(range(g[0] + 1, g[-1] + 1)) for g in spelled]


def is_subsequence(short: list[tuple[str, float]], long: list[tuple[str, float]]) -> bool:
    rest = iter(long)
    return all(any(item == other for other in rest) for item in short)
