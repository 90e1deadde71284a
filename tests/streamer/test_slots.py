"""Leases: one owner a slot, neighbours of one group, nothing for those who come late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamer.engine.slots import LOOSE, Lease, Slots


def test_a_lease_that_ended_cannot_touch_the_next_owner() -> None:
    slots = Slots(1, spare=0)
    first = slots.lease(7)
    assert first is not None
    slots.release(first)
    second = slots.lease(7)
    assert second is not None
    assert first.slot == second.slot
    assert not slots.holds(first)
    slots.release(first)  # late, and without effect
    assert slots.holds(second)
    assert slots.lease(7) is None


def test_the_last_slots_are_for_forks_alone() -> None:
    slots = Slots(3, spare=1)
    assert slots.lease(1) is not None
    assert slots.lease(1) is not None
    assert not slots.can_lease()
    assert slots.lease(1) is None
    assert slots.can_lease(spare=True)
    assert slots.lease(1, spare=True) is not None
    assert slots.lease(1, spare=True) is None


def test_streams_of_one_group_are_neighbours() -> None:
    slots = Slots(16, spare=0)
    leases = [slots.lease(group) for _ in range(4) for group in (1, 7)]
    for group in (1, 7):
        own = sorted(lease.slot for lease in leases if lease and lease.group == group)
        assert own == list(range(own[0], own[0] + 4)), f"group {group} has slots {own}"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("lease"), st.sampled_from([1, 2, 7]), st.booleans()),
            st.tuples(st.just("release"), st.integers(0, 30), st.booleans()),
        )
    )
)
def test_whatever_happens_no_slot_has_two_owners(story: list[tuple[str, int, bool]]) -> None:
    slots = Slots(6, spare=2)
    ever: list[Lease] = []
    held: set[Lease] = set()
    for verb, number, spare in story:
        if verb == "lease":
            asked = slots.can_lease(spare=spare)
            lease = slots.lease(number, spare=spare)
            assert (lease is not None) == asked
            if lease is not None:
                ever.append(lease)
                held.add(lease)
        elif ever:
            lease = ever[number % len(ever)]
            slots.release(lease)
            held.discard(lease)
        slots.check()
        assert slots.free == 6 - len(held)
        assert {lease for lease in ever if slots.holds(lease)} == held
        assert len({lease.slot for lease in held}) == len(held)


def test_a_lease_goes_to_another_group_and_its_old_slot_is_free() -> None:
    slots = Slots(64, spare=2)
    here, there = [slots.lease(1) for _ in range(3)], [slots.lease(2) for _ in range(3)]
    assert here[1] is not None
    moved = slots.regroup(here[1], 2)
    assert moved.group == 2
    assert min(abs(moved.slot - lease.slot) for lease in there if lease is not None) == 1
    assert not slots.holds(here[1])
    assert slots.free == 64 - 6
    slots.check()


def test_who_comes_takes_a_gap_before_an_edge() -> None:
    slots = Slots(64, spare=2)
    leases = [slots.lease(1) for _ in range(9)]
    gap = sorted(leases, key=lambda lease: lease.slot if lease else -1)[4]
    assert gap is not None
    slots.release(gap)
    assert (again := slots.lease(1)) is not None
    assert again.slot == gap.slot


def test_a_range_that_thinned_out_is_closed_up_by_moves_from_its_edges() -> None:
    slots = Slots(200, 10)
    leases = [slots.lease(group) for group in [1] * 100 + [7] * 40]
    assert slots.stray() is None, "nobody has left"
    for number, lease in enumerate(leases):
        if number % 5:
            slots.release(lease)
    moves = 0
    while (found := slots.stray()) is not None:
        slots.move(*found)
        slots.check()
        moves += 1
    assert 10 <= moves <= 28
    for group, count in ((1, 20), (7, 8)):
        own = sorted(slot for slot, lease in slots._leases.items() if lease.group == group)
        assert len(own) == count
        assert own[-1] - own[0] + 1 <= count + LOOSE
    assert slots.stray() is None


def test_slots_of_a_backend_that_takes_any_rows_are_never_moved() -> None:
    slots = Slots(200, 10, near=False)
    for number, lease in enumerate([slots.lease(1) for _ in range(100)]):
        if number % 5:
            slots.release(lease)
    assert slots.stray() is None
