"""What a run leaves behind: one screen, one page that stands alone, the pages' numbers, figures to commit."""

from __future__ import annotations

import base64
import html
import shutil
from collections.abc import Callable
from pathlib import Path

from sawyer_utils import plots
from sawyer_utils.chapters.report import EXTRA_STAGES, STAGES, headline, result, rows

# The workshop's five figures, redrawn: the loop, three answers, rewards, benchmarks, three elements.
FIGURES = ("rl_loop", "three_answers", "reward_histograms", "benchmark_bars", "three_elements")
# The README's results by notebook and stage, with the names of its metrics.json.
HEADLINES = {
    "01 sft": "Loss on held-out conversations {heldout_before:.2f} → {heldout_after:.2f} nats a token;"
    " answers that end by themselves {base_finished:.0%} → {sft_finished:.0%}.",
    "02 reward": "The reward model is right on {accuracy:.0%} of {n_pairs} held-out pairs"
    " [{accuracy_low:.0%}, {accuracy_high:.0%}]; a judge that cannot read a word, on {unread:.0%}.",
    "03 ppo": "PPO: reward {reward[difference]:+.2f} [{reward[low]:+.2f}, {reward[high]:+.2f}] of SFT's"
    " standard deviations on {reward[n]} held-out prompts, {kl:.0f} nats away;"
    " {length[sft]:.0f} → {length[ppo]:.0f} tokens, {finished[sft]:.0%} → {finished[ppo]:.0%} finished.",
    "03 seeds": "That is the median of {seeds} trainings. All of them, over seeds and prompts:"
    " {reward[0]:+.2f} [{reward[1]:+.2f}, {reward[2]:+.2f}], by a second judge that PPO never met"
    " {gold[0]:+.2f} [{gold[1]:+.2f}, {gold[2]:+.2f}], each in SFT's standard deviations.",
    "04 eval": "The second judge, trained on other preferences, of this run: {difference:+.2f}"
    " [{low:+.2f}, {high:+.2f}] of SFT's standard deviations: {gold_verdict}; it prefers"
    " {gold_win_rate[0]:.0%} of the new answers [{gold_win_rate[1]:.0%}, {gold_win_rate[2]:.0%}].",
}
CHANGE = ("difference", "low", "high")
IN_THE_PICTURE = {
    "sft": "loss {heldout_before:.2f} → {heldout_after:.2f}\n"
    "answers that end: {base_finished:.0%} → {sft_finished:.0%}",
    "reward": "right on {accuracy:.0%} of pairs\n(untrained {accuracy_untrained:.0%})",
    "ppo": "reward {reward[difference]:+.2f}\n[{reward[low]:+.2f}, {reward[high]:+.2f}] SFT s.d.",
}


def summary(results: dict) -> str:
    """One screen: what each stage changed, with intervals."""
    width = max((len(what) for _, what, _ in rows(results)), default=0)
    lines, last = [f"SAWYER, profile {results['profile']}"], ""
    for stage, what, said in rows(results):
        lines.append(f"{stage if stage != last else '':16s} {what:{width}s}  {said}")
        last = stage
    minutes = results["minutes"]
    lines.append(
        "minutes          "
        + ", ".join(f"{name} {value:.1f}" for name, value in minutes.items())
        + f"; {sum(minutes.values()):.1f} in all"
    )
    return "\n".join(lines)


