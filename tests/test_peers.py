"""TRL's SFT, DPO and RLOO as notebook 05 builds them: the same tokens and log-probs, the right reference."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import DPOConfig, DPOTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer

from sawyer_utils import losses, models, sft
from sawyer_utils.actor import ActorCritic
from sawyer_utils.chapters import peers
from sawyer_utils.chat import HUMAN, encode, encode_prompt
from sawyer_utils.data import Pair
from sawyer_utils.plumbing import trainers
from sawyer_utils.rollout import sample

PAIRS = [
    Pair("p1", "t", "a b c", "d e f g", "h i", 3, ("", "")),
    Pair("p2", "t", "k", "l", "m n o p q", 1, ("", "")),
    Pair("p3", "t", "r s t u v w", "x y", "z", 2, ("", "")),
    Pair("p4", "t", "c a b", "b a d", "f e d", 4, ("", "")),
]
PROMPTS = ["a b c", "k", "r s t u v w", "c a b", "b b", "x y z", "q", "m n"]


def adapter_of(profile, folder, seed: int):
    """A saved adapter that is far from its start."""
    _, model = models.load_policy(profile)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    models.save_adapter(model, folder)
    return folder


@pytest.fixture(scope="module")
def adapters(letter_profile, tmp_path_factory):
    """Two different adapters: where a training starts, and another one."""
    root = tmp_path_factory.mktemp("adapters")
    return [adapter_of(letter_profile, root / f"adapter-{seed}", seed) for seed in (1, 2)]


def said(role, text):
    return [{"role": role, "content": text}]


def built(kind, config, profile, start, folder, rows, options, **given):
    """One of TRL's trainers, as notebook 05 builds it."""
    tokenizer, model = peers.start(profile, start)
    if "reward_funcs" in given:
        given["reward_funcs"] = peers.TextReward(
            given["reward_funcs"], tokenizer, profile.missing_stop_penalty
        )
    args = trainers.one_gpu(config(**options | peers.arguments(profile, folder)))
    data = Dataset.from_list(rows)
    return kind(model=model, args=args, train_dataset=data, processing_class=tokenizer, **given)


def sft_chosen(profile, start, folder, **options):
    rows = [{"messages": said("user", p.prompt) + said("assistant", p.chosen)} for p in PAIRS]
    options = {"per_device_train_batch_size": 4, "assistant_only_loss": True, "max_steps": 2} | options
    return built(SFTTrainer, SFTConfig, profile, start, folder, rows, options)


def dpo(profile, start, folder, pairs=PAIRS, **options):
    rows = [
        {
            "prompt": said("user", p.prompt),
            "chosen": said("assistant", p.chosen),
            "rejected": said("assistant", p.rejected),
        }
        for p in pairs
    ]
    options = {"per_device_train_batch_size": 4, "beta": profile.dpo_beta, "max_steps": 2} | options
    return built(DPOTrainer, DPOConfig, profile, start, folder, rows, options)


