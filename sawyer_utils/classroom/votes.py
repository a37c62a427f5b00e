"""What a class prefers: votes on a file, many files as one, and how far they agree.

A vote is a row of the corpus's preference schema, so a reward model trains on it as it stands. Who voted is
not in it: its id is a random number, whose only use is that a file that comes in twice counts once.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sawyer_utils import data
from sawyer_utils.data import Pair
from sawyer_utils.plumbing import sources
from sawyer_utils.plumbing.files import replacing
from sawyer_utils.plumbing.reading import DataError, within

WON, LOST = 6, 5  # of 10: a vote says which is better, not by how much


def vote(prompt: str, answers: dict[str, str], winner: str) -> dict | None:
    """One vote as a row ``{id, topic, prompt, responses: [{text, score, kind}, …]}``.

    Args:
        answers: stage -> text; the stage becomes the response's ``kind``.

    Returns:
        None where nothing was decided: the others said the same as the winner, or nothing.
    """
    best, others = answers[winner], {}
    for stage, text in answers.items():  # what two of them said is one answer
        if text.strip() and not any(sources.same_text(text, seen) for seen in (best, *others.values())):
            others[stage] = text
    if not best.strip() or not others:
        return None
    responses = [{"text": answers[winner], "score": WON, "kind": winner}]
    responses += [{"text": text, "score": LOST, "kind": stage} for stage, text in others.items()]
    return {"id": f"vote-{secrets.token_hex(8)}", "topic": "class", "prompt": prompt, "responses": responses}


def append(path: Path, row: dict) -> None:
    """Add one vote to a file, which is made if need be; what is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):  # an editor has taken the last line's end away
        before += b"\n"
    with replacing(path) as temporary:  # whole or not at all: half a line would spoil the file
        temporary.write_bytes(before + json.dumps(row, ensure_ascii=False).encode() + b"\n")


def merge_votes(paths: Iterable[Path | str]) -> list[dict]:
    """The votes of many files, each once, however often its file came in.

    Raises:
        DataError: naming folder, file, line and field; or for one id with two different votes.
    """
    found: dict[str, dict] = {}
    for path in paths:
        with within(f"in {Path(path).parent}"):  # a class's files all have one name
            for row in sources.read_jsonl(path, sources.check_preference):
                if found.setdefault(row["id"], row) != row:
                    raise DataError(f"{Path(path).name}: the vote {row['id']} differs in another file")
    return list(found.values())


def pairs(votes: list[dict]) -> list[Pair]:
    """The pairs of all votes. Their id is the prompt's (of several spellings the first in the alphabet's), so
    that splits and bootstraps keep the votes on one prompt together."""
    spelt: dict[str, str] = {}
    for row in votes:
        key = sources.key_of(row)
        spelt[key] = min(row["prompt"], spelt.get(key, row["prompt"]))
    shared = {row["prompt"]: hashlib.sha256(spelt[sources.key_of(row)].encode()) for row in votes}
    found = data.pairs(votes)
    return [replace(pair, id=f"prompt-{shared[pair.prompt].hexdigest()[:16]}") for pair in found]


# --- agreement ----------------------------------------------------------------------------------


def krippendorff_alpha(units: Iterable[list[Hashable]]) -> float:
    """Agreement beyond chance for nominal values: 1 − observed / expected disagreement.

    Args:
        units: the values that each unit was given, by however many voters; a unit with fewer than two
            says nothing.

    Returns:
        1 for full agreement, 0 for chance; NaN if nothing could have differed.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C.
    """
    counts = [Counter(values) for values in units if len(values) > 1]
    n = sum(count.total() for count in counts)
    observed = sum((c.total() ** 2 - _squares(c)) / (c.total() - 1) for c in counts)
    totals = sum(counts, Counter())
    expected = (n**2 - _squares(totals)) / (n - 1) if n else 0
    return 1 - observed / expected if expected else math.nan


def _squares(count: Counter) -> int:
    return sum(k * k for k in count.values())


@dataclass(frozen=True)
class Agreement:
    """How far several voters agree on the same answers."""

    votes: int
    units: int  # sets of answers that anybody voted on
    shared: int  # of these, those with two votes or more
    alpha: float
    low: float
    high: float

    def __str__(self) -> str:
        said = f"{self.votes} votes on {self.units} sets of answers, {self.shared} of them with several votes"
        if math.isnan(self.alpha) or self.shared < 2:  # of one set alpha is 0, whatever was voted
            return f"{said}: no agreement to be computed"
        return f"{said}: Krippendorff's alpha {self.alpha:.2f} [{self.low:.2f}, {self.high:.2f}]"


def agreement(votes: list[dict]) -> Agreement:
    """Krippendorff's alpha of the votes, with a 95 % interval over sets of answers.

    A vote's value is the winner's place among its answers in the order of the alphabet: a name without
    meaning, so that chance is a coin toss even where one model always wins.
    """
    ballots: dict[tuple, list[int]] = defaultdict(list)
    for row in votes:
        said = {" ".join(r["text"].split()): r["score"] for r in row["responses"]}  # one text is one answer
        texts = sorted(said)
        ballots[row["prompt"], *texts].append(texts.index(max(said, key=said.get)))
    shared = [values for values in ballots.values() if len(values) > 1]
    rng = random.Random(0)
    drawn = [krippendorff_alpha(rng.choices(shared, k=len(shared))) for _ in range(1000 if shared else 0)]
    known = [alpha for alpha in drawn if not math.isnan(alpha)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (math.nan, math.nan)
    alpha = krippendorff_alpha(shared)
    return Agreement(len(votes), len(ballots), len(shared), alpha, float(low), float(high))
