"""The live panel: one display, redrawn in place, with the time left; files at the end; silent under tests."""

from __future__ import annotations

from types import SimpleNamespace

import IPython.display
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sawyer_utils import plots

LOG = [{"step": i, "loss": 1 / i, "samples": ["text"]} for i in range(1, 7)]


@pytest.fixture
def shown(monkeypatch):
    """What a learner sees: ("new" or "update", title, steps drawn)."""
    found = []

    class Handle:
        def update(self, figure):
            note("update", figure)

    def note(how, figure):
        found.append((how, figure.get_suptitle(), len(figure.axes[0].lines[0].get_xdata())))

    def display(figure, display_id):
        assert display_id
        note("new", figure)
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(plots, "os", SimpleNamespace(environ={}))  # pytest sets its variable in each phase
    return found


def play(live, log, clock, seconds, start=1):
    for n in range(start, len(log) + 1):
        clock[0] += seconds
        live(log[:n])


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(plots.time, "monotonic", lambda: now[0])
    return now


def test_one_display_is_redrawn_with_the_time_left(shown, clock):
    play(plots.LivePlot(plots.loss_curve, total=6), LOG, clock, seconds=90)
    assert shown == [
        ("new", "step 2 of 6, about 6 min left", 2),
        ("update", "step 4 of 6, about 3 min left", 4),
        ("update", "step 6 of 6", 6),
    ]
    assert not plt.get_fignums(), "a figure left open would be shown a second time"


def test_the_title_says_what_is_trained(shown, clock):
    play(plots.LivePlot(plots.loss_curve, total=6, every=6, name="DPO"), LOG, clock, seconds=9)
    assert shown == [("new", "DPO: step 6 of 6", 6)]


def test_after_a_resume_the_whole_history_is_there_and_the_pace_is_that_of_today(shown, clock):
    play(plots.LivePlot(plots.loss_curve, total=6), LOG, clock, seconds=20, start=4)
    assert shown == [("new", "step 4 of 6", 4), ("update", "step 6 of 6", 6)]
    shown.clear()
    play(plots.LivePlot(plots.loss_curve, total=6, every=1), LOG[:5], clock, seconds=20, start=4)
    assert shown[-1] == ("update", "step 5 of 6, less than a minute left", 5)


def test_the_last_drawing_and_its_numbers_are_kept(shown, tmp_path):
    live = plots.LivePlot(plots.loss_curve, total=6, every=4, folder=tmp_path / "sft")
    live(LOG[:5])
    assert not (tmp_path / "sft" / "figures").exists()
    live(LOG)
    kept = pd.read_csv(tmp_path / "sft" / "figures" / "training.csv")
    assert list(kept.columns) == ["step", "loss"]
    assert kept["loss"].tolist() == pytest.approx([line["loss"] for line in LOG])
    assert (tmp_path / "sft" / "figures" / "training.png").read_bytes().startswith(b"\x89PNG")


def test_cleared_it_leaves_nothing_to_look_at(shown, monkeypatch):
    live, left = plots.LivePlot(plots.loss_curve, total=6), []
    live.clear()  # before anything was drawn
    live(LOG)
    monkeypatch.setattr(live.handle, "update", left.append)
    live.clear()
    assert [page.data for page in left] == [""]


def test_under_tests_nothing_is_shown(shown, tmp_path):
    plots.os.environ["PYTEST_CURRENT_TEST"] = "here"
    plots.LivePlot(plots.loss_curve, total=6, folder=tmp_path)(LOG)
    assert not shown
    assert (tmp_path / "figures" / "training.csv").exists()


def test_ppos_panel_has_reward_kl_and_length(shown, clock):
    keys = ("reward", "reward_std", "kl", "length", "finished", "clip_share", "explained_variance")
    log = [{"step": i, **dict.fromkeys(keys, 0.5)} for i in range(1, 3)]
    plots.LivePlot(plots.ppo_dashboard, total=4)(log)
    assert [how for how, _, _ in shown] == ["new"]
    figure = plots.ppo_dashboard(log)
    assert {"reward", "KL to the SFT model", "length"} <= {ax.get_title() for ax in figure.axes}
    plt.close(figure)


def test_of_the_judge_the_accuracy_is_drawn():
    figure = plots.reward_training([{"step": i, "loss": 9.0, "accuracy": i / 4} for i in (1, 2, 3)])
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.25, 0.5, 0.75]
    plt.close(figure)


def test_a_critic_far_below_nothing_does_not_stretch_its_axis():
    keys = ("reward", "reward_std", "kl", "length", "finished", "clip_share")
    log = [{"step": i, **dict.fromkeys(keys, 0.5), "explained_variance": -(20.0**i)} for i in range(1, 4)]
    figure = plots.ppo_dashboard(log)
    (ax,) = (ax for ax in figure.axes if ax.get_title() == "explained variance")
    assert ax.get_ylim()[0] == -1.05
    plt.close(figure)
