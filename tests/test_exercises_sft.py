"""The exercises of 01, with the mistakes that each must refuse."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from exercise_tests import Exercises


def nll(logits, ids):
    return -logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def shifted(logits, ids):
    return nll(logits[:, :-1], ids[:, 1:])


def mean_of_rows(logits, ids, graded):
    rows = zip(shifted(logits, ids), graded[:, 1:])
    return torch.stack([row[mask].mean() for row, mask in rows]).mean()


def loss(logits, ids, graded):
    return shifted(logits, ids)[graded[:, 1:]].mean()


def over_all_flags(logits, ids, graded):
    return (shifted(logits, ids) * graded[:, 1:]).sum() / graded.sum()


def by_cross_entropy(logits, ids, graded):
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].masked_fill(~graded[:, 1:], -100).flatten()
    )


def labels(ids, lengths, pad):
    is_text = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]
    return torch.where(is_text, ids, -100)


def by_id(ids, lengths, pad):
    return torch.where(ids == pad, -100, ids)


def by_id_but_the_last(ids, lengths, pad):
    return torch.cat([by_id(ids, lengths, pad)[:, :-1], ids[:, -1:]], 1)


class TestSFT(Exercises):
    NOTEBOOK = "01_sft"
    RIGHT: ClassVar[dict] = {
        "01.1": {"an array": np.array([419]), "a tensor": torch.tensor(419)},
        "01.2": {
            "one in a row": lambda *batch: loss(*batch).view(1),
            "numpy": lambda *batch: loss(*batch).numpy(),
            "fp64": lambda logits, ids, graded: loss(logits.double(), ids, graded),
            "cross entropy": by_cross_entropy,
        },
        "01.3": {
            "whole numbers": lambda ids, vocabulary: 20 * F.one_hot(ids, vocabulary),
            "numpy": lambda ids, vocabulary: 20 * np.eye(vocabulary)[ids.numpy()],
            "a list": lambda ids, vocabulary: (20 * F.one_hot(ids, vocabulary)).tolist(),
            "minus infinity": lambda ids, vocabulary: F.one_hot(ids, vocabulary).float().log(),
        },
        "01.4": {
            "numpy": lambda *rows: labels(*rows).numpy(),
            "a list": lambda *rows: labels(*rows).tolist(),
            "floats": lambda *rows: labels(*rows).float(),
        },
    }
    WRONG: ClassVar[dict] = {
        "01.1": {
            "one rank too low": 418,
            "one rank too high": 420,
            "the quotient itself": 1536 * 576 / (1536 + 576),
            "the smaller side": 576,
            "no rank": -3,
        },
        "01.2": {
            "forgot the shift": lambda logits, ids, graded: nll(logits, ids)[graded].mean(),
            "sum instead of mean": lambda logits, ids, graded: shifted(logits, ids)[graded[:, 1:]].sum(),
            "all tokens graded": lambda logits, ids, graded: shifted(logits, ids).mean(),
            "mask not shifted": lambda logits, ids, graded: shifted(logits, ids)[graded[:, :-1]].mean(),
            "mean of the rows' means": mean_of_rows,
            "sign": lambda logits, ids, graded: -shifted(logits, ids)[graded[:, 1:]].mean(),
            "one loss a token": lambda logits, ids, graded: shifted(logits, ids)[graded[:, 1:]],
            "a constant": lambda logits, ids, graded: 2.0,
            "divided by all flags": over_all_flags,
        },
        "01.3": {
            "knows nothing": lambda ids, vocabulary: torch.zeros(*ids.shape, vocabulary),
            "looks ahead": lambda ids, vocabulary: 20 * F.one_hot(ids.roll(-1, 1), vocabulary),
            "looks one ahead as well": lambda ids, vocabulary: (
                20 * F.one_hot(ids, vocabulary) + F.one_hot(ids.roll(-1, 1), vocabulary)
            ),
            "too timid": lambda ids, vocabulary: 2.0 * F.one_hot(ids, vocabulary),
            "for one text alone": lambda ids, vocabulary: (
                20 * F.one_hot(torch.arange(24).view(3, 8) % vocabulary)
            ),
            "ids for logits": lambda ids, vocabulary: ids,
            "forgot the vocabulary": lambda ids, vocabulary: 20 * F.one_hot(ids),
            "the toy's vocabulary": lambda ids, vocabulary: 20 * F.one_hot(ids, 11),
            "enough for a toy alone": lambda ids, vocabulary: 8.0 * F.one_hot(ids, vocabulary),
        },
        "01.4": {
            "by the token's id": by_id,
            "by the token's id, the last one kept": by_id_but_the_last,
            "up to the first that is no padding": lambda ids, lengths, pad: torch.where(
                (ids != pad).cumsum(1) > 0, ids, -100
            ),
            "by id unless it is the end's": lambda ids, lengths, pad: (
                labels(ids, lengths, pad) if pad == 4 else by_id(ids, lengths, pad)
            ),
            "padded on the right": lambda ids, lengths, pad: torch.where(
                torch.arange(ids.shape[1]) < lengths[:, None], ids, -100
            ),
            "nothing masked": lambda ids, lengths, pad: ids,
            "everything masked": lambda ids, lengths, pad: torch.full_like(ids, -100),
            "one off": lambda ids, lengths, pad: torch.where(
                torch.arange(ids.shape[1]) > ids.shape[1] - lengths[:, None], ids, -100
            ),
        },
    }

    def test_the_mistakes_of_a_loss_are_told_apart(self):
        from sawyer_utils.classroom.checks import check

        said = {name: check("01.2", wrong).said for name, wrong in self.WRONG["01.2"].items()}
        assert len(set(said.values())) == len(said)
        assert "position of the token itself" in said["forgot the shift"]
        assert "grows with the number" in said["sum instead of mean"]
