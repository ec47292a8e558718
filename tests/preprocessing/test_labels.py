"""Spellings of emotions map to one name; nothing is guessed."""

import pytest

from preprocessing.labels import CONTEMPT, DFEW_CODES, EMOTIONS, UnknownLabelError, canonical, is_emotion


def test_dfew_codes_follow_its_readme() -> None:
    readme = {1: "happy", 2: "sad", 3: "neutral", 4: "angry", 5: "surprise", 6: "disgust", 7: "fear"}
    assert readme == DFEW_CODES


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Happiness", "happy"),
        ("SADNESS", "sad"),
        ("anger", "angry"),
        ("Surprised", "surprise"),
        ("disgusted", "disgust"),
        ("fearful", "fear"),
        (" Neutral ", "neutral"),
        ("Contempt", CONTEMPT),
    ],
)
def test_spellings(spelling: str, name: str) -> None:
    assert canonical(spelling) == name
    assert is_emotion(spelling)


def test_canonical_names_are_their_own_spelling() -> None:
    assert [canonical(name) for name in EMOTIONS] == list(EMOTIONS)


@pytest.mark.parametrize(
    ("label", "hint"), [("hapy", "did you mean 'happy'"), ("angre", "'ang"), ("7", "known emotions: happy, sad")]
)
def test_unknown_labels_are_refused_with_the_nearest_name(label: str, hint: str) -> None:
    assert not is_emotion(label)
    with pytest.raises(UnknownLabelError, match="unknown emotion") as error:
        canonical(label)
    assert hint in str(error.value)
