"""docs/protocol.md says what the code does: its examples are read, its tables compared."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qsl

import pytest

from streamer import rooms
from streamer.backends.fake import CONFIG as FAKE
from streamer.config import Config
from streamer.errors import CODES
from streamer.offer import info, offer
from streamer.protocols import events, watch
from streamer.protocols.events import Audio, ClientEvent, Closed, Error, Final, Malformed, Partial, Ready
from streamer.protocols.native import (
    CLIENT_MESSAGES,
    NAMES,
    PARAMETERS,
    SERVER_MESSAGES,
    TRANSITIONS,
    Native,
    Offer,
    parse_query,
    read_client,
    read_server,
    write,
)
from streamer.protocols.watch import Away, Entered, Live, WatchEvent
from streamer.pulse import ANSWER_SHARE

VIEWER_MESSAGES = {
    "room": Entered,
    "live": Live,
    "partial": Partial,
    "final": Final,
    "away": Away,
    "closed": Closed,
    "error": Error,
}
DOC = (Path(__file__).resolve().parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
READY = Ready(session_id="s", model="m", latency_ms=560, sample_rate=16000)


def examples(kind: str) -> list[str]:
    """The lines of all fenced blocks of one kind; there must be some."""
    lines = [line for block in re.findall(rf"^```{kind}\n(.*?)^```", DOC, re.M | re.S) for line in block.splitlines()]
    assert lines, f"no example of {kind}"
    return lines


def table(first_head: str) -> list[list[str]]:
    """The rows of the table whose first column is called so."""
    found = re.search(rf"^\| {re.escape(first_head)} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", DOC, re.M)
    assert found is not None, f"no table of {first_head}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


@pytest.mark.parametrize("line", examples("json client"))
def test_each_client_example_is_understood_and_is_what_our_client_would_write(line: str) -> None:
    assert json.loads(write(read_client(line))) == json.loads(line)


@pytest.mark.parametrize("line", examples("json server"))
def test_each_server_example_is_exactly_what_the_server_writes(line: str) -> None:
    assert write(read_server(line)) == line


def test_every_message_has_an_example_and_a_line_in_its_table() -> None:
    for kind, messages in (("client", CLIENT_MESSAGES), ("server", SERVER_MESSAGES)):
        assert {json.loads(line)["type"] for line in examples(f"json {kind}")} == set(messages)
    tables = [re.findall(r"^\| `(\w+)`", rows, re.M) for rows in DOC.split("| message | meaning |\n")[1:]]
    assert [names[: len(kind)] for names, kind in zip(tables, (CLIENT_MESSAGES, SERVER_MESSAGES), strict=True)] == [
        list(CLIENT_MESSAGES),
        list(SERVER_MESSAGES),
    ]


@pytest.mark.parametrize("line", examples("json viewer"))
def test_each_viewer_example_is_exactly_what_the_server_writes(line: str) -> None:
    message = json.loads(line)
    if (kind := VIEWER_MESSAGES[message.pop("type")]) in (Entered, Live, Away):
        assert watch.write(kind(**message)) == line
    else:
        assert write(read_server(line)) == line


def test_every_message_to_a_viewer_has_an_example_and_a_line_in_its_table() -> None:
    assert {json.loads(line)["type"] for line in examples("json viewer")} == set(VIEWER_MESSAGES)
    named = [name for row in table("to a viewer") for name in re.findall(r"`(\w+)`", row[0])]
    assert named == list(VIEWER_MESSAGES)
    assert set(VIEWER_MESSAGES.values()) == set(get_args(WatchEvent))


def test_the_bounds_of_rooms_are_the_ones_in_the_code() -> None:
    options = Config()
    rooms_ = DOC[DOC.index("## Rooms") : DOC.index("## What a page asks")]
    assert f"The latest {rooms.MOST_FINALS} finals are kept" in rooms_
    assert f"({rooms.MOST_CHARACTERS >> 20} Mi characters" in rooms_
    assert f"({options.rooms.most} and {options.rooms.most_viewers} by default)" in rooms_
    assert f"is kept for {options.rooms.linger_s:g} s by" in rooms_
    assert f"({options.server.heartbeat_s * ANSWER_SHARE:g} s by default)" in rooms_


def test_the_example_of_info_has_its_fields() -> None:
    model = dataclasses.replace(FAKE, name="streamer-small-en")
    (line,) = examples("json info")
    shown = json.loads(line)
    fits = {int(latency_ms): streams for latency_ms, streams in shown["capacity"].items()}
    assert sorted(fits) == shown["latencies_ms"]
    assert shown == info(offer(Config(), model), Config(), model, fits)


def test_the_refusals_shown_are_the_ones_that_are_said() -> None:
    native = Native()
    native.send(READY)
    said = [native.receive(text) for text in ('{"type":"finalise"}', '{"type":"configure","endpoint_silence_ms":10}')]
    native.receive('{"type":"close"}')
    said.append(native.receive(b""))
    for event in said:
        assert isinstance(event, Malformed)
        assert write(Error(code=event.refusal.code, message=str(event.refusal))) in DOC


@pytest.mark.parametrize("line", examples("query"))
def test_each_query_example_is_accepted(line: str) -> None:
    assert parse_query(parse_qsl(line, strict_parsing=True), Offer(latencies_ms=(560,), latency_ms=560))


def test_the_conversation_is_one_that_the_dialect_allows() -> None:
    native = Native()
    for line in examples("conversation"):
        side, text = line[:2], line[2:]
        if side == "< ":
            assert native.send(read_server(text)) == text
        else:
            event = native.receive(b"\0\0" if text == "(audio)" else text)
            assert not isinstance(event, Malformed), line
    assert native.state.value == "closed"


def test_the_table_of_parameters_is_complete_and_has_the_bounds() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("parameter")}
    assert tuple(rows) == PARAMETERS
    bounds = {
        "sample_rate": events.SAMPLE_RATES,
        "channels": events.CHANNELS,
        "endpoint_silence_ms": events.SILENCE_MS,
        "endpoint_start_ms": events.START_MS,
        "endpoint_max_ms": events.MAX_MS,
    }
    for name, (low, high) in bounds.items():
        assert rows[name].startswith(f"{low} to {high}"), name
    assert rows["encoding"] == ", ".join(f"`{encoding}`" for encoding in events.ENCODINGS)


def test_the_table_of_states_is_the_one_in_the_code() -> None:
    client = set(get_args(ClientEvent))

    def cell(state: object, ours: bool) -> str:
        row = TRANSITIONS[state]  # type: ignore[index]
        return ", ".join(f"{NAMES[kind]}: {after.value}" for kind, after in row.items() if (kind in client) is ours)

    assert table("state") == [[state.value, cell(state, True), cell(state, False)] for state in TRANSITIONS]
    assert NAMES[Audio] == "audio"


def test_the_tables_of_codes_and_reasons_are_the_ones_in_the_code() -> None:
    codes = [(row[0].strip("`"), row[1]) for row in table("code")]
    close_codes = {str(code): when for code, when in events.CLOSE_CODES.items()}
    assert dict(codes) == CODES
    closing = DOC[DOC.index("## Close codes") :]
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", closing, re.M)) == close_codes
    assert [row[0].strip("`") for row in table("reason")] == list(events.REASONS)
