"""The README's program runs as it is printed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.served import served

RATE = 48000


async def microphone() -> AsyncIterator[bytes]:
    """A second of a tone."""
    tone = (6000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype("<i2").tobytes()
    for at in range(0, len(tone), 7000):
        yield tone[at : at + 7000]


async def test_the_program_of_the_readme_prints_finals(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    async with served() as url:
        here = program.replace("ws://127.0.0.1:9000", url)
        assert here != program
        await asyncio.to_thread(exec, here, {"microphone": microphone})
    last = capsys.readouterr().out.split("\r")[-1]
    assert re.fullmatch(r"( +\d+\.\d\d  \w+\n)+", last)
