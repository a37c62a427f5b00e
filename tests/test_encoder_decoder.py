"""PPO on an encoder-decoder: the same trainer, another way to the hidden states."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from conftest import letter_tokenizer

from sawyer_utils import evaluation, losses
from sawyer_utils.actor import ActorCritic
from sawyer_utils.chapters import summaries
from sawyer_utils.models import POLICY, REF, activate
from sawyer_utils.plumbing import sources
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import Mixture
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

    torch.manual_seed(3)
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


# --- notebook 07's way through the Hub, without the Hub -----------------------------------------


def spell_short(prompts, responses):
    return [-float(len(response.split())) for response in responses]


def test_a_mixture_teaches_it_and_each_part_is_logged(t5, plain_letters):
    reward = Mixture(letter_a=(count_a, 1.0), short=(spell_short, 0.25))
    settings = replace(SETTINGS, learning_rate=5e-3, steps=40)
    log = PPOTrainer(t5, plain_letters, reward, settings).train(PROMPTS)
    for line in log:
        assert line["reward"] == pytest.approx(
            line["reward_letter_a"] + 0.25 * line["reward_short"], abs=1e-5
        )
    assert sum(line["reward"] for line in log[-4:]) / 4 > log[0]["reward"] + 0.75
    assert sum(line["reward_letter_a"] for line in log[-4:]) / 4 > log[0]["reward_letter_a"] + 0.75


@pytest.fixture
def hub_profile(tmp_path, t5, plain_letters, monkeypatch):
    """The ``colab`` profile's fields for 07, with a tiny T5, tiny RoBERTas and a file of a few rows."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    base = t5.unload()
    base.save_pretrained(tmp_path / "t5")
    plain_letters.save_pretrained(tmp_path / "t5")
    config = RobertaConfig(
        vocab_size=len(plain_letters),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=300,
        num_labels=3,
        pad_token_id=0,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    plain_letters.save_pretrained(tmp_path / "roberta")
    rows = [  # argilla/news-summary's columns, as far as they are known
        {"text": text, "prediction": [{"text": "a b", "score": 1.0}], "annotation": None, "status": "Default"}
        for text in (*PROMPTS * 3, " ")
    ]
    for i, row in enumerate(rows[:-1]):
        row["text"] += " z" * i
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def stream(source, **part):
        assert (source, part) == ("argilla/news-summary", {"split": "train"})
        yield from map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())

    monkeypatch.setattr(sources.hub, "stream", stream)
    names = [
        (name, str(tmp_path / "roberta"), label, w)
        for name, _, label, w in PROFILES["colab"].news_classifiers
    ]
    profile = replace(
        PROFILES["colab"],
        summariser=str(tmp_path / "t5"),
        news_classifiers=tuple(names),
        lora_rank=4,
        news_prompt_tokens=40,
        news_response_tokens=6,
        news_steps=2,
        news_batch=8,
    )
    return summaries.settings(profile)


def test_from_the_sources_rows_to_two_steps_of_ppo(hub_profile, capsys):
    train = summaries.load_news("train", hub_profile.news)
    test = summaries.load_news("test", hub_profile.news)
    assert len(train) + len(test) == 3 * len(PROMPTS)
    assert "1 of 25 rows left out: 1 × field 'text' is empty" in capsys.readouterr().out
    assert not {row["text"] for row in train} & {row["text"] for row in test}
    tokenizer, model = summaries.load_summariser(hub_profile)
    assert all(p.requires_grad == (f".{POLICY}" in name) for name, p in model.named_parameters())
    named = hub_profile.news_classifiers
    assert {name: weight for name, _, _, weight in named} == {"neutral": 0.5, "acceptable": 1}
    reward = Mixture(**{name: (summaries.Classifier(path, label), w) for name, path, label, w in named})
    prompts = summaries.prompts_that_fit(tokenizer, [*train, {"text": "a " * 50}], hub_profile)
    assert [summaries.source_of(prompt) for prompt in prompts] == [row["text"] for row in train]
    config = PPOConfig.from_profile(hub_profile, activation_checkpointing=True)  # as on a GPU
    assert (config.steps, config.batch_size, config.compute) == (2, 8, torch.float32)
    log = PPOTrainer(model, tokenizer, reward, config).train(prompts)
    assert log[0]["kl"] == 0.0
    for line in log:
        assert line["reward"] == pytest.approx(
            0.5 * line["reward_neutral"] + line["reward_acceptable"], abs=1e-5
        )
    answers = evaluation.answer(model, tokenizer, prompts[:3], hub_profile, seed=0)
    assert len(evaluation.kl_to_reference(model, answers, REF)) == 3
