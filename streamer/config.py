"""Every option of the daemon: its default, unit and range. Knows nothing of what the options do."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from streamer.errors import Refusal

ENV_PREFIX = "STREAMER_"
# Kubernetes sets STREAMER_SERVICE_HOST and the like for a service named "streamer": only names this near to a section
# count as typing errors, the others are not ours.
_NEAR_SECTION = 0.8
# And for a service named "streamer-server" STREAMER_SERVER_SERVICE_HOST, STREAMER_SERVER_PORT=tcp://10.0.0.1:9000,
# STREAMER_SERVER_PORT_9000_TCP_ADDR and so on: https://kubernetes.io/docs/concepts/services-networking/service/
_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")

NO_LIMITS: dict[str, Any] = {"least": None, "most": None, "among": ()}


def option(default: Any, text: str, **limits: Any) -> Any:
    """A field with its one comment (unit included) and what limits it: least, most, among; shown=False for secrets."""
    shown = limits.pop("shown", True)
    return field(default=default, repr=shown, metadata={"help": text, **NO_LIMITS, **limits})


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where clients come in, and how much of the machine one of them may hold."""

    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 or :: for all (set server.key then)")
    port: int = option(9000, "TCP port; 0 takes a free one and logs it", least=0, most=65535)
    key: str = option("", "API key that clients must send; empty asks for none", shown=False)
    origins: tuple[str, ...] = option((), "origins of web pages that may connect besides our own; * allows all")
    tls_cert: str = option("", "certificate chain, a PEM file; with tls_key turns TLS on")
    tls_key: str = option("", "private key of the certificate, a PEM file")
    max_message_bytes: int = option(1 << 20, "longest WebSocket message, bytes", least=1024, most=1 << 26)
    handshake_s: float = option(
        10.0, "longest time from a connection to its whole request, seconds", least=0.05, most=300
    )
    heartbeat_s: float = option(20.0, "ping after so much silence from a client, seconds", least=0.1, most=3600)
    max_waiting_s: float = option(
        10.0, "a client's socket is not read above so much waiting audio, s", least=0.2, most=600
    )
    max_outgoing: int = option(
        256, "messages a slow reader may leave unread before it is closed", least=4, most=100_000
    )
    send_timeout_s: float = option(20.0, "longest time one message to a client may take, seconds", least=0.05, most=600)
    shutdown_s: float = option(15.0, "time for the last finals after SIGTERM, seconds", least=0.1, most=600)
    fronts: int = option(
        0, "processes that share the port before one that hears; 0 is one process for all", least=0, most=256
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is heard with."""

    path: str = option("", "model folder or .nemo file; empty is the model that ships")
    backend: str = option(
        "ort", "what runs the model: ort, pytorch, trt or fake", among=("ort", "pytorch", "trt", "fake")
    )
    device: str = option("", "where: cpu, cuda or cuda:1; empty is the GPU for pytorch and trt where there is one")
    precision: str = option(
        "",
        "fp32, int8 (ort), bf16 or fp16 (GPU); empty is the model's own, or bf16 on a GPU",
        among=("", "fp32", "int8", "bf16", "fp16"),
    )
    latency_ms: int = option(
        0, "latency of a stream that asks for none, milliseconds; 0 is 560 where the model has it", least=0, most=60_000
    )
    language: str = option("", "language of a stream that asks for none; empty is the model's own choice")
    threads: int = option(
        0,
        "threads of one step; the backend ort has as many engines side by side, up to eight, as that leaves processors "
        "for. 0 is one, or an eighth of the processors; all for other backends",
        least=0,
        most=256,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How streams share the model."""

    slots: int = option(
        0,
        "streams at once, the spare ones for finalize included; 0 is what CPU and memory carry, on a GPU 32",
        least=0,
        most=65_536,
    )
    budget_ms: float = option(
        250.0, "longest step, and the lateness of a chunk that is still fine, milliseconds", least=1, most=60_000
    )
    max_load: float = option(
        0.75, "new streams are refused above this share of the time there is, 1 = all", least=0.05, most=100
    )
    step_timeout_s: float = option(60.0, "a step that takes longer means a dead engine, seconds", least=0.1, most=3600)
    capacity_file: str = option("", "JSON file that keeps the measured step times; empty measures at every start")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """A client's time limits."""

    idle_s: float = option(60.0, "a client that sends nothing is closed after this, seconds", least=0.1, most=86_400)
    max_session_s: float = option(14_400.0, "longest session, seconds", least=0.1, most=7 * 86_400)
    tail_ms: int = option(640, "silence heard after the audio at finalize and close, milliseconds", least=0, most=5000)
    stall_ms: int = option(
        1000, "words that hang are final when no audio arrives for this, milliseconds", least=50, most=60_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a segment ends by itself, on the stream's audio clock. A client may ask for other values."""

    enabled: bool = option(True, "cut segments where the speaker pauses: true or false")
    silence_ms: int = option(800, "silence after speech that ends a segment, milliseconds", least=80, most=60_000)
    start_ms: int = option(
        5000,
        "silence without any speech after which a segment's clock starts anew, milliseconds",
        least=80,
        most=600_000,
    )
    max_ms: int = option(30_000, "longest segment, cut before its last word; milliseconds", least=1000, most=300_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomOptions:
    """One speaker's captions for many viewers."""

    public: bool = option(False, "whether viewers come in without server.key: true or false")
    most: int = option(32, "rooms at once, those whose speaker is away included", least=0, most=10_000)
    most_viewers: int = option(500, "viewers at once, of all rooms together", least=0, most=100_000)
    linger_s: float = option(
        300.0, "a room whose speaker is away is forgotten after this, seconds", least=0, most=86_400
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the daemon says about itself; never audio, text or the key."""

    format: str = option("text", "text or json, one record a line", among=("text", "json"))
    level: str = option("info", "debug, info, warning or error", among=("debug", "info", "warning", "error"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options. `load` fills it from a file, the environment and the command line."""

    server: Server = field(default_factory=Server)
    model: Model = field(default_factory=Model)
    engine: EngineOptions = field(default_factory=EngineOptions)
    session: SessionOptions = field(default_factory=SessionOptions)
    endpoint: Endpoint = field(default_factory=Endpoint)
    rooms: RoomOptions = field(default_factory=RoomOptions)
    log: Log = field(default_factory=Log)


SECTIONS: dict[str, type] = {
    "server": Server,
    "model": Model,
    "engine": EngineOptions,
    "session": SessionOptions,
    "endpoint": Endpoint,
    "rooms": RoomOptions,
    "log": Log,
}


def keys() -> list[str]:
    """Every option as `section.key`, in the order of config.yaml."""
    return [f"{name}.{f.name}" for name, section in SECTIONS.items() for f in dataclasses.fields(section)]


def load(file: str | Path | None = None, env: Mapping[str, str] | None = None, overrides: Iterable[str] = ()) -> Config:
    """Defaults, then the file, then `STREAMER_SECTION_KEY`, then `section.key=value`; the last one wins."""
    values: dict[str, Any] = {}
    if file is not None:
        values |= _from_file(Path(file))
    values |= _from_env(os.environ if env is None else env)
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise Refusal("option", text, "section.key=value")
        values[_known(key.strip(), "")] = value
    return _build(values)


def plain(config: Config) -> dict[str, Any]:
    """Every option by `section.key` as JSON knows it, the key included: for another process of ours."""
    return {key: getattr(getattr(config, key.partition(".")[0]), key.partition(".")[2]) for key in keys()}


def from_plain(values: Mapping[str, Any]) -> Config:
    """What `plain` gave, read as strictly as a file."""
    return _build({_known(key, ""): value for key, value in values.items()})


def _build(values: Mapping[str, Any]) -> Config:
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, value in values.items():
        name, _, option_name = key.partition(".")
        sections[name][option_name] = _typed(key, value)
    config = Config(**{name: SECTIONS[name](**given) for name, given in sections.items()})
    if bool(config.server.tls_cert) != bool(config.server.tls_key):
        raise Refusal("server.tls_cert", config.server.tls_cert, "both server.tls_cert and server.tls_key, or neither")
    if config.engine.slots == 1:
        raise Refusal("engine.slots", 1, "2 or more, since one is kept back for finalize; or 0")
    return config


class _Once(yaml.SafeLoader):
    """YAML of which the last of two equal keys would win unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    raise Refusal(f"config file line {key.start_mark.line + 1}", key.value, "each key once")
                known.add(key.value)
        return super().construct_mapping(node, deep)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text("utf-8"), _Once)
    except OSError as error:
        raise Refusal("config file", str(path), f"a file that can be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        at = getattr(error, "problem_mark", None)
        raise Refusal("config file", str(path), f"YAML (line {at.line + 1})" if at else "YAML in UTF-8") from None
    values: dict[str, Any] = {}
    for name, section in _mapping("config file", {} if tree is None else tree).items():
        if name not in SECTIONS:
            raise Refusal("config section", name, _nearest(str(name), list(SECTIONS)))
        for key, value in _mapping(name, {} if section is None else section).items():
            values[_known(f"{name}.{key}", "")] = value
    return values


def _mapping(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(where, value, "a mapping of keys to values")
    return value


def of_kubernetes(env: Mapping[str, str]) -> list[str]:
    """The variables that look like options but are addresses of a Service whose name begins like one of ours."""
    begins = tuple(f"{ENV_PREFIX}{name.upper()}_" for name in SECTIONS)
    ours = [variable for variable in sorted(env) if variable.startswith(begins)]
    return [v for v in ours if _SERVICE.search(v) or (v.endswith("_PORT") and _ADDRESS.match(env[v]))]


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    values = {}
    passed_over = of_kubernetes(env)
    for variable in sorted(env):
        if not variable.startswith(ENV_PREFIX) or variable in passed_over:
            continue
        name, _, key = variable[len(ENV_PREFIX) :].lower().partition("_")
        if name in SECTIONS and key:
            values[_known(f"{name}.{key}", variable)] = env[variable]
        elif near := difflib.get_close_matches(name, SECTIONS, 1, _NEAR_SECTION):
            expected = f"a known option; the nearest section is {ENV_PREFIX}{near[0].upper()}_"
            raise Refusal("environment", variable, expected)
    return values


def _known(key: str, variable: str) -> str:
    if key in keys():
        return key
    raise Refusal("environment" if variable else "option", variable or key, _nearest(key, keys()))


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.0)
    return f"a known name; the nearest is {near[0]}"


def _typed(key: str, value: Any) -> Any:
    name, _, option_name = key.partition(".")
    section = SECTIONS[name]
    kind = typing.get_type_hints(section)[option_name]
    known = next(f for f in dataclasses.fields(section) if f.name == option_name)
    meta = known.metadata
    if kind is str and not isinstance(value, str):  # YAML reads 0123 as 83, no as false and nothing as null
        raise Refusal(key, value if known.repr or value is None else type(value).__name__, "a text; put it in quotes")
    result = _READERS[kind if not isinstance(kind, types.GenericAlias) else tuple](key, value)
    if meta["among"] and result not in meta["among"]:
        raise Refusal(key, value, "one of " + ", ".join(meta["among"]))
    too_low = meta["least"] is not None and not result >= meta["least"]
    if too_low or (meta["most"] is not None and not result <= meta["most"]):
        raise Refusal(key, value, f"{meta['least']:g} to {meta['most']:g}")
    return result


def _text(_: str, value: str) -> str:
    return value


def _whole(key: str, value: Any) -> int:
    try:
        if isinstance(value, str) and value.strip().isascii():
            return int(value.strip().replace("_", ""))
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    except ValueError:
        pass
    raise Refusal(key, value, "a whole number")


def _number(key: str, value: Any) -> float:
    try:
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise Refusal(key, value, "a number")


def _truth(key: str, value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    raise Refusal(key, value, "true or false")


def _texts(key: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.strip("[] ").split(",") if part.strip()]
    if value is None or not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise Refusal(key, value, "a list of texts, or texts with commas between")
    return tuple(value)


_READERS: dict[Any, Any] = {str: _text, int: _whole, float: _number, bool: _truth, tuple: _texts}

HEADER = """\
# The daemon's options and their defaults. Nothing reads this file unless it is named:
#     streamer serve --config config.yaml
# Options are also given as STREAMER_SECTION_KEY in the environment and as section.key=value on the command line; the
# last one wins. `streamer serve --print-config` prints this file with the options as they are, the key left out.
"""


def render(config: Config | None = None) -> str:
    """config.yaml: every option with its value and its comment."""
    config = config or Config()
    lines = [HEADER]
    for name in SECTIONS:
        lines.append(f"{name}:")
        section = getattr(config, name)
        for f in dataclasses.fields(section):
            value = getattr(section, f.name) if f.repr else ""  # a file that is kept is no place for a key
            plain = list(value) if isinstance(value, tuple) else value
            shown = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
            lines += [f"  # {f.metadata['help']}", f"  {f.name}: {shown}"]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"
