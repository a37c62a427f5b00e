"""What a run leaves behind: figures in three formats, one page that stands alone, copies to commit."""

from __future__ import annotations

import re

import matplotlib.image
import pandas as pd
import pytest
import torch

from sawyer_utils import losses, plots, show
from sawyer_utils.chapters import drawings, export, report
from sawyer_utils.course import page
from sawyer_utils.plumbing.files import finite, project_root, read_json
from sawyer_utils.profiles import PROFILES


@pytest.fixture(autouse=True)
def style():
    plots.use_style()


@pytest.fixture
def results():
    return read_json(project_root() / "results" / "local.json")


def test_a_figure_is_saved_as_png_and_svg_with_its_numbers(tmp_path):
    numbers = {"reward": [1.0, 2.5]}
    plots.save(plots.reward_histograms({"sft": [0.1, 0.4], "ppo": [1.0, 2.5]}), tmp_path, "rewards", numbers)
    assert matplotlib.image.imread(tmp_path / "rewards.png").shape[0] > 100
    drawn = (tmp_path / "rewards.svg").read_text(encoding="utf-8")
    assert "SFT + RLF: mean 1.75, SD" in drawn  # text stays text
    assert pd.read_csv(tmp_path / "rewards.csv").reward.tolist() == [1.0, 2.5]


def test_a_dollar_is_no_formula(tmp_path):
    texts = ["From $5 to $10", "Let $x^{2$ be."]  # the second is no formula at all
    plots.save(drawings.three_answers(texts, {stage: texts for stage in plots.STAGES}), tmp_path, "said")
    drawn = (tmp_path / "said.svg").read_text(encoding="utf-8")
    assert [drawn.count(text) for text in texts] == [4, 4]
    shown = [show.side_by_side(texts, {"a": texts}), show.shaded_tokens([(texts, [1, 2])])]
    shown += [show.graded_tokens(texts, [True, False])]
    assert all("mathjax_ignore" in page.data for page in shown)
    assert "mathjax_ignore" in pd.DataFrame({"a": texts}).to_html()


