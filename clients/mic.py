"""A microphone through PortAudio: devices, rates, pieces of audio, level, loss. Knows no daemon and no command line.

    source = settle(choose(devices()))            # 16 kHz where the device can, else its own rate
    async with Microphone(source) as microphone:
        async for piece in microphone:            # 20 ms each; MicError when the device has gone
            ...
        # microphone.stop() from anywhere: what was captured still comes, then the pieces end

The package sounddevice (the extra `mic`) is imported when it is needed: importing it starts PortAudio, which looks at
the environment (PULSE_SERVER, XDG_RUNTIME_DIR) at that moment and never again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from streamer.protocols.events import SAMPLE_RATES

PREFERRED_RATE = 16000  # hertz; what the models hear, so that nobody resamples
OTHER_RATES = (48000, 44100, 32000, 8000)  # for a device whose default the wire has no room for
LISTED_RATES = (8000, 16000, 32000, 44100, 48000)
PIECE_S = 0.02
QUEUE_S = 10.0  # captured and not yet taken; beyond it audio is dropped and counted
SILENT_S = 1.0  # no callback for so long: the device has gone. PortAudio itself often does not notice
START_S = 5.0  # the first one may take longer: Bluetooth wakes up
SLICE_S = 0.25  # of these; a process that was stopped for an hour counts as one slice
_FULL_SCALE = 32768.0
_UNAVAILABLE, _BAD_RATE, _BAD_CHANNELS = -9985, -9997, -9998  # PaErrorCode


class MicError(Exception):
    """There is no audio from a microphone; the text says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Device:
    """One input device as PortAudio tells of it."""

    index: int
    name: str
    api: str
    """The host API: ALSA, Core Audio, MME, ..."""
    channels: int
    rate: int
    """Hertz, its default."""
    default: bool

    def __str__(self) -> str:
        return f"{self.index} {self.name}, {self.api}"


@dataclass(frozen=True, slots=True)
class Source:
    """A device with the settings it takes. Of several channels the first is heard: a mix would halve a lone voice."""

    device: Device
    rate: int
    channels: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Audio as it came."""

    pcm: bytes
    """Mono, 16 bit, little-endian."""
    missing: int = 0
    """Samples before it that nobody took in time and that are dropped."""
    overflowed: bool = False
    """The device lost audio before it; how much it does not say."""


@dataclass(frozen=True, slots=True)
class Level:
    """How loud a piece is, in dBFS: 0 is full scale, silence is minus infinity."""

    peak_db: float
    rms_db: float


def level(pcm: bytes) -> Level:
    """The level of mono 16 bit little-endian samples; of none it is silence."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64) / _FULL_SCALE
    if not len(samples):
        return Level(-math.inf, -math.inf)
    return Level(_db(float(np.abs(samples).max())), _db(float(np.sqrt(np.mean(samples**2)))))


