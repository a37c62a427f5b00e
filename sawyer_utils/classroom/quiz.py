"""Five questions a notebook: as text that folds, and as a widget. One source: ``data/quiz_NN.json``.

A question has three or four choices, one of them right, a reason for each, and ``cell``: the heading of
the section that answers it. After a change of the data, ``python -m sawyer_utils.course.quiz_texts``
writes them into the notebooks' sources; a test holds the two together.
"""

from __future__ import annotations

import html
import json
import re

import ipywidgets as widgets

from sawyer_utils.classroom.widgets import Panel, _button, _row, _tight
from sawyer_utils.plumbing.sources import EMBEDDED

HEADING = "## Five questions"
LETTERS = "ABCD"
_WIDE = widgets.Layout(width="98%")  # with the margins, all of it
_RIGHT, _WRONG = "#0072B2", "#B00020"  # beside the words "right" and "not this one"
shown: dict[str, Quiz] = {}  # the quizzes of this session by their notebooks


def load(notebook: str) -> list[dict]:
    """The questions of notebook "01", "02", …: ``question``, ``cell``, and ``choices``, each with ``text``,
    ``right`` and ``why``.

    Raises:
        KeyError: for a notebook without a quiz.
    """
    path = EMBEDDED / f"quiz_{notebook}.json"
    if not path.is_file():
        raise KeyError(f"No quiz for {notebook!r}, only for {', '.join(known())}.")
    return json.loads(path.read_text(encoding="utf-8"))


def known() -> list[str]:
    """The notebooks that have a quiz."""
    return sorted(path.stem.removeprefix("quiz_") for path in EMBEDDED.glob("quiz_*.json"))


def quiz_text(notebook: str) -> str:
    """The questions in Markdown, with answers that fold. The static twin of :class:`Quiz`."""
    return "\n\n".join(_text(i, asked) for i, asked in enumerate(load(notebook), 1))


def _text(number: int, asked: dict) -> str:
    choices = list(zip(LETTERS, asked["choices"]))
    lines = [f"**{number}. {asked['question']}**", ""]
    lines += [f"- {letter}: {one['text']}" for letter, one in choices]
    lines += ["", "<details><summary>Answer</summary>"]
    for letter, one in sorted(choices, key=lambda pair: not pair[1]["right"]):
        lines += [
            "",
            f"**{letter}** is right. {one['why']}" if one["right"] else f"Not {letter}. {one['why']}",
        ]
    return "\n".join([*lines, "", f"It stands in “{asked['cell']}”.", "", "</details>"])


class Quiz(Panel):
    """One question at a time: asks, marks, explains each choice you try, counts the first tries."""

    def __init__(self, questions: list[dict]):
        self.questions, self.at = questions, 0
        self.tried: list[list[int]] = [[] for _ in questions]  # choices, in the order of the clicks
        self.question, self.choices = widgets.HTML(layout=_WIDE), widgets.VBox([], layout=_WIDE)
        self.source = widgets.HTML(layout=_WIDE)
        self.back_button = _button("Back", lambda: self.go(-1))
        self.next_button = _button("Next question", lambda: self.go(+1))
        children = [self.question, self.choices, self.source, _row([self.back_button, self.next_button])]
        super().__init__("Five questions", children)
        self.show()

    def go(self, by: int) -> None:
        self.at = min(max(self.at + by, 0), len(self.questions) - 1)
        self.show()

    def choose(self, i: int) -> None:
        """Mark a choice; only the first of each question counts."""
        if i not in self.tried[self.at]:
            self.tried[self.at].append(i)
        self.show()

    def first_tries(self) -> list[bool | None]:
        """Of each question: was the first choice the right one? None as long as there is none."""
        asked = zip(self.questions, self.tried, strict=True)
        return [one["choices"][tried[0]]["right"] if tried else None for one, tried in asked]

    def show(self) -> None:
        one, tried = self.questions[self.at], self.tried[self.at]
        place = f"{self.at + 1} of {len(self.questions)}"
        self.question.value = _tight(f"<b>{place}: {_rich(one['question'])}</b>")
        self.choices.children = [self._choice(i, choice) for i, choice in enumerate(one["choices"])]
        found = any(one["choices"][i]["right"] for i in tried)
        self.source.value = _tight(f"It stands in “{_rich(one['cell'])}”." if found else "")
        self.back_button.disabled = self.at == 0
        self.next_button.disabled = self.at == len(self.questions) - 1
        answered = [right for right in self.first_tries() if right is not None]
        self.say(f"Right at the first try: {sum(answered)} of {len(answered)} answered." if answered else "")

    def _choice(self, i: int, choice: dict) -> widgets.HBox:
        button = _button(LETTERS[i], lambda: self.choose(i), tooltip=f"Choose {LETTERS[i]}")
        button.layout = widgets.Layout(width="40px", flex="0 0 auto")
        said = _rich(choice["text"])
        if i in self.tried[self.at]:
            word, colour = ("Right.", _RIGHT) if choice["right"] else ("Not this one.", _WRONG)
            said += f'<div><b style="color:{colour}">{word}</b> {_rich(choice["why"])}</div>'
        text = widgets.HTML(_tight(said), layout=widgets.Layout(flex="1 1 0%"))
        return widgets.HBox([button, text], layout=_WIDE)


def _rich(text: str) -> str:
    """The little Markdown that the questions use, `code`, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def quiz(notebook: str) -> Quiz:
    """The quiz of notebook "01", "02", … as a widget.

    Raises:
        KeyError: for a notebook without a quiz.
    """
    panel, before = Quiz(load(notebook)), shown.get(notebook)
    if before and before.questions == panel.questions:  # the cell runs again: what was answered stays
        panel.tried = before.tried
        panel.show()
    shown[notebook] = panel
    return panel
