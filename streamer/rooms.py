"""Rooms: one speaker, many viewers, and what a late joiner is told. Knows no socket; time is an argument.

A room exists while somebody speaks in it, for `linger_s` after that, and while somebody waits in it for a speaker. The
speaker never waits for a viewer: what is said is put into each viewer's outbox, and one that is full ends its viewer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from streamer.actions import Hangup
from streamer.config import RoomOptions
from streamer.errors import Refusal
from streamer.outbox import Letter, Outbox
from streamer.protocols.events import Closed, Final, Partial, Ready, ServerEvent, room_name
from streamer.protocols.native import Native
from streamer.protocols.native import write as write_native
from streamer.protocols.watch import Away, Entered, Live, WatchEvent, write

MOST_FINALS = 4000  # that a room keeps for late joiners: some four hours of speech
MOST_CHARACTERS = 1 << 22  # and how long their messages may be, all together


class Viewer:
    """One who watches a room: what it is greeted with, then its outbox."""

    def __init__(self, high: int) -> None:
        self.outbox = Outbox(high)
        self.greeting: tuple[str, ...] = ()
        """Messages; they are sent before anything of the outbox."""


@dataclass(slots=True)
class _Stretch:
    """What is kept of one stream, as messages."""

    live: str
    finals: deque[str] = field(default_factory=deque)
    away: str | None = None

    def messages(self) -> list[str]:
        return [self.live, *self.finals, *([] if self.away is None else [self.away])]


class Room:
    """One room's history and its viewers."""

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.speech: Speech | None = None
        self.away_since: float | None = None
        self._silent_since: float | None = None  # the last audio came then
        self._clock_s = 0.0  # where the next stream begins on the room's clock, if it came at once
        self.heard_s = 0.0  # audio of the streams that have ended
        self._stretches: deque[_Stretch] = deque()
        self._drafts: dict[int, Partial] = {}  # what the open segment of each channel says
        self._native = Native()
        self._finals, self._characters, self._left_out = 0, 0, 0

    @property
    def opened(self) -> bool:
        """Somebody speaks here, or has spoken."""
        return self.speech is not None or self.away_since is not None

    def greet(self, viewer: Viewer, name: str) -> None:
        """Let the viewer in: the room as it is, its history, what is being said."""
        entered = Entered(room=name, live=bool(self._stretches) and self._open, left_out=self._left_out)
        history = [message for stretch in self._stretches for message in stretch.messages()]
        drafts = [self._native.send(draft) for _, draft in sorted(self._drafts.items())]
        viewer.greeting = (write(entered), *history, *drafts)
        self.viewers.add(viewer)

    @property
    def _open(self) -> bool:
        return self._stretches[-1].away is None

    # What the speaker's stream does, in its order.

    def begin(self, ready: Ready, now: float) -> None:
        """A stream is ready; those before in which nothing was said are forgotten."""
        self._stretches = deque(stretch for stretch in self._stretches if stretch.finals)
        away_s = None if self._silent_since is None else max(0.0, now - self._silent_since)
        self._clock_s += away_s or 0.0
        live = Live(
            session_id=ready.session_id,
            model=ready.model,
            latency_ms=ready.latency_ms,
            away_seconds=away_s,
            at_seconds=self._clock_s,
        )
        self._native = Native()
        self._native.send(ready)
        self._stretches.append(_Stretch(write(live)))
        self._tell(live, write(live))

    def draft(self, partial: Partial) -> None:
        """Kept until its segment's final."""
        self._drafts[partial.channel] = partial
        if self.viewers:
            self._tell(partial, self._native.send(partial))

    def settle(self, final: Final) -> None:
        """Kept for late joiners. One without words matters only where it takes back a draft: a speaker may ask for
        hundreds of them in one go, which would fill the outboxes of viewers who cannot help it."""
        drafted = self._drafts.pop(final.channel, None) is not None
        message = self._native.send(final)
        if final.words:
            self._keep(message)
        if final.words or drafted:
            self._tell(final, message)

    def end(self, session_id: str, audio_seconds: float, silent_since: float, now: float) -> None:
        """The stream is over, however it ended; words that were no final are none any more."""
        self.away_since, self._silent_since = now, silent_since
        self.heard_s += audio_seconds
        self._clock_s += audio_seconds
        self._drafts.clear()
        away = Away(session_id=session_id, audio_seconds=audio_seconds)
        self._stretches[-1].away = write(away)
        self._tell(away, write(away))

    def close(self) -> None:
        """Nobody has come back."""
        closed = Closed(audio_seconds=self.heard_s)
        self._tell(closed, write_native(closed))
        for viewer in self.viewers:
            viewer.outbox.put(Letter(Hangup(code=1000, reason="closed")))

    def _keep(self, message: str) -> None:
        """The latest finals stay; of those left out only the number."""
        self._stretches[-1].finals.append(message)
        self._finals += 1
        self._characters += len(message)
        while self._finals > MOST_FINALS or self._characters > MOST_CHARACTERS:
            while not self._stretches[0].finals:
                self._stretches.popleft()
            self._characters -= len(self._stretches[0].finals.popleft())
            self._finals -= 1
            self._left_out += 1

    def _tell(self, event: WatchEvent, message: str) -> None:
        for viewer in self.viewers:
            viewer.outbox.put(Letter(event, text=message))


