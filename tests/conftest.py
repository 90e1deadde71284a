"""Shared set-up of the suite: where the golden files lie, where exports of them go, and one thread for torch."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidia0").exists():  # before triton is imported: kernels run as NumPy
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent

if "EXPORTED_MODELS" not in os.environ:  # the process that was started, not one of its workers, who are told by it
    _exports = tempfile.TemporaryDirectory(prefix="exported-")  # gone with this process
    os.environ["EXPORTED_MODELS"] = _exports.name
EXPORTS = Path(os.environ["EXPORTED_MODELS"])


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up the logs of the whole process: put back."""
    root, library = logging.getLogger(), logging.getLogger("aiohttp")
    before = root.handlers[:], root.level, library.level
    yield
    root.handlers[:], level, library_level = before
    root.setLevel(level)
    library.setLevel(library_level)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of NeMo's reference outputs: clips/, feats/, models/."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def hybrid() -> Path:
    """The golden hybrid model, exported to ONNX in fp32."""
    from tests.artefacts import exported

    return exported("hybrid_bpe")
