"""check(): not attempted, wrong with one hint at a time, or right; never a traceback."""

from __future__ import annotations

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from sawyer_utils.classroom import checks
from sawyer_utils.classroom.checks import Wrong, check, choice, close, number


@pytest.fixture
def toys(monkeypatch):
    """Notebook "99" with three exercises, and a session without attempts."""
    monkeypatch.setattr(checks, "_exercises", {})
    monkeypatch.setattr(checks, "_wrong", checks.Counter())
    monkeypatch.setattr(checks, "attempted", {})
    monkeypatch.setitem(checks.MODULES, "99", "toy_exercises")
    monkeypatch.setitem(sys.modules, "toy_exercises", types.ModuleType("toy_exercises"))

    @checks.exercise("99.1", hints=("first", "second", "third"), lesson="Sums add.")
    def _(answer):
        return None if abs(number(answer) - 2.5) < 0.01 else "It is another number."

    @checks.exercise("99.2", hints=("Think of <b>tags</b>.",), lesson="Doubling is linear.")
    def _(answer):
        x = torch.randn(4, generator=checks.fresh())
        return None if close(answer(x), 2 * x) else "f(x) is not twice x."

    @checks.exercise("99.3", hints=("Look.",), lesson="Seen.")
    def _(answer):
        return None if choice(answer, ["Red", "blue"]) == "Red" else "Not that one."


def test_a_number_right_wrong_and_not_attempted(toys):
    assert check("99.1", None).right is None
    assert check("99.1", 2.505).right is True
    assert check("99.1", torch.tensor(2.5)).right is True
    assert check("99.1", np.array([2.5])).right is True
    assert repr(check("99.1", 2.5)) == "99.1 right. Sums add."
    assert repr(check("99.1", None)) == "99.1 not attempted yet."


def test_hints_come_one_at_a_time_and_the_last_stays(toys):
    check("99.1", None)
    check("99.3", "blue")  # counted on its own
    assert [check("99.1", 1).hint for _ in range(5)] == ["first", "second", "third", "third", "third"]
    assert repr(check("99.1", 1)) == "99.1 not right yet. It is another number.\nHint: third"


def test_a_right_answer_and_none_use_up_no_hint(toys):
    for answer in (2.5, None, 2.5):
        assert check("99.1", answer).hint == ""
    assert check("99.1", 1).hint == "first"


def test_a_function_is_tried_on_copies(toys):
    def doubles_in_place(x):
        return x.mul_(2)

    assert check("99.2", doubles_in_place).right is True
    assert check("99.2", lambda x: x + x).right is True
    assert check("99.2", lambda x: 3 * x).said == "f(x) is not twice x."


@pytest.mark.parametrize("stub", [lambda *args: None, lambda *args: (None, None), [None], {"a": None}])
def test_a_stub_is_not_attempted(toys, stub):
    assert check("99.2", stub).right is None


def test_a_function_that_forgot_its_return_is_told_so(toys):
    def forgot(x):
        x * 2

    result = check("99.2", forgot)
    assert (result.right, result.said, result.hint) == (
        False,
        "The function returns None.",
        "Think of <b>tags</b>.",
    )


def test_a_function_that_fails_is_told_so_in_one_line(toys):
    def fails(x):
        raise ValueError("no\nsecond line")

    assert check("99.2", fails).said == "Your function stopped with ValueError: no."
    assert "TypeError" in check("99.2", lambda: 1).said


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("text", "An answer of another kind is asked for; this is text."),
        ([], "An answer of another kind is asked for; this is a list."),
        (torch.zeros(2, 3), "An answer of another kind is asked for; this is an array of shape (2, 3)."),
        (lambda x: "text", "Numbers were expected; this is text."),
        (lambda x: x[:2], "The result has the shape (2,); expected was (4,)."),
        (lambda x: x / 0, "The result holds a number that is not finite."),
    ],
)
def test_another_kind_of_answer_is_named(toys, answer, said):
    result = check("99.2", answer)
    assert (result.right, result.said) == (False, said)


@pytest.mark.parametrize(
    "answer", ["2.5", True, [2.5, 2.5], torch.zeros(3), float("nan"), float("inf"), object()]
)
def test_what_is_no_number_is_refused(answer):
    with pytest.raises(Wrong, match="number"):
        number(answer)


def test_close_compares_entry_by_entry():
    assert close([1.0, 2.0], torch.tensor([1.0, 2.00001]))
    assert not close([1.0, 2.0], torch.tensor([1.0, 2.01]))
    assert close(torch.tensor([-torch.inf, 1.0]), torch.tensor([-torch.inf, 1.0]))
    with pytest.raises(Wrong, match="not finite"):
        close([float("nan")], torch.ones(1))


@pytest.mark.parametrize(
    ("value", "other", "said"),
    [(0.989, 0.99, "0.989"), (0.5, 0.99, "0.50"), (-1e-4, 0, "-0.0001"), (2, 2, "2.00")],
)
def test_a_number_is_never_rounded_to_the_one_that_it_is_not(value, other, said):
    assert checks.unlike(value, other) == said


def test_a_choice_may_be_written_loosely(toys):
    assert check("99.3", "  red ").right is True
    assert check("99.3", "blue").said == "Not that one."
    assert check("99.3", "green").said == "Choose one of: Red, blue."
    assert check("99.3", 3).said == "Choose one of: Red, blue."


def test_unknown_ids_name_the_known_ones(toys):
    with pytest.raises(KeyError, match=r"99\.1, 99\.2, 99\.3"):
        check("99.9", 1)
    with pytest.raises(KeyError, match="01, 02"):
        check("sums", 1)
    with pytest.raises(ValueError, match="taken"):
        checks.exercise("99.1", hints=("x",), lesson="y")


def test_html_says_in_words_what_its_colour_says(toys):
    wrong = check("99.2", lambda x: x)._repr_html_()
    assert "<b>99.2 not right yet.</b>" in wrong
    assert "Think of &lt;b&gt;tags&lt;/b&gt;." in wrong
    pages = [check("99.1", answer)._repr_html_() for answer in (None, 1, 2.5)]
    assert [words in page for words, page in zip(("not attempted yet", "not right yet", "right"), pages)] == [
        True
    ] * 3
    assert len({page.split("solid ")[1][:7] for page in pages}) == 3


def test_fresh_numbers_differ_and_leave_the_notebooks_alone():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    assert not torch.equal(torch.rand(9, generator=checks.fresh()), torch.rand(9, generator=checks.fresh()))
    assert torch.equal(torch.rand(2), expected)


def test_importing_checks_imports_no_torch():
    code = "import sys, sawyer_utils.classroom.checks; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
