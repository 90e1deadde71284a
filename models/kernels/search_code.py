"""The device code of the greedy search: joint, selection, LSTM cell, projection. Knows nothing of how it is launched.

`state` (4,) int32 holds what the kernels of a trip hand to one another: which of two lists of work is being read, the
lengths of both, and how many rows emitted. `work` (2, B T) int32 lists frames b T + t that are still to be looked at;
the joint reads one list while the selection fills the other, and the projection, last, turns them round. A list's
order differs from run to run; what is computed for a frame does not depend on its place in the list.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from models.kernels.activation import activated
from models.kernels.dialect import jit, tl


@jit
def begin_kernel(
    slots, jump, counts, position, repeats, last_at, said, work, state, working,
    rows, frames,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: every row at its first frame that no duration skipped; all frames from there are work."""
    total = 0
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        inside = row < rows
        slot = tl.load(slots + row, mask=inside, other=0)
        at = tl.load(jump + slot, mask=inside, other=0)
        count = tl.load(counts + row, mask=inside, other=0)
        tl.store(position + row, at, mask=inside)
        tl.store(repeats + row, tl.zeros_like(at), mask=inside)
        tl.store(last_at + row, tl.zeros_like(at) - 1, mask=inside)
        tl.store(said + row, tl.zeros_like(at), mask=inside)
        todo = tl.where(inside, tl.maximum(count - at, 0), 0)
        place = total + tl.cumsum(todo, 0) - todo
        for i in range(0, frames):
            tl.store(work + place + i, row * frames + at + i, mask=i < todo)
        total += tl.sum(todo, 0)
    tl.store(state, 0)
    tl.store(state + 1, total)
    tl.store(state + 2, 0)
    tl.store(state + 3, 0)
    tl.store(working, tl.where(total > 0, 1, 0))


