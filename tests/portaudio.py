"""A sound system that does as it is told, in the place of the package sounddevice."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from clients.mic import Device

USB = Device(0, "USB Audio: Desk Mic", "ALSA", 1, 48000, False)
CAMERA = Device(2, "USB Camera", "ALSA", 2, 16000, False)
DEFAULT = Device(5, "default", "ALSA", 32, 44100, True)
FOUND = (USB, CAMERA, DEFAULT)


class PortAudioError(Exception):
    pass


class Stream:
    """A stream whose callbacks the test makes."""

    def __init__(self, sd: Sound, **settings: Any) -> None:
        self.settings, self.sd, self.closed = settings, sd, False
        if sd.on_open is not None:
            raise sd.on_open
        sd.streams.append(self)

    def start(self) -> None:
        self.sd.on_start(self)

    def abort(self) -> None:
        if self.sd.on_abort is not None:
            raise self.sd.on_abort

    def close(self) -> None:
        self.closed = True

    def give(self, samples: Any, overflow: bool = False) -> None:
        pcm = np.asarray(samples, np.int16)
        self.settings["callback"](pcm.tobytes(), len(pcm), None, SimpleNamespace(input_overflow=overflow))


class Sound:
    """What we use of the package sounddevice."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.on_start: Callable[[Stream], None] = lambda _stream: None
        self.on_open: Exception | None = None
        self.on_abort: Exception | None = None
        self.takes: Callable[[int, int], Exception | None] = lambda _rate, _channels: None
        self.default = SimpleNamespace(device=(5, 5))

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def query_devices(self) -> list[dict[str, Any]]:
        def raw(index: int, name: str, channels: int, rate: float) -> dict[str, Any]:
            return {
                "index": index, "name": name, "hostapi": 0, "max_input_channels": channels, "default_samplerate": rate
            }  # fmt: skip

        speakers = raw(1, "Speakers", 0, 48000.0)
        return [raw(0, USB.name, 1, 48000.0), speakers, raw(2, CAMERA.name, 2, 16000.0), raw(5, "default", 32, 44100.0)]

    def check_input_settings(self, device: int, samplerate: int, dtype: str, channels: int = 1) -> None:
        assert dtype == "int16"
        assert device != 1
        if (error := self.takes(samplerate, channels)) is not None:
            raise error

    def RawInputStream(self, **settings: Any) -> Stream:
        return Stream(self, **settings)
