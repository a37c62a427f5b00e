"""The memory formulas of the stages beside PPO, each held against what the real code allocates on a tiny
model: an upper bound, and not far from it where there is much to do.

A dispatch mode counts the bytes of all tensors alive, as a GPU's allocator does.
"""

from __future__ import annotations

import inspect
from dataclasses import replace

import fits
import memory_budget
import pytest
import torch
from conftest import pair_tokenizer
from peft import LoraConfig, get_peft_model
from test_ppo_memory import LiveBytes
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sawyer_utils import evaluation, models, reward, rollout, runtime, sft
from sawyer_utils.chapters import choices
from sawyer_utils.data import Pair
from sawyer_utils.plumbing.memory import GIB
from sawyer_utils.profiles import PROFILES

RANK = 4
# Fewer key-value heads than attention heads, and heads that do not add up to the width.
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24}
SIZES = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, **HEADS}


@pytest.fixture(autouse=True)
def in_16_bits(monkeypatch):
    """The trainers take 16-bit autocast, as they do on a GPU."""
    precision = runtime.Precision("cpu", torch.bfloat16, torch.bfloat16, False, "")
    monkeypatch.setattr(sft, "choose_precision", lambda wanted="auto": precision)


def policy(letters, vocabulary: int, adapters: int = 1, tied: bool = False):
    """(config, model): a Llama in bf16 with LoRA, of more words than its tokenizer."""
    special = {
        "bos_token_id": None,
        "eos_token_id": letters.eos_token_id,
        "pad_token_id": letters.pad_token_id,
    }
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **SIZES, **special)
    torch.manual_seed(0)
    base = LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False).eval()
    model = models.add_lora(base, RANK, 2 * RANK)
    for number in range(1, adapters):
        model.add_adapter(f"ref{number}", model.peft_config["default"])
    return config, model


def talks(count: int, length: int) -> list[dict]:
    """Conversations of at least ``length`` tokens."""
    text = " ".join("abcdefgh"[i % 8] for i in range(length))
    turns = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": text}]
    return [{"id": str(i), "messages": turns} for i in range(count)]


def peak_of(work, *held: torch.nn.Module) -> int:
    """Bytes at the peak of ``work()``, with those of the models that are there before."""
    with LiveBytes() as live:
        for model in held:
            for tensor in (*model.parameters(), *model.buffers()):
                live.add(tensor)
        work()
    return live.peak


def check(peak: int, parts: dict[str, int]) -> None:
    """The parts are a bound of the peak, of which at least half of what comes and goes is reached."""
    stays = parts["weights"] + parts.get("optimizer", 0)
    bound = sum(parts.values())
    assert stays < peak <= bound
    assert peak - stays > 0.5 * (bound - stays)


# --- policy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("adapters", [1, 2])
def test_weights_that_only_serve_are_counted_to_the_byte(letters, tied, adapters):
    config, model = policy(letters, len(letters) + 100, adapters, tied)
    numbers = {id(t): t.nbytes for t in (*model.parameters(), *model.buffers())}
    rotary = [b for name, b in model.named_buffers() if "rotary" in name]  # a few floats, not counted
    held = sum(numbers.values()) - sum(b.nbytes for b in rotary)
    assert fits.policy_weights(config, "bf16", RANK, adapters) == held


# Width, inner, heads, key-value heads, their width: in each of them another part is the largest.
LAYERS = [
    (64, 192, 4, 2, 24),
    (64, 16, 8, 1, 64),
    (64, 16, 8, 8, 64),
    (256, 16, 8, 4, 16),
    (64, 1024, 4, 4, 16),
    (512, 16, 2, 1, 8),
]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("shape", LAYERS)
def test_what_autograd_keeps_of_a_layer(shape, precision):
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    config = LlamaConfig(vocab_size=32, num_hidden_layers=1, **dict(zip(names, shape, strict=True)))
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    model = LlamaForCausalLM(config).to(dtype).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear"))
    decoder, own = model.get_base_model().model, {p.untyped_storage()._cdata for p in model.parameters()}
    states = torch.randn(2, 64, shape[0], dtype=dtype, requires_grad=True)
    turned = decoder.rotary_emb(states, torch.arange(64).unsqueeze(0))
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), models.autocast(model, dtype):
        decoder.layers[0](states, position_embeddings=turned, attention_mask=None)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert 0.75 < size / memory_budget.one_layer(config, states[..., 0].numel(), precision) < 1.02


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("rows", "length", "vocabulary"), [(1, 32, 64), (2, 64, 64), (2, 64, 3000), (3, 96, 3000)]
)
def test_supervised_fine_tuning(letters, tmp_path, tied, rows, length, vocabulary):
    config, model = policy(letters, vocabulary, tied=tied)
    sizes = {"sft_micro_batch": rows, "sft_batch": rows, "conversation_tokens": length, "sft_max_steps": 2}
    profile = replace(PROFILES["smoke"], **sizes)
    checkpointing = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    trainer = sft.sft_trainer(model, letters, profile, talks(2 * rows, length), tmp_path, **checkpointing)
    parts = fits.sft_update(config, rows, length, "bf16", RANK)
    moments_and_gradient = 3 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert parts["optimizer"] == moments_and_gradient
    check(peak_of(trainer.train, model), parts)


