"""What a server with these options offers: latencies, languages, limits, who may come in. Knows no socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamer
from models.config import ConfigError, ModelConfig
from streamer import auth
from streamer.config import Config
from streamer.engine import machine
from streamer.engine.results import EngineSettings
from streamer.errors import Refusal
from streamer.protocols.events import Endpointing
from streamer.protocols.native import Offer
from streamer.session import SessionSettings

PREFERRED_LATENCY_MS = 560
AUTOMATIC = 0  # of engine.slots
MEMORY_SHARE = 0.5  # of the memory that is free at the start: for the states of streams
MOST_STREAMS = 1024  # of one process on CPUs, unless somebody asks for more
LEAST_SLOTS = 16  # of an engine, where several share them
MOST_LANES = 8  # engines in one Python: a fifth of a step, or more, is work that only one thread does at a time
MOST_ON_DEVICE = 32  # whose memory is taken at once
STEPS_HERE = "ort"  # the backend whose steps take this machine's processors, side by side
IN_MAIN_MEMORY = ("ort", "fake")


def offer(config: Config, model: ModelConfig) -> Offer:
    """What clients can ask of this model, and what they get when they ask for nothing."""
    if not model.latencies_ms:
        raise Refusal("model.path", model.name, "a streaming model: this one needs the whole recording")
    latency_ms = config.model.latency_ms
    if not latency_ms:
        latency_ms = PREFERRED_LATENCY_MS if PREFERRED_LATENCY_MS in model.latencies_ms else model.latencies_ms[0]
    if latency_ms not in model.latencies_ms:
        named = ", ".join(map(str, sorted(model.latencies_ms)))
        raise Refusal("model.latency_ms", latency_ms, f"one of the model's: {named}")
    try:
        model.prompt_index(config.model.language or None)
    except ConfigError as error:
        raise Refusal("model.language", config.model.language, error.expected) from None
    endpoint = config.endpoint
    return Offer(
        latencies_ms=model.latencies_ms,
        latency_ms=latency_ms,
        languages=tuple(language for language, _ in model.prompts),
        language=config.model.language or None,
        endpointing=Endpointing(
            enabled=endpoint.enabled, silence_ms=endpoint.silence_ms, start_ms=endpoint.start_ms, max_ms=endpoint.max_ms
        ),
    )


def session_settings(config: Config) -> SessionSettings:
    """The session's part of the options."""
    own = config.session
    return SessionSettings(
        tail_ms=own.tail_ms,
        stall_ms=own.stall_ms,
        idle_s=own.idle_s,
        max_session_s=own.max_session_s,
        max_message_bytes=config.server.max_message_bytes,
    )


def engine_settings(config: Config) -> EngineSettings:
    """The engine's part of the options."""
    own = config.engine
    automatic = own.slots == AUTOMATIC and config.model.backend in IN_MAIN_MEMORY
    free = machine.free_bytes() if automatic else None
    return EngineSettings(
        budget_s=own.budget_ms / 1000,
        max_load=own.max_load,
        capacity_file=own.capacity_file,
        lanes=lanes(config),
        threads=threads(config),
        processors=machine.processors() if config.model.backend == STEPS_HERE else 0,
        memory_bytes=None if free is None else int(MEMORY_SHARE * free),
    )


def threads(config: Config) -> int:
    """Threads of one step: one where engines can work side by side, unless there are more processors than engines, or
    somebody asks for more."""
    if config.model.backend != STEPS_HERE:
        return config.model.threads or machine.processors()
    return config.model.threads or max(1, machine.processors() // MOST_LANES)


def lanes(config: Config) -> int:
    """Engines side by side: each with room for some streams, for one slot of each is kept for copies."""
    if config.model.backend != STEPS_HERE:
        return 1
    return max(1, min(MOST_LANES, machine.processors() // threads(config), slots(config) // LEAST_SLOTS))


def slots(config: Config) -> int:
    """Streams that the backend is to have room for. On a CPU a state takes memory only once a stream has used it."""
    if config.engine.slots != AUTOMATIC:
        return config.engine.slots
    return MOST_STREAMS if config.model.backend in IN_MAIN_MEMORY else MOST_ON_DEVICE


def door(config: Config) -> auth.Door:
    """Who may come in."""
    server = config.server
    return auth.Door(key=server.key, origins=server.origins, loopback=auth.is_loopback(server.host))


def info(offer: Offer, config: Config, model: ModelConfig, fits: Mapping[int, int]) -> dict[str, Any]:
    """What a page needs to know before it connects; nothing in it is secret. `fits`: streams by latency."""
    return {
        "model": model.name,
        "latencies_ms": sorted(offer.latencies_ms),
        "latency_ms": offer.latency_ms,
        "languages": list(offer.languages),
        "language": offer.language,
        "key_required": bool(config.server.key),
        "capacity": {str(latency_ms): streams for latency_ms, streams in fits.items()},
        "rooms": {"watch_needs_key": bool(config.server.key) and not config.rooms.public},
        "version": streamer.__version__,
    }
