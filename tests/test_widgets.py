"""The widgets by their callbacks: a click is a method call, what is shown is a value."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import ipywidgets
import pytest

from sawyer_utils import data
from sawyer_utils.classroom import probes, quiz, widgets
from sawyer_utils.classroom.talk import Talk, questions, tally

SOURCE = Path(widgets.__file__)
# What ipywidgets 7.7.1, which Colab ships, takes of each widget that we use (its class_trait_names()).
TEXT = {"value", "placeholder", "rows", "continuous_update", "description", "style", "disabled", "layout"}
SLIDER = {"value", "min", "max", "step", "description", "style", "layout", "continuous_update", "disabled"}
SEVEN = {
    "Button": {"description", "tooltip", "layout", "disabled", "button_style", "icon"},
    "Checkbox": {"value", "description", "indent", "layout", "style", "disabled"},
    "FloatSlider": SLIDER,
    "HBox": {"children", "layout"},
    "HTML": {"value", "layout", "description", "placeholder"},
    "IntSlider": SLIDER,
    "IntText": SLIDER - {"min", "max"},
    "Layout": {"width", "margin", "padding", "flex_flow", "flex"},
    "Textarea": TEXT,
    "VBox": {"children", "layout"},
}


ADAPTERS = {"base": "base", "sft": "ref", "ppo": "policy"}  # stage -> adapter, as in notebook 04


def scores_by_length(prompts, responses):
    return [len(text) / 10 for text in responses]


@pytest.fixture
def talk(letter_actor, letters, letter_profile):
    return Talk(letter_actor(seed=11), letters, letter_profile, ADAPTERS, reward=scores_by_length)


@pytest.fixture
def chat(talk, tmp_path):
    panel = widgets.Chat(talk, tmp_path)
    panel.tokens.value = 8
    return panel


def ask(panel, text="a b c"):
    panel.question.value = text
    panel.ask_button.click()
    return panel.talk.turns[-1]


# --- what they are made of ----------------------------------------------------------------------


def test_only_names_that_ipywidgets_7_has_are_used():
    nodes = [node for file in (SOURCE, Path(quiz.__file__)) for node in ast.walk(ast.parse(file.read_text()))]
    used = [
        (node.func.attr, {keyword.arg for keyword in node.keywords})
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("widgets.")
    ]
    named = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "widgets"
    }
    assert named <= SEVEN.keys()
    assert len(used) > 15
    for name, keywords in used:
        assert keywords <= SEVEN[name], name
    for name in named:  # and 8 still has them
        assert SEVEN[name] <= set(getattr(ipywidgets, name).class_trait_names()), name


def test_importing_them_builds_no_model_and_building_them_runs_none(letters, letter_profile, tmp_path):
    code = (
        "import gc, torch, sawyer_utils.classroom.widgets\n"
        "found = [o for o in gc.get_objects() if isinstance(o, torch.nn.Module)]\n"
        "assert sum(p.numel() for m in found for p in m.parameters()) < 1000"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=SOURCE.parents[1])
    panel = widgets.Chat(Talk(None, letters, letter_profile, ADAPTERS), tmp_path)
    widgets.RewardExplorer(None, "a", "b", "c")
    assert not panel.talk.turns


def test_a_page_without_widgets_shows_one_line(chat):
    assert repr(chat) == "<Chat: run the notebook to use it>"
    assert repr(quiz.quiz("01")) == "<Quiz: run the notebook to use it>"


def test_the_workshops_questions_and_poetry_are_offered(talk, tmp_path):
    panel = widgets.Chat(talk, tmp_path)
    offered = [button.description for button in panel.suggestions.children]
    assert offered == questions()
    assert set(data.FIXED_PROMPTS) < set(offered)
    assert sum("poem" in text or "poetry" in text for text in offered) >= 3
    panel.suggestions.children[1].click()
    assert panel.question.value == offered[1]


# --- chat ---------------------------------------------------------------------------------------


def test_a_question_gets_an_answer_of_each_stage_with_reward_and_kl(chat):
    turn = ask(chat)
    assert list(turn["replies"]) == ["base", "sft", "ppo"]
    base, sft, ppo = turn["replies"].values()
    assert base.kl is None
    assert (sft.before, ppo.before) == ("base", "sft")
    assert ppo.kl == 0.0  # the same weights
    assert sft.kl != 0.0
    assert sft.text == ppo.text  # the same seed
    assert sft.reward == len(sft.text) / 10
    for text in ("a b c", "SFT + RLF", f"reward {sft.reward:+.2f}", "KL to SFT +0.0 nats"):
        assert text in chat.answers.value
    assert "3 answers in" in chat.status.value


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(chat):
    first = ask(chat)["replies"]["sft"].text
    chat.new_button.click()
    assert ask(chat)["replies"]["sft"].text == first
    chat.new_button.click()
    chat.seed.value = 1
    assert ask(chat)["replies"]["sft"].text != first


def test_the_sliders_are_heard(chat):
    chat.temperature.value = 0.3
    turn = ask(chat)
    assert turn["temperature"] == 0.3
    assert all(reply.tokens <= 8 for reply in turn["replies"].values())


def test_at_temperature_zero_the_seed_says_nothing(talk):
    said = set()
    for seed in (0, 1):
        talk.start_over()
        said.add(talk.ask("a b c", ["sft"], temperature=0.0, seed=seed)["sft"].text)
    assert len(said) == 1


def test_asking_leaves_adapters_and_random_numbers_as_they_were(chat):
    import torch

    model = chat.talk.model
    torch.manual_seed(5)
    expected = torch.rand(3)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    torch.manual_seed(5)
    ask(chat)
    assert torch.equal(torch.rand(3), expected)
    assert model.active_adapter == "policy"
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_each_stage_goes_on_with_its_own_conversation(chat, letters):
    from sawyer_utils.chat import encode, encode_prompt

    ask(chat, "a b c")
    ask(chat, "d e")
    talk = chat.talk
    messages = talk.history("base")
    assert [m["role"] for m in messages] == 2 * ["user", "assistant"]
    assert messages[1]["content"] == talk.turns[0]["replies"]["base"].text
    assert talk.history("sft")[1]["content"] != messages[1]["content"]
    assert encode_prompt(letters, messages[:3]) == encode(letters, messages[:3], True).ids
    assert chat.answers.value.count("<tr>") == 3  # the head and two turns
    chat.new_button.click()
    assert not talk.history("base")
    assert chat.answers.value == ""


def test_only_the_chosen_stages_answer(chat):
    chat.stages["base"].value = False
    assert list(ask(chat)["replies"]) == ["sft", "ppo"]
    chat.stages["base"].value = True
    assert list(ask(chat)["replies"]) == ["sft", "ppo", "base"]
    assert widgets.NONE in chat.answers.value  # of the base, in the first turn


def test_an_error_is_shown_and_the_buttons_come_back(chat):
    ask_nothing = chat.question.value = "  "
    chat.ask_button.click()
    assert "Type a question first" in chat.status.value
    assert not chat.ask_button.disabled
    assert not chat.talk.turns, ask_nothing
    for box in chat.stages.values():
        box.value = False
    chat.question.value = "a"
    chat.ask_button.click()
    assert "Choose a model first" in chat.status.value


def test_what_is_typed_cannot_become_markup(chat):
    ask(chat, "a <b>bold</b>")
    assert "<b>bold</b>" not in chat.answers.value


def test_a_blind_vote_hides_who_is_who_until_it_is_cast(chat):
    chat.blind.value = True
    orders = set()
    for _ in range(6):
        turn = ask(chat)
        orders.add(tuple(turn["replies"]))
        assert "SFT" not in chat.answers.value
        assert "reward" not in chat.answers.value
        labels = [button.description for button in chat.ballot.children]
        assert labels == [*(f"answer {x} is best" for x in "ABC"), "no difference"]
        chat.ballot.children[chat.order.index("ppo")].click()
        assert "SFT + RLF" in chat.answers.value
        assert "reward" in chat.answers.value
        assert not chat.ballot.children
    assert len(orders) > 1
    assert [vote["vote"] for vote in chat.talk.turns] == ["ppo"] * 6
    assert "SFT + RLF beat base in 6 of 6 votes: 100% [61%, 100%]" in chat.tally.value
    assert "beat SFT " not in chat.tally.value, "which said the same each time"
    assert len({turn["conversation"] for turn in chat.talk.turns}) == 6


def test_two_learners_see_other_orders(chat, tmp_path):
    other = widgets.Chat(chat.talk, tmp_path)
    assert chat.shuffle.sample(range(10**6), 9) != other.shuffle.sample(range(10**6), 9)


def test_votes_are_counted_by_pair_with_ties_apart():
    cast = [(winner, ("sft", "ppo")) for winner in ("ppo", "ppo", "sft", None)] + [("base", ("ppo", "base"))]
    assert tally(cast) == [
        "SFT + RLF beat base in 0 of 1 votes: 0% [0%, 79%]",
        "SFT + RLF beat SFT in 2 of 3 votes: 67% [21%, 94%]; 1 without a winner",
    ]
    assert tally([]) == []


def test_the_transcript_is_a_line_of_json_a_turn(chat, tmp_path):
    ask(chat, "a b c")
    chat.ballot.children[-1].click()
    ask(chat, "d e")
    chat.save_button.click()
    chat.save_button.click()
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["transcript-1.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / "transcript-1.jsonl").read_text().splitlines()]
    assert [line["question"] for line in lines] == ["a b c", "d e"]
    assert [line["vote"] for line in lines] == ["none", None]
    assert lines[0]["replies"]["ppo"].keys() >= {"text", "reward", "kl", "tokens", "finished"}
    assert "transcript-1.jsonl" in chat.status.value


def test_the_transcript_of_an_earlier_session_stays(chat, tmp_path):
    ask(chat)
    chat.save_button.click()
    before = (tmp_path / "transcript-1.jsonl").read_text()
    widgets.Chat(chat.talk, tmp_path).save()
    assert (tmp_path / "transcript-1.jsonl").read_text() == before
    assert (tmp_path / "transcript-2.jsonl").exists()


def test_the_static_twin_shows_the_same_answers(chat):
    turn = ask(chat)
    table = widgets.compare(chat.talk, ["a b c"], tokens=8)
    assert turn["replies"]["base"].note() in table.data
    assert table.data in chat.answers.value


# --- the judge ----------------------------------------------------------------------------------


@pytest.fixture
def explorer():
    return widgets.RewardExplorer(scores_by_length, "Why?", "Because it is.", "No.")


def test_scoring_shows_margin_and_probability(explorer):
    assert explorer.result.value == ""
    explorer.judge_button.click()
    assert "margin +1.10, A preferred with probability 0.750" in explorer.result.value


@pytest.mark.parametrize("name", probes.EDITS)
def test_each_edit_changes_one_answer_and_scores_both(explorer, name):
    explorer.edit_buttons[0][list(probes.EDITS).index(name)].click()
    edited = probes.EDITS[name]("Because it is.")
    assert [box.value for box in explorer.answers] == [edited, "No."] != ["Because it is.", "No."]
    assert f"A {len(edited) / 10:+.2f}, B +0.30" in explorer.result.value


def test_an_error_of_the_judge_is_shown():
    def broken(prompts, responses):
        raise RuntimeError("no judge today")

    panel = widgets.RewardExplorer(broken, "a", "b", "c")
    panel.judge_button.click()
    assert "no judge today" in panel.status.value
    assert not panel.judge_button.disabled


def test_edits_can_be_repeated_and_nothing_stays_nothing():
    text = "Say hello warmly to them."
    seen = [text]
    for _ in range(6):
        seen.append(probes.longer(seen[-1]))
    assert len(set(seen)) == 7
    assert probes.typo(text) == "Sy hello warmly tem." or probes.typo(text) != text
    for edit in probes.EDITS.values():
        edit("")


def test_the_probability_is_bradley_and_terrys():
    assert probes.Verdict(1.2, 0.3).probability == pytest.approx(0.7109, abs=1e-4)
    assert probes.Verdict(0.0, 2000.0).probability == 0.0
    table = probes.edits_table(scores_by_length, "Why?", "Because.")
    assert list(table.edit) == ["plain", *probes.EDITS]
    assert table.change[0] == 0
    assert table.preferred[0] == 0.5
    assert list(table.score) == [len(text) / 10 for text in table.text]
    assert table.change.to_list() == pytest.approx(list(table.score - table.score[0]))
    assert ((table.preferred > 0.5) == (table.change > 0)).all()
    assert (table.change > 0).any()
    assert "off-topic" in widgets.edits(scores_by_length, "Why?", "Because.").data
