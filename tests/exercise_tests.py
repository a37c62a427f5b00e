"""What every exercise must survive: its own stub and solution, named mistakes, and nonsense.

A test module subclasses :class:`Exercises` with the notebook, the names that its earlier cells leave
behind, for each exercise at least two wrong answers by the name of the mistake, and right ones that are
written in an unusual way.
"""

from __future__ import annotations

import ast
import functools
import re
import time
from typing import ClassVar

import jupytext
import pytest
import torch

from sawyer_utils.classroom import checks
from sawyer_utils.course import notebooks as course


def fails(*args):
    raise ValueError("two\nlines")


NONSENSE = {
    "text": "text",
    "an empty list": [],
    "an object": object(),
    "true": True,
    "not a number": float("nan"),
    "a tensor of another shape": torch.zeros(7, 3, 2),
    "a tensor of nan": torch.full((4,), torch.nan),
    "a dictionary": {"a": 1},
    "a function that fails": fails,
    "a function without arguments": lambda: 1.0,
    "a function that gives text": lambda *args: "text",
    "a function that gives another shape": lambda *args: torch.zeros(7, 3, 2),
    "a function that gives nan": lambda *args: torch.tensor(torch.nan),
    "a function that gives a dictionary": lambda *args: {"a": 1},
}


@functools.cache
def exercise_cells(notebook: str, tag: str) -> dict[str, str]:
    """Exercise id -> source of the one cell with this tag ("exercise" or "solution") that checks it."""
    found = {}
    for cell in jupytext.read(course.source_path(notebook)).cells:
        if tag in cell.metadata.get("tags", []):
            [id] = re.findall(r'check\("(\d\d\.\d+)"', cell.source)
            assert id not in found, f"{id} has two cells tagged {tag}"
            found[id] = cell.source
    return found


def run_cell(source: str, names: dict) -> tuple[object, checks.Result]:
    """The answer that a cell hands to ``check``, and what ``check`` said."""
    caught = []

    def spy(id, answer):
        caught.append((answer, checks.check(id, answer)))
        return caught[-1][1]

    names["check"] = spy
    exec(compile(source, "<cell>", "exec"), names)
    [one] = caught
    return one


def numbers_in(answer) -> list[float]:
    """Every number in an answer, however nested."""
    if isinstance(answer, dict):
        return numbers_in(list(answer.values()))
    if isinstance(answer, (list, tuple)):
        return [x for part in answer for x in numbers_in(part)]
    return [float(answer)] if isinstance(answer, (int, float)) and not isinstance(answer, bool) else []


def says(text: str, value: float) -> bool:
    """Whether the text holds the number, at any rounding to two decimals or more, or exactly."""
    spoken = [float(x.replace(",", "")) for x in re.findall(r"-?\d[\d,]*\.?\d*", text.replace("−", "-"))]
    return any(abs(x - value) < 0.006 or (value != 0 and abs(x / value - 1) < 1e-3) for x in spoken)


