"""Things to play with: chat with all stages, ask the judge.

Made of what ipywidgets 7.7 (Colab) and 8 share, and of core widgets alone. Building one runs no model;
only a click does. Callbacks write through an HTML widget, for what they print is lost. Each has a static
twin, for pages that show no widgets: :func:`compare` and :func:`edits`.
"""

from __future__ import annotations

import html
import itertools
import random
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as widgets
from IPython.display import HTML

from sawyer_utils import plots, show
from sawyer_utils.classroom import probes, votes
from sawyer_utils.classroom.talk import Reply, Talk, questions, stage_name, tally
from sawyer_utils.plumbing.sources import same_text
from sawyer_utils.reward import RewardFn

WIDE = widgets.Layout(width="100%")
LABEL = {"description_width": "initial"}
NONE = "—"


class Panel(widgets.VBox):
    """A widget of the course: a column of controls, with a line that says what is going on."""

    def __init__(self, title: str, children: list):
        self.status = widgets.HTML()
        heading = widgets.HTML(f"<b style='font-size:15px'>{html.escape(title)}</b>")
        super().__init__([heading, *children, self.status], layout=widgets.Layout(padding="6px"))

    def __repr__(self) -> str:
        """What a page without widgets shows."""
        return f"<{type(self).__name__}: run the notebook to use it>"

    def say(self, text: str, wrong: bool = False) -> None:
        colour = "#B00020" if wrong else "inherit"
        self.status.value = f'<span style="color:{colour}">{html.escape(text)}</span>'

    @contextmanager
    def working(self, *buttons):
        """Buttons are off meanwhile; an error is shown, for nobody sees a callback's traceback."""
        for button in buttons:
            button.disabled = True
        try:
            yield
        except Exception as error:
            self.say(f"{type(error).__name__}: {error}", wrong=True)
        finally:
            for button in buttons:
                button.disabled = False


def _button(text: str, on_click: Callable[[], None], tooltip: str = "") -> widgets.Button:
    layout = widgets.Layout(width="auto")
    button = widgets.Button(description=text, tooltip=tooltip or text, layout=layout)
    button.on_click(lambda _: on_click())
    return button


def _tight(page: str) -> str:
    """ipywidgets sets its HTML in very wide lines."""
    return f'<div style="line-height:1.4">{page}</div>' if page else ""


