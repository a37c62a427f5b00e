"""A base of one's own: what cannot be trained is said at the start; other families go through 01 and 03."""

from __future__ import annotations

import re
from dataclasses import replace

import layouts
import pytest
import torch
from conftest import build_encoder, build_model, letter_tokenizer, pair_tokenizer
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlavaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from sawyer_utils import chat, models, ppo, sft
from sawyer_utils.plumbing import bases, paths
from sawyer_utils.plumbing.bases import UnsuitableBase
from sawyer_utils.profiles import PROFILES, current_profile

torch.set_num_threads(1)

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}


# --- what is refused ----------------------------------------------------------------------------


def whole(folder):
    build_model(letter_tokenizer()).save_pretrained(folder)


def wrapper(folder):
    LlavaConfig().save_pretrained(folder)
    (folder / "model.safetensors").touch()


def no_end_token(folder):
    whole(folder)
    backend = letter_tokenizer().backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(folder)


def capped(folder):
    sizes = {**SIZES, "head_dim": 8, "final_logit_softcapping": 2.0, "vocab_size": len(letter_tokenizer())}
    Gemma2ForCausalLM(Gemma2Config(**sizes, pad_token_id=0)).save_pretrained(folder)


def holding(*names: str):
    return lambda folder: [(folder / name).touch() for name in names]


def configured(text: str):
    def make(folder):
        whole(folder)
        (folder / "config.json").write_text(text)

    return make


def without(*patterns: str):
    def make(folder):
        whole(folder)
        letter_tokenizer().save_pretrained(folder)
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink()

    return make


