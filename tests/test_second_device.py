"""Everything that the package does with tensors, on a device that refuses to mix them with the CPU's.

In fp32, bf16 and fp16 with its gradient scaler, with tiny models (``fakegpu.py``: no GPU is needed). Where
both can be had, the numbers are those of the CPU.
"""

from __future__ import annotations

import math
from dataclasses import replace

import fakegpu
import matplotlib.pyplot as plt
import pytest
import torch
from conftest import build_actor, build_model, letter_tokenizer
from safetensors.torch import load_file
from test_peers import PAIRS, dpo, rloo, sft_chosen
from transformers import BloomConfig, BloomForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

from sawyer_utils import evaluation, health, models, ppo, reward, rollout, runtime, sft, show
from sawyer_utils.actor import ActorCritic
from sawyer_utils.chapters import choices, export, peers, summaries
from sawyer_utils.chapters.hacking import Lab
from sawyer_utils.chat import add_control_tokens
from sawyer_utils.classroom import snapshots, widgets
from sawyer_utils.classroom.talk import Talk
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import RewardModel

torch.set_num_threads(1)
fakegpu.install()

PROMPTS = ["a b c", "d", "e f g", "g h i j", "k", "l m", "n o p", "q"]
TALKS = [
    {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    for q, a in (("a b c", "d e f g"), ("k", "l m"), ("r s t u", "x y z a b"), ("c a b", "b"))
]
QUESTIONS = [
    {"id": f"q{i}", "question": q, "choices": ["a b", "c d e", "f"], "label": i}
    for i, q in enumerate(("x y", "z", "b c d"))
]
SETTINGS = {"steps": 2, "batch_size": 4, "micro_batch": 2, "epochs": 1, "response_tokens": 4}
SETTINGS |= {"checkpoint_every": 1}


@pytest.fixture(scope="module")
def profile(letter_profile):
    """A tiny profile that takes the number format of the machine."""
    sizes = {
        "sft_max_steps": 3,
        "sft_batch": 2,
        "sft_micro_batch": 1,
        "reward_max_steps": 2,
        "reward_batch": 4,
    }
    sizes |= {"ppo_batch": 4, "ppo_micro_batch": 2, "dpo_batch": 2, "response_tokens": 6, "eval_batch": 3}
    return replace(letter_profile, precision="auto", checkpoint_minutes=0.0, **sizes)


@pytest.fixture(scope="module")
def adapter(profile, tmp_path_factory):
    """A saved SFT adapter that does something, made on the CPU."""
    tokenizer = add_control_tokens(letter_tokenizer())
    model = build_actor(tokenizer, hidden_size=64)
    folder = tmp_path_factory.mktemp("sft") / "adapter"
    models.save_adapter(model, folder, models.POLICY)
    return folder


def lengths(prompts, responses) -> list[float]:
    return [float(len(text)) for text in responses]


def ignore(log) -> None:
    """For ``on_log``."""


def devices(*tensors) -> set[str]:
    return {tensor.device.type for tensor in tensors}


def batch_of(profile, adapter, prompts=PROMPTS[:3]):
    """(tokenizer, model, a sampled batch)."""
    tokenizer, model = models.load_actor(profile, adapter)
    torch.manual_seed(0)
    return tokenizer, model, rollout.sample(model, tokenizer, prompts, 6, 1.0)


# --- the policy ---------------------------------------------------------------------------------


def test_a_policy_is_loaded_onto_it_in_its_number_format(gpu, profile, adapter):
    _, model = models.load_actor(profile, adapter)
    kinds = {(p.device.type, p.dtype, p.requires_grad) for p in model.parameters()}
    assert {device for device, _, _ in kinds} == {"fakegpu"}
    assert {dtype for _, dtype, trained in kinds if trained} == {torch.float32}
    assert model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == gpu
    assert model.config._attn_implementation == "sdpa"


BLOCK = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "attention_types": [[["global"], 1]]}
WITHOUT_SDPA = {
    "GPT-Neo": lambda n: GPTNeoForCausalLM(GPTNeoConfig(vocab_size=n, **BLOCK)),
    "BLOOM": lambda n: BloomForCausalLM(BloomConfig(vocab_size=n, hidden_size=32, n_layer=1, n_head=4)),
}


