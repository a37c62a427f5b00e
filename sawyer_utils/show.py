"""Texts made visible: shaded tokens, answers side by side. HTML that also prints well."""

from __future__ import annotations

import html

from IPython.display import HTML

from sawyer_utils.plots import STAGES, takes_tensors

_CELL = "border:1px solid #ccc;padding:6px 8px;vertical-align:top;text-align:left"


def _token(text: str, colour: str, weight: float, note: str = "") -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    shown = html.escape(text).replace("\n", "⏎").replace(" ", "&nbsp;")
    return (
        f'<span title="{html.escape(note)}" style="background:rgba({red},{green},{blue},{weight:.2f});'
        f"color:#111;padding:2px 1px;margin:1px;"
        f"border-bottom:{2 if weight > 0.02 else 0}px solid {colour};"
        f'display:inline-block;font-family:monospace;font-size:13px">{shown}</span>'
    )


@takes_tensors
def shaded_tokens(rows: list[tuple[list[str], list[float]]], legend: str = "") -> HTML:
    """Lines of tokens shaded by a number each: orange above zero, blue below.

    Args:
        rows: ``(tokens, values)`` a line.
    """
    largest = max((abs(v) for _, values in rows for v in values), default=0.0) or 1.0
    lines = []
    for tokens, values in rows:
        parts = [
            _token(t, STAGES["ppo" if v > 0 else "sft"][1], 0.75 * abs(v) / largest, f"{v:+.3f}")
            for t, v in zip(tokens, values, strict=True)
        ]
        lines.append(f'<div style="line-height:1.9;margin:4px 0">{"".join(parts)}</div>')
    note = f'<div style="font-size:13px">{html.escape(legend)}</div>' if legend else ""
    return HTML(note + "".join(lines))


@takes_tensors
def graded_tokens(tokens: list[str], graded: list[bool]) -> HTML:
    """One conversation as tokens; graded ones are shaded and underlined."""
    parts = [_token(t, STAGES["ppo"][1], 0.35 * g) for t, g in zip(tokens, graded, strict=True)]
    return HTML(
        f'<div style="line-height:2">{"".join(parts)}</div>'
        '<div style="font-size:13px">Shaded and underlined: graded. Plain: only read.</div>'
    )


def rollouts(snapshots, scale: float = 0.0) -> HTML:
    """Answers at several steps of a run, with their scores; each token's background is its KL to the
    reference: orange where the policy likes it more than the reference does, blue where less.

    The same prompts at each step make one row a prompt; otherwise each step has its own rows.

    Args:
        snapshots: ``snapshots.Snapshot``, in the order of their steps.
        scale: KL in nats of the full colour; 0 takes the largest but a tenth.
    """
    sizes = sorted(abs(v) for one in snapshots for values in one.kl for v in values)
    scale = scale or (max(0.5, sizes[int(0.9 * (len(sizes) - 1))]) if sizes else 1.0)
    if all(one.prompts == snapshots[0].prompts for one in snapshots):
        names = ["prompt", *(f"step {one.step}" for one in snapshots)]
        rows = [
            [f"<b>{html.escape(prompt)}</b>", *(_rollout(one, i, scale) for one in snapshots)]
            for i, prompt in enumerate(snapshots[0].prompts)
        ]
    else:
        names = ["step", "prompt", "answer"]
        rows = [
            [str(one.step), f"<b>{html.escape(prompt)}</b>", _rollout(one, i, scale)]
            for one in snapshots
            for i, prompt in enumerate(one.prompts)
        ]
    legend = (
        f"Background: log π − log π_ref of each token, full colour at {scale:.1f} nats or more; orange "
        "(solid line) is likelier than under the SFT model, blue (dotted) less likely."
    )
    note = f'<div style="font-size:13px">{legend}</div>' if sizes else ""
    return HTML(note + _table(names, rows))


def _rollout(one, i: int, scale: float) -> str:
    kl = one.kl[i]
    parts = [
        _shaded_word(token, value, scale)
        for token, value in zip(one.tokens[i], kl or [0.0] * len(one.tokens[i]), strict=True)
    ]
    said = f"score {one.scores[i]:+.2f}" + (f" · KL {sum(kl):+.1f} nats" if kl else "")
    text = "".join(parts) or "<i>(nothing)</i>"
    return f'<div style="line-height:1.7;white-space:pre-wrap">{text}</div><small>{said}</small>'


def _shaded_word(token: str, value: float, scale: float) -> str:
    """A token inside running text; the line below it says the colour a second time."""
    shown, weight = html.escape(token), 0.75 * min(1.0, abs(value) / scale)
    if weight < 0.02:
        return shown
    colour, line = (STAGES["ppo"][1], "solid") if value > 0 else (STAGES["sft"][1], "dotted")
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return (
        f'<span title="{value:+.2f} nats" style="background:rgba({red},{green},{blue},{weight:.2f});'
        f'border-bottom:2px {line} {colour}">{shown}</span>'
    )


def _table(names: list[str], rows: list[list[str]]) -> str:
    """HTML cells as a table; ``names`` are plain text."""
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{''.join(f'<td style={_CELL!r}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        '<table style="border-collapse:collapse;font-size:14px;width:100%">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


@takes_tensors
def side_by_side(
    prompts: list[str], columns: dict[str, list[str]], notes: dict | None = None, first: str = "prompt"
) -> HTML:
    """A table: prompt, then one column a model. ``notes[name][i]`` goes under an answer."""
    head = "".join(f'<th style="{_CELL}">{html.escape(name)}</th>' for name in (first, *columns))
    body = []
    for i, prompt in enumerate(prompts):
        cells = [f'<td style="{_CELL};width:20%"><b>{html.escape(prompt)}</b></td>']
        for name, texts in columns.items():
            note = f"<br><small>{html.escape(str(notes[name][i]))}</small>" if notes and name in notes else ""
            cells.append(f'<td style="{_CELL}">{html.escape(texts[i]) or "<i>(nothing)</i>"}{note}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return HTML(
        '<table style="border-collapse:collapse;font-size:14px;width:100%">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    )
