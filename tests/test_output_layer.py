"""Log-probs are taken from the output layer alone: models that do more after it are refused."""

from __future__ import annotations

import pytest
import torch
from conftest import build_actor, build_model
from transformers import (
    BartForCausalLM,
    BartForConditionalGeneration,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PegasusForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from sawyer_utils.actor import ActorCritic, check_output_layer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def built(letters, kind, config, **options):
    torch.manual_seed(0)
    return kind(config(vocab_size=len(letters), **SIZES, **options)).eval().requires_grad_(False)


CHANGED = {
    "Granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 8.0}),
    "Gemma 2": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 2.0, "head_dim": 8}),
    "Cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.0625}),
}
PLAIN = {
    "Granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 1.0}),
    "Gemma 2": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": None, "head_dim": 8}),
    "Cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 1.0}),
    "Qwen 2": (Qwen2ForCausalLM, Qwen2Config, {}),
}


@pytest.mark.parametrize("name", CHANGED)
def test_logits_that_are_changed_after_the_output_layer_are_refused(letters, name):
    kind, config, options = CHANGED[name]
    model = built(letters, kind, config, **options)
    with pytest.raises(ValueError, match=r"changes its logits after the output layer.*nats"):
        check_output_layer(model)
    # At construction, before anything is trained; with adapters, too.
    with pytest.raises(ValueError, match=type(model).__name__):
        ActorCritic(build_actor(letters, model=model))


def test_logits_that_are_no_numbers_are_refused(letters):
    model = build_model(letters)
    model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="nan nats"):
        check_output_layer(model)


@pytest.mark.parametrize("name", PLAIN)
def test_others_are_taken(letters, name):
    kind, config, options = PLAIN[name]
    ActorCritic(build_actor(letters, model=built(letters, kind, config, **options)))


def test_models_whose_positions_count_padding_are_refused(letters):
    sizes = {"d_model": 32, "init_std": 0.3, "max_position_embeddings": 64, "decoder_start_token_id": 0}
    for side in ("encoder", "decoder"):
        sizes |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
    for kind in (BartForCausalLM, BartForConditionalGeneration, PegasusForConditionalGeneration):
        torch.manual_seed(0)
        model = kind(kind.config_class(vocab_size=len(letters), **sizes))
        with pytest.raises(ValueError, match=f"{kind.__name__} reads a padded prompt otherwise.*nats"):
            check_output_layer(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_reason(letters, dtype):
    check_output_layer(build_model(letters).to(dtype))


def test_a_scale_before_the_output_layer_is_taken(letters):
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 2}
    config = T5Config(vocab_size=len(letters), decoder_start_token_id=0, dropout_rate=0.5, **sizes)
    for tied in (True, False):
        config.tie_word_embeddings = tied
        model = T5ForConditionalGeneration(config).train()  # dropout is no difference, either
        check_output_layer(model)
        assert model.training
