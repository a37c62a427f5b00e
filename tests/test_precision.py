"""Half precision that is right on a T4: what each trainer is told, what stays in float32, and the probe.

No GPU is needed: the compute capability is played, and the arithmetic runs on the CPU.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import trl
from conftest import build_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from sawyer_utils import models, probe, reward, runtime, sft
from sawyer_utils.actor import ActorCritic
from sawyer_utils.data import Pair
from sawyer_utils.plumbing import judges, workarounds
from sawyer_utils.ppo_config import PPOConfig
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import RewardModel

CARDS = {(7, 5): "fp16", (8, 0): "bf16"}
CONVERSATIONS = [
    {"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "c b a"}]}
] * 4
PAIRS = [Pair(f"p-{i}", "t", "a b", "c d", "e f", 4.0, ("", "")) for i in range(4)]


@pytest.fixture(params=CARDS, ids=lambda c: "capability {}.{}".format(*c))
def card(request, monkeypatch):
    """A GPU of that capability, as far as our own code asks; returns "fp16" or "bf16"."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: request.param)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)  # so says a T4, too
    return CARDS[request.param]


class Told(Exception):
    """Carries what a trainer's configuration was given."""


def told(monkeypatch, module, config: str, build) -> dict:
    """The keyword arguments with which ``build`` makes the configuration of its trainer."""
    real = getattr(module, config)

    def note(**settings):
        with monkeypatch.context() as cpu:  # the class itself must take every one of them
            cpu.setattr(torch.cuda, "is_available", lambda: False)
            real(**settings | {"use_cpu": True, "bf16": False, "fp16": False})
        raise Told(settings)

    monkeypatch.setattr(module, config, note)
    with pytest.raises(Told) as caught:
        build()
    return caught.value.args[0]


# --- what each trainer is told ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local", "colab", "llama2"])
def test_sft_is_told_the_precision_of_the_card(card, name, monkeypatch, tmp_path, letters):
    def build():
        sft.sft_trainer(None, letters, PROFILES[name], CONVERSATIONS, tmp_path)

    settings = told(monkeypatch, sft, "SFTConfig", build)
    assert {key: settings[key] for key in ("fp16", "bf16", "use_cpu")} == {
        "fp16": card == "fp16",
        "bf16": card == "bf16",
        "use_cpu": False,
    }
    assert settings["gradient_checkpointing"] is True


@pytest.mark.parametrize("name", ["local", "colab", "llama2"])
def test_the_reward_trainer_is_told_the_same(card, name, monkeypatch, tmp_path, letter_profile):
    with monkeypatch.context() as cpu:  # there is no GPU to put a model on
        cpu.setattr(torch.cuda, "is_available", lambda: False)
        judge = RewardModel.untrained(letter_profile)

    def build():
        reward.reward_trainer(judge, PROFILES[name], PAIRS, tmp_path)

    settings = told(monkeypatch, trl, "RewardConfig", build)
    assert (settings["fp16"], settings["bf16"]) == (card == "fp16", card == "bf16")
    assert settings["use_cpu"] is False


@pytest.mark.parametrize("name", ["local", "colab", "llama2"])
def test_ppo_computes_in_the_precision_of_the_card(card, name):
    config = PPOConfig.from_profile(PROFILES[name])
    assert config.compute == {"fp16": torch.float16, "bf16": torch.bfloat16}[card]
    assert config.activation_checkpointing


def test_the_base_is_loaded_for_the_card(card, monkeypatch, letter_profile):
    """dtype, attention and the 4-bit compute type, as they reach transformers."""
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}[card]
    for precision in ("auto", "nf4"):

        def note(path, **options):
            raise Told(options)

        monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", note)
        with pytest.raises(Told) as caught:
            models.load_policy(replace(letter_profile, precision=precision))
        options = caught.value.args[0]
        assert options["dtype"] == half
        assert "attn_implementation" not in options  # transformers takes SDPA where a base has it
        if precision == "nf4":
            quantized = options["quantization_config"]
            assert quantized.bnb_4bit_compute_dtype == half
            assert quantized.bnb_4bit_quant_type == "nf4"
            assert quantized.bnb_4bit_use_double_quant  # 0.4 bits a weight less


