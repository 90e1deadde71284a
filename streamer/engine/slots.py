"""Leases of backend slots to streams. Knows nothing of audio, time or models.

A lease carries its slot's generation, so what comes late for one owner can never reach the next. Streams of one group
(the same chunk length) get slots next to each other, because CPU backends step ranges of neighbours. Some slots are
kept back: only a fork may lease them, so that a finalize never waits for a stream to end.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lease:
    """One owner's hold on a slot."""

    slot: int
    generation: int
    group: int


class Slots:
    """`count` slots, the last `spare` free ones of which go to forks alone."""

    def __init__(self, count: int, spare: int) -> None:
        assert 0 <= spare < count, f"spare: got {spare}, expected 0 to {count - 1}"
        self.count, self.spare = count, spare
        self._generations = [0] * count
        self._leases: dict[int, Lease] = {}

    @property
    def free(self) -> int:
        return self.count - len(self._leases)

    def can_lease(self, *, spare: bool = False) -> bool:
        """Whether a stream, or a fork if `spare`, finds a slot."""
        return self.free > (0 if spare else self.spare)

    def lease(self, group: int, *, spare: bool = False) -> Lease | None:
        """The free slot nearest to the group's others; for a first of its group the one farthest from everybody."""
        if not self.can_lease(spare=spare):
            return None
        slot = self._choose(group)
        self._generations[slot] += 1
        self._leases[slot] = Lease(slot, self._generations[slot], group)
        return self._leases[slot]

    def _choose(self, group: int) -> int:
        free = [slot for slot in range(self.count) if slot not in self._leases]
        own = [slot for slot, lease in self._leases.items() if lease.group == group]
        if own:
            return min(free, key=lambda slot: (min(abs(slot - other) for other in own), slot))
        if not self._leases:
            return free[0]
        return max(free, key=lambda slot: (min(abs(slot - other) for other in self._leases), -slot))

    def holds(self, lease: Lease) -> bool:
        """Whether this very lease is still the slot's owner."""
        return self._leases.get(lease.slot) == lease

    def release(self, lease: Lease) -> None:
        """Give the slot back; a lease that has ended already is left alone."""
        if self.holds(lease):
            del self._leases[lease.slot]

    def check(self) -> None:
        """Leased and free slots make all slots, and every lease has its slot's generation."""
        assert 0 <= len(self._leases) <= self.count, f"leased: got {len(self._leases)} of {self.count}"
        for slot, lease in self._leases.items():
            held, expected = (lease.slot, lease.generation), (slot, self._generations[slot])
            assert held == expected, f"slot and generation: got {held}, expected {expected}"
