"""The questionnaires: text in the sources, widget by its callbacks, and each source that is named."""

from __future__ import annotations

import jupytext
import pytest

from sawyer_utils.classroom import quiz
from sawyer_utils.classroom.quiz import Quiz, quiz_text
from sawyer_utils.course import notebooks as course
from sawyer_utils.course import quiz_texts

NOTEBOOKS = sorted({"01", "02", "03", "04", *quiz.known()})


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_five_questions_one_right_choice_and_a_reason_for_each(notebook):
    questions = quiz.load(notebook)
    assert len(questions) == 5
    for one in questions:
        assert set(one) == {"question", "cell", "choices"}
        assert 3 <= len(one["choices"]) <= 4
        assert [choice["right"] for choice in one["choices"]].count(True) == 1
        assert all(set(choice) == {"text", "right", "why"} for choice in one["choices"])
        reasons = {choice["why"] for choice in one["choices"]}
        assert len(reasons) == len(one["choices"])
        assert min(map(len, reasons)) > 20
    places = [[choice["right"] for choice in one["choices"]].index(True) for one in questions]
    assert len(set(places)) > 1, "the right one always stands in the same place"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_source_has_the_text_its_sections_and_the_widget_below(notebook):
    [name] = [name for name in course.FOLDERS if name.startswith(notebook)]
    cells = jupytext.read(course.source_path(name)).cells
    [i] = [i for i, cell in enumerate(cells) if cell.source.startswith(quiz.HEADING)]
    assert cells[i].source == f"{quiz.HEADING}\n\n{quiz_text(notebook)}", "run course.quiz_texts"
    assert cells[i + 1].metadata["tags"] == ["quiz"]
    assert cells[i + 1].source.endswith(f'quiz("{notebook}")')
    lines = {line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()}
    for one in quiz.load(notebook):
        assert {f"## {one['cell']}", f"### {one['cell']}"} & lines, one["cell"]


def test_unknown_quizzes_name_the_known_ones():
    with pytest.raises(KeyError, match="01, 02"):
        quiz.quiz("99")


def test_the_text_folds_and_names_its_source(monkeypatch):
    monkeypatch.setattr(quiz, "load", lambda notebook: TOY)
    assert quiz_text("99").startswith(
        "**1. Is `x` < y?**\n\n- A: No.\n- B: Yes.\n- C: Both.\n\n<details><summary>Answer</summary>\n\n"
        "**B** is right. Because.\n\nNot A. Never.\n\nNot C. It cannot be.\n\n"
        "It stands in “1. Here”.\n\n</details>"
    )


def test_rewriting_puts_the_text_under_its_heading_and_nowhere_else(monkeypatch, tmp_path):
    source = tmp_path / "01_sft.py"
    source.write_text(
        "# %% [markdown]\n# ## A\n\n# %% [markdown]\n# ## Five questions\n# old\n\n# %%\nx = 1\n"
    )
    monkeypatch.setattr(
        quiz_texts, "source_path", lambda name: source if name == "01_sft" else tmp_path / "none"
    )
    monkeypatch.setattr(quiz_texts, "known", lambda: ["01"])
    assert quiz_texts.rewrite() == [source]
    first, _, rest = source.read_text().partition("# ## Five questions\n#\n")
    assert first == "# %% [markdown]\n# ## A\n\n# %% [markdown]\n"
    assert rest.startswith("# **1. Compare the two answers")
    assert rest.endswith("# </details>\n\n# %%\nx = 1\n")
    assert quiz_texts.rewrite() == []


# --- the widget ---------------------------------------------------------------------------------

TOY = [
    {
        "question": question,
        "cell": cell,
        "choices": [{"text": t, "right": i == right, "why": why} for i, (t, why) in enumerate(choices)],
    }
    for question, cell, right, choices in (
        ("Is `x` < y?", "1. Here", 1, [("No.", "Never."), ("Yes.", "Because."), ("Both.", "It cannot be.")]),
        (
            "And now?",
            "2. There",
            0,
            [("One.", "One it is."), ("Two.", "Too many."), ("Three.", "Far too many.")],
        ),
    )
]


def click(panel: Quiz, i: int) -> str:
    """Choose; what the choice's line says then."""
    panel.choices.children[i].children[0].click()
    return panel.choices.children[i].children[1].value


@pytest.fixture
def panel():
    return Quiz(TOY)


def test_it_asks_without_telling_marks_explains_and_counts_the_first_try(panel):
    assert "1 of 2: Is <code>x</code> &lt; y?" in panel.question.value
    assert [row.children[0].description for row in panel.choices.children] == ["A", "B", "C"]
    shown = "".join(row.children[1].value for row in panel.choices.children)
    assert "Yes." in shown
    assert not [why for why in ("Because", "Never", "Right") if why in shown]
    assert (panel.back_button.disabled, panel.next_button.disabled) == (True, False)
    assert "Not this one.</b> Never." in click(panel, 0)
    assert "Because" not in panel.choices.children[1].children[1].value
    assert panel.source.value == ""
    assert "Right at the first try: 0 of 1 answered." in panel.status.value
    assert "Right.</b> Because." in click(panel, 1)
    assert "It stands in “1. Here”." in panel.source.value
    assert "0 of 1" in panel.status.value
    assert panel.first_tries() == [False, None]
    panel.next_button.click()
    assert "2 of 2: And now?" in panel.question.value
    assert "Right.</b> One it is." in click(panel, 0)
    assert "1 of 2" in panel.status.value
    click(panel, 0)
    assert panel.first_tries() == [False, True]
    assert (panel.back_button.disabled, panel.next_button.disabled) == (False, True)
    panel.back_button.click()
    assert "Never." in panel.choices.children[0].children[1].value, "what was answered is still there"
    assert panel.tried == [[0, 1], [0]]
