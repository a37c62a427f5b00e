"""Exercises that check themselves: ``check("01.2", answer)``.

A check tests properties on fresh inputs, says what is observably wrong, gives one hint at a time, and
never gives the answer away. The exercises of a notebook live in a module of their own, loaded when the
first of them is checked.

Writing one: a judge gets the answer and returns None if it is right, else one sentence. A function that a
learner wrote arrives wrapped: what it is given are copies, and what it raises becomes a sentence. For
everything else that can be wrong with an answer there are :func:`number`, :func:`close`, :func:`choice` and
:func:`mistake`.
"""

from __future__ import annotations

import copy
import html
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

# In the order of the notebooks, with whose numbers those of the exercises begin.
_NAMES = ("sft", "reward", "ppo", "eval", "versus", "hacking", "news", "domain", "checkable", "feedback")
MODULES = {f"{n:02d}": f"sawyer_utils.classroom.exercises.{name}" for n, name in enumerate(_NAMES, 1)}
_COLOURS = {True: "#0072B2", False: "#B00020", None: "#767676"}  # beside words that say the same


class Wrong(Exception):
    """An answer is wrong; the message is the one sentence that the learner reads."""


@dataclass(frozen=True)
class Exercise:
    """A judge ``answer -> None or a sentence``, its hints in order, and what to take from it."""

    judge: Callable[[object], str | None]
    hints: tuple[str, ...]
    lesson: str


@dataclass(frozen=True)
class Result:
    """What :func:`check` found. ``right`` is None as long as there is no answer."""

    id: str
    right: bool | None
    said: str
    hint: str = ""

    @property
    def title(self) -> str:
        words = {True: "right", False: "not right yet", None: "not attempted yet"}
        return f"{self.id} {words[self.right]}"

    def __repr__(self) -> str:
        parts = [f"{self.title}. {self.said}".strip(), f"Hint: {self.hint}" if self.hint else ""]
        return "\n".join(filter(None, parts))

    def _repr_html_(self) -> str:
        hint = f"<div><i>Hint:</i> {html.escape(self.hint)}</div>" if self.hint else ""
        said = f" {html.escape(self.said)}" if self.said else ""
        return (
            f'<div style="border-left:4px solid {_COLOURS[self.right]};padding:4px 10px;line-height:1.5">'
            f"<b>{html.escape(self.title)}.</b>{said}{hint}</div>"
        )


_exercises: dict[str, Exercise] = {}
_wrong: Counter[str] = Counter()  # wrong attempts in this session
attempted: dict[str, bool] = {}  # of this session: whether the exercise was right once


def exercise(id: str, hints: tuple[str, ...], lesson: str):
    """Register the decorated judge as exercise ``id``, such as "01.2".

    Raises:
        ValueError: for an id that is taken, or without hints or lesson.
    """
    if id in _exercises or not hints or not lesson:
        raise ValueError(f"Exercise {id}: the id is taken, or hints or lesson are missing.")

    def register(judge):
        _exercises[id] = Exercise(judge, hints, lesson)
        return judge

    return register


def exercises(notebook: str) -> dict[str, Exercise]:
    """The exercises of notebook "01", "02", … by their ids.

    Raises:
        KeyError: for a notebook that has none.
    """
    if notebook not in MODULES:
        raise KeyError(f"No exercises for notebook {notebook!r}, only for {', '.join(MODULES)}.")
    import_module(MODULES[notebook])
    return {id: one for id, one in sorted(_exercises.items()) if id.startswith(f"{notebook}.")}


def check(id: str, answer) -> Result:
    """Say whether an answer is right. A wrong one, of whatever type, never raises.

    Raises:
        KeyError: for an unknown id, naming the known ones.
    """
    known = exercises(id.partition(".")[0])
    if id not in known:
        raise KeyError(f"No exercise {id!r}. Known: {', '.join(known)}.")
    if _empty(answer):
        return Result(id, None, "")
    one, attempt = known[id], _Function(answer) if callable(answer) else answer
    said = _judge(one, attempt)
    if said is not None and isinstance(attempt, _Function) and attempt.returned_nothing():
        if attempt.is_a_stub():
            return Result(id, None, "")
        said = "The function returns None."
    attempted[id] = attempted.get(id, False) or said is None
    if said is None:
        return Result(id, True, one.lesson)
    hint = one.hints[min(_wrong[id], len(one.hints) - 1)]
    _wrong[id] += 1
    return Result(id, False, said, hint)


def _judge(one: Exercise, answer) -> str | None:
    try:
        return one.judge(answer)
    except Wrong as wrong:
        return str(wrong)
    except Exception:  # whatever a judge cannot even compare is of the wrong kind
        answer = answer.last if isinstance(answer, _Function) and answer.calls else answer
        return f"An answer of another kind is asked for; this is {kind(answer)}."


