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


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="no memory can be given back on this system")
def test_pages_that_streams_shared_go_back_with_the_last_of_them() -> None:
    """What steps wrote to the slots between them, which nobody ever had, goes too."""
    arena = Arena(CONFIG, 12, Memory.zeros(1, 1, 2, 2, CONFIG.blank), {"keys.0": (ROW + 100,)})
    for slot in (2, 3, 4, 7, 9):
        arena.open(slot, 0)
    arena.model["keys.0"][1:11] = 5.0
    for slot in (3, 2, 9, 4):
        arena.vacate(slot)
    kept = arena.model["keys.0"]
    assert (kept[7] == 5.0).all()
    assert np.count_nonzero(kept[1:6]) < 2 * mmap.PAGESIZE // 4, "all but pages shared with those who never left"
    arena.vacate(7)
    assert not kept[1:11].any()