@pytest.mark.parametrize("length", [24, 96])
def test_the_loss_of_held_out_conversations(letters, length):
    config, model = policy(letters, 3000)
    rows = talks(fits.HELD_OUT_ROWS + 1, length)
    width = max(len(sft.encode(letters, row["messages"]).ids) for row in rows)
    peak = peak_of(lambda: sft.conversation_losses(model, letters, rows), model)
    check(peak, fits.held_out_loss(config, fits.HELD_OUT_ROWS, width, "bf16", RANK))


@pytest.mark.parametrize(("rows", "prompt", "response"), [(2, 8, 4), (6, 40, 8), (6, 8, 40)])
def test_answers(letters, rows, prompt, response):
    config, model = policy(letters, 300, adapters=2)
    eos = config.eos_token_id

    def never_stops(module, inputs, output):  # so that every answer takes its full length
        return output.index_fill(-1, torch.tensor([eos]), -1e4)

    model.get_base_model().get_output_embeddings().register_forward_hook(never_stops)
    text = " ".join("abcdefgh"[i % 8] for i in range(prompt))
    width = len(rollout.encode_prompt(letters, text))
    texts, found = [text] * rows, []

    def work():
        with models.merged(model):
            found.append(rollout.sample(model, letters, texts, response, 1.0))
        lengths, finished = [response] * rows, [False] * rows
        said = evaluation.Answers(
            texts, found[0].responses, lengths, finished, found, [list(range(rows))], 1.0
        )
        evaluation.kl_to_reference(model, said, "ref1")

    peak = peak_of(work, model)
    assert found[0].input_ids.shape == (rows, width + response)
    check(peak, fits.answers(config, 0, rows, width, response, "bf16", RANK))


@pytest.mark.parametrize("batch_tokens", [32, 256])
def test_multiple_choice(letters, batch_tokens):
    config, model = policy(letters, 300, adapters=2)
    # 24 tokens before rows of 8: as many are read at once as the batch allows, and held as well.
    answers = [" ".join("abcdefgh"[(i >> k) % 8] for k in range(8)) for i in range(60)]
    questions = [{"id": "0", "question": " ".join("a" * 20), "choices": answers, "label": 1}]
    peak = peak_of(lambda: choices.score_choices(model, letters, questions, batch_tokens=batch_tokens), model)
    check(peak, fits.multiple_choice(config, 0, batch_tokens, "bf16", RANK))


# --- reward model -------------------------------------------------------------------------------

WORDS = len(pair_tokenizer())
ENCODER = {"vocab_size": WORDS, "num_attention_heads": 4, "num_labels": 1, "pad_token_id": 0}