def _row(children: list) -> widgets.HBox:
    """Side by side, and on to the next line where there is no room."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap"))


# --- chat ---------------------------------------------------------------------------------------


def chat_table(turns: list[dict], stages: list[str], names: list[str], notes: bool = True) -> HTML:
    """Turns of a ``talk.Talk``, a row each, with a column a stage under the name it is given."""

    def column(stage: str, of: Callable[[Reply], str]) -> list[str]:
        return [of(turn["replies"][stage]) if stage in turn["replies"] else NONE for turn in turns]

    texts = {name: column(s, lambda reply: reply.text) for name, s in zip(names, stages, strict=True)}
    under = {name: column(s, Reply.note) for name, s in zip(names, stages, strict=True)}
    asked = [turn["question"] for turn in turns]
    return show.side_by_side(asked, texts, under if notes else None, first="you")


def compare(talk: Talk, asked: list[str], **options) -> HTML:
    """The static twin of :class:`Chat`: each question a conversation of its own.

    Args:
        options: of ``Talk.ask``.
    """
    start = len(talk.turns)
    for question in asked:
        talk.start_over()
        talk.ask(question, **options)
    talk.start_over()
    stages = list(talk.adapters)
    return chat_table(talk.turns[start:], stages, [stage_name(s) for s in stages])


class Chat(Panel):
    """One question, an answer of each stage from the same seed; several turns; blind votes.

    In blind mode the answers stand in random order without names, rewards or KL until you vote; the vote
    ends the conversation, since whoever has been unmasked would be known in its next turn.

    Args:
        folder: where the transcript goes.
        ballots: a file to which each blind vote on a first question is added, without the voter
            (``votes.vote``).
    """

    def __init__(self, talk: Talk, folder: Path, ballots: Path | None = None):
        self.talk, self.folder, self.ballots = talk, folder, ballots
        self.votes: list[tuple[str | None, tuple[str, ...]]] = []  # the winner, and who stood for election
        self.order: list[str] = []  # of the columns
        self.open_vote = False
        self.shuffle = random.Random()  # no seed: each learner of a class sees another order
        self.transcript: Path | None = None  # where this chat's is kept
        self._build()
        self.blind.observe(lambda _: self.start_over(), "value")
        children = [
            self.suggestions, self.question, self.settings, self.actions, self.answers, self.ballot,
            self.tally,
        ]  # fmt: skip
        super().__init__("Ask all stages at once", children)

    def _build(self) -> None:
        self.suggestions = _row([_button(text, lambda t=text: self.suggest(t)) for text in questions()])
        placeholder = "Type a question, or take one from above"
        self.question = widgets.Textarea(placeholder=placeholder, rows=2, layout=WIDE)
        self.stages = {
            stage: widgets.Checkbox(True, description=stage_name(stage), indent=False,
                                    layout=widgets.Layout(width="auto", margin="2px 14px 2px 0"))
            for stage in self.talk.adapters
        }  # fmt: skip
        apart = widgets.Layout(width="auto", margin="2px 24px 2px 0")
        self.blind = widgets.Checkbox(False, description="blind vote", indent=False, layout=apart)
        temperature = self.talk.profile.temperature
        self.temperature = widgets.FloatSlider(temperature, min=0.0, max=1.5, step=0.1, style=LABEL,
                                               description="temperature")  # fmt: skip
        self.tokens = widgets.IntSlider(40, min=8, max=128, step=8, description="tokens", style=LABEL)
        self.seed = widgets.IntText(0, description="seed", style=LABEL,
                                    layout=widgets.Layout(width="110px"))  # fmt: skip
        self.settings = _row([*self.stages.values(), self.blind, self.temperature, self.tokens, self.seed])
        self.ask_button = _button("Ask", self.ask)
        self.ask_button.button_style = "primary"
        self.new_button = _button("New conversation", self.start_over)
        self.save_button = _button("Save transcript", self.save)
        self.actions = _row([self.ask_button, self.new_button, self.save_button])
        self.answers, self.tally = widgets.HTML(layout=WIDE), widgets.HTML()
        self.ballot = _row([])

    def suggest(self, text: str) -> None:
        self.question.value = text

    def chosen(self) -> list[str]:
        return [stage for stage, box in self.stages.items() if box.value]

    def ask(self) -> None:
        """Put the question to the chosen stages."""
        with self.working(self.ask_button, self.new_button):
            if not self.chosen():
                raise ValueError("Choose a model first.")
            if not self.talk.current():
                self.order = self.chosen()
                if self.blind.value:
                    self.shuffle.shuffle(self.order)
            # New ones to the right: the order of the columns must not tell who is who.
            self.order += [stage for stage in self.chosen() if stage not in self.order]
            self._ask()

    def _ask(self) -> None:
        def thinking(stage: str) -> None:
            who = "Model" if self.blind.value else stage_name(stage)
            self.say(f"{who} {1 + stages.index(stage)} of {len(stages)} is answering …")

        stages = [stage for stage in self.order if stage in self.chosen()]
        how = {"temperature": self.temperature.value, "tokens": self.tokens.value}
        question = self.question.value
        replies = self.talk.ask(question, stages, seed=self.seed.value, on_stage=thinking, **how)
        self.open_vote = len(stages) > 1
        self.talk.turns[-1] |= {"blind": self.blind.value, "vote": None}
        self.show()
        self.question.value = ""
        self.say(f"{len(replies)} answers in {sum(r.seconds for r in replies.values()):.1f} s.")

    def names(self) -> list[str]:
        """Of the columns: letters as long as the vote is open."""
        if self.blind.value and self.open_vote:
            return [f"answer {chr(ord('A') + i)}" for i in range(len(self.order))]
        return [stage_name(stage) for stage in self.order]

    def show(self) -> None:
        """Draw the conversation, and the ballot if there is something to vote on."""
        hidden, turns = self.blind.value and self.open_vote, self.talk.current()
        table = chat_table(turns, self.order, self.names(), notes=not hidden) if turns else None
        self.answers.value = _tight(table.data if table else "")
        buttons = []
        if self.open_vote:
            voted = [stage for stage in self.order if stage in turns[-1]["replies"]]
            names = dict(zip(self.order, self.names(), strict=True))
            buttons = [_button(f"{names[s]} is best", lambda s=s: self.vote(s)) for s in voted]
            buttons.append(_button("no difference", lambda: self.vote(None)))
        self.ballot.children = buttons

    def vote(self, winner: str | None) -> None:
        """Count a vote on the last answers; in blind mode it also ends the conversation."""
        with self.working(*self.ballot.children):
            turn = self.talk.turns[-1]
            kept = self._keep(turn, winner)  # first: one that cannot be kept may be cast again
            said = {stage: reply.text for stage, reply in turn["replies"].items()}
            # Whoever said the same as the winner has not lost to it.
            stood = [s for s in said if s == winner or not (winner and same_text(said[s], said[winner]))]
            self.votes.append((winner, tuple(stood)) if len(stood) > 1 else (None, tuple(said)))
            turn["vote"] = winner or "none"
            self.open_vote = False
            self.show()
            self.tally.value = _tight("<br>".join(map(html.escape, tally(self.votes))))
            self.say(f"Counted{kept}. In brackets: 95 % intervals (Wilson); half is no difference.")
            if self.blind.value:
                self.talk.start_over()

    def _keep(self, turn: dict, winner: str | None) -> str:
        """Add the vote to the file. Later turns are left out: their answers rest on others before them."""
        if not (self.ballots and winner and self.blind.value and len(self.talk.current()) == 1):
            return ""
        answers = {stage: reply.text for stage, reply in turn["replies"].items()}
        row = votes.vote(turn["question"], answers, winner)
        if row is None:
            return ", but the answers are the same"
        votes.append(self.ballots, row)
        return f", and kept in {self.ballots.name}"

    def start_over(self) -> None:
        """Forget what was said, but for the transcript."""
        self.talk.start_over()
        self.open_vote = False
        self.show()
        self.say("A new conversation.")

    def save(self) -> None:
        """Write the transcript, votes included; those of earlier sessions stay."""
        with self.working(self.save_button):
            names = (self.folder / f"transcript-{n}.jsonl" for n in itertools.count(1))
            self.transcript = self.transcript or next(path for path in names if not path.exists())
            path = self.talk.save(self.transcript)
            self.say(f"{len(self.talk.turns)} turns in {path.name}, in the folder {path.parent.name}.")


# --- the judge ----------------------------------------------------------------------------------


def edits(reward: RewardFn, question: str, answer: str) -> HTML:
    """The static twin of :class:`RewardExplorer`: one answer, each edit, and its score."""
    table = probes.edits_table(reward, question, answer)
    notes = [
        f"score {row.score:+.2f}"
        + (f" · {row.change:+.2f}, preferred with probability {row.preferred:.3f}" if row.Index else "")
        for row in table.itertuples()
    ]
    texts = {f"to “{question}”": list(table.text)}
    return show.side_by_side(list(table.edit), texts, {f"to “{question}”": notes}, first="edit")


class RewardExplorer(Panel):
    """A question, two answers, their scores; and buttons that spoil an answer in ways the judge may like.

    Args:
        reward: ``(questions, answers) -> scores``, such as a ``RewardModel``.
    """

    def __init__(self, reward: RewardFn, question: str, a: str, b: str):
        self.reward = reward
        self.question = widgets.Textarea(question, rows=2, layout=WIDE)
        half = widgets.Layout(width="48%", margin="0 1% 0 0")
        self.answers = [widgets.Textarea(text, rows=5, layout=widgets.Layout(width="98%")) for text in (a, b)]
        self.edit_buttons = [
            [_button(edit, lambda e=edit, box=box: self.edit(box, e)) for edit in probes.EDITS]
            for box in self.answers
        ]
        columns = [
            widgets.VBox([widgets.HTML(f"<b>Answer {name}</b>"), box, _row(buttons)], layout=half)
            for name, box, buttons in zip("AB", self.answers, self.edit_buttons, strict=True)
        ]
        self.judge_button = _button("Score", self.judge)
        self.judge_button.button_style = "primary"
        self.result = widgets.HTML(layout=WIDE)
        children = [self.question, widgets.HBox(columns, layout=WIDE), _row([self.judge_button]), self.result]
        super().__init__("What does the reward model like?", children)

    def edit(self, box: widgets.Textarea, name: str) -> None:
        """Edit one of the answers and score both."""
        box.value = probes.EDITS[name](box.value)
        self.judge()

    def judge(self) -> None:
        """Score both answers."""
        with self.working(self.judge_button, *(button for row in self.edit_buttons for button in row)):
            self.say("Scoring …")
            found = probes.judge(self.reward, self.question.value, *(box.value for box in self.answers))
            self.result.value = _tight(self._result(found))
            self.say("")

    def _result(self, found: probes.Verdict) -> str:
        share = 100 * found.probability
        blue, orange = plots.STAGES["sft"][1], plots.STAGES["ppo"][1]
        return (
            f"{html.escape(str(found))}"
            '<div style="display:flex;height:22px;line-height:22px;max-width:640px;margin:4px 0;'
            'font-size:13px;color:white">'
            f'<div style="width:{share:.1f}%;background:{blue};overflow:hidden">&nbsp;A {share:.0f} %</div>'
            f'<div style="flex:1;background:{orange};color:black;overflow:hidden;text-align:right">'
            f"B {100 - share:.0f} %&nbsp;</div></div>"
        )
