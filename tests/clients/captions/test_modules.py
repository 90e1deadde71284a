"""The pure modules of the page: the table of a connection, the transcript, cues, the address."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.conftest import ROOT
from tests.streamer.house import house

pytestmark = pytest.mark.asyncio(loop_scope="session")

STORY = (
    "every day luigi led his flock to graze on the road that leads from palestrina to borgo; every day at nine"
    " o'clock in the morning, the priest and the boy sat down on a bank by the wayside. they had much to say"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page of ours that nothing runs in: modules are imported into it."""
    async with house() as home:
        page = await browser.new_page()
        await page.goto(f"{home.http}/captions/icon.svg")
        yield page
        await page.close()


async def run(page: Page, module: str, code: str, given: Any = None) -> Any:
    """The value of JavaScript `code`, in which `m` is the module and `given` what is passed in."""
    return await page.evaluate(f"async (given) => {{ const m = await import('/captions/{module}.js'); {code} }}", given)


def segment(text: str, start: float = 0.0, pace: float = 0.3, pause: float = 0.1) -> dict[str, Any]:
    """A settled segment, its words of `pace` seconds with `pause` between them."""
    words, at = [], start
    for word in text.split():
        words.append({"word": word, "start": round(at, 3), "end": round(at + pace, 3), "confidence": 0.9})
        at += pace + pause
    return {"kind": "segment", "start": start, "end": words[-1]["end"], "words": words, "settled": True, "cut": False}


def gap(start: float, end: float) -> dict[str, Any]:
    return {"kind": "gap", "start": start, "end": end}


# The connection's table.


@pytest.mark.parametrize(
    ("down_ms", "waits"),
    [
        (0, [500, 1000, 2000, 3000, 3000, 3000, 3000, 3000]),
        (60_000, [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000]),
    ],
)
async def test_a_lost_connection_waits_longer_each_time_but_never_long_while_somebody_may_still_speak(
    page: Page, down_ms: int, waits: list[int]
) -> None:
    code = """
      let state = m.next(m.START, 'start'), waits = [];
      for (let i = 0; i < 8; i++) {
        state = m.next(state, 'lost', {random: 1, downMs: given});
        waits.push(state.delayMs);
        state = m.next(state, 'retry');
      }
      return waits;"""
    assert await run(page, "reconnect", code, down_ms) == waits


async def test_a_connection_that_lived_starts_the_waiting_over_and_one_that_died_at_once_does_not(page: Page) -> None:
    code = """
      const live = {name: 'live', tries: 4, delayMs: 0};
      return given.map((livedMs) => m.next(live, 'lost', {livedMs, random: 0}));"""
    assert await run(page, "reconnect", code, [20_000, 50]) == [
        {"name": "waiting", "tries": 1, "delayMs": 250},
        {"name": "waiting", "tries": 5, "delayMs": 1500},
    ]


async def test_what_means_nothing_in_a_state_changes_nothing(page: Page) -> None:
    code = """
      const state = (name) => ({name, tries: 0, delayMs: 0});
      return given.filter(([name, event]) => { const s = state(name); return m.next(s, event) !== s; });"""
    odd = [["idle", "lost"], ["live", "start"], ["waiting", "ready"], ["closing", "ready"], ["failed", "retry"]]
    assert await run(page, "reconnect", code, odd) == []


async def test_every_state_can_be_left_and_stopping_always_leads_to_rest(page: Page) -> None:
    code = """
      const rest = (name) => ['idle', 'failed'].includes(name);
      return Object.keys(m.TRANSITIONS).filter((name) => {
        let state = m.next({name, tries: 0, delayMs: 0}, 'stop');
        if (!rest(state.name)) state = m.next(state, 'lost');
        return !rest(state.name);
      });"""
    assert await run(page, "reconnect", code) == []


# The transcript.

HEAR = """
  const t = new m.Transcript();
  const word = (word, start) => ({word, start, end: start + 0.2, confidence: 1});
  const say = (type, segment, words, stable_words) =>
    t.hear({type, segment, words: words.map((w, i) => word(w, segment * 10 + i)), stable_words});
"""


async def test_a_stable_word_is_kept_whatever_a_later_partial_says(page: Page) -> None:
    code = f"""{HEAR}
      t.begin('a', 0);
      say('partial', 0, ['he', 'wa'], 1);
      say('partial', 0, ['she', 'was', 'n'], 2);
      say('final', 0, ['it', 'is', 'not']);
      return t.entries.map((e) => [e.words.map((w) => w.word).join(' '), e.settled, e.stable]);"""
    assert await run(page, "transcript", code) == [["he was not", True, 3]]


async def test_the_clock_goes_on_over_an_outage_and_its_length_is_kept(page: Page) -> None:
    code = f"""{HEAR}
      t.begin('a', 0); say('partial', 0, ['he', 'wa'], 1); t.cut(); t.openGap(2.5);
      t.closeGap(6.7); t.begin('b', 6.7); say('final', 0, ['there']);
      return t.entries.map((e) => [e.kind, e.start, e.end, e.cut ?? null, m.textOf(e)]);"""
    assert await run(page, "transcript", code) == [
        ["segment", 0, 1.2, True, "he wa"],
        ["gap", 2.5, 6.7, None, "4.2 s not heard"],
        ["segment", 6.7, 6.9, False, "there"],
    ]


