"""Leases of backend slots to streams. Knows nothing of audio, time or models.

A lease carries its slot's generation, so what comes late for one owner can never reach the next. Streams of one group
(engine/seating.py) get slots next to each other where backends step ranges of neighbours, as on a CPU. Some slots
are kept back: only a fork may lease them, so that a finalize never waits for a stream to end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

LOOSE, LOOSE_SHARE = 2, 0.125  # idle slots among a group's that are not worth a move: so many, or of its streams


@dataclass(frozen=True, slots=True)
class Lease:
    """One owner's hold on a slot."""

    slot: int
    generation: int
    group: int


class Slots:
    """`count` slots, the last `spare` free ones of which go to forks alone. `near`: a group's slots lie together."""

    def __init__(self, count: int, spare: int, *, near: bool = True) -> None:
        assert 0 <= spare < count, f"spare: got {spare}, expected 0 to {count - 1}"
        self.count, self.spare, self.near = count, spare, near
        self._generations = [0] * count
        self._leases: dict[int, Lease] = {}
        self._loose = False  # a slot was given back since ranges were looked at
        self._left: dict[int, None] = {}  # free slots that had an owner since `left` was asked
        self._free = list(range(count - 1, -1, -1))  # the last is taken first, where any is as good as another

    @property
    def free(self) -> int:
        return self.count - len(self._leases)

    def can_lease(self, *, spare: bool = False) -> bool:
        """Whether a stream, or a fork if `spare`, finds a slot."""
        return self.free > (0 if spare else self.spare)

    def lease(self, group: int, *, spare: bool = False) -> Lease | None:
        """A free slot among the group's others, or the nearest; for a first of its group the one farthest from all."""
        if not self.can_lease(spare=spare):
            return None
        slot = self._choose(group)
        self._left.pop(slot, None)
        self._generations[slot] += 1
        self._leases[slot] = Lease(slot, self._generations[slot], group)
        return self._leases[slot]

    def _choose(self, group: int) -> int:
        if not self.near:
            return self._free.pop()
        own = sorted(slot for slot, lease in self._leases.items() if lease.group == group)
        if own:
            slot = self._nearest(own)
        elif self._leases:
            everybody = sorted(self._leases)
            slot = max(self._free, key=lambda slot: (_distance(slot, everybody), -slot))
        else:
            slot = min(self._free)
        self._free.remove(slot)
        return slot

    def _nearest(self, others: Sequence[int]) -> int:
        """A free slot among the others, who are sorted, for it is computed with them anyway; else the nearest."""
        first, last = others[0], others[-1]
        return min(self._free, key=lambda slot: (not first < slot < last, _distance(slot, others), slot))

    def regroup(self, lease: Lease, group: int) -> Lease:
        """The same owner's lease among another group; what the slot held is not taken along."""
        assert self.holds(lease), f"slot {lease.slot}: got another's lease, expected its owner's"
        self.release(lease)
        moved = self.lease(group, spare=True)
        assert moved is not None, "slots: got none, expected the one given back"
        return moved

    def holds(self, lease: Lease) -> bool:
        """Whether this very lease is still the slot's owner."""
        return self._leases.get(lease.slot) is lease

    def release(self, lease: Lease) -> None:
        """Give the slot back; a lease that has ended already is left alone."""
        if self.holds(lease):
            del self._leases[lease.slot]
            self._free.append(lease.slot)
            self._left[lease.slot] = None
            self._loose = self.near

    def left(self) -> list[int]:
        """The free slots that had an owner since this was asked last."""
        left, self._left = list(self._left), {}
        return left

    def stray(self) -> tuple[Lease, int] | None:
        """A lease at the edge of a range that has thinned out, and a free slot nearer to the others; None: all is well.

        Steps of neighbours compute the idle slots between them, too. Said once after each lease that was given back.
        """
        groups: dict[int, list[int]] = {}
        looked, self._loose = sorted(self._leases) if self._loose else [], False
        for slot in looked:
            groups.setdefault(self._leases[slot].group, []).append(slot)
        for own in groups.values():
            if own[-1] - own[0] + 1 - len(own) <= max(LOOSE, LOOSE_SHARE * len(own)):
                continue
            first = own[1] - own[0] > own[-1] - own[-2]
            edge, others = (own[0], own[1:]) if first else (own[-1], own[:-1])
            slot = self._nearest(others)
            if _distance(slot, others) < _distance(edge, others) or others[0] < slot < others[-1]:
                return self._leases[edge], slot
        return None

    def move(self, lease: Lease, slot: int) -> Lease:
        """The same owner's lease of the free `slot` instead."""
        assert self.holds(lease), f"slot {lease.slot}: got another's lease, expected its owner's"
        self._free.remove(slot)
        self._left.pop(slot, None)
        self._generations[slot] += 1
        self._leases[slot] = Lease(slot, self._generations[slot], lease.group)
        self.release(lease)
        return self._leases[slot]

    def check(self) -> None:
        """Leased and free slots make all slots, and every lease has its slot's generation."""
        everybody = sorted([*self._leases, *self._free])
        assert everybody == list(range(self.count)), f"leased and free: got {everybody}, expected all {self.count} once"
        for slot, lease in self._leases.items():
            held, expected = (lease.slot, lease.generation), (slot, self._generations[slot])
            assert held == expected, f"slot and generation: got {held}, expected {expected}"


def _distance(slot: int, others: Sequence[int]) -> int:
    """To the nearest of `others`, which are sorted and not none."""
    at = bisect_left(others, slot)
    return min(abs(slot - other) for other in others[max(0, at - 1) : at + 1])
