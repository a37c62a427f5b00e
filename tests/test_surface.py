"""The two judges that cannot read: each finds what can be counted, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sawyer_utils import data
from sawyer_utils.chapters import surface
from sawyer_utils.course.corpus_proof import EMBEDDED, LARGEST, DataError, check_unreadable

WORDS = ("the", "a", "river", "stone", "light", "of", "under", "walks", "slowly", "green", "old", "bird")


def rows(score_of, n: int = 80) -> list[dict]:
    """Preferences of random words; ``score_of(text, rng)`` scores each text."""
    rng, found = random.Random(0), []
    for i in range(n):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(3, 40))) + rng.choice(".!?") for _ in range(4)]
        responses = [{"text": t, "score": score_of(t, rng), "kind": ""} for t in texts]
        found.append({"id": str(i), "topic": "t", "prompt": "Which river?", "responses": responses})
    return found


@pytest.mark.parametrize(
    ("text", "band"), [("a", 0), ("a " * 5, 0), ("a " * 6, 1), ("a " * 60, 7), ("a " * 61, 8), ("", 0)]
)
def test_bands_of_length_have_their_upper_ends_inside(text, band):
    assert surface.band(text) == band


def test_a_peak_of_length_is_found_though_no_line_shows_it():
    peak = surface.without_reading(rows(lambda t, _: 9 if 15 < len(t.split()) <= 25 else 2))
    assert peak["words alone"] > 0.95
    assert peak["surface"] > 0.95


@pytest.mark.parametrize("mark", ["!", "?"])
def test_a_mark_is_found_by_the_surface_and_not_by_length(mark):
    found = surface.without_reading(rows(lambda t, _: 8 if t.endswith(mark) else 3))
    assert found["surface"] > 0.95
    assert found["words alone"] < 0.65


def test_a_first_word_is_found():
    found = surface.without_reading(rows(lambda t, _: 8 if t.split()[0] == "river" else 3, n=200))
    assert found["surface"] > 0.9


def test_what_only_reading_tells_is_not_found():
    plain = rows(lambda t, rng: rng.choice((3, 8)), n=150)
    found = surface.without_reading(plain)
    assert abs(found["surface"] - 0.5) < 0.1
    assert abs(found["words alone"] - 0.5) < 0.1


@pytest.mark.parametrize("n", [1, 2])
def test_one_pair_and_equal_pairs_teach_a_judge_with_finite_scores(n):
    responses = [{"text": "A river, under a stone.", "score": 9}, {"text": "Walks", "score": 2}]
    few = [{"id": str(i), "prompt": "Which?", "responses": responses} for i in range(n)]
    (score, *_) = surface.surface(few, data.pairs(few))
    assert 0 < score < 100


def test_a_tie_counts_half(monkeypatch):
    monkeypatch.setattr(surface, "words_alone", lambda *_: np.array([1.0, -1.0, 0.0, 0.0]))
    assert surface.without_reading(rows(lambda t, _: len(t) % 9, n=10))["words alone"] == 0.5


def test_the_better_response_comes_first():
    learn = rows(lambda t, _: 9 if len(t.split()) > 20 else 2)
    pairs = data.pairs(rows(lambda t, _: 9 if len(t.split()) > 20 else 2, n=10))
    assert (surface.words_alone(learn, pairs) > 0).mean() > 0.95


@pytest.mark.parametrize("text", ["", "   ", "42", "?!", "\n"])
def test_texts_without_words_have_finite_features(text):
    found = surface.features(text, text, ["the"])
    assert np.isfinite(found).all()
    assert found.shape == surface.features("Why?", "So it is.", ["the"]).shape


# --- the course's own preferences ---------------------------------------------------------------


@pytest.mark.parametrize(("name", "load"), [("preferences", data.load_preferences), ("gold", data.load_gold)])
def test_in_the_courses_preferences_the_surface_says_nothing(name, load):
    found = check_unreadable(load(), name)
    assert found.keys() == LARGEST.keys()
    assert all(0.4 < share <= LARGEST[how] for how, share in found.items())


def test_the_exhibit_is_refused():
    """The earlier set, kept to show how a judge that is right on 0.92 can have read nothing."""
    exhibit = data.load_preferences(str(EMBEDDED / "length_tells.jsonl"))
    assert min(surface.without_reading(exhibit).values()) > 0.85
    with pytest.raises(DataError, match=r"exhibit: words alone is right on 0\.\d+ of held-out pairs"):
        check_unreadable(exhibit, "exhibit")
