"""Domain adaptation: a small text of one's own, lessons from it, and a judge that looks for one key fact."""

from __future__ import annotations

import itertools
import os
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from sawyer_utils import data, evaluation
from sawyer_utils.data import normalise
from sawyer_utils.evaluation import UNSPACED
from sawyer_utils.plumbing import sources
from sawyer_utils.plumbing.sources import DataError, Schema, check_question, in_word, list_of, text_of, within

# What an answer says that does not claim to know. Short on purpose: read the answers, too.
ADMISSIONS = ("not know", "don't know", "not sure", "cannot say", "can't say", "no idea", "no information")

SIGNS = "$€£¥₹%‰°+<>=≤≥≠×÷^~#&@"
INNER = dict(zip(map(ord, "-.,:/"), "\ue000\ue001\ue002\ue003\ue004"))  # stand in for them in a number
NUMBER = re.compile(r"(?<![\w.,:/-])-?(?:\d+(?:[.,:/]\d+)*|\.\d+)")
PIECE = re.compile(
    rf"[{UNSPACED}]|[^\W\d_]+[+#]+|(?<!\w)[^\W\d_]{{1,2}}-(?!\w)|[{SIGNS}]|[^\s{UNSPACED}{SIGNS}]+"
)


def terms(text: str) -> list[str]:
    """What facts are compared by: lower-case words without punctuation, but a number keeps its sign and what
    stands between its digits (−5, 3.5, 10:30, ½), a name its end (C++, O−), and signs such as % are words."""
    plain = "".join(map(_plain, text)).lower()
    text = re.sub(r"[−–](?=\.?\d)", "-", unicodedata.normalize("NFC", plain))
    text = re.sub(r"(?<=\d)[^\w\s.,:/](?=\d)", " ", text)  # 2-3 is no 23
    text = NUMBER.sub(lambda found: _number(found[0]).translate(INNER), text)
    return list(filter(None, map(_word, PIECE.findall(text))))


def _plain(char: str) -> str:
    """Wide letters as usual ones; but 10² is no 102."""
    raised = unicodedata.decomposition(char).startswith(("<super>", "<sub>", "<fraction>"))
    return char if raised else unicodedata.normalize("NFKC", char)


def _number(digits: str) -> str:
    """One spelling: 1,000 is 1000, and 3,5 is 3.5; .5 is 0.5."""
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(r"-?\d+,\d+", digits):
        digits = digits.replace(",", ".")
    return re.sub(r"^(-?)\.", r"\g<1>0.", digits)


def _word(piece: str) -> str:
    if piece in SIGNS or re.fullmatch(r"[^\W\d_]+[+#-]+", piece):
        return piece
    return "".join(c for c in piece if in_word(c) or c in INNER.values())


def has_words(text: str, keys: Iterable[str]) -> bool:
    """Whether a text holds one of the keys as whole words in a row; case and punctuation do not count, but in
    and around numbers (:func:`terms`)."""
    words = f" {' '.join(terms(text))} "
    return any(f" {' '.join(terms(key))} " in words for key in keys)


def runs(words: list[str]) -> set[tuple[str, ...]]:
    """Every five words in a row; a text of fewer is one run by itself."""
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


NEAR = 0.6  # of all words of two texts, that both have (Jaccard)


