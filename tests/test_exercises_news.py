"""The exercises of 07, with the mistakes that each must refuse."""

from __future__ import annotations

import math
import re
import statistics
from typing import ClassVar

import torch
from exercise_tests import Exercises

from sawyer_utils import reward
from sawyer_utils.chapters import summaries
from sawyer_utils.classroom.checks import check
from sawyer_utils.classroom.exercises import news as exercises_news
from sawyer_utils.course import notebooks as course

BAKERY = "The bakery on the corner opens at six and sells seven kinds of bread and ten of cake."
HAND = next(row["summary"] for row in summaries.load_news("test"))


def numerals(text):
    return re.findall(r"\d+", text)


def shares(count):
    """A part that gives each summary ``count(its numerals, its source's)``."""
    return lambda prompts, said: [count(numerals(s), numerals(p)) for p, s in zip(prompts, said)]


def share(own, known):
    return sum(n in known for n in own) / len(own) if own else 1.0


def text_in_text(prompts, said):
    return [
        sum(n in p for n in numerals(s)) / len(numerals(s)) if numerals(s) else 1.0
        for p, s in zip(prompts, said)
    ]


def spread(measure):
    """Weights divided by a measure of each part's scores."""
    return lambda scores, weights: {name: weights[name] / measure(scores[name]) for name in scores}


def doctor(*checks):
    """Names the first part whose check ``(start's means, end's means) -> bool`` strikes."""

    def unpaid(before, after):
        start, end = ({k: statistics.mean(v) for k, v in run.items()} for run in (before, after))
        return next((part for part, strikes in checks if strikes(start, end)), "nothing")

    return unpaid


LENGTH = ("length", lambda start, end: abs(end["words"] - 18) > 5)
SIMILARITY = ("similarity", lambda start, end: end["similarity"] < start["similarity"] - 0.1)
NEUTRALITY = ("neutrality", lambda start, end: end["neutrality"] < start["neutrality"] + 0.04)


RIGHT_DOCTOR = doctor(LENGTH, SIMILARITY, NEUTRALITY)


def largest_change(before, after):
    names = {"neutrality": "neutrality", "similarity": "similarity", "words": "length"}
    change = {k: abs(statistics.mean(after[k]) - statistics.mean(before[k])) for k in names}
    return names[max(change, key=change.get)]


class TestNews(Exercises):
    NOTEBOOK = "07_neutral_summaries"
    NAMES: ClassVar[dict] = {"math": math, "re": re, "statistics": statistics}
    RIGHT: ClassVar[dict] = {
        "07.1": {"two decimals": 0.318, "a tensor": torch.tensor([0.3182])},
        "07.2": {"a tensor": lambda prompts, said: torch.tensor(shares(share)(prompts, said))},
        "07.3": {
            "another spread": spread(lambda s: 3 * statistics.pstdev(s)),
            "tensors": spread(lambda s: torch.tensor([s]).std()),
        },
        "07.4": {"of another matter": BAKERY},
        "07.5": {"in any case": lambda before, after: RIGHT_DOCTOR(before, after).upper()},
    }
    WRONG: ClassVar[dict] = {
        "07.1": {
            "not squeezed": 1.3,
            "each squeezed, then added": 2 * 0.4404 - 0.5423,
            "each squeezed, then averaged": (2 * 0.4404 - 0.5423) / 3,
            "blame forgotten": 3.8 / math.sqrt(3.8**2 + 15),
            "blame added": 6.3 / math.sqrt(6.3**2 + 15),
            "blame counts more": -0.3182,
            "without the root": 1.3 / (1.3**2 + 15),
        },
        "07.2": {
            "text in text": text_in_text,
            "none is zero": shares(lambda own, known: share(own, known) if own else 0.0),
            "share of the source's": shares(lambda own, known: share(known, own)),
            "all or nothing": shares(lambda own, known: float(set(own) <= set(known))),
            "a count": shares(lambda own, known: float(sum(n in known for n in own))),
            "one of them is enough": shares(lambda own, known: float(not own or bool({*own} & {*known}))),
            "words and not runs of digits": lambda prompts, said: [
                share([w for w in s.split() if w.isdigit()], p.split()) for p, s in zip(prompts, said)
            ],
            "one number for all": lambda prompts, said: sum(shares(share)(prompts, said)) / len(said),
            "the first prompt for all": lambda prompts, said: shares(share)([prompts[0]] * len(said), said),
            "always content": shares(lambda own, known: 1.0),
        },
        "07.3": {
            "as they are": lambda scores, weights: weights,
            "times the spread": spread(lambda s: 1 / statistics.stdev(s)),
            "by the variance": spread(statistics.variance),
            "by the mean": spread(lambda s: statistics.mean(s)),
            "by the largest": spread(lambda s: max(map(abs, s))),
            "weight forgotten": lambda scores, weights: {
                k: 1 / statistics.stdev(s) for k, s in scores.items()
            },
            "upside down": spread(lambda s: -statistics.stdev(s)),
            "one part alone": lambda scores, weights: {"length": 1 / statistics.stdev(scores["length"])},
            "a list": lambda scores, weights: [1 / statistics.stdev(s) for s in scores.values()],
        },
        "07.4": {
            "somebody's summary": HAND,
            "nothing": "",
            "neutral, but short": "They met and went home again.",
            "two words too few": "They met in the hall at ten on Monday and then did as they said.",
            "eighteen loaded words": " ".join(["good"] * 18),
            "a list of words": ["the"] * 18,
        },
        "07.5": {
            "always nothing": doctor(),
            "without the length": doctor(SIMILARITY, NEUTRALITY),
            "without the similarity": doctor(LENGTH, NEUTRALITY),
            "without the neutrality": doctor(LENGTH, SIMILARITY),
            "length only when it grows": doctor(
                ("length", lambda start, end: end["words"] > 23), SIMILARITY, NEUTRALITY
            ),
            "the largest change of all": largest_change,
            "the end alone": doctor(
                LENGTH, SIMILARITY, ("neutrality", lambda start, end: end["neutrality"] < 0.3)
            ),
            "another name": lambda before, after: "tone",
        },
    }

    def test_the_judge_of_the_tone_is_the_list_itself(self):
        assert summaries.tone([exercises_news.SENTENCE]) == [0.3182]
        assert exercises_news.SENTENCE in course.source_path(self.NOTEBOOK).read_text(encoding="utf-8")


def test_standardised_weights_order_as_the_mixture_does():
    scores, weights = exercises_news.uneven_parts()
    texts = [str(i) for i in range(40)]
    parts = {
        name: (reward.standardised(lambda p, r, s=s: [float(s[int(x)]) for x in r], texts, texts)[0], w)
        for (name, s), w in zip(scores.items(), weights.values(), strict=True)
    }
    ours = torch.tensor(reward.Mixture(**parts)(texts, texts))
    raw = sum(weights[name] / s.std() * s for name, s in scores.items())
    assert ours.argsort().tolist() == raw.argsort().tolist()


def test_a_text_that_does_not_win_is_told_on_how_many_paragraphs():
    assert f"of {len(summaries.load_news('test'))} paragraphs" in check("07.4", HAND).said


def test_each_kind_of_run_shows_what_was_left_out():
    generator = torch.Generator().manual_seed(0)
    for part in (*exercises_news.PARTS, exercises_news.NOTHING):
        before, after = exercises_news.made_up_run(part, generator)
        assert set(before) == set(after) == {"neutrality", "similarity", "words"}
        assert RIGHT_DOCTOR(before, after) == part
