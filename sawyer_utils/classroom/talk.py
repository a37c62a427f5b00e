"""One question to several stages of one model, turn after turn; votes; transcripts.

The stages are adapters of one model in memory. Each goes on with its own conversation: the questions
are shared, the earlier answers are its own.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from sawyer_utils import data, evaluation
from sawyer_utils.models import using
from sawyer_utils.plots import STAGES
from sawyer_utils.plumbing.files import replacing
from sawyer_utils.reward import RewardFn
from sawyer_utils.runtime import choose_precision


def stage_name(stage: str) -> str:
    """What is shown of a stage."""
    return STAGES[stage][0] if stage in STAGES else stage


def questions() -> list[str]:
    """The workshop's questions, and three on poetry that no stage has seen."""
    poetry = [row["prompt"] for row in data.load_prompts("test") if row["topic"] == "poetry"]
    return [*data.FIXED_PROMPTS, *poetry[:3]]


@dataclass(frozen=True)
class Reply:
    """One answer of one stage."""

    text: str
    tokens: int  # stop included
    finished: bool
    seconds: float
    reward: float | None = None  # of the question and the answer alone, without earlier turns
    kl: float | None = None  # Σ log π − log π_before, nats: one sample of the KL, which may be below 0
    before: str = ""  # the stage that the KL is to

    def note(self) -> str:
        """Reward, KL and length in one line."""
        parts = [] if self.reward is None else [f"reward {self.reward:+.2f}"]
        if self.kl is not None:
            parts.append(f"KL to {stage_name(self.before)} {self.kl:+.1f} nats")
        parts.append(f"{self.tokens} tokens" + ("" if self.finished else ", cut off"))
        return " · ".join(parts)


class Talk:
    """A conversation with several stages at once.

    Args:
        model: with the adapters loaded.
        adapters: stage -> adapter, in the course's order; the KL is to the stage before.
        reward: ``(questions, answers) -> scores``, such as a ``RewardModel``; None shows none.
        seeds: stage -> what is added to its seed: two stages of one adapter are two samples of it.
    """

    def __init__(
        self,
        model,
        tokenizer,
        profile,
        adapters: dict[str, str],
        reward: RewardFn | None = None,
        seeds: dict[str, int] | None = None,
    ):
        self.model, self.tokenizer, self.profile, self.reward = model, tokenizer, profile, reward
        self.adapters, self.seeds = dict(adapters), dict(seeds or {})
        self.turns: list[dict] = []  # of all conversations
        self.conversation = 0

    def ask(
        self,
        question: str,
        stages: list[str] | None = None,
        temperature: float | None = None,
        seed: int = 0,
        tokens: int = 40,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, Reply]:
        """The stages' answers to one more question of the conversation, from one seed (but for ``seeds``).

        Args:
            temperature: the profile's, unless given; 0 is greedy.
            on_stage: called with each stage before it answers.

        Raises:
            ValueError: for an empty question.
        """
        if not question.strip():
            raise ValueError("Type a question first.")
        temperature = self.profile.temperature if temperature is None else temperature
        replies = {}
        for stage in stages or self.adapters:
            on_stage(stage)
            own_seed = seed + self.seeds.get(stage, 0)
            replies[stage] = self._answer(stage, question, temperature, own_seed, tokens)
        how = {"temperature": temperature, "seed": seed}
        turn = {"conversation": self.conversation, "question": question, **how, "replies": replies}
        self.turns.append(turn)
        return replies

    def _answer(self, stage: str, question: str, temperature: float, seed: int, tokens: int) -> Reply:
        messages = [*self.history(stage), {"role": "user", "content": question}]
        profile, start = replace(self.profile, response_tokens=tokens), time.perf_counter()
        # The caller's own random numbers go on as if nobody had asked.
        with using(self.model, self.adapters[stage]), torch.random.fork_rng():
            found = evaluation.answer(self.model, self.tokenizer, [messages], profile, temperature, seed)
            before, kl = self._stage_before(stage), None
            if before and self.adapters[before] != self.adapters[stage]:
                compute = choose_precision(self.profile.precision).compute
                kl = evaluation.kl_to_reference(self.model, found, self.adapters[before], compute)[0]
        text = found.responses[0]
        reward = None if self.reward is None else float(self.reward([question], [text])[0])
        seconds = time.perf_counter() - start
        return Reply(text, found.lengths[0], found.finished[0], seconds, reward, kl, before)

    def _stage_before(self, stage: str) -> str:
        stages = list(self.adapters)
        return stages[stages.index(stage) - 1] if stages.index(stage) else ""

    def current(self) -> list[dict]:
        """The turns of this conversation."""
        return [turn for turn in self.turns if turn["conversation"] == self.conversation]

    def history(self, stage: str) -> list[dict]:
        """This conversation's messages, as this stage has seen them."""
        messages = []
        for turn in self.current():
            if stage in turn["replies"]:
                messages.append({"role": "user", "content": turn["question"]})
                messages.append({"role": "assistant", "content": turn["replies"][stage].text})
        return messages

    def start_over(self) -> None:
        """The next question starts a new conversation; the transcript keeps the old one."""
        self.conversation += 1

    def save(self, path: Path) -> Path:
        """Write every turn so far as a line of JSON."""
        lines = [json.dumps(turn, ensure_ascii=False, default=asdict) + "\n" for turn in self.turns]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        return path


# --- votes --------------------------------------------------------------------------------------


def tally(cast: list[tuple[str | None, tuple[str, ...]]]) -> list[str]:
    """How often each stage was liked better than an earlier one, a sentence a pair, with Wilson intervals.

    The best of three has won against both of the others; between those two nothing is known.

    Args:
        cast: of each vote the winner, or None if no answer was better, and all stages that had answered.
    """
    said = []
    stages = {stage: None for stage in [*STAGES, *(s for _, stood in cast for s in stood)]}
    for earlier, later in itertools.combinations(stages, 2):
        met = [winner for winner, stood in cast if {earlier, later} <= set(stood)]
        wins, n, ties = met.count(later), met.count(later) + met.count(earlier), met.count(None)
        if n:
            low, high = evaluation.wilson_interval(wins, n)
            won = f"{stage_name(later)} beat {stage_name(earlier)} in {wins} of {n} votes"
            without = f"; {ties} without a winner" if ties else ""
            said.append(f"{won}: {wins / n:.0%} [{low:.0%}, {high:.0%}]{without}")
    return said
