"""Tasks that a program checks, TRL's GRPO as notebook 09 builds it, its script, and 09's exercises."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from exercise_tests import Exercises
from safetensors.torch import load_file
from test_parallel import free_port, run
from test_peers import adapter_of, adapter_weights, said

from sawyer_utils import evaluation, models
from sawyer_utils.chapters import checkable, peers
from sawyer_utils.plumbing import sources
from sawyer_utils.plumbing.files import project_root
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.profiles import PROFILES
from sawyer_utils.rollout import sample

ROOT = project_root()
LOCAL = checkable.settings(PROFILES["local"])
SOLVED = [
    {"question": f"What is {n} and {n + 1}?", "answer": f"Add them.\n#### {2 * n + 1:,}"}
    for n in range(600, 640)
]
LETTERS = [{"question": " ".join("abcdefghijklm"[n : n + 3]), "answer": f"#### {n}"} for n in range(10)]
LETTERS += [{"question": " ".join("nopqrstuvwxyz"[n : n + 2]), "answer": f"#### {n}"} for n in range(10)]


def written(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# --- our own tasks ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", checkable.OWN)
def test_a_task_is_the_same_for_a_seed_and_tests_what_it_does_not_train(name):
    task = checkable.own_task(name, train=40, test=20)
    assert task == checkable.own_task(name, train=40, test=20)
    assert task.train != checkable.own_task(name, train=40, test=20, seed=1).train
    assert len(task.train) >= 12
    assert len(task.test) >= 10
    assert sorted(task.keys) == sorted({*task.train, *task.test})
    # The words and numbers that a prompt is about, without those that all prompts share.
    shared = set.intersection(*(set(prompt.split()) for prompt in task.keys))
    about = [{frozenset(sorted(set(p.split()) - shared)) for p in side} for side in (task.train, task.test)]
    assert not about[0] & about[1]
    if name == "list":  # whole kinds are kept for the test, not single prompts
        kinds = [{prompt.split()[2] for prompt in side} for side in (task.train, task.test)]
        assert not kinds[0] & kinds[1]


RIGHT = [  # task, what it is held against, response, right, form
    ("list", "3", "Apple, pear, plum.", 1, 1),
    ("list", "3", " a, b, c ", 1, 1),
    ("list", "3", "Apple, pear and plum.", 0, 1),
    ("list", "2", "Apple, pear, plum.", 0, 1),
    ("list", "3", "Apple, apple, Apple.", 0, 1),
    ("list", "3", "Here are three fruits: apple, pear, plum.", 0, 0),
    ("list", "3", "Apple, , plum.", 0, 0),
    ("list", "2", "Apple.", 0, 0),
    ("sentence", "C", " cats sleep.", 1, 1),
    ("sentence", "C", "A cat sleeps.", 0, 1),
    ("sentence", "C", "", 0, 0),
    ("larger", "82", "It is 82.", 1, 1),
    ("larger", "82", "82 is larger than 27.", 0, 0),
    ("larger", "82", "27.", 0, 1),
    ("larger", "82", "Eighty-two.", 0, 0),
    ("sorted", "cat garden river", "Cat, garden, river.", 1, 1),
    ("sorted", "cat garden river", "River, cat, garden.", 0, 1),
    ("backwards", "tac", "T-A-C.", 1, 1),
    ("backwards", "tac", "Cat.", 0, 1),
]


@pytest.mark.parametrize(("name", "key", "response", "right", "form"), RIGHT)
def test_what_is_right_and_what_only_looks_like_it(name, key, response, right, form):
    task = checkable.own_task(name, train=4, test=4)
    prompt = next(p for p in task.keys)
    task.keys[prompt] = key
    assert task.reward([prompt] * 2, [response] * 2) == [right] * 2
    assert task.form_alone([prompt], [response]) == [form]
    with pytest.raises(KeyError):
        task.reward(["Who are you?"], [response])


@pytest.mark.parametrize("name", [n for n in checkable.OWN if n != "sentence"])
def test_a_key_is_its_own_right_answer(name):
    task = checkable.own_task(name, train=8, test=4)
    answers = [["a", "b", "c", "d", "e"][: int(k)] if name == "list" else [k] for k in task.keys.values()]
    assert task.reward(list(task.keys), [", ".join(a) for a in answers]) == [1.0] * len(task.keys)


def test_a_training_sees_each_prompt_once_and_its_answers_are_short():
    tasks = checkable.tasks(LOCAL, 4)
    assert tasks.keys() == checkable.OWN.keys()
    assert len(tasks["list"].train) == LOCAL.ppo_steps * LOCAL.ppo_batch // 4
    assert len(tasks["list"].test) == LOCAL.versus_prompts
    assert LOCAL.response_tokens == 24 < PROFILES["local"].response_tokens
    assert checkable.settings(PROFILES["colab"]).response_tokens == PROFILES["colab"].response_tokens


# --- GSM8K --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("So 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234", "1234"),
        ("#### -2.5 metres", "-2.5"),
        ("####$18", "18"),
        ("#### 3\n#### 4", "4"),
        ("The answer is 7.", None),
        ("#### seven", None),
        ("7 ####", None),
        ("#### 1/2", None),
        ("#### 12 / 5", None),
        ("#### 1.5/2", None),
        ("#### 10:30", None),
        ("#### 7 or so\n#### none", None),
        ("#### 7: seven", "7"),
        ("#### 3 / day", "3"),
        ("#### 1,234.50.", "1234.50"),
        ("#### 3,5", None),
        ("#### 1,2345", None),
        ("#### 1,234,56", None),
        ("#### 0,500", None),
        ("#### 1 000", None),
        ("#### 1\u202f000", None),
        ("#### 1'000", None),
        ("#### 1.000,50", None),
        ("#### 1e6", None),
        ("#### 2^10", None),
        ("#### 2 ** 10", None),
        ("#### 3 × 10^5", None),
        ("#### 3-4", None),
        ("#### 5 1/2", None),
        ("#### 1½", None),
        ("#### 3\\frac{1}{2}", None),
        ("#### 18\n2 more", "18"),
        ("#### 18. 2 more", "18"),
        ("#### 5 eggs", "5"),
        ("#### 5eggs", "5"),
        ("#### **42**", "42"),
        ("#### **$1,234,567**.", "1234567"),
        ("#### $\\boxed{42}$", "42"),
        ("#### \\boxed{-4}", "-4"),
        ("#### −3", "-3"),
        ("#### -$3", "-3"),
    ],
)
def test_the_number_is_the_one_after_the_last_mark(text, number):
    assert checkable.last_number(text) == number


def test_a_file_of_solved_questions_takes_the_place_of_our_tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_CHECKABLE", written(tmp_path / "solved.jsonl", SOLVED))
    found = checkable.tasks(LOCAL, 4)
    task = found["gsm8k"]
    assert list(found) == ["gsm8k"]
    assert len(task.train) + len(task.test) == len(SOLVED)
    assert not set(task.train) & set(task.test)
    assert min(len(task.train), len(task.test)) >= 2
    row = SOLVED[0]["question"] + checkable.ASK
    assert task.keys[row] == "1201"
    said = ["600 + 601\n#### 1,201.0", "#### 1202", "1201"]
    assert task.reward([row] * 3, said) == [1.0, 0.0, 0.0]
    assert task.form_alone([row] * 3, said) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(("source", "part"), [("openai/gsm8k", {"name": "main"}), ("you/sums", {})])
def test_only_gsm8k_has_a_configuration_of_its_own(monkeypatch, source, part):
    asked = []
    monkeypatch.setattr(sources.hub, "stream", lambda source, **found: asked.append(found) or SOLVED)
    checkable.solved_task(source, 4, 4)
    assert asked == [{**part, "split": "train"}, {**part, "split": "test"}]


@pytest.mark.parametrize("answer", ["Because.", "#### 1/2"])
def test_a_question_without_a_number_is_named(tmp_path, monkeypatch, capsys, answer):
    bad = written(tmp_path / "solved.jsonl", [*SOLVED[:2], {"question": "Why?", "answer": answer}])
    monkeypatch.setenv("SAWYER_CHECKABLE", bad)
    with pytest.raises(sources.DataError, match=r"solved\.jsonl, line 3: field 'answer' has no number"):
        checkable.tasks(LOCAL, 4)
    written(tmp_path / "solved.jsonl", [*SOLVED[:2], {**SOLVED[2], "split": "validation"}])
    [task] = checkable.tasks(LOCAL, 4).values()
    assert len(task.train + task.test) == 2
    assert "1 of 3 rows left out: 1 × field 'split' is 'validation'" in capsys.readouterr().out


def test_a_profile_with_data_from_the_hub_asks_for_both_splits_there(monkeypatch):
    asked = []

    def stream(source, **part):
        asked.append((source, part["name"], part["split"]))
        return SOLVED[:20] if part["split"] == "train" else SOLVED[20:]

    monkeypatch.delenv("SAWYER_CHECKABLE", raising=False)
    monkeypatch.setattr(sources.hub, "stream", stream)
    task = checkable.tasks(checkable.settings(PROFILES["colab"]), 4)["gsm8k"]
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert {p.removesuffix(checkable.ASK) for p in task.test} == {row["question"] for row in SOLVED[20:]}


# --- rejection sampling -------------------------------------------------------------------------


def test_rejection_keeps_a_right_answer_and_its_control_the_same_prompts():
    task = checkable.own_task("larger", train=6, test=2)
    one, two, never = task.train[:3]
    answers = [
        (one, task.keys[one]),
        (one, "x"),
        (two, "y"),
        (two, task.keys[two]),
        (never, "x"),
        (never, "y"),
    ]
    said = dict(zip(("prompt", "response"), map(list, zip(*answers)), strict=True))
    drawn = {right: [checkable.picked(task, said, s, right) for s in range(20)] for right in (True, False)}
    for rows in (*drawn[True], *drawn[False]):
        assert [row["messages"][0] for row in rows] == [{"role": "user", "content": p} for p in (one, two)]
    texts = {
        right: {row["messages"][1]["content"] for rows in of for row in rows} for right, of in drawn.items()
    }
    assert texts[True] == {task.keys[one], task.keys[two]}
    assert texts[False] == {task.keys[one], task.keys[two], "x", "y"}


def test_where_nothing_is_right_it_is_said_and_any_answer_is_taken(capsys):
    task = checkable.own_task("larger", train=6, test=2)
    said = {"prompt": task.train[:2], "response": ["x", "y"]}
    rows = [checkable.picked(task, said, 0, right) for right in (True, False)]
    assert rows[0] == rows[1]
    assert [row["messages"][1]["content"] for row in rows[0]] == ["x", "y"]
    assert "larger: none of 2 answers is right" in capsys.readouterr().out


# --- TRL's trainer ------------------------------------------------------------------------------


def script():
    sys.path.insert(0, str(ROOT / "notebooks"))
    try:
        import grpo_launch
    finally:
        sys.path.pop(0)
    return grpo_launch


@pytest.fixture
def letters_run(letter_profile, tmp_path, monkeypatch):
    """A run folder with an SFT adapter of the tiny base, and questions that it can read."""
    adapter_of(letter_profile, tmp_path / letter_profile.name / "sft" / "adapter", seed=1)
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    monkeypatch.setenv("SAWYER_CHECKABLE", written(tmp_path / "letters.jsonl", LETTERS))
    return tmp_path


def test_answers_are_kept_for_the_very_same_settings(letter_profile, letters_run):
    adapter = letters_run / letter_profile.name / "sft" / "adapter"

    def answers(profile=letter_profile, **options):
        return checkable.answers(profile, adapter, adapter, ["a b c", "d e"], **options)["response"]

    first = answers()
    assert answers() == first != answers(seed=1)
    answers(samples=2)
    answers(replace(letter_profile, temperature=2.0))
    kept = letters_run / letter_profile.name / "checkable" / "answers"
    assert len(list(kept.iterdir())) == 4


@pytest.mark.parametrize(
    "pay", [lambda text: 0.5, lambda text: float(text.count("a"))], ids=["same", "count"]
)
def test_a_group_whose_answers_all_score_the_same_moves_nothing(
    letter_profile, letters_run, monkeypatch, pay
):
    """Why is my loss 0?"""
    seen = []

    def reward(self, prompts, responses):
        seen.append(prompts)
        return [pay(text) for text in responses]

    monkeypatch.setattr(checkable.Task, "reward", reward)
    script_ = script()
    monkeypatch.setattr(script_, "PENALTY", 0.0)
    trainer = peers.ready(script_.build(letter_profile, letters_run / "grpo"))
    trainer.beta = 0.0
    before = adapter_weights(trainer.model, peers.POLICY)
    trainer.train()
    after = adapter_weights(trainer.model, peers.POLICY)
    same = pay("a") == pay("b")
    assert all(torch.equal(before[key], after[key]) for key in before) == same
    log = [line for line in trainer.state.log_history if "reward" in line]
    assert len(log) == checkable.settings(letter_profile).ppo_steps
    assert all((line["frac_reward_zero_std"] == 1.0) == same for line in log)
    for prompts in seen:  # four answers to each of two prompts
        assert len(prompts) == letter_profile.ppo_batch
        assert {prompts.count(prompt) % 4 for prompt in prompts} == {0}


def test_ours_and_trls_rewards_for_the_same_texts_are_equal(letter_profile, letters_run):
    tokenizer, model = models.load_actor(
        letter_profile, letters_run / letter_profile.name / "sft" / "adapter"
    )
    task = checkable.Task("even", {}, [], [], lambda text, key: len(text) % int(key) == 0, bool)
    prompts = [row["question"] for row in LETTERS] * 2
    task.keys.update({prompt: str(2 + i % 2) for i, prompt in enumerate(prompts)})
    config = PPOConfig.from_profile(letter_profile, missing_stop_penalty=1.0, kl_coef=0.0)
    torch.manual_seed(0)
    batch = sample(model, tokenizer, prompts, 6, 1.0)
    batch.logprobs = batch.ref_logprobs = torch.zeros(batch.response_mask.shape)
    ours = PPOTrainer(model, tokenizer, task.reward, config).score(batch).scores.tolist()
    ids = [row[mask].tolist() for row, mask in zip(batch.response_ids, batch.response_mask, strict=True)]
    by_trl = peers.TextReward(task.reward, tokenizer, 1.0)([said("user", p) for p in prompts], None, ids)
    assert by_trl == ours
    assert len(set(ours)) >= 3  # right and wrong, finished and not


def test_the_script_trains_in_two_processes(letter_profile, letters_run, monkeypatch):
    """accelerate launch, on a CPU: half a minute."""
    home = letters_run / "launched"
    monkeypatch.setenv("SAWYER_HOME", str(home))
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    monkeypatch.setenv("SAWYER_PRECISION", "fp32")
    monkeypatch.setenv("SAWYER_MODEL", letter_profile.policy_base)
    monkeypatch.setenv("SAWYER_CHECKPOINTS", str(letters_run / letter_profile.name))
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", free_port()]
    said = run(["-m", "accelerate.commands.launch", *options, str(ROOT / "notebooks" / "grpo_launch.py")])
    assert f"2 processes, {checkable.settings(letter_profile).ppo_steps} batches: reward" in said
    [adapter] = home.rglob("grpo-launched/adapter/adapter_model.safetensors")
    start = load_file(letters_run / letter_profile.name / "sft" / "adapter" / "adapter_model.safetensors")
    trained = load_file(adapter)
    assert {name: value.shape for name, value in trained.items()} == {n: v.shape for n, v in start.items()}
    assert all(value.isfinite().all() for value in trained.values())


def test_the_script_and_the_notebook_train_alike():
    """The script's settings stand in the notebook's cell, too."""
    source = (ROOT / "notebooks" / "source" / "09_checkable_rewards.py").read_text(encoding="utf-8")
    text = (ROOT / "notebooks" / "grpo_launch.py").read_text(encoding="utf-8")
    for setting in (
        "num_iterations=1,",
        "top_k=0,",
        "disable_dropout=True,",
        "temperature=sizes.temperature,",
    ):
        assert setting in source
        assert setting in text
    assert f"GROUP, SEEDS = {script().GROUP}," in source
    assert f"PENALTY = {script().PENALTY}" in source
    assert "rate, beta, per_step = 1e-3, profile.kl_coef," in source
    assert "learning_rate=1e-3" in text
    assert "beta=profile.kl_coef" in text


# --- exercises ----------------------------------------------------------------------------------


class TestCheckable(Exercises):
    NOTEBOOK = "09_checkable_rewards"
    NAMES: ClassVar[dict] = {"math": math}
    RIGHT: ClassVar[dict] = {
        "09.1": {"two decimals": 0.833, "a tensor": torch.tensor([5 / 6])},
        "09.2": {
            "a list": lambda rewards: [len(set(row)) == 1 for row in rewards.tolist()],
            "numpy": lambda rewards: np.ptp(rewards.numpy(), axis=1) == 0,
            "as numbers": lambda rewards: (rewards.std(1) == 0).float(),
        },
        "09.3": {"an array": lambda p, n: np.array([p**n + (1 - p) ** n])},
        "09.4": {},
    }
    WRONG: ClassVar[dict] = {
        "09.1": {
            "none right": math.comb(7, 4) / math.comb(10, 4),
            "pass@1": 0.3,
            "with replacement": 1 - 0.7**4,
            "added up": 1.2,
            "all right": math.comb(3, 2) / math.comb(10, 4),
        },
        "09.2": {
            "all wrong alone": lambda rewards: rewards.max(1).values == 0,
            "all right alone": lambda rewards: rewards.min(1).values > 0,
            "those that teach": lambda rewards: rewards.max(1).values != rewards.min(1).values,
            "rewards of one alone": lambda rewards: (rewards.mean(1) == 0) | (rewards.mean(1) == 1),
            "little spread": lambda rewards: rewards.std(1) < 0.2,
            "none": lambda rewards: torch.zeros(len(rewards), dtype=torch.bool),
            "all": lambda rewards: torch.ones(len(rewards), dtype=torch.bool),
            "answer by answer": lambda rewards: rewards == rewards.mean(1, keepdim=True),
        },
        "09.3": {
            "all wrong alone": lambda p, n: (1 - p) ** n,
            "all right alone": lambda p, n: p**n,
            "they differ": lambda p, n: 1 - p**n - (1 - p) ** n,
            "one pair": lambda p, n: p**2 + (1 - p) ** 2 + n / 1000,
            "multiplied": lambda p, n: p**n * (1 - p) ** n,
        },
        "09.4": {
            "right for three": "one, two, three",
            "right for two": "one, two.",
            "no list": "one",
            "long items": "one two three four, one two three four",
            "a list": ["one", "one"],
        },
    }


def test_pass_at_k_is_the_best_of_k():
    """By the formula of the notebook."""
    for c in range(6):
        row = [[1.0] * c + [0.0] * (5 - c)]
        for k in (1, 3, 5):
            by_formula = 1 - math.comb(5 - c, k) / math.comb(5, k)
            assert evaluation.best_of_n(row, k)[0] == pytest.approx(by_formula)