def judge_of(kind: str, width: int = 32, inner: int = 96, layers: int = 2) -> reward.RewardModel:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, **ENCODER}
    torch.manual_seed(0)
    if kind == "roberta":
        settings = RobertaConfig(**sizes, max_position_embeddings=140, type_vocab_size=1)
        model = RobertaForSequenceClassification(settings)
    else:
        model = BertForSequenceClassification(BertConfig(**sizes, max_position_embeddings=140))
    lora = LoraConfig(r=RANK, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS")
    return reward.RewardModel(get_peft_model(model, lora), pair_tokenizer(), 128)


@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_the_weights_of_a_judge(kind):
    judge = judge_of(kind)
    numbers = [p for p in judge.model.parameters()]
    trained = sum(p.numel() for p in numbers if p.requires_grad)
    bound = fits.encoder_adapter(judge.model.config, RANK)
    assert trained == bound if kind == "roberta" else 0.7 * bound < trained <= bound
    held = sum(p.nbytes for p in numbers)
    assert (
        0.9 * fits.judge_weights(judge.model.config, RANK)
        < held
        <= fits.judge_weights(judge.model.config, RANK)
    )


@pytest.mark.parametrize("kind", ["roberta", "bert"])
@pytest.mark.parametrize(
    ("pairs", "length", "sizes"),
    [(1, 32, {}), (3, 128, {}), (3, 128, {"width": 64, "layers": 5}), (3, 128, {"inner": 256})],
)
def test_training_the_reward_model(tmp_path, kind, pairs, length, sizes):
    judge = judge_of(kind, **sizes)
    judge.max_tokens = length
    settings = {"reward_batch": 4 * pairs, "reward_max_steps": 2, "reward_pair_tokens": length}
    profile = replace(PROFILES["smoke"], **settings)
    text = " ".join("abcdefgh"[i % 8] for i in range(length))
    lessons = [Pair(str(i), "", text, text, f"h {text}", 1.0, ("", "")) for i in range(8 * pairs)]
    trainer = reward.reward_trainer(judge, profile, lessons, tmp_path)
    assert trainer.args.per_device_train_batch_size == pairs
    parts = fits.reward_update(judge.model.config, pairs, length, RANK)
    check(peak_of(trainer.train, judge.model), parts)


def test_a_judge_that_reads():
    judge = judge_of("roberta", width=64, inner=192)
    text = " ".join("abcdefgh"[i % 8] for i in range(60))
    rows = fits.SCORED_ROWS
    peak = peak_of(lambda: judge.score([text] * rows, [text] * rows), judge.model)
    parts = {"weights": fits.judge_weights(judge.model.config, RANK)}
    check(peak, parts | {"activations": fits.judging(judge.model.config, rows, 123)})


# --- a profile ----------------------------------------------------------------------------------


def test_sizes_that_are_not_the_profiles_are_those_of_the_code():
    def default(function, name):
        return inspect.signature(function).parameters[name].default

    assert default(sft.conversation_losses, "batch") == fits.HELD_OUT_ROWS
    assert default(reward.RewardModel.score, "batch") == fits.SCORED_ROWS
    assert default(choices.score_choices, "batch_tokens") == default(fits.multiple_choice, "batch_tokens")


POLICY_STAGES = {"01 SFT", "01 held-out loss", "03 PPO, generation", "03 PPO, update"}
POLICY_STAGES |= {"04 answers", "04 judges", "04 multiple choice"}
HANGS_ON = {  # which stages' peaks a setting has a say in
    "sft_micro_batch": {"01 SFT"},
    "conversation_tokens": {"01 SFT", "01 held-out loss"},
    "reward_batch": {"02 reward model"},
    "reward_pair_tokens": {"02 reward model", "04 judges"},
    "reward_rank": {"02 reward model", "04 answers", "04 judges", "04 multiple choice"},
    "ppo_batch": {"03 PPO, generation"},
    "ppo_micro_batch": {"03 PPO, update"},
    "prompt_tokens": {"03 PPO, generation", "03 PPO, update"},
    "response_tokens": {"03 PPO, generation", "03 PPO, update"},
    "eval_batch": set(),  # the budget of tokens is the narrower of the two
    "eval_tokens": {"04 answers"},
    "lora_rank": POLICY_STAGES,
}


@pytest.mark.parametrize("setting", HANGS_ON)
@pytest.mark.parametrize("name", ["colab", "llama2"])
def test_each_setting_reaches_its_stages_and_no_other(name, setting):
    profile = PROFILES[name]
    before = fits.peaks(profile)
    after = fits.peaks(replace(profile, **{setting: 2 * getattr(profile, setting)}))
    assert {stage for stage in before if after[stage] > before[stage]} == HANGS_ON[setting]
    # Answers that may be twice as long are given half as many at a time.
    fewer_rows = {"04 answers"} if setting in ("prompt_tokens", "response_tokens") else set()
    assert all(after[stage] >= before[stage] for stage in before.keys() - fewer_rows)


def test_the_number_format_of_the_weights_counts():
    wide, narrow = (fits.peaks(replace(PROFILES["llama2"], precision=p)) for p in ("auto", "nf4"))
    grew = {stage for stage in wide if wide[stage] > narrow[stage] + 8}  # GiB: 13 instead of 4
    assert grew == POLICY_STAGES


def test_the_context_of_cuda_is_counted_once():
    for stage, parts in fits.stages(PROFILES["colab"]).items():
        assert fits.peaks(PROFILES["colab"])[stage] * GIB == pytest.approx(
            sum(parts.values()) + memory_budget.CONTEXT
        )
