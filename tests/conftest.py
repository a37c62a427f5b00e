"""What the tests share: tokenizers, and models small enough to be built anew in each test.

``tokenizer`` is the course's own, with 49,154 tokens; ``letters`` knows the alphabet, for tests in
which a vocabulary of 49,154 would only cost time or hide a token that has to be sampled.
"""

from __future__ import annotations

import os

# Before any import of transformers: it reads both when it is first loaded.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests build small models on the CPU: what the course loads beside them shall be there, too, on a machine
# with a GPU. The killed notebooks are compared with notebooks that had it.
if not {"SAWYER_TESTS_ON_GPU", "SAWYER_WHOLE_RUN"} & set(os.environ):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # fits.py, gpu_check.py


def pytest_make_parametrize_id(val, argname):
    """Bytes name no test: compressed ones hold the time, and two workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session", autouse=True)
def _no_apple_gpu():
    """As CUDA_VISIBLE_DEVICES above, on a Mac."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("SAWYER_TESTS_ON_GPU"):
            patch.setattr(torch.backends.mps, "is_available", lambda: False)
        yield


@pytest.fixture(params=["fp32", "bf16", "fp16"])
def gpu(request):
    """The course finds a GPU with this number format (fakegpu.py); its dtype."""
    import fakegpu

    with fakegpu.course(request.param):
        yield fakegpu.FORMATS[request.param]


@pytest.fixture(scope="session")
def tokenizer():
    """SAWYER's tokenizer from the embedded weights (read from the cache after the first time)."""
    from sawyer_utils.models import load_tokenizer
    from sawyer_utils.profiles import PROFILES

    return load_tokenizer(PROFILES["local"])


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """``tiny_model(seed=0, tied=True)``: a random two-layer Llama over the real vocabulary."""

    def build(seed: int = 0, tied: bool = True, **options):
        return build_model(tokenizer, seed, tied, **options)

    return build


@pytest.fixture(scope="session")
def tiny_actor(tokenizer):
    """``tiny_actor(seed=0, rank=4)``: what ``models.load_actor`` gives, on the tiny model."""

    def build(seed: int = 0, rank: int = 4, tied: bool = True, **options):
        return build_actor(tokenizer, seed, rank, tied, **options)

    return build


@pytest.fixture(scope="session")
def letters():
    """A tokenizer of one token a letter, with SAWYER's control tokens; the text is "a b c"."""
    from sawyer_utils.chat import add_control_tokens

    return add_control_tokens(letter_tokenizer())


@pytest.fixture(scope="session")
def letter_actor(letters):
    """``letter_actor(seed=0, rank=4)``: as ``tiny_actor``, over the alphabet."""

    def build(seed: int = 0, rank: int = 4, tied: bool = True, **options):
        return build_actor(letters, seed, rank, tied, **options)

    return build


@pytest.fixture(scope="session")
def letter_profile(tmp_path_factory):
    """A profile whose policy base and reward base are tiny models in folders, in fp32."""
    from dataclasses import replace

    from sawyer_utils.profiles import PROFILES

    policy, reward = tmp_path_factory.mktemp("policy_base"), tmp_path_factory.mktemp("reward_base")
    # As a base comes from the Hub: without SAWYER's tokens.
    base_tokenizer = letter_tokenizer()
    build_model(base_tokenizer, hidden_size=64).save_pretrained(policy)  # NF4 works in blocks of 64
    base_tokenizer.save_pretrained(policy)
    build_encoder(pair_tokenizer()).save_pretrained(reward)
    pair_tokenizer().save_pretrained(reward)
    sizes = {"lora_rank": 4, "lora_alpha": 8, "reward_rank": 4, "reward_pair_tokens": 24}
    return replace(
        PROFILES["smoke"],
        name="letters",
        policy_base=str(policy),
        reward_base=str(reward),
        encoder=str(reward),
        precision="fp32",
        **sizes,
    )


@pytest.fixture(scope="session")
def forked():
    """``forked(work, *arguments)``: a process that does this work, started.

    On Linux it is forked from one that has imported the large libraries and done nothing else: not from this
    one, for torch refuses to train in a fork of a process that has trained.
    """
    import multiprocessing

    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(["torch", "transformers", "peft", "trl.trainer.sft_trainer"])

    def start(work, *arguments):
        process = context.Process(target=work, args=arguments)
        process.start()
        return process

    return start


# --- builders -----------------------------------------------------------------------------------


def letter_tokenizer(special: tuple[str, ...] = ("<pad>", "<unk>")):
    """One token a letter, the words of the control tokens' phrases, and an end token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    meanings = ("The", "human", "assistant", "said", ":", "</s>")
    words = [*special, *"abcdefghijklmnopqrstuvwxyz", *meanings]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **roles)


def pair_tokenizer():
    """The same for the reward model's encoder: ``[CLS] question [SEP] answer [SEP]``."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = letter_tokenizer(("<pad>", "<unk>", "[CLS]", "[SEP]"))
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)],
    )
    return tokenizer


def build_model(tokenizer, seed: int = 0, tied: bool = True, **options):
    """A random two-layer Llama, frozen."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    width = options.pop("hidden_size", 32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # The default 0.02 gives nearly equal probabilities, under which many mistakes hide.
        **{"initializer_range": 0.2, "num_key_value_heads": 4, "max_position_embeddings": 512, **options},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    return model.requires_grad_(False).eval()


def build_actor(
    tokenizer,
    seed: int = 0,
    rank: int = 4,
    tied: bool = True,
    dropout: float = 0.0,
    model=None,
    **options,
):
    """Two adapters with the same weights: ``policy``, trainable and active, and ``ref``, frozen.

    LoRA's B starts at small random numbers, so that the adapters do something.

    Args:
        dropout: LoRA's, which the course never sets.
        model: put the adapters on this one instead.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from sawyer_utils.models import POLICY, REF, activate

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    base = model or build_model(tokenizer, seed, tied, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        model = get_peft_model(base, config, adapter_name=POLICY)
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


def known_model(tokenizer, weights: dict[str, float]):
    """A model that gives each token its weight's share of the probability, whatever came before."""
    import math

    import torch

    model = build_model(tokenizer, tied=False)
    total = sum(weights.values())
    logits = torch.full((len(tokenizer),), -30.0)
    for token, weight in weights.items():
        logits[tokenizer.convert_tokens_to_ids(token)] = math.log(weight / total)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.zero_()  # nothing is added to the embedding …
        model.get_input_embeddings().weight.fill_(1.0)  # … which is the same for all
        model.lm_head.weight.copy_(logits.unsqueeze(1) / model.config.hidden_size)
    return model


def build_encoder(tokenizer, seed: int = 0):
    """A random two-layer BERT with one output."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config).eval()
