"""Reward hacking's lab: judges of few pairs, runs that are kept and looked at, and what came out."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import build_actor, known_model

from sawyer_utils import checkpoints, evaluation, ppo
from sawyer_utils.chapters import hacking
from sawyer_utils.chapters.hacking import Lab, Look
from sawyer_utils.data import Pair
from sawyer_utils.models import POLICY
from sawyer_utils.plumbing import resuming
from sawyer_utils.profiles import PROFILES
from sawyer_utils.reward import standardised

torch.set_num_threads(1)

TRAIN = ["a b c", "d", "e f g h i j", "k l", "m n o p", "q r s t u", "v w", "x", "y z a", "b c d e f g h"]
TEST = ["h i", "c b a", "z", "o p q r", "f e", "t"]
STEPS = 5


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("a")) for response in responses]


def count_words(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(len(response.split())) for response in responses]


def fixed(*scores: float):
    """A judge that gives these scores, whatever the texts are."""
    return lambda prompts, responses: list(scores)


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_the_settings_are_the_profiles_with_small_batches_and_no_leash(name):
    before, profile = PROFILES[name], hacking.settings(PROFILES[name])
    config = ppo.PPOConfig.from_profile(profile)  # which refuses more minibatches than answers
    assert (config.steps, config.kl_coef, config.missing_stop_penalty) == (before.hack_steps, 0.0, 0.0)
    assert (config.batch_size, config.learning_rate) == (before.ppo_batch // 2, before.ppo_lr)
    assert config.response_tokens <= before.response_tokens
    assert profile.reward_max_steps == before.reward_trials
    assert profile.eval_prompts >= 4, "both halves of the prompts are compared, and one is no comparison"


# --- judges -------------------------------------------------------------------------------------

PAIRS = [
    Pair(str(i), "letters", "a b", "c d e" if i % 3 else "c", "x y", 4.0, ("curt", "dull")) for i in range(60)
]


def test_one_sided_pairs_are_true_and_all_on_one_side():
    few = hacking.one_sided(PAIRS, 20)
    assert len({pair.id for pair in few}) == len(few) == 20
    assert all(pair in PAIRS for pair in few), "a label was changed"
    assert all(len(pair.chosen) > len(pair.rejected) for pair in few)


def test_one_sided_pairs_are_known_from_the_seed():
    assert hacking.one_sided(PAIRS, 20, seed=3) == hacking.one_sided(PAIRS, 20, seed=3)
    assert hacking.one_sided(PAIRS, 20, seed=3) != hacking.one_sided(PAIRS, 20, seed=4)


def test_too_few_one_sided_pairs_are_said():
    assert len(hacking.one_sided(PAIRS, 40)) == 40
    with pytest.raises(ValueError, match="40 pairs in which the longer answer wins, not 41"):
        hacking.one_sided(PAIRS, 41)


@pytest.fixture
def judge_profile(letter_profile):
    return replace(letter_profile, reward_max_steps=1, reward_batch=4, reward_lr=1e-2)


def test_a_judge_is_trained_once(judge_profile, tmp_path, monkeypatch):
    texts = ["a b", "c"], ["d e f", "g"]
    first = hacking.train_judge(judge_profile, PAIRS[:4], tmp_path).score(*texts)
    with monkeypatch.context() as patch:
        patch.setattr(resuming, "train", lambda *args: pytest.fail("trained again"))
        assert hacking.train_judge(judge_profile, PAIRS[:4], tmp_path).score(*texts) == first
        # What does not concern a judge makes no other judge.
        longer = replace(judge_profile, hack_steps=99)
        assert hacking.train_judge(longer, PAIRS[:4], tmp_path).score(*texts) == first


@pytest.mark.parametrize("other", ["pairs", "seed", "steps"])
def test_another_judge_is_not_taken_for_this_one(judge_profile, tmp_path, other):
    texts = ["a b", "c"], ["d e f", "g"]
    asked = {
        "pairs": (judge_profile, PAIRS[1:5], 0),
        "seed": (judge_profile, PAIRS[:4], 1),
        "steps": (replace(judge_profile, reward_max_steps=2), PAIRS[:4], 0),
    }
    profile, pairs, seed = asked[other]
    hacking.train_judge(judge_profile, PAIRS[:4], tmp_path / "one")
    found = hacking.train_judge(profile, pairs, tmp_path / "one", seed).score(*texts)
    assert found == hacking.train_judge(profile, pairs, tmp_path / "fresh", seed).score(*texts)


def test_a_length_adjusted_reward_is_what_the_length_leaves():
    """3 + 2 · words, plus a part of mean 0 that has nothing to do with words."""
    answers = ["a", "a b", "a b c", "a b c d"]
    apart = [1.0, -1.0, -1.0, 1.0]
    judge = fixed(*(3 + 2 * words + x for words, x in zip((1, 2, 3, 4), apart)))
    adjusted = hacking.length_adjusted(judge, ["?"] * 4, answers)
    assert adjusted(["?"] * 4, answers) == pytest.approx(apart)
    # Elsewhere it is the same line: ten words are expected to earn 23.
    assert hacking.length_adjusted(judge, ["?"] * 4, answers)(["?"] * 4, ["a " * 10] * 4) == pytest.approx(
        [3 + 2 * words + x - 23 for words, x in zip((1, 2, 3, 4), apart)]
    )


def test_a_length_adjusted_reward_does_not_go_with_words():
    rng = random.Random(0)
    answers = ["a " * rng.randint(1, 30) for _ in range(40)]

    def judge(prompts, responses):
        return [0.1 * len(r.split()) ** 1.5 + len(p) for p, r in zip(prompts, responses, strict=True)]

    prompts = ["?" * rng.randint(1, 9) for _ in answers]
    found = hacking.length_adjusted(judge, prompts, answers)(prompts, answers)
    words = [len(answer.split()) for answer in answers]
    assert abs(np.corrcoef(judge(prompts, answers), words)[0, 1]) > 0.5
    assert np.corrcoef(found, words)[0, 1] == pytest.approx(0, abs=1e-9)
    assert statistics.mean(found) == pytest.approx(0, abs=1e-9)


def test_answers_of_one_length_show_no_slope():
    adjusted = hacking.length_adjusted(fixed(1.0, 5.0), ["?", "?"], ["a b", "c d"])
    assert adjusted(["?", "?"], ["a", "b c d e"]) == [-2.0, 2.0]


def test_an_ensemble_is_taken_answer_by_answer():
    judges = fixed(1.0, 5.0, 3.0), fixed(3.0, -2.0, 3.0), fixed(2.0, 0.0, 3.0)
    texts = ["?"] * 3, ["x", "y", "z"]
    assert hacking.ensemble(judges, statistics.mean)(*texts) == [2.0, 1.0, 3.0]
    assert hacking.ensemble(judges, min)(*texts) == [1.0, -2.0, 3.0]
    with pytest.raises(ValueError, match="zip"):
        hacking.ensemble([fixed(1.0), fixed(1.0, 2.0)], min)(*texts)


def test_an_ensemble_on_unequal_scales_is_its_loudest_judge():
    texts = ["?"] * 3, ["x", "y", "z"]
    judges = fixed(0.0, 4.0, 5.0), fixed(100.0, 90.0, 0.0)

    def best(*judges):
        scores = hacking.ensemble(judges, statistics.mean)(*texts)
        return texts[1][scores.index(max(scores))]

    assert best(*judges) == best(judges[1]) == "x"
    assert best(*(standardised(judge, *texts)[0] for judge in judges)) == "y", "a little less, but to both"


def test_judges_with_the_same_bias_cannot_vote_it_out():
    texts = ["?"] * 2, ["good", "bad and long and long"]
    judges = [lambda p, r, k=k: [k * len(text) for text in r] for k in (1.0, 0.5, 2.0)]
    for combine in (statistics.mean, min):
        good, bad = hacking.ensemble(judges, combine)(*texts)
        assert bad > good


def test_judged_again_puts_the_answer_with_more_votes_first():
    prompts = ["p", "q", "r", "s", "t"]
    old, new = ["a", "b", "same", "d", "e"], ["A", "B", "same", "D", "E"]
    votes = {"a": 1.0, "A": 3.5, "b": 2.0, "B": 0.0, "same": 9.0, "d": 1.0, "D": 1.5, "e": 2.0, "E": 2.0}

    def judge(prompts, responses):
        return [votes[response] for response in responses]

    found = hacking.judged_again(prompts, old, new, judge)
    told = [(pair.prompt, pair.chosen, pair.rejected, pair.margin) for pair in found]
    assert told == [("p", "A", "a", 2.5), ("q", "b", "B", 2.0), ("s", "D", "d", 0.5)]
    assert len({pair.id for pair in found}) == 3


# --- runs ---------------------------------------------------------------------------------------


@pytest.fixture
def profile(letter_profile):
    return replace(
        hacking.settings(letter_profile),
        ppo_steps=STEPS,
        ppo_batch=8,
        ppo_minibatches=2,
        ppo_micro_batch=8,
        ppo_checkpoint_every=2,
        ppo_lr=1e-2,
        response_tokens=8,
        temperature=1.0,
    )


@pytest.fixture
def open_lab(profile, letters, letter_actor, tmp_path):
    """``open_lab(folder)``: a lab as a new process would open it."""

    def build(folder="lab", model=None, proxy=count_a, gold=count_words, test=TEST):
        model = model or letter_actor()
        return Lab(profile, letters, model, TRAIN, test, proxy, gold, tmp_path / folder)

    return build


def policy_of(lab: Lab) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in lab.model.named_parameters() if f".{POLICY}" in name}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def numbers(log: list[dict]) -> list[dict]:
    """A log without what differs from run to run."""
    clock = ("seconds_", "tokens_per", "peak_memory")
    return [{k: v for k, v in line.items() if not k.startswith(clock)} for line in log]


def test_both_judges_are_on_the_scale_of_sft(open_lab):
    lab = open_lab()
    for judge, raw in ((lab.proxy, count_a), (lab.gold, count_words)):
        scores = judge(lab.known.prompts, lab.known.responses)
        assert statistics.mean(scores) == pytest.approx(0, abs=1e-5)
        assert statistics.stdev(scores) == pytest.approx(1, abs=1e-5)
        assert np.corrcoef(scores, raw(lab.known.prompts, lab.known.responses))[0, 1] == pytest.approx(1)
    assert lab.known.prompts == TRAIN


def test_the_first_look_is_at_sft(open_lab):
    lab = open_lab()
    assert (lab.start.step, lab.start.kl) == (0, 0.0)
    assert len(lab.start.responses) == len(lab.start.proxy) == len(lab.start.gold) == len(TEST)
    assert lab.start.gold == lab.gold(TEST, lab.start.responses)
    assert lab.start.proxy == lab.proxy(TEST, lab.start.responses)


def test_a_lab_begins_at_sft_whatever_the_model_learned_before(open_lab, letter_actor):
    model = letter_actor()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if f".{POLICY}" in name:
                parameter.add_(0.3)
    assert open_lab("moved", model=model).start == open_lab("fresh").start


def test_looks_are_denser_at_the_start_and_the_last_step_is_one(open_lab):
    run = open_lab().run("all", count_a, looks=STEPS)
    assert [one.step for one in run.looks] == [0, 1, 2, 3, 5]
    assert [line["step"] for line in run.log] == list(range(1, STEPS + 1))
    for looks, steps in ((2, [0, 1, 5]), (9, [0, 1, 2, 3, 4, 5])):
        assert [one.step for one in open_lab().run(f"{looks}", count_a, looks=looks).looks] == steps


def test_a_look_is_at_the_policy_of_its_step(open_lab):
    lab = open_lab()
    run = lab.run("bad", count_a, looks=STEPS)
    assert lab.look(STEPS) == run.looks[-1]
    assert len({tuple(one.responses) for one in run.looks}) > 2, "nothing was learned"
    assert max(one.kl for one in run.looks) > 0.1
    for one in run.looks:
        assert isinstance(one.finished, float)  # not a bool where all have finished
        assert isinstance(one.length, float)


def test_a_look_touches_neither_dice_nor_adapters(open_lab):
    lab = open_lab()
    weights = policy_of(lab)
    trained = {name: p.requires_grad for name, p in lab.model.named_parameters()}
    torch.manual_seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = lab.look(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
    assert same(policy_of(lab), weights)
    assert lab.model.active_adapter == POLICY
    assert {name: p.requires_grad for name, p in lab.model.named_parameters()} == trained
    torch.manual_seed(8)
    assert lab.look(3) == first, "other dice gave other answers"


def test_looking_does_not_change_the_training(open_lab):
    found = []
    for looks in (1, STEPS):
        lab = open_lab()
        log = numbers(lab.run(f"looks-{looks}", count_a, looks=looks).log)
        found.append((log, policy_of(lab), lab.look(STEPS)))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_a_finished_run_is_loaded(open_lab, monkeypatch):
    lab = open_lab()
    first = lab.run("bad", count_a, looks=2)
    weights = policy_of(lab)
    again, seen = open_lab(), []
    monkeypatch.setattr(ppo.PPOTrainer, "step", lambda *args: pytest.fail("trained again"))
    monkeypatch.setattr(again, "look", lambda step: pytest.fail("looked again"))
    second = again.run("bad", count_a, looks=2, on_step=lambda log: seen.append(len(log)))
    assert second == first
    assert same(policy_of(again), weights)
    assert seen == [STEPS], "a plot is drawn from a loaded run, too"


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_was_cut_off_goes_on_to_the_same_looks(open_lab, step):
    whole = open_lab()
    wanted = whole.run("whole", count_a, looks=STEPS)

    def cut(log):
        if len(log) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_lab().run("cut", count_a, looks=STEPS, on_step=cut)
    lab, lengths = open_lab(), []
    found = lab.run("cut", count_a, looks=STEPS, on_step=lambda log: lengths.append(len(log)))
    assert lengths[0] == max(1, step // 2 * 2), "it should go on from the last checkpoint"
    assert found.looks == wanted.looks
    assert numbers(found.log) == numbers(wanted.log)
    assert same(policy_of(lab), policy_of(whole))


def test_a_run_that_was_cut_off_in_a_look_is_looked_at_again(open_lab, monkeypatch):
    wanted = open_lab().run("whole", count_a, looks=STEPS)
    lab = open_lab()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "kl_to_reference", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            lab.run("cut", count_a, looks=STEPS)
    assert open_lab().run("cut", count_a, looks=STEPS).looks == wanted.looks


def test_each_run_starts_as_sft(open_lab):
    lab = open_lab()
    runs = [lab.run(name, reward_fn) for name, reward_fn in (("one", count_a), ("two", count_words))]
    assert [run.log[0]["kl"] for run in runs] == [0.0, 0.0]
    first = [[sample["response"] for sample in run.log[0]["samples"]] for run in runs]
    assert first[0] == first[1]
    assert runs[0].log[1]["kl"] != runs[1].log[1]["kl"], "the reward made no difference"
    assert runs[0].looks[0] == runs[1].looks[0] == lab.start


def test_another_reward_is_another_run_under_whatever_name(open_lab, capsys):
    wanted = open_lab("fresh").run("words", count_words, looks=2)
    lab = open_lab()
    first = lab.run("bad", count_a, looks=2)
    for name, said in (("other", False), ("bad", True)):
        found = open_lab().run(name, count_words, looks=2)
        assert ("starting over" in capsys.readouterr().out) is said
        assert found.looks == wanted.looks != first.looks
        assert numbers(found.log) == numbers(wanted.log)


def test_a_reward_that_agrees_on_the_canned_answers_is_another_run_with_looks_of_its_own(open_lab):
    def words_but_for_them(prompts, responses):
        both = zip(count_a(prompts, responses), count_words(prompts, responses), responses, strict=True)
        return [letters if response in checkpoints.ANSWERS else words for letters, words, response in both]

    wanted = open_lab("fresh").run("bad", words_but_for_them, looks=2)
    first = open_lab().run("bad", count_a, looks=2)
    found = open_lab().run("bad", words_but_for_them, looks=2)
    assert found.looks == wanted.looks != first.looks


def less_of_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [-score for score in count_a(prompts, responses)]


@pytest.mark.parametrize("other", ["looks", "seed", "gold", "proxy", "prompts"])
def test_what_else_makes_another_run(open_lab, other):
    open_lab().run("bad", count_a, looks=1)
    judge = {other: less_of_a} if other in ("gold", "proxy") else {}
    lab = judge or ({"test": TEST[::-1]} if other == "prompts" else {})
    options = {"looks": {"looks": STEPS}, "seed": {"seed": 1}}.get(other, {})
    wanted = open_lab("fresh", **lab).run("bad", count_a, **options)
    found = open_lab(**lab).run("bad", count_a, **options)
    assert found.looks == wanted.looks
    assert len(found.looks) == len({one.step for one in found.looks})


def test_a_run_that_is_cut_off_early_is_not_taken_for_the_one_before_it(open_lab):
    """Another reward's checkpoint lies in the folder, and the new run has not written its own yet."""
    open_lab().run("bad", count_a)

    def cut(log):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_lab().run("bad", count_words, on_step=cut)
    wanted = open_lab("fresh").run("bad", count_words)
    assert open_lab().run("bad", count_words).looks == wanted.looks


