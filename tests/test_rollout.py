"""Padding, masks, and a sampler that draws from the model's own distribution and no other."""

from __future__ import annotations

import copy
from dataclasses import fields

import pytest
import torch
from conftest import build_actor, build_model, known_model
from torch import tensor
from transformers import GenerationConfig

from sawyer_utils import rollout
from sawyer_utils.chat import MEANINGS, decode, encode_prompt
from sawyer_utils.rollout import Draw, Rollout, joined, left_pad, mask_after_end, sample

torch.set_num_threads(1)

PROMPTS = ["a b c", "d", "e f g h i j", "k l"]
HUMAN, STOP = 8, 9  # of the tests that are about ids alone


# --- padding and masks --------------------------------------------------------------------------


def test_prompts_are_padded_on_the_left():
    ids, mask = left_pad([[1, 2, 3], [4], [5, 6]], pad_id=0)
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4], [0, 5, 6]]
    assert mask.tolist() == [[True, True, True], [False, False, True], [False, True, True]]


def test_the_mask_of_a_prompt_does_not_come_from_its_ids():
    # The pad id may be a token of the text, as where padding and end of text are the same.
    ids, mask = left_pad([[0, 7, 0], [7]], pad_id=0)
    assert ids.tolist() == [[0, 7, 0], [0, 0, 7]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


@pytest.mark.parametrize(
    ("response", "mask", "finished"),
    [
        ([STOP, 0, 0, 0], [1, 0, 0, 0], True),
        ([5, 6, STOP, 0], [1, 1, 1, 0], True),
        ([5, 6, 7, STOP], [1, 1, 1, 1], True),
        ([5, 6, 7, 7], [1, 1, 1, 1], False),
        ([5, STOP, 6, STOP], [1, 1, 0, 0], True),
        ([STOP, STOP, STOP, STOP], [1, 0, 0, 0], True),  # padding with the stop token
        ([5, HUMAN, 6, STOP], [1, 1, 0, 0], False),  # another turn: what follows is no answer
        ([5, STOP, HUMAN, 6], [1, 1, 0, 0], True),
    ],
    ids=[
        "at once",
        "in the middle",
        "last",
        "never",
        "twice",
        "padded with it",
        "another turn",
        "turn after",
    ],
)
def test_a_response_counts_up_to_and_with_the_first_token_that_ends_it(response, mask, finished):
    # Each row is judged alone, whatever stands above and below it.
    rows = tensor([[5, 5, 5, 5], response, [STOP, 5, 5, 5]])
    found_mask, found_finished = mask_after_end(rows, [HUMAN, STOP], STOP)
    assert found_mask[1].tolist() == [bool(m) for m in mask]
    assert found_finished.tolist() == [False, finished, True]


# --- choosing rows ------------------------------------------------------------------------------


def numbered() -> Rollout:
    """Three rows in which every entry says what it is: 1000·row + column, with a field's offset."""
    prompt_lengths, response_lengths = [2, 4, 1], [5, 1, 3]
    prompt_width, response_width = 4, 5
    row = 1000 * torch.arange(3).unsqueeze(1)
    prompt_mask = torch.arange(prompt_width) >= prompt_width - tensor(prompt_lengths).unsqueeze(1)
    response_mask = torch.arange(response_width) < tensor(response_lengths).unsqueeze(1)
    per_token = row + torch.arange(response_width)
    filled = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    return Rollout(
        prompts=["p0", "p1", "p2"],
        responses=["r0", "r1", "r2"],
        input_ids=row + torch.arange(prompt_width + response_width),
        attention_mask=torch.cat([prompt_mask, response_mask], 1),
        response_mask=response_mask,
        finished=tensor([True, False, True]),
        scores=tensor([0.0, 1.0, 2.0]),
        **{name: per_token + 0.1 * k for k, name in enumerate(filled)},
    )


def real(batch: Rollout, name: str, i: int) -> list:
    """A row's entries on real tokens: what must survive any trimming."""
    value = getattr(batch, name)
    if not isinstance(value, torch.Tensor) or value.dim() == 1:
        return value[i]
    mask = batch.attention_mask if value.shape[1] == batch.input_ids.shape[1] else batch.response_mask
    return value[i][mask[i]].tolist()


@pytest.mark.parametrize("index", [[0], [1], [2], [2, 0], [1, 2], [0, 1, 2], [2, 2]])
def test_rows_keep_every_field_together(index):
    batch = numbered()
    part = batch.rows(tensor(index))
    assert len(part) == len(index)
    for field in fields(Rollout):
        for new, old in enumerate(index):
            assert real(part, field.name, new) == real(batch, field.name, old), field.name


@pytest.mark.parametrize(
    ("step", "index", "prompt_width", "response_width"),
    [
        *((1, *row) for row in [([0], 2, 5), ([1], 4, 1), ([2], 1, 3), ([0, 2], 2, 5), ([1, 2], 4, 3)]),
        (1, [0, 1, 2], 4, 5),
        *((2, *row) for row in [([0], 2, 5), ([1], 4, 1), ([2], 2, 3), ([0, 2], 2, 5), ([1, 2], 4, 3)]),
        (3, [2], 1, 5),
        (8, [2], 4, 5),
    ],
)
def test_rows_are_as_narrow_as_their_longest(monkeypatch, step, index, prompt_width, response_width):
    monkeypatch.setattr(rollout, "STEP", step)  # what is cut is a multiple of it
    part = numbered().rows(tensor(index))
    assert part.input_ids.shape[1] == part.attention_mask.shape[1] == prompt_width + response_width
    for name in ("response_mask", "logprobs", "values", "rewards", "advantages", "returns"):
        assert getattr(part, name).shape == (len(index), response_width)
    assert torch.equal(part.attention_mask[:, -response_width:], part.response_mask)
    assert torch.equal(part.response_ids, part.input_ids[:, prompt_width:])
    assert part.lengths.tolist() == [[5, 1, 3][i] for i in index]


def test_rows_of_a_fresh_rollout_leave_empty_fields_empty():
    batch = numbered()
    batch.values = None
    assert batch.rows(tensor([0])).values is None


# --- sampling -----------------------------------------------------------------------------------


def test_fresh_rollouts_are_joined_at_the_widest(letters):
    model = build_model(letters)
    torch.manual_seed(0)
    parts = [sample(model, letters, prompts, 12) for prompts in (["a b c d e"], ["f", "g h"])]
    whole = joined(parts)
    assert whole.prompts == ["a b c d e", "f", "g h"]
    assert whole.responses == parts[0].responses + parts[1].responses
    rows = [part.rows(tensor([i])) for part in parts for i in range(len(part))]
    for i, alone in enumerate(rows):
        # Padding aside, each row is what it was.
        ours = whole.rows(tensor([i]))
        for batch in (alone, ours):
            assert batch.attention_mask.shape == batch.input_ids.shape
        assert ours.input_ids[ours.attention_mask].tolist() == alone.input_ids[alone.attention_mask].tolist()
        assert (
            ours.response_ids[ours.response_mask].tolist() == alone.response_ids[alone.response_mask].tolist()
        )
        assert ours.finished.tolist() == alone.finished.tolist()


def test_greedy_sampling_is_the_argmax_token_by_token(letters):
    # This one stops early, late, and not at all.
    model = build_model(letters, seed=18)
    batch = sample(model, letters, PROMPTS, max_new_tokens=12, temperature=0)
    for i, prompt in enumerate(PROMPTS):
        ids = encode_prompt(letters, prompt)  # alone: no padding, no cache
        start = len(ids)
        while len(ids) < start + 12 and letters.eos_token_id not in ids:
            ids.append(int(model(input_ids=tensor([ids])).logits[0, -1].argmax()))
        assert batch.input_ids[i][batch.attention_mask[i]].tolist() == ids
        assert batch.responses[i] == decode(letters, ids[start:])
        assert bool(batch.finished[i]) == (ids[-1] == letters.eos_token_id)
    assert batch.finished.tolist() == [True, False, False, True]


def test_the_order_of_the_prompts_is_kept(letters):
    batch = sample(build_model(letters), letters, PROMPTS, max_new_tokens=3)
    assert batch.prompts == PROMPTS
    for i, prompt in enumerate(PROMPTS):
        ids = batch.input_ids[i, :-3][batch.attention_mask[i, :-3]].tolist()
        assert ids == encode_prompt(letters, prompt)


def test_a_response_ends_at_any_control_token_and_the_judge_reads_what_came_before(letters):
    # A distribution of control tokens, padding and two letters.
    weights = {**dict.fromkeys([*MEANINGS, letters.eos_token, letters.pad_token], 0.05), "a": 0.4, "b": 0.4}
    batch = sample(known_model(letters, weights), letters, PROMPTS * 16, max_new_tokens=8)
    stop = letters.eos_token_id
    ends, seen = {letters.pad_token_id, stop, *letters.convert_tokens_to_ids(list(MEANINGS))}, set()
    for i, response in enumerate(batch.responses):
        ids = batch.response_ids[i][batch.response_mask[i]].tolist()
        ended = ids[-1] in ends
        assert not ends & set(ids[:-1])
        assert ended or len(ids) == 8
        assert response.split() == letters.convert_ids_to_tokens(ids[:-1] if ended else ids)
        assert bool(batch.finished[i]) == (ids[-1] == stop)
        seen.add(ids[-1])
    assert ends <= seen


def test_no_prompts_are_refused(letters):
    with pytest.raises(ValueError, match="no prompts"):
        sample(build_model(letters), letters, [], 2)


# --- the distribution ---------------------------------------------------------------------------

# With each of these the commonest letters would be all there is, or some could not appear.
NARROWING = {
    "top_p": 0.1,
    "top_k": 5,
    "min_p": 0.5,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.05,
    "eta_cutoff": 0.05,
    "repetition_penalty": 2.0,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 10,
    "num_beams": 3,
    "temperature": 0.1,
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7],
    "bad_words_ids": [[8]],
    "exponential_decay_length_penalty": (1, 1.5),
    "sequence_bias": [[[9], -10.0]],
    "forced_eos_token_id": 3,
    "num_return_sequences": 2,
    "return_dict_in_generate": True,
}
WEIGHTS = {letter: 0.7**k for k, letter in enumerate("abcdefghijklmnop")}


