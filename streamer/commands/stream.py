"""`streamer stream`: recordings through a running daemon, captions as they come."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streamer.commands import DEFAULT_LATENCY, FAILED, OK, USAGE, CommandError, command, say, whole

if TYPE_CHECKING:
    from clients.client import Client, Options
    from clients.send import Encoded, Recording
    from streamer.protocols.events import ServerEvent


def add(commands: Any) -> None:
    """The flags of the command."""
    parser = command(
        commands,
        "stream",
        "a file through a running daemon, as if it was spoken now",
        """
        streamer stream talk.flac
        streamer stream --latency 160 --url ws://speech.example:9000 talk.wav
        streamer stream --fast --json talk.wav | jq -r 'select(.type == "final").text'
        streamer stream --multichannel call.wav              # both sides of a call, each by itself
        streamer stream --as-is talk.webm                    # the daemon decodes
        """,
    )
    parser.add_argument("--url", default="ws://127.0.0.1:9000", help="the daemon (default: %(default)s)")
    parser.add_argument("--key", default=os.environ.get("STREAMER_KEY"), help="API key (default: $STREAMER_KEY)")
    parser.add_argument(
        "--latency",
        type=whole(1),
        metavar="MS",
        help=f"one of the model's latencies (default: the daemon's, if it was told none {DEFAULT_LATENCY})",
    )
    parser.add_argument("--language", metavar="L", help="for models with prompts")
    parser.add_argument("--fast", action="store_true", help="as fast as the daemon takes it, not at the pace of speech")
    parser.add_argument(
        "--multichannel", action="store_true", help="each channel by itself, not their mean; each takes a place"
    )
    parser.add_argument(
        "--as-is",
        action="store_true",
        help="the file's own bytes, for the daemon to decode (WebM, Ogg, FLAC, MP3, MP4, WAV), as fast as it goes",
    )
    parser.add_argument("--room", metavar="NAME", help="what is said goes to this room's viewers too: /watch/NAME")
    parser.add_argument("--json", action="store_true", help="every event as one JSON object a line")
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="any file libsndfile reads; with --as-is any the daemon decodes"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stream the files one after the other."""
    from clients.send import NotAudio, read, read_encoded

    code = OK
    for name in args.files:
        try:
            recording = read_encoded(name) if args.as_is else read(name)
        except NotAudio as error:
            say(f"streamer: {error}")
            code = FAILED
            continue
        if len(args.files) > 1 and not args.json:
            print(f"{name}:", flush=True)
        code = max(code, asyncio.run(_stream(args, name, recording)))
    return code


async def _stream(args: argparse.Namespace, name: str, recording: Recording | Encoded) -> int:
    from clients.send import send
    from streamer.commands.captions import Captions
    from streamer.protocols.events import Error, Final

    client = await _connect(args, recording)
    failed = False
    sender = asyncio.create_task(send(client, recording, fast=args.fast))
    try:
        with Captions(in_place=not args.json, title=name if len(args.files) > 1 else "") as captions:
            async for event in client:
                failed |= isinstance(event, Error)
                if args.json:
                    _print_json(event)
                elif args.multichannel and isinstance(event, Final) and event.words:
                    captions.line(event.start, event.end, f"[{event.channel + 1}] {event.text}")
                else:
                    captions.show(event)
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)
        await client.abort()
    return FAILED if failed else OK


async def _connect(args: argparse.Namespace, recording: Recording | Encoded) -> Client:
    from clients.client import Client

    with reaching(args.url):
        client = Client(args.url, _options(args, recording), key=args.key)
        await client.connect()
    return client


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """What keeps us from a stream of the daemon is said with what to do about it: CommandError."""
    import ssl

    from clients.client import StreamError

    try:
        yield
    except StreamError as error:
        raise CommandError(str(error), USAGE if error.code == "bad_request" else FAILED) from None
    except ssl.SSLError as error:  # an OSError too, but there is somebody
        reason = getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()
        raise CommandError(f"TLS to {url} failed: {reason}") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
        advice = "start one: streamer serve" if "://" in url else "expected ws://HOST:PORT"
        raise CommandError(f"no daemon at {_tried(url)} ({reason}); {advice}") from None


def _tried(url: str) -> str:
    """The address that was tried for this one, its path and what is asked for left out."""
    from clients.client import Options, stream_url

    parts = urlsplit(stream_url(url, Options()))
    return f"{parts.scheme}://{parts.netloc}"


def _options(args: argparse.Namespace, recording: Recording | Encoded) -> Options:
    from clients.client import Options

    return Options(
        sample_rate=recording.rate,
        encoding=recording.encoding,
        channels=recording.channels if args.multichannel or not args.as_is else None,
        multichannel=args.multichannel or None,
        latency_ms=args.latency,
        language=args.language,
        room=args.room,
    )


def _print_json(event: ServerEvent) -> None:
    fields = {"type": type(event).__name__.lower()} | dataclasses.asdict(event)
    print(json.dumps(fields, ensure_ascii=False), flush=True)
