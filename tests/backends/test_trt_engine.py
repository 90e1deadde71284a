"""The runner of TensorRT engines over an arena, with contexts that compute on the CPU: the model's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from export.parity import FP32_TOLERANCE, Difference, Transcript, _chunks, _model_step
from export.to_trt import _write_model
from models.config import ModelConfig
from models.state import EncoderState
from models.tick import Arena, DeviceModel, Rows
from models.transducer import Model
from streamer.backends.base import BackendError
from streamer.backends.device import DeviceBackend, Options
from streamer.backends.pytorch import networks_of
from streamer.backends.trt_engine import Engine, EngineStep
from streamer.backends.trt_open import decoding_model
from tests.artefacts import CLIPS, STREAMING, Stream, clip, expected, launch, plain
from tests.models.golden import loaded
from tests.models.tiny import tiny_model
from tests.trt import Context, engine, in_torch, new_arena, sidecar_of

BEFORE_A_START = ("mel_tail", "sub1", "sub2", "conv")  # what has to be zero when a stream begins
SPARE = 6
SLOTS = (4, 0, 2)  # of the three clips: neither in order nor side by side


def rows_of(slots: Sequence[int], **counters: Sequence[int]) -> Rows:
    """Rows of a tick; what is not named is zero."""
    none = [0] * len(slots)
    named = {name: torch.tensor(list(counters.get(name, none))) for name in ("frames", "valid", "last", "prompts")}
    return Rows(torch.tensor(list(slots)), **(named | {"last": named["last"] > 0}))


def step_over(model: Model, arena: dict[str, Tensor], precision: str = "fp32") -> EngineStep:
    config = model.config
    engines = {c: engine(config, c, precision, in_torch(model, c, precision)) for c in config.chunks}
    return EngineStep(config, sidecar_of(config, precision), engines, arena)


def opened(arena: dict[str, Tensor], slots: Sequence[int]) -> None:
    for name in (name for name in arena if name.startswith(BEFORE_A_START)):
        arena[name][list(slots)] = 0


@dataclass
class Company:
    """The three clips on their way through an arena, in one batch with a padding row until all have ended."""

    step: EngineStep
    model: Model
    chunk: int
    slots: Sequence[int] = SLOTS
    prompt: int = 0

    def hear(self) -> Difference:
        """What the engine's frames say and what the model's say, and how far their scores are apart."""
        config, count = self.model.config, len(self.slots)
        networks = networks_of(self.model) if config.transducer else None
        wanted, heard = (Transcript(config, networks, count) for _ in range(2))
        old, scores, differences = EncoderState.zeros(config, count), [], []
        prompts = np.full(count, self.prompt, np.int64)
        for mel, valid, last, active in _chunks(self.model, [clip(name) for name in CLIPS[:count]], self.chunk):
            before = old.frames.numpy().copy()
            want, old, counts = _model_step(self.model, old, (mel, valid, last, active, prompts), self.chunk)
            got, got_counts = self._step(mel, (before, valid, last), active)
            assert (got_counts == counts)[active].all()
            wanted.add(active, want, counts, before)
            heard.add(active, got, counts, before)
            real = active[:, None] & (np.arange(self.chunk) < counts[:, None])
            scores.append(want[real])
            differences.append((got - want)[real])
        squares = [float(np.square(np.concatenate(parts)).sum()) for parts in (differences, scores)]
        return Difference(
            steps=len(scores),
            scores=float(np.abs(np.concatenate(differences)).max()),
            relative=float(np.sqrt(squares[0] / squares[1])),
            networks=0.0,
            wanted=wanted.places,
            heard=heard.places,
        )

    def _step(self, mel: np.ndarray, counters: tuple[np.ndarray, ...], active: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rows that ended become padding, and one more is padding throughout."""
        frames, valid, last = ([*np.where(active, array, 0).tolist(), 0] for array in counters)
        slots = [slot if on else SPARE for slot, on in zip(self.slots, active, strict=True)] + [SPARE]
        rows = rows_of(slots, frames=frames, valid=valid, last=last, prompts=[self.prompt] * len(slots))
        scores, counts = self.step.encode(torch.from_numpy(np.concatenate([mel, mel[:1] * 0])), rows)
        return scores[:-1].clone().numpy(), counts[:-1].clone().numpy()


