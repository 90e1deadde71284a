"""Models of the published sizes with random weights, and a backend over them that speaks about as often as people do.

How fast a model is does not depend on its weights, except for how many tokens come out: so the blank's bias is set
until they are `TOKENS_A_SECOND`. Knows nothing of what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from models.config import SAMPLE_RATE, ModelConfig
from models.features_np import filterbank, window
from models.tick import DeviceModel
from models.tokenizer import Tokenizer
from models.transducer import Model
from streamer.backends.base import Row, samples_needed
from streamer.backends.device import DeviceBackend, Options
from streamer.backends.pytorch import on_device
from streamer.gpu_check.job import Hearing, Job
from streamer.gpu_check.limits import encoder_weights, state_bytes
from streamer.gpu_check.sounds import Pcm, cut, speech
from streamer.gpu_check.ticking import at_work

TOKENS_A_SECOND = 3.0
LOUD_LOGITS = 8.0  # factor on the joint's last layer: of as many words as there are, some stand out in each frame
HEARERS = 32  # streams that the bias is found with
_BIASES = (-4.0, 40.0)  # between always and never
_RESERVE = 0.06  # of the memory, and as many bytes as these for graphs, activations and staging
_RESERVE_BYTES = 8 << 30
SPARES = 16 / 15  # the engine keeps one slot in sixteen for copies of streams


def make(config: ModelConfig, seed: int = 0) -> Model:
    """Random weights, the usual features."""
    torch.manual_seed(seed)
    model = Model(config).eval().requires_grad_(False)
    buffers: Any = model.preprocessor.featurizer
    buffers.fb.copy_(torch.from_numpy(filterbank(config.mels))[None])
    buffers.window.copy_(torch.from_numpy(window()))
    last_layer(model).weight.mul_(LOUD_LOGITS)
    return model


def last_layer(model: Model) -> Any:
    """What makes logits in the joint."""
    net: Any = model.joint.joint_net
    return net[-1]


def narrowed(config: ModelConfig, chunk: int) -> ModelConfig:
    """The same with this chunk and the longest, which the rings are sized for: fewer graphs to make."""
    return replace(config, contexts=tuple(c for c in config.contexts if c[1] + 1 in (chunk, max(config.chunks))))


def fitting(job: Job, config: ModelConfig, wanted: int) -> int:
    """Slots that the free memory holds, up to `wanted`."""
    if not job.cuda:
        return wanted
    free, _ = torch.cuda.mem_get_info(torch.device(job.device))
    weights = 5 * encoder_weights(config)  # bf16, and what is packed besides
    room = free * (1 - _RESERVE) - _RESERVE_BYTES - weights
    return max(1, min(wanted, int(room / sum(state_bytes(config).values()))))


@dataclass(frozen=True, slots=True)
class Speaker:
    """A backend over a random model, and what came of the search for its bias."""

    backend: DeviceBackend
    model: Model
    tokenizer: Tokenizer
    tokens_a_second: float
    bias: float


def speaker(job: Job, config: ModelConfig, chunk: int, slots: int, buckets: tuple[int, ...] = ()) -> Speaker:
    """A model on the job's device that speaks in chunks of that length; `slots` are those that it is made for."""
    model, tokenizer = make(config), Tokenizer.from_labels(config.labels)
    options = Options(slots, buckets, job.rung, kernels=job.cuda)
    backend = on_device(model, tokenizer, place(job), options)
    rate, bias = set_blank(backend, speech(job.size.recordings), chunk, job.size.hearing)
    last_layer(model).bias[config.blank] = bias
    return Speaker(backend, model, tokenizer, rate, bias)


def place(job: Job, dtype: torch.dtype = torch.bfloat16) -> tuple[torch.device, torch.dtype]:
    """Where the check computes, and in what; a CPU has float32 alone."""
    return torch.device(job.device), dtype if job.cuda else torch.float32


def set_blank(backend: DeviceBackend, audio: Pcm, chunk: int, hearing: Hearing) -> tuple[float, float]:
    """Set the blank's bias on the device, where graphs read it; -> tokens a second, the bias.

    hearing: seconds of speech that each stream hears, and how often the bias is halved. What a chunk's frames see
    differs with its length, and with it how often random weights speak.
    """
    (low, high), (seconds, halvings) = _BIASES, hearing
    steps = max(1, int(seconds * SAMPLE_RATE / samples_needed(1, chunk)))
    tried = []
    for _ in range(halvings):
        bias = (low + high) / 2
        rate = _rate_with(backend, bias, audio, (chunk, steps))
        tried.append((abs(rate - TOKENS_A_SECOND), rate, bias))
        low, high = (bias, high) if rate > TOKENS_A_SECOND else (low, bias)
    _, rate, bias = min(tried)
    return round(_rate_with(backend, bias, audio, (chunk, steps)), 2), bias


def _rate_with(backend: DeviceBackend, bias: float, audio: Pcm, talk: tuple[int, int]) -> float:
    with at_work(backend):
        bias_of(backend._model)[backend.config.blank] = bias
    return _rate(backend, audio, talk)


def bias_of(model: DeviceModel) -> torch.Tensor:
    """Of the joint's last layer, on the device."""
    assert model.networks is not None, "model: got CTC, expected a transducer"
    return model.networks.out[1]


def _rate(backend: DeviceBackend, audio: Pcm, talk: tuple[int, int]) -> float:
    """Tokens a second of some streams that hear speech; talk: frames of a chunk, and how many chunks."""
    (chunk, steps), count = talk, min(HEARERS, backend.slots)
    for slot in range(count):
        backend.open(slot)
    tokens = 0
    for index in range(steps):
        needed = samples_needed(index, chunk)
        starts = np.linspace(0, len(audio), count, endpoint=False).astype(int) + index * needed
        rows = [Row(slot, cut(audio, int(at), needed)) for slot, at in enumerate(starts)]
        tokens += sum(len(heard) for heard in backend.collect(backend.launch(chunk, rows)) if isinstance(heard, list))
    seconds = count * (steps * samples_needed(1, chunk)) / SAMPLE_RATE
    return tokens / seconds