@pytest.mark.parametrize("family", WITHOUT_SDPA)
def test_a_base_without_sdpa_is_loaded_with_what_it_has(family, tmp_path):
    tokenizer = letter_tokenizer()
    WITHOUT_SDPA[family](len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with fakegpu.course("fp32"):
        _, model = models.load_policy(replace(PROFILES["smoke"], policy_base=str(tmp_path)))
    assert model.config._attn_implementation == "eager"


def test_folding_an_adapter_in_changes_no_logits_and_is_undone(gpu, profile, adapter):
    _, model = models.load_actor(profile, adapter)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]], device="fakegpu")
    with torch.no_grad():
        apart = model(input_ids=ids).logits
        with models.merged(model):
            folded = model(input_ids=ids).logits
        assert torch.equal(model(input_ids=ids).logits, apart)
        with models.using(model, "base"):
            base = model(input_ids=ids).logits
    error, step = (float((x - apart).abs().max()) for x in (folded, base))
    assert error < {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 0.2}[gpu] < 1 < step


def test_sampling_stays_on_it(gpu, profile, adapter):
    _, model, batch = batch_of(profile, adapter)
    assert devices(batch.input_ids, batch.attention_mask, batch.response_mask, batch.finished) == {"fakegpu"}
    # The dice are the device's own: the CPU's have not been touched.
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    rollout.sample(model, add_control_tokens(letter_tokenizer()), PROMPTS, 4, 1.0, at_once=3)
    assert torch.equal(torch.rand(3), expected)


def test_greedy_answers_and_their_logprobs_are_the_cpus(profile, adapter):
    found = []
    for where in ("here", "there"):
        with fakegpu.course("fp32") if where == "there" else pytest.MonkeyPatch.context():
            tokenizer, model = models.load_actor(replace(profile, precision="fp32"), adapter)
            model.get_base_model().config._attn_implementation = "eager"  # SDPA sums in another order
            batch = rollout.sample(model, tokenizer, PROMPTS, 6, 0.0)
            with torch.no_grad():
                found.append((batch.responses, *(x.cpu() for x in ActorCritic(model)(batch, 1.0))))
    (said, *here), (again, *there) = found
    assert said == again
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert here[0].any()


# --- 01 SFT -------------------------------------------------------------------------------------


def train_sft(profile, folder, on_log=ignore, **options):
    tokenizer, model = models.load_policy(profile)
    torch.manual_seed(0)
    model = models.add_lora(model, 4, 8)
    log = sft.train_sft(model, tokenizer, profile, TALKS, folder, on_log, **options)
    return log, load_file(folder / "adapter" / "adapter_model.safetensors"), model, tokenizer


def test_sft_is_written_and_goes_on_from_a_checkpoint_to_the_same_weights(gpu, profile, tmp_path):
    log, weights, model, tokenizer = train_sft(profile, tmp_path / "whole")
    assert len(log) == 3
    assert devices(*model.parameters()) == {"fakegpu"}

    def cut(log):
        if len(log) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(profile, tmp_path / "cut", cut)
    again, resumed, *_ = train_sft(profile, tmp_path / "cut")
    assert [line["loss"] for line in again] == [line["loss"] for line in log]
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    losses = sft.conversation_losses(model, tokenizer, TALKS, batch=3)
    assert all(map(math.isfinite, losses))
    assert losses == pytest.approx(
        [sft.conversation_losses(model, tokenizer, [talk])[0] for talk in TALKS],
        abs=1e-5 if gpu == torch.float32 else 0.1,
    )


# --- 02 the judge -------------------------------------------------------------------------------


def test_the_judge_is_trained_scores_and_comes_back_from_disk(gpu, profile, tmp_path):
    judge = RewardModel.untrained(profile)
    before = judge.score(["a b", "c"], ["d", "e f"])
    log = reward.train_reward(judge, profile, PAIRS, tmp_path, ignore)
    assert len(log) == 2
    after = judge.score(["a b", "c"], ["d", "e f"])
    assert after != before
    assert devices(*judge.model.parameters()) == {"fakegpu"}
    loaded = RewardModel.load(tmp_path / "model")
    assert loaded.score(["a b", "c"], ["d", "e f"]) == pytest.approx(after, abs=1e-5)
    assert len(reward.differences(loaded, PAIRS)) == len(PAIRS)
    panel = widgets.RewardExplorer(loaded, "a b", "c d", "e")
    panel.judge()
    assert "preferred with probability" in panel.result.value


# --- 03 PPO -------------------------------------------------------------------------------------