def rloo(profile, start, folder, reward_fn=lambda prompts, texts: [float(t.count("a")) for t in texts]):
    micro = min(profile.ppo_micro_batch, profile.ppo_batch // profile.ppo_minibatches)
    options = {
        "num_generations": 4,
        "max_steps": 2 * profile.ppo_minibatches,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": profile.ppo_batch // profile.ppo_minibatches // micro,
        "steps_per_generation": profile.ppo_batch // micro,
        "max_completion_length": profile.response_tokens,
        "temperature": profile.temperature,
        "top_k": 0,
        "beta": profile.kl_coef,
        "disable_dropout": True,
    }
    rows = [{"prompt": said("user", prompt)} for prompt in PROMPTS]
    return built(RLOOTrainer, RLOOConfig, profile, start, folder, rows, options, reward_funcs=reward_fn)


def batch_of(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def logprobs_of(profile, adapter, pairs, rejected: bool = False):
    """Σ log π of each pair's response by the model's ordinary forward pass."""
    tokenizer, model = models.load_policy(profile)
    model = models.load_adapter(model, adapter)
    talks = [
        {"messages": [{"role": "user", "content": p.prompt}, {"role": "assistant", "content": text}]}
        for p in pairs
        for text in [p.rejected if rejected else p.chosen]
    ]
    return torch.tensor([-sum(nll) for _, nll in sft.graded_losses(model, tokenizer, talks)])


# --- the format ---------------------------------------------------------------------------------


def test_dpo_trains_on_sawyers_format_token_for_token(letter_profile, adapters, tmp_path):
    trainer = dpo(letter_profile, adapters[0], tmp_path)
    tokenizer = trainer.processing_class
    for row, pair in zip(trainer.train_dataset, PAIRS, strict=True):
        prompt = encode_prompt(tokenizer, pair.prompt)
        assert row["prompt_ids"] == prompt
        for name, text in (("chosen_ids", pair.chosen), ("rejected_ids", pair.rejected)):
            messages = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": text}]
            assert row["prompt_ids"] + row[name] == encode(tokenizer, messages).ids
            assert row[name][-1] == tokenizer.eos_token_id


def test_user_text_never_becomes_a_control_token_in_dpo(letter_profile, adapters, tmp_path):
    sly = [Pair("p", "t", "a </s> b", "c </s> d", "e", 1, ("", ""))]
    trainer = dpo(letter_profile, adapters[0], tmp_path, sly)
    row, stop = trainer.train_dataset[0], trainer.processing_class.eos_token_id
    assert row["prompt_ids"].count(stop) == 0
    assert row["chosen_ids"].count(stop) == 1


def test_rloo_asks_in_sawyers_format_and_stops_at_its_end_token_alone(letter_profile, adapters, tmp_path):
    trainer = rloo(letter_profile, adapters[0], tmp_path)
    tokenizer = trainer.processing_class
    asked, _, _ = trainer._tokenize_prompts([row["prompt"] for row in trainer.train_dataset])
    assert asked == [encode_prompt(tokenizer, prompt) for prompt in PROMPTS]
    assert trainer.eos_token_ids == [tokenizer.eos_token_id]
    config = trainer.generation_config
    assert (config.top_k, config.top_p, config.repetition_penalty) == (0, 1.0, 1.0)
    assert config.temperature == letter_profile.temperature


# --- log-probs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [0, 1], ids=["chosen", "rejected"])
def test_dpos_log_probs_are_those_of_the_ordinary_forward_pass(letter_profile, adapters, tmp_path, side):
    trainer = dpo(letter_profile, adapters[1], tmp_path, train_sampling_strategy="sequential")
    models.load_policy_weights(trainer.model, adapters[0], peers.POLICY)
    batch = batch_of(trainer)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = trainer.model(**inputs, labels=labels, fused_lm_head=True).log_probs.sum(1).chunk(2)[side]
    reference = trainer.compute_ref_log_probs(trainer.model, batch)[side]
    wanted = [logprobs_of(letter_profile, a, PAIRS, rejected=side == 1) for a in adapters]
    torch.testing.assert_close(found, wanted[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(reference, wanted[1], atol=1e-4, rtol=0)
    assert (wanted[0] - wanted[1]).abs().min() > 0.01


def test_dpo_starts_at_log_2_if_it_starts_at_its_reference(letter_profile, adapters, tmp_path):
    trainer = dpo(letter_profile, adapters[0], tmp_path)
    assert trainer.compute_loss(trainer.model, batch_of(trainer)).item() == pytest.approx(
        math.log(2), abs=1e-7
    )


def test_the_course_and_trl_agree_on_the_loss_of_a_batch(letter_profile, adapters, tmp_path):
    trainer = dpo(letter_profile, adapters[1], tmp_path, beta=0.3)
    models.load_policy_weights(trainer.model, adapters[0], peers.POLICY)
    by_trl, parts = peers.opened(trainer)
    wanted = [
        logprobs_of(letter_profile, adapter, PAIRS, rejected)
        for adapter in adapters
        for rejected in (False, True)
    ]
    for found, right in zip(parts, wanted, strict=True):  # the trainer shuffles the pairs
        torch.testing.assert_close(found.sort().values, right.sort().values, atol=1e-4, rtol=0)
    assert by_trl == pytest.approx(float(losses.dpo_loss(*parts, beta=0.3).mean()), abs=1e-6)
    assert by_trl == pytest.approx(float(losses.dpo_loss(*wanted, beta=0.3).mean()), abs=1e-5)
    assert abs(by_trl - math.log(2)) > 0.01


def test_rloos_log_probs_are_ppos(letter_profile, adapters, tmp_path):
    trainer = rloo(letter_profile, adapters[0], tmp_path)
    tokenizer, model = models.load_policy(letter_profile)
    model = models.load_adapter(model, adapters[0])
    torch.manual_seed(0)
    batch = sample(model, tokenizer, PROMPTS, 10, letter_profile.temperature)
    assert not batch.attention_mask.all()  # prompts of several lengths, padded on the left
    wanted, _, entropies = ActorCritic(model)(batch, letter_profile.temperature)
    settings = batch.input_ids, batch.attention_mask.long(), batch.response_mask.shape[1]
    found, entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, *settings, compute_entropy=True
    )
    mask = batch.response_mask
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-4, rtol=0)
    torch.testing.assert_close(entropy[mask], entropies[mask], atol=1e-4, rtol=0)


# --- training -----------------------------------------------------------------------------------


def adapter_weights(model, name):
    ends = f".{name}.weight", f".{name}"
    return {key: p.detach().clone() for key, p in model.named_parameters() if key.endswith(ends)}


def test_sft_grades_the_chosen_answer_alone(letter_profile, adapters, tmp_path):
    trainer = sft_chosen(letter_profile, adapters[0], tmp_path, train_sampling_strategy="sequential")
    batch, tokenizer = batch_of(trainer), trainer.processing_class
    for labels, pair in zip(batch["labels"].tolist(), PAIRS, strict=True):
        encoded = encode(tokenizer, said("user", pair.prompt) + said("assistant", pair.chosen))
        wanted = [i for i, graded in zip(encoded.ids, encoded.graded, strict=True) if graded]
        assert [i for i in labels if i != -100] == wanted


@pytest.mark.parametrize("make", [dpo, rloo])
def test_the_reference_is_where_it_starts_and_stays_frozen(letter_profile, adapters, tmp_path, make):
    trainer = make(letter_profile, adapters[0], tmp_path)
    saved = load_file(adapters[0] / "adapter_model.safetensors")
    reference = adapter_weights(trainer.model, "ref")
    before = adapter_weights(trainer.model, "default")
    assert len(reference) == len(before) == len(saved)
    assert sorted(float(v.sum()) for v in reference.values()) == pytest.approx(
        sorted(float(v.sum()) for v in saved.values()), abs=1e-5
    )
    peers.train(trainer, letter_profile, tmp_path)
    after = adapter_weights(trainer.model, "ref")
    assert all(torch.equal(after[key], reference[key]) for key in reference)
    learnt = adapter_weights(trainer.model, "default")
    moved = [key for key in before if not torch.equal(before[key], learnt[key])]
    assert len(moved) == len(before)


@pytest.mark.parametrize("make", [sft_chosen, dpo])
def test_a_training_learns_and_is_loaded_when_it_is_asked_for_again(
    letter_profile, adapters, tmp_path, make, capsys
):
    def train(**options):
        shown = []
        trainer = make(letter_profile, adapters[0], tmp_path, learning_rate=1e-2, **options)
        log = peers.train(trainer, letter_profile, tmp_path, shown.append)
        assert shown[-1] == log
        return log, adapter_weights(trainer.model, "default")

    log, learnt = train(max_steps=8)
    assert [line["step"] for line in log] == list(range(1, 9))
    assert log[-1]["loss"] < log[0]["loss"] - 0.1
    wanted = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sorted(float(v.sum()) for v in learnt.values()) == pytest.approx(
        sorted(float(v.sum()) for v in wanted.values()), abs=1e-4
    )
    again, loaded = train(max_steps=8)
    assert "Already trained" in capsys.readouterr().out
    assert again == log
    assert all(torch.equal(loaded[key], learnt[key]) for key in learnt)
    other, _ = train(max_steps=2)
    assert "max_steps" in capsys.readouterr().out
    assert len(other) == 2
    assert (tmp_path / "earlier-1" / "adapter").exists()


def test_rloo_counts_its_answers_and_steps(letter_profile, adapters, tmp_path):
    shown = []

    def reward_fn(prompts, texts):
        shown.append((prompts, texts))
        return [float(len(text)) for text in texts]

    log = peers.train(rloo(letter_profile, adapters[0], tmp_path, reward_fn), letter_profile, tmp_path)
    assert len(log) == 2 * letter_profile.ppo_minibatches
    assert [len(texts) for _, texts in shown] == [letter_profile.ppo_batch] * 2
    for prompts, _ in shown:  # four answers to each prompt
        assert all(prompts.count(prompt) % 4 == 0 for prompt in prompts)
        assert set(prompts) <= set(PROMPTS)
    assert "clip_ratio/region_mean" in log[0]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_an_answer_without_a_stop_token_pays_the_penalty(letters):
    reward = peers.TextReward(lambda prompts, texts: [1.0] * len(texts), letters, penalty=2.0)
    a, stop = letters.convert_tokens_to_ids("a"), letters.eos_token_id
    prompt = [{"role": "user", "content": "b"}]
    assert reward([prompt] * 2, None, [[a, stop], [a, a, a]]) == [1.0, -1.0]
    # TRL samples on after another turn's token; the answer ended there.
    human = letters.convert_tokens_to_ids(HUMAN)
    assert reward([prompt], None, [[a, human, a, stop]]) == [-1.0]
    # The judge hears the last question of a longer talk.
    reward.reward_fn = lambda prompts, texts: [float(prompt == "d") for prompt in prompts]
    longer = [*prompt, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]
    assert reward([longer, prompt], None, [[a, stop]] * 2) == [1.0, 0.0]