def write_html(folder: Path, results: dict) -> Path:
    """One self-contained page: the results table and every figure, readable on a phone."""
    table = "".join(
        f"<tr><td>{html.escape(stage)}</td><td>{html.escape(what)}</td><td>{html.escape(said)}</td></tr>"
        for stage, what, said in rows(results)
    )
    pictures = []
    for stage in (*STAGES, *EXTRA_STAGES):
        for image in sorted((folder / stage / "figures").glob("*.png")):
            data = base64.b64encode(image.read_bytes()).decode()
            name = f"{stage}: {image.stem.replace('_', ' ')}"
            pictures.append(
                f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
                f"<figcaption>{name}</figcaption></figure>"
            )
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>SAWYER: results</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#111}}
table{{border-collapse:collapse;width:100%}}td{{border:1px solid #bbb;padding:.4rem .6rem;vertical-align:top}}
img{{max-width:100%;height:auto}}figure{{margin:1.5rem 0;break-inside:avoid}}figcaption{{color:#444}}
@media (max-width:40rem){{table,tbody,tr,td{{display:block}}td{{border:0;padding:.1rem 0}}
tr{{border-top:1px solid #bbb;padding:.4rem 0}}td:first-child{{color:#444}}td:last-child{{font-weight:600}}}}
@media print{{body{{margin:0;max-width:none;font-size:10pt}}tr{{break-inside:avoid}}}}</style>
<h1>SAWYER: what each stage changed</h1><p>Profile {results["profile"]}. {html.escape(machine)}.</p>
<table>{table}</table><h2>Figures</h2>{"".join(pictures)}</html>"""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def results_table(results: dict) -> str:
    """The results of docs/results.md, in Markdown."""
    lines = ["| stage | what | result |", "|---|---|---|"]
    lines += [f"| {stage} | {what} | {said} |" for stage, what, said in rows(results)]
    machine = results["machine"]
    minutes = sum(took for name, took in results["minutes"].items() if name < "05")  # not the extras
    lines += [
        "",
        f"Profile `{results['profile']}`, {machine['date']}, {machine['device']} with "
        f"{machine['cpu_cores']} cores, {machine['compute']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}, trl {machine['trl']}; "
        f"{minutes:.0f} minutes for all four notebooks. "
        "Square brackets are 95 % intervals.",
    ]
    return "\n".join(lines)


def headlines(results: dict, seeds: dict | None = None) -> str:
    """The README's results, in Markdown, without the stages that did not run.

    Args:
        seeds: of ``results/ppo_seeds.json``.
    """
    found = {stage: results.get(stage) or {} for stage in STAGES} | {"seeds": seeds and seeds["together"]}
    reward, evaluation = found["reward"], found["eval"]
    gold = evaluation.get("gold", {})
    derived = {
        "reward": {"unread": max(reward.get("without_reading", {}).values(), default=None)},
        "eval": {key: gold[key] / (gold.get("before_std") or 1.0) for key in CHANGE if key in gold},
    }
    lines = []
    for key, said in HEADLINES.items():
        notebook, stage = key.split()
        if found[stage]:
            lines.append(f"**{notebook}.** {result(said, found[stage] | derived.get(stage, {}))}")
    shares: dict[str, list[str]] = {}
    for row in evaluation.get("benchmarks", ()):
        name = row["benchmark"].removesuffix("_mini")
        shares.setdefault(name, []).append(result("{accuracy:.0%}", row))
    if shares:
        asked = ", ".join(f"{name} {' → '.join(said)}" for name, said in shares.items())
        lines.append(f"**04.** Benchmarks, base → SFT → SFT + RLF: {asked}.")
    return "\n".join(f"- {line}" for line in lines)


def answers(evaluation: dict) -> str:
    """The README's first example, in Markdown: what each stage says to one of the fixed questions."""
    said = dict(evaluation["three_answers"])
    cells = [said.pop("prompt")]
    for text in said.values():
        words = text.replace("|", "\\|").split()
        cells.append(" ".join(words[:14]) + " …" * (len(words) > 14))
    names = ["", *(plots.STAGES[stage][0] for stage in said)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ["---"] * len(names), cells))


def fill(path: Path, makers: dict[str, Callable[[str], str]]) -> None:
    """Replace what stands between two marks of a page by what its maker makes of it.

    Raises:
        ValueError: if marks are not there; the page stays as it is.
    """
    page = path.read_text(encoding="utf-8")
    for what, make in makers.items():
        start, end = marks(what)
        if start not in page or end not in page:
            raise ValueError(f"The page has lost its marks: {start} … {end}")
        before, rest = page.split(f"{start}\n", 1)
        text, after = rest.split(end, 1)
        page = f"{before}{start}\n{make(text.rstrip())}\n{end}{after}"
    path.write_text(page, encoding="utf-8")


def marks(what: str) -> tuple[str, str]:
    """The lines around what is made and not written."""
    return f"<!-- {what}: made by `make notebooks` -->", f"<!-- end of {what} -->"


def copy_figures(run: Path, target: Path) -> None:
    """The workshop's five figures of a run, with their numbers where they have any."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FIGURES:
        for file in sorted((run / "eval" / "figures").glob(f"{name}.*")):
            shutil.copyfile(file, target / file.name)


def stage_picture(results: dict, folder: Path) -> None:
    """The README's picture: the four stages with this run's results under them."""
    plots.use_style()
    lines = {stage: result(said, results[stage]) for stage, said in IN_THE_PICTURE.items()}
    lines["eval"] = headline(results["eval"])
    plots.save(plots.four_stages(results=lines), folder, "stages")
