"""Profiles: one frozen dataclass says how big everything is. Nothing else asks which profile it is.

``SAWYER_PROFILE`` picks one; otherwise Colab with a GPU takes ``colab``, everything else ``local``.
``SAWYER_MODEL`` replaces its policy base (a Hub id or a folder), ``SAWYER_PRECISION`` its precision, and the
other variables of :data:`BROUGHT` its judge's base and its data; ``SAWYER_REHEARSAL=1`` cuts it to the few
steps and rows of ``smoke``, for tests/rehearsal.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, fields, replace

from sawyer_utils.plumbing import paths
from sawyer_utils.plumbing.reading import locate

# What a user brings in place of a profile's own: setting -> environment variable.
BROUGHT = {"policy_base": "SAWYER_MODEL", "reward_base": "SAWYER_REWARD_BASE"}
BROUGHT |= {
    name: f"SAWYER_{name.upper()}" for name in ("conversations", "preferences", "gold", "prompts", "news")
}
# What no setting holds, for it replaces nothing: a chapter reads the variable itself.
BESIDE = ("SAWYER_QUESTIONS", "SAWYER_DOMAIN", "SAWYER_CHECKABLE", "SAWYER_HUMAN_PAIRS")


@dataclass(frozen=True)
class Profile:
    """Sizes and sources of one run of the course. Lengths are in tokens."""

    name: str

    # Models. "embedded:…" comes from a PyPI wheel, anything else is a Hub id or a folder.
    policy_base: str = "embedded:smollm2-135m"
    reward_base: str = "embedded:smollm2-135m"
    reward_frozen: bool = True  # a causal reward base stays as it is, with a linear layer on top; else LoRA
    encoder: str = "embedded:minilm-l6"  # similarity only; never trained
    precision: str = "auto"  # auto | fp32 | bf16 | fp16 | nf4; see runtime.choose_precision

    # Data. "embedded" is the corpus in sawyer_utils/corpus; a path or a Hub id also works.
    conversations: str = "embedded"
    preferences: str = "embedded"
    gold: str = "embedded"  # other preferences, for the judge that PPO never sees
    prompts: str = "embedded"
    limit: int | None = None  # rows per source; None takes all
    prompt_tokens: int = 64  # longest prompt, control tokens included
    conversation_tokens: int = 192
    response_tokens: int = 64  # longest response that is sampled
    temperature: float = 0.7  # of sampling, in training as in evaluation

    # LoRA, on every linear layer of the policy.
    lora_rank: int = 8
    lora_alpha: int = 16

    # 01 SFT
    sft_epochs: float = 3.0
    sft_max_steps: int = -1
    sft_batch: int = 16
    sft_micro_batch: int = 8  # rows in memory at once, at most
    sft_lr: float = 5e-4

    # 02 reward model
    reward_rank: int = 16
    reward_epochs: float = 1.5
    reward_max_steps: int = -1
    reward_batch: int = 32
    reward_lr: float = 1e-3
    reward_pair_tokens: int = 192
    reward_trials: int = 30  # steps of 06's one-sided judge; half of those of 02's encoder

    # 03 PPO
    ppo_steps: int = 24
    ppo_batch: int = 32
    ppo_epochs: int = 2
    ppo_minibatches: int = 2
    ppo_micro_batch: int = 8
    ppo_lr: float = 5e-4
    kl_coef: float = 0.05
    missing_stop_penalty: float = 2.0  # in standard deviations of the SFT model's reward

    # Of a training that is cut off, at most this much is lost.
    checkpoint_minutes: float = 2.0  # of 01's and 02's trainings; 0 keeps each step
    ppo_checkpoint_every: int = 4  # steps

    # 04 evaluation
    eval_batch: int = 40
    eval_tokens: int = 8192  # of a batch, prompts and responses with their padding
    eval_prompts: int = 120
    eval_questions: int | None = None  # rows per benchmark; None takes all
    # Embedded, the path of a .jsonl, or a Hub id, with ":subject" for MMLU.
    benchmarks: tuple[str, ...] = ("truthful_mini", "religions_mini")

    # 05 PPO against DPO. A batch of PPO and RLOO is ppo_batch answers; PPO takes ppo_epochs × ppo_minibatches
    # gradient steps of it, and dpo_pairs / dpo_batch makes as many.
    versus_judge_steps: int = 30  # of a judge that is fine-tuned
    versus_steps: int = 8  # batches
    versus_prompts: int = 60  # test prompts of the known topics, and as many of the new ones
    versus_samples: int = 2  # answers of each test prompt
    versus_best_of: int = 4  # the SFT model's answers of each
    dpo_beta: float = 0.1
    dpo_lr: float = 2e-4
    dpo_pairs: int = 256
    dpo_batch: int = 8  # pairs a gradient step

    # 06 reward hacking
    hack_pairs: int = 60  # that the one-sided judge learns from
    hack_steps: int = 12

    # 07 neutral summaries
    news: str = "embedded"
    summariser: str = "policy"  # the course's own, from notebook 01; else an encoder-decoder
    # (name, sequence classifier, index of the logit, weight) of each part of the reward; without any,
    # a lexicon, an encoder and the length.
    news_classifiers: tuple[tuple[str, str, int, float], ...] = ()
    news_prompt_tokens: int = 112
    news_response_tokens: int = 48
    news_warmup_epochs: float = 1.0  # of learning the task, where the summariser is the policy
    news_steps: int = 24
    news_batch: int = 24
    news_lr: float = 2e-4
    news_samples: int = 4  # summaries of each test paragraph

    def __post_init__(self):
        """A micro-batch that does not divide SFT's batch becomes the largest that does: a step reads what
        was asked for, whatever fits into memory.

        Raises:
            ValueError: for a size below 1, naming it.
        """
        for name, value in vars(self).items():
            if type(value) is int and value < 1 and not name.endswith("max_steps"):  # -1: no limit
                raise ValueError(f"{name}={value} in profile {self.name!r}: it has to be 1 or more.")
        rows = range(1, min(self.sft_micro_batch, self.sft_batch) + 1)
        divisors = [n for n in rows if self.sft_batch % n == 0]
        object.__setattr__(self, "sft_micro_batch", max(divisors, default=1))

    @property
    def hub_models(self) -> tuple[str, ...]:
        """The models that come from the Hub."""
        return tuple(filter(_from_hub, dict.fromkeys((self.policy_base, self.reward_base, self.encoder))))

    @property
    def news_hub_models(self) -> tuple[str, ...]:
        """The models that notebook 07 takes from the Hub."""
        names = [source for _, source, _, _ in self.news_classifiers]
        return tuple(filter(_from_hub, [*names, *([] if self.summariser == "policy" else [self.summariser])]))

    @property
    def hub_data(self) -> tuple[str, ...]:
        """The data sets that come from the Hub."""
        questions = (name for name in self.benchmarks if "/" in name)  # the embedded ones have none
        sources = (self.conversations, self.preferences, self.gold, self.prompts, self.news, *questions)
        return tuple(filter(_from_hub, sources))


def _from_hub(source: str) -> bool:
    return not (source.startswith("embedded") or paths.looks_local(source) or paths.is_there(source))


_LOCAL = Profile("local")
_COLAB = replace(
    _LOCAL,
    name="colab",
    policy_base="HuggingFaceTB/SmolLM2-1.7B",
    reward_base="FacebookAI/roberta-base",
    reward_frozen=False,
    conversations="timdettmers/openassistant-guanaco",
    preferences="HuggingFaceH4/ultrafeedback_binarized",
    gold="Anthropic/hh-rlhf",
    prompts="databricks/databricks-dolly-15k",
    limit=4000,
    prompt_tokens=256,
    conversation_tokens=768,
    response_tokens=128,
    sft_epochs=1.0,
    sft_micro_batch=4,
    sft_lr=2e-4,
    reward_epochs=1.0,
    reward_batch=16,
    reward_lr=2e-4,
    reward_pair_tokens=384,
    reward_trials=240,
    hack_steps=40,
    ppo_steps=60,
    ppo_lr=5e-5,
    eval_prompts=200,
    benchmarks=("truthfulqa/truthful_qa", "cais/mmlu:world_religions"),
    news="argilla/news-summary",
    # The workshop's: what a summary has to be is neutral (a logit, weighted 0.5) and grammatical (1).
    summariser="google/flan-t5-small",
    news_classifiers=(
        ("neutral", "cardiffnlp/twitter-roberta-base-sentiment", 1, 0.5),
        ("acceptable", "textattack/roberta-base-CoLA", 1, 1.0),
    ),
    news_prompt_tokens=512,
    news_response_tokens=64,
    news_steps=60,
    news_batch=32,
    news_lr=1e-4,
    news_samples=1,
)
PROFILES = {
    "local": _LOCAL,
    # Two or three steps of everything, with real weights: what the tests run.
    "smoke": replace(
        _LOCAL,
        name="smoke",
        limit=48,
        response_tokens=16,
        sft_max_steps=2,
        sft_batch=4,
        sft_micro_batch=4,
        reward_max_steps=3,
        reward_batch=8,
        reward_trials=2,
        ppo_steps=2,
        ppo_batch=8,
        ppo_micro_batch=4,
        checkpoint_minutes=0.0,
        ppo_checkpoint_every=1,
        eval_prompts=8,
        eval_questions=6,
        versus_judge_steps=3,
        versus_steps=2,
        versus_prompts=4,
        versus_samples=1,
        versus_best_of=2,
        dpo_pairs=4,
        dpo_batch=2,
        hack_pairs=12,
        hack_steps=2,
        news_response_tokens=24,
        news_steps=2,
        news_batch=8,
        news_samples=1,
    ),
    "colab": _COLAB,
    # A base four times as large in a quarter of the bits; half of the data and of the answers, to stay
    # within a session.
    "llama2": replace(
        _COLAB,
        name="llama2",
        policy_base="meta-llama/Llama-2-7b-hf",
        precision="nf4",
        limit=2000,
        conversation_tokens=512,
        sft_micro_batch=2,
        ppo_batch=16,
        ppo_micro_batch=4,
    ),
}


def current_profile(name: str | None = None) -> Profile:
    """The profile named here, else by ``SAWYER_PROFILE``, else the one this machine suits; with
    the models, the data and the precision that the environment asks for.

    Raises:
        ValueError: for a name that is no profile, or data that is not there.
    """
    name = name or os.environ.get("SAWYER_PROFILE") or _suitable()
    if name not in PROFILES:
        known = ", ".join(PROFILES)
        raise ValueError(f"Unknown profile {name!r} (SAWYER_PROFILE). Choose one of: {known}.")
    profile = PROFILES[name]
    if os.environ.get("SAWYER_REHEARSAL") == "1":
        profile = rehearsed(profile)
    if precision := os.environ.get("SAWYER_PRECISION"):
        profile = replace(profile, precision=precision)
    for variable in BESIDE:  # a slip is found now, and not hours later in its chapter
        for source in paths.separate(os.environ.get(variable, "")):
            locate(paths.split_subject(source)[0], variable)
    asked = {setting: os.environ.get(variable) for setting, variable in BROUGHT.items()}
    brought = {s: _whole(s, value) for s, value in asked.items() if value and value != getattr(profile, s)}
    # Other bases and other data have other adapters: they need a run folder of their own.
    return replace(profile, **brought, name=_own_name(name, brought)) if brought else profile


def _whole(setting: str, source: str) -> str:
    """Data by its whole path, so that it is the same from wherever it is read."""
    if setting.endswith("_base") or source == "embedded":
        return source
    return str(locate(source, BROUGHT[setting]) or source)


def _own_name(name: str, brought: dict[str, str]) -> str:
    """After the base, and after the other sources' names, with a hash of all, for two may have one name."""
    others = {setting: source for setting, source in brought.items() if setting != "policy_base"}
    words = [_as_name(brought["policy_base"])] if "policy_base" in brought else []
    if others:
        stems = (os.path.splitext(os.path.basename(source))[0] for source in dict.fromkeys(others.values()))
        words += [re.sub("[^A-Za-z0-9.]+", "-", stem).strip("-.")[:24] for stem in stems]
        words.append(hashlib.sha256(repr(others).encode()).hexdigest()[:8])
    return "-".join(filter(None, (name, *words)))


def _as_name(model: str) -> str:
    """A base as part of a folder's name: a Hub id whole; of a path the end, and eight hex digits of all."""
    last, digest = model, ""
    if paths.looks_local(model):
        whole = os.path.abspath(os.path.expanduser(model))
        last, digest = re.split(r"[/\\]", whole)[-1], "-" + hashlib.sha256(whole.encode()).hexdigest()[:8]
    return re.sub("[^A-Za-z0-9.]+", "-", last).strip("-.") + digest


def rehearsed(profile: Profile) -> Profile:
    """The profile with its own models, data and lengths, and with as few steps and rows as ``smoke``: what
    ``smoke`` cuts from ``local`` is cut from this one."""
    smoke = PROFILES["smoke"]
    cut = [f.name for f in fields(Profile) if getattr(smoke, f.name) != getattr(_LOCAL, f.name)]
    return replace(profile, **{name: getattr(smoke, name) for name in cut if name != "name"})


def _suitable() -> str:
    if "google.colab" not in sys.modules:
        return "local"
    import torch

    return "colab" if torch.cuda.is_available() else "local"