def test_a_stopped_run_returns_with_a_look_at_where_it_stopped(open_lab, monkeypatch, capsys):
    step = ppo.PPOTrainer.step

    def breaking(self, prompts):
        if self.steps_done == 3:
            raise ppo.TrainingStopped("Step 3: the loss is nan.")
        return step(self, prompts)

    monkeypatch.setattr(ppo.PPOTrainer, "step", breaking)
    lab = open_lab()
    first = lab.run("bad", count_a)
    assert "bad: Step 3: the loss is nan." in capsys.readouterr().out
    assert [one.step for one in first.looks] == [0, 3]
    assert first.looks[-1] == lab.look(3)
    assert len(first.log) == 3
    second = open_lab().run("bad", count_a)
    assert second.looks == first.looks
    assert numbers(second.log) == numbers(first.log)


def test_a_model_that_says_nothing_stops_at_once_and_returns(open_lab, letters, capsys):
    silent = build_actor(letters, model=known_model(letters, {letters.eos_token: 1.0}))
    for name, parameter in silent.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    by_prompt = lambda prompts, responses: [float(len(p)) for p in prompts]  # noqa: E731
    lab = open_lab(model=silent, proxy=by_prompt, gold=by_prompt)
    run = lab.run("silent", lab.proxy)
    assert "every response is empty (collapse)" in capsys.readouterr().out
    assert run.looks == [lab.start]
    assert (run.log, lab.start.length, lab.start.finished) == ([], 1.0, 1.0)


