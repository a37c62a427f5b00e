"""Two judges that cannot read: what the length of a response, or its surface, tells of its quality.

A reward model has to beat both on the same pairs; where it does not, its accuracy is no sign that it reads.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch

from sawyer_utils.data import Pair, pairs
from sawyer_utils.losses import bradley_terry

EDGES = (5, 10, 15, 20, 25, 30, 45, 60)  # words; a ninth band has all longer ones
MARKS = ",;:!?'\"()-\n"
PENALTY = 0.01  # of the squared weights, on features of variance 1


def band(text: str) -> int:
    """Which of the nine bands of length a text is in, by its words."""
    return int(np.searchsorted(EDGES, len(text.split())))


def features(prompt: str, response: str, openings: list[str]) -> np.ndarray:
    """What can be counted without understanding a word: lengths, marks, capitals, repetition, words that
    the question has too, pronouns, the band of length, and with which of ``openings`` it begins."""
    words, low = response.split(), re.findall(r"\w+", response.lower())
    asked, n = set(re.findall(r"\w+", prompt.lower())), max(1, len(words))
    sentences = max(1, len(re.findall(r"[.!?]+(?:\s|$)", response)))
    shares = [
        sum(map(len, words)),
        sum(word[:1].isupper() for word in words),
        sum(map(str.isdigit, response)),
    ]
    shares += [sum(word in group for word in low) for group in (("you", "your"), ("i", "my", "me"))]
    shares += map(response.count, MARKS)
    return np.array(
        [
            *(n, np.log(n), sentences, n / sentences),
            *(share / n for share in shares),
            len(set(low)) / max(1, len(low)),
            len(asked & set(low)) / max(1, len(asked)),
            response.rstrip().endswith((".", "!", "?")),
            *(band(response) == i for i in range(len(EDGES) + 1)),
            *(low[:1] == [opening] for opening in openings),
        ],
        dtype=float,
    )


def mean_scores(rows: list[dict]) -> dict[int, float]:
    """The mean score of the responses in each band of length, in the bands' order."""
    scores: dict[int, list[float]] = {}
    for response in itertools.chain.from_iterable(row["responses"] for row in rows):
        scores.setdefault(band(response["text"]), []).append(response["score"])
    return {key: float(np.mean(scores[key])) for key in sorted(scores)}


def words_alone(rows: list[dict], held: list[Pair]) -> np.ndarray:
    """Each pair's difference of the mean scores of the two bands of length, as the preferences have them."""
    mean = mean_scores(rows)
    return np.array([mean.get(band(p.chosen), 0.0) - mean.get(band(p.rejected), 0.0) for p in held])


def surface(rows: list[dict], held: list[Pair]) -> np.ndarray:
    """Each pair's difference of scores by a linear judge of :func:`features`, trained on ``rows`` with the
    loss of every reward model (Bradley and Terry)."""
    texts = (response["text"] for row in rows for response in row["responses"])
    begun = Counter(words[0] for text in texts if (words := re.findall(r"\w+", text.lower())))
    openings = [word for word, _ in begun.most_common(20)]

    def differences(some: Iterable[Pair]) -> torch.Tensor:  # (pairs, features)
        found = [
            features(p.prompt, p.chosen, openings) - features(p.prompt, p.rejected, openings) for p in some
        ]
        return torch.tensor(np.array(found))

    train, test = differences(pairs(rows)), differences(held)
    spread = train.std(0, correction=min(1, len(train) - 1))  # of one pair there is none
    scale = torch.where(spread > 1e-9, spread + 1e-9, 1.0)
    train, test = train / scale, test / scale
    weights = torch.zeros(train.shape[1], dtype=train.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = bradley_terry(train @ weights).mean() + PENALTY / 2 * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return (test @ weights).detach().numpy()


def without_reading(rows: list[dict]) -> dict[str, float]:
    """Accuracy of both judges on held-out prompts, a fifth of all, mean of five splits."""
    found: dict[str, list[float]] = {"words alone": [], "surface": []}
    for seed in range(5):
        mixed = random.Random(seed).sample(rows, len(rows))
        cut = int(0.8 * len(rows))
        held = pairs(mixed[cut:])
        for name, judge in (("words alone", words_alone), ("surface", surface)):
            ahead = np.heaviside(judge(mixed[:cut], held), 0.5)  # a tie counts half
            found[name].append(float(ahead.mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}
