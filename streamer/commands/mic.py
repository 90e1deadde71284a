"""`streamer mic`: a microphone through a daemon, or through the model in this process, captions as one speaks."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from streamer.commands import DEFAULT_BACKEND, FAILED, OK, USAGE, CommandError, add_model_flags, command, say
from streamer.engine.machine import processors

if TYPE_CHECKING:
    from clients.client import Client
    from clients.mic import Microphone, Source
    from clients.relay import Relay, RelayEvent
    from streamer.commands.captions import Captions
    from streamer.commands.meter import Meter
    from streamer.commands.saving import Saves

DEFAULT_URL = "ws://127.0.0.1:9000"
FINAL_S = 30.0  # after the end of the capture: the daemon's time to say the rest
REDRAW_S = 0.08  # of audio, between two looks of the level
SILENCE_SAMPLES = 16_000
INTERRUPTED = 130
OF_THE_MODEL = {"model": "", "precision": "fp32", "backend": None, "threads": None}  # flags that --local gives a use


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "mic",
        "captions of what you say, until Ctrl-C",
        """
        streamer mic
        streamer mic --list
        streamer mic --device usb --latency 160 --save talk.wav --save talk.srt
        streamer mic --room lecture
        streamer mic --local --model nemotron.nemo
        streamer mic --json | jq -r 'select(.type == "final").text'
        """,
    )
    parser.add_argument("--list", action="store_true", help="the microphones there are, then stop")
    parser.add_argument("--device", metavar="D", help="index or part of the name (default: the system's)")
    parser.add_argument("--url", help=f"the daemon (default: {DEFAULT_URL})")
    parser.add_argument("--key", default=os.environ.get("STREAMER_KEY"), help="API key (default: $STREAMER_KEY)")
    parser.add_argument("--room", metavar="NAME", help="what is said goes to this room's viewers too: /watch/NAME")
    parser.add_argument("--local", action="store_true", help="no daemon: the model runs in this process")
    parser.add_argument(
        "--save",
        action="append",
        default=[],
        metavar="FILE",
        help="keep the audio (.wav, 16 bit, as captured) or the words (.txt, .srt, .vtt, .ctm, .jsonl); several times",
    )
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    parser.add_argument("--json", action="store_true", help="every event as one JSON object a line")
    add_model_flags(parser, live=True)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Settle everything that can be wrong, then listen until Ctrl-C."""
    with _libraries_hushed():
        if args.list:
            return _list()
        _check(args)
        return _listen(args)


def _listen(args: argparse.Namespace) -> int:
    from clients import mic
    from streamer.commands.saving import Saves

    source = mic.settle(mic.choose(mic.devices(), args.device))
    saves = Saves(args.save, source.rate, overwrite=args.force)
    with _server(args) as (url, key, check):
        code = asyncio.run(_Listening(args, source, saves).run(url, key, check))
    return FAILED if saves.failed else code


def _list() -> int:
    from clients import mic

    found = mic.devices()
    mic.choose(found)  # none is said in words
    for device in found:
        rates = ", ".join(map(str, mic.rates(device))) or "none of the common rates now: busy?"
        print(f"{'*' if device.default else ' '} {device.index:3d}  {device.name}  [{device.api}]")
        channels = f"{device.channels} channel{'s' * (device.channels != 1)}"
        print(f"       {channels}, {device.rate} Hz by default; takes {rates}")
    say("\n* is the default; --device takes the index or a part of the name")
    return OK


