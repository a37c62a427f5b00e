"""What should a judge on frozen models look at? Cross-validation on the training prompts of notebook 02.

    python benchmarks/judge_features.py

Each fifth of the training prompts is judged by weights that were trained on the other four: right on pairs as
they are written, and on own answers against strangers'. The held-out prompts of 02 are not looked at.
Writes results/judge_features.json. About three minutes on two cores.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from sawyer_utils import data, runtime
from sawyer_utils.probe import FOLDS, PENALTIES, fit
from sawyer_utils.reward import RewardModel


def parts(judge) -> dict[str, torch.Tensor]:
    """Name -> which features."""
    states = judge.model.base.config.hidden_size * len(judge.model.depths)
    everything = torch.arange(len(judge.model.share))
    return {
        "hidden states": everything[:states],
        "sentence vector": everything[states:-1],
        "cosine": everything[-1:],
        "hidden states, cosine": torch.cat([everything[:states], everything[-1:]]),
        "all three": everything,
    }


def right(found: dict, pairs: list, weights: torch.Tensor, columns: torch.Tensor) -> list[bool]:
    gaps = torch.stack([found[p.prompt, p.chosen] - found[p.prompt, p.rejected] for p in pairs])
    return ((gaps[:, columns] @ weights) > 0).tolist()


def cross_validate(found, written, strangers, learned, columns, penalty) -> tuple[float, float]:
    """(right on pairs as written, right on strangers), each by weights that did not see its prompt."""
    names = sorted({pair.id for pair in written})
    random.Random(0).shuffle(names)
    fold = {name: i % FOLDS for i, name in enumerate(names)}
    hits = [], []
    for k in range(FOLDS):
        lessons = [pair for pair in learned if fold[pair.id] != k]
        better, worse = (
            torch.stack([found[p.prompt, text] for p, text in zip(lessons, texts, strict=True)])[:, columns]
            for texts in ([p.chosen for p in lessons], [p.rejected for p in lessons])
        )
        weights, _ = fit(better, worse, penalty)
        for hit, pairs in zip(hits, (written, strangers), strict=True):
            hit += right(found, [pair for pair in pairs if fold[pair.id] == k], weights, columns)
    return tuple(float(np.mean(hit)) for hit in hits)


def main() -> None:
    profile = runtime.setup()
    train, _ = data.split_rows(data.load_preferences(profile.preferences, profile.limit), 0.2)
    written, strangers = data.pairs(train), data.strangers(train)
    judge = RewardModel.untrained(profile)
    pairs = written + strangers
    texts = list(dict.fromkeys((p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)))
    found = dict(zip(texts, judge.features(*map(list, zip(*texts, strict=True))), strict=True))
    rows = []
    for what, columns in parts(judge).items():
        for lessons, learned in (("pairs", written), ("pairs and strangers", pairs)):
            for penalty in PENALTIES:
                scale = penalty * judge.model.share[columns]
                shares = cross_validate(found, written, strangers, learned, columns, scale)
                row = dict(zip(("pairs", "strangers"), shares, strict=True))
                rows.append({"features": what, "trained on": lessons, "penalty": penalty, **row})
                print(rows[-1], flush=True)
    runtime.write_json(runtime.project_root() / "results" / "judge_features.json", {"rows": rows})


if __name__ == "__main__":
    main()