def test_the_judge_is_loaded_in_fp32_with_sdpa_where_its_base_has_it(card, monkeypatch):
    def note(path, **options):
        raise Told(options)

    monkeypatch.setattr(judges.AutoModelForSequenceClassification, "from_pretrained", note)
    with pytest.raises(Told) as caught:
        judges.load_classifier("some/base", "cpu")
    assert caught.value.args[0]["dtype"] == torch.float32
    assert "attn_implementation" not in caught.value.args[0]  # transformers takes SDPA where a base has it
    monkeypatch.setattr(probe.AutoModel, "from_pretrained", note)
    monkeypatch.setattr(probe.AutoConfig, "from_pretrained", lambda path: LlamaConfig())
    for attention, wanted in {"eager": "eager", "sdpa": None}.items():
        with pytest.raises(Told) as caught:
            probe.load_frozen("some/base", "cpu", torch.float32, attention)
        assert caught.value.args[0].get("attn_implementation") == wanted


def test_the_reason_names_the_card(card):
    reason = runtime.choose_precision().reason
    assert ("where bf16 is only emulated" in reason) == (card == "fp16")


# --- what is trained stays in float32 -----------------------------------------------------------


def trained_types(model) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_adapters_and_value_head_on_a_half_base_are_fp32(half, letters, tmp_path):
    model = models.add_lora(build_model(letters).to(half), rank=4)
    assert trained_types(model) == {torch.float32}
    models.save_adapter(model, tmp_path / "adapter")
    again = models.load_adapter(build_model(letters).to(half), tmp_path / "adapter", trainable=True)
    assert trained_types(again) == {torch.float32}
    assert ActorCritic(again).value_head.weight.dtype == torch.float32


def test_sft_on_a_4_bit_base_trains_in_fp32(letter_profile, tmp_path):
    """TRL casts what is trained to bf16 there, which a T4 emulates and fp16's scaler refuses."""
    profile = replace(letter_profile, precision="nf4", sft_batch=2, sft_micro_batch=2)
    tokenizer, model = models.load_policy(profile)
    model = models.add_lora(model, rank=4)
    trainer = sft.sft_trainer(model, tokenizer, profile, CONVERSATIONS, tmp_path)
    assert trained_types(trainer.model) == {torch.float32}
    trainer.train()
    assert trained_types(trainer.model) == {torch.float32}


def test_without_our_cast_trl_would_train_in_bf16(letter_profile, tmp_path, monkeypatch):
    # When this fails, TRL has changed and trainables_to_fp32 can go.
    monkeypatch.setattr(workarounds, "trainables_to_fp32", lambda model: None)
    profile = replace(letter_profile, precision="nf4")
    tokenizer, model = models.load_policy(profile)
    model = models.add_lora(model, rank=4)
    trainer = sft.sft_trainer(model, tokenizer, profile, CONVERSATIONS, tmp_path)
    assert torch.bfloat16 in trained_types(trainer.model)


# --- the probe ----------------------------------------------------------------------------------


def test_a_model_that_fits_float16_passes_and_says_how_near_it_came(letters):
    assert 0 < workarounds.probe_fp16(build_model(letters).half(), letters) < 65504


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_model_that_overflows_is_found_with_its_layer_and_the_ways_out(letters, four_bit):
    model = build_model(letters)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e6).clamp_(-6e4, 6e4)
    model.half().is_loaded_in_4bit = four_bit
    with pytest.raises(workarounds.Fp16Overflow, match="layer 2 of 3") as caught:
        workarounds.probe_fp16(model, letters)
    said = str(caught.value)
    assert "SAWYER_MODEL" in said
    assert "8.0 or more" in said
    assert ('SAWYER_PRECISION"] = "fp32"' in said) == (not four_bit)


@pytest.mark.parametrize(("precision", "probed"), [("fp16", True), ("bf16", False), ("fp32", False)])
def test_loading_in_float16_probes(letter_profile, capsys, precision, probed):
    models.load_policy(replace(letter_profile, precision=precision))
    assert ("fp16 probe: the largest activation is" in capsys.readouterr().out) == probed


def test_loading_stops_at_an_overflow(letter_profile, monkeypatch, tmp_path):
    model = LlamaForCausalLM.from_pretrained(letter_profile.policy_base)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(6e4)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(letter_profile.policy_base).save_pretrained(tmp_path)
    with pytest.raises(workarounds.Fp16Overflow):
        models.load_policy(replace(letter_profile, policy_base=str(tmp_path), precision="fp16"))
