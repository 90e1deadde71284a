"""The tiny checkpoints give what NeMo recorded for them: features, frames, log-probabilities, tokens, text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.decoding import DecoderState, Token, decode_ctc
from models.features_np import per_feature
from models.transcribe import Heard, features_of, offline, stream, text_of
from tests.models import golden
from tests.models.golden import CASES, CLIPS, MODELS, STREAMED, Case

ENCODER, CTC, FEATURES = 1e-4, 5e-4, 1e-3  # golden README, tolerances
LOGP = 1e-3


def assert_near(got: np.ndarray, expected: np.ndarray, most: float) -> None:
    assert got.shape == expected.shape
    far = np.abs(got - expected)
    assert far.size == 0 or far.max() <= most, f"max {far.max():.2g}, mean {far.mean():.2g}, expected at most {most}"


def prompt_of(case: Case, language: str | None) -> int | None:
    return None if language is None else dict(golden.loaded(case.model)[0].config.prompts)[language]


def assert_same_tokens(case: Case, language: str | None, tokens: list[Token]) -> None:
    config = golden.loaded(case.model)[0].config
    head = "rnnt" if config.transducer else "ctc"
    assert [token.id for token in tokens] == case.get(f"{head}_tokens", language).tolist()
    assert [token.frame for token in tokens] == case.get(f"{head}_frames", language).tolist()
    if config.durations:
        assert [token.duration for token in tokens] == case.get("rnnt_durations", language).tolist()


def assert_same_confidence(case: Case, language: str | None, tokens: list[Token]) -> None:
    labels = case.get("rnnt_step_labels", language)
    spoken = labels != golden.loaded(case.model)[0].config.blank
    assert_near(np.array([t.logp for t in tokens]), case.get("rnnt_step_logp", language)[spoken], LOGP)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("name", MODELS)
def test_the_features_are_nemos(name: str, clip: str) -> None:
    model, _ = golden.loaded(name)
    with np.load(golden.ROOT / "feats" / f"{golden.meta(name)['feats']}.npz") as file:
        expected = file[f"{clip}/feats"][: int(np.ravel(file[f"{clip}/feats_len"])[0])]
    mel = features_of(model).log_mel(golden.clip(clip))
    assert_near(per_feature(mel) if model.config.normalize == "per_feature" else mel, expected, FEATURES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_whole_file_gives_nemos_frames(case: Case) -> None:
    model, _ = golden.loaded(case.model)
    assert_near(offline(model, golden.clip(case.clip), case.context).frames.numpy(), case.frames, ENCODER)


@pytest.mark.parametrize("case", STREAMED, ids=str)
def test_a_stream_of_chunks_gives_nemos_offline_frames(case: Case) -> None:
    model, _ = golden.loaded(case.model)
    assert_near(stream(model, golden.clip(case.clip), case.context).frames.numpy(), case.frames, ENCODER)


HEARINGS = [(offline, case) for case in CASES] + [(stream, case) for case in STREAMED]


@pytest.mark.parametrize(("hear", "case"), HEARINGS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_tokens_their_frames_and_the_text_are_nemos(hear: Callable[..., Heard], case: Case) -> None:
    model, tokenizer = golden.loaded(case.model)
    for language in case.languages:
        tokens = hear(model, golden.clip(case.clip), case.context, prompt_of(case, language)).tokens
        assert_same_tokens(case, language, tokens)
        head = "rnnt" if model.config.transducer else "ctc"
        assert text_of(model.config, tokenizer, tokens) == bytes(case.get(f"{head}_text", language)).decode()
        if model.config.transducer:
            assert_same_confidence(case, language, tokens)


CTC_CASES = tuple(case for case in CASES if golden.loaded(case.model)[0].config.ctc)


@pytest.mark.parametrize("case", CTC_CASES, ids=str)
def test_ctc_log_probabilities_and_their_collapse_are_nemos(case: Case) -> None:
    model, _ = golden.loaded(case.model)
    frames = stream(model, golden.clip(case.clip), case.context).frames[None]
    count, first = torch.tensor([frames.shape[1]]), torch.tensor([0])
    for language in case.languages:
        with torch.inference_mode():
            logprobs = model.ctc(model.with_prompt(frames, torch.tensor([prompt_of(case, language) or 0])))
        assert_near(logprobs[0].numpy(), case.get("ctc_logprobs", language)[: frames.shape[1]], CTC)
        (tokens,), _ = decode_ctc(logprobs, count, first, DecoderState.start(model, 1))
        assert [token.id for token in tokens] == case.get("ctc_tokens", language).tolist()
        assert [token.frame for token in tokens] == case.get("ctc_frames", language).tolist()


PROMPTED = tuple(case for case in CASES if case.languages != (None,))


@pytest.mark.parametrize("case", PROMPTED, ids=str)
def test_prompted_frames_are_nemos(case: Case) -> None:
    model, _ = golden.loaded(case.model)
    frames = stream(model, golden.clip(case.clip), case.context).frames[None]
    for language in case.languages:
        with torch.inference_mode():
            prompted = model.with_prompt(frames, torch.tensor([prompt_of(case, language)]))
        assert_near(prompted[0].numpy(), case.get("enc_prompt", language)[: frames.shape[1]], ENCODER)


@pytest.mark.parametrize("name", MODELS)
def test_every_block_gives_what_nemos_block_gives(name: str) -> None:
    model, _ = golden.loaded(name)
    case = Case(name, "speech", model.config.contexts[0])
    seen: dict[str, torch.Tensor] = {}

    def keep(key: str) -> Callable[..., None]:
        return lambda *call: seen.__setitem__(key, call[2][0] if isinstance(call[2], tuple) else call[2])

    hooks = [model.encoder.pre_encode.register_forward_hook(keep("pre_encode"))]
    hooks += [layer.register_forward_hook(keep(f"layer{i}")) for i, layer in enumerate(model.encoder.layers)]
    offline(model, golden.clip("speech"), case.context)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 1 + model.config.layers
    for key, value in seen.items():
        count = len(case.frames)
        assert_near(value[0, :count].numpy(), case.get(key)[:count], ENCODER)


EXACT = golden.clip("speech")[: 320 * 160]


@pytest.mark.parametrize("case", [c for c in STREAMED if c.clip == "speech"], ids=str)
def test_a_clip_of_whole_mel_frames_streams_as_it_is_heard_offline(case: Case) -> None:
    model, _ = golden.loaded(case.model)
    streamed, whole = stream(model, EXACT, case.context), offline(model, EXACT, case.context)
    assert len(streamed.frames) == model.config.encoder_frames(320) == 41
    assert_near(streamed.frames.numpy(), whole.frames.numpy(), ENCODER)
    assert [(t.id, t.frame) for t in streamed.tokens] == [(t.id, t.frame) for t in whole.tokens]


SHORTEST = (0, 1, 159, 160, 199, 200, 201, 1079, 1080, 1081, 1279, 1280, 1360, 2359, 2360, 2361)


@pytest.mark.parametrize("samples", SHORTEST)
@pytest.mark.parametrize("name", ["hybrid_bpe", "tdt_bpe"])
def test_the_shortest_audio_streams_as_it_is_heard_offline(name: str, samples: int) -> None:
    model, _ = golden.loaded(name)
    pcm = golden.clip("speech")[9000 : 9000 + samples]
    for context in model.config.contexts:
        streamed, whole = stream(model, pcm, context), offline(model, pcm, context)
        assert len(streamed.frames) == model.config.encoder_frames(samples // 160)
        assert_near(streamed.frames.numpy(), whole.frames.numpy(), ENCODER)
        assert [(t.id, t.frame) for t in streamed.tokens] == [(t.id, t.frame) for t in whole.tokens]
