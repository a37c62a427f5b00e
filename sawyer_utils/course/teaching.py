"""The tables of the instructor's guide, from the committed results and the notebooks' own text.

``make notebooks`` makes them anew, as does ``teaching.update()``.
"""

from __future__ import annotations

import re
from pathlib import Path

from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root, read_json

MARKS = "<!-- {name}: made by `make notebooks` -->", "<!-- end of {name} -->"
# Estimates, not measurements: an attentive reader, who also looks at each output.
WORDS_A_MINUTE, MINUTES_A_CODE_CELL = 150, 1 / 3
# The section of each notebook that trains, and where its seconds are recorded. These notebooks are guided.
TRAINS = {
    "01_sft": ("6. Does it learn?", lambda r: r["sft"]["seconds_train"]),
    "02_reward": ("4. Does it learn what is preferred?", lambda r: r["reward"]["seconds_train"]),
    "03_ppo": ("7. Train", lambda r: r["ppo"]["seconds_train"]),
    "04_eval": ("5. What did PPO never see?", lambda r: r["eval"]["seconds"].get("gold")),
    "05_ppo_vs_dpo": ("5. Train", lambda r: r["versus"]["seconds_train"]),
    "06_reward_hacking": ("6. What helps?", lambda r: r["hacking"]["seconds_train"]),
    "07_neutral_summaries": ("6. Train", lambda r: r["neutral"]["seconds_train"]),
    "08_domain_adaptation": ("3. How is it taught?", lambda r: sum(r["domain"]["seconds_train"].values())),
}
GUIDED = tuple(TRAINS)
AFTER = "Exercises"  # from here on a class goes at its own pace
HEAD = "| section | reading (estimate) | `local` | already trained | T4 |\n|---|---:|---:|---:|---:|"
UNKNOWN = "not measured"


def reading_minutes(name: str) -> dict[str, float]:
    """Estimated minutes by section (``##`` heading) of a notebook, up to the exercises."""
    minutes, section = {}, ""
    for cell in course.build(name).cells:
        if cell.cell_type == "code":
            minutes[section] = minutes.get(section, 0) + MINUTES_A_CODE_CELL
            continue
        parts = re.split(r"^## (.+)$", cell.source, flags=re.MULTILINE)
        for text, heading in zip(parts[::2], [*parts[1::2], None], strict=True):
            minutes[section] = minutes.get(section, 0) + len(text.split()) / WORDS_A_MINUTE
            section = heading or section
            if section == AFTER:
                minutes.pop("", None)  # the title
                return minutes
    raise ValueError(f"{name}: no section {AFTER!r}")


def minutes_table(results: dict) -> str:
    """One table a notebook, in Markdown.

    Args:
        results: ``results/local.json``; its ``section_minutes`` may be missing or not know a section.
    """
    tables = [_table(name, results) for name in GUIDED]
    machine = results["machine"]
    where = f"{machine['device']} with {machine['cpu_cores']} cores, {machine['date']}"
    return "\n\n".join([*tables, f"`local`: {where}."])


def _table(name: str, results: dict) -> str:
    took = results.get("section_minutes", {}).get(name, {})
    section, seconds_of = TRAINS[name]
    seconds = seconds_of(results) if _ran(name, results) else None
    spared = None if seconds is None else seconds / 60
    rows, reading = [f"**{name}**", "", HEAD], reading_minutes(name)
    for heading, estimate in reading.items():
        rows.append(_row(heading, estimate, took.get(heading), spared if heading == section else 0))
    rows.append(_row("all, without exercises", sum(reading.values()), results["minutes"].get(name), spared))
    return "\n".join(rows)


def _ran(name: str, results: dict) -> bool:
    """Whether the results hold what the notebook recorded; the extras run only when asked."""
    return bool(results.get(course.FOLDERS[name]))


def _row(what: str, reading: float, local: float | None, spared: float | None) -> str:
    """``spared``: minutes that nobody waits for where the training has been done before."""
    trained = None if local is None or spared is None else max(0, local - spared)
    said = [UNKNOWN if minutes is None else f"{minutes:.1f}" for minutes in (local, trained)]
    return f"| {what} | {max(1, round(reading))} | {said[0]} | {said[1]} | {UNKNOWN} |"


