"""Shared prefixes against one plain sequence at a time, tasks against their text, letters by hand."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import known_model

from sawyer_utils import models
from sawyer_utils.chapters import choices, likelihood
from sawyer_utils.plumbing import hub
from sawyer_utils.plumbing.sources import DataError


def plain(model, tokenizer, context: str, continuation: str) -> float:
    """log π(continuation | context) from one forward pass of one sequence, in fp64 at the end."""
    bare = context.rstrip()
    before = tokenizer(bare).input_ids if bare else [tokenizer.bos_token_id or tokenizer.eos_token_id]
    ids = before + tokenizer(context + continuation).input_ids[len(before) if bare else 0 :]
    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[t - 1, ids[t]]) for t in range(len(before), len(ids)))


def words(rng: random.Random, n: int) -> str:
    return " ".join(rng.choices("abcde", k=n))


def some_requests(seed: int, prefix: int) -> list[tuple[str, str]]:
    """Contexts that share ``prefix`` words, with continuations that begin alike, repeat, or are short."""
    rng = random.Random(seed)
    opening = words(rng, prefix) + " " * bool(prefix)
    found = []
    for _ in range(6):
        context = opening + words(rng, rng.randint(1, 9))
        stem = " " + words(rng, rng.randint(1, 4))
        found += [(context, stem), (context, stem), (context, f"{stem} {words(rng, 3)}"), (context, " e")]
        found += [(context, " " + words(rng, rng.randint(1, 12))) for _ in range(rng.randint(0, 4))]
    return found


# --- log-likelihoods ----------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("prefix", "batch_tokens"), [(0, 64), (1, 1), (7, likelihood.BATCH_TOKENS), (40, 64)]
)
def test_shared_prefixes_equal_one_sequence_at_a_time(letters, letter_actor, attention, prefix, batch_tokens):
    model = letter_actor()
    model.get_base_model().set_attn_implementation(attention)
    requests = some_requests(prefix, prefix)
    found = likelihood.loglikelihoods(model, letters, requests, batch_tokens=batch_tokens)
    assert found == pytest.approx([plain(model, letters, *request) for request in requests], abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_requests_does_not_matter(letters, letter_actor, seed):
    model, requests = letter_actor(seed), some_requests(seed, seed)
    found = likelihood.loglikelihoods(model, letters, requests, batch_tokens=64)
    order = random.Random(seed).sample(range(len(requests)), len(requests))
    again = likelihood.loglikelihoods(model, letters, [requests[i] for i in order], batch_tokens=64)
    assert again == pytest.approx([found[i] for i in order], abs=1e-4)


@pytest.mark.parametrize(
    "requests",
    [
        [("a", " b")],  # one token each: no prefix, one node
        [("", "a b c"), ("", "a"), ("", "b")],
        [("", "a b c"), ("a b", " c")],
        [("a b c", " d")] * 3,  # the same three times
        [("a b ", "c d"), ("a b", " c d"), ("a b\n\n", "c d")],  # spaces move to the continuation
        [("a b", " c"), ("a b c", " d"), ("a b c d", " a")],  # a context that continues another
    ],
    ids=["shortest", "no context", "with and without", "repeated", "spaces", "nested"],
)
def test_edge_cases_equal_one_sequence_at_a_time(letters, letter_actor, requests):
    model = letter_actor()
    expected = [plain(model, letters, *request) for request in requests]
    assert likelihood.loglikelihoods(model, letters, requests) == pytest.approx(expected, abs=1e-4)


def test_no_requests_no_numbers(letters, letter_actor):
    assert likelihood.loglikelihoods(letter_actor(), letters, []) == []


def test_the_active_adapter_is_scored(letters, letter_actor):
    model, requests = letter_actor(), some_requests(0, 3)
    found = likelihood.loglikelihoods(model, letters, requests)
    with models.using(model, "base"):
        base = likelihood.loglikelihoods(model, letters, requests)
        assert base == pytest.approx([plain(model, letters, *r) for r in requests], abs=1e-4)
    assert np.abs(np.subtract(found, base)).max() > 0.1


def test_a_model_in_training_is_scored_without_dropout_and_left_in_training(letters, letter_actor):
    model = letter_actor(attention_dropout=0.5)
    quiet = likelihood.loglikelihoods(model, letters, some_requests(0, 3))
    model.train()
    assert likelihood.loglikelihoods(model, letters, some_requests(0, 3)) == pytest.approx(quiet, abs=1e-5)
    assert model.training


def test_bf16_under_autocast_is_close(letters, letter_actor):
    model, requests = letter_actor(), some_requests(1, 5)
    exact = likelihood.loglikelihoods(model, letters, requests)
    for attention in ("eager", "sdpa"):
        model.get_base_model().set_attn_implementation(attention)
        half = likelihood.loglikelihoods(model, letters, requests, compute=torch.bfloat16)
        assert half != exact
        assert half == pytest.approx(exact, rel=0.05, abs=0.2)


WINDOW = {"sliding_window": 8}  # shorter than some_requests(2, 16)
FAMILIES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},  # no positions, but a bias of distances
    "qwen2": {},
    "mistral": WINDOW,
    "gemma2": WINDOW | {"final_logit_softcapping": 3.0},  # works on the logits after the output layer
    "gemma3_text": WINDOW,
    "mamba": {"state_size": 8},  # no keys and values
    "rwkv": {"attention_hidden_size": 32},  # does not know transformers' cache
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_decoders_too(letters, family):
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    own = FAMILIES[family] if family in ("gpt2", "bloom") else sizes | FAMILIES[family]
    own |= {"vocab_size": len(letters), "pad_token_id": 0, "initializer_range": 0.2}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **own, bos_token_id=None, eos_token_id=None)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    requests = some_requests(2, 16)
    expected = [plain(model, letters, *request) for request in requests]
    assert likelihood.loglikelihoods(model, letters, requests) == pytest.approx(expected, abs=1e-4)


# --- what is computed ---------------------------------------------------------------------------


@pytest.fixture
def counted(letters, letter_actor):
    """A model, and the shapes of the tokens that it reads."""
    model, shapes = letter_actor(), []

    def read(_, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    model.get_base_model().get_decoder().register_forward_pre_hook(read, with_kwargs=True)
    return model, shapes


def test_what_requests_share_is_read_once(letters, counted):
    model, shapes = counted
    opening = "a b c d e " * 20
    context = opening + "b b b"
    once = [(context, " a c e"), (context, " a c d d"), (opening + "c", " a")]
    likelihood.loglikelihoods(model, letters, once * 3)
    # The opening; b b, and b with what follows it, but for the last token; c, the last one of its context.
    assert shapes == [(1, 100), (1, 2), (2, 4), (1, 1)]


def test_a_batch_is_bounded_in_tokens_and_in_what_its_rows_hold(letters, counted):
    model, shapes = counted
    answers = [f" {first} {second} e" for first in "abcd" for second in "abcd"]
    likelihood.loglikelihoods(model, letters, [("a b", each) for each in answers], batch_tokens=12)
    assert shapes == [(1, 1)] + 4 * [(4, 3)]  # rows of b, first, second
    shapes.clear()
    likelihood.loglikelihoods(model, letters, [("a b " * 9, each) for each in answers], batch_tokens=12)
    assert shapes == [(1, 17)] + 8 * [(2, 3)]  # 2 (17 + 3) is below 4 · 12, and 3 (17 + 3) is not


# --- what cannot be scored ----------------------------------------------------------------------


def test_what_is_too_long_is_cut_from_the_left_and_said(letters, letter_actor):
    model = letter_actor(max_position_embeddings=16)
    rng = random.Random(0)
    long, short = (words(rng, 30), " a b c"), ("b c", " d")
    with pytest.warns(UserWarning, match="1 of 2 requests are longer than the 16 tokens .* 16 tokens cut"):
        found = likelihood.loglikelihoods(model, letters, [long, short])
    # 33 tokens; the last is predicted and not read, so that 17 fit.
    kept = " ".join((long[0] + long[1]).split()[-17:-3])
    assert found == pytest.approx([plain(model, letters, kept, long[1]), plain(model, letters, *short)])


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("The sky is", " blue"), ("The sky is ", "blue"), ("The sky is \n", "blue")],
)
def test_a_space_that_ends_the_context_belongs_to_the_next_word(tokenizer, context, continuation):
    found = likelihood.encode_request(tokenizer, context, continuation, longest=64)
    assert tokenizer.decode(found.context).endswith("The sky is")
    assert [*found.context, *found.continuation] == tokenizer(context + continuation).input_ids[:]


def test_what_cannot_be_scored_is_refused(letters, letter_actor):
    model = letter_actor(max_position_embeddings=8)
    for request, message in [
        (("a", ""), "No tokens to score in ''"),
        ((" ", "a"), "No tokens to score"),
        (("a", " b" * 9), "A continuation of 9 tokens; the model reads 8"),
    ]:
        with pytest.raises(ValueError, match=message):
            likelihood.loglikelihoods(model, letters, [request])


def test_a_broken_model_is_no_answer(tokenizer, tiny_model):
    model = tiny_model(tied=False)
    model.model.embed_tokens.weight.data[tokenizer(" owl").input_ids] = math.nan
    owl = QUESTIONS[2] | {"choices": ["A cow", "An owl it is"]}
    with pytest.raises(ValueError, match=r"gives nan for ' An owl it is' after '.*can fly.*Answer:'"):
        choices.score_choices(model, tokenizer, [QUESTIONS[0], owl, QUESTIONS[1]])


# --- questions ----------------------------------------------------------------------------------

QUESTIONS = [
    {"id": "x-1", "question": "What is red?", "choices": ["Blood", "The sky on a fine day"], "label": 0},
    {"id": "x-2", "question": "Who?", "choices": ["You", "Nobody I know", "I", "We, the people"], "label": 3},
    {"id": "x-3", "question": "Which of these animals can fly?", "choices": ["A cow", "An owl"], "label": 1},
]


@pytest.mark.parametrize("batch_tokens", [16, 64, likelihood.BATCH_TOKENS])
def test_scored_choices_equal_plain_forward_passes(tokenizer, tiny_model, batch_tokens):
    model = tiny_model()
    found = choices.score_choices(model, tokenizer, QUESTIONS, batch_tokens=batch_tokens)
    assert found.columns.tolist() == ["id", "task", "label", "predicted", "correct", "logliks", "mass"]
    assert found.id.tolist() == ["x-1", "x-2", "x-3"]
    for row, question in zip(found.itertuples(), QUESTIONS, strict=True):
        context = f"Question: {question['question']}\nAnswer:"
        slow = [plain(model, tokenizer, context, f" {choice}") for choice in question["choices"]]
        assert row.logliks == pytest.approx(slow, abs=1e-4)
        assert row.predicted == int(np.argmax(slow))
        assert row.label == question["label"]
        assert row.correct == (row.predicted == question["label"])
        assert row.task == "plain"
        assert math.isnan(row.mass)


def test_the_cut_between_question_and_choice_moves_no_token(tokenizer):
    # Encoding both together, as lm-eval does, is encoding them apart only if no token spans the cut.
    for name in ("truthful_mini", "religions_mini"):
        for question in choices.load_questions(name):
            context = choices.PLAIN.format(**question)
            for choice in question["choices"]:
                apart = [tokenizer(t, add_special_tokens=False).input_ids for t in (context, f" {choice}")]
                found = likelihood.encode_request(tokenizer, context, f" {choice}", 512)
                assert found == (*map(tuple, apart), 0)


def test_mass_by_hand(letters):
    # Each token has its probability whatever came before; a text, the product of its tokens'.
    model = known_model(letters, {"a": 0.5, "b": 0.2, "c": 0.3})
    question = {"id": "m", "question": "d", "task": "truthfulqa_mc2"}
    question |= {"choices": ["b", "a b", "c", "a"], "labels": [1, 1, 0, 0]}
    row = choices.score_choices(model, letters, [question]).iloc[0]
    assert np.exp(row.logliks) == pytest.approx([0.2, 0.1, 0.3, 0.5], rel=1e-4)
    assert row.mass == pytest.approx(0.3 / 1.1, rel=1e-4)
    assert (row.predicted, row.correct) == (3, False)
    assert row.isna().label


def test_the_mass_of_very_unlikely_choices_is_a_number():
    assert choices.true_mass([-2000.0, -2000.0, -3000.0], np.array([True, False, False])) == 0.5


def test_mc1_and_mc2_share_their_work(letters, counted):
    model, shapes = counted
    one = {"id": "q", "question": "a b", "task": "truthfulqa_mc1", "choices": ["c d", "e"], "label": 0}
    many = one | {"task": "truthfulqa_mc2", "labels": [1, 0]}
    del many["label"]
    alone = choices.score_choices(model, letters, [one])
    both = choices.score_choices(model, letters, [one, many])
    assert shapes[: len(shapes) // 2] == shapes[len(shapes) // 2 :]
    assert both.logliks[0] == both.logliks[1] == pytest.approx(alone.logliks[0], abs=1e-6)


def test_tasks_of_several_kinds_in_one_call(tokenizer, tiny_model):
    model = tiny_model()
    truthful = {"id": "t", "question": "Is it?", "choices": ["Yes", "No"], "label": 0}
    truthful["task"] = "truthfulqa_mc1"
    mmlu = {"id": "m", "question": " Why? ", "task": "mmlu_world_religions", "choices": [*"wxyz"], "label": 2}
    found = choices.score_choices(model, tokenizer, [truthful, QUESTIONS[0], mmlu])
    contexts = {
        "truthfulqa_mc1": choices.TRUTHFULQA + "Q: Is it?\nA:",
        "plain": "Question: What is red?\nAnswer:",
        "mmlu_world_religions": (
            "The following are multiple choice questions (with answers) about world religions.\n\n"
            "Why?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
        ),
    }
    assert found.task.tolist() == list(contexts)
    answers = [truthful["choices"], QUESTIONS[0]["choices"], [*"ABCD"]]
    for row, context, each in zip(found.itertuples(), contexts.values(), answers, strict=True):
        assert row.logliks == pytest.approx(
            [plain(model, tokenizer, context, f" {answer}") for answer in each], abs=1e-4
        )


def test_an_unknown_task_and_no_questions_are_refused(letters, letter_actor):
    with pytest.raises(ValueError, match="Unknown task 'biology'"):
        choices.score_choices(letter_actor(), letters, [QUESTIONS[0] | {"task": "biology"}])
    with pytest.raises(ValueError, match="no questions"):
        choices.score_choices(letter_actor(), letters, [])


# --- letters ------------------------------------------------------------------------------------


READ = {  # answers, with a bar between them
    "A": "A - the first|Answer: A|My choice is A",
    "B": "B|b|B.|B. Paris|B) Paris is the capital.|B, because it rains|The answer is B|B. The answer is B",
    "C": " (C) |c: Buddhism|I would say option C, for it is true.",
    "D": "**D**|The correct answer is (D).",
    # A letter that may be a word, or no letter at all; more than one, or one that no choice has.
    None: "A dog has four legs|I think so|The answer is a dog|The answer is A dog|Paris||...|Because|A or B|"
    "A, B|A. Paris\nB. London|A. The answer is B|E|The answer is Z|B.C. was long ago",
}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [(answer, letter) for letter, answers in READ.items() for answer in answers.split("|")],
)
def test_a_letter_is_read_or_not(answer, letter):
    expected = None if letter is None else "ABCD".index(letter)
    assert choices.read_letter(answer, 4) == expected


def test_the_first_choice_is_not_always_shown_first():
    rows = [{"id": f"tqa-{i}", "task": "truthfulqa_mc1", "choices": [*"wxyz"]} for i in range(400)]
    orders = [choices.shown_order(row) for row in rows]
    assert orders == [choices.shown_order(row) for row in rows]
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders)
    where = np.bincount([order.index(0) for order in orders], minlength=4)
    assert where.min() > 70  # of 100 expected; three standard deviations are 26
    assert choices.shown_order(rows[0] | {"task": "mmlu_art"}) == [0, 1, 2, 3]


@pytest.fixture
def respond(monkeypatch):
    """``respond(answer)``: from now on the model says ``answer(prompt)``; returns the prompts."""

    def install(answer):
        prompts = []

        def sample(model, tokenizer, asked, max_new_tokens, temperature):
            assert temperature == 0.0
            prompts.extend(asked)
            return SimpleNamespace(responses=[answer(prompt) for prompt in asked])

        monkeypatch.setattr(choices, "sample", sample)
        return prompts

    return install


def test_letters_are_the_shown_choices(letters, letter_actor, respond):
    one = {"choices": ["right", "wrong", "no", "never"], "label": 0}
    rows = [one | {"id": f"q-{i}", "question": f"Question {i}?"} for i in range(20)]

    def knowing(prompt):
        line = next(line for line in prompt.splitlines() if line.endswith(". right"))
        return f"The answer is {line[0]}"

    prompts = respond(knowing)
    found = choices.ask_for_letter(letter_actor(), letters, rows, batch=8)
    assert found.correct.all()
    assert found.readable.all()
    assert len({prompt.splitlines().index("A. right") for prompt in prompts if "A. right" in prompt}) == 1
    assert 0 < sum("A. right" in prompt for prompt in prompts) < 15
    assert all(prompt.endswith("\n\nAnswer with one letter.") for prompt in prompts)
    respond(lambda prompt: "A")
    assert 0 < choices.ask_for_letter(letter_actor(), letters, rows).correct.sum() < 15


def test_the_unreadable_is_counted_apart(letters, letter_actor, respond):
    respond(lambda prompt: "A dog" if "red" in prompt else "B")
    found = choices.ask_for_letter(letter_actor(), letters, [QUESTIONS[0], QUESTIONS[2]])
    assert found.readable.tolist() == [False, True]
    assert found.predicted.isna().tolist() == [True, False]
    assert not found.correct[0]
    assert found.answer.tolist() == ["A dog", "B"]
    with pytest.raises(ValueError, match="no questions"):
        choices.ask_for_letter(letter_actor(), letters, [])
    with pytest.raises(ValueError, match="'m' has no single right choice"):
        choices.ask_for_letter(letter_actor(), letters, [{"id": "m", "labels": [0, 1]}])


def test_a_real_model_is_asked(tokenizer, tiny_model):
    found = choices.ask_for_letter(tiny_model(), tokenizer, QUESTIONS, max_new_tokens=3, batch=2)
    assert found.id.tolist() == ["x-1", "x-2", "x-3"]
    assert found.columns.tolist() == ["id", "task", "label", "predicted", "correct", "readable", "answer"]


# --- loaders ------------------------------------------------------------------------------------

TRUTHFUL = {
    "id": "t-1",
    "question": "Can pigs fly?",
    "mc1_targets": {"choices": ["No.", "Yes."], "labels": [1, 0]},
    "mc2_targets": {"choices": ["No.", "They cannot.", "Yes."], "labels": [1, 1, 0]},
}
MMLU = {"id": "m-1", "question": "Why?", "choices": [*"wxyz"], "answer": 2, "subject": "art", "split": "test"}


@pytest.fixture
def source(tmp_path):
    def write(*rows: dict) -> str:
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def test_a_row_of_truthfulqa_is_two_questions(source):
    one, many = choices.load_questions(source(TRUTHFUL))
    asked = {"id": "t-1", "question": "Can pigs fly?", "task": "truthfulqa_mc1"}
    assert one == asked | {"choices": ["No.", "Yes."], "label": 0}
    assert many["task"] == "truthfulqa_mc2"
    assert (many["choices"], many["labels"]) == (["No.", "They cannot.", "Yes."], [1, 1, 0])


def test_of_mmlu_the_test_split_is_read(source):
    path = source(
        MMLU,
        MMLU | {"id": "m-2", "split": "dev"},
        MMLU | {"id": "m-3", "subject": "law"},
        {key: value for key, value in MMLU.items() if key != "split"} | {"id": "m-4"},
    )
    assert [q["id"] for q in choices.load_questions(path)] == ["m-1", "m-3", "m-4"]
    question = choices.load_questions(path, limit=1)[0]
    assert (question["task"], question["label"]) == ("mmlu_art", 2)


def test_a_users_own_questions_stay_as_they_are(source):
    assert choices.load_questions(source(*QUESTIONS)) == QUESTIONS
    assert len(choices.load_questions("truthful_mini", 12)) == 12


def targets(field: str, **change) -> dict:
    return TRUTHFUL | {field: TRUTHFUL[field] | change}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (QUESTIONS[1] | {"label": 4}, "field 'label' is 4, outside the 4 choices"),
        (QUESTIONS[1] | {"label": True}, "field 'label' is True"),
        (QUESTIONS[1] | {"choices": ["only"]}, "field 'choices' must be a list of at least 2"),
        (QUESTIONS[1] | {"choices": ["one", "  "]}, r"field 'choices\[1\]' is empty"),
        (QUESTIONS[1] | {"choices": [1945, 1939]}, r"field 'choices\[0\]' is missing or not text"),
        (MMLU | {"answer": 4}, "field 'answer' is 4, outside the 4 choices"),
        (MMLU | {"answer": "E"}, "field 'answer' is 'E'"),
        (MMLU | {"choices": ["w", "x", "y"]}, "field 'choices' has 3 entries"),
        (MMLU | {"subject": ""}, "field 'subject' is empty"),
        (targets("mc2_targets", labels=[1, 1, 1]), "mc2_targets: field 'labels' is the same for all"),
        (targets("mc2_targets", labels=[0, 0, 0]), "mc2_targets: field 'labels' is the same for all"),
        (targets("mc2_targets", labels=[1, 0]), "mc2_targets: field 'labels' has 2 entries for 3 choices"),
        (targets("mc2_targets", labels=[1, 0, 2]), "mc2_targets: field 'labels' is .*, not 0 and 1"),
        (targets("mc1_targets", labels=[1, 1]), "mc1_targets: field 'labels' marks 2 choices as right"),
        (targets("mc1_targets", choices=["No."]), "mc1_targets: field 'choices' must be a list"),
        (targets("mc1_targets", choices=["No.", ""]), r"mc1_targets: field 'choices\[1\]' is empty"),
        ({k: v for k, v in TRUTHFUL.items() if k != "mc2_targets"}, "mc2_targets: missing"),
    ],
)
def test_a_bad_row_is_named(source, row, message):
    good = QUESTIONS[0]
    with pytest.raises(DataError, match=f"own.jsonl, line 2: {message}"):
        choices.load_questions(source(good, row))


def test_the_hub_is_asked_for_configuration_and_split(monkeypatch):
    asked = []

    def stream(source, **part):
        asked.append((source, part))
        row = TRUTHFUL if "truthful" in source else MMLU
        return [{key: value for key, value in row.items() if key not in ("id", "split")}] * 3

    monkeypatch.setattr(hub, "stream", stream)
    truthful = choices.load_questions("truthfulqa/truthful_qa", 2)
    assert [question["id"] for question in truthful] == ["row-0", "row-0", "row-1", "row-1"]
    mmlu = choices.load_questions("cais/mmlu:art")
    assert [question["task"] for question in mmlu] == ["mmlu_art"] * 3
    assert asked == [
        ("truthfulqa/truthful_qa", {"name": "multiple_choice", "split": "validation"}),
        ("cais/mmlu", {"name": "art", "split": "test"}),
    ]
    with pytest.raises(DataError, match="name a subject"):
        choices.load_questions("cais/mmlu")