def _db(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf


def devices() -> list[Device]:
    """Every input device, in PortAudio's order. Raises MicError where PortAudio itself is missing."""
    sd = _sounddevice()
    try:
        apis, default = sd.query_hostapis(), sd.default.device[0]
        return [
            Device(
                index=found["index"],
                name=found["name"],
                api=apis[found["hostapi"]]["name"],
                channels=found["max_input_channels"],
                rate=round(found["default_samplerate"]),
                default=found["index"] == default,
            )
            for found in sd.query_devices()
            if found["max_input_channels"] > 0
        ]
    except sd.PortAudioError as error:
        raise MicError(f"the audio devices cannot be listed: {_reason(error)}") from None


def choose(found: Sequence[Device], wanted: str | None = None) -> Device:
    """The default device, the one with this index, or the only one with this in its name (in any case)."""
    if not found:
        raise MicError("no microphone: this machine offers no input device (or its sound server is not reached)")
    if wanted is None:
        fitting = [device for device in found if device.default] or list(found[:1])
    elif wanted.isascii() and wanted.isdigit():
        fitting = [device for device in found if device.index == int(wanted)]
    else:
        fitting = _named(found, wanted.casefold())
    if len(fitting) == 1:
        return fitting[0]
    got = "several fit, expected one of" if fitting else "no such input device, expected one of"
    raise MicError(f"device {wanted!r}: {got}: {'; '.join(map(str, fitting or found))}")


def _named(found: Sequence[Device], wanted: str) -> list[Device]:
    fitting = [device for device in found if wanted in f"{device.name}, {device.api}".casefold()]
    exact = [device for device in fitting if device.name.casefold() == wanted] or fitting
    ours = {device.api for device in found if device.default}  # Windows has every device once for each host API
    return [device for device in exact if device.api in ours] if _same_name(exact) else exact


def _same_name(found: Sequence[Device]) -> bool:
    return len(found) > 1 and len({device.name for device in found}) == 1


def settle(device: Device) -> Source:
    """The first settings that the device takes: 16 kHz before its own rate, one channel before all."""
    sd = _sounddevice()
    why: Exception | None = None
    for rate in _wanted_rates(device):
        for channels in dict.fromkeys((1, min(2, device.channels), device.channels)):
            try:
                sd.check_input_settings(device=device.index, channels=channels, dtype="int16", samplerate=rate)
            except sd.PortAudioError as error:
                if _code(error) not in (_BAD_RATE, _BAD_CHANNELS):
                    raise MicError(_sentence(device, error)) from None
                why = error
            else:
                return Source(device, rate, channels)
    assert why is not None
    tried = ", ".join(map(str, _wanted_rates(device)))
    raise MicError(f"microphone {device.name!r}: takes none of {tried} Hz as 16 bit samples ({_reason(why)})")


def _wanted_rates(device: Device) -> list[int]:
    lowest, highest = SAMPLE_RATES
    wanted = (PREFERRED_RATE, device.rate, *OTHER_RATES)
    return [rate for rate in dict.fromkeys(wanted) if lowest <= rate <= highest]


def rates(device: Device) -> list[int]:
    """Which of the common rates the device takes; none while another program holds it."""
    sd, taken = _sounddevice(), []
    for rate in LISTED_RATES:
        with contextlib.suppress(sd.PortAudioError):
            sd.check_input_settings(device=device.index, dtype="int16", samplerate=rate)
            taken.append(rate)
    return taken


class Microphone:
    """Captures while its context lasts; iterate over it for pieces, from one task."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._pieces: deque[Piece] = deque()  # raw, of all channels
        self._most = round(QUEUE_S / PIECE_S)
        self._missing = 0  # frames dropped since the last piece that found room
        self._began = self._ended = self._stopped = False
        self._stream: Any = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        sd, source = _sounddevice(), self.source
        try:
            self._stream = sd.RawInputStream(
                device=source.device.index,
                channels=source.channels,
                samplerate=source.rate,
                dtype="int16",
                blocksize=round(PIECE_S * source.rate),
                callback=self._captured,
                finished_callback=self._finished,
            )
            self._stream.start()
        except sd.PortAudioError as error:
            self._close()
            raise MicError(_sentence(source.device, error)) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Capture no more. What was captured still comes, then the pieces end."""
        self._stopped = True
        self._close()
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        slices = 0
        while not self._pieces:
            if self._stopped:
                raise StopAsyncIteration
            silent_s = SILENT_S if self._began else START_S
            if self._ended or slices * SLICE_S >= silent_s:
                raise MicError(self._gone(silent_s))
            slices += 1 - await self._news_within(SLICE_S)
        piece = self._pieces.popleft()
        samples = np.frombuffer(piece.pcm, np.int16).reshape(-1, self.source.channels)[:, 0]
        return Piece(samples.astype("<i2").tobytes(), piece.missing, piece.overflowed)

    async def _news_within(self, seconds: float) -> bool:
        self._news.clear()
        if self._pieces:  # came while we looked away; its news may have been cleared
            return True
        try:
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        except TimeoutError:
            return False

    def _gone(self, silent_s: float) -> str:
        name = f"microphone {self.source.device.name!r}"
        if not self._began and not self._ended:
            return f"{name}: gave no audio within {silent_s:g} s"
        why = "the sound system ended it" if self._ended else f"no audio for {silent_s:g} s"
        return f"{name}: is gone ({why}): unplugged, or taken away by the system"

    # On PortAudio's thread: nothing here may wait.

    def _captured(self, data: Any, frames: int, _time: Any, status: Any) -> None:
        self._began = True
        if len(self._pieces) < self._most:
            self._pieces.append(Piece(bytes(data), self._missing, bool(status.input_overflow)))
            self._missing = 0
        else:
            self._missing += frames
        self._wake()

    def _finished(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed already
            self._loop.call_soon_threadsafe(self._news.set)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            sd = _sounddevice()
            with contextlib.suppress(sd.PortAudioError):  # a device that has gone
                stream.abort()
            with contextlib.suppress(sd.PortAudioError):
                stream.close()


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ModuleNotFoundError:
        how = "add the extra mic in the clone: .venv/bin/pip install -e '.[mic]'"
        raise MicError(f"the microphone needs sounddevice, which is not installed: {how}") from None
    except OSError as error:  # its library; the wheels for macOS and Windows bring their own
        how = "install it: apt-get install libportaudio2 on Debian and Ubuntu, brew install portaudio on macOS"
        raise MicError(f"the microphone needs the PortAudio library ({error}): {how}") from None
    except Exception as error:  # PortAudioError: the failed import leaves no name for it
        raise MicError(f"the sound system cannot be used: {_reason(error)}") from None
    return sounddevice


def _sentence(device: Device, error: Exception) -> str:
    name = f"microphone {device.name!r}"
    if _code(error) == _UNAVAILABLE:
        return f"{name}: busy, or not yours to use: another program has it, or the system does not let this one"
    return f"{name}: cannot be opened: {_reason(error)}"


def _code(error: Exception) -> int | None:
    return error.args[1] if len(error.args) > 1 else None


def _reason(error: Exception) -> str:
    """PortAudio's words, the host's own where it has some."""
    host = error.args[2][2] if len(error.args) > 2 else ""
    return host or str(error.args[0] if error.args else error)
