"""AI feedback: opinions against log-probabilities read one by one, bias that cancels, and exercises of 10."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from exercise_tests import Exercises

from sawyer_utils import data
from sawyer_utils.chapters import ai_feedback
from sawyer_utils.plumbing.bases import UnsuitableBase

torch.set_num_threads(1)
ROWS = [
    {
        "id": name,
        "topic": "t",
        "prompt": f"Which {name}?",
        "responses": [{"text": f"{name} {i}", "score": score, "kind": ""} for i, score in enumerate(scores)],
    }
    for name, scores in (("tree", (9, 3)), ("stone", (7, 7, 1)))
]


@pytest.fixture
def writer(tiny_actor, tokenizer, tmp_path):
    model = tiny_actor(seed=1)
    with torch.no_grad():  # an adapter that says something
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return ai_feedback.Writer(model, tokenizer, "tiny", tmp_path / "asked")


@pytest.mark.parametrize("opening", ["", "Rules. It is true. "])
@pytest.mark.parametrize("adapter", ["base", "ref"])
@pytest.mark.parametrize("bias", [False, True])
def test_an_opinion_is_the_log_odds_of_the_next_token(writer, adapter, opening, bias, monkeypatch):
    head = writer.model.get_base_model().get_output_embeddings()
    if bias:  # GPT-J's and Phi's have one
        head.bias = torch.nn.Parameter(torch.randn(head.out_features, generator=torch.manual_seed(0)))
    in_twos = partial(ai_feedback.next_logprobs, batch=2)
    monkeypatch.setattr(ai_feedback, "next_logprobs", in_twos)
    questions = ["Good answer?", "Tree? Good answer?", "Which stone? A very long one. Good answer?"]
    texts = [opening + question for question in questions]
    opinions, mass = writer.ask(texts, adapter)
    ends = [writer.tokenizer(word, add_special_tokens=False).input_ids for word in (" yes", " no")]
    assert list(map(len, ends)) == [1, 1]
    for text, opinion, both in zip(texts, opinions, mass, strict=True):
        ids = torch.tensor([writer.tokenizer(text).input_ids])
        with torch.no_grad(), ai_feedback.models.using(writer.model, adapter):
            logprobs = writer.model(input_ids=ids).logits[0, -1].double().log_softmax(-1)
        yes, no = (float(logprobs[end[0]]) for end in ends)
        assert opinion == pytest.approx(yes - no, abs=1e-4)
        assert both == pytest.approx(math.exp(yes) + math.exp(no), rel=1e-3)
    assert opinions[0] != pytest.approx(opinions[1], abs=1e-3)


def test_a_model_that_changes_its_logits_after_the_output_layer_is_refused(writer):
    base = writer.model.get_base_model()
    base.register_forward_hook(lambda *call: setattr(call[-1], "logits", call[-1].logits * 2))
    with pytest.raises(UnsuitableBase, match="after the output layer"):
        writer.ask(["a?"], "ref")


def test_of_a_word_of_several_tokens_the_last_is_asked(writer):
    words = " yes no", " no", " yes"
    ((both, no, yes),) = ai_feedback.next_logprobs(writer.model, writer.tokenizer, ["Tree?"], words)
    assert both == no != yes


def test_autocast_does_not_round_opinions(writer):
    """Two logits in bfloat16 differ by a multiple of a large power of one half, and many opinions tie."""
    texts = [f"Tree {i}?" for i in range(12)]
    exact = writer.ask(texts, "ref")[0]
    half = replace(writer, compute=torch.bfloat16, folder=writer.folder / "half").ask(texts, "ref")[0]
    assert half == pytest.approx(exact, abs=0.2)
    steps = half * 2**12
    assert np.median(np.abs(steps - steps.round())) > 0.05


def test_what_was_asked_is_not_asked_again_and_other_weights_are(writer, monkeypatch):
    calls = []
    real = ai_feedback.next_logprobs
    monkeypatch.setattr(ai_feedback, "next_logprobs", lambda *args: calls.append(1) or real(*args))
    first = writer.ask(["a?", "b?"], "ref")[0]
    assert np.array_equal(writer.ask(["a?", "b?"], "ref")[0], first)
    assert len(calls) == 1
    base = writer.ask(["a?", "b?"], "base")[0]
    writer.ask(["b?", "a?"], "ref")
    with torch.no_grad():
        next(p for n, p in writer.model.named_parameters() if "lora_B.ref" in n).add_(1.0)
    assert not np.allclose(writer.ask(["a?", "b?"], "ref")[0], first)
    assert np.array_equal(writer.ask(["a?", "b?"], "base")[0], base)
    assert len(calls) == 4
    replace(writer, base="another").ask(["a?", "b?"], "ref")
    assert len(calls) == 5


def test_opinions_take_the_scores_place_in_order_and_give_no_margin(writer, monkeypatch):
    seen = []

    def ask(self, texts, adapter):
        seen.extend(texts)
        return np.array([1.0, 2.0, 5.0, 4.0, 3.0]), None

    monkeypatch.setattr(ai_feedback.Writer, "ask", ask)
    found = writer.opinions(ROWS, "{} -> {}".format, "base")
    assert seen == [f"Which {n}? -> {n} {i}" for n, k in (("tree", 2), ("stone", 3)) for i in range(k)]
    assert [[r["score"] for r in row["responses"]] for row in found] == [[1.0, 2.0], [5.0, 4.0, 3.0]]
    assert ROWS[0]["responses"][0]["score"] == 9, "the rows that were given stay as they were"
    pairs = data.pairs(found)
    assert (pairs[0].chosen, pairs[0].margin) == ("tree 1", 0.0)
    truth = data.pairs(ROWS)  # tree 0 > 1; stone 0 > 2, 1 > 2
    assert ai_feedback.gaps(found, truth).tolist() == [-1.0, 2.0, 1.0]
    with pytest.raises(KeyError):
        ai_feedback.gaps(found[:1], truth)


def test_a_special_token_that_is_spelt_stays_text(writer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        ai_feedback.Writer, "ask", lambda self, texts, adapter: (seen.extend(texts) or np.zeros(1), None)
    )
    answer = [{"text": "yes<|im_end|>", "score": 1}]
    row = {**ROWS[0], "prompt": "What is <|im_end|>?", "responses": answer}
    writer.opinions([row], "{} {}".format, "base")
    assert writer.tokenizer.eos_token_id not in writer.tokenizer(seen[0]).input_ids


@pytest.mark.parametrize(
    ("taste", "place", "says_first", "contradicts"),
    [
        ([1.0, -1.0], 0.0, 0.5, 0.0),  # no bias: each pair is answered alike in both orders
        ([1.0, -1.0], 3.0, 1.0, 1.0),  # the first place always wins
        ([1.0, -4.0], -3.0, 0.25, 0.5),
    ],
)
def test_a_taste_for_a_place_is_found_and_cancels(taste, place, says_first, contradicts):
    first, swapped = [t + place for t in taste], [-t + place for t in taste]
    found = ai_feedback.in_both_orders(first, swapped)
    wanted = {"says_first": says_first, "contradicts": contradicts, "bias": place}
    assert found == pytest.approx(wanted)
    assert (np.subtract(first, swapped) / 2).tolist() == pytest.approx(taste)


def test_agreement_counts_ties_half_and_draws_whole_prompts():
    pairs = [data.Pair(name, "", "", "", "", 1.0, ("", "")) for name in "aabb"]
    found = ai_feedback.agreement([2.0, 1.0, 0.0, -1.0], pairs)
    assert (found["right"], found["n"]) == (0.625, 4)
    many = [data.Pair(name, "", "", "", "", 1.0, ("", "")) for name in "ab" for _ in range(40)]
    assert ai_feedback.agreement([1.0] * 80, many)["low"] < 0.5
    wide = ai_feedback.agreement([1.0] * 40 + [-1.0] * 40, many)
    assert wide["low"] < 0.1 < 0.9 < wide["high"], "two prompts say little, however many pairs they have"


class TestFeedback(Exercises):
    NOTEBOOK = "10_ai_feedback"
    LEAST = 2
    RIGHT: ClassVar[dict] = {
        "10.1": {"a tensor": torch.tensor([0.56])},
        "10.2": {"a tensor": lambda a, b: torch.tensor([(a - b) / 2]).sigmoid()},
    }
    WRONG: ClassVar[dict] = {
        "10.1": {
            "both right": 0.48,
            "the writer's": 0.6,
            "the judge's": 0.8,
            "their mean": 0.7,
            "more than all": 1.4,
        },
        "10.2": {
            "one order alone": lambda a, b: 1 / (1 + math.exp(-a)),
            "the sum": lambda a, b: 1 / (1 + math.exp(-(a + b) / 2)),
            "not halved": lambda a, b: 1 / (1 + math.exp(b - a)),
            "the wrong way round": lambda a, b: 1 / (1 + math.exp((a - b) / 2)),
            "no probability": lambda a, b: (a - b) / 2,
            "the mean of two probabilities": lambda a, b: (
                (1 / (1 + math.exp(-a)) + 1 - 1 / (1 + math.exp(b))) / 2
            ),
        },
    }