class Exercises:
    """Subclass as ``TestX``."""

    NOTEBOOK: str
    NAMES: ClassVar[dict] = {}
    WRONG: ClassVar[dict[str, dict[str, object]]]
    RIGHT: ClassVar[dict[str, dict[str, object]]]  # besides the notebook's solution
    LEAST: ClassVar[int] = 3  # exercises

    @classmethod
    def pytest_generate_tests(cls, metafunc):
        if "mistake" in metafunc.fixturenames:
            cases = [(id, name) for id, wrong in cls.WRONG.items() for name in wrong]
            metafunc.parametrize(("id", "mistake"), cases)
        elif "unusual" in metafunc.fixturenames:
            cases = [(id, name) for id, right in cls.RIGHT.items() for name in right]
            metafunc.parametrize(("id", "unusual"), cases)
        elif "nonsense" in metafunc.fixturenames:
            metafunc.parametrize(("id", "nonsense"), [(id, name) for id in cls.WRONG for name in NONSENSE])
        elif "id" in metafunc.fixturenames:
            metafunc.parametrize("id", list(cls.WRONG))

    @pytest.fixture
    def answer(self, id):
        """The solution that stands in the notebook's source, run after its stub."""
        names = {"torch": torch, **self.NAMES}
        run_cell(exercise_cells(self.NOTEBOOK, "exercise")[id], names)
        return run_cell(exercise_cells(self.NOTEBOOK, "solution")[id], names)

    def test_each_exercise_has_a_stub_a_solution_a_judge_and_two_mistakes(self):
        ids = list(self.WRONG)
        assert len(ids) >= self.LEAST
        assert list(exercise_cells(self.NOTEBOOK, "exercise")) == ids
        assert list(exercise_cells(self.NOTEBOOK, "solution")) == ids
        assert list(checks.exercises(self.NOTEBOOK[:2])) == ids
        assert all(len(wrong) >= 2 for wrong in self.WRONG.values())
        assert list(self.RIGHT) == ids

    def test_the_marks_stand_in_cells_with_these_tags_alone(self):
        source = course.source_path(self.NOTEBOOK).read_text(encoding="utf-8")
        for mark in ("### BEGIN SOLUTION", "### END SOLUTION"):
            assert source.count(mark) == 2 * len(self.WRONG)

    def test_the_cells_bear_nbgraders_marks(self, id):
        for tag in ("exercise", "solution"):
            source = exercise_cells(self.NOTEBOOK, tag)[id]
            assert source.count("### BEGIN SOLUTION") == source.count("### END SOLUTION") == 1
            assert source.index("### BEGIN SOLUTION") < source.index("### END SOLUTION")
            assert "check(" in source[source.index("### END SOLUTION") :]
            ast.parse(re.sub(r"( *)### BEGIN SOLUTION.*### END SOLUTION", r"\1pass", source, flags=re.S))

    def test_the_stub_is_not_attempted(self, id):
        names = {"torch": torch, **self.NAMES}
        _, result = run_cell(exercise_cells(self.NOTEBOOK, "exercise")[id], names)
        assert result.right is None
        assert "not attempted yet" in repr(result)

    def test_the_solution_is_right_and_checked_quickly(self, id, answer):
        value, result = answer
        assert result.right is True
        assert result.said == checks.exercises(self.NOTEBOOK[:2])[id].lesson
        for _ in range(5):  # on other inputs each time
            start = time.monotonic()
            assert checks.check(id, value).right is True
            assert time.monotonic() - start < 2

    def test_a_mistake_is_refused(self, id, mistake):
        for _ in range(5):
            result = checks.check(id, self.WRONG[id][mistake])
            assert result.right is False, mistake
            assert_is_a_sentence(result.said)

    def test_an_unusual_right_answer_is_right(self, id, unusual):
        for _ in range(5):
            result = checks.check(id, self.RIGHT[id][unusual])
            assert result.right is True, (unusual, result.said)

    def test_nonsense_is_a_wrong_answer(self, id, nonsense):
        result = checks.check(id, NONSENSE[nonsense])
        assert result.right is False
        assert_is_a_sentence(result.said)
        assert checks.check(id, None).right is None

    def test_nothing_gives_a_number_away(self, id, answer):
        one = checks.exercises(self.NOTEBOOK[:2])[id]
        said = [checks.check(id, wrong).said for wrong in [*self.WRONG[id].values(), *NONSENSE.values()]]
        for value in numbers_in(answer[0]):
            for text in [*one.hints, *said]:
                assert not says(text, value), text
        if isinstance(answer[0], str):
            assert not [hint for hint in one.hints if answer[0].casefold() in hint.casefold()]


def assert_is_a_sentence(text: str) -> None:
    assert 10 < len(text) < 300
    assert text[0].isupper()
    assert text[-1] in ".?"
    assert "\n" not in text
    assert "Traceback" not in text
