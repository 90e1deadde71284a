"""Claims about reading recordings: a part of a file is that part of its samples, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamer.encodings import LOUDEST
from streamer.recordings import Part, Recordings, Unreadable


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_part_is_those_samples_of_the_whole(tmp_path: Path, suffix: str) -> None:
    time = np.arange(48000) / 16000
    soundfile.write(tmp_path / f"a.{suffix}", 0.3 * np.sin(2 * np.pi * 300 * time * time), 16000)
    recordings = Recordings(tmp_path)
    whole, part = recordings.read(f"a.{suffix}"), recordings.read(f"a.{suffix}", Part(1.0, 0.5))
    rounding = 2e-6 if suffix in ("ogg", "mp3") else 0.0  # another decoder reads parts of what PyAV reads whole
    np.testing.assert_allclose(part, whole[16000:24000], rtol=0, atol=rounding)


def test_16_bit_numbers_as_floats_are_said_with_the_files_name(tmp_path: Path) -> None:
    for loudest in (LOUDEST, 2 * LOUDEST):
        soundfile.write(tmp_path / "a.wav", np.full((1600, 2), loudest, np.float32), 16000, subtype="FLOAT")
        if loudest == LOUDEST:
            assert Recordings(tmp_path).read("a.wav").max() == loudest
    with pytest.raises(Unreadable, match=r"^a\.wav: got samples up to 32, expected floats within -1\.\.1"):
        Recordings(tmp_path).read("a.wav")


def test_a_file_that_does_not_say_what_it_is_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(3200))
    with pytest.raises(Unreadable, match="not audio that libsndfile reads"):
        Recordings(tmp_path).read("a.raw")