def trainer_of(profile, adapter, run_dir=None, **options) -> PPOTrainer:
    tokenizer, model = models.load_actor(profile, adapter)
    config = PPOConfig.from_profile(profile, **{**SETTINGS, **options})
    return PPOTrainer(model, tokenizer, lengths, config, run_dir)


def state_of(trainer: PPOTrainer) -> dict:
    """Everything that training has changed."""
    state = trainer.optimizer.state_dict()["state"]
    moments = {f"{i}.{name}": value for i, of in state.items() for name, value in of.items()}
    return {**trainer.actor.state_dict(), **moments}


def test_ppo_goes_on_from_a_checkpoint_to_the_same_weights(gpu, profile, adapter, tmp_path):
    whole = trainer_of(profile, adapter, tmp_path / "whole")
    whole.train(PROMPTS)
    cut = trainer_of(profile, adapter, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        cut.train(PROMPTS, on_step=lambda log: (_ for _ in ()).throw(KeyboardInterrupt))
    resumed = trainer_of(profile, adapter, tmp_path / "cut")
    assert resumed.load_checkpoint()
    moments = [v for of in resumed.optimizer.state.values() for k, v in of.items() if k != "step"]
    assert len(moments) == 2 * len(resumed.trained)
    assert devices(*moments, *resumed.actor.parameters()) == {"fakegpu"}
    log = resumed.train(PROMPTS)
    assert [line["policy_loss"] for line in log] == [line["policy_loss"] for line in whole.log]
    assert all(torch.equal(value, state_of(resumed)[key]) for key, value in state_of(whole).items())
    assert all(math.isfinite(line["kl"]) for line in log)
    assert [line["optimizer_steps"] for line in log] == [2, 2]
    assert health.diagnose(log * 2) is not None


@pytest.mark.parametrize(
    "options",
    [
        {"whiten_rewards": True, "score_clip": 1.0, "kl_target": 0.5, "scale_rewards": True},
        {"detach_value": True, "critic_warmup": 1, "max_update_kl": 1e-9},
        {"generation_batch": 2, "activation_checkpointing": False, "temperature": 0.5},
    ],
    ids=["scores", "critic", "sampling"],
)
def test_ppos_other_settings_run_on_it(profile, adapter, options):
    with fakegpu.course("fp16"):
        log = trainer_of(profile, adapter, **options).train(PROMPTS)
    assert [line["step"] for line in log] == [1, 2]


def test_snapshots_of_a_run_are_plain_numbers(gpu, profile, adapter, tmp_path):
    trainer = trainer_of(profile, adapter, steps=1)
    watch = snapshots.Watch(trainer, PROMPTS[:2], every=1, path=tmp_path / "seen.json")
    watch.start()
    batch = trainer.score(trainer.rollout(PROMPTS[:4]))
    before = fakegpu.transfers.total()
    one = snapshots.snapshot(batch, trainer.tokenizer, 0)
    # Twice a row, not once a token: each of them waits for a GPU.
    assert fakegpu.transfers.total() - before == 2 * len(batch) + 1
    assert all(type(v) is float for values in one.kl for v in values)
    assert all(type(v) is float for v in one.scores)
    watch(trainer.train(PROMPTS))
    assert [taken.step for taken in watch.taken] == [0, 1]
    assert "nats" in show.rollouts(watch.taken).data


def test_an_encoder_decoder_learns_on_it(gpu, profile, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = letter_tokenizer(("<pad>", "<unk>", "</s>"))
    tokenizer.eos_token = "</s>"
    sizes = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": len(tokenizer),
    }
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(**sizes, **special)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    chapter = replace(summaries.settings(replace(profile, summariser=str(tmp_path))), ppo_batch=4)
    tokenizer, model = summaries.load_summariser(chapter)
    config = PPOConfig.from_profile(chapter, **{**SETTINGS, "steps": 1})
    assert config.compute == torch.float32  # it learnt in bf16, and overflows in fp16
    (line,) = PPOTrainer(model, tokenizer, lengths, config).train(PROMPTS)
    assert line["optimizer_steps"] == 2
    said = evaluation.answer(model, tokenizer, PROMPTS[:3], chapter)
    assert len(evaluation.kl_to_reference(model, said, models.REF)) == 3


# --- 04 evaluation ------------------------------------------------------------------------------


def test_answers_and_their_kl(gpu, profile, adapter):
    _, model, _ = batch_of(profile, adapter)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name and f".{models.POLICY}" in name:
                parameter.mul_(2)
    tokenizer = add_control_tokens(letter_tokenizer())
    said = evaluation.answer(model, tokenizer, PROMPTS[:5], profile, samples=2)
    assert len(said.responses) == 10
    assert {type(n) for n in said.lengths} == {int}
    for reference in (models.REF, "base"):
        kl = evaluation.kl_to_reference(model, said, reference, gpu)
        assert all(map(math.isfinite, kl))
        assert any(kl)


def test_similarity_and_a_classifier(gpu, profile):
    near = evaluation.Similarity(profile.reward_base)
    assert near(["a b c", "d e"], ["a b c", "x"])[0] == pytest.approx(1.0, abs=1e-5)
    logits = summaries.Classifier(profile.reward_base, 0)([""] * 3, ["a b", "c", "d e f g"])
    assert len(set(logits)) == 3


def test_multiple_choice_with_a_shared_prefix_and_by_letter(gpu, profile, adapter):
    _, model, _ = batch_of(profile, adapter)
    tokenizer = add_control_tokens(letter_tokenizer())
    compute = None if gpu == torch.float32 else gpu
    table = choices.score_choices(model, tokenizer, QUESTIONS, compute)
    alone = [choices.score_choices(model, tokenizer, [q], compute).logliks[0] for q in QUESTIONS]
    tolerance = 1e-4 if gpu == torch.float32 else 0.5
    for together, single in zip(table.logliks, alone, strict=True):
        assert together == pytest.approx(single, abs=tolerance)
    assert len(choices.ask_for_letter(model, tokenizer, QUESTIONS, max_new_tokens=3, batch=2)) == 3


def test_the_chat_answers(gpu, profile, adapter, tmp_path):
    tokenizer, model = models.load_actor(profile, adapter)
    judge = RewardModel.untrained(profile)
    stages = {"base": "base", "sft": "ref", "ppo": "policy"}
    panel = widgets.Chat(Talk(model, tokenizer, profile, stages, reward=judge), tmp_path)
    panel.tokens.value = 8
    for question in ("a b c", "d"):  # the second is asked after the first one's answer
        panel.question.value = question
        panel.ask_button.click()
    assert "answers in" in panel.status.value
    for reply in panel.talk.turns[-1]["replies"].values():
        assert {type(reply.reward), type(reply.tokens)} == {float, int}
    panel.save()
    assert (tmp_path / "transcript-1.jsonl").exists()


def test_a_merged_model_is_made_on_the_cpu_in_fp32(gpu, profile, adapter, tmp_path, monkeypatch):
    seen, merge = [], models.load_adapter
    monkeypatch.setattr(models, "load_adapter", lambda model, *x: seen.append(model) or merge(model, *x))
    folder = export.merge(profile, adapter, tmp_path / "merged")
    assert devices(*seen[0].parameters()) == {"cpu"}
    written = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}
    _, model = models.load_policy(replace(profile, policy_base=str(folder), precision="fp32"))
    assert devices(*model.parameters()) == {"fakegpu"}


