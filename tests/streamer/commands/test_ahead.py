"""Claims about reading ahead: samples arrive in order and whole, their files vanish, and what waits is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from streamer.commands import CommandError
from streamer.commands.ahead import GROUP_FILES, GROUP_S, Shelf, Stored, grouped, scratch, windows
from streamer.commands.hands import Wanted
from streamer.commands.results import Job
from streamer.recordings import Part, Recordings


def asked(*names: str, duration_s: float = 0.0) -> list[Wanted]:
    return [Wanted(Job(name, place), Part(0.0, duration_s)) for place, name in enumerate(names)]


def record(folder: Path, name: str, samples: int, rate: int = 16000) -> str:
    noise = np.random.default_rng(samples).uniform(-0.5, 0.5, samples)
    soundfile.write(folder / name, noise, rate)
    return name


@pytest.fixture
def hands() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def samples_of(stored: Stored) -> np.ndarray:
    out = np.full(stored.samples, np.nan, np.float32)
    stored.copy_to(out)
    return out


def test_samples_arrive_in_order_and_as_they_are_read_alone(hands: Executor, tmp_path: Path) -> None:
    names = [record(tmp_path, f"{n}.wav", n, rate) for n, rate in ((9000, 8000), (1, 16000), (70_000, 48000))] * 30
    with scratch() as folder:
        shelf, failures = Shelf(hands, folder, tmp_path, groups=2), []
        heard = [samples_of(each) for each in shelf.stored(asked(*names), lambda *what: failures.append(what))]
        assert list(folder.iterdir()) == []
    alone = Recordings(tmp_path)
    assert failures == []
    assert len(heard) == len(names)
    for name, pcm in zip(names, heard, strict=True):
        assert np.array_equal(pcm, alone.read(name))


def test_what_cannot_be_read_is_told_and_the_others_go_on(hands: Executor, tmp_path: Path) -> None:
    record(tmp_path, "a.wav", 100), record(tmp_path, "c.wav", 200)
    (tmp_path / "b.wav").write_bytes(b"no audio at all")
    whole = (tmp_path / "c.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    failures: list[str] = []
    with scratch() as folder:
        shelf = Shelf(hands, folder, tmp_path, groups=2)
        wanted = asked("gone.wav", "a.wav", "b.wav", "cut.wav", "c.wav")
        heard = list(shelf.stored(wanted, lambda each, error: failures.append(f"{each.job.position} {error}")))
        assert [each.wanted.job.name for each in heard] == ["a.wav", "cut.wav", "c.wav"]
        assert [each.samples for each in heard] == [100, (len(whole) // 2 - 44) // 2, 200]
        assert "before its header says" in str(heard[1].error)
        for each in heard:
            each.drop()
        assert list(folder.iterdir()) == []
    assert [failure.split(":")[0].split("/")[0] for failure in failures] == ["0 ", "2 b.wav"]
    assert "no such file" in failures[0]


def test_a_part_is_what_its_manifest_says(hands: Executor, tmp_path: Path) -> None:
    record(tmp_path, "a.wav", 16000)
    wanted = [Wanted(Job("a.wav", 0), Part(0.25, 0.5))]
    with scratch() as folder:
        (stored,) = Shelf(hands, folder, tmp_path, groups=1).stored(wanted, pytest.fail)
        assert np.array_equal(samples_of(stored), Recordings(tmp_path).read("a.wav")[4000:12000])


class Counting(Executor):
    """Runs what it is given at once, and counts the results that nobody has asked for yet."""

    def __init__(self) -> None:
        self.open, self.most = 0, 0

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.open += 1
        self.most = max(self.most, self.open)
        outer, done = self, function(*args, **kwargs)

        class Asked(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002
                outer.open -= 1
                return done

        return Asked()


def test_so_many_groups_are_read_ahead_and_no_more(tmp_path: Path) -> None:
    record(tmp_path, "a.wav", 10)
    counting = Counting()
    with scratch() as folder:
        shelf = Shelf(counting, folder, tmp_path, groups=3)
        for stored in shelf.stored(asked(*["a.wav"] * 50, duration_s=GROUP_S), pytest.fail):
            stored.drop()
    assert counting.most == 3


def test_no_group_more_is_read_while_too_many_samples_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.commands.ahead.MOST_BYTES", 2 * 4 * 1000)
    record(tmp_path, "a.wav", 1000)
    counting = Counting()
    with scratch() as folder:
        shelf = Shelf(counting, folder, tmp_path, groups=9)
        stored = list(shelf.stored(asked(*["a.wav"] * 20, duration_s=GROUP_S), pytest.fail))
        assert [each.samples for each in stored] == [1000] * 20
    assert counting.most == 2


def test_a_full_disk_is_a_sentence(hands: Executor, tmp_path: Path) -> None:
    record(tmp_path, "a.wav", 10)
    shelf = Shelf(hands, tmp_path / "gone", tmp_path, groups=1)
    with pytest.raises(CommandError, match=r"0\.f32: samples cannot be kept there"):
        list(shelf.stored(asked("a.wav"), pytest.fail))


@given(st.lists(st.floats(0, 300), max_size=100))
def test_groups_are_some_minutes_or_some_files_in_order(durations: list[float]) -> None:
    wanted = [Wanted(Job(str(place), place), Part(0.0, each)) for place, each in enumerate(durations)]
    groups = list(grouped(wanted))
    assert [each for group in groups for each in group] == wanted
    for group in groups:
        assert len(group) <= GROUP_FILES
        assert sum(each.part.duration_s for each in group[:-1]) < GROUP_S


def test_windows_begin_small_so_that_work_begins_and_grow() -> None:
    made = list(windows(iter([1] * 40), lambda size: size, first=2, most=10))
    assert [len(window) for window in made] == [2, 4, 8, 10, 10, 6]
    assert [len(window) for window in windows(iter([50, 50, 1]), lambda size: size, first=2, most=10)] == [1, 1, 1]
