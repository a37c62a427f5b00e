"""Texts made visible: shaded tokens, answers side by side. HTML that also prints well."""

from __future__ import annotations

import codecs
import html
import re

from IPython.display import HTML

from sawyer_utils.plots import STAGES, takes_tensors

_PLAIN = 'class="tex2jax_ignore mathjax_ignore"'  # Jupyter would set what is between two "$" as a formula
_CELL = "border:1px solid #ccc;padding:6px 8px;vertical-align:top;text-align:left"


# Stems of words that a class should not have to read. In ROT13, so that nobody has to read them here either.
_STEMS = "betnfz|znfgheong|cbea|shpx|zbgureshpx|ohyyfuvg|fuvg|phag|ovgpu|juber|fyhg|avttre|avttn|snttbg"
_UNFIT = re.compile(rf"\b(?:{codecs.decode(_STEMS, 'rot13')})\w*", re.IGNORECASE)
MASK = "[masked]"


def masked(text: str) -> str:
    """The text with each word of a short list of indecent ones as :data:`MASK`. Nothing else is filtered."""
    return _UNFIT.sub(MASK, text)


def _tint(colour: str, weight: float) -> str:
    """CSS of a hexadecimal colour that covers so much of what is below it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"background:rgba({red},{green},{blue},{weight:.2f});"


def _token(text: str, colour: str, weight: float, note: str = "") -> str:
    shown = html.escape(text).replace("\n", "⏎").replace(" ", "&nbsp;")
    return (
        f'<span title="{html.escape(note)}" style="{_tint(colour, weight)}'
        f"color:#111;padding:2px 1px;margin:1px;"
        f"border-bottom:{2 if weight > 0.02 else 0}px solid {colour};"
        f'display:inline-block;font-family:monospace;font-size:13px">{shown}</span>'
    )


@takes_tensors
def shaded_tokens(rows: list[tuple[list[str], list[float]]], legend: str = "") -> HTML:
    """Lines of tokens, ``(tokens, values)`` each, shaded by their values: orange above zero, blue below."""
    largest = max((abs(v) for _, values in rows for v in values), default=0.0) or 1.0
    lines = []
    for tokens, values in rows:
        parts = [
            _token(t, STAGES["ppo" if v > 0 else "sft"][1], 0.75 * abs(v) / largest, f"{v:+.3f}")
            for t, v in zip(tokens, values, strict=True)
        ]
        lines.append(f'<div {_PLAIN} style="line-height:1.9;margin:4px 0">{"".join(parts)}</div>')
    note = f'<div style="font-size:13px">{html.escape(legend)}</div>' if legend else ""
    return HTML(note + "".join(lines))


@takes_tensors
def graded_tokens(tokens: list[str], graded: list[bool]) -> HTML:
    """One conversation as tokens; graded ones are shaded and underlined."""
    parts = [_token(t, STAGES["ppo"][1], 0.35 * g) for t, g in zip(tokens, graded, strict=True)]
    return HTML(
        f'<div {_PLAIN} style="line-height:2">{"".join(parts)}</div>'
        '<div style="font-size:13px">Shaded and underlined: graded. Plain: only read.</div>'
    )


def rollouts(snapshots, steps: int = 3) -> HTML:
    """Answers to the same prompts at several steps of a run (``snapshots.Snapshot``, in order; shown are the
    first, the last, and equal steps between), with their scores; each token's background is its KL to the
    reference: orange where the policy likes it more than the reference does, blue where less.

    Raises:
        ValueError: if there are none.
    """
    if not snapshots:
        raise ValueError("rollouts: no snapshots.")
    last = len(snapshots) - 1
    shown = [snapshots[i] for i in sorted({round(k * last / (steps - 1)) for k in range(steps)})]
    sizes = sorted(abs(v) for one in shown for values in one.kl for v in values)
    scale = max(0.5, sizes[int(0.9 * (len(sizes) - 1))]) if sizes else 1.0  # the largest but a tenth
    rows = [
        [f"<b>{html.escape(prompt)}</b>", *(_rollout(one, i, scale) for one in shown)]
        for i, prompt in enumerate(shown[0].prompts)
    ]
    legend = (
        f"Background: log π − log π_ref of each token, full colour at {scale:.1f} nats or more; orange "
        "(solid line) is likelier than under the SFT model, blue (dotted) less likely."
    )
    note = f'<div style="font-size:13px">{legend}</div>'
    return HTML(note + _table(["prompt", *(f"step {one.step}" for one in shown)], rows))


def _rollout(one, i: int, scale: float) -> str:
    words = [_shaded_word(*pair, scale) for pair in zip(one.tokens[i], one.kl[i], strict=True)]
    text = "".join(words) or "<i>(nothing)</i>"
    said = f"score {one.scores[i]:+.2f} · KL {sum(one.kl[i]):+.1f} nats"
    return f'<div style="line-height:1.7;white-space:pre-wrap">{text}</div><small>{said}</small>'


def _shaded_word(token: str, value: float, scale: float) -> str:
    """A token inside running text; the line below it says the colour a second time."""
    shown, weight = html.escape(token), 0.75 * min(1.0, abs(value) / scale)
    if weight < 0.02:
        return shown
    colour, line = (STAGES["ppo"][1], "solid") if value > 0 else (STAGES["sft"][1], "dotted")
    return (
        f'<span title="{value:+.2f} nats" style="{_tint(colour, weight)}'
        f'border-bottom:2px {line} {colour}">{shown}</span>'
    )


def _table(names: list[str], rows: list[list[str]]) -> str:
    """HTML cells as a table, the first column narrow; ``names`` are plain text."""
    widths = [";width:20%", *("" for _ in names[1:])]
    head = "".join(
        f'<th style="{_CELL}{w}">{html.escape(n)}</th>' for n, w in zip(names, widths, strict=True)
    )
    body = "".join(f"<tr>{''.join(f'<td style={_CELL!r}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<table {_PLAIN} style="border-collapse:collapse;font-size:14px;width:100%">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


@takes_tensors
def side_by_side(
    prompts: list[str], columns: dict[str, list[str]], notes: dict | None = None, first: str = "prompt"
) -> HTML:
    """A table: prompt, then one column a model. ``notes[name][i]`` goes under an answer. Answers are
    :func:`masked`, which a line below the table then says."""
    rows = []
    for i, prompt in enumerate(prompts):
        row = [f"<b>{html.escape(prompt)}</b>"]
        for name, texts in columns.items():
            note = f"<br><small>{html.escape(str(notes[name][i]))}</small>" if notes and name in notes else ""
            row.append(f"{html.escape(masked(texts[i])) or '<i>(nothing)</i>'}{note}")
        rows.append(row)
    table = _table([first, *columns], rows)
    legend = f'<div style="font-size:13px">{MASK}: an indecent word.</div>' if MASK in table else ""
    return HTML(table + legend)