async def test_what_a_room_tells_again_is_not_written_twice(page: Page) -> None:
    code = f"""{HEAR}
      t.begin('a', 0); say('final', 0, ['one']); say('partial', 1, ['two'], 0);
      t.begin('a', 99); say('final', 0, ['one']); say('final', 1, ['two', 'three']);
      return t.entries.map((e) => m.textOf(e));"""
    assert await run(page, "transcript", code) == ["one", "two three"]


async def test_a_segment_that_turns_out_empty_and_a_gap_too_short_leave_no_trace(page: Page) -> None:
    code = f"""{HEAR}
      t.begin('a', 0); say('partial', 0, ['uh'], 0); say('final', 0, []); t.openGap(1); t.closeGap(1.05);
      return t.entries.length;"""
    assert await run(page, "transcript", code) == 0


# Cues.


@pytest.mark.parametrize("pace", [0.08, 0.3, 0.9])
async def test_cues_have_two_lines_of_42_and_never_overlap(page: Page, pace: float) -> None:
    story = [segment(STORY, pace=pace), segment("and then", start=200.0), gap(201.0, 230.0), segment("x" * 90, 240.0)]
    cues = await run(page, "subtitles", "return m.cues(given)", story)
    assert all(1 <= len(cue["lines"]) <= 2 and all(1 <= len(line) <= 42 for line in cue["lines"]) for cue in cues)
    assert all(cue["end"] - cue["start"] <= 7.001 for cue in cues)
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(cues))
    said = " ".join(line for cue in cues for line in cue["lines"])
    assert said.replace(" ", "") == (STORY + "and then[29.0 s not heard]" + "x" * 90).replace(" ", "")


async def test_cues_start_with_their_first_word_and_stay_until_they_can_be_read(page: Page) -> None:
    cues = await run(page, "subtitles", "return m.cues(given)", [segment("yes", 1.5, 0.2), segment("no", 9.0, 0.2)])
    assert [(cue["start"], cue["end"]) for cue in cues] == [(1.5, 2.5), (9.0, 10.0)]
    crowded = await run(page, "subtitles", "return m.cues(given)", [segment("yes", 1.5, 0.2), segment("no", 2.0, 0.2)])
    assert crowded[0]["end"] == 2.0


async def test_cues_break_where_the_clause_ends(page: Page) -> None:
    cues = await run(page, "subtitles", "return m.cues(given)", [segment(STORY)])
    ends = [line.split()[-1] for cue in cues for line in cue["lines"]]
    assert {"borgo;", "morning,", "wayside."} <= set(ends)
    assert not {"the", "and", "a", "to", "of", "that", "his"} & set(ends)


async def test_cues_break_at_pauses_where_there_are_no_marks(page: Page) -> None:
    early, late = segment("we walked along the shore all day"), segment("nobody saw us come home that night", start=3.6)
    both = {**early, "words": early["words"] + late["words"], "end": late["end"]}
    cues = await run(page, "subtitles", "return m.cues(given)", [both])
    assert "nobody saw us come home that night" in [line for cue in cues for line in cue["lines"]]


async def test_markup_in_words_is_no_markup_in_webvtt(page: Page) -> None:
    said = await run(page, "subtitles", "return m.vtt(given)", [segment("a<b> & c")])
    assert "a&lt;b&gt; &amp; c" in said


async def test_what_players_take_for_an_arrow_or_a_tag_is_neither_in_srt(page: Page) -> None:
    said = await run(page, "subtitles", "return m.srt(given)", [segment("a --> <b>b</b> 1<2 {\\an8}")])
    assert said.count("-->") == 1
    assert "a -> \u2039b\u203ab\u2039/b\u203a 1<2 (\\an8)" in said


# The address.


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("theme=dark&size=150&room=a-b_1&latency=80", "latency=80&room=a-b_1&theme=dark&size=150"),
        ("theme=pink&size=9000&room=no/no&latency=-1&lines=x&source=moon&confidence=maybe", ""),
        ("source=microphone&size=100&confidence=0&keys=1", ""),
        ("confidence=true&times=1&keys=0&mic=USB+Audio", "mic=USB+Audio&confidence=1&times=1&keys=0"),
        ("__proto__=1&constructor=1&key=secret&confidence=toString&start=constructor", ""),
    ],
)  # fmt: skip
async def test_the_address_keeps_what_is_meant_and_passes_over_the_rest(page: Page, query: str, kept: str) -> None:
    assert await run(page, "settings", "return m.write(m.read(given))", query) == kept


async def test_the_guide_lists_every_parameter_of_the_address(page: Page) -> None:
    guide = (ROOT / "docs" / "captions.md").read_text("utf-8")
    rows = guide.partition("| parameter |")[2].partition("\n\n")[0].splitlines()[2:]
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert listed == set(await run(page, "settings", "return Object.keys(m.DEFAULTS)"))