@pytest.mark.parametrize("name", STREAMING)
def test_every_latency_gives_the_models_own_tokens_from_any_slots_beside_padding(name: str) -> None:
    model, _ = loaded(name)
    config = model.config
    arena = new_arena(config, SPARE + 1)
    step = step_over(model, arena)
    for chunk in config.chunks:
        for _, prompt in config.prompts[:2] or ((None, 0),):
            opened(arena, SLOTS)
            difference = Company(step, model, chunk, prompt=prompt).hear()
            assert difference.scores <= FP32_TOLERANCE, (chunk, prompt)
            assert difference.heard == difference.wanted
            assert sum(map(len, difference.heard)) > 10


@pytest.mark.parametrize("name", ["hybrid_bpe", "tdt_bpe", "ctc_bpe"])
def test_a_device_backend_with_engines_says_what_nemo_says(name: str, tmp_path: Path) -> None:
    """The whole tick on the CPU, PCM in and tokens out, with no more of the model than lies beside the engines."""
    model, tokenizer = loaded(name)
    config, sidecar = model.config, sidecar_of(model.config)
    _write_model(model, tokenizer, tmp_path, sidecar.hash)

    def make_encoder(_model: DeviceModel, arena: Arena, _kernels: bool) -> EngineStep:
        return step_over(model, arena.encoder.rows())

    part = decoding_model(tmp_path, config, sidecar)
    device = DeviceModel(part, torch.float32, torch.device("cpu"))
    backend = DeviceBackend("trt", device, tokenizer, make_encoder, Options(slots=SPARE, kernels=False))
    for chunk, slots in zip(config.chunks, ((5, 0, 3), (1, 2, 4), (0, 1, 5), (4, 3, 2)), strict=False):
        streams = [Stream(slot, clip(spoken), chunk) for slot, spoken in zip(slots, CLIPS, strict=True)]
        for stream in streams:
            backend.open(stream.slot)
        while waiting := [stream for stream in streams if not stream.done]:
            launch(backend, waiting)
        for stream, spoken in zip(streams, CLIPS, strict=True):
            assert plain(stream.tokens) == expected(name, spoken, config.context_of(chunk), None)


@pytest.mark.parametrize("contexts", [((8, 3), (4, 1), (0, 0)), ((3, 0),)])
def test_each_latency_has_its_own_left_context_none_included(contexts: tuple[tuple[int, int], ...]) -> None:
    model = tiny_model(contexts=contexts)
    model.preprocessor.featurizer.load_state_dict(loaded("hybrid_bpe")[0].preprocessor.featurizer.state_dict())
    arena = new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    for chunk in model.config.chunks:
        opened(arena, SLOTS)
        assert Company(step, model, chunk).hear().scores <= FP32_TOLERANCE, chunk


def test_a_stream_says_the_same_alone_as_in_company_and_in_another_slot() -> None:
    model, _ = loaded("hybrid_bpe")
    arena = new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    said = []
    for slots in ((4, 0, 2), (1, 5, 3), (4,)):
        opened(arena, slots)
        said.append(Company(step, model, 2, slots).hear().heard[0])
    assert said[0] == said[1] == said[2]
    assert len(said[0]) > 5


