"""The reward model: it reads question and answer together and gives one number.

Its base is an encoder (BERT, RoBERTa), which is given the two as a pair, or a causal language model (Llama,
GPT-2), which is given them as one text and answers at its last token. Either is fine-tuned with LoRA by TRL's
trainer; a causal one can also stay frozen, with a linear layer on what it makes of the text (``probe.py``).
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, Trainer

from sawyer_utils.data import Pair
from sawyer_utils.models import add_lora
from sawyer_utils.plumbing import assets, resuming, trainers
from sawyer_utils.plumbing.adapters import load_adapter, named, save_adapter
from sawyer_utils.plumbing.files import read_json, replacing, write_json
from sawyer_utils.plumbing.judges import encode_pair, load_classifier, load_tokenizer, longest_input
from sawyer_utils.plumbing.progress import each
from sawyer_utils.probe import Probe, cross_validated, depths_of, encoder_of, fit, load_frozen
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import choose_precision

RewardFn = Callable[[list[str], list[str]], list[float]]
MICRO_BATCHES = 4  # a batch is computed in this many pieces
MARGIN_SCALE = 4.0  # score points per unit of margin: 9 points ask for a difference of 2.25


def pairs_that_fit(profile: Profile, preferences: list[dict]) -> list[dict]:
    """The rows of preferences in which the profile's reward model can see a difference: of two responses
    that read the same once they are cut to ``reward_pair_tokens``, the first stays; a row needs two scores.

    Says in one line how many responses are cut and how many rows are left out.

    Raises:
        ValueError: if none is left.
    """
    tokenizer = load_tokenizer(profile.reward_base)
    longest = profile.reward_pair_tokens
    kept, cut = [], 0
    for row in preferences:
        read: dict[tuple[int, ...], dict] = {}
        for response in row["responses"]:
            texts = row["prompt"], response["text"]
            cut += len(encode_pair(tokenizer, *texts, None)) > longest
            read.setdefault(tuple(encode_pair(tokenizer, *texts, longest)), response)
        if len({response["score"] for response in read.values()}) > 1:
            kept.append({**row, "responses": list(read.values())})
    if cut or len(kept) < len(preferences):
        left_out = f"{len(preferences) - len(kept)} of {len(preferences)} rows left out"
        print(f"{cut} responses are cut: with their question they are longer than {longest} tokens.")
        print(f"{left_out}: what is read of their responses is the same.")
    if not kept:
        raise ValueError(f"Of {len(preferences)} preferences none can be told apart in {longest} tokens.")
    return kept


class RewardModel:
    """A sequence classifier with one output, called on texts.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``num_labels=1``.
        max_tokens: longest question-and-answer pair.

    Raises:
        ValueError: if the model has fewer positions than ``max_tokens``.
    """

    def __init__(self, model: nn.Module, tokenizer, max_tokens: int = 192):
        longest = longest_input(model)
        if longest is not None and max_tokens > longest:
            raise ValueError(
                f"Pairs of {max_tokens} tokens (reward_pair_tokens), and this reward model reads {longest}."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    @classmethod
    def untrained(cls, profile: Profile, seed: int = 0) -> RewardModel:
        """The pretrained base with a fresh, random head, and with LoRA if it is not to stay frozen
        (``reward_frozen``): a few MB to save."""
        torch.manual_seed(seed)
        if profile.reward_frozen and load_tokenizer(profile.reward_base).sep_token is None:
            probe, tokenizer = _load_probe(profile.reward_base, profile.encoder, profile.precision)
            return FrozenReward(probe, tokenizer, profile.reward_pair_tokens)
        model, tokenizer, new = load_classifier(profile.reward_base, choose_precision().device)
        whole = {"task": "SEQ_CLS", "modules_to_save": new or None}  # the head and these are trained whole
        model = add_lora(model, profile.reward_rank, 2 * profile.reward_rank, **whole)
        return cls(model, tokenizer, profile.reward_pair_tokens)

    @classmethod
    def load(cls, path: Path | str, precision: str | None = None) -> RewardModel:
        """Load a saved reward model onto its base.

        Args:
            precision: of a frozen base, as in a profile; None takes ``SAWYER_PRECISION``, else "auto".

        Raises:
            ValueError: if a file is damaged, naming the folder.
        """
        settings = read_json(Path(path) / "sawyer_reward.json")
        longest = settings["max_tokens"]
        if encoder := settings.get("encoder"):
            precision = precision or os.environ.get("SAWYER_PRECISION") or "auto"
            probe, tokenizer = _load_probe(settings["base"], encoder, precision)
            return FrozenReward(probe, tokenizer, longest).load_head(Path(path))
        model, tokenizer, _ = load_classifier(settings["base"], choose_precision().device)
        return cls(load_adapter(model, Path(path), "default"), tokenizer, longest)

    def save(self, path: Path | str, base: str) -> None:
        """Save adapter and head as safetensors, atomically; ``base`` is the profile's."""
        save_adapter(self.model, Path(path), sawyer_reward=self.settings(base))

    def settings(self, base: str) -> dict:
        """What is saved beside the weights."""
        return {"base": base, "max_tokens": self.max_tokens}

    def encode(self, prompt: str, response: str) -> list[int]:
        """The token ids that the model reads."""
        return encode_pair(self.tokenizer, prompt, response, self.max_tokens)

    @torch.no_grad()
    def score(self, prompts: list[str], responses: list[str], batch: int = 32) -> list[float]:
        """One number a (prompt, response); only differences between them mean anything.

        Raises:
            ValueError: if the two lists differ in length.
        """
        encoded = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))  # little padding
        device = next(self.model.parameters()).device
        scores = [0.0] * len(encoded)
        for start in each("batches scored", range(0, len(order), batch)):
            rows = order[start : start + batch]
            inputs = self.tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, return_tensors="pt")
            logits = self.model(**inputs.to(device)).logits.squeeze(-1).float().cpu()
            for i, score in zip(rows, logits.tolist(), strict=True):
                scores[i] = score
        return scores

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        return self.score(prompts, responses)


