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


@pytest.fixture(scope="session")
def hybrid() -> Path:
    """The golden hybrid model, exported to ONNX in fp32."""
    from tests.artefacts import exported

    return exported("hybrid_bpe")