def check_frequencies(batch: Rollout, expected: torch.Tensor) -> None:
    """Each token's share within five standard errors of its probability."""
    counts = torch.bincount(batch.response_ids[batch.response_mask], minlength=len(expected))
    n = counts.sum()
    error = (expected * (1 - expected) / n).sqrt()
    assert ((counts / n - expected).abs() <= 5 * error + 2 / n).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("planted", [{}, {"top_p": 0.1, "top_k": 5, "repetition_penalty": 2.0}])
def test_tokens_are_as_frequent_as_the_model_says(letters, planted, temperature):
    model = known_model(letters, WEIGHTS)
    model.generation_config.update(**planted)
    torch.manual_seed(0)
    batch = sample(model, letters, ["a"] * 256, max_new_tokens=16, temperature=temperature)
    logits = model(input_ids=tensor([[1]])).logits[0, 0]
    check_frequencies(batch, (logits / temperature).softmax(-1))


def test_the_drawn_token_is_where_the_sum_passes_the_number(monkeypatch):
    probabilities = tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    for uniform, token in {0.0: 1, 0.2: 1, 0.25: 3, 0.74: 3, 0.75: 4, 1 - 2**-53: 4}.items():
        monkeypatch.setattr(
            torch, "rand", lambda *a, u=uniform, **k: torch.full((1, 1), u, dtype=torch.double)
        )
        drawn = Draw(1.0)(None, probabilities.log())
        assert drawn.argmax().item() == token
        assert drawn.isfinite().sum() == 1