T5 = T5Config(vocab_size=40, d_model=16, d_ff=16, d_kv=4, num_heads=2, num_layers=1)
REFUSED = {
    "is an encoder-decoder (t5)": lambda folder: T5ForConditionalGeneration(T5).save_pretrained(folder),
    "is a model of several kinds of input (llava)": wrapper,
    "was saved as BertForSequenceClassification, which has no output layer": (
        lambda folder: build_encoder(pair_tokenizer()).save_pretrained(folder)
    ),
    "was saved as LlamaModel, which has no output layer": (
        lambda folder: build_model(letter_tokenizer()).get_decoder().save_pretrained(folder)
    ),
    "This base has no end token": no_end_token,
    "Gemma2ForCausalLM changes its logits after the output layer": capped,
    "holds no weights": without("model.safetensors"),
    "holds no tokenizer": without("tokenizer*", "special_tokens*"),
    "holds no config.json: it is not what save_pretrained writes": without("config.json"),
    "is an adapter, not a base": holding("adapter_config.json", "adapter_model.safetensors"),
    "holds a GGUF file": holding("model-Q4_0.gguf"),
    "its config.json cannot be read (ValueError": configured('{"model_type": "not-yet-there"}'),
    "its config.json cannot be read (OSError": configured("{"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_base_that_cannot_be_trained_is_refused_with_the_reason(tmp_path, said):
    if said not in ("This base has no end token", "holds no tokenizer"):
        letter_tokenizer().save_pretrained(tmp_path)
    REFUSED[said](tmp_path)
    profile = replace(PROFILES["smoke"], policy_base=str(tmp_path), precision="fp32")
    with pytest.raises(UnsuitableBase, match=re.escape(said)):
        models.load_policy(profile)


def test_a_slow_tokenizer_is_refused_by_the_name_of_its_base(tmp_path, monkeypatch):
    whole(tmp_path)
    letter_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(UnsuitableBase, match="is a slow tokenizer") as found:
        models.load_tokenizer(replace(PROFILES["smoke"], policy_base=str(tmp_path)))
    assert str(found.value).startswith(str(tmp_path))


def test_a_file_and_a_folder_that_is_not_there_are_told_apart(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UnsuitableBase, match="is a file"):
        bases.check_base(str(tmp_path / "model.safetensors"))
    with pytest.raises(paths.NoSuchPath, match="There is no file or folder"):
        bases.check_base(str(tmp_path / "modell"))


def test_an_older_base_whose_weights_end_in_bin_passes(tmp_path):
    whole(tmp_path)
    letter_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert bases.check_base(str(tmp_path))


def test_the_embedded_bases_of_the_profiles_pass():
    assert bases.check_base(PROFILES["local"].policy_base)


# --- a run folder of its own --------------------------------------------------------------------


def test_two_folders_with_one_name_have_two_run_folders(monkeypatch, tmp_path):
    names = set()
    for folder in ("a/model", "b/model", "my model"):
        monkeypatch.setenv("SAWYER_MODEL", str(tmp_path / folder))
        names.add(current_profile("smoke").name)
    assert len(names) == 3
    assert all(len(name) < 40 and "/" not in name and " " not in name for name in names)
    monkeypatch.setenv("SAWYER_MODEL", "owner/name-1.5")
    assert current_profile("smoke").name == "smoke-owner-name-1.5"


def test_the_shipped_checkpoint_is_not_taken_for_another_embedded_base(monkeypatch, tmp_path):
    from sawyer_utils import runtime

    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    monkeypatch.setenv("SAWYER_MODEL", "embedded:gemma3-270m")
    profile = current_profile("local")
    with pytest.raises(runtime.StageMissing):
        runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors")
    # The judges have a base of their own, which is the same.
    for judge in ("reward", "gold"):
        weights = "model/adapter_model.safetensors"
        assert runtime.find_stage(profile, judge, weights)
        with pytest.raises(runtime.StageMissing):
            runtime.find_stage(replace(profile, reward_base="another"), judge, weights)


# --- many special tokens ------------------------------------------------------------------------


def test_thousands_of_numbered_special_tokens_are_still_text_when_typed():
    """As Gemma 3's from its GGUF: Jinja could not read a template with a replacement for each."""
    tokenizer = letter_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": [f"<unused{i}>" for i in range(3000)] + ["<a1>"]})
    chat.add_control_tokens(tokenizer)
    assert len(tokenizer.chat_template) < 5000
    special = set(chat.endings(tokenizer)) | {tokenizer.eos_token_id}
    for text in ("<unused7>", "a <unused2999> b", "<unused", "<<unused12>unused13>", "<a1>", "</s>"):
        inside = chat.encode_prompt(tokenizer, text)[1:-1]
        assert not special & set(inside), text
    ids = chat.encode(
        tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    ).ids
    assert ids[-1] == tokenizer.eos_token_id


# --- other families through 01 and 03 -----------------------------------------------------------

NEOX = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "initializer_range")}
FAMILIES = {
    "Qwen 3": (Qwen3ForCausalLM, lambda n: Qwen3Config(vocab_size=n, head_dim=8, **SIZES), "gpt2"),
    "Gemma 3": (Gemma3ForCausalLM, lambda n: Gemma3TextConfig(vocab_size=n, head_dim=8, **SIZES), "gemma"),
    "GPT-NeoX": (GPTNeoXForCausalLM, lambda n: GPTNeoXConfig(vocab_size=n, **NEOX), "gpt2"),
    "GPT-2": (GPT2LMHeadModel, lambda n: GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=4), "gpt2"),
}
TALKS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("Why?", "Because."), ("Who?", "Nobody at all."), ("When?", "Now."), ("Where?", "Here."))
]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_family_goes_through_sft_and_ppo(family, tmp_path):
    kind, config, layout = FAMILIES[family]
    base, sft_folder = tmp_path / "my base", tmp_path / "sft"
    tokenizer = layouts.build(layout, base)
    torch.manual_seed(0)
    kind(config(len(tokenizer))).save_pretrained(base)
    tokenizer.save_pretrained(base)
    assert AutoTokenizer.from_pretrained(base).is_fast
    sizes = {"sft_max_steps": 2, "sft_batch": 2, "sft_micro_batch": 2, "lora_rank": 4, "response_tokens": 6}
    profile = replace(PROFILES["smoke"], policy_base=str(base), precision="fp32", **sizes)
    # 01
    tokenizer, model = models.load_policy(profile)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    log = sft.train_sft(model, tokenizer, profile, TALKS, sft_folder, on_log=lambda log: None)
    assert [line["step"] for line in log] == [1, 2]
    # 03
    tokenizer, model = models.load_actor(profile, sft_folder / "adapter")
    settings = ppo.PPOConfig.from_profile(profile, steps=2, batch_size=4, micro_batch=2)
    trainer = ppo.PPOTrainer(model, tokenizer, lambda p, r: [-float(len(x)) for x in r], settings)
    log = trainer.train(["Why?", "Who is it?", "When?", "Where?"])
    assert log[0]["kl"] == 0.0, "it starts at SFT, to the last bit"
    assert log[1]["kl"] != 0.0, "and has learnt"
