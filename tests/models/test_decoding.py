"""Label looping equals the plain loop, does not care how frames are cut or who shares the batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.decoding import DecoderState, Token, decode, decode_ctc
from models.transcribe import Heard, Stream, offline, pieces, stream
from models.transducer import Model
from tests.models import golden
from tests.models.golden import STREAMED, Case, first_context

Said = list[tuple[int, int, int]]


def said(tokens: list[Token]) -> Said:
    """What must be identical: id, frame, duration."""
    return [(token.id, token.frame, token.duration) for token in tokens]


@torch.inference_mode()
def plain_loop(model: Model, frames: Tensor) -> Said:
    """Greedy decoding as one writes it down: one frame and one label at a time."""
    config, out = model.config, []
    g, h, c = model.predict(torch.tensor([config.blank]), *model.start(1))
    t, count, at = 0, 0, -1
    while t < len(frames):
        logits = model.joint(model.joint.enc(frames[t])[None], g)[0]
        label = int(logits[: config.blank + 1].argmax())
        step = config.durations[int(logits[config.blank + 1 :].argmax())] if config.durations else 0
        if label == config.blank:
            t += max(step, 1)
            continue
        count, at = (count + 1 if at == t else 1), t
        out.append((label, t, step))
        g, h, c = model.predict(torch.tensor([label]), h, c)
        t += step
        if count >= config.max_symbols and at == t:
            t += 1
    return out


def prompted(case: Case) -> tuple[Model, Tensor]:
    model, _ = golden.loaded(case.model)
    frames = torch.from_numpy(case.frames)[None]
    default = torch.tensor([model.config.prompt_index(None) or 0])
    return model, model.with_prompt(frames, default).detach()


@torch.inference_mode()
def cut(model: Model, frames: Tensor, widths: list[int]) -> Said:
    """Decode (1, T, d) in pieces of these widths, over and over, carrying the state."""
    state, out, first, index = DecoderState.start(model, 1), [], 0, 0
    while first < frames.shape[1]:
        piece = frames[:, first : first + widths[index % len(widths)]]
        (new,), state = decode(model, piece, torch.tensor([piece.shape[1]]), torch.tensor([first]), state)
        out += said(new)
        first, index = first + piece.shape[1], index + 1
    return out


@cache
def whole(case: Case) -> Said:
    """Decoded as one piece."""
    model, frames = prompted(case)
    return cut(model, frames, [frames.shape[1]])


TRANSDUCERS = tuple(case for case in STREAMED if golden.loaded(case.model)[0].config.transducer)
FIRST = tuple(case for case in STREAMED if case.clip == "speech" and case.context == first_context(case.model))


@pytest.mark.parametrize("case", TRANSDUCERS, ids=str)
def test_the_window_form_says_what_the_plain_loop_says(case: Case) -> None:
    model, frames = prompted(case)
    assert whole(case) == plain_loop(model, frames[0])


@pytest.mark.parametrize("case", FIRST, ids=str)
@settings(max_examples=15, deadline=None)
@given(widths=st.lists(st.integers(1, 17), min_size=1, max_size=6))
def test_frames_may_be_cut_anywhere(case: Case, widths: list[int]) -> None:
    model, frames = prompted(case)
    assert cut(model, frames, widths) == whole(case)


def test_a_duration_that_passes_the_chunks_end_skips_frames_of_the_next() -> None:
    case = next(case for case in FIRST if case.model == "tdt_bpe")
    model, frames = prompted(case)
    crossing = [t for t in cut(model, frames, [99]) if t[2] > 1 and t[1] + t[2] < frames.shape[1]]
    assert crossing
    width = crossing[0][1] + 1  # the token is said at the last frame of the first chunk
    with torch.inference_mode():
        start = DecoderState.start(model, 1)
        _, state = decode(model, frames[:, :width], torch.tensor([width]), torch.tensor([0]), start)
    assert state.jump.tolist() == [crossing[0][2] - 1]


def test_a_frame_says_at_most_max_symbols_tokens() -> None:
    case = Case("rnnt_char", "speech", (10, 1))
    model, frames = prompted(case)
    at = [frame for _, frame, _ in cut(model, frames, [2])]
    assert max(at.count(frame) for frame in set(at)) == model.config.max_symbols == 3


def test_a_chunk_without_frames_changes_nothing() -> None:
    for case in FIRST:
        model, frames = prompted(case)
        start = DecoderState.start(model, 1)
        with torch.inference_mode():
            (tokens,), state = decode(model, frames[:, :3], torch.tensor([0]), torch.tensor([0]), start)
        assert tokens == []
        assert torch.equal(state.label, start.label)
        assert torch.equal(state.g, start.g)


def test_ctc_collapses_across_chunks_and_after_a_blank_says_a_label_again() -> None:
    labels = [2, 2, 1, 1, 2, 1, 1]  # blank is 2
    logprobs = torch.nn.functional.one_hot(torch.tensor([labels]), 3).float().log_softmax(-1)
    model, _ = golden.loaded("ctc_bpe")
    state = DecoderState.start(model, 1)
    out = []
    for first in range(len(labels)):
        one = logprobs[:, first : first + 1]
        (new,), state = decode_ctc(one, torch.tensor([1]), torch.tensor([first]), state)
        out += [(token.id, token.frame) for token in new]
    assert out == [(1, 2), (1, 5)]


@dataclass
class Listener:
    """One stream of a batch: its audio in pieces, when it starts, which of its turns it sits out."""

    pcm: list[np.ndarray]
    prompt: int | None
    idle: list[bool]
    done: int = 0

    def turn(self, now: int) -> tuple[np.ndarray | None, bool]:
        if self.idle[now % len(self.idle)] or self.done == len(self.pcm):
            return None, False
        piece, self.done = self.pcm[self.done], self.done + 1
        return piece, self.done == len(self.pcm)


def together(streams: Stream, listeners: list[Listener]) -> list[list[Heard]]:
    state, heard, now = streams.start(len(listeners)), [[] for _ in listeners], 0
    while any(listener.done < len(listener.pcm) for listener in listeners):
        turns = [listener.turn(now) for listener in listeners]
        state, new = streams.step(state, *zip(*turns, strict=True), [listener.prompt for listener in listeners])
        for row, one in zip(heard, new, strict=True):
            row.append(one)
        now += 1
    return heard


IDLE = st.lists(st.booleans(), min_size=1, max_size=5).filter(lambda turns: not all(turns))
SHORTER = (0, 197, 1280, 12345)  # samples cut off the end: few, so that every decision's margin gets tried
ROW = st.tuples(st.sampled_from(golden.CLIPS), st.sampled_from(SHORTER), IDLE)


def begun(clip: str, shorter: int) -> np.ndarray:
    return golden.clip(clip)[: max(0, len(golden.clip(clip)) - shorter)]


@cache
def alone(case: Case, clip: str, shorter: int, prompt: int | None) -> Heard:
    """The recording in a stream of its own."""
    return stream(golden.loaded(case.model)[0], begun(clip, shorter), case.context, prompt)


@pytest.mark.parametrize("case", [case for case in STREAMED if case.clip == "speech"], ids=str)
@settings(max_examples=5, deadline=None)
@given(rows=st.lists(ROW, min_size=2, max_size=4))
def test_rows_of_any_length_and_phase_hear_in_company_what_they_hear_alone(
    case: Case, rows: list[tuple[str, int, list[bool]]]
) -> None:
    model, _ = golden.loaded(case.model)
    streams = Stream(model, case.context)
    languages = [index for _, index in model.config.prompts] or [None]
    pcm = [begun(clip, shorter) for clip, shorter, _ in rows]
    prompts = [languages[i % len(languages)] for i in range(len(rows))]
    listeners = [
        Listener(pieces(audio, streams.chunk), prompt, idle)
        for audio, prompt, (_, _, idle) in zip(pcm, prompts, rows, strict=True)
    ]
    for (clip, shorter, _), prompt, heard in zip(rows, prompts, together(streams, listeners), strict=True):
        single = alone(case, clip, shorter, prompt)
        assert said([token for one in heard for token in one.tokens]) == said(single.tokens)
        frames = torch.cat([one.frames for one in heard])
        assert frames.shape == single.frames.shape
        assert torch.allclose(frames, single.frames, atol=1e-5)


def test_an_offline_model_decodes_in_pieces_what_it_decodes_at_once() -> None:
    model, _ = golden.loaded("offline_bpe")
    heard = offline(model, golden.clip("speech"))
    assert said(heard.tokens) == plain_loop(model, heard.frames)
