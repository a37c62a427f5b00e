"""PPO on an encoder-decoder: the same trainer, another way to the hidden states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import letter_tokenizer

from sawyer_utils import losses
from sawyer_utils.actor import ActorCritic
from sawyer_utils.models import POLICY, REF, activate
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.rollout import left_pad, sample

torch.set_num_threads(1)

PROMPTS = ["a b c", "d", "e f g h i j", "k l", "m n o p", "q r s t u", "v w", "x"]
SETTINGS = PPOConfig(
    steps=20,
    batch_size=8,
    micro_batch=8,
    epochs=4,
    response_tokens=6,
    learning_rate=1e-2,
    missing_stop_penalty=0.0,
)


@pytest.fixture(scope="module")
def plain_letters():
    tokenizer = letter_tokenizer(("<pad>", "<unk>", "</s>"))
    tokenizer.eos_token = "</s>"
    return tokenizer


@pytest.fixture(params=["tied", "untied"])
def t5(request, plain_letters):
    from peft import LoraConfig, get_peft_model
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(plain_letters),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=plain_letters.eos_token_id,
        tie_word_embeddings=request.param == "tied",
        dropout_rate=0.1,
    )
    base = T5ForConditionalGeneration(config).requires_grad_(False)
    if request.param == "untied":
        torch.nn.init.normal_(base.lm_head.weight, std=0.3)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_2_SEQ_LM")
    model = get_peft_model(base, lora, adapter_name=POLICY)
    model.add_adapter(REF, lora)
    activate(model, POLICY)
    return model.eval()


def count_a(prompts, responses):
    return [float(response.split().count("a")) for response in responses]


def test_logprobs_are_those_of_the_models_own_forward(t5, plain_letters):
    torch.manual_seed(1)
    batch = sample(t5, plain_letters, PROMPTS, 6, temperature=0.7)
    assert batch.responses == [
        plain_letters.decode(ids[mask], skip_special_tokens=True)
        for ids, mask in zip(batch.response_ids, batch.response_mask, strict=True)
    ]
    found, _, _ = ActorCritic(t5).eval()(batch, 0.7)
    width = batch.response_mask.shape[1]
    labels = batch.response_ids.masked_fill(~batch.response_mask, -100)
    logits = t5.get_base_model()(
        input_ids=batch.input_ids[:, :-width],
        attention_mask=batch.attention_mask[:, :-width].long(),
        labels=labels,  # shifted right by the model itself
    ).logits
    expected = losses.token_logprobs(logits, batch.response_ids, 0.7)[batch.response_mask]
    assert torch.allclose(found[batch.response_mask], expected, atol=1e-5)


def test_left_padding_changes_no_logprob(t5, plain_letters):
    torch.manual_seed(1)
    batch = sample(t5, plain_letters, PROMPTS, 6)
    actor = ActorCritic(t5).eval()
    together, _, _ = actor(batch, 1.0)
    for i in range(len(batch)):
        alone, _, _ = actor(batch.rows(torch.tensor([i])), 1.0)
        length = int(batch.lengths[i])
        assert torch.allclose(alone[0, :length], together[i, :length], atol=1e-5)
    assert left_pad([[5], [6, 7, 8]], 0)[1].tolist() == [[False, False, True], [True] * 3]


def test_the_same_trainer_teaches_it_to_say_a(t5, plain_letters):
    trainer = PPOTrainer(t5, plain_letters, count_a, SETTINGS)
    log = trainer.train(PROMPTS)
    assert log[0]["kl"] == 0.0
    assert all(line["ratio_error"] == 0.0 for line in log)
    assert sum(line["reward"] for line in log[-4:]) / 4 > log[0]["reward"] + 1.0
    frozen = PPOTrainer(t5, plain_letters, count_a, replace(SETTINGS, steps=1))
    assert all(p.requires_grad == (f".{POLICY}" in n) for n, p in t5.named_parameters())
    assert len(frozen.trained) > 2
