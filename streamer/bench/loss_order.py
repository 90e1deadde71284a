"""What one run of `streamer bench loss` computes: a form of the RNN-T loss on a batch. Knows nothing of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """What to run: a form and its precision on a batch of this shape, on a device, with so many threads.

    Rows have evenly `least` to 1 of `frames` and of `labels`.
    """

    form: str  # of loss_trial.FORMS, "autocast", "nemo" or "products"
    half: bool
    rows: int
    frames: int
    labels: int
    words: int  # V, without blank
    hidden: int
    least: float = 1.0
    device: str = "cpu"
    threads: int = 1

    @property
    def shares(self) -> list[float]:
        step = (1.0 - self.least) / max(1, self.rows - 1)
        return [self.least + step * row for row in range(self.rows)]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Frames and labels of each row."""
        return [(round(share * self.frames), round(share * self.labels)) for share in self.shares]

    @property
    def cells(self) -> int:
        """Without padding."""
        return sum(frames * (labels + 1) for frames, labels in self.lengths)

    @property
    def flop(self) -> float:
        """Of one product of all cells: forward, towards the weights, or towards the hidden values."""
        return 2.0 * self.cells * self.hidden * (self.words + 1)
