"""What a step has to compute and to move, by formula, and how long that takes at best. Knows nothing of how it is run.

Bytes: weights once, K and V read, the chunk's written, convolution and subsampling state read and written, features.
Operations: two for each multiplication of the products. FACTS: tables for both published sizes are in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.config import SUBSAMPLING, ModelConfig


@dataclass(frozen=True, slots=True)
class Work:
    """What has to be done at least."""

    flops: float
    bytes: float

    def seconds(self, bandwidth: float, matrix: float) -> float:
        """At so many bytes and operations a second, both going on at once."""
        return max(self.flops / matrix, self.bytes / bandwidth)

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def layer_weights(config: ModelConfig) -> int:
    """Numbers in the products of a layer; its positions are constants."""
    d = config.d_model
    return 2 * 2 * d * config.d_ff + 4 * d * d + 3 * d * d + config.conv_kernel * d


def subsampling_weights(config: ModelConfig) -> int:
    channels, width = config.sub_channels, config.sub_widths[2]
    return 9 * channels + 2 * (9 * channels + channels * channels) + channels * width * config.d_model


def layer_vectors(config: ModelConfig) -> int:
    """Its norms and biases: six norms; both feed-forwards, attention with two for positions, convolution."""
    d = config.d_model
    return 12 * d + 2 * (config.d_ff + d) + 6 * d + 4 * d


def encoder_weights(config: ModelConfig) -> int:
    return config.layers * (layer_weights(config) + layer_vectors(config)) + subsampling_weights(config)


def frame_flops(config: ModelConfig, chunk: int) -> float:
    """Of one encoder frame in chunks of `chunk` frames."""
    channels, (first, second, third) = config.sub_channels, config.sub_widths
    keys = config.context_of(chunk)[0] + chunk
    attention = 3 * keys * config.d_model  # by content, by position, the mix
    stages = 4 * first * channels * 9 + 2 * second * channels * (9 + channels) + third * channels * (9 + channels)
    dense = config.layers * (layer_weights(config) + attention) + channels * third * config.d_model
    return 2.0 * (dense + stages)


def state_bytes(config: ModelConfig, width: int = 2) -> dict[str, int]:
    """What a stream carries, by kind; numbers of `width` bytes."""
    first, second, _ = config.sub_widths
    sub = config.mels + config.sub_channels * (first + second)
    decoder = 2 * config.predictor_layers * config.predictor_hidden + config.joint_hidden
    return {
        "keys and values": 2 * config.layers * config.ring * config.d_model * width,
        "convolution": config.layers * config.conv_context[0] * config.d_model * width,
        "subsampling": sub * width,
        "decoder": 4 * decoder,
    }


def encoder_step(config: ModelConfig, rows: int, chunk: int, width: int = 2) -> Work:
    """One chunk of `rows` streams through the encoder."""
    left, state = config.context_of(chunk)[0], state_bytes(config, width)
    frame = 2 * config.layers * config.d_model * width  # K and V of a frame
    each = (left + chunk) * frame + 2 * (state["convolution"] + state["subsampling"])
    each += 4 * SUBSAMPLING * chunk * config.mels
    flops = rows * chunk * frame_flops(config, chunk)
    return Work(flops, encoder_weights(config) * width + rows * each)


def decoder_step(config: ModelConfig, rows: int, chunk: int, tokens: float, width: int = 2) -> Work:
    """The search of one chunk in which all rows together say `tokens`: a joint for every frame and token."""
    if not config.transducer:
        head = config.d_model * (config.vocab_size + 1)
        return Work(2.0 * rows * chunk * head, head * width)
    hidden, joint = config.predictor_hidden, config.joint_hidden
    out = joint * (config.vocab_size + 1 + len(config.durations))
    cell = (2 * config.predictor_layers - 1) * 4 * hidden * hidden + hidden * joint
    enc = config.d_model * joint
    flops = 2.0 * (rows * chunk * (enc + out) + tokens * (out + cell))
    state = state_bytes(config)["decoder"]
    return Work(flops, (enc + out + cell) * width + 2 * tokens * state)