class FrozenReward(RewardModel):
    """A reward model whose base, a causal language model, is only read (``probe.Probe``)."""

    model: Probe

    def features(self, prompts: list[str], responses: list[str]) -> torch.Tensor:
        """(n, features) of what the base makes of the responses, on the CPU."""
        texts = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        return self.model.features(texts, prompts, responses)

    @torch.no_grad()
    def score(self, prompts: list[str], responses: list[str], batch: int = 32) -> list[float]:
        return self.model(self.features(prompts, responses)).tolist()

    def train(self, pairs: list[Pair]) -> list[dict]:
        """Find the head's weights; returns the log of the search, with the penalty that was chosen.

        Raises:
            ValueError: without pairs.
        """
        if not pairs:
            raise ValueError("No pair to learn from.")
        began = time.perf_counter()
        found = _of_each_text(pairs, self.features)
        better = torch.stack([found[p.prompt, p.chosen] for p in pairs])
        worse = torch.stack([found[p.prompt, p.rejected] for p in pairs])
        right = cross_validated(better, worse, [pair.id for pair in pairs], self.model.share)
        penalty = max(right, key=lambda one: (right[one], one))
        weights, log = fit(better, worse, penalty * self.model.share)
        self.model.head.weight.data.copy_(weights)
        chosen = {"penalty": penalty, "cross_validated": list(map(list, right.items()))}
        log[-1] |= {"seconds": round(time.perf_counter() - began, 1), **chosen}
        return log

    def save(self, path: Path | str, base: str) -> None:
        settings = {**self.settings(base), "encoder": self.model.encoder.source}
        with replacing(Path(path)) as temporary:
            temporary.mkdir()
            save_file({"head": self.model.head.weight.data.cpu()}, temporary / "adapter_model.safetensors")
            write_json(temporary / "sawyer_reward.json", settings)

    def load_head(self, path: Path) -> FrozenReward:
        """Take the head that is saved in a folder; returns itself.

        Raises:
            ValueError: if the file is damaged or of another base, naming it.
        """
        with named(path):
            self.model.head.weight.data.copy_(load_file(path / "adapter_model.safetensors")["head"])
        return self


def _load_probe(base: str, encoder: str, wanted: str) -> tuple[Probe, object]:
    path, precision = assets.resolve(base), choose_precision(wanted)
    tokenizer = load_tokenizer(base)
    model = load_frozen(str(path), precision.device, precision.compute, precision.attention)
    depths = depths_of(AutoConfig.from_pretrained(path).num_hidden_layers)
    probe = Probe(model, depths, encoder_of(encoder), tokenizer.pad_token_id)
    return probe.to(precision.device), tokenizer