@jit
def joint_kernel(
    scores, g, slots, weight, bias, work, state, tops, bests, sums,
    frames, capacity,
    HIDDEN: tl.constexpr, WORDS: tl.constexpr, OUTPUTS: tl.constexpr, PARTS: tl.constexpr, SPLITS: tl.constexpr,
    ACTIVATION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (part of the outputs, block of frames): highest logit, its lowest index, and the sum of exponentials.

    The parts from SPLITS on (one, for a TDT model) hold the durations. tops, bests, sums: (B T, PARTS).
    """
    part = tl.program_id(0)
    block = tl.program_id(1)
    reading = tl.load(state)
    todo = tl.load(state + 1 + reading)
    if (part == 0) & (block == 0):  # nobody looks at these two before the selection
        tl.store(state + 2 - reading, 0)
        tl.store(state + 3, 0)
    if block * BM < todo:
        line = block * BM + tl.arange(0, BM)
        live = line < todo
        pair = tl.load(work + reading * capacity + line, mask=live, other=0)
        slot = tl.load(slots + pair // frames, mask=live, other=0)
        start = tl.where(part < SPLITS, part * BN, WORDS)
        limit = tl.where(part < SPLITS, WORDS, OUTPUTS)
        column = start + tl.arange(0, BN)
        named = column < limit
        of_frame = scores + pair.to(tl.int64)[:, None] * HIDDEN
        of_text = g + slot[:, None] * HIDDEN
        of_output = weight + column.to(tl.int64)[None, :] * HIDDEN
        logits = tl.zeros((BM, BN), dtype=tl.float32)
        for first in range(0, HIDDEN, BK):
            k = first + tl.arange(0, BK)
            inside = live[:, None] & (k < HIDDEN)[None, :]
            x = tl.load(of_frame + k[None, :], mask=inside, other=0.0).to(tl.float32)
            x += tl.load(of_text + k[None, :], mask=inside, other=0.0)
            hidden = activated(x, ACTIVATION).to(weight.dtype.element_ty)
            w = tl.load(of_output + k[:, None], mask=named[None, :] & (k < HIDDEN)[:, None], other=0.0)
            logits = tl.dot(hidden, w, logits, input_precision="ieee")
        logits += tl.load(bias + column, mask=named, other=0.0)[None, :]
        logits = tl.where(named[None, :], logits, float("-inf"))
        top = tl.max(logits, 1)
        best = tl.min(tl.where(logits == top[:, None], column[None, :], OUTPUTS), 1)
        best = tl.minimum(best, limit - 1)  # a NaN equals nothing: an index that exists all the same
        total = tl.sum(tl.exp(logits - top[:, None]), 1)
        place = pair.to(tl.int64) * PARTS + part
        tl.store(tops + place, top, mask=live)
        tl.store(bests + place, best, mask=live)
        tl.store(sums + place, total, mask=live)


@jit
def select_kernel(
    position, counts, first, repeats, last_at, emitted, said, labels, at, logps, durations,
    tops, bests, sums, work, state, emitters,
    frames, capacity, columns,
    WORDS: tl.constexpr, MOST: tl.constexpr, TIMED: tl.constexpr, PARTS: tl.constexpr, SPLITS: tl.constexpr,
    WIDTH: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Program (row): its first token, where it goes from there, and the work that this leaves. MOST: at one frame."""
    row = tl.program_id(0)
    reading = tl.load(state)
    if tl.load(state + 1 + reading) > 0:
        begin = tl.load(position + row)
        count = tl.load(counts + row)
        if begin < count:
            n = tl.load(said + row)
            before = tl.load(last_at + row)
            times = tl.load(repeats + row)
            # Every warp reads these, one writes them below: none may be so late that it reads the new ones.
            tl.debug_barrier()
            frame, label, stride, logp, found = begin, WORDS - 1, 0, 0.0, 0
            for base in range(0, frames, TILE):
                t = base + tl.arange(0, TILE)
                live = (t >= begin) & (t < count)
                part = tl.arange(0, WIDTH)
                pair = (row * frames + t).to(tl.int64) * PARTS
                place = pair[:, None] + part[None, :]
                inside = live[:, None] & (part < SPLITS)[None, :]
                top = tl.load(tops + place, mask=inside, other=float("-inf"))
                highest = tl.where(live, tl.max(top, 1), 0.0)
                word = tl.load(bests + place, mask=inside, other=WORDS)
                word = tl.min(tl.where(top == highest[:, None], word, WORDS), 1)
                word = tl.minimum(word, WORDS - 1)
                share = tl.load(sums + place, mask=inside, other=0.0) * tl.exp(top - highest[:, None])
                total = tl.sum(tl.where(inside, share, 0.0), 1)
                sure = -tl.log(tl.where(live, total, 1.0))
                silent = live & (word == WORDS - 1)
                if TIMED:
                    which = tl.load(bests + pair + SPLITS, mask=live, other=WORDS) - WORDS
                    step = tl.load(durations + which, mask=live, other=0)
                    step = tl.where(silent, tl.maximum(step, 1), step)
                    for _ in range(0, TILE):  # a chain of blanks goes at least one frame on at a time
                        frame += tl.sum(tl.where(silent & (t == frame), step, 0), 0)
                    here = tl.where(live & (t == frame), 1, 0)
                else:
                    step = tl.where(silent, 1, 0)
                    heard = tl.min(tl.where(live & (word != WORDS - 1), t, count), 0)
                    frame = tl.where(found > 0, frame, heard)
                    here = tl.where(live & (t == frame) & (found == 0), 1, 0)
                hit = tl.sum(here, 0)
                label += tl.sum(tl.where(here > 0, word - (WORDS - 1), 0), 0)
                stride += tl.sum(tl.where(here > 0, step, 0), 0)
                logp += tl.sum(tl.where(here > 0, sure, 0.0), 0)
                found += hit
            after = tl.maximum(frame, count)
            if found > 0:
                column = row.to(tl.int64) * columns + n
                tl.store(labels + column, label)
                tl.store(at + column, tl.load(first + row) + frame)
                tl.store(logps + column, logp)
                tl.store(said + row, n + 1)
                times = tl.where(before == frame, times + 1, 1)
                tl.store(repeats + row, times)
                tl.store(last_at + row, frame)
                full = tl.where((times >= MOST) & (stride == 0), 1, 0)
                after = frame + stride + full
                tl.store(emitters + tl.atomic_add(state + 3, 1), row)
            tl.store(emitted + row, tl.where(found > 0, label, -1))
            tl.store(position + row, after)
            left = count - after
            if left > 0:
                place = (1 - reading) * capacity + tl.atomic_add(state + 2 - reading, left)
                for base in range(0, left, TILE):
                    i = base + tl.arange(0, TILE)
                    tl.store(work + place + i, row * frames + after + i, mask=i < left)
        else:
            tl.store(emitted + row, -1)


@jit
def cell_kernel(
    by_label, weight_in, bias_in, recurrent, h, c, new_h, slots, emitted, emitters, state,
    HIDDEN: tl.constexpr, LAYER: tl.constexpr, LAYERS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (block of units, block of rows that emitted): one LSTM layer; c is written in place, h beside."""
    said = tl.load(state + 3)
    block = tl.program_id(1)
    if block * BM < said:
        line = block * BM + tl.arange(0, BM)
        live = line < said
        row = tl.load(emitters + line, mask=live, other=0)
        slot = tl.load(slots + row, mask=live, other=0)
        unit = tl.program_id(0) * BN + tl.arange(0, BN)
        inside = unit < HIDDEN
        before = (slot * LAYERS + LAYER) * HIDDEN
        beside = (row.to(tl.int64) * LAYERS + LAYER) * HIDDEN
        i = tl.zeros((BM, BN), dtype=tl.float32)
        f = tl.zeros((BM, BN), dtype=tl.float32)
        g = tl.zeros((BM, BN), dtype=tl.float32)
        o = tl.zeros((BM, BN), dtype=tl.float32)
        for first in range(0, HIDDEN, BK):
            k = first + tl.arange(0, BK)
            from_k = live[:, None] & (k < HIDDEN)[None, :]
            to_unit = inside[None, :] & (k < HIDDEN)[:, None]
            x = tl.load(h + before[:, None] + k[None, :], mask=from_k, other=0.0).to(recurrent.dtype.element_ty)
            w = recurrent + unit[None, :] * HIDDEN + k[:, None]
            i = tl.dot(x, tl.load(w, mask=to_unit, other=0.0), i, input_precision="ieee")
            f = tl.dot(x, tl.load(w + HIDDEN * HIDDEN, mask=to_unit, other=0.0), f, input_precision="ieee")
            g = tl.dot(x, tl.load(w + 2 * HIDDEN * HIDDEN, mask=to_unit, other=0.0), g, input_precision="ieee")
            o = tl.dot(x, tl.load(w + 3 * HIDDEN * HIDDEN, mask=to_unit, other=0.0), o, input_precision="ieee")
        if LAYER > 0:
            for first in range(0, HIDDEN, BK):
                k = first + tl.arange(0, BK)
                from_k = live[:, None] & (k < HIDDEN)[None, :]
                to_unit = inside[None, :] & (k < HIDDEN)[:, None]
                x = tl.load(new_h + beside[:, None] - HIDDEN + k[None, :], mask=from_k, other=0.0)
                x = x.to(weight_in.dtype.element_ty)
                w = weight_in + unit[None, :] * HIDDEN + k[:, None]
                i = tl.dot(x, tl.load(w, mask=to_unit, other=0.0), i, input_precision="ieee")
                f = tl.dot(x, tl.load(w + HIDDEN * HIDDEN, mask=to_unit, other=0.0), f, input_precision="ieee")
                g = tl.dot(x, tl.load(w + 2 * HIDDEN * HIDDEN, mask=to_unit, other=0.0), g, input_precision="ieee")
                o = tl.dot(x, tl.load(w + 3 * HIDDEN * HIDDEN, mask=to_unit, other=0.0), o, input_precision="ieee")
            shift = bias_in + unit[None, :]
            known = inside[None, :]
        else:
            label = tl.load(emitted + row, mask=live, other=0)
            shift = by_label + label.to(tl.int64)[:, None] * (4 * HIDDEN) + unit[None, :]
            known = live[:, None] & inside[None, :]
        i += tl.load(shift, mask=known, other=0.0).to(tl.float32)
        f += tl.load(shift + HIDDEN, mask=known, other=0.0).to(tl.float32)
        g += tl.load(shift + 2 * HIDDEN, mask=known, other=0.0).to(tl.float32)
        o += tl.load(shift + 3 * HIDDEN, mask=known, other=0.0).to(tl.float32)
        written = live[:, None] & inside[None, :]
        memory = c + before[:, None] + unit[None, :]
        old_c = tl.load(memory, mask=written, other=0.0)
        tl.debug_barrier()  # small tiles are held by several warps: all have read c before one writes it
        new_c = tl.sigmoid(f) * old_c + tl.sigmoid(i) * activated(g, "tanh")
        tl.store(memory, new_c, mask=written)
        tl.store(new_h + beside[:, None] + unit[None, :], tl.sigmoid(o) * activated(new_c, "tanh"), mask=written)


@jit
def project_kernel(
    weight, bias, new_h, h, g, label, slots, emitted, emitters, state, working,
    HIDDEN: tl.constexpr, LAYERS: tl.constexpr, JOINT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (block of columns, block of rows that emitted): g of the joint, h into its place; the lists turn."""
    part = tl.program_id(0)
    block = tl.program_id(1)
    if (part == 0) & (block == 0):  # the only program that looks at the lists here
        writing = 1 - tl.load(state)
        tl.store(working, tl.where(tl.load(state + 1 + writing) > 0, 1, 0))
        tl.store(state, writing)
    said = tl.load(state + 3)
    if block * BM < said:
        line = block * BM + tl.arange(0, BM)
        live = line < said
        row = tl.load(emitters + line, mask=live, other=0).to(tl.int64)
        slot = tl.load(slots + row, mask=live, other=0)
        column = part * BN + tl.arange(0, BN)
        beside = row * (LAYERS * HIDDEN)
        moved = live[:, None] & (column < LAYERS * HIDDEN)[None, :]
        x = tl.load(new_h + beside[:, None] + column[None, :], mask=moved, other=0.0)
        tl.store(h + slot[:, None] * (LAYERS * HIDDEN) + column[None, :], x, mask=moved)
        if part == 0:
            tl.store(label + slot, tl.load(emitted + row, mask=live, other=0), mask=live)
        if part * BN < JOINT:
            inside = column < JOINT
            out = tl.zeros((BM, BN), dtype=tl.float32)
            for first in range(0, HIDDEN, BK):
                k = first + tl.arange(0, BK)
                from_k = live[:, None] & (k < HIDDEN)[None, :]
                y = tl.load(new_h + beside[:, None] + (LAYERS - 1) * HIDDEN + k[None, :], mask=from_k, other=0.0)
                w = tl.load(
                    weight + column[None, :] * HIDDEN + k[:, None],
                    mask=inside[None, :] & (k < HIDDEN)[:, None],
                    other=0.0,
                )
                out = tl.dot(y.to(weight.dtype.element_ty), w, out, input_precision="ieee")
            out += tl.load(bias + column, mask=inside, other=0.0)[None, :]
            tl.store(g + slot[:, None] * JOINT + column[None, :], out, mask=live[:, None] & inside[None, :])


@jit
def end_kernel(slots, jump, counts, position, rows, BLOCK: tl.constexpr):
    """Program (block of rows): the frames of the next window that the last duration skips."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < rows
    slot = tl.load(slots + row, mask=inside, other=0)
    over = tl.load(position + row, mask=inside, other=0) - tl.load(counts + row, mask=inside, other=0)
    tl.store(jump + slot, tl.maximum(over, 0), mask=inside)
