"""The encodings of bare samples on the wire: bytes to float32. Knows nothing of rates, channels or streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]

WIDTHS = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}  # bytes a sample
FLOATS = ("pcm_f32le",)  # those that can hold what is no audio
SIXTEEN_BIT, SIXTEEN_BIT_STEP = np.dtype("<i2"), np.float32(1 / 32768)
LOUDEST = 16.0  # floats beyond it are not audio in -1..1 but, say, 16-bit numbers sent as floats


def decode(data: bytes, encoding: str) -> Samples:
    """Bytes of one encoding to float32; 16-bit values are divided by 32768, as NeMo's readers do."""
    match encoding:
        case "pcm_s16le":
            return (
                np.frombuffer(data, SIXTEEN_BIT) * SIXTEEN_BIT_STEP
            )  # a power of two: bit for bit what dividing gives
        case "pcm_f32le":
            return np.frombuffer(data, "<f4").astype(np.float32)
        case "mulaw":
            return MULAW[np.frombuffer(data, np.uint8)]
        case _:
            return ALAW[np.frombuffer(data, np.uint8)]


def first_wrong(samples: Samples) -> int | None:
    """Where the first sample lies that is no audio; only floats can be NaN, infinite or 16-bit numbers."""
    wrong = ~(np.abs(samples) <= LOUDEST)  # NaN compares false
    return int(wrong.argmax()) if wrong.any() else None


def _mulaw_table() -> Samples:
    """ITU-T G.711 mu-law, all 256 codes."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return (np.where(code & 0x80, -size, size) / 32768).astype(np.float32)


def _alaw_table() -> Samples:
    """ITU-T G.711 A-law, all 256 codes."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = code >> 4 & 7, (code & 0x0F) << 4
    size = np.where(exponent == 0, mantissa + 8, mantissa + 0x108 << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, size, -size) / 32768).astype(np.float32)


MULAW, ALAW = _mulaw_table(), _alaw_table()
