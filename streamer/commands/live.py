"""`streamer transcribe -`: standard input heard as it comes, cut into segments as the daemon cuts them.

Knows nothing of daemons. The work is done between two reads, so that whoever writes the pipe waits where we are slow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from models.config import FRAME_S, HOP, SAMPLE_RATE
from streamer.backends.base import Row, samples_needed
from streamer.commands import FAILED, OK, TAIL_MS, TERMINATED, USAGE, CommandError, say
from streamer.commands.captions import Captions
from streamer.commands.listening import OFFLINE, Chunks, Heard, open_listener
from streamer.commands.results import Job, line
from streamer.commands.standard_input import NAME, Binary, Incoming, Wanted
from streamer.decoding import Token
from streamer.protocols.events import CHANNELS, Endpointing, Final, Partial
from streamer.subtitles.spoken import Spoken
from streamer.subtitles.writers import open_writer
from streamer.transcript.endpoint import Rules
from streamer.transcript.transcript import Transcript
from streamer.wording import Wording, final

if TYPE_CHECKING:
    from streamer.commands.targets import Targets
    from streamer.subtitles.cues import Style
    from streamer.transcript.utterance import Segment

Samples = NDArray[np.float32]  # [channels, n] at 16 kHz
Event = Partial | Final


def run(args: argparse.Namespace, where: Targets, style: Style) -> int:
    """Hear until the input ends, Ctrl-C or SIGTERM; what was heard is final then."""
    if args.latency == OFFLINE:
        raise CommandError("-: standard input is heard as it comes, --latency offline hears whole files", USAGE)
    if sys.stdin is None or sys.stdin.isatty():
        raise CommandError("-: standard input is a terminal, expected audio: ffmpeg ... | streamer transcribe -", USAGE)
    wanted = Wanted(
        encoding=args.encoding or "auto",
        sample_rate=args.sample_rate or SAMPLE_RATE,
        channels=args.channels or 1,
        apart=args.multichannel,
    )
    tail_ms = args.tail_ms if args.tail_ms is not None else (0 if args.json else TAIL_MS)
    with ExitStack() as stack:
        listener = open_listener(args, tail_ms, slots=(args.channels or CHANNELS[1]) if args.multichannel else 1)
        stack.callback(listener.close)
        assert isinstance(listener, Chunks), "listener: got one of whole files, expected one of chunks"
        voices: Voices | None = None

        def stalled() -> None:
            if voices is not None:
                shown.show(voices.stall())

        incoming = stack.enter_context(Incoming(cast(Binary, sys.stdin.buffer), wanted, stalled))
        for block in incoming:
            if voices is None:  # only now it is known how many channels there are
                voices = Voices(listener, len(block), keep=args.json)
                shown = Shown(args, where, style, len(block))
                stack.callback(shown.close)
            shown.show(voices.feed(block))
            shown.quiet(voices.quiet())
            if voices.error:
                break
        if voices is not None:
            shown.show(voices.end())
            for channel, heard in enumerate(voices.heard):
                job = Job("-", 0, channel if args.multichannel else None)
                print(json.dumps(line(job, heard, voices.duration_s), ensure_ascii=False), flush=True)
    error = incoming.error or (voices and voices.error)
    if error:
        say(f"streamer: {error}")
    if incoming.terminated:
        return TERMINATED
    return FAILED if error else OK


class Voices:
    """All channels of one input through neighbouring slots, in step: blocks in, events out.

    `keep` remembers all words and tokens, for those who want them at the end.
    """

    def __init__(self, listener: Chunks, channels: int, *, keep: bool) -> None:
        self.error: str | None = None
        transcriber = listener.transcriber
        self._backend, self._chunk = transcriber.backend, transcriber.chunk
        config, points = self._backend.config, Endpointing()
        rules = Rules.of_ms(points.silence_ms, points.start_ms, points.max_ms, points.enabled)
        eou = () if config.eou_id is None else (config.eou_id,)
        self._transcripts = [Transcript(listener.speller, rules, self._chunk, eou) for _ in range(channels)]
        self._wordings = [Wording(channel) for channel in range(channels)]
        self.heard = [Heard() for _ in range(channels)] if keep else []
        self._tail = np.zeros((channels, transcriber.tail_ms * SAMPLE_RATE // 1000), np.float32)
        self._held = np.zeros((channels, 0), np.float32)
        self._chunks = 0
        self._samples = 0  # of the input
        self._taken = 0  # of those and of the silence behind them
        self._stalled_at = 0  # of those of the input: what was said until there is final
        for slot in range(channels):
            self._backend.open(slot, transcriber.prompt)

    @property
    def duration_s(self) -> float:
        """Of the audio so far."""
        return self._samples / SAMPLE_RATE

    def feed(self, block: Samples) -> Iterator[Event]:
        """More of the input, [channels, n]."""
        self._samples += block.shape[1]
        yield from self._hear(block)

    def quiet(self) -> Iterator[tuple[int, float]]:
        """The channels in which nothing is being said, and up to which second nothing more will be."""
        for channel, transcript in enumerate(self._transcripts):
            if not transcript.pending:
                yield channel, self._chunks * self._chunk * FRAME_S

    def stall(self) -> Iterator[Event]:
        """The input pauses without a silence: words that wait for one are final, as if silence had come.

        Each slot hears it, and is put back to where it was.
        """
        if self._stalled_at == self._samples and not any(transcript.pending for transcript in self._transcripts):
            return
        self._stalled_at = self._samples
        kept = [self._backend.take(slot) for slot in range(len(self._transcripts))]
        heard, frames = self._ahead(np.concatenate([self._held, self._tail], axis=1))
        for channel, (tokens, transcript) in enumerate(zip(heard, self._transcripts, strict=True)):
            self._backend.put(channel, kept[channel])
            transcript.ahead(tokens, frames)
            yield from self._finals(channel, [transcript.cut(self._samples)] if transcript.pending else [], "stall")

    def _ahead(self, rest: Samples) -> tuple[list[list[Token]], int]:
        """The tokens that come out of each slot if this is all that follows, and up to which frame that is."""
        said: list[list[Token]] = [[] for _ in rest]
        frames = self._backend.config.encoder_frames((self._taken + rest.shape[1]) // HOP)
        chunks, last, at_once = self._chunks, False, self._backend.most_chunks(self._chunk)
        while not last:
            needed = samples_needed(chunks, self._chunk, at_once)
            piece, rest = rest[:, :needed], rest[:, needed:]
            chunks, last = chunks + at_once, piece.shape[1] < needed
            rows = [Row(slot, np.ascontiguousarray(row), last) for slot, row in enumerate(piece)]
            results = self._backend.collect(self._backend.launch(self._chunk, rows, at_once))
            for tokens, heard in zip(said, results, strict=True):
                tokens += [] if isinstance(heard, Exception) else heard
            last |= any(isinstance(heard, Exception) for heard in results)  # the input itself will meet it too
        return said, frames

    def end(self) -> Iterator[Event]:
        """No more comes: the last words."""
        for transcript in self._transcripts:
            transcript.end(self._samples)
        yield from self._hear(self._tail)
        if self.error is None:
            yield from self._step(self._held, last=True)
        last = [
            event
            for channel, transcript in enumerate(self._transcripts)
            for event in self._finals(channel, [transcript.cut(self._samples)], "close")
        ]
        yield from sorted(last, key=lambda event: event.start)

    def _hear(self, block: Samples) -> Iterator[Event]:
        self._held = np.concatenate([self._held, block], axis=1)
        while self.error is None and self._held.shape[1] >= (needed := samples_needed(self._chunks, self._chunk)):
            piece, self._held = self._held[:, :needed], self._held[:, needed:]
            yield from self._step(piece, last=False)

    def _step(self, piece: Samples, *, last: bool) -> Iterator[Event]:
        self._taken += piece.shape[1]
        self._chunks += 1
        frames = self._backend.config.encoder_frames(self._taken // HOP) if last else self._chunks * self._chunk
        rows = [Row(slot, np.ascontiguousarray(row), last) for slot, row in enumerate(piece)]
        for channel, heard in enumerate(self._backend.collect(self._backend.launch(self._chunk, rows))):
            if isinstance(heard, Exception):
                self.error = f"{NAME}: {heard}"
                continue
            if self.heard:
                self.heard[channel].tokens += heard
            transcript = self._transcripts[channel]
            yield from self._finals(channel, transcript.hear(heard, frames), "endpoint")
            if heard and not last and (partial := self._wordings[channel].partial(transcript.draft())):
                yield partial

    def _finals(self, channel: int, segments: Sequence[Segment], reason: str) -> Iterator[Final]:
        for segment in segments:
            if self.heard:
                self.heard[channel].words += segment.words
            if segment.words:
                yield final(segment, reason, channel)


class Shown:
    """Where events go: captions on a terminal, text in a pipe, a file of any kind."""

    def __init__(self, args: argparse.Namespace, where: Targets, style: Style, channels: int) -> None:
        self._stack = ExitStack()
        self._captions: Captions | None = None
        self._spoken: Spoken | None = None
        to_stdout = where.paths is None and (where.kind is not None or not sys.stdout.isatty())
        if args.json:
            return
        if sys.stdout.isatty() and not to_stdout:
            self._captions = self._stack.enter_context(Captions())
        if where.paths or to_stdout:
            target = where.paths[0] if where.paths else sys.stdout
            writer = open_writer(
                target,
                where.kind or "txt",
                name=args.files[0],
                style=style,
                channels=channels,
                overwrite=where.overwrite,
            )
            self._spoken = Spoken(self._stack.enter_context(writer))

    def close(self) -> None:
        """What waited is written; the terminal is as it was."""
        self._stack.close()

    def show(self, events: Iterable[Event]) -> None:
        """What is said, in the order in which it comes."""
        for event in events:
            if self._captions is not None:
                self._captions.show(event)
            match event:
                case Partial() if self._spoken is not None:
                    self._spoken.partial(event)
                case Final() if self._spoken is not None:
                    self._spoken.final(event)

    def quiet(self, channels: Iterable[tuple[int, float]]) -> None:
        """Nothing is said in these channels up to these seconds."""
        if self._spoken is not None:
            for channel, until_s in channels:
                self._spoken.writer.heard(until_s, channel)
