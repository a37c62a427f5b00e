"""Figures and tables take tensors from wherever they are: the same picture as from plain numbers."""

from __future__ import annotations

import inspect
import io
import math
import re

import fakegpu
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from sawyer_utils import plots, show
from sawyer_utils.chapters import drawings

GPU = fakegpu.install()

STEPS = [1.0, 2.0, 3.0, 4.0]
KEYS = ("reward", "kl", "length", "finished", "clip_share", "explained_variance", "loss", "accuracy")
LOG = [
    {"step": i, "reward_std": 1.0, "reward_tone": i / 2, **dict.fromkeys(KEYS, i / 4)} for i in range(1, 9)
]
LOOKS = [
    {"kl": i / 2, "proxy": i / 4, "gold": i / 8, "gold_low": i / 16, "gold_high": i / 4, "step": i}
    for i in range(4)
]
TABLE = {"measure": ["a", "b"], "verdict": ["better", "changed"]}
TABLE |= {"difference": [0.5, 0.25], "low": [0.125, -0.5], "high": [1.0, 1.0], "scale": [1.0, 2.0]}
BENCH = {"benchmark": ["b"] * 2, "stage": ["sft", "ppo"], "n": [9, 9], "chance": [0.25] * 2}
BENCH |= {"accuracy": [0.5, 0.75], "low": [0.25, 0.5], "high": [0.75, 1.0]}
BEST = {"n": [1, 2], "kl": [0.0, 0.5], "gold": [0.0, 0.5], "gold_low": [-0.5, 0.25], "gold_high": [0.5, 1.0]}
# Every function that draws numbers, with arguments for it.
FIGURES = {
    "bars_with_intervals": ([["a", "b"], [0.5, 0.75], [0.25, 0.5], [0.75, 1.0], [4, 4]], {"chance": 0.5}),
    "benchmark_bars": ([pd.DataFrame(BENCH)], {}),
    "calibration": ([[0.5, 0.75], [0.5, 1.0], [3, 4], [0.25, 0.5], [0.75, 1.0]], {}),
    "change_against_length": ([STEPS, [0.5, 0.25, 0.75, 1.0], 0.5, 0.25], {}),
    "differences": ([pd.DataFrame(TABLE)], {}),
    "frontier": ([pd.DataFrame(BEST), pd.DataFrame({**BEST, "step": [1, 2]}), {"gold": "gold"}], {}),
    "loss_curve": ([LOG], {"levels": [("before", 1.5), ("after", 0.5)]}),
    "overoptimisation": ([LOOKS], {}),
    "ppo_dashboard": ([LOG], {}),
    "ppo_overlay": ([{"a": LOG, "b": LOG}], {}),
    "preference_loss": ([[0.0, 1.0, 2.0]], {}),
    "probe_lines": ([{"a": STEPS, "b": STEPS[::-1]}, "x"], {}),
    "reward_histograms": ([{"sft": STEPS, "ppo": [2.0, 3.0, 4.0, 6.0]}], {}),
    "reward_by_batch": ([LOG], {"steps": 2}),
    "reward_parts": ([{"a run": LOG}], {}),
    "reward_training": ([LOG], {}),
    "score_changes": ([["a", "b"], [1.0, -1.0], [0.5, -2.0], [2.0, -0.5], 9], {}),
    "score_groups": ([{"a": STEPS, "own": [2.0, 3.0]}], {"own": "own"}),
}
WITHOUT_NUMBERS = {"four_stages", "rl_loop", "score_by_length", "three_answers", "three_elements", "save"}


def on_device(value):
    """Every number and every list or matrix of numbers inside ``value`` as a tensor of the device, with a
    gradient where it can have one; a column of a table as a column of such tensors."""
    if type(value) is int:
        return torch.tensor(value, device=GPU)
    if type(value) is float or (type(value) is list and numeric(value)):
        return leaf(value)
    if type(value) in (list, tuple):
        return type(value)(map(on_device, value))
    if type(value) is dict:
        return {key: on_device(part) for key, part in value.items()}
    if isinstance(value, pd.DataFrame):
        columns = {k: of.map(leaf).astype(object) for k, of in value.items() if of.dtype == np.float64}
        return value.assign(**columns)
    return value


def numeric(rows: list) -> bool:
    kinds = {type(x) for x in rows}
    return kinds == {float} or (kinds == {list} and all(map(numeric, rows)))


def leaf(value) -> torch.Tensor:
    # The numbers here are exact in bfloat16, which NumPy does not have.
    return torch.tensor(value, dtype=torch.bfloat16).to(GPU).requires_grad_()


def picture(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="raw", dpi=40)
    plt.close(figure)
    return buffer.getvalue()


def drawing() -> dict:
    public = [pair for module in (plots, drawings) for pair in inspect.getmembers(module, inspect.isfunction)]
    return {name: f for name, f in public if f.__annotations__.get("return") == "Figure"}


def test_every_figure_is_here():
    assert set(drawing()) == set(FIGURES) | WITHOUT_NUMBERS


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_device_tensors_is_that_of_the_numbers(name):
    args, options = FIGURES[name]
    draw = drawing()[name]
    expected = picture(draw(*args, **options))
    assert picture(draw(*on_device(args), **on_device(options))) == expected


def test_the_numbers_beside_a_figure_may_be_tensors(tmp_path):
    figure, _ = plt.subplots()
    plots.save(figure, tmp_path, "f", {"x": leaf([1.0, 2.0]), "y": [leaf(3.0)] * 2})
    assert (tmp_path / "f.csv").read_text() == "x,y\n1.0,3.0\n2.0,3.0\n"


def test_what_is_no_tensor_stays_what_it_is():
    for value in ("text", None, 3, math.pi, [1, "a"], (1, 2), {"a": [1]}, np.arange(3)):
        found = plots.on_host(value)
        assert type(found) is type(value)
        assert np.array_equal(found, value)
    half = torch.tensor([1.5], dtype=torch.float16, device=GPU)
    assert plots.on_host(half).dtype == np.float32
    assert plots.on_host(half.double()).dtype == np.float64
    assert plots.on_host(half > 1).dtype == np.bool_


def test_shaded_tokens_and_tables_take_tensors():
    values, graded = torch.tensor([0.5, -0.25], device=GPU), torch.tensor([True, False], device=GPU)
    before = fakegpu.transfers.total()
    shaded = show.shaded_tokens([(["a", "b"], values)])
    assert fakegpu.transfers.total() == before + 1, "once a line, not once a token"
    assert shaded.data == show.shaded_tokens([(["a", "b"], [0.5, -0.25])]).data
    assert show.graded_tokens(["a", "b"], graded).data == show.graded_tokens(["a", "b"], [True, False]).data
    assert re.findall("border-bottom:([02])px", show.graded_tokens(["a", "b"], graded).data) == ["2", "0"]
    notes = {"SFT": values}
    table = show.side_by_side(["q", "r"], {"SFT": ["x", "y"]}, notes)
    assert table.data == show.side_by_side(["q", "r"], {"SFT": ["x", "y"]}, {"SFT": [0.5, -0.25]}).data
