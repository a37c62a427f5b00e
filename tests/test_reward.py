"""The reward model: one number a text, whatever else is in the batch, the file or the trainer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from conftest import pair_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from sawyer_utils import losses
from sawyer_utils.data import Pair
from sawyer_utils.reward import (
    MARGIN_SCALE,
    Mixture,
    RewardModel,
    checked_scores,
    differences,
    longest_input,
    pairs_that_fit,
    reward_trainer,
    standardised,
    total_steps,
    train_reward,
)

torch.set_num_threads(1)

PROMPTS = ["a b c", "d", "e f g h i j", "k l", "m n o p", "q"]
RESPONSES = ["x", "y z a b", "c", "d e f g h i j", "", "k l m"]
PAIRS = [
    Pair("1", "letters", "a b", "c d e", "x", 8.0, ("engaging", "rude")),
    Pair("2", "letters", "f", "g h", "i j k l", 4.0, ("curt", "false")),
]


@pytest.fixture
def reward(letter_profile):
    """An untrained reward model whose LoRA does something already."""
    model = RewardModel.untrained(letter_profile)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


# --- encoding -----------------------------------------------------------------------------------


def test_the_model_reads_question_and_answer_together(reward):
    words = reward.tokenizer.convert_ids_to_tokens(reward.encode("a b", "c d"))
    assert words == ["[CLS]", "a", "b", "[SEP]", "c", "d", "[SEP]"]


def test_responses_that_read_the_same_once_cut_are_left_out_and_said(letter_profile, capsys):
    profile = replace(letter_profile, reward_pair_tokens=11)

    def row(**scores):
        texts = {"same": "c d e f g h i j", "same_too": "c d e f g h x y", "short": "c d", "other": "y z"}
        responses = [{"text": texts[name], "score": score, "kind": name} for name, score in scores.items()]
        return {"id": str(len(scores)), "prompt": "a b", "responses": responses}

    plain = [row(short=8, other=3)]
    assert pairs_that_fit(profile, plain) == plain
    assert capsys.readouterr().out == ""
    rows = [
        *plain,
        row(same=9, same_too=2),
        row(same=9, same_too=2, short=8),
        row(same=9, short=9, same_too=1),
    ]
    kept = pairs_that_fit(profile, rows)
    assert kept == [*plain, row(same=9, short=8) | {"id": "3"}]
    said = capsys.readouterr().out
    assert "6 responses are cut: with their question they are longer than 11 tokens." in said
    assert "2 of 4 rows left out" in said
    assert len(rows[2]["responses"]) == 3  # what came in is not changed


@pytest.mark.parametrize(
    ("prompt", "response", "kept"),
    [
        ("a b", "c d e f g h i j", "[CLS] a b [SEP] c d e f g h [SEP]"),
        ("c d e f g h i j", "a b", "[CLS] c d e f g h [SEP] a b [SEP]"),
        ("a b", "c d e f g h", "[CLS] a b [SEP] c d e f g h [SEP]"),  # just fits
    ],
)
def test_of_a_pair_that_is_too_long_the_longer_text_loses_its_end(reward, prompt, response, kept):
    reward.max_tokens = 11
    assert reward.tokenizer.convert_ids_to_tokens(reward.encode(prompt, response)) == kept.split()


TINY = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8}
TINY |= {"num_attention_heads": 1, "num_hidden_layers": 1, "pad_token_id": 1}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (RobertaModel, RobertaConfig(**TINY, max_position_embeddings=34)),
        (BertModel, BertConfig(**TINY, max_position_embeddings=32)),
        (ModernBertModel, ModernBertConfig(**TINY, max_position_embeddings=32)),  # has no such table
    ],
)
def test_an_encoder_reads_as_much_as_it_has_positions_for(kind, config):
    model = kind(config).eval()
    assert longest_input(model) == 32
    model(input_ids=torch.full((1, 32), 3))


# --- scoring ------------------------------------------------------------------------------------


def one_by_one(reward: RewardModel, prompts, responses) -> list[float]:
    with torch.no_grad():
        return [
            float(reward.model(input_ids=torch.tensor([reward.encode(p, r)])).logits)
            for p, r in zip(prompts, responses, strict=True)
        ]


@pytest.mark.parametrize("batch", [1, 2, 4, 64])
def test_a_score_does_not_depend_on_its_batch(reward, batch):
    expected = one_by_one(reward, PROMPTS, RESPONSES)
    assert max(expected) - min(expected) > 0.1, "the texts should differ"
    assert reward.score(PROMPTS, RESPONSES, batch) == pytest.approx(expected, abs=1e-5)
    order = list(range(len(PROMPTS)))
    random.Random(0).shuffle(order)
    shuffled = reward.score([PROMPTS[i] for i in order], [RESPONSES[i] for i in order], batch)
    assert shuffled == pytest.approx([expected[i] for i in order], abs=1e-5)


def test_a_reward_model_is_a_reward_function(reward):
    assert reward(PROMPTS, RESPONSES) == reward.score(PROMPTS, RESPONSES)
    assert reward([], []) == []


def test_unequal_lists_are_refused(reward):
    with pytest.raises(ValueError, match="zip"):
        reward.score(PROMPTS, RESPONSES[:-1])


def test_differences_score_each_text_once(reward, monkeypatch):
    prompt, texts = "a b", ["c", "d e", "f g h"]
    pairs = [
        Pair("1", "letters", prompt, chosen, rejected, 1.0, ("engaging", "rude"))
        for chosen, rejected in [(0, 1), (0, 2), (1, 2)]
        for chosen, rejected in [(texts[chosen], texts[rejected])]
    ]
    scores = dict(zip(texts, reward.score([prompt] * 3, texts), strict=True))
    calls, score = [], reward.score
    monkeypatch.setattr(reward, "score", lambda p, r: calls.append((p, r)) or score(p, r))
    found = differences(reward, [*pairs, replace(pairs[0], prompt="x")])
    [(prompts, responses)] = calls
    # In the order in which they come: a set's would change from process to process, and with it
    # the padding and the last digits.
    asked = list(zip(prompts, responses, strict=True))
    assert asked == [*((prompt, text) for text in texts), ("x", texts[0]), ("x", texts[1])]
    expected = [scores[p.chosen] - scores[p.rejected] for p in pairs]
    assert found[:3] == pytest.approx(expected, abs=1e-5)
    other = one_by_one(reward, ["x", "x"], texts[:2])
    assert found[3] == pytest.approx(other[0] - other[1], abs=1e-5)


def test_a_standardised_reward_has_mean_0_and_spread_1_on_its_texts(reward):
    raw = torch.tensor(reward(PROMPTS, RESPONSES))
    scaled, mean, spread = standardised(reward, PROMPTS, RESPONSES)
    assert (mean, spread) == pytest.approx((float(raw.mean()), float(raw.std())), abs=1e-5)
    found = torch.tensor(scaled(PROMPTS, RESPONSES))
    assert torch.allclose(found, (raw - raw.mean()) / raw.std(), atol=1e-4)
    # New texts are measured against the old ones, not among themselves.
    assert scaled(["a"], ["b"]) == pytest.approx([(reward(["a"], ["b"])[0] - mean) / spread], abs=1e-5)
    with pytest.raises(ValueError, match="same score"):
        standardised(lambda p, r: [1.0] * len(p), PROMPTS, RESPONSES)


def test_a_reward_of_whole_numbers_is_standardised_and_one_of_nan_is_refused():
    scaled, mean, _ = standardised(lambda p, r: [len(text) > 3 for text in r], PROMPTS, RESPONSES)
    assert mean == pytest.approx(0.5)
    assert sum(scaled(PROMPTS, RESPONSES)) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="gave nan for"):
        standardised(lambda p, r: [float("nan")] * len(p), PROMPTS, RESPONSES)


def test_a_judge_that_is_out_of_memory_says_so_itself():
    def full(prompts, responses):
        raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB")

    for ask in (checked_scores, standardised, Mixture(judge=(full, 1.0))):
        with pytest.raises(torch.OutOfMemoryError):
            ask(*(() if isinstance(ask, Mixture) else (full,)), PROMPTS, RESPONSES)


def test_a_part_named_as_the_spread_of_the_whole_is_refused():
    with pytest.raises(ValueError, match="std"):
        Mixture(std=(lambda p, r: [0.0] * len(r), 1.0))


def test_without_pairs_there_are_no_differences(reward):
    assert differences(reward, []) == []


# --- files --------------------------------------------------------------------------------------


def test_a_saved_reward_model_gives_the_same_scores(reward, letter_profile, tmp_path):
    reward.max_tokens = 17
    with torch.no_grad():
        for name, parameter in reward.model.named_parameters():
            if parameter.requires_grad and "lora" not in name:  # the head
                parameter += 0.5
    scores = reward.score(PROMPTS, RESPONSES)
    reward.save(tmp_path / "reward", letter_profile.reward_base)
    loaded = RewardModel.load(tmp_path / "reward")
    assert loaded.score(PROMPTS, RESPONSES) == scores
    assert loaded.max_tokens == 17
    assert not loaded.model.training
    size = sum(path.stat().st_size for path in (tmp_path / "reward").iterdir())
    assert size < 100_000, "adapter and head, not the encoder"


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json", "sawyer_reward.json"])
def test_a_damaged_reward_model_is_named(reward, letter_profile, tmp_path, file):
    reward.save(tmp_path / "reward", letter_profile.reward_base)
    path = tmp_path / "reward" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"damaged|cannot be read") as error:
        RewardModel.load(tmp_path / "reward")
    assert str(tmp_path / "reward") in str(error.value)


SIZES = {"num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64, "hidden_size": 32}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 64}
BASES = {
    "bert.pooler.dense": (BertForMaskedLM, BertConfig(vocab_size=36, num_hidden_layers=2, **SIZES)),
    "pooler.dense": (DebertaV2Model, DebertaV2Config(vocab_size=36, num_hidden_layers=2, **SIZES)),
    "pre_classifier": (DistilBertModel, DistilBertConfig(vocab_size=36, **DISTIL)),
    "": (RobertaModel, RobertaConfig(vocab_size=36, num_hidden_layers=2, **SIZES)),
}


@pytest.mark.parametrize("missing", BASES)
def test_layers_that_the_base_comes_without_are_trained_and_saved(letter_profile, tmp_path, missing):
    kind, config = BASES[missing]
    kind(config).save_pretrained(tmp_path / "base")
    pair_tokenizer().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    profile = replace(letter_profile, reward_base=base, reward_max_steps=2, reward_batch=2, reward_lr=0.03)
    judge = RewardModel.untrained(profile)
    trained = [name for name, p in judge.model.named_parameters() if p.requires_grad and missing in name]
    assert trained
    assert not missing or not any("lora" in name for name in trained)
    train_reward(judge, profile, PAIRS, tmp_path / "run", warmup_steps=0)
    torch.manual_seed(99)
    assert differences(RewardModel.load(tmp_path / "run" / "model"), PAIRS) == differences(judge, PAIRS)


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "micro"), [(32, 8), (16, 4), (9, 1), (18, 3), (6, 1), (1, 1)])
def test_a_step_reads_as_many_pairs_as_the_profile_says(reward, letter_profile, tmp_path, batch, micro):
    args = reward_trainer(reward, replace(letter_profile, reward_batch=batch), PAIRS, tmp_path).args
    assert args.per_device_train_batch_size == micro
    assert micro * args.gradient_accumulation_steps == batch


def test_only_lora_and_the_head_are_trained(reward):
    trained = {name for name, p in reward.model.named_parameters() if p.requires_grad}
    assert any("classifier" in name for name in trained)
    assert all("lora_" in name or "classifier" in name for name in trained)


def test_the_trainer_gets_the_models_own_ids_and_scaled_margins(reward, letter_profile, tmp_path):
    trainer = reward_trainer(reward, letter_profile, PAIRS, tmp_path)
    for row, pair in zip(trainer.train_dataset, PAIRS, strict=True):
        assert row["chosen_ids"] == reward.encode(pair.prompt, pair.chosen)
        assert row["rejected_ids"] == reward.encode(pair.prompt, pair.rejected)
        assert row["margin"] == pair.margin / MARGIN_SCALE == pair.margin / 4


def test_pairs_that_read_the_same_once_cut_are_not_trained_on(reward, letter_profile, tmp_path, capsys):
    """Strangers are put together after ``pairs_that_fit``: the trainer looks again."""
    long = "a " * reward.max_tokens
    same = [replace(PAIRS[0], chosen=f"{long} {end}", rejected=f"{long} x") for end in ("b", "c")]
    rows = reward_trainer(reward, letter_profile, [*same, *PAIRS], tmp_path).train_dataset
    assert len(rows) == 2
    assert "2 of 4 pairs left out" in capsys.readouterr().out
    for pairs in (same, []):
        with pytest.raises(ValueError, match=f"None of {len(pairs)} pairs can be told apart"):
            reward_trainer(reward, letter_profile, pairs, tmp_path)
    alike = [{"text": pair.chosen, "score": i + 1} for i, pair in enumerate(same)]
    with pytest.raises(ValueError, match="Of 1 preferences none can be told apart"):
        pairs_that_fit(letter_profile, [{"prompt": "a", "responses": alike}])


def test_the_trainers_loss_is_bradley_terry_with_a_margin(reward, letter_profile, tmp_path):
    trainer = reward_trainer(reward, letter_profile, PAIRS, tmp_path)
    [batch] = list(trainer.get_train_dataloader())
    found = trainer.compute_loss(trainer.model, batch)
    expected = losses.bradley_terry(
        torch.tensor(differences(reward, PAIRS)), torch.tensor([pair.margin / 4 for pair in PAIRS])
    )
    assert float(found.detach()) == pytest.approx(float(expected.mean()), abs=1e-5)
    without = losses.bradley_terry(torch.tensor(differences(reward, PAIRS)))
    assert abs(float(expected.mean() - without.mean())) > 0.05, "the margin should matter"


@pytest.mark.parametrize(
    ("pairs", "batch", "epochs", "steps"), [(4, 4, 3.0, 3), (5, 2, 1.0, 3), (5, 4, 2.0, 4), (3, 2, 1.5, 3)]
)
def test_total_steps_are_those_of_the_trainer(reward, letter_profile, tmp_path, pairs, batch, epochs, steps):
    sizes = {"reward_max_steps": -1, "reward_batch": batch, "reward_epochs": epochs, "sft_epochs": 9.0}
    profile = replace(letter_profile, **sizes)
    assert total_steps(profile, pairs) == steps
    trainer = reward_trainer(reward, profile, (PAIRS * 3)[:pairs], tmp_path)
    counts = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert counts[-1] == steps
    assert total_steps(replace(profile, reward_max_steps=7), pairs) == 7


def test_two_steps_of_training_lower_the_loss(letter_profile, tmp_path):
    reward = RewardModel.untrained(letter_profile)
    before = differences(reward, PAIRS)
    profile = replace(letter_profile, reward_max_steps=2, reward_batch=2, reward_lr=3e-2)
    log = train_reward(reward, profile, PAIRS, tmp_path, warmup_steps=0)
    after = differences(reward, PAIRS)
    margins = torch.tensor([pair.margin / MARGIN_SCALE for pair in PAIRS])
    loss_before, loss_after = (losses.bradley_terry(torch.tensor(d), margins) for d in (before, after))
    assert (loss_after < loss_before).all()
    assert [line["step"] for line in log] == [1, 2]
    assert log[0]["loss"] == pytest.approx(float(loss_before.mean()), abs=1e-4)
    # No dropout is left on, and what was saved is what was trained.
    assert differences(reward, PAIRS) == after
    assert differences(RewardModel.load(tmp_path / "model"), PAIRS) == after
    assert not (tmp_path / "checkpoint").exists()
    # Asked for once more, it is loaded into whatever judge is there.
    another = RewardModel.untrained(letter_profile, seed=5)
    assert train_reward(another, profile, PAIRS, tmp_path, warmup_steps=0) == log
    assert differences(another, PAIRS) == after


def test_after_training_forward_is_no_longer_autocast(letter_profile, tmp_path):
    # accelerate leaves it wrapped: the live model would score otherwise than its saved copy.
    profile = replace(letter_profile, reward_max_steps=1, reward_batch=2)
    reward = RewardModel.untrained(profile)
    train_reward(reward, profile, PAIRS, tmp_path, bf16=True)
    assert differences(reward, PAIRS) == differences(RewardModel.load(tmp_path / "model"), PAIRS)