def reward_trainer(
    reward: RewardModel, profile: Profile, pairs: list[Pair], folder: Path, **options
) -> Trainer:
    """TRL's RewardTrainer on pre-tokenised pairs, with a margin from the score difference.

    Args:
        folder: of the run.
        options: anything of ``trl.RewardConfig`` to override.
    """
    # A judge that only scores, and with it PPO, needs neither of the two libraries.
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    from sawyer_utils.sft import machine_options

    rows = []
    for pair in pairs:
        ids = [reward.encode(pair.prompt, text) for text in (pair.chosen, pair.rejected)]
        margin = pair.margin / MARGIN_SCALE
        if ids[0] != ids[1]:
            rows.append({"chosen_ids": ids[0], "rejected_ids": ids[1], "margin": margin})
    if len(rows) < len(pairs):
        print(f"{len(pairs) - len(rows)} of {len(pairs)} pairs left out: cut, both answers read the same.")
    if not rows:
        raise ValueError(f"None of {len(pairs)} pairs can be told apart in {reward.max_tokens} tokens.")
    longest = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    at_most = max(1, profile.reward_batch // MICRO_BATCHES)
    micro = next(n for n in range(at_most, 0, -1) if profile.reward_batch % n == 0)
    settings = {
        **machine_options(profile, folder),
        "num_train_epochs": profile.reward_epochs,
        "max_steps": profile.reward_max_steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": profile.reward_batch // micro,
        "learning_rate": profile.reward_lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "max_length": profile.reward_pair_tokens,
        # On a CPU each new shape leaves a compiled kernel behind: a GiB in a training of all widths.
        "pad_to_multiple_of": 32,
        "train_sampling_strategy": "sequential",  # trainers.in_batches has chosen the order
        "gradient_checkpointing": False,
        "seed": 0,
        **options,
    }
    return trainers.ready(
        RewardTrainer(
            model=reward.model,
            args=trainers.one_gpu(RewardConfig(**settings)),
            train_dataset=Dataset.from_list(trainers.in_batches(rows, longest)),
            processing_class=reward.tokenizer,
        )
    )


def standardised(
    reward_fn: RewardFn, prompts: list[str], responses: list[str]
) -> tuple[RewardFn, float, float]:
    """Shift and scale a reward so that these responses (the SFT model's) have mean 0 and spread 1.

    Then a reward of 1 means "one standard deviation better than SFT", and settings such as the
    KL coefficient carry over from one reward model to the next.

    Returns:
        (standardised function, mean, standard deviation)

    Raises:
        ValueError: if all scores are equal, or :func:`checked_scores` refuses them.
    """
    scores = torch.tensor(checked_scores(reward_fn, prompts, responses))
    mean, spread = float(scores.mean()), float(scores.std())
    if not spread > 0:
        raise ValueError("standardised: every response has the same score.")
    return lambda p, r: [(score - mean) / spread for score in reward_fn(p, r)], mean, spread


class Mixture:
    """A weighted sum of reward functions, whose parts the PPO log shows one by one.

        Mixture(liked=(judge.score, 1.0), short=(lambda p, r: [-len(x) / 100 for x in r], 0.2))

    Put each on a common scale first (:func:`standardised`), or the largest decides.

    Args:
        parts: name -> (reward function, weight).

    Attributes:
        parts: name -> its own scores of the last call, before the weight.

    Raises:
        ValueError: for a part named "std": the log's "reward_std" is the spread of the whole.
    """

    def __init__(self, **parts: tuple[RewardFn, float]):
        if "std" in parts:
            raise ValueError('A part may not be named "std": "reward_std" is the spread of all rewards.')
        self.functions = parts
        self.parts: dict[str, list[float]] = {}

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        self.parts = {
            name: checked_scores(function, prompts, responses, f"reward {name!r}")
            for name, (function, _) in self.functions.items()
        }
        weighted = [
            [weight * score for score in self.parts[name]] for name, (_, weight) in self.functions.items()
        ]
        return [sum(scores) for scores in zip(*weighted, strict=True)]


@dataclass
class RunningScale:
    """The spread of all numbers so far, without keeping them (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared distances from the mean

    def add(self, numbers: list[float]) -> None:
        for number in numbers:
            self.count += 1
            before = number - self.mean
            self.mean += before / self.count
            self.squares += before * (number - self.mean)

    @property
    def std(self) -> float:
        """Their standard deviation (biased); 1 as long as they are all equal."""
        spread = math.sqrt(self.squares / max(1, self.count))
        return spread if spread > 1e-8 else 1.0


def checked_scores(
    reward_fn: RewardFn, prompts: list[str], responses: list[str], name: str = "reward function"
) -> list[float]:
    """The scores of a reward function, refused with the texts if they cannot be used.

    Raises:
        ValueError: if it raises, gives another number of scores, NaN or infinity.
        torch.OutOfMemoryError: if it does: whoever trains says what to change (``memory.explained``).
    """
    try:
        scores = [float(score) for score in reward_fn(prompts, responses)]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        shown = _first_to_fail(reward_fn, prompts, responses)
        raise ValueError(f"The {name} failed on {shown}: {type(error).__name__}: {error}") from error
    if len(scores) != len(responses):
        raise ValueError(f"The {name} gave {len(scores)} scores for {len(responses)} responses.")
    for prompt, response, score in zip(prompts, responses, scores, strict=True):
        if not math.isfinite(score):
            raise ValueError(f"The {name} gave {score} for {prompt!r} -> {response!r}.")
    return scores


def _first_to_fail(reward_fn: RewardFn, prompts: list[str], responses: list[str]) -> str:
    for prompt, response in zip(prompts, responses, strict=True):
        try:
            [float(score) for score in reward_fn([prompt], [response])]
        except Exception:  # whatever it is, this is the text to show
            return f"{prompt!r} -> {response!r}"
    return f"{len(responses)} responses together, though on none of them alone"


def total_steps(profile: Profile, pairs: int) -> int:
    """Optimizer steps of a whole training, as the trainer will count them."""
    if profile.reward_max_steps > 0:
        return profile.reward_max_steps
    return math.ceil(math.ceil(pairs / profile.reward_batch) * profile.reward_epochs)


def train_reward(
    reward: RewardModel,
    profile: Profile,
    pairs: list[Pair],
    folder: Path,
    on_log=None,
    resume: str | bool = "auto",
    **options,
) -> list[dict]:
    """Train ``reward`` on pairs by :func:`trainers.run`: ``folder/model`` and ``folder/log.json``.

    Args:
        on_log: called with the whole log at each of its entries (e.g. ``plots.LivePlot``).
        resume: "auto", or False to start over.
        options: anything of ``trl.RewardConfig`` to override; a frozen reward model has no use for it.

    Returns:
        The log, ``[{"step": …, "loss": …, "accuracy": …}, …]``.
    """
    if isinstance(reward, FrozenReward):
        return _train_head(reward, profile, pairs, Path(folder), on_log, bool(resume))
    log = trainers.run(
        reward_trainer(reward, profile, pairs, folder, **options),
        profile,
        folder,
        profile.reward_base,
        ("reward_batch", "reward_pair_tokens"),
        on_log,
        bool(resume),
        "model",
        sawyer_reward=reward.settings(profile.reward_base),
    )
    gc.collect()  # trainer and callbacks hold each other: half a GiB a training
    return log


def _train_head(reward: FrozenReward, profile, pairs, folder: Path, on_log, resume: bool) -> list[dict]:
    """:func:`train_reward` of a frozen one: too short for a checkpoint."""
    known = {"data": resuming.digest(pairs)}
    known |= {"base": profile.reward_base, "encoder": profile.encoder, "tokens": reward.max_tokens}
    ours = resuming.claim(folder, known, ("model", "log.json"), resume)
    if ours and (log := trainers.finished(folder, "model")):
        reward.load_head(folder / "model")
        return log
    log = reward.train(pairs)
    if on_log:
        on_log(log)
    trainers.write(log, folder / "log.json", partial(reward.save, folder / "model", profile.reward_base))
    return log


def differences(reward: RewardModel, pairs: list[Pair]) -> list[float]:
    """Score of the chosen minus score of the rejected response, for each pair."""
    if not pairs:
        return []
    scores = _of_each_text(pairs, reward.score)
    return [scores[p.prompt, p.chosen] - scores[p.prompt, p.rejected] for p in pairs]


def _of_each_text(pairs: list[Pair], ask: Callable) -> dict[tuple[str, str], Any]:
    """What ``ask(prompts, responses)`` says of each (prompt, response), asked once in however many pairs."""
    texts = list(dict.fromkeys((p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)))
    return dict(zip(texts, ask(*map(list, zip(*texts, strict=True))), strict=True))
