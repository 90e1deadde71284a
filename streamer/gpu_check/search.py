"""The most streams that a rule lets through: doubled until one run fails, then halved in between. Pure arithmetic.

Knows nothing of what a run is.
"""

from __future__ import annotations

from dataclasses import dataclass

FINE = 0.04  # share within which a limit is known well enough


@dataclass(slots=True)
class Search:
    """`next` says what to try, `tell` what came of it; None when the limit is known, or `top` was reached."""

    first: int
    top: int
    good: int = 0  # the most that passed
    bad: int = 0  # the fewest that did not; 0: none yet

    def next(self) -> int | None:
        if self.good >= self.top:
            return None
        if not self.bad:
            return min(self.top, 2 * self.good if self.good else self.first)
        if self.bad - self.good <= max(1, FINE * self.bad):
            return None
        middle = (self.good + self.bad) // 2
        return middle if self.good else max(1, self.bad // 2)

    def tell(self, streams: int, passed: bool) -> None:
        if passed:
            self.good = max(self.good, streams)
        else:
            self.bad = min(self.bad or streams, streams)


MOST_LATE = 0.001  # share of the chunks
MOST_FINAL_S = 1.0  # at p95
MOST_LAG = 0.25  # of a chunk, at p99: beyond it the load is not what it says


def complaints(figures: dict[str, float], chunk_s: float) -> list[str]:
    """Why a run did not pass, in words; none if it did.

    A chunk is late when its result comes after the next one is due, that is a chunk after its last sample.
    """
    found = []
    if not figures["results"]:
        found.append("got no result, expected some")
    if figures["late_share"] > MOST_LATE:
        found.append(f"late chunks: got {figures['late_share']:.2%}, expected at most {MOST_LATE:.1%}")
    if figures["final_p95_s"] > MOST_FINAL_S:
        found.append(f"finals: got {figures['final_p95_s']:.2f} s at p95, expected at most {MOST_FINAL_S:g}")
    if figures["errors"]:
        found.append(f"streams: got {figures['errors']:.0f} with an error, expected none")
    if figures["lag_p99_s"] > MOST_LAG * chunk_s:
        found.append(f"load: got it {figures['lag_p99_s']:.3f} s late at p99, expected at most {MOST_LAG * chunk_s:g}")
    return found
