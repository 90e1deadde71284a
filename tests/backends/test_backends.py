"""One suite for all backends: what a stream is told depends on its own audio only, and its state can travel."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from streamer.backends import cpu, ledger, load_backend, ort
from streamer.backends.base import Backend, BackendError, Row, State, samples_needed
from streamer.backends.fake import spell
from streamer.decoding import Token
from tests.artefacts import CLIPS, SLOTS, STREAMING, Stream, clip, expected, exported, fresh, hear, launch, plain

SOME = ("hybrid_bpe", "tdt_bpe", "ctc_bpe")
KINDS = ("fake", *(f"ort:{model}" for model in SOME), "ort:hybrid_bpe:int8", "pytorch:hybrid_bpe", "pytorch:ctc_bpe")
KINDS += (*(f"arena:{model}" for model in SOME), *(f"cuda:{model}" for model in SOME), "trt:hybrid_bpe")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(kind: str) -> Iterator[Backend]:
    made = fresh(kind)
    yield made
    made.close()


def audio(backend: Backend, name: str) -> np.ndarray:
    """A clip whose decision margins are known; the toy gets letters."""
    if backend.name != "fake":
        return clip(name)
    return spell({"speech": "the toy hears letters and blanks", "pause": "two   words", "short": "ab"}[name])


def assert_same(got: list[Token], want: list[Token], backend: Backend) -> None:
    """int8 to the bit; fp32 the same tokens and frames, and probabilities up to rounding."""
    if backend.precision == "int8":
        assert got == want
    assert plain(got) == plain(want)
    np.testing.assert_allclose([t.logp for t in got], [t.logp for t in want], atol=1e-4)


@pytest.mark.parametrize("model", STREAMING)
@pytest.mark.parametrize("name", ["ort", "pytorch", "arena", "cuda"])
def test_streamed_tokens_and_frames_are_those_of_the_whole_file(name: str, model: str) -> None:
    backend = fresh(f"{name}:{model}")
    config = backend.config
    checked = 0
    for context in config.contexts:
        for language, prompt in config.prompts or ((None, None),):
            for clip_name in CLIPS:
                want = expected(model, clip_name, context, language)
                if want is not None:
                    got = hear(backend, 3, clip(clip_name), context[1] + 1, prompt)
                    assert plain(got) == want, (clip_name, context, language)
                    checked += 1
    assert checked >= len(CLIPS) * len(config.contexts)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_slots_idle_rows_and_chunks_at_once_change_nothing(backend: Backend, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [CLIPS[i % len(CLIPS)] for i in range(2 * SLOTS)]
    chunks = rng.choice(backend.config.chunks, len(names))
    wanted = list(zip(names, map(int, chunks), strict=True))
    alone = {(name, chunk): hear(backend, 0, audio(backend, name), chunk) for name, chunk in set(wanted)}
    waiting = list(enumerate(names))
    running: dict[int, tuple[int, Stream]] = {}
    while waiting or running:
        for slot in rng.permutation([s for s in range(SLOTS) if s not in running]):
            if waiting and rng.random() < 0.5:
                which, name = waiting.pop()
                backend.open(int(slot))
                running[int(slot)] = which, Stream(int(slot), audio(backend, name), int(chunks[which]))
        some = [stream for _, stream in running.values() if rng.random() < 0.7]
        for chunk in {stream.chunk for stream in some}:
            at_once = int(rng.integers(1, backend.most_chunks(chunk) + 1))
            launch(backend, [stream for stream in some if stream.chunk == chunk], at_once)
        for slot in [slot for slot, (_, stream) in running.items() if stream.done]:
            which, stream = running.pop(slot)
            assert_same(stream.tokens, alone[wanted[which]], backend)


def test_a_stream_goes_on_in_another_slot_of_another_backend(backend: Backend, kind: str) -> None:
    chunk = min(backend.config.chunks)
    want = hear(backend, 1, audio(backend, "speech"), chunk)
    other = fresh(kind)
    hosts = [(backend, 5), (other, 0), (backend, 2)]
    backend.open(5)
    stream = Stream(5, audio(backend, "speech"), chunk)
    at = 0
    while not stream.done:
        launch(hosts[at % 3][0], [stream])
        if stream.index % 4 == 0 and not stream.done:
            data = hosts[at % 3][0].take(stream.slot).to_bytes()
            at += 1
            host, stream.slot = hosts[at % 3]
            hear(host, stream.slot, audio(backend, "short"), chunk)  # what lay there before does not matter
            host.put(stream.slot, State.from_bytes(data))
    assert at >= 2
    assert_same(stream.tokens, want, backend)


def test_a_taken_stream_and_its_fork_do_not_touch_each_other(backend: Backend) -> None:
    chunk = min(backend.config.chunks)
    want = hear(backend, 1, audio(backend, "speech"), chunk)
    backend.open(1)
    stream = Stream(1, audio(backend, "speech"), chunk)
    while not stream.done:
        launch(backend, [stream])
        if stream.index == 5:
            backend.put(2, backend.take(1))
            (heard,) = backend.collect(backend.launch(chunk, [Row(2, np.zeros(0, np.float32), last=True)]))
            assert isinstance(heard, list)
    assert_same(stream.tokens, want, backend)


def test_a_fork_goes_on_as_its_source_would(backend: Backend) -> None:
    chunk = min(backend.config.chunks)
    want = hear(backend, 1, audio(backend, "speech"), chunk)
    backend.open(1)
    stream = Stream(1, audio(backend, "speech"), chunk)
    while stream.index < 5:
        launch(backend, [stream])
    backend.fork(1, 2)
    backend.open(1)
    stream.slot = 2
    while not stream.done:
        launch(backend, [stream])
    assert_same(stream.tokens, want, backend)


def test_a_vacated_slot_is_nobodys_and_its_neighbours_do_not_notice(backend: Backend) -> None:
    chunk = min(backend.config.chunks)
    want = hear(backend, 1, audio(backend, "speech"), chunk)
    streams = [Stream(slot, audio(backend, "speech"), chunk) for slot in (0, 1, 2)]
    for stream in streams:
        backend.open(stream.slot)
    launch(backend, streams)
    backend.vacate(1)
    (refused,) = backend.collect(backend.launch(chunk, [streams[1].next_row()]))
    assert isinstance(refused, BackendError)
    while not streams[0].done:
        launch(backend, [streams[0], streams[2]])
    for stream in (streams[0], streams[2]):
        assert_same(stream.tokens, want, backend)
    assert_same(hear(backend, 1, audio(backend, "speech"), chunk), want, backend)


def test_after_forgetting_no_stream_is_open_and_new_ones_hear_the_same(backend: Backend) -> None:
    chunk = min(backend.config.chunks)
    before = hear(backend, 2, audio(backend, "short"), chunk)
    backend.open(1)
    backend.forget()
    (refused,) = backend.collect(backend.launch(chunk, [Row(1, np.zeros(200, np.float32), True)]))
    assert isinstance(refused, BackendError)
    assert_same(hear(backend, 2, audio(backend, "short"), chunk), before, backend)


def test_bad_rows_are_refused_alone(backend: Backend) -> None:
    chunk = backend.config.chunks[0]
    needed = samples_needed(0, chunk)
    good, loud = audio(backend, "speech")[:needed], np.full(needed, np.nan, np.float32)
    for slot in range(5):
        backend.open(slot)
    want = backend.collect(backend.launch(chunk, [Row(4, good)]))[0]
    rows = [Row(0, loud), Row(1, good), Row(2, good[:-1]), Row(3, good.astype(np.float64)), Row(5, good)]
    heard = backend.collect(backend.launch(chunk, rows))
    assert [isinstance(row, BackendError) for row in heard] == [True, False, True, True, True]
    assert heard[1] == want or plain(heard[1]) == plain(want)
    for row in heard:
        if isinstance(row, BackendError):
            assert str(row).count(": got ") == 1
            assert ", expected " in str(row)


def test_a_refused_row_may_come_again_as_it_should_be(backend: Backend) -> None:
    chunk = backend.config.chunks[0]
    want = hear(backend, 0, audio(backend, "short"), chunk)
    backend.open(0)
    (refused,) = backend.collect(backend.launch(chunk, [Row(0, np.zeros(7, np.float32))]))
    assert isinstance(refused, BackendError)
    stream = Stream(0, audio(backend, "short"), chunk)
    while not stream.done:
        launch(backend, [stream])
    assert_same(stream.tokens, want, backend)


def test_a_finished_stream_takes_no_more_audio(backend: Backend) -> None:
    chunk = backend.config.chunks[0]
    hear(backend, 0, audio(backend, "short"), chunk)
    (heard,) = backend.collect(backend.launch(chunk, [Row(0, np.zeros(0, np.float32), last=True)]))
    assert isinstance(heard, BackendError)


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_audio_without_a_mel_frame_says_nothing(backend: Backend, samples: int) -> None:
    backend.open(0)
    rows = [Row(0, np.full(samples, 0.5, np.float32), last=True)]
    (heard,) = backend.collect(backend.launch(backend.config.chunks[0], rows))
    assert heard == []


def test_a_state_of_another_model_backend_or_precision_is_refused(backend: Backend) -> None:
    backend.open(0)
    state = backend.take(0)
    for field, value in (("model", "0" * 64), ("backend", "abacus"), ("precision", "int3")):
        with pytest.raises(BackendError, match=f"state.{field}"):
            backend.put(1, dataclasses.replace(state, **{field: value}))
    with pytest.raises(BackendError, match=r"state\.arrays"):
        backend.put(1, dataclasses.replace(state, arrays={}))


@pytest.mark.parametrize("kind", ["ort:hybrid_bpe"])
def test_a_state_with_impossible_counters_is_refused(backend: Backend) -> None:
    backend.open(0)
    state = backend.take(0)
    for name, value in (("label", 10_000), ("frames", -1), ("chunk", 3), ("prompt", 9), ("jump", 5)):
        arrays = {**state.arrays, name: np.array(value)}
        with pytest.raises(BackendError, match=f"state.{name}"):
            backend.put(1, dataclasses.replace(state, arrays=arrays))


NETWORKS = ["ort:hybrid_bpe", "ort:hybrid_bpe:int8", "pytorch:hybrid_bpe", "arena:hybrid_bpe", "cuda:hybrid_bpe"]


@pytest.mark.parametrize("kind", ["ort:hybrid_bpe"])
def test_a_state_whose_counters_do_not_fit_together_is_refused(backend: Backend) -> None:
    chunk = backend.config.chunks[0]
    backend.open(0)
    fresh_state = backend.take(0)
    launch(backend, [Stream(0, audio(backend, "speech"), chunk)])
    state = backend.take(0)
    backend.put(1, state)
    frames, samples = int(state.arrays["frames"]), int(state.arrays["samples"])
    assert (frames, samples) == (chunk, 1280 * chunk - 1080)
    wrong = [
        (fresh_state, {"samples": 1000}, "samples"),
        (fresh_state, {"chunk": chunk}, "frames"),
        (state, {"samples": samples - 1}, "samples"),
        (state, {"frames": frames + 1, "samples": samples + 1280}, "frames"),
        (state, {"frames": 0, "samples": 0}, "frames"),
        (state, {"chunk": 0}, "frames"),
    ]
    for good, changes, named in wrong:
        arrays = {**good.arrays, **{name: np.array(value) for name, value in changes.items()}}
        with pytest.raises(BackendError, match=rf"state\.{named}: got .*, expected"):
            backend.put(1, dataclasses.replace(good, arrays=arrays))


@pytest.mark.parametrize("kind", ["ort:hybrid_bpe"])
@pytest.mark.parametrize("name", ["keys.0", "h", "tail"])
def test_a_state_that_holds_no_numbers_is_refused(backend: Backend, name: str) -> None:
    backend.open(0)
    state = backend.take(0)
    arrays = {**state.arrays, name: np.full_like(state.arrays[name], np.nan)}
    with pytest.raises(BackendError, match=rf"state\.{name}: got NaN"):
        backend.put(1, dataclasses.replace(state, arrays=arrays))


def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are not looked at before they are computed."""
    monkeypatch.setattr(cpu, "check_row", lambda *_: None)
    monkeypatch.setattr(ledger, "LOUDEST", np.inf)


