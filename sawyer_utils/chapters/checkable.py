"""Rewards that a program can check: tasks whose answers are right or wrong, and how often a model is right.

The embedded base gets small tasks of our own; a base from the Hub gets GSM8K (Cobbe et al. 2021, arXiv
2110.14168). A task's prompts to train on and to test on are about different things.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sawyer_utils import runtime
from sawyer_utils.chapters import peers
from sawyer_utils.data import normalise, talk
from sawyer_utils.plumbing import memory, sources
from sawyer_utils.plumbing.files import read_json, write_json
from sawyer_utils.plumbing.resuming import fingerprint
from sawyer_utils.profiles import Profile

SHARE_TEST = 0.35  # of the subjects, by the hash of their names
RESPONSE_TOKENS = 24  # of an answer to one of our own tasks
GSM8K = "openai/gsm8k"
ASK = "\nThink step by step. End with #### and the number."

WORDS = (
    "river lantern garden bridge window apple train mountain cat winter teacher boat letter candle forest "
    "kitchen island pencil market piano harbour ladder basket wheel cloud rabbit doctor village mirror button"
)
KINDS = (
    "fruits animals colours tools cities drinks vegetables sports birds trees flowers countries languages "
    "games dances insects fish metals planets rivers seasons months shoes hats toys desserts soups cheeses "
    "herbs nuts breads cakes snacks vehicles boats instruments songs books films painters writers hobbies "
    "rooms buildings machines clothes jewels fabrics gifts pets mountains lakes islands deserts oceans jobs"
)


# --- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Prompts, and what makes an answer right."""

    name: str
    keys: dict[str, str]  # prompt -> what its answer is held against
    train: list[str]  # prompts
    test: list[str]
    check: Callable[[str, str], bool]  # (response, key): whether it is right
    form: Callable[[str], object]  # whether a response only looks like a right one

    def reward(self, prompts: list[str], responses: list[str]) -> list[float]:
        """1 for each right answer, else 0.

        Raises:
            KeyError: for a prompt that is not of this task.
        """
        return [float(self.check(r, self.keys[p])) for p, r in zip(prompts, responses, strict=True)]

    def form_alone(self, prompts: list[str], responses: list[str]) -> list[float]:
        """1 for each answer in the form that was asked for, whatever it says."""
        return [float(bool(self.form(response))) for response in responses]


def items_of(response: str) -> list[str]:
    """The parts between commas, without the full stop at the end."""
    return [part.strip() for part in response.strip().removesuffix(".").split(",")]


def is_list(response: str) -> bool:
    """Two items or more between commas, each of one to three words."""
    items = items_of(response)
    return len(items) > 1 and all(0 < len(item.split()) <= 3 for item in items)


def _list(rng: random.Random) -> tuple[str, str, str]:
    kind, n = rng.choice(KINDS.split()), rng.randint(2, 5)
    return kind, f"Name {n} {kind}, separated by commas.", str(n)


def _is_list_of(response: str, key: str) -> bool:
    items = [item.lower() for item in items_of(response)]
    return is_list(response) and len(items) == len(set(items)) == int(key)


def _sentence(rng: random.Random) -> tuple[str, str, str]:
    word, letter = rng.choice(WORDS.split()), rng.choice("ABCDEFGHILMNOPRSTW")
    return word, f"Write a sentence about a {word} that begins with the letter {letter}.", letter


def _larger(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(10, 100), 2)
    return f"{min(a, b)} {max(a, b)}", f"Which number is larger, {a} or {b}?", str(max(a, b))


def _sorted(rng: random.Random) -> tuple[str, str, str]:
    words = rng.sample(WORDS.split(), 3)
    in_order = " ".join(sorted(words))
    return in_order, f"Put these words in alphabetical order: {', '.join(words)}.", in_order