# --- predictions --------------------------------------------------------------------------------

# Notebook and section, question, what the committed run showed, the usual wrong answer and what it reveals.
PREDICTIONS = [
    ("01, 1", "Who was America's first president? What will a raw model do?",
     "{sft[base_finished]:.0%} of its greedy answers end; it goes on",
     "“It says a wrong name”: takes the model for something that tries to answer"),
    ("01, 3", "Which start of the three rows has the lowest loss?",
     "{sft[row_starts][0][start]} {sft[row_starts][0][loss]:.2f}, {sft[row_starts][1][start]} "
     "{sft[row_starts][1][loss]:.2f}, {sft[row_starts][2][start]} {sft[row_starts][2][loss]:.2f}",
     "“The phrase, so it must be best”: takes the loss on day one for the purpose of a start. Ask for the "
     "loss of the stop"),
    ("01, 4", "Ten tokens: which of the three losses is the highest?",
     "all tokens 1.137, answers only 0.658, last answer 0.399",
     "“Answers only, for fewer tokens share the sum”: forgets that a loss is a mean"),
    ("01, 5", "How many numbers do A and B hold at rank 4, for a matrix of 24?",
     "40, more than the matrix",
     "“Fewer, LoRA always saves”: has learned the slogan, not r · (d_out + d_in)"),
    ("01, 7", "What will SFT say to “What is the name of my cat?”",
     "it invents one, in the tone of everything else",
     "“It says that it does not know”: expects a manner that hardly any training answer had"),
    ("01, 7", "Does SFT finish its answers?",
     "{sft[base_finished]:.0%} → {sft[sft_finished]:.0%}, {sft[mean_length][sft]:.0f} tokens each",
     "“Only some, it is a small model”: takes stopping for a matter of size"),
    ("02, 1", "Which of four pairs costs most, which least?",
     "the third (1.313), the fourth (0.127)",
     "“The fourth, both of its scores are negative”: reads single scores"),
    ("02, 1", "Add 5 to every score. The losses?",
     "unchanged", "“They fall”: again single scores. This is the sentence of the notebook"),
    ("02, 2", "Difference 0.9, margin 1: above or below log 2?",
     "0.744, above 0.693", "“Below, the right one is ahead”: forgets that the margin asked for more"),
    ("02, 3", "How far can a judge get that never sees the question?",
     "{reward[accuracy_answers_alone]:.3f}, with the question "
     "{reward[accuracy_same_steps_with_question]:.3f} after equal steps",
     "“To one half”: underestimates how much manner gives away"),
    ("02, 3", "Own answer against a stranger: how often is the judge with both texts right?",
     "{reward[accuracy_stranger_unpractised]:.3f} at first, "
     "{reward[accuracy_stranger]:.3f} after practice",
     "“As often as on the other pairs”: takes one accuracy for a property of the model"),
    ("02, 4", "By how much does accuracy fall for the closest pairs?",
     "{reward[by_margin][0 to 2]:.3f} for 0 to 2 points, {reward[by_margin][6 to 9]:.3f} for 6 to 9",
     "“Not at all”: does not see that a score of 7 against 6 is a weak vote"),
    ("02, 6", "Which probes raise the score?",
     "{fooled}; politeness changes it by {polite:+.1f}",
     "“None, so it is robust”: a judge that falls at any edit is brittle, not wise"),
    ("02, 7", "Without the short winners: right where the shorter is better?",
     "{reward[accuracy_shorter_broken]:.3f} (with them, fully trained, {reward[accuracy_shorter]:.3f})",
     "“A little less”: underestimates how completely data can teach a shortcut"),
    ("02, 8", "Between which kinds does SFT land?",
     "SFT {reward[sft_mean]:.1f}, curt {reward[scores_by_kind][curt]:.1f}, "
     "engaging {reward[scores_by_kind][engaging]:.1f}",
     "“Near engaging, it was trained on good answers”: confuses imitation with preference"),
    ("03, 2", "β = 0.1, score 1: what do the four tokens earn?",
     "−0.02, 0.02, −0.06, 1.0", "“All negative but the last”: believes that an estimate of a KL cannot be"
     " negative"),
    ("03, 3", "For which λ does the first token earn the same in both answers?",
     "1 only (at 0.95: 0.857 and 0.377)", "“For all, the score is the same”: does not see that λ discounts"),
    ("03, 4", "Which of the four cases have no gradient?",
     "ratio 1.5 with advantage +1, ratio 0.5 with advantage −1",
     "“All four, they are outside 0.8 to 1.2”: misses that the clip never stops a way back"),
    ("03, 9", "Did all prompts gain?",
     "{ppo[reward][share_worse]:.0%} fell; mean {ppo[reward][difference]:+.2f} "
     "[{ppo[reward][low]:+.2f}, {ppo[reward][high]:+.2f}]",
     "“Yes, p is tiny”: takes a small p for a large effect on everybody"),
    ("04, 3", "Twelve times as many prompts: how much narrower?",
     "about √12 = 3.5 times, more against the first ten, whose few values need wider quantiles",
     "“Twelve times”: widths shrink with the root"),
    ("04, 5", "Will the gold judge like it as much?",
     "effect {eval[gold][effect_size]:+.2f} against {eval[reward][effect_size]:+.2f}, wins "
     "{eval[gold_win_rate][0]:.0%} [{eval[gold_win_rate][1]:.0%}, {eval[gold_win_rate][2]:.0%}]: "
     "{eval[gold_verdict]} on average",
     "“Yes, good is good”: has not met Goodhart yet"),
    ("04, 6", "By letter: higher or lower than by likelihood?",
     "{eval[by_letter][1][benchmark]}, SFT: {eval[by_letter][1][by likelihood]:.2f} by likelihood, "
     "{eval[by_letter][1][by letter]:.2f} by letter",
     "“The same, it is the same knowledge”: takes an accuracy for knowledge, without the way of asking"),
    ("04, 7", "Which n is as good as PPO, by the judge that both aim at?",
     "{best}",
     "“None, PPO was trained”: underestimates the lazy rival"),
    ("05, 1", "Both answers become less likely, the chosen one by 2 nats, the rejected one by 5: the loss?",
     "it falls, from 0.69 to 0.20", "“It rises, the good answer got rarer”: takes DPO for more SFT"),
    ("05, 3", "How often is the judge right on topics that it never saw?",
     "{versus[judge][new][right]:.2f} [{versus[judge][new][low]:.2f}, {versus[judge][new][high]:.2f}], on "
     "known ones {versus[judge][known][right]:.2f}",
     "“By chance, it never saw them”: what makes an answer bad is much the same everywhere"),
    ("05, 7", "Who gains more over where it stood, PPO or online DPO?",
     "gold: PPO {versus[went_on][PPO, gone on][difference]:+.2f} "
     "[{versus[went_on][PPO, gone on][low]:+.2f}, {versus[went_on][PPO, gone on][high]:+.2f}], online DPO "
     "{versus[went_on][online DPO][difference]:+.2f} [{versus[went_on][online DPO][low]:+.2f}, "
     "{versus[went_on][online DPO][high]:+.2f}]",
     "“PPO, DPO cannot use prompts”: forgets that a judge can label fresh pairs"),
    ("06, 1", "How often is the one-sided judge right where the shorter answer wins?",
     "{hacking[judge][one-sided, shorter wins]:.2f}, where the longer wins "
     "{hacking[judge][one-sided, longer wins]:.2f}",
     "“A little less often, all its lessons are true”: takes true lessons for the whole truth"),
    ("06, 2", "Where do proxy and gold part?",
     "the peak was chosen at step {hacking[from_peak_to_end][peak]}; from there to the end gold "
     "{hacking[from_peak_to_end][difference]:+.2f} [{hacking[from_peak_to_end][low]:+.2f}, "
     "{hacking[from_peak_to_end][high]:+.2f}]",
     "“They do not, both are judges”: has not asked what the proxy cannot see"),
    ("07, 1", "The compound of one “good”, and of two?",
     "0.440 and 0.700", "“Twice as much”: forgets the squeeze, by which a long text is always near ±1"),
    ("07, 3", "Which of the five wins on neutrality alone?",
     "the empty one, level with whatever has no rated word",
     "“The neutral one”: takes a measure for its name"),
    ("07, 8", "Nobody pays for the subject. What is the cheapest text?",
     "similarity {neutral[without][similarity][difference]:+.2f} "
     "[{neutral[without][similarity][low]:+.2f}, {neutral[without][similarity][high]:+.2f}], with all parts "
     "{neutral[measures][similarity][difference]:+.2f}",
     "“It still summarises, for it has learned to”: takes a habit for an aim"),
    ("08, 2", "How many facts does it name before any lesson?",
     "{domain[measures][lessons][facts named][before]:.0%}",
     "“None, it cannot know them”: forgets that a colour or a small number can be guessed"),
    ("08, 3", "Which pupil names more facts?",
     "lessons alone {domain[measures][lessons][facts named][after]:.0%}, with replay "
     "{domain[measures][with replay][facts named][after]:.0%}; of the difference: "
     "{domain[replay][facts named][verdict]}",
     "“The one without replay, it learned nothing else”: overlooks that both saw each lesson equally often"),
    ("08, 5", "Does it admit more often what it does not know?",
     "{domain[invented][aligned][admitted]} times before, {domain[invented][lessons][admitted]} after the "
     "lessons", "“More often, it knows the place better”: takes confidence for knowledge"),
]  # fmt: skip


