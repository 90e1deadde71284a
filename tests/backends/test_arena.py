"""Claims about the memory of streams' states: it is taken when a stream writes, and given back when it has left."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from streamer.backends.arena import Arena
from streamer.backends.fake import CONFIG
from streamer.decoding import Memory

ROW = 5 * mmap.PAGESIZE // 4  # float32 of a slot: rows begin within pages of their neighbours


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no memory can be given back on this system")
def test_a_vacated_slot_gives_back_its_pages_and_none_of_its_neighbours() -> None:
    arena = Arena(CONFIG, 4, Memory.zeros(1, 1, 2, 2, CONFIG.blank), {"keys.0": (ROW + 100,), "small": (3,)})
    for slot in range(4):
        arena.open(slot, 0)
        for array in arena.model.values():
            array[slot] = 1.0 + slot
    arena.vacate(1)
    kept = arena.model["keys.0"]
    assert not arena.opened[1]
    assert np.count_nonzero(kept[1] == 0.0) >= 4 * mmap.PAGESIZE // 4, "pages of its own that were not given back"
    for slot in (0, 2, 3):
        assert (kept[slot] == 1.0 + slot).all(), f"slot {slot}"
        assert arena.opened[slot]