def test_the_answers_of_a_run_are_those_of_its_last_policy(open_lab, profile, letters):
    lab = open_lab()
    lab.run("bad", count_a)
    wanted = evaluation.answer(lab.model, letters, TRAIN[:4], profile, seed=2).responses
    lab.run("other", count_words)
    other = evaluation.answer(lab.model, letters, TRAIN[:4], profile, seed=2).responses
    assert lab.answers("bad", TRAIN[:4]).responses == wanted != other


# --- what came out ------------------------------------------------------------------------------


def look(step: int, gold: list[float]) -> Look:
    return Look(step, float(step), [0.0] * len(gold), gold, 10.0, 1.0, ["x"] * len(gold))


def test_the_peak_is_chosen_by_every_other_prompt_alone():
    """The 2nd, 4th, … prompts like the second look by far the best, and have no say."""
    looks = [look(0, [0, 0, 0, 0]), look(4, [1, 9, 1, 9]), look(8, [2, -9, 2, -9]), look(12, [1, 0, 2, 0])]
    assert hacking.peak(looks).step == 8
    assert hacking.peak([look(0, [1, 0]), look(4, [1, 5])]).step == 0, "of equals the earlier one"


def test_the_rest_says_how_deep_the_fall_is():
    top = look(8, [9.0, 1.0, 9.0, 2.0, 9.0, 3.0, 9.0, 4.0])
    last = look(20, [0.0, 0.5, 0.0, 1.0, 0.0, 2.0, 0.0, 2.5])
    found = hacking.on_the_rest(top, last)
    assert (found.n, found.before_mean, found.after_mean) == (4, 2.5, 1.5)
    assert found.difference == pytest.approx(-1.0)
    assert hacking.on_the_rest(top, top).difference == 0.0


def test_a_run_without_a_peak_shows_no_fall_on_the_rest():
    """A hundred runs of five looks that differ by luck alone: the chosen prompts see a fall from the
    highest look to the last one, the others see none."""
    rng = np.random.default_rng(0)
    chosen, rest = [], []
    for _ in range(100):
        looks = [look(i, rng.normal(size=40).tolist()) for i in range(5)]
        top = hacking.peak(looks)
        chosen.append(statistics.mean(looks[-1].gold[::2]) - statistics.mean(top.gold[::2]))
        rest.append(hacking.on_the_rest(top, looks[-1]).difference)
    error = 20**-0.5
    assert statistics.mean(chosen) < -0.8 * error
    assert abs(statistics.mean(rest)) < 0.4 * error