def test_the_same_figure_gives_the_same_file(tmp_path):
    for name in ("one", "two"):
        plots.save(drawings.three_elements(), tmp_path, name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert not (tmp_path / "one.csv").exists()


def test_the_page_stands_alone_and_shows_every_row_of_the_summary(tmp_path, results):
    plots.save(plots.rl_loop(), tmp_path / "eval" / "figures", "rl_loop")
    text = page.write_html(tmp_path, results).read_text(encoding="utf-8")
    assert re.findall(r'src="([^"]{11})', text) == ["data:image/"]
    assert not re.search(r"""(?:href|src)=["'](?!data:)|https?://|@import|url\(""", text)
    assert 'name="viewport"' in text  # a phone
    assert "@media print" in text
    assert 'alt="eval: rl loop"' in text
    assert text.count("<tr>") == len(report.rows(results)) > 10


def without(value):
    """A run's results as they are recorded where no number of theirs is finite."""
    if isinstance(value, dict):
        return {key: without(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without(part) for part in value]
    return float("nan") if isinstance(value, float) else value


def test_a_row_without_its_numbers_is_not_measured(results):
    stages = (*report.STAGES, *report.EXTRA_STAGES)
    gone = results | {stage: finite(without(results[stage]))[0] for stage in stages}
    rows, left = report.rows(results), report.rows(gone)
    assert [row[:2] for row in left] == [row[:2] for row in rows]
    assert all(report.NOT_MEASURED in said for *_, said in left)
    assert not any(report.NOT_MEASURED in said for *_, said in rows)
    assert report.NOT_MEASURED in export.card(PROFILES["local"], gone, "x")
    assert page.headlines(gone).count(f"** {report.NOT_MEASURED}") == 4


def test_an_extra_chapter_adds_its_rows_and_not_its_minutes(results):
    rows, table = report.rows(results), page.results_table(results)
    change = {"before_mean": -0.4, "after_mean": -0.2, "difference": 0.2, "low": 0.1, "high": 0.3, "n": 36}
    more = {**results, "neutral": {"measures": {"neutrality": change}}}
    more["minutes"] = {**results["minutes"], "07_neutral_summaries": 100.0}
    (added,) = [row for row in report.rows(more) if row not in rows]
    assert added == ("07 neutral summaries", "neutrality", "-0.4 → -0.2; +0.2 [+0.1, +0.3] (n = 36)")
    assert page.results_table(more).splitlines()[-1] == table.splitlines()[-1]


def test_chapter_05_shows_gold_and_the_pick_on_new_topics(results):
    cell = {"difference": 0.2, "low": 0.1, "high": 0.3, "n": 60, "verdict": "better"}
    found = {"gold": {"known": {"PPO": cell}, "new": {"best of n": cell}}}
    rows = report.rows(results)
    added = [row for row in report.rows({**results, "versus": found}) if row not in rows]
    said = "+0.20 [+0.10, +0.30] (n = 60): better"
    assert added == [
        ("05 PPO against DPO", "gold since SFT, PPO", said),
        ("05 PPO against DPO", "gold on new topics, best of n", said),
    ]


def test_the_workshops_five_figures_are_copied_and_no_old_one_stays(tmp_path):
    for name in (*page.FIGURES, "differences"):
        plots.save(drawings.three_elements(), tmp_path / "run" / "eval" / "figures", name, {"n": [1]})
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "old.png").touch()
    page.copy_figures(tmp_path / "run", tmp_path / "copy")
    found = {file.name for file in (tmp_path / "copy").iterdir()}
    assert found == {f"{name}.{kind}" for name in page.FIGURES for kind in ("png", "svg", "csv")}


def test_the_frontier_has_a_panel_a_judge():
    columns = {"kl": [0.0, 1.0], "ours": [0.0, 0.5], "ours_low": [0.0, 0.2], "ours_high": [0.0, 0.9]}
    best, ppo = pd.DataFrame({"n": [1, 2], **columns}), pd.DataFrame({"step": ["a", "b"], **columns})
    figure = drawings.frontier(best, ppo, {"ours": "our judge"})
    (ax,) = figure.axes
    assert ax.get_title() == "our judge"
    assert {text.get_text() for text in ax.texts} == {"1", "2", "a", "b"}
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["best of n", "PPO"]


def test_each_row_of_changes_has_its_name_its_value_its_interval_and_its_look():
    changes, lows, highs = [1.0, -1.0, 0.25], [0.5, -3.0, -0.5], [1.25, -0.5, 0.5]
    (ax,) = plots.score_changes(["up", "down", "unclear"], changes, lows, highs, 9).axes
    names = {label.get_position()[1]: label.get_text() for label in ax.get_yticklabels()}
    drawn = {}
    for point, _, (bar,) in (container.lines for container in ax.containers):
        ((x, y),), ((low, _), (high, _)) = point.get_xydata(), bar.get_segments()[0]
        drawn[names[y]] = (x, low, high, point.get_marker())
    assert drawn == {
        "up": (1.0, 0.5, 1.25, "^"),
        "down": (-1.0, -3.0, -0.5, "v"),
        "unclear": (0.25, -0.5, 0.5, "o"),
    }


def test_the_figure_of_the_preference_loss_is_the_loss():
    (ax,) = drawings.preference_loss(margins=(0.0, 1.0, 3.0)).axes
    for line, margin in zip(ax.lines, (0.0, 1.0, 3.0), strict=False):
        x, y = map(torch.tensor, line.get_data())
        assert torch.allclose(y, losses.bradley_terry(x, torch.full_like(x, margin)))
        assert line.get_label() == f"margin {margin:g}"


def test_the_first_questions_of_three_answers_are_large_and_long_answers_are_cut():
    figure = drawings.three_answers(list("abcde"), {stage: ["so " * 99] * 5 for stage in plots.STAGES})
    sizes = {text.get_text(): text.get_fontsize() for text in figure.axes[0].texts}
    assert [sizes[f"“{prompt}”"] for prompt in "abcde"] == [15.5] * 3 + [12] * 2
    cut = [text.get_text().splitlines() for text in figure.axes[0].texts if "so" in text.get_text()]
    assert [len(lines) for lines in cut] == [6] * 9 + [5] * 6
    assert {lines[-1] for lines in cut} == {"…"}


def test_the_example_of_the_readme_is_short_and_stays_in_its_row():
    said = {"prompt": "Why?", "base": "a | " * 20, "sft": "one\ntwo", "ppo": "three"}
    *_, row = page.answers({"three_answers": said}).splitlines()
    assert row == "| Why? | " + "a \\| " * 7 + "… | one two | three |"


def test_what_got_worse_is_counted_and_shown(results):
    letters = {"sft": 0.5, "ppo": 0.1, "difference": -0.4, "low": -0.5, "high": -0.3, "verdict": "worse"}
    verdicts = [{"measure": "reward", "verdict": "better"}, {"measure": "kl", "verdict": "better"}]
    verdicts += [
        {"measure": "readable letters", **letters},
        {"measure": "length", "verdict": "unclear"},
    ]
    evaluation = {"verdicts": verdicts}
    assert report.headline(evaluation) == "4 measures:\n2 better, 1 worse"
    told = [row for row in report.rows({**results, "eval": evaluation}) if row[0] == "04 evaluation"]
    assert any("readable letters" in row[1] and "worse" in row[2] for row in told)


def test_minutes_are_recorded_of_notebooks_and_of_their_sections(tmp_path, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    ledger = {"seconds": {"01_sft": 300.0}, "sections": {"01_sft": {"1. Train": 120.0}}}
    found = report.collect(PROFILES["local"], ledger)
    assert (found["minutes"], found["section_minutes"]) == ({"01_sft": 5.0}, {"01_sft": {"1. Train": 2.0}})


def test_the_readmes_picture_says_what_each_stage_changed(tmp_path, monkeypatch, results):
    drawn = {}
    monkeypatch.setattr(plots, "four_stages", lambda results: drawn.update(results))
    monkeypatch.setattr(plots, "save", lambda *_: None)
    sft = {"heldout_before": 3.0, "heldout_after": 1.5, "base_finished": 0.1, "sft_finished": 0.9}
    judge = {"accuracy": 0.8, "accuracy_untrained": 0.4}
    page.stage_picture({**results, "sft": sft, "reward": judge}, tmp_path)
    assert drawn["sft"] == "loss 3.00 → 1.50\nanswers that end: 10% → 90%"
    assert drawn["reward"] == "right on 80% of pairs\n(untrained 40%)"


def test_a_run_without_the_extras_keeps_what_is_committed_of_them():
    earlier = {
        "machine": "A",
        "sft": {"loss": 2.0},
        "hacking": {"peak": 3},
        "minutes": {"01_sft": 5, "06": 28},
    }
    now = {"machine": "B", "sft": {"loss": 1.0}, "hacking": {}, "minutes": {"01_sft": 6}}
    found = report.kept(earlier, now)
    assert found.pop("section_minutes") == {}
    assert found == {
        "machine": "B",
        "sft": {"loss": 1.0},
        "hacking": {"peak": 3},
        "minutes": {"01_sft": 6, "06": 28},
    }


def test_each_row_of_the_reward_model_has_its_own_numbers():
    judge = {
        "accuracy": 0.7,
        "accuracy_low": 0.6,
        "accuracy_high": 0.8,
        "accuracy_untrained": 0.5,
        "n_pairs": 99,
    }
    judge |= {"accuracy_shorter": 0.4, "accuracy_shorter_low": 0.3, "accuracy_shorter_high": 0.45}
    judge |= {"accuracy_stranger": [0.9, 0.85, 0.95], "n_strangers": 77}
    assert [said for _, _, said in report.rows({"reward": judge})] == [
        "0.700 [0.600, 0.800], untrained 0.500 (n = 99)",
        "0.400 [0.300, 0.450]",
        "0.900 [0.850, 0.950] (n = 77)",
    ]