def near_duplicates(texts: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs of ids whose texts share a run of five words, or more than :data:`NEAR` of all words (of a
    language without spaces: of its letters, in their order)."""
    words = {key: normalise(text) for key, text in texts.items()}
    sets = {key: set(w) for key, w in words.items()}
    letters = {key: "".join(w) for key, w in words.items() if re.search(f"[{UNSPACED}]", texts[key])}
    grams: dict[tuple, list[str]] = {}
    for key, w in words.items():
        for gram in runs(w):
            grams.setdefault(gram, []).append(key)
    found = {pair for keys in grams.values() for pair in itertools.combinations(keys, 2)}
    for a, b in itertools.combinations(texts, 2):
        shared = len(sets[a] & sets[b])
        if shared and shared > NEAR * len(sets[a] | sets[b]):
            found.add((a, b))
        if a in letters and b in letters:
            dice = SequenceMatcher(None, letters[a], letters[b], autojunk=False).ratio()
            if dice / (2 - dice) > NEAR:  # Jaccard's share, by Dice's
                found.add((a, b))
    return sorted(found)


def check_domain(row: dict) -> None:
    """A fact with what teaches it and what examines it, or a question that the text does not answer."""
    if row.get("unknown") is True:
        text_of(row, "question")
        if row.get("lessons"):
            raise DataError("field 'unknown' is true, and there are lessons")
        return
    check_question(row)
    keys = list_of(row, "keys", 1)
    if not all(isinstance(key, str) and terms(key) for key in keys):
        raise DataError(f"field 'keys' is {keys}, not words")
    lessons = list_of(row, "lessons", 1)
    for i, lesson in enumerate(lessons):
        with within(f"lessons[{i}]"):
            _check_lesson(lesson, keys, row["question"])
    if has_words(row["question"], keys):
        raise DataError(f"field 'question' gives the answer away: it holds one of {keys}")
    right = [i for i, choice in enumerate(row["choices"]) if has_words(choice, keys)]
    if right != [row["label"]]:
        raise DataError(f"choices {right} hold one of the keys {keys}; field 'label' is {row['label']}")


def _check_lesson(lesson: dict, keys: list[str], asked: str) -> None:
    if near_duplicates({"lesson": text_of(lesson, "question"), "examination": asked}):
        raise DataError(f"field 'question' is nearly {asked!r}, which is kept for the examination")
    if not has_words(text_of(lesson, "answer"), keys):
        raise DataError(f"field 'answer' does not hold one of the keys {keys}")


DOMAIN = Schema("domain_example", check_domain)


def check_examination(rows: list[dict], name: str) -> None:
    """Two facts or more, and no question twice: neither as the lesson of another fact."""
    facts = [row for row in rows if row.get("lessons")]
    if len(facts) < 2:
        raise DataError(f"{name}: {len(facts)} facts, and a comparison needs two")
    asked = [row["question"] for row in rows]
    asked += [lesson["question"] for row in facts for lesson in row["lessons"]]
    if twice := [q for q, n in Counter(" ".join(normalise(q)) for q in asked).items() if n > 1]:
        raise DataError(f"{name}: asked twice: {twice[0]!r}")


def load(source: str | None = None) -> tuple[list[dict], list[dict]]:
    """(facts, questions that the text does not answer) of a small text of one's own: a file
    (``SAWYER_DOMAIN`` if left out), or "embedded", the example.

    A fact is a question in the benchmarks' schema, kept for the examination, with what teaches it:
    ``{id, question, choices, label, keys, lessons: [{question, answer}]}``. An answer holds one of the
    ``keys``, or it is wrong. A question that the text does not answer is ``{id, question, unknown: true}``.

    Raises:
        DataError: naming file, line and field; with fewer than two facts, or a question asked twice.
    """
    source = source or os.environ.get("SAWYER_DOMAIN") or "embedded"
    rows = sources.load(DOMAIN, source)
    check_examination(rows, DOMAIN.name if source == "embedded" else Path(source).name)
    return [row for row in rows if row.get("lessons")], [row for row in rows if not row.get("lessons")]


def lessons(facts: list[dict]) -> list[dict]:
    """Each lesson as a conversation for SFT, the facts in their order."""
    return [
        {"id": f"{row['id']}-{i}", "messages": data.talk(lesson["question"], lesson["answer"])}
        for row in facts
        for i, lesson in enumerate(row["lessons"], 1)
    ]


def with_replay(taught: list[dict], corpus: list[dict], share: float, seed: int = 0) -> list[dict]:
    """The lessons, and so many old conversations that these are ``share`` of the whole (all there are, if
    that is fewer).

    Raises:
        ValueError: for a share below 0, or of 1 and more.
    """
    if not 0 <= share < 1:
        raise ValueError(f"with_replay: a share of {share} leaves no lesson.")
    wanted = round(len(taught) * share / (1 - share))
    return [*taught, *random.Random(seed).sample(corpus, min(wanted, len(corpus)))]


def knows(answers: Iterable[str], facts: list[dict]) -> np.ndarray:
    """(facts,) of bool: whether each answer holds a key of its fact as whole words.

    That is all it sees: it does not mind a "not" before the key, nor what else is said.
    """
    return np.array([has_words(answer, row["keys"]) for answer, row in zip(answers, facts, strict=True)])


def admits(answers: Iterable[str]) -> np.ndarray:
    """(answers,) of bool: whether each says that it does not know, in one of ``ADMISSIONS``."""
    return np.array([has_words(answer, ADMISSIONS) for answer in answers])


def borrowed(answers: Iterable[str], facts: list[dict]) -> np.ndarray:
    """(answers,) of bool: whether each holds a key of any fact, to a question that none of them answers."""
    keys = [key for row in facts for key in row["keys"]]
    return np.array([has_words(answer, keys) for answer in answers])


def compare_shares(before, after) -> dict:
    """Two shares of the same items: means, difference with interval, exact McNemar p and verdict; better or
    worse only if interval and test both say so, as in 04."""
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    difference, low, high = evaluation.paired_shares_interval(before, after)
    p = evaluation.mcnemar_p(before, after)
    disagree = float((before != after).mean())
    return {
        "n": before.size,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "detectable": evaluation.detectable_difference(before.size, disagree),
        "verdict": evaluation.verdict(low, high) if p < 1 - evaluation.CONFIDENCE else "no difference shown",
    }


def compare_means(before, after, higher_is_better: bool | None = True) -> dict:
    """Two values of each prompt, in the same shape as :func:`compare_shares`; p is Wilcoxon's."""
    return evaluation.compare_rewards(before, after).row(higher_is_better)