def predictions_table(results: dict) -> str:
    """Questions, what the committed run showed, wrong answers; in Markdown."""
    probes = {row["probe"]: row for row in results["reward"]["probes"]}
    fooled = [name for name, row in probes.items() if row["sign"] == "+"]
    best, ppo = results["eval"]["best_of_n"], results["eval"]["frontier"][-1]["first judge"]
    enough = next((f"best of {row['n']}" for row in best if row["first judge"] >= ppo), "more than 16")
    more = {
        "fooled": ", ".join(fooled) or "none", "best": f"{enough} (PPO {ppo:+.2f})",
        "polite": probes["polite words added"]["change"],
    }  # fmt: skip
    words = {
        course.FOLDERS[name]: _Rounded(results.get(course.FOLDERS[name]) or {}) for name in GUIDED
    } | more
    lines = ["| where | ask | the committed run | a wrong answer, and what it reveals |", "|---|---|---|---|"]
    for where, ask, right, wrong in PREDICTIONS:
        name = next(name for name in GUIDED if name.startswith(where[:2]))
        missing = "{" in right and not _ran(name, results)
        lines.append(f"| {where} | {ask} | {UNKNOWN if missing else right.format(**words)} | {wrong} |")
    return "\n".join(lines)


class _Rounded(dict):
    """A dict whose lists of three numbers format as share and interval."""

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if isinstance(value, dict):
            return _Rounded(value)
        return _Interval(value) if isinstance(value, list) else value


class _Interval(list):
    def __format__(self, how: str) -> str:
        share, low, high = (format(value, how) for value in self)
        return f"{share} [{low}, {high}]"


# --- the page -----------------------------------------------------------------------------------


def page() -> Path:
    return project_root() / "docs" / "teaching.md"


TABLES = {"minutes": minutes_table, "predictions": predictions_table}


def update(path: Path | None = None, results: dict | None = None) -> None:
    """Put each table between its two marks.

    Raises:
        ValueError: if a mark is not there.
    """
    path = path or page()
    results = results or read_json(project_root() / "results" / "local.json")
    text = path.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        start, end = (mark.format(name=name) for mark in MARKS)
        if start not in text or end not in text:
            raise ValueError(f"{path.name} has lost its marks: {start} … {end}")
        before, rest = text.split(start, 1)
        text = f"{before}{start}\n{table(results)}\n{end}{rest.split(end, 1)[1]}"
    path.write_text(text, encoding="utf-8")
