"""What the tests share: the real tokenizer, and models small enough to be built anew in each test."""

from __future__ import annotations

import os

# Before any import of transformers: it reads both when it is first loaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """SAWYER's tokenizer from the embedded weights (read from the cache after the first time)."""
    from sawyer_utils.models import load_tokenizer
    from sawyer_utils.profiles import PROFILES

    return load_tokenizer(PROFILES["local"])


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """``tiny_model(seed=0, tied=True)``: a random two-layer Llama over the real vocabulary."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(seed: int = 0, tied: bool = True, **options):
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # The default 0.02 gives nearly equal probabilities, under which many mistakes hide.
            initializer_range=0.2,
            **options,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config).float()
        return model.requires_grad_(False).eval()

    return build


@pytest.fixture(scope="session")
def tiny_actor(tokenizer, tiny_model):
    """``tiny_actor(seed=0, rank=4)``: what ``models.load_actor`` gives, on the tiny model.

    Two adapters with the same weights: ``policy``, trainable and active, and ``ref``, frozen.
    LoRA's B starts at small random numbers, so that the adapters do something.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from sawyer_utils.chat import MEANINGS
    from sawyer_utils.models import POLICY, REF, activate

    def build(seed: int = 0, rank: int = 4, tied: bool = True):
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            trainable_token_indices=tokenizer.convert_tokens_to_ids(list(MEANINGS)),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            model = get_peft_model(tiny_model(seed, tied), config, adapter_name=POLICY)
            model.add_adapter(REF, config)
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                for name, parameter in parameters.items():
                    if "lora_B" in name and f".{POLICY}" in name:
                        parameter.normal_(0, 0.05)
                for name, parameter in parameters.items():
                    if f".{REF}" in name:
                        parameter.copy_(parameters[name.replace(f".{REF}", f".{POLICY}")])
        activate(model, POLICY)
        return model

    return build
