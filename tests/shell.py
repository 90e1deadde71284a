"""Commands as a person types them: in this process, or in one of their own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from streamer.cli import main
from tests.conftest import ROOT


def failing(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and stderr of a command; it is one line, and stdout stays empty."""
    code = main(argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    return code, err.strip()


def cli(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "streamer", *argv]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=100, check=False, **options)
