"""Shared set-up of the suite: where the golden files lie, and one thread for torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of NeMo's reference outputs: clips/, feats/, models/."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def exported(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The ONNX folder of a golden model, by name and precision; exported once a session."""

    @cache
    def export_golden(name: str = "hybrid_bpe", precision: str = "fp32") -> Path:
        from streamer.artefacts import export_model

        folder = tmp_path_factory.mktemp("exported") / f"{name}-{precision}"
        export_model(golden / "models" / name / f"{name}.nemo", folder, precision)
        return folder

    return export_golden