@pytest.mark.parametrize("at_once", [1, 3, 5, 50])
def test_greedy_answers_do_not_depend_on_how_many_are_sampled_at_once(letters, letter_actor, at_once):
    prompts = ["a b c d e", "f", "g h", "i j k l m n o", "p q r"]
    model = letter_actor()
    whole, parts = (sample(model, letters, prompts, 8, 0.0, n) for n in (None, at_once))
    assert parts.prompts == prompts
    assert parts.responses == whole.responses
    assert len(set(whole.responses)) > 2
    for i in range(len(prompts)):
        one, two = (b.input_ids[i][b.attention_mask[i]] for b in (whole, parts))
        assert torch.equal(one, two)
        assert whole.finished[i] == parts.finished[i]


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Draw(1.0)(None, tensor([[0.0, torch.nan]]))


def test_more_than_fifty_tokens_can_follow(tokenizer):
    # Unless told otherwise, transformers samples from the fifty likeliest. Not quite equal
    # weights, for equal ones it would keep beyond the fifty.
    tokens = tokenizer.convert_ids_to_tokens(range(1000, 1200))
    model = known_model(tokenizer, {token: 0.999**k for k, token in enumerate(tokens)})
    torch.manual_seed(0)
    batch = sample(model, tokenizer, ["a"] * 32, max_new_tokens=16)
    assert len(batch.response_ids.unique()) > 150


def test_no_setting_of_the_models_own_reaches_the_sampler(letters):
    plain, planted = (known_model(letters, WEIGHTS) for _ in range(2))
    for setting, value in NARROWING.items():  # one that got through would be alone in what is drawn
        setattr(planted.generation_config, setting, copy.deepcopy(value))
    found = []
    for model in (plain, planted):
        torch.manual_seed(0)
        found.append(sample(model, letters, ["a"] * 8, max_new_tokens=12).input_ids)
    assert torch.equal(*found)
    for setting, value in NARROWING.items():
        assert getattr(planted.generation_config, setting) == value, "it was changed for good"


def test_nor_does_one_set_on_a_model_with_adapters(letters):
    # PEFT hands its own copy down to the base at each call of generate.
    found = []
    for planted in (GenerationConfig(), GenerationConfig(top_k=1, suppress_tokens=[5])):
        model = build_actor(letters, model=known_model(letters, WEIGHTS))
        model.generation_config = planted
        torch.manual_seed(0)
        found.append(sample(model, letters, ["a"] * 8, max_new_tokens=12).input_ids)
    assert torch.equal(*found)


def test_the_models_own_settings_come_back_after_an_error(letters):
    model = known_model(letters, WEIGHTS)
    model.generation_config = own = GenerationConfig(top_k=5)
    model.forward = None
    with pytest.raises(TypeError):
        sample(model, letters, ["a"], max_new_tokens=2)
    assert model.generation_config is own
