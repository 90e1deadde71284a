"""Device code of the joint's loss: hidden values, outcomes, lattice, slopes, the way back. Knows nothing of launches.

A cell is a place (row, frame, label) of a tile, counted in that order; COLUMNS logits are V labels and blank, the last.
`own` (2, cells) are a cell's logits of blank and of the next label, which are summed from values that nobody rounded;
the products skip both columns. Sums and logarithms are float32, in a lattice float64.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from models.kernels.activation import activated
from models.kernels.dialect import jit, tl


@jit
def steepness(y, ACTIVATION: tl.constexpr):
    """The activation's slope, told by its value."""
    if ACTIVATION == "relu":
        slope = tl.where(y > 0.0, 1.0, 0.0).to(y.dtype)
    elif ACTIVATION == "tanh":
        slope = 1.0 - y * y
    else:
        slope = y * (1.0 - y)
    return slope


@jit
def hidden_kernel(
    enc, pred, labels, weight, bias, hidden, own,
    cells, frames, places, enc_row, enc_frame, pred_row, pred_place,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program (block of cells): activation(enc + pred), and of each cell the two logits that are its own."""
    cell = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = cell < cells
    row, frame, place = cell // (frames * places), cell // places % frames, cell % places
    label = tl.load(labels + row * places + place, mask=live, other=0)
    of_enc = enc + row * enc_row + frame * enc_frame
    of_pred = pred + row * pred_row + place * pred_place
    blank = tl.load(bias + COLUMNS - 1 + cell * 0)
    emit = tl.load(bias + label)
    for first in range(0, HIDDEN, BK):
        k = first + tl.arange(0, BK)
        named = k < HIDDEN
        inside = live[:, None] & named[None, :]
        x = tl.load(of_enc[:, None] + k[None, :], mask=inside, other=0.0)
        x += tl.load(of_pred[:, None] + k[None, :], mask=inside, other=0.0)
        y = activated(x, ACTIVATION)
        tl.store(hidden + cell[:, None] * HIDDEN + k[None, :], y.to(hidden.dtype.element_ty), mask=inside)
        to_blank = tl.load(weight + (COLUMNS - 1) * HIDDEN + k, mask=named, other=0.0)
        to_label = tl.load(weight + label[:, None] * HIDDEN + k[None, :], mask=inside, other=0.0)
        blank += tl.sum(y * to_blank[None, :], 1)
        emit += tl.sum(y * to_label, 1)
    tl.store(own + cell, blank, mask=live)
    tl.store(own + cells + cell, emit, mask=live)


@jit
def products(
    hidden, weight, bias, cell, live, column,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Logits of a block of cells and one of columns, (BM, BN), summed and kept in the wide type."""
    logits = tl.zeros((BM, BN), dtype=WIDE)
    named = column < COLUMNS
    for first in range(0, HIDDEN, BK):
        k = first + tl.arange(0, BK)
        x = tl.load(hidden + cell[:, None] * HIDDEN + k[None, :], mask=live[:, None] & (k < HIDDEN)[None, :], other=0.0)
        at = column.to(tl.int64)[None, :] * HIDDEN + k[:, None]
        w = tl.load(weight + at, mask=named[None, :] & (k < HIDDEN)[:, None], other=0.0)
        logits = tl.dot(x, w, logits, input_precision="ieee", out_dtype=WIDE)
    return logits + tl.load(bias + column, mask=named, other=0.0)[None, :]


@jit
def outcome_kernel(
    hidden, weight, bias, labels, own, found,
    cells, frames, places,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Program (block of cells): found (3, cells) are log-probabilities of blank and label, and the log of all sums."""
    cell = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = cell < cells
    row, place = cell // (frames * places), cell % places
    label = tl.load(labels + row * places + place, mask=live, other=0)
    blank = tl.load(own + cell, mask=live, other=0.0)
    emit = tl.load(own + cells + cell, mask=live, other=0.0)
    top = tl.maximum(blank, emit)
    total = tl.exp(blank - top) + tl.exp(emit - top)
    for first in range(0, COLUMNS, BN):
        column = first + tl.arange(0, BN)
        logits = products(hidden, weight, bias, cell, live, column, HIDDEN, COLUMNS, BM, BN, BK, WIDE)
        other = (column < COLUMNS - 1)[None, :] & (column[None, :] != label[:, None])
        logits = tl.where(other, logits, float("-inf"))
        most = tl.maximum(top, tl.max(logits, 1))
        total = total * tl.exp(top - most) + tl.sum(tl.exp(logits - most[:, None]), 1)
        top = most
    norm = top + tl.log(total)
    tl.store(found + cell, blank - norm, mask=live)
    tl.store(found + cells + cell, emit - norm, mask=live)
    tl.store(found + 2 * cells + cell, norm, mask=live)


@jit
def slope_kernel(
    hidden, weight, bias, labels, norm, share, slopes, by_bias,
    cells, frames, places, width,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """Program (block of cells, block of columns): softmax x share, 0 in the cell's own columns and beyond the last.

    slopes (cells, width); by_bias (blocks of cells, width): their sums over a block.
    """
    block = tl.program_id(0)
    cell = block.to(tl.int64) * BM + tl.arange(0, BM)
    live = cell < cells
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    row, place = cell // (frames * places), cell % places
    label = tl.load(labels + row * places + place, mask=live, other=0)
    logits = products(hidden, weight, bias, cell, live, column, HIDDEN, COLUMNS, BM, BN, BK, WIDE)
    log_sum = tl.load(norm + cell, mask=live, other=0.0)
    of_all = tl.load(share + cell, mask=live, other=0.0)
    slope = tl.exp(logits - log_sum[:, None]) * of_all[:, None]
    other = (column < COLUMNS - 1)[None, :] & (column[None, :] != label[:, None]) & live[:, None]
    slope = tl.where(other, slope, 0.0)
    inside = live[:, None] & (column < width)[None, :]
    tl.store(slopes + cell[:, None] * width + column[None, :], slope.to(slopes.dtype.element_ty), mask=inside)
    tl.store(by_bias + block * width + column, tl.sum(slope, 0), mask=column < width)


@jit
def back_kernel(
    enc, pred, labels, weight, back, own, by_enc, by_pred, by_label, by_blank,
    rows, frames, places, enc_row, enc_frame, pred_row, pred_place, by_row, by_frame,
    HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr,
    SPAN: tl.constexpr, BU: tl.constexpr, BH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Program (row, block of frames, block of hidden values): from a cell's hidden values to what they came from.

    back (cells, H): slopes x weight; own (2, cells): slopes of the two own logits, which are added here. Sums go to
    by_enc (as enc, added to what is there), by_pred and by_label (blocks of frames, rows, places, H), and by_blank
    (blocks of frames, rows, H): the weights' of the next labels, and of blank.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    k = tl.program_id(2) * BH + tl.arange(0, BH)
    named = k < HIDDEN
    to_blank = tl.load(weight + (COLUMNS - 1) * HIDDEN + k, mask=named, other=0.0)
    blank_total = tl.zeros((BH,), dtype=WIDE)
    cells = rows.to(tl.int64) * frames * places
    for first in range(0, places, BU):
        u = first + tl.arange(0, BU)
        spoken = u < places
        inside = spoken[:, None] & named[None, :]
        label = tl.load(labels + row * places + u, mask=spoken, other=0)
        text = tl.load(pred + row * pred_row + u[:, None] * pred_place + k[None, :], mask=inside, other=0.0)
        to_label = tl.load(weight + label[:, None] * HIDDEN + k[None, :], mask=inside, other=0.0)
        pred_total = tl.zeros((BU, BH), dtype=WIDE)
        label_total = tl.zeros((BU, BH), dtype=WIDE)
        for frame in range(part * SPAN, tl.minimum(part * SPAN + SPAN, frames)):
            cell = (row * frames + frame) * places + u
            heard = tl.load(enc + row * enc_row + frame * enc_frame + k, mask=named, other=0.0)
            y = activated(heard[None, :] + text, ACTIVATION)
            at_blank = tl.load(own + cell, mask=spoken, other=0.0)
            at_label = tl.load(own + cells + cell, mask=spoken, other=0.0)
            slope = tl.load(back + cell[:, None] * HIDDEN + k[None, :], mask=inside, other=0.0).to(WIDE)
            slope += at_blank[:, None] * to_blank[None, :] + at_label[:, None] * to_label
            slope *= steepness(y, ACTIVATION)
            pred_total += slope
            label_total += at_label[:, None] * y
            blank_total += tl.sum(at_blank[:, None] * y, 0)
            place = by_enc + row * by_row + frame * by_frame + k
            before = tl.load(place, mask=named, other=0.0)
            tl.store(place, before + tl.sum(slope, 0), mask=named)
        at = ((part * rows + row) * places + u)[:, None] * HIDDEN + k[None, :]
        tl.store(by_pred + at, pred_total, mask=inside)
        tl.store(by_label + at, label_total, mask=inside)
        tl.debug_barrier()  # the next labels add to the same sums over enc
    tl.store(by_blank + (part * rows + row) * HIDDEN + k, blank_total, mask=named)


@jit
def log_sum(x, y):
    most = tl.maximum(x, y)
    return most + tl.log(1.0 + tl.exp(tl.minimum(x, y) - most))


@jit
def chained(cost, value, later_cost, later_value):
    """Two links of x[u] = log(exp(value[u]) + exp(x[u - 1] + cost[u])) as one."""
    return cost + later_cost, log_sum(value + later_cost, later_value)


@jit
def lattice_kernel(
    blank, emit, frames, lengths, sums, chance,
    rows, most_frames, places, nothing,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, way): sums (2, rows, T, U + 1) float64, alphas by way 0 and betas by way 1; chance (rows,).

    A frame is one scan over its labels; betas go from the end of both.
    """
    row = tl.program_id(0).to(tl.int64)
    way = tl.program_id(1)
    count = tl.load(frames + row)
    length = tl.load(lengths + row)
    v = tl.arange(0, BLOCK)
    u = tl.where(way == 0, v, length - v)
    live = v <= length
    start = row * most_frames * places
    # A step is paid for at the cell that it leaves: that is the one before for an alpha, the cell itself for a beta.
    said = u - 1 + way
    value = tl.zeros((BLOCK,), dtype=tl.float64) + nothing
    for i in range(0, count):
        t = tl.where(way == 0, i, count - 1 - i)
        left = tl.maximum(t - 1 + way, 0)
        step = tl.load(blank + start + left * places + u, mask=live, other=0.0).to(tl.float64)
        cost = tl.load(emit + start + t * places + said, mask=live & (v > 0), other=0.0).to(tl.float64)
        cost = tl.where(live & (v > 0), cost, nothing)
        begun = tl.where(v == 0, tl.where(way == 0, 0.0, step), nothing)
        value = tl.where(live, tl.where(i == 0, begun, value + step), nothing)
        _, value = tl.associative_scan((cost, value), 0, chained)
        tl.store(sums + way * rows * most_frames * places + start + t * places + u, value, mask=live)
    whole = tl.sum(tl.where(v == length, value, 0.0), 0)
    tl.store(chance + row, whole, mask=way == 1)


@jit
def share_kernel(
    blank, emit, frames, lengths, sums, chance, by_blank, by_emit,
    rows, most_frames, places, more,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (block of cells): shares (rows, T, U + 1) of a row's ways that leave a cell by blank and by its label."""
    cells = rows.to(tl.int64) * most_frames * places
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, t, u = cell // (most_frames * places), cell // places % most_frames, cell % places
    count = tl.load(frames + row, mask=cell < cells, other=0)
    length = tl.load(lengths + row, mask=cell < cells, other=-1)
    inside = (t < count) & (u <= length)
    through = tl.load(sums + cell, mask=inside, other=0.0) - tl.load(chance + row, mask=inside, other=0.0)
    later = tl.load(sums + cells + cell + places, mask=inside & (t + 1 < count), other=0.0)
    further = tl.load(sums + cells + cell + 1, mask=inside & (u < length), other=0.0)
    stay = tl.load(blank + cell, mask=inside, other=0.0).to(tl.float64)
    say = tl.load(emit + cell, mask=inside, other=0.0).to(tl.float64)
    left = inside & ((t + 1 < count) | (u == length))
    tl.store(by_blank + cell, tl.where(left, tl.exp(through + stay + later), 0.0), mask=cell < cells)
    said = tl.where(inside & (u < length), tl.exp(through + say + further) * (1.0 + more), 0.0)
    tl.store(by_emit + cell, said, mask=cell < cells)
