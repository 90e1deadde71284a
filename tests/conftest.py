"""Shared set-up of the suite: where the golden files lie, and one thread for torch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of NeMo's reference outputs: clips/, feats/, models/."""
    return ROOT / "tests" / "golden"
