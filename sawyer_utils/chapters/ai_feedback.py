"""Preferences that a language model writes: it is asked whether an answer keeps to a constitution, and what
counts is how much likelier it finds "yes" than "no" (AI feedback: Bai et al. 2022, arXiv 2212.08073).

Opinions are log-odds, log π(yes) − log π(no), in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sawyer_utils import chat, models
from sawyer_utils.chapters.likelihood import next_logprobs
from sawyer_utils.data import Pair
from sawyer_utils.evaluation import share_right
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.plumbing.resuming import digest, digest_of

YES, NO = " yes", " no"
Ask = Callable[[str, str], str]  # (question, answer) -> what the model reads before its "yes" or "no"


@dataclass(frozen=True)
class Writer:
    """A language model that writes preferences.

    Args:
        model: of ``models.load_actor``.
        base: the model's name.
        folder: what was asked once is kept there, and not asked again.
        compute: autocast dtype, or None for the weights' own.
    """

    model: torch.nn.Module
    tokenizer: object
    base: str
    folder: Path
    compute: torch.dtype | None = None

    def ask(self, texts: Sequence[str], adapter: str) -> tuple[np.ndarray, np.ndarray]:
        """An adapter's ("base": none's) opinion on each text, (n,), and how much probability "yes" and "no"
        have together, (n,): near 0, the model was going to say something else."""
        weights = digest_of(p for name, p in self.model.named_parameters() if f".{adapter}." in name)
        path = self.folder / f"asked-{digest([self.base, weights, *texts])}.json"
        if not path.exists():
            with models.using(self.model, adapter), models.merged(self.model):
                found = next_logprobs(self.model, self.tokenizer, list(texts), (YES, NO), self.compute)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
        yes, no = np.array(read_json(path)).T
        return yes - no, np.exp(yes) + np.exp(no)

    def opinions(self, rows: list[dict], ask: Ask, adapter: str) -> list[dict]:
        """Rows of preferences with the model's opinions in the place of the scores. They only say which of
        two answers is better (``scored`` is False): :func:`data.pairs` gives them no margin."""
        plain = partial(chat.as_text, self.tokenizer)  # a special token that a text spells stays text
        texts = [ask(plain(row["prompt"]), plain(r["text"])) for row in rows for r in row["responses"]]
        found = iter(self.ask(texts, adapter)[0].tolist())
        return [
            {**row, "scored": False, "responses": [{**r, "score": next(found)} for r in row["responses"]]}
            for row in rows
        ]


def in_both_orders(first: Sequence[float], swapped: Sequence[float]) -> dict[str, float]:
    """What a pairwise question says if it is asked twice, the two answers swapped the second time.

    Args:
        first, swapped: (n,) log-odds that the answer which is *shown first* is the better one.

    Returns:
        ``says_first``: share of all 2n questions with "yes"; ``contradicts``: share of the n pairs in which
        both orders prefer the same place; ``bias``: mean log-odds, 0 for a model without taste for a place.
    """
    both = np.array([first, swapped], dtype=float)
    return {
        "says_first": float((both > 0).mean()),
        "contradicts": float(((both[0] > 0) == (both[1] > 0)).mean()),
        "bias": float(both.mean()),
    }


def gaps(rows: list[dict], pairs: Sequence[Pair]) -> np.ndarray:
    """(n,) how much higher these rows score the chosen answer of each pair than the rejected one.

    Raises:
        KeyError: for an answer that is in no row.
    """
    score = {(row["prompt"], r["text"]): r["score"] for row in rows for r in row["responses"]}
    return np.array([score[p.prompt, p.chosen] - score[p.prompt, p.rejected] for p in pairs])


def agreement(differences: Sequence[float], pairs: Sequence[Pair]) -> dict[str, float]:
    """Share of pairs whose difference is above zero, a tie half, with its 95 % interval over prompts."""
    right, low, high = share_right(differences, [pair.id for pair in pairs])
    return {"right": right, "low": low, "high": high, "n": len(differences)}