class _Function:
    """A learner's function: works on copies, and its errors are wrong answers."""

    def __init__(self, function: Callable):
        self.function, self.calls, self.last, self.something = function, 0, None, False

    def __call__(self, *args, **options):
        self.calls += 1
        try:
            self.last = self.function(*copy.deepcopy(args), **copy.deepcopy(options))
        except Exception as error:
            self.something = True
            line = (str(error).splitlines() or [""])[0][:120]
            message = f"{type(error).__name__}: {line}".rstrip(": .")
            raise Wrong(f"Your function stopped with {message}.") from None
        self.something |= not _empty(self.last)
        return self.last

    def returned_nothing(self) -> bool:
        return self.calls > 0 and not self.something

    def is_a_stub(self) -> bool:
        """Whether it does nothing but return a constant: nobody has written anything into it."""
        code = getattr(self.function, "__code__", None)
        return code is not None and len(code.co_code) <= len((lambda: None).__code__.co_code)


def _empty(answer) -> bool:
    """None, or a collection that holds nothing else."""
    if isinstance(answer, dict):
        answer = tuple(answer.values())
    many = isinstance(answer, (tuple, list)) and len(answer) > 0
    return answer is None or (many and all(map(_empty, answer)))


# --- what judges use ----------------------------------------------------------------------------


def kind(answer) -> str:
    """What an answer is, in words."""
    if isinstance(answer, _Function):
        return "a function"
    if hasattr(answer, "shape"):
        return f"an array of shape {tuple(answer.shape)}"
    names = {str: "text", bool: "True or False", int: "a number", float: "a number", type(None): "nothing"}
    names |= {list: "a list", tuple: "a tuple", dict: "a dictionary"}
    return names.get(type(answer), f"an object of type {type(answer).__name__}")


def number(answer) -> float:
    """The answer as a float, be it a number, or a tensor or array that holds one.

    Raises:
        Wrong: if it is something else, or not finite.
    """
    try:
        plain = answer.item() if hasattr(answer, "item") else answer
        value = None if isinstance(plain, (str, bool)) else float(plain)
    except Exception:
        value = None
    if value is None:
        raise Wrong(f"One number is asked for; this is {kind(answer)}.")
    if not math.isfinite(value):
        raise Wrong("That is not a finite number.")
    return value


def close(found, wanted, tolerance: float = 1e-4) -> bool:
    """Whether a learner's tensor (or number) equals ours, entry by entry.

    Raises:
        Wrong: if it has another shape or holds no numbers, or NaN or infinity where ours does not.
    """
    import torch

    wanted = torch.as_tensor(wanted).detach().double()
    try:
        if isinstance(found, (str, bool)):
            raise TypeError
        found = torch.as_tensor(found).detach().cpu().double()
    except Exception:
        raise Wrong(f"Numbers were expected; this is {kind(found)}.") from None
    if found.shape != wanted.shape:
        raise Wrong(f"The result has the shape {tuple(found.shape)}; expected was {tuple(wanted.shape)}.")
    if found.isfinite().ne(wanted.isfinite()).any():
        raise Wrong("The result holds a number that is not finite.")
    return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)


def mistake(found: float, mistakes: dict[str, object], otherwise: str, tolerance: float = 1e-4) -> str:
    """The sentence of the first mistake whose value was found, else ``otherwise``."""
    near = (said for said, value in mistakes.items() if abs(found - float(value)) < tolerance)
    return next(near, otherwise)


def unlike(value: float, other: float) -> str:
    """The value in words of a sentence, with the two decimals or more that tell it from the other."""
    places = next((n for n in range(2, 10) if round(value, n) != round(other, n)), 2)
    return f"{value:.{places}f}"


def choice(answer, options: Iterable[str]) -> str:
    """The answer as one of the options, whatever its case and the space around it.

    Raises:
        Wrong: if it is none of them.
    """
    options = {option.casefold(): option for option in options}
    found = options.get(answer.strip().casefold()) if isinstance(answer, str) else None
    if found is None:
        raise Wrong(f"Choose one of: {', '.join(options.values())}.")
    return found


def fresh():
    """A ``torch.Generator`` that starts elsewhere each time; the notebook's own random numbers stay as they
    were."""
    import torch

    generator = torch.Generator()
    generator.seed()
    return generator


def uniform(low: float, high: float, generator=None) -> float:
    """A number between the two; of a :func:`fresh` generator unless one is given."""
    import torch

    return low + (high - low) * float(torch.rand((), generator=generator or fresh()))