def _check(args: argparse.Namespace) -> None:
    if args.latency is not None and not (args.latency.isascii() and args.latency.isdigit() and int(args.latency)):
        raise CommandError(f"--latency {args.latency}: expected one of the model's, in milliseconds", USAGE)
    if args.local and args.url is not None:
        raise CommandError("--url: the model runs in this process; expected without --local", USAGE)
    if args.local and args.room is not None:
        raise CommandError("--room: viewers come to a daemon; expected without --local", USAGE)
    if not args.local:
        idle = [f"--{name}" for name, default in OF_THE_MODEL.items() if getattr(args, name) != default]
        if idle:
            raise CommandError(f"{', '.join(idle)}: the daemon has its model; expected with --local only", USAGE)


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[tuple[str, str | None, Callable[[], None]]]:
    """Whom to talk to, the key, and what raises if it cannot come back: the daemon, or our own while this lasts."""
    if not args.local:
        yield args.url or DEFAULT_URL, args.key, lambda: None
        return
    from streamer import artefacts
    from streamer.commands.local import LocalDaemon

    path = artefacts.resolve(args.model, args.backend or DEFAULT_BACKEND, args.precision)
    with LocalDaemon(args.backend or DEFAULT_BACKEND, path, args.threads or processors()) as daemon:
        yield daemon.url, daemon.key, daemon.check


class _Listening:
    """One capture from its first sample to its last word."""

    def __init__(self, args: argparse.Namespace, source: Source, saves: Saves) -> None:
        from clients.mic import Microphone
        from streamer.commands.captions import Captions
        from streamer.commands.meter import Meter

        self._args, self._source, self._saves = args, source, saves
        self._microphone: Microphone = Microphone(source)
        self._meter: Meter = Meter(source.rate)
        self._captions: Captions = Captions(in_place=not args.json, footer=self._meter.line)
        self._failed = False
        self._away = False
        self._overflows = 0

    async def run(self, url: str, key: str | None, check: Callable[[], None]) -> int:
        """Connect, capture, show; the exit code."""
        from clients.client import Client, Options
        from clients.relay import HEARTBEAT_S, Relay
        from streamer.commands.meter import spoken
        from streamer.commands.stream import reaching

        asked = self._args
        latency = int(asked.latency) if asked.latency else None
        options = Options(sample_rate=self._source.rate, latency_ms=latency, language=asked.language, room=asked.room)

        async def connected() -> Client:
            check()
            client = Client(url, options, key, heartbeat_s=HEARTBEAT_S)
            await client.connect()
            return client

        with reaching(url):
            first = await connected()
        self._say_where("in this process" if asked.local else f"at {url}", first)
        relay = Relay(connected, self._source.rate)
        async with self._microphone:
            with self._saves, self._captions, _told_to_end(self._end, self._leave):
                await self._hear(relay, first)
        say(f"captured    {self._meter.seconds:.1f} s, {spoken(self._meter.overall)}")
        if self._overflows:
            say(f"streamer: the device lost audio {self._overflows} times: the machine was too busy")
        return FAILED if self._failed else OK

    async def _hear(self, relay: Relay, first: Client) -> None:
        """Show events while a task of its own captures."""
        deadline = asyncio.timeout(None)
        capture = asyncio.create_task(self._capture(relay, deadline))
        try:
            async with deadline, contextlib.aclosing(relay.events(first)) as said:
                async for event in said:
                    self._show(event)
        except TimeoutError:
            say(f"streamer: the daemon did not say the rest within {FINAL_S:g} s")
            self._failed = True
        finally:
            self._microphone.stop()
            if capture in (await asyncio.wait([capture], timeout=FINAL_S))[0]:
                capture.result()

    async def _capture(self, relay: Relay, deadline: asyncio.Timeout) -> None:
        """From the microphone to all that wants its audio; then only the rest is waited for."""
        from clients.mic import MicError

        drawn_s = 0.0
        try:
            async for piece in self._microphone:
                if piece.missing:
                    lost_s = piece.missing / self._source.rate
                    self._notice(f"{lost_s:.1f} s of audio were lost: nobody took them in time")
                self._overflows += piece.overflowed
                for pcm in (*_silence(piece.missing), piece.pcm):
                    self._saves.audio(pcm)
                    relay.feed(pcm)
                if self._meter.take(piece.pcm):
                    self._notice("only silence comes: is the microphone muted, or another one meant?")
                if self._meter.seconds >= drawn_s + REDRAW_S:
                    drawn_s = self._meter.seconds
                    self._captions.refresh()
        except MicError as error:
            self._notice(str(error))
            self._failed = True
        finally:
            relay.finish()
            with contextlib.suppress(RuntimeError):  # nothing is waited for any more
                deadline.reschedule(asyncio.get_running_loop().time() + FINAL_S)

    # What is seen.

    def _show(self, event: RelayEvent) -> None:
        from clients.relay import Away, Lost
        from streamer.protocols.events import Final, Partial, Ready

        if self._args.json:
            _print_json(event)
        match event:
            case Away():
                if not self._away:
                    self._notice(f"{event.reason}; trying again until the daemon is back")
                self._away = True
                self._meter.note = "no daemon: trying again"
                return
            case Ready() if self._away:
                self._notice("the daemon is back")
                self._away, self._meter.note = False, ""
            case Lost():
                gap = f"[{event.end - event.start:.1f} s not heard]"
                self._failed = True
                self._saves.unheard(event.start, event.end, gap)
                if not self._args.json:
                    self._captions.line(event.start, event.end, gap)
                return
            case Partial():
                self._saves.partial(event)
            case Final():
                self._saves.final(event)
        if not self._args.json:
            self._captions.show(event)

    def _say_where(self, where: str, first: Client) -> None:
        source = self._source
        heard = f", the first of {source.channels} channels" if source.channels > 1 else ""
        say(f"microphone  {source.device.name}, {source.rate} Hz{heard}")
        if first.ready is not None:
            say(f"model       {first.ready.model} {where}, {first.ready.latency_ms} ms; Ctrl-C finishes\n")

    def _notice(self, text: str) -> None:
        say(f"streamer: {text}")

    # How it ends.

    def _end(self) -> None:
        """Told to: no more is captured, all that was is still heard."""
        self._microphone.stop()
        self._meter.note = "finishing; Ctrl-C again leaves at once"

    def _leave(self) -> None:
        """Told again: at once, with the terminal and the files as they should be."""
        with contextlib.suppress(Exception):
            self._captions.stop()
        with contextlib.suppress(Exception):
            self._saves.close()
        os._exit(INTERRUPTED)