class Speech:
    """A stream's place in a room, from before its `ready`; `end` gives it back."""

    def __init__(self, room: Room, session_id: str) -> None:
        self.session_id = session_id
        self._room: Room | None = room
        self._begun = False
        self._heard: float | None = None  # when audio came last

    def heard(self, now: float) -> None:
        """Audio came."""
        self._heard = now

    def say(self, event: ServerEvent, now: float) -> None:
        """What the speaker is told its viewers are told, but for errors, which are the speaker's own."""
        if self._room is None:
            return
        match event:
            case Ready():
                self._begun, self._heard = True, now
                self._room.begin(event, now)
            case Partial():
                self._room.draft(event)
            case Final():
                self._room.settle(event)
            case Closed(audio_seconds=audio_seconds):
                self.end(audio_seconds, now)

    def end(self, audio_seconds: float, now: float) -> None:
        """The room is free; a second call changes nothing. A stream that never was ready leaves no trace."""
        if self._room is None:
            return
        room, self._room = self._room, None
        room.speech = None
        if self._begun:
            room.end(self.session_id, audio_seconds, now if self._heard is None else self._heard, now)


class Rooms:
    """All rooms of a daemon. Names that differ in case alone are one room."""

    def __init__(self, options: RoomOptions, high: int) -> None:
        """`high`: messages that a viewer may leave unread."""
        self._options, self._high = options, high
        self._rooms: dict[str, Room] = {}
        self._watched: dict[Viewer, str] = {}

    @property
    def opened(self) -> int:
        """Rooms in which somebody speaks, or has spoken."""
        return sum(room.opened for room in self._rooms.values())

    @property
    def viewers(self) -> int:
        """Viewers of all rooms."""
        return len(self._watched)

    def __len__(self) -> int:
        """All rooms that there are, those included in which viewers wait for a first speaker."""
        return len(self._rooms)

    def speaker(self, name: str) -> str | None:
        """The session that speaks in this room."""
        room = self._rooms.get(room_name(name))
        return None if room is None or room.speech is None else room.speech.session_id

    def speak(self, name: str, session_id: str) -> Speech:
        """Take a room that has no speaker. Raises Refusal: room_taken, at_capacity."""
        key = room_name(name)
        room = self._rooms.get(key) or Room()
        if room.speech is not None:
            raise Refusal("room", name, "one without a speaker", code="room_taken")
        if not room.opened and self.opened >= self._options.most:
            raise Refusal("rooms", self.opened, f"at most {self._options.most} at once", code="at_capacity")
        self._rooms[key] = room
        room.speech = Speech(room, session_id)
        return room.speech

    def watch(self, name: str) -> Viewer:
        """Enter a room, or wait in it for its first speaker. Raises Refusal: bad_request, at_capacity."""
        key = room_name(name)
        if self.viewers >= self._options.most_viewers:
            raise Refusal("viewers", self.viewers, f"at most {self._options.most_viewers} at once", code="at_capacity")
        viewer = Viewer(self._high)
        self._rooms.setdefault(key, Room()).greet(viewer, name)
        self._watched[viewer] = key
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """The viewer has gone; a room that only it waited in goes with it."""
        key = self._watched.pop(viewer)
        if (room := self._rooms.get(key)) is not None:
            room.viewers.discard(viewer)
            self._forget_unused(key, room)

    def tick(self, now: float) -> None:
        """Time passed: rooms whose speaker has been away for too long are closed and forgotten."""
        for key, room in list(self._rooms.items()):
            if room.speech is None and room.away_since is not None:
                if now - room.away_since >= self._options.linger_s:
                    room.close()
                    del self._rooms[key]
            else:
                self._forget_unused(key, room)

    def _forget_unused(self, key: str, room: Room) -> None:
        if not room.opened and not room.viewers:
            del self._rooms[key]
