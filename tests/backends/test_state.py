"""A stream's state as bytes: what goes in comes out, and hostile bytes end in a sentence."""

from __future__ import annotations

import contextlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.backends.base import MAGIC, VERSION, BackendError, State

ARRAYS = {
    "h": np.arange(6, dtype=np.float32).reshape(2, 3),
    "frames": np.array(7),
    "g": np.zeros((0, 2), np.int8),
}
STATE = State("hash", "ort", "fp32", ARRAYS)


def packed(header: object, body: bytes = b"", magic: bytes = MAGIC, version: int = VERSION) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<4sHI", magic, version, len(text)) + text + body


def test_bytes_bring_back_every_array() -> None:
    back = State.from_bytes(STATE.to_bytes())
    assert (back.model, back.backend, back.precision) == ("hash", "ort", "fp32")
    assert back.arrays.keys() == STATE.arrays.keys()
    for name, array in STATE.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array, strict=True)


@given(st.integers(0, len(STATE.to_bytes()) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_gives_a_state_or_a_sentence(at: int, flip: int) -> None:
    data = bytearray(STATE.to_bytes())
    data[at] ^= flip
    with contextlib.suppress(BackendError):
        assert isinstance(State.from_bytes(bytes(data)), State)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_after_a_good_start_give_a_state_or_a_sentence(noise: bytes) -> None:
    for data in (noise, STATE.to_bytes()[:10] + noise, STATE.to_bytes() + b"\0" + noise):
        with pytest.raises(BackendError, match=r", expected "):
            State.from_bytes(data)


@pytest.mark.parametrize("cut", range(0, len(STATE.to_bytes()), 7))
def test_cut_off_bytes_are_refused(cut: int) -> None:
    with pytest.raises(BackendError, match=r"^state"):
        State.from_bytes(STATE.to_bytes()[:cut])


FIELDS = {"model": "a", "backend": "b", "precision": "c"}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (packed({}, magic=b"PK\3\4"), "state.magic"),
        (packed({}, version=99), "state.version"),
        (packed([]), "state.header"),
        (packed({**FIELDS, "model": 3, "arrays": []}), "state.model"),
        (packed({**FIELDS}), "state.arrays"),
        (packed({**FIELDS, "arrays": [["x", "object", [1]]]}), "state.arrays"),
        (packed({**FIELDS, "arrays": [["x", "float32", [-1]]]}), "state.arrays"),
        (packed({**FIELDS, "arrays": [["x", "float32", [True]]]}, b"abcd"), "state.arrays"),
        (packed({**FIELDS, "arrays": [["x", "float32", [1 << 30, 1 << 30]]]}), "state.x"),
        (packed({**FIELDS, "arrays": [["x", "int8", [1]]] * 2}, b"ab"), "state.x"),
        (packed({**FIELDS, "arrays": []}, b"rest"), "state: got 4 bytes"),
    ],
)
def test_the_sentence_names_what_is_wrong(data: bytes, named: str) -> None:
    with pytest.raises(BackendError) as refusal:
        State.from_bytes(data)
    assert str(refusal.value).startswith(named)