# --- 05 and 06: peers, reward hacking -----------------------------------------------------------


@pytest.mark.parametrize("make", [sft_chosen, dpo, rloo])
def test_trls_trainers_share_ppos_forward_pass_on_it(gpu, profile, adapter, tmp_path, make):
    log = peers.train(make(profile, adapter, tmp_path), profile, tmp_path, ignore)
    assert make is not dpo or log[0]["loss"] == pytest.approx(math.log(2), abs=2e-2)
    assert log
    before = load_file(adapter / "adapter_model.safetensors")
    after = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_a_lab_runs_on_it(gpu, profile, adapter, tmp_path):
    tokenizer, model = models.load_actor(profile, adapter)
    lab = Lab(profile, tokenizer, model, PROMPTS, PROMPTS[:4], lengths, lengths, tmp_path)
    run = lab.run("a", lab.proxy, looks=1, **{**SETTINGS, "steps": 1})
    assert [look.step for look in run.looks] == [0, 1]
    assert len(lab.answers("a", PROMPTS[:3]).responses) == 3


def test_a_4_bit_policy_takes_a_step(profile, tmp_path):
    # Wide enough for bitsandbytes to take the layers onto the device: 16,384 numbers each.
    tokenizer = letter_tokenizer()
    build_model(tokenizer, hidden_size=128).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    wide = replace(profile, policy_base=str(tmp_path / "base"), precision="nf4")
    with fakegpu.course("bf16"), fakegpu.bitsandbytes():
        tokenizer, model = models.load_policy(wide)
        model = models.add_lora(model, 4, 8)
        assert {p.dtype for p in model.parameters() if not p.is_floating_point()} == {torch.uint8}
        assert devices(*model.parameters()) == {"fakegpu"}
        models.save_adapter(model, tmp_path / "adapter")
        trainer = trainer_of(wide, tmp_path / "adapter", steps=1)
        (line,) = trainer.train(PROMPTS)
    assert line["optimizer_steps"] == 2
    assert line["ratio_error"] < 1e-2