def _backwards(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(WORDS.split())
    return word, f"Spell the word {word} backwards.", word[::-1]


DIGITS = re.compile(r"\d+")
# name -> (generator: what it is about, prompt, key; whether an answer is right; its form alone)
OWN = {
    "backwards": (_backwards, lambda r, key: "".join(normalise(r)) == key, str.strip),
    "sorted": (_sorted, lambda r, key: " ".join(normalise(r)) == key, str.strip),
    "list": (_list, _is_list_of, is_list),
    "sentence": (_sentence, lambda r, key: r.strip()[:1].upper() == key, str.strip),
    "larger": (_larger, lambda r, key: DIGITS.findall(r) == [key], lambda r: len(DIGITS.findall(r)) == 1),
}


def own_task(name: str, train: int, test: int, seed: int = 0) -> Task:
    """A task of :data:`OWN` with so many prompts, or as many as were drawn. No test prompt is about what a
    training prompt is about."""
    generate, check, form = OWN[name]
    rng, keys = random.Random(seed), {}
    sides, wanted = ([], []), (train, test)
    for _ in range(50 * (train + test)):
        about, prompt, key = generate(rng)
        side = sources.held_out(about, SHARE_TEST)
        if prompt not in keys and len(sides[side]) < wanted[side]:
            keys[prompt] = key
            sides[side].append(prompt)
    return Task(name, keys, *sides, check, form)


# --- GSM8K --------------------------------------------------------------------------------------


NUMBER = re.compile(
    r"[\s*$]*(?:\\boxed\{)?([-−]?)\$?"  # bold in Markdown, framed in LaTeX
    r"([1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?|\d*\.?\d+)"
    # What goes on is another number than the one that was read: 3,5, 1 000, 1½, 2^10, 1/2, 10:30, 1e6.
    r"(?![.,'’_]?[\d½¼¾²³]|[^\S\n][\d½¼¾]|[^\S\n]?(?:\^|[/:×x·*+−–-]+[^\S\n]?\d)"
    r"|[eE][-+−]?\d|\\(?:[dt]?frac|sqrt|times|cdot))"
)


def last_number(text: str) -> str | None:
    """The number after the last ####, without the commas between its thousands; None if there is none, or
    what stands there can be read in several ways (3,5) or is a calculation (1/2)."""
    _, mark, rest = text.rpartition("####")
    found = NUMBER.match(rest) if mark else None
    return ("-" if found[1] else "") + found[2].replace(",", "") if found else None


def check_solved(row: dict) -> None:
    """``{question, answer}``, where the answer ends with #### and a number."""
    sources.check_prompt(row, "question")
    if last_number(sources.text_of(row, "answer")) is None:
        raise sources.DataError("field 'answer' has no number after ####")


SOLVED = sources.Schema("solved questions", check_solved, hub={GSM8K: "train"}, has_split=True)


def solved_task(source: str, train: int, test: int) -> Task:
    """Questions with a number for an answer: GSM8K from the Hub, or a file in its form, of which a part is
    kept for the test.

    Raises:
        DataError: naming file, line and field; or without a question to train on or to test on.
        HubUnavailable: with the remedy.
    """
    if sources.locate(source) is None:
        shares = {"train": train, "test": test}
        part = {"name": "main"} if source == GSM8K else {}
        rows = {s: sources.from_hub(SOLVED, source, n, split=s, **part) for s, n in shares.items()}
    else:
        every = sources.load(SOLVED, source)
        rows = {share: [row for row in every if row["split"] == share] for share in ("train", "test")}
    found = {
        share: {row["question"] + ASK: last_number(row["answer"]) for row in some}
        for share, some in rows.items()
    }
    train_asked, test_asked = list(found["train"])[:train], list(found["test"])[:test]
    return Task("gsm8k", found["train"] | found["test"], train_asked, test_asked, _solves, last_number)


def _solves(response: str, key: str) -> bool:
    return last_number(response) is not None and float(last_number(response)) == float(key)


# --- one run of the chapter ---------------------------------------------------------------------


def settings(profile: Profile) -> Profile:
    """The profile with this chapter's number of batches, and short answers to our own tasks."""
    short = profile.response_tokens if profile.hub_data else min(profile.response_tokens, RESPONSE_TOKENS)
    return replace(profile, response_tokens=short, ppo_steps=max(2, profile.versus_steps * 3 // 4))


def tasks(profile: Profile, group: int) -> dict[str, Task]:
    """Our own tasks; for a profile whose data come from the Hub, or where ``SAWYER_CHECKABLE`` names a file
    or a Hub id, its questions alone.

    Args:
        profile: of :func:`settings`; a training of its steps sees each prompt once.
        group: answers to each prompt.
    """
    sizes = profile.ppo_steps * profile.ppo_batch // group, profile.versus_prompts
    source = os.environ.get("SAWYER_CHECKABLE") or (GSM8K if profile.hub_data else "")
    found = [solved_task(source, *sizes)] if source else [own_task(name, *sizes) for name in OWN]
    return {task.name: task for task in found}


def answers(profile: Profile, sft: Path, adapter: Path, prompts: list[str], samples=1, seed=0, kl=True):
    """:func:`peers.sampled` in this chapter's folder, ``samples`` of each prompt."""
    sizes = prompts, samples, seed, kl, profile.response_tokens, profile.temperature
    path = runtime.run_dir(profile, "checkable") / "answers" / f"{fingerprint(adapter, sizes)}.json"
    return peers.sampled(profile, sft, adapter, prompts, path, kl, seed=seed, samples=samples)


def with_peak(train: Callable[[], list[dict]], folder: Path) -> tuple[list[dict], float]:
    """(log of a training, its peak of memory in GiB: of the GPU, or of the whole process). The peak is kept
    in the training's folder, for a run that only loads it."""
    path = folder / "peak.json"
    memory.forget_peak_memory()
    log = train()
    of = sum(value for name, value in log[-1].items() if name.startswith("seconds"))  # of no other training
    if not path.exists() or read_json(path)["of"] != of:
        write_json(path, {"of": of, "gib": float(memory.peak_memory_gib())})
    return log, read_json(path)["gib"]


def picked(task: Task, said: dict, seed: int, right: bool = True) -> list[dict]:
    """A conversation for each prompt with a right answer among those sampled: a right one, drawn by the
    seed; for the control (``right=False``) any of its answers. If none at all is right, that is said, and any
    is taken."""
    rng, every, good = random.Random(seed), {}, {}
    asked, answered = said["prompt"], said["response"]
    for prompt, response, pay in zip(asked, answered, task.reward(asked, answered), strict=True):
        every.setdefault(prompt, []).append(response)
        if pay:
            good.setdefault(prompt, []).append(response)
    if not good:
        print(f"{task.name}: none of {len(asked)} answers is right. Any of them is taken.")
    drawn = {prompt: rng.choice((good if right and good else every)[prompt]) for prompt in good or every}
    return [{"messages": talk(*two)} for two in drawn.items()]
