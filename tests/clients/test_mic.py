"""Claims about a microphone, with a sound system that does as it is told."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from clients import mic
from clients.mic import Device, Level, MicError, Microphone, Source, choose, devices, level, rates, settle
from tests.conftest import ROOT
from tests.portaudio import CAMERA, DEFAULT, FOUND, USB, PortAudioError, Sound


@pytest.fixture
def sd(monkeypatch: pytest.MonkeyPatch) -> Sound:
    sound = Sound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)
    return sound


# Devices.


@pytest.mark.usefixtures("sd")
def test_only_inputs_are_microphones_and_one_is_the_default() -> None:
    assert devices() == list(FOUND)
    assert choose(devices()) == DEFAULT


@pytest.mark.parametrize(
    ("wanted", "device"), [("0", USB), ("desk", USB), ("CAMERA", CAMERA), ("default", DEFAULT), ("5", DEFAULT)]
)
def test_a_device_is_named_by_its_index_or_by_a_part_of_its_name(wanted: str, device: Device) -> None:
    assert choose(FOUND, wanted) == device


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("usb", "device 'usb': several fit, expected one of: 0 USB Audio: Desk Mic, ALSA; 2 USB Camera, ALSA"),
        ("1", "device '1': no such input device, expected one of: 0 USB Audio: Desk Mic, ALSA; 2 USB Camera, ALSA; "
              "5 default, ALSA"),
        ("phone", "device 'phone': no such input device, expected one of: "),
    ],
)  # fmt: skip
def test_a_name_that_fits_none_or_several_is_answered_with_the_candidates(wanted: str, sentence: str) -> None:
    with pytest.raises(MicError) as error:
        choose(FOUND, wanted)
    assert str(error.value).startswith(sentence)


def test_a_device_that_every_host_api_has_is_the_default_apis() -> None:
    twins = (Device(0, "Mic", "MME", 1, 44100, True), Device(3, "Mic", "WASAPI", 1, 48000, False))
    assert choose(twins, "mic").index == 0
    assert choose(twins, "mic, wasapi").index == 3


def test_no_microphone_is_one_sentence() -> None:
    with pytest.raises(MicError, match="no microphone: this machine offers no input device"):
        choose([])


def test_the_package_is_asked_for_when_it_is_needed_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.modules['sounddevice'] = None; import clients.mic, streamer.cli; streamer.cli.parser()"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MicError, match=r"needs sounddevice.*pip install -e '\.\[mic\]'"):
        devices()


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(MicError, match=r"PortAudio library \(PortAudio library not found\): .*libportaudio2"):
        devices()


# Settings.


def wrong_rate(taken: int) -> Callable[[int, int], Exception | None]:
    return lambda rate, _: None if rate == taken else PortAudioError("Invalid sample rate", -9997)


@pytest.mark.usefixtures("sd")
def test_sixteen_kilohertz_mono_is_asked_for_first() -> None:
    assert settle(DEFAULT) == Source(DEFAULT, 16000, 1)


@pytest.mark.parametrize(("device", "rate"), [(DEFAULT, 44100), (USB, 48000), (CAMERA, 8000)])
def test_a_device_of_fixed_rate_is_taken_at_its_own(sd: Sound, device: Device, rate: int) -> None:
    sd.takes = wrong_rate(rate)
    assert settle(device) == Source(device, rate, 1)
    assert rates(device) == [rate]


def test_a_device_without_mono_is_taken_with_its_channels(sd: Sound) -> None:
    sd.takes = lambda _, channels: None if channels == 2 else PortAudioError("Invalid number of channels", -9998)
    assert settle(CAMERA) == Source(CAMERA, 16000, 2)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PortAudioError("Device unavailable", -9985), "microphone 'default': busy, or not yours to use"),
        (PortAudioError("Unanticipated host error", -9999, (0, -13, "Permission denied")), "opened: Permission denied"),
        (PortAudioError("Error querying device -1"), "opened: Error querying device -1"),
    ],
)
def test_a_device_that_cannot_be_opened_is_one_sentence(sd: Sound, error: Exception, sentence: str) -> None:
    sd.takes = lambda _rate, _channels: error
    with pytest.raises(MicError, match=sentence):
        settle(DEFAULT)


def test_a_device_of_no_usable_rate_says_what_was_tried(sd: Sound) -> None:
    sd.takes = wrong_rate(11025)
    with pytest.raises(MicError, match="takes none of 16000, 44100, 48000, 32000, 8000 Hz"):
        settle(DEFAULT)


# Capture.

MONO = Source(DEFAULT, 16000, 1)


async def test_pieces_come_as_they_were_captured_and_end_with_stop(sd: Sound) -> None:
    async with Microphone(MONO) as microphone:
        (stream,) = sd.streams
        assert stream.settings["blocksize"] == 320
        stream.give([1, -2, 32767])
        stream.give([4], overflow=True)
        assert (await anext(microphone)).pcm == np.array([1, -2, 32767], "<i2").tobytes()
        stream.give([5])
        microphone.stop()
        rest = [piece async for piece in microphone]
    assert [(piece.pcm, piece.overflowed) for piece in rest] == [(b"\x04\0", True), (b"\x05\0", False)]
    assert stream.closed


async def test_of_several_channels_the_first_is_heard(sd: Sound) -> None:
    async with Microphone(Source(CAMERA, 16000, 2)) as microphone:
        sd.streams[0].give([[1, 9], [2, 9], [3, 9]])
        assert (await anext(microphone)).pcm == np.array([1, 2, 3], "<i2").tobytes()


async def test_what_nobody_takes_is_dropped_and_counted(sd: Sound) -> None:
    async with Microphone(MONO) as microphone:
        for number in range(503):  # ten seconds are kept
            sd.streams[0].give([number] * 320)
        pieces = [await anext(microphone) for _ in range(500)]
        assert not any(piece.missing for piece in pieces)
        sd.streams[0].give([7] * 320)
        assert (await anext(microphone)).missing == 3 * 320


async def test_a_device_without_callbacks_is_gone(sd: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mic, "START_S", 0.5)
    async with Microphone(MONO) as microphone:
        with pytest.raises(MicError, match=r"'default': gave no audio within 0\.5 s"):
            await anext(microphone)
    async with Microphone(MONO) as microphone:
        sd.streams[1].give([1])
        await anext(microphone)
        sd.on_abort = PortAudioError("it is not there any more", -9996)
        with pytest.raises(MicError, match=r"'default': is gone \(no audio for 1 s\)"):
            await anext(microphone)


async def test_a_stream_that_the_system_ends_is_gone_at_once_after_its_last_piece(sd: Sound) -> None:
    async with Microphone(MONO) as microphone:
        sd.streams[0].give([1])
        sd.streams[0].settings["finished_callback"]()
        await anext(microphone)
        with pytest.raises(MicError, match="the sound system ended it"):
            await anext(microphone)


async def test_a_process_that_stood_still_is_no_device_that_has_gone(sd: Sound) -> None:
    async with Microphone(MONO) as microphone:
        sd.streams[0].give([1])
        await anext(microphone)
        waiting = asyncio.ensure_future(anext(microphone))
        await asyncio.sleep(0)
        time.sleep(1.5)  # the event loop with all its timers: as when the process is stopped
        asyncio.get_running_loop().call_later(0.1, sd.streams[0].give, [2])
        assert (await waiting).pcm == b"\x02\0"


async def test_a_device_that_is_taken_while_we_look_is_one_sentence(sd: Sound) -> None:
    sd.on_open = PortAudioError("Error opening RawInputStream: Device unavailable", -9985)
    with pytest.raises(MicError, match="busy, or not yours to use"):
        async with Microphone(MONO):
            pass


# Level.


@pytest.mark.parametrize(
    ("samples", "peak_db", "rms_db"),
    [
        ([], -math.inf, -math.inf),
        ([0, 0], -math.inf, -math.inf),
        ([-32768] * 4, 0.0, 0.0),
        ([16384, -16384], -6.02, -6.02),
        ([16384, 0, 0, 0], -6.02, -12.04),
    ],
)
def test_levels_are_decibels_of_full_scale(samples: list[int], peak_db: float, rms_db: float) -> None:
    found = level(np.array(samples, "<i2").tobytes())
    assert found == Level(pytest.approx(peak_db, abs=0.01), pytest.approx(rms_db, abs=0.01))
