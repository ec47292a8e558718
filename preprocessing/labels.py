"""Emotion vocabulary: the canonical names, data-set codes, and the spellings found on disk."""

import difflib

EMOTIONS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""The seven classes in DFEW's order: the class index is the position."""
CONTEMPT = "contempt"
"""The eighth class of eight-class data sets."""

DFEW_CODES = dict(enumerate(EMOTIONS, start=1))
"""Labels 1..7 of DFEW's set_k.csv (specs: DFEW README v1.0)."""

_SPELLINGS = {
    "happy": ("happiness", "joy", "joyful"),
    "sad": ("sadness",),
    "neutral": ("neutrality",),
    "angry": ("anger",),
    "surprise": ("surprised",),
    "disgust": ("disgusted",),
    "fear": ("fearful", "afraid"),
    CONTEMPT: ("contemptuous",),
}
_CANONICAL = {word: name for name, words in _SPELLINGS.items() for word in (name, *words)}


class UnknownLabelError(ValueError):
    """A label that is no known spelling of an emotion."""


def canonical(label: str) -> str:
    """Canonical name of an emotion, whatever the case or the word form (`Happiness` -> `happy`).

    Raises:
        UnknownLabelError: names the nearest known spelling; never guesses.
    """
    word = label.strip().casefold()
    if word in _CANONICAL:
        return _CANONICAL[word]
    near = difflib.get_close_matches(word, _CANONICAL, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known emotions: {', '.join(_SPELLINGS)}"
    raise UnknownLabelError(f"unknown emotion {label!r}; {hint}")


def is_emotion(label: str) -> bool:
    """Whether `canonical` knows the label."""
    return label.strip().casefold() in _CANONICAL


def dfew_name(code: int) -> str:
    """Canonical name of a DFEW label code.

    Raises:
        UnknownLabelError: the code is not 1..7 (0 marks clips without a single label).
    """
    if code not in DFEW_CODES:
        raise UnknownLabelError(f"DFEW label {code} is out of range: 1..7 ({', '.join(EMOTIONS)})")
    return DFEW_CODES[code]