# --- time ---------------------------------------------------------------------------------------


def test_time_is_taken_when_the_device_has_done_its_work(profile, adapter, monkeypatch):
    """A call returns while a GPU still works on it: here for five seconds before each look at the clock."""
    now = [100.0]
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: now[0])
    with fakegpu.course("bf16"):
        trainer = trainer_of(profile, adapter, steps=1)
        monkeypatch.setattr(torch.fakegpu, "synchronize", lambda: now.__setitem__(0, now[0] + 5.0))
        (line,) = trainer.train(PROMPTS)
        assert [line[f"seconds_{phase}"] for phase in ("rollout", "score", "update")] == [5.0, 5.0, 5.0]
        assert now[0] == 120.0, "what was begun before the step is none of its time"
        watch = {}
        with runtime.stopwatch(watch, "sampling"):
            pass
    assert watch == {"sampling": 5.0}


# --- planted mistakes: each is refused ----------------------------------------------------------


def _cpu_masks(monkeypatch):
    plain = rollout.mask_after_end
    monkeypatch.setattr(rollout, "mask_after_end", lambda *x: tuple(y.cpu() for y in plain(*x)))


def _cpu_dice(monkeypatch):
    def draw(self, input_ids, logits):
        generator = torch.Generator().manual_seed(0)
        token = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)
        return torch.full_like(logits, -torch.inf).scatter(1, token, 0.0)

    monkeypatch.setattr(rollout.Draw, "__call__", draw)


def _cpu_kl(monkeypatch):
    plain = ppo.losses.kl_k1
    monkeypatch.setattr(ppo.losses, "kl_k1", lambda *x: plain(*x).cpu())


def _cpu_critic(monkeypatch):
    plain = ActorCritic.__init__

    def init(self, model):
        plain(self, model)
        self.value_head.cpu()

    monkeypatch.setattr(ActorCritic, "__init__", init)


def _cpu_positions(monkeypatch):
    plain = ppo.PPOTrainer._evaluate

    def evaluate(self, batch):
        batch.attention_mask = batch.attention_mask.cpu()
        return plain(self, batch)

    monkeypatch.setattr(ppo.PPOTrainer, "_evaluate", evaluate)


def _cpu_advantages(monkeypatch):
    plain = ppo.losses.gae
    monkeypatch.setattr(ppo.losses, "gae", lambda *x: tuple(y.cpu() for y in plain(*x)))


def _cpu_moments(monkeypatch):
    plain = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        for state in self.state.values():
            state["exp_avg"] = state["exp_avg"].cpu()
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


MISTAKES = {
    "a mask left on the CPU": _cpu_masks,
    "a generator of the wrong device": _cpu_dice,
    "a KL on the CPU": _cpu_kl,
    "a critic left on the CPU": _cpu_critic,
    "an attention mask left on the CPU": _cpu_positions,
    "advantages on the CPU": _cpu_advantages,
    "Adam's moments on the CPU": _cpu_moments,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_refused(profile, adapter, monkeypatch, name):
    with fakegpu.course("bf16"):
        MISTAKES[name](monkeypatch)
        with pytest.raises((RuntimeError, ValueError), match=r"same device|generator|either on cpu"):
            trainer_of(profile, adapter).train(PROMPTS)


def test_a_judge_that_forgets_its_inputs_is_refused(profile, monkeypatch):
    with fakegpu.course("fp32"):
        judge = RewardModel.untrained(profile)
        # As if .to(device) were missing.
        monkeypatch.setattr("transformers.BatchEncoding.to", lambda self, *_, **__: self)
        with pytest.raises(RuntimeError, match="same device"):
            judge.score(["a"], ["b"])


def test_a_figure_that_is_given_a_device_tensor_is_refused():
    figure, ax = plt.subplots()
    with pytest.raises(TypeError, match="can't convert"):
        ax.imshow(torch.ones(2, 2, device="fakegpu"))
    plt.close(figure)