def test_streams_of_two_latencies_take_turns_in_one_arena() -> None:
    """Chunks of one go between the chunks of the other: neither meets the other's state."""
    model, _ = loaded("hybrid_bpe")
    arena = new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    opened(arena, [1, 2])
    generator = torch.Generator().manual_seed(3)
    long, short = (torch.randn(4, 1, 8 * chunk, 80, generator=generator) for chunk in (7, 2))

    def run(slot: int, mel: Tensor, index: int) -> Tensor:
        chunk = mel.shape[1] // 8
        return step.encode(mel, rows_of([slot], frames=[index * chunk]))[0].clone()

    apart = [run(1, mel, i) for i, mel in enumerate(long)] + [run(2, mel, i) for i, mel in enumerate(short)]
    opened(arena, [1, 2])
    mixed = [run(slot, mel, i) for i in range(4) for slot, mel in ((1, long[i]), (2, short[i]))]
    for a, b in zip(apart, [*mixed[0::2], *mixed[1::2]], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_tick_changes_its_rows_slots_and_of_their_rings_only_the_chunk() -> None:
    model = tiny_model()
    config, arena = model.config, new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    before = {name: tensor.clone() for name, tensor in arena.items()}
    step.encode(torch.randn(4, 16, 80), rows_of([5, 1, SPARE, SPARE], frames=[10, 0, 0, 0]))
    for name, tensor in arena.items():
        changed = (tensor != before[name]).flatten(1).any(1).nonzero().flatten().tolist()
        assert changed == [1, 5, SPARE], name
    for slot, places in ((5, [10, 11]), (1, [0, 1])):
        moved = (arena["keys.1"][slot] != before["keys.1"][slot]).any(-1).any(0).nonzero().flatten().tolist()
        assert moved == places
        assert places == [frame % config.ring for frame in places]


def test_frames_past_the_rings_end_begin_at_its_start() -> None:
    model = tiny_model()
    arena = new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    before = arena["values.0"].clone()
    step.encode(torch.randn(1, 32, 80), rows_of([3], frames=[model.config.ring * 7 + 8]))
    moved = (arena["values.0"][3] != before[3]).any(-1).any(0).nonzero().flatten().tolist()
    assert (model.config.ring, moved) == (12, [8, 9, 10, 11])
    step.encode(torch.randn(1, 32, 80), rows_of([3], frames=[model.config.ring * 8]))
    assert (arena["values.0"][3] != before[3]).any(-1).all(0)[:4].all()


@pytest.mark.parametrize(("precision", "unit"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_half_precision_keeps_its_state_in_half_and_stays_close(precision: str, unit: float) -> None:
    """Rounding of one part in 2**11 or 2**8 at every product: scores are some units apart, and never none."""
    model, _ = loaded("hybrid_bpe")
    arena = new_arena(model.config, SPARE + 1, precision)
    step = step_over(model, arena, precision)
    opened(arena, SLOTS)
    difference = Company(step, model, 2).hear()
    assert unit / 8 < difference.relative < 8 * unit, difference.relative


def test_preparing_runs_each_context_once_and_leaves_the_arena_as_it_was() -> None:
    model = tiny_model()
    arena, made = new_arena(model.config, SPARE + 1), []
    compute = in_torch(model, 2)

    def new_context() -> Context:
        made.append(Context(model.config, 2, "fp32", compute))
        return made[-1]

    known = engine(model.config, 2, "fp32", compute)
    engines = {2: Engine(new_context, known.memory, known.names)}
    step = EngineStep(model.config, sidecar_of(model.config), engines, arena)
    before = {name: tensor.clone() for name, tensor in arena.items()}
    step.prepare(8, 2)
    step.prepare(1, 2)
    assert [(context.profile, context.shapes["mel"][0], context.runs) for context in made] == [(2, 8, 1), (0, 1, 1)]
    assert all(torch.equal(before[name], tensor) for name, tensor in arena.items())
    step.encode(torch.zeros(1, 16, 80), rows_of([0]))
    assert [context.runs for context in made] == [1, 2]


def test_a_batch_is_prepared_by_its_first_run_but_never_within_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, SPARE + 1))
    step.encode(torch.zeros(4, 16, 80), rows_of([0, 1, 2, 3]))
    step.prepare(1, 4)
    step._device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(BackendError, match=r"batch: got 2 rows of 2 frames, expected one that ran .*: 1 x 4, 4 x 2"):
        step.encode(torch.zeros(2, 16, 80), rows_of([0, 1]))


def test_what_was_prepared_in_inference_mode_runs_outside_of_it() -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, SPARE + 1))
    with torch.inference_mode():
        step.prepare(1, 2)
    step.encode(torch.zeros(1, 16, 80), rows_of([0]))


