"""Who computes which utterances: groups of a batch dealt to a few threads. Knows nothing of losses.

A tile is a hundred small operations between its products. Where each of them waits for all processors, one that is
busy elsewhere holds up the others a hundred times; threads with groups of their own meet once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

WORTH = 4_000  # cells at a time that are worth a thread: fewer make small products
Found = TypeVar("Found")


def hands(cells: int) -> int:
    """How many threads can share so many cells, of those that torch has."""
    return max(1, min(torch.get_num_threads(), cells // WORTH))


def dealt(sizes: Sequence[int], players: int) -> list[list[int]]:
    """Indices of the sizes for each player: the largest first, to who has least; always dealt alike."""
    held: list[list[int]] = [[] for _ in range(players)]
    total = [0] * players
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        who = total.index(min(total))
        held[who].append(index)
        total[who] += sizes[index]
    return [sorted(indices) for indices in held]


def together(work: Callable[[list[int]], Found], shares: Sequence[list[int]]) -> list[Found]:
    """What `work` makes of each share, all at the same time, each with its part of torch's threads; no gradients."""

    def alone(share: list[int]) -> Found:
        with torch.no_grad():
            return work(share)

    if len(shares) == 1:
        return [alone(shares[0])]
    threads = torch.get_num_threads()
    try:
        part = max(1, threads // len(shares))
        with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(part,)) as pool:
            return list(pool.map(alone, shares))
    finally:
        torch.set_num_threads(threads)  # the number is also that of threads to come
