"""The numbers of several processes as one /metrics: sums. Knows nothing of what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

Family = list[Any]  # name, help, type, [[sample's name, labels, value], ...]: what JSON knows
GAUGE = "gauge"


def read(registry: CollectorRegistry) -> list[Family]:
    """All that a process has counted."""
    return [
        [family.name, family.documentation, family.type, [[s.name, s.labels, s.value] for s in family.samples]]
        for family in registry.collect()
    ]


def add(parts: Iterable[Sequence[Family]]) -> list[Family]:
    """The sums, in the order in which the first names them. Of times at which something began, the first."""
    kinds: dict[str, tuple[str, str]] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for part in parts:
        for name, text, kind, samples in part:
            kinds.setdefault(name, (text, kind))
            own = sums.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                first = sample.endswith("_created")
                own[key] = min(own.get(key, value), value) if first else own.get(key, 0.0) + value
    return [
        [name, text, kind, [[sample, dict(labels), value] for (sample, labels), value in sums[name].items()]]
        for name, (text, kind) in kinds.items()
    ]


def lasting(part: Sequence[Family]) -> list[Family]:
    """What a process that has ended leaves behind: its counts, not what was so at the moment."""
    return [family for family in part if family[2] != GAUGE]


def exposition(part: Sequence[Family]) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(_Kept(part))


class _Kept:
    """Looks like a registry to the library's writer."""

    def __init__(self, part: Sequence[Family]) -> None:
        self._part = part

    def collect(self) -> Iterable[Metric]:
        for name, text, kind, samples in self._part:
            family = Metric(name, text, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