def test_smaller_batches_share_the_memory_of_the_largest() -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, SPARE + 1))
    for rows in (8, 4, 1):
        step.prepare(rows, 4)
    first = {bound.inputs["mel"].untyped_storage().data_ptr() for bound in step._bound.values()}
    assert len(first) == 1
    step.prepare(1, 2)
    assert {bound.inputs["mel"].untyped_storage().data_ptr() for bound in step._bound.values()} == first


def test_a_larger_batch_that_comes_later_gets_memory_of_its_own() -> None:
    model = tiny_model()
    arena = new_arena(model.config, SPARE + 1)
    step = step_over(model, arena)
    mel, slots = torch.randn(8, 16, 80), [0, 1, 2, 3, 4, 5, SPARE, SPARE]
    opened(arena, slots)
    small = step.encode(mel[:1], rows_of(slots[:1]))[0].clone()
    opened(arena, slots)
    large = step.encode(mel, rows_of(slots))[0].clone()
    opened(arena, slots)
    torch.testing.assert_close(step.encode(mel[:1], rows_of(slots[:1]))[0], small, rtol=0, atol=0)
    torch.testing.assert_close(large[:1], small, rtol=0, atol=1e-6)


def test_what_no_engine_was_built_for_is_refused_when_it_is_prepared() -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, SPARE + 1))
    with pytest.raises(BackendError, match=r"rows: got 9, expected 1 to 8"):
        step.prepare(9, 2)
    with pytest.raises(BackendError, match=r"latency: got 240 ms, expected .* 80, 160, 320 ms"):
        step.prepare(1, 3)


def test_an_arena_that_is_not_the_engines_is_refused() -> None:
    model = tiny_model()
    config = model.config
    with pytest.raises(BackendError, match=r"arena mel_tail: got torch.float32 .* expected contiguous float16 of 560"):
        step_over(model, new_arena(config, SPARE + 1), "fp16")
    turned = new_arena(config, SPARE + 1)
    turned["keys.0"] = turned["keys.0"].transpose(1, 2)
    with pytest.raises(BackendError, match=r"arena keys.0"):
        step_over(model, turned)
    with pytest.raises(BackendError, match=r"slots: got 1, expected 2 to 16384"):
        step_over(model, new_arena(config, 1))


def test_engines_with_other_tensors_are_refused() -> None:
    config: ModelConfig = tiny_model().config
    foreign = Engine(lambda: pytest.fail("no context of this"), (0, 0, 0), frozenset({"mel", "kv"}))
    with pytest.raises(BackendError, match=r"engine of 2 frames: got other tensors: conv.0, conv.1, count"):
        EngineStep(config, sidecar_of(config), {2: foreign}, new_arena(config, 3))


@pytest.mark.parametrize("verb", ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"])
def test_what_tensorrt_refuses_is_no_secret(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, 3))
    monkeypatch.setattr(Context, verb, lambda *_: False)
    with pytest.raises(BackendError, match=r"engine of 2 frames, 1 rows: got a refusal of"):
        step.prepare(1, 2)


def test_a_run_that_fails_is_an_error_and_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    step = step_over(model, new_arena(model.config, 3))
    step.prepare(1, 2)
    monkeypatch.setattr(Context, "execute_async_v3", lambda *_: False)
    with pytest.raises(RuntimeError, match=r"engine of 2 frames, 1 rows: TensorRT did not run it"):
        step.encode(torch.zeros(1, 16, 80), rows_of([0]))
