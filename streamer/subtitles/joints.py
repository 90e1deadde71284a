"""What stands between two words: how well a line or a cue can end there. Knows nothing of lines, cues or files.

Punctuation decides where the model writes it. Elsewhere pauses and the small words of English do: a line never ends
in an article or a preposition where it can end anywhere else, and rather before a conjunction than behind it.
"""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_CLOSERS = "\"'\u2019\u201d\u00bb)]"  # may stand behind a mark
_SENTENCE = ".?!\u2026\u3002\uff1f\uff01\u061f\u0964"
_CLAUSE = ",;:\u2013\u2014\u3001\uff0c\uff1b\u061b\u060c"
_TITLES = _set("mr. mrs. ms. dr. prof. st. vs. no. e.g. i.e.")
_LEANING = _set(  # on the word behind them
    "a an the my your his its our their this these those every each no "
    "of in on at to for from with by into onto over under about after before between through during without "
    "against toward towards upon as than and or but nor because if when while that which who whose where mr mrs ms dr"
)
_HELPING = _set(  # they go with the verb behind them, if one can choose
    "i you he she it we they i'm you're he's she's it's we're they're i'll we'll not very is are was were am be been "
    "has have had will would can could should may might must do does did"
)
_JOINING = _set(
    "and but or nor so yet because that which who whom whose when while where if unless until although though since "
    "before after as then than"
)
_PLACING = _set(
    "of in on at to for from with by into onto over under about between through during without against toward towards "
    "upon"
)

# What a break costs; LEANS is the last resort.
SENTENCE, CLAUSE, PLAIN, HELPS, LEANS = 0.0, 0.15, 0.7, 1.2, 6.0


def ends_sentence(word: str, following: str) -> bool:
    """A full stop and the like, unless it belongs to an abbreviation or the next word goes on in small letters."""
    bare = word.rstrip(_CLOSERS)
    if not bare or bare[-1] not in _SENTENCE:
        return False
    if bare[-1] in ".\u2026" and following[:1].islower():
        return False
    return bare.lower() not in _TITLES and not (len(bare) == 2 and bare[0].isupper() and bare[1] == ".")


def leans(word: str) -> bool:
    """It says nothing without the word behind it."""
    return word.lower() in _LEANING


def cost(word: str, following: str, pause: float) -> float:
    """How much a break between the two hurts; `pause` is theirs as a share of one that ends a cue, 0..1."""
    if ends_sentence(word, following):
        return SENTENCE
    bare = word.rstrip(_CLOSERS)
    if bare and bare[-1] in _CLAUSE:
        return CLAUSE
    if leans(word):
        return LEANS
    if word.lower() in _HELPING:
        return HELPS
    least = PLAIN - 0.6 * pause
    if following.lower() in _JOINING:
        return least - 0.25
    return least - 0.15 if following.lower() in _PLACING else least
