"""Threads that share a batch's utterances give what one gives, and leave torch's threads as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.training import loss_crew
from models.training.joint_loss import Output, Tiled, joint_loss
from models.training.loss_crew import dealt, hands, together
from tests.models.training.test_joint_loss import TARGETS, inputs


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_groups_are_dealt_evenly_and_always_alike() -> None:
    assert dealt([5, 1, 4, 2, 2], 2) == [[0, 4], [1, 2, 3]]
    assert dealt([3, 3], 1) == [[0, 1]]


@pytest.mark.usefixtures("two_threads")
def test_a_thread_is_there_for_so_many_cells_and_no_more_than_torch_has() -> None:
    assert [hands(cells) for cells in (1, 4_000, 8_000, 1_000_000)] == [1, 1, 2, 2]


@pytest.mark.usefixtures("two_threads")
def test_a_fault_of_one_is_everybodys_and_the_number_of_threads_stays() -> None:
    def work(share: list[int]) -> int:
        assert torch.get_num_threads() == 1
        assert not torch.is_grad_enabled()
        return 6 // share[0]

    assert together(work, [[1], [2]]) == [6, 3]
    with pytest.raises(ZeroDivisionError):
        together(work, [[1], [0]])
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_two_threads_compute_what_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = inputs(5)
    found = []
    for worth in (1_000_000, 10):
        monkeypatch.setattr(loss_crew, "WORTH", worth)
        loss = joint_loss(*made[:2], Output(*made[2:]), TARGETS, Tiled(40))
        found.append([loss, *torch.autograd.grad(loss, made)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