@contextlib.contextmanager
def _told_to_end(end: Callable[[], None], leave: Callable[[], None]) -> Iterator[None]:
    """While it lasts Ctrl-C and SIGTERM call `end` on the event loop, and a second one calls `leave` right there."""
    if threading.current_thread() is not threading.main_thread():  # only there Python hears of signals
        yield
        return
    loop, told = asyncio.get_running_loop(), False

    def heed(*_: object) -> None:
        nonlocal told
        if told:
            leave()
        told = True
        loop.call_soon_threadsafe(end)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, heed) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _silence(samples: int) -> Iterator[bytes]:
    """In the place of samples that are missing, so that the times stay true; bounded pieces of it."""
    for at in range(0, samples, SILENCE_SAMPLES):
        yield bytes(2 * min(SILENCE_SAMPLES, samples - at))


@contextlib.contextmanager
def _libraries_hushed() -> Iterator[None]:
    """While it lasts only Python writes to stderr: PortAudio and ALSA write lines of C there when a device goes."""
    if os.environ.get("STREAMER_DEBUG"):
        yield
        return
    before, real = sys.stderr, os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with contextlib.ExitStack() as stack:
            if _is_second(before):
                sys.stderr = stack.enter_context(os.fdopen(os.dup(real), "w", 1, before.encoding, before.errors))
            os.dup2(nowhere, 2)
            try:
                yield
            finally:
                os.dup2(real, 2)
                sys.stderr = before
    finally:
        os.close(nowhere)
        os.close(real)


def _is_second(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 2)
    except (OSError, AttributeError):  # a test's, or somebody's own
        return False


def _print_json(event: RelayEvent) -> None:
    fields = {"type": type(event).__name__.lower()} | dataclasses.asdict(event)
    print(json.dumps(fields, ensure_ascii=False), flush=True)
