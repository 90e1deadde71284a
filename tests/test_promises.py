"""The promises of the README, end to end: sessions, engine and ONNX Runtime, on clips whose margins are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.transcribe import text_of
from streamer.backends.base import Backend, Row, State, samples_needed
from streamer.decoding import Token
from streamer.protocols.events import Audio, Close, Endpointing, Finalize
from tests.artefacts import fresh
from tests.models.golden import Case, clip, loaded
from tests.talk import UNCUT, Talk, converse, speak, wire

MODEL = "hybrid_bpe"
LATENCIES = {80: (14, 0), 160: (14, 1), 560: (14, 6), 1120: (14, 13)}
SLOTS = 24
CLIPS = ("speech", "pause")
Spoken = tuple[str, float, float, float]  # word, start, end, confidence
FEW = settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["fp32", "int8"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    backend = fresh(f"ort:{MODEL}:{request.param}", SLOTS)
    yield backend
    backend.close()


def alone(backend: Backend, data: bytes, latency_ms: int, endpointing: Endpointing = UNCUT, tail_ms: int = 0) -> Talk:
    talk = Talk(speak(data), latency_ms, endpointing)
    converse(backend, [talk], tail_ms=tail_ms)
    return talk


def nemo_text(name: str, latency_ms: int) -> str:
    model, tokenizer = loaded(MODEL)
    case = Case(MODEL, name, LATENCIES[latency_ms])
    ids = case.get("rnnt_tokens").tolist()
    return " ".join(text_of(model.config, tokenizer, [Token(i, 0, 0.0) for i in ids]).split())


@pytest.mark.parametrize("backend", ["fp32"], indirect=True)
@pytest.mark.parametrize("latency_ms", LATENCIES)
@pytest.mark.parametrize("name", CLIPS)
def test_exact_a_stream_says_what_nemo_says_of_the_whole_file(backend: Backend, name: str, latency_ms: int) -> None:
    assert alone(backend, wire(clip(name)), latency_ms).text == nemo_text(name, latency_ms)


def test_alone_equals_in_company(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    talks, expected = [], []
    for index in range(12):
        data = wire(clip(CLIPS[index % 2]))[: 2 * int(rng.integers(8_000, 40_000))]
        latency_ms = list(LATENCIES)[index % 4]
        expected.append(alone(backend, data, latency_ms).words)
        talks.append(Talk(speak(data, rng.integers(0, len(data), 5).tolist()), latency_ms))
    converse(backend, talks)
    assert [talk.words for talk in talks] == expected
    assert sum(map(len, expected)) > 30


@FEW
@given(cuts=st.lists(st.integers(0, 1 << 17), max_size=12))
def test_cutting_the_audio_anywhere_changes_nothing(backend: Backend, cuts: list[int]) -> None:
    data = wire(clip("pause"))
    talk = Talk(speak(data, cuts), 160)
    converse(backend, [talk])
    assert talk.words == alone(backend, data, 160).words
    assert talk.audio_seconds == pytest.approx(len(data) / 32_000, abs=1e-3)


@pytest.mark.parametrize("latency_ms", LATENCIES)
def test_audio_that_comes_later_changes_no_stable_word(backend: Backend, latency_ms: int) -> None:
    one, other = wire(clip("speech")), wire(clip("speech"))[:80_000] + wire(clip("pause"))
    first, second = alone(backend, one, latency_ms), alone(backend, other, latency_ms)
    for talk in (first, second):
        final = {(f.segment, i): word for f in talk.finals for i, word in enumerate(f.words)}
        stable = [(p.segment, i, p.words[i]) for p in talk.partials for i in range(p.stable_words)]
        assert all(final[segment, index] == word for segment, index, word in stable)
        assert stable
    heard_s = 80_000 / 32_000 - latency_ms / 1000
    until = [[w for w in talk.words if w[2] < heard_s - 0.2] for talk in (first, second)]
    settled = max(map(len, until)) - 1  # the last of them may still have grown
    assert first.words[:settled] == second.words[:settled] != []


@pytest.mark.parametrize("latency_ms", LATENCIES)
def test_a_state_goes_on_in_another_slot_and_process(backend: Backend, latency_ms: int) -> None:
    pcm, chunk = clip("speech"), backend.config.chunk_of(latency_ms)
    cuts, ends = [], 0
    while len(pcm) - ends >= samples_needed(len(cuts), chunk):
        cuts.append(pcm[ends : ends + samples_needed(len(cuts), chunk)])
        ends += len(cuts[-1])
    rows = [*((piece, False) for piece in cuts), (pcm[ends:], True)]

    def run(move: bool) -> list[tuple[int, int]]:
        slot, tokens = 3, []
        backend.open(slot)
        for index, (piece, last) in enumerate(rows):
            if move and index:
                state = State.from_bytes(backend.take(slot).to_bytes())
                slot = (slot + 5) % SLOTS
                backend.put(slot, state)
            (said,) = backend.collect(backend.launch(chunk, [Row(slot, piece, last)]))
            assert not isinstance(said, Exception), said
            tokens += [(token.id, token.frame) for token in said]
        return tokens

    assert run(move=True) == run(move=False) != []


@pytest.mark.parametrize("latency_ms", LATENCIES)
def test_nothing_is_lost_when_the_server_goes(backend: Backend, latency_ms: int) -> None:
    data = wire(clip("speech"))[:60_001]  # an odd byte is half a sample: nobody can hear it
    talk = Talk([Audio(pcm=data)], latency_ms)
    converse(backend, [talk], shutdown=True)
    assert talk.words == alone(backend, data[:60_000], latency_ms).words
    assert [final.reason for final in talk.finals] == ["shutdown"]


@pytest.mark.parametrize("latency_ms", LATENCIES)
def test_cut_into_segments_every_word_is_there_once(backend: Backend, latency_ms: int) -> None:
    data = wire(np.concatenate([clip("pause"), clip("speech"), clip("pause")]))
    whole = alone(backend, data, latency_ms)
    cut = alone(backend, data, latency_ms, Endpointing(silence_ms=160, max_ms=1_000))
    assert len(cut.finals) > 2
    assert cut.text.replace(" ", "") == whole.text.replace(" ", "")
    assert [word for word in cut.words if word in whole.words] != []


@FEW
@given(
    places=st.lists(st.integers(0, 102_794), min_size=1, max_size=4),
    tail_ms=st.sampled_from([0, 320]),
    latency_ms=st.sampled_from(sorted(LATENCIES)),
)
@example(places=[74_560], tail_ms=0, latency_ms=80)  # in gaps, where the fork says ahead what the stream then says
@example(places=[18_240, 98_880], tail_ms=320, latency_ms=160)
@example(places=[95_040], tail_ms=0, latency_ms=560)
@example(places=[33_600, 61_760], tail_ms=0, latency_ms=1120)
def test_finalize_loses_and_doubles_no_word_it_does_not_cut(
    backend: Backend, places: list[int], tail_ms: int, latency_ms: int
) -> None:
    data = wire(clip("speech"))
    places = sorted(2 * (place // 2) for place in places)
    events: list[Audio | Finalize | Close] = []
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        events += [Audio(pcm=data[start:end]), Finalize()]
    talk = Talk([*events[:-1], Close()], latency_ms)
    converse(backend, [talk], tail_ms=tail_ms)
    assert [final.reason for final in talk.finals] == ["finalize"] * len(places) + ["close"]
    starts = [word[1] for word in talk.words]
    assert starts == sorted(starts)
    whole = alone(backend, data, latency_ms, tail_ms=tail_ms).words
    cut: set[int] = set()
    for place in places:
        cut |= cut_words(
            alone(backend, data[:place], latency_ms, tail_ms=tail_ms).words, whole, place / 32_000 + tail_ms / 1000
        )
    rest = iter(talk.words)
    for index, word in enumerate(whole):
        assert index in cut or any(same(word, other) for other in rest), f"{word} was lost or changed"
    if not cut:
        assert [word[0] for word in talk.words] == [word[0] for word in whole]


def cut_words(until: list[Spoken], whole: list[Spoken], end_s: float) -> set[int]:
    """Which words a finalize goes through, told by what the audio until then says alone; often none.

    Where that says something else, these are all words from there to `end_s`, where the silence after the audio ends.
    """
    common = 0
    while common < min(len(until), len(whole)) and same(whole[common], until[common]):
        common += 1
    if common == len(until):
        return set()
    return {common, *(index for index in range(common, len(whole)) if whole[index][1] < end_s)}


def same(word: Spoken, other: Spoken) -> bool:
    """The same word; its times may have been trimmed by the end of the audio that a finalize heard."""
    early = other[1] <= word[1] + 0.09 and other[2] <= word[2] + 0.09
    return word[0] == other[0] and abs(word[3] - other[3]) < 0.09 and early