def absurd(chunk: int, loudness: float = 3e38) -> np.ndarray:
    """A first chunk whose power is infinite."""
    needed = samples_needed(0, chunk)
    return np.full(needed, loudness, np.float32) * np.resize([1, -1], needed).astype(np.float32)


@pytest.mark.parametrize("kind", ["fake", *NETWORKS])
def test_samples_far_beyond_full_scale_are_refused(backend: Backend) -> None:
    chunk = backend.config.chunks[0]
    backend.open(0)
    (heard,) = backend.collect(backend.launch(chunk, [Row(0, absurd(chunk, 2e4))]))
    assert isinstance(heard, BackendError)
    assert "got samples up to 2e+04, expected up to 10000" in str(heard)


@pytest.mark.parametrize("kind", NETWORKS)
def test_numbers_too_large_to_compute_end_their_own_stream_only(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the first guard, the refusal of such samples, taken away."""
    unguarded(monkeypatch)
    chunk = backend.config.chunks[0]
    want = hear(backend, 1, clip("short"), chunk)
    backend.open(0)
    backend.open(1)
    stream = Stream(1, clip("short"), chunk)
    heard = backend.collect(backend.launch(chunk, [Row(0, absurd(chunk)), stream.next_row()]))
    assert isinstance(heard[0], BackendError)
    stream.tokens += heard[1]
    while not stream.done:
        launch(backend, [stream])
    assert plain(stream.tokens) == plain(want)
    assert plain(hear(backend, 0, clip("short"), chunk)) == plain(want), "NaN was left in the slot"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_slot_that_heard_the_absurd_leaves_nothing_to_its_next_stream_when_idle(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slot 1 stands idle between two rows of a longer chunk: it must not be fed what its last owner was fed."""
    unguarded(monkeypatch)
    long, short = max(backend.config.chunks), min(backend.config.chunks)
    want = hear(backend, 5, clip("speech"), short)
    first, after = samples_needed(0, long), samples_needed(0, long) + samples_needed(1, long)
    pieces = clip("speech")[:first], clip("speech")[first:after]
    for slot in (0, 1, 2):
        backend.open(slot)
    heard = backend.collect(backend.launch(long, [Row(0, pieces[0]), Row(1, absurd(long)), Row(2, pieces[0])]))
    assert [isinstance(row, BackendError) for row in heard] == [False, True, False]
    backend.open(1)
    stream = Stream(1, clip("speech"), short)
    for _ in range(3):
        launch(backend, [stream])
    heard = backend.collect(backend.launch(long, [Row(0, pieces[1]), Row(2, pieces[1])]))
    assert not any(isinstance(row, Exception) for row in heard)
    while not stream.done:
        launch(backend, [stream])
    assert_same(stream.tokens, want, backend)


def test_a_processor_whose_products_would_overflow_gets_other_kernels_and_hears_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run with the kernels that it would get; the overflow itself needs such a processor (docs/decisions.md)."""
    heard = []
    for overflow in (False, True):
        monkeypatch.setattr(ort, "products_overflow", lambda overflow=overflow: overflow)
        heard.append(hear(fresh("ort:hybrid_bpe:int8"), 0, clip("speech"), 2))
    assert heard[0] == heard[1] != []


ABOUT = {"artefact.json": {"precision": None, "hash": 7}, "config.json": {"labels": ["x"] * 64}}


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in ABOUT.items() for key in keys])
def test_a_folder_that_does_not_say_what_it_is_is_refused_in_a_sentence(tmp_path: Path, file: str, key: str) -> None:
    folder = Path(shutil.copytree(exported("hybrid_bpe"), tmp_path / "copy"))
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**values, key: ABOUT[file][key]}))
    with pytest.raises(BackendError, match=r"^copy/.*: got .*, expected .*(export it again|the model's own 64)$"):
        load_backend("ort", folder, 1)


def test_callers_mistakes_are_sentences(backend: Backend) -> None:
    backend.open(0)
    silence = np.zeros(0, np.float32)
    with pytest.raises(BackendError, match=r"chunk: got 99, expected one of"):
        backend.launch(99, [Row(0, silence, True)])
    with pytest.raises(BackendError, match=r"rows: got"):
        backend.launch(backend.config.chunks[0], [Row(0, silence, True)] * 2)
    with pytest.raises(BackendError, match=r"slot: got 6, expected 0 to 5"):
        backend.open(SLOTS)
    with pytest.raises(BackendError, match=r"slot"):
        backend.take(4)


def test_unknown_backends_and_missing_folders_are_sentences(tmp_path: object) -> None:
    with pytest.raises(BackendError, match=r"backend: got abacus, expected one of fake, ort, pytorch"):
        load_backend("abacus", "x", 1)
    with pytest.raises(BackendError, match=r"expected a folder made by `streamer export`"):
        load_backend("ort", str(tmp_path), 1)
