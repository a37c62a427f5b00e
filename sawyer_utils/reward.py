"""The reward model: a small encoder that reads question and answer together and gives one number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from sawyer_utils import assets
from sawyer_utils.data import Pair
from sawyer_utils.models import load_adapter, save_adapter
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import choose_precision, read_json, write_json
from sawyer_utils.sft import trainer_precision

RewardFn = Callable[[list[str], list[str]], list[float]]
MARGIN_SCALE = 4.0  # score points per unit of margin: 9 points ask for a difference of 2.25


def _load_encoder(base: str):
    path = assets.resolve(base)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    return model.to(choose_precision().device), AutoTokenizer.from_pretrained(path)


def encode_pair(tokenizer, prompt: str, response: str, max_tokens: int) -> list[int]:
    """``[CLS] question [SEP] answer [SEP]``; an answer that is too long loses its end."""
    return tokenizer(prompt, response, truncation="only_second", max_length=max_tokens).input_ids


class RewardModel:
    """A sequence classifier with one output, called on texts.

    Args:
        model: ``AutoModelForSequenceClassification`` with ``num_labels=1``.
        max_tokens: longest question-and-answer pair.
        see_prompt: False trains and scores answers alone (to show what the question is worth).
    """

    def __init__(self, model: nn.Module, tokenizer, max_tokens: int = 192, see_prompt: bool = True):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.see_prompt = see_prompt

    @classmethod
    def untrained(cls, profile: Profile, see_prompt: bool = True, seed: int = 0) -> RewardModel:
        """The pretrained encoder with LoRA and a fresh, random head: a few MB to save."""
        torch.manual_seed(seed)
        model, tokenizer = _load_encoder(profile.reward_base)
        config = LoraConfig(
            r=profile.reward_rank,
            lora_alpha=2 * profile.reward_rank,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="SEQ_CLS",  # the head is trained and saved whole
        )
        return cls(get_peft_model(model, config), tokenizer, profile.reward_pair_tokens, see_prompt)

    @classmethod
    def load(cls, path: Path | str) -> RewardModel:
        """Load a saved reward model onto its base encoder.

        Raises:
            ValueError: if a file is damaged, naming the folder.
        """
        settings = read_json(Path(path) / "sawyer_reward.json")
        model, tokenizer = _load_encoder(settings.pop("base"))
        return cls(load_adapter(model, Path(path), "default"), tokenizer, **settings)

    def save(self, path: Path | str, base: str) -> None:
        """Save adapter and head as safetensors, atomically; ``base`` is the profile's encoder."""
        settings = {"base": base, "max_tokens": self.max_tokens, "see_prompt": self.see_prompt}
        save_adapter(self.model, Path(path))
        write_json(Path(path) / "sawyer_reward.json", settings)

    def encode(self, prompt: str, response: str) -> list[int]:
        """The token ids that the model reads."""
        return encode_pair(self.tokenizer, prompt if self.see_prompt else "", response, self.max_tokens)

    @torch.no_grad()
    def score(self, prompts: list[str], responses: list[str], batch: int = 64) -> list[float]:
        """One number a (prompt, response); only differences between them mean anything.

        Raises:
            ValueError: if the two lists differ in length.
        """
        encoded = [self.encode(p, r) for p, r in zip(prompts, responses, strict=True)]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))  # little padding
        device = next(self.model.parameters()).device
        scores = [0.0] * len(encoded)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            inputs = self.tokenizer.pad({"input_ids": [encoded[i] for i in rows]}, return_tensors="pt")
            logits = self.model(**inputs.to(device)).logits.squeeze(-1).float().cpu()
            for i, score in zip(rows, logits.tolist(), strict=True):
                scores[i] = score
        return scores

    __call__ = score


def reward_trainer(
    reward: RewardModel, profile: Profile, pairs: list[Pair], folder: Path, callbacks=(), **options
) -> RewardTrainer:
    """TRL's RewardTrainer on pre-tokenised pairs, with a margin from the score difference.

    Args:
        options: anything of ``trl.RewardConfig`` to override.
    """
    rows = [
        {
            "chosen_ids": reward.encode(pair.prompt, pair.chosen),
            "rejected_ids": reward.encode(pair.prompt, pair.rejected),
            "margin": pair.margin / MARGIN_SCALE,
        }
        for pair in pairs
    ]
    settings = {
        "output_dir": str(folder),
        "num_train_epochs": profile.reward_epochs,
        "max_steps": profile.reward_max_steps,
        "per_device_train_batch_size": profile.reward_batch,
        "learning_rate": profile.reward_lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "max_length": profile.reward_pair_tokens,
        "gradient_checkpointing": False,
        "logging_steps": 5,
        "save_strategy": "steps",
        "save_steps": 50,
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
        **trainer_precision(profile),
        **options,
    }
    return RewardTrainer(
        model=reward.model,
        args=RewardConfig(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=reward.tokenizer,
        callbacks=list(callbacks),
    )


def differences(reward: RewardModel, pairs: list[Pair]) -> list[float]:
    """Score of the chosen minus score of the rejected response, for each pair."""
    # Each text is scored once, however many pairs it stands in.
    texts = list({(p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)})
    scores = dict(zip(texts, reward.score(*map(list, zip(*texts, strict=True))), strict=True))
    return [scores[p.prompt, p.chosen] - scores[p.prompt, p.rejected] for p in pairs]
