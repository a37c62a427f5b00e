"""What a run showed: one screen, one HTML page, one JSON, and the README's table from the same numbers."""

from __future__ import annotations

import base64
import html
import re
import shutil
from pathlib import Path

from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import home, read_json

STAGES = ("sft", "reward", "ppo", "eval")
EXTRA_STAGES = ("versus", "hacking", "neutral", "domain")  # of the chapters after 04
# The workshop's five figures, redrawn: the loop, three answers, rewards, benchmarks, three elements.
FIGURES = ("rl_loop", "three_answers", "reward_histograms", "benchmark_bars", "three_elements")
README_MARKS = ("<!-- results: made by `make notebooks` -->", "<!-- end of results -->")


def collect(profile: Profile, ledger: dict) -> dict:
    """Every recorded number of a run: ``{"profile", "machine", "minutes", "sft": {…}, …}``."""
    found = {"profile": profile.name, "machine": _machine()}
    found["minutes"] = {name: round(seconds / 60, 2) for name, seconds in ledger.get("seconds", {}).items()}
    found["section_minutes"] = {
        name: {section: round(seconds / 60, 2) for section, seconds in took.items()}
        for name, took in ledger.get("sections", {}).items()
    }
    for stage in (*STAGES, *EXTRA_STAGES):
        path = home() / profile.name / stage / "metrics.json"
        found[stage] = read_json(path) if path.exists() else {}
    return found


def kept(earlier: dict, results: dict) -> dict:
    """``results``, with what an earlier run has of stages and notebooks that this one left out (``make
    notebooks`` runs the extras only if asked)."""
    merged = earlier | {name: found for name, found in results.items() if found}
    for name in ("minutes", "section_minutes"):
        merged[name] = earlier.get(name, {}) | results.get(name, {})
    return merged


def _machine() -> dict:
    import os
    import platform
    from datetime import date
    from importlib.metadata import version

    from sawyer_utils.runtime import choose_precision

    precision = choose_precision()
    return {
        "date": date.today().isoformat(),
        "device": precision.device,
        "cpu_cores": os.cpu_count(),
        "compute": str(precision.compute).removeprefix("torch."),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "trl", "peft")},
    }


def rows(results: dict) -> list[tuple[str, str, str]]:
    """(stage, what, result with interval) for the summary, the report and the README."""
    course = (_sft_rows, _reward_rows, _ppo_rows, _evaluation_rows)
    made = (*course, _versus_rows, _hacking_rows, _neutral_rows, _domain_rows)
    stages = zip((*STAGES, *EXTRA_STAGES), made, strict=True)
    return [row for stage, rows_of in stages for row in rows_of(results.get(stage) or {})]


def _sft_rows(sft: dict) -> list[tuple[str, str, str]]:
    if not sft:
        return []
    return [
        (
            "01 SFT",
            "loss on held-out conversations, nats per token",
            f"{sft['heldout_before']:.2f} → {sft['heldout_after']:.2f}"
            f" (falls by {sft['loss_fall_share']:.0%}, n = {sft['n_heldout']})",
        ),
        (
            "01 SFT",
            "greedy answers that end by themselves",
            f"{sft['base_finished']:.0%} → {sft['sft_finished']:.0%} (n = {sft['n_prompts']})",
        ),
    ]


def _reward_rows(reward: dict) -> list[tuple[str, str, str]]:
    if not reward:
        return []
    return [
        (
            "02 reward model",
            "right on held-out pairs",
            f"{reward['accuracy']:.3f} [{reward['accuracy_low']:.3f}, {reward['accuracy_high']:.3f}],"
            f" untrained {reward['accuracy_untrained']:.3f} (n = {reward['n_pairs']})",
        ),
        (
            "02 reward model",
            "right where the better answer is the shorter",
            f"{reward['accuracy_shorter']:.3f}"
            f" [{reward['accuracy_shorter_low']:.3f}, {reward['accuracy_shorter_high']:.3f}]",
        ),
        (
            "02 reward model",
            "own answer over an equally good one to another question",
            "{:.3f} [{:.3f}, {:.3f}]".format(*reward["accuracy_stranger"])
            + f" (n = {reward['n_strangers']})",
        ),
    ]


def _ppo_rows(ppo: dict) -> list[tuple[str, str, str]]:
    if not ppo:
        return []
    change = ppo["reward"]
    return [
        (
            "03 PPO",
            "reward on held-out prompts, SFT's standard deviations",
            f"{change['before_mean']:.2f} ± {change['before_std']:.2f} → "
            f"{change['after_mean']:.2f} ± {change['after_std']:.2f}; "
            f"{change['difference']:+.2f} [{change['low']:+.2f}, {change['high']:+.2f}],"
            f" Wilcoxon p = {change['wilcoxon_p']:.1g}, Levene p = {change['levene_p']:.1g}"
            f" (n = {change['n']})",
        ),
        (
            "03 PPO",
            "drift, length, finished",
            f"KL {ppo['kl']:.1f} nats, {ppo['length']['sft']:.0f} → {ppo['length']['ppo']:.0f} tokens,"
            f" {ppo['finished']['sft']:.0%} → {ppo['finished']['ppo']:.0%}",
        ),
        (
            "03 PPO",
            "gain left at equal length",
            "{:+.2f} [{:+.2f}, {:+.2f}]".format(*ppo["gain_at_equal_length"]),
        ),
    ]


def _evaluation_rows(evaluation: dict) -> list[tuple[str, str, str]]:
    """Measures that PPO never saw, with their computed verdicts, and the mini-benchmarks."""
    found = [
        (
            "04 evaluation",
            f"{row['measure']}, SFT → SFT + RLF",
            f"{row['sft']:.3g} → {row['ppo']:.3g}; {row['difference']:+.3g}"
            f" [{row['low']:+.3g}, {row['high']:+.3g}]: {row['verdict']}",
        )
        for row in evaluation.get("verdicts", [])
        if row["measure"] != "reward" and row.get("low") is not None
    ]
    found += [
        (
            "04 evaluation",
            f"{name}: letters that can be read, SFT → SFT + RLF",
            f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]: {row['verdict']}",
        )
        for name, row in evaluation.get("readable_letters", {}).items()
    ]
    if evaluation.get("best_of_n"):
        best, ppo = evaluation["best_of_n"][-1], evaluation["frontier"][-1]
        found.append(
            (
                "04 evaluation",
                "gain by the first and by the gold judge, in SFT's standard deviations",
                f"best of {best['n']}: {best['first judge']:+.2f}, {best['gold judge']:+.2f} for "
                f"{best['kl']:.1f} nats; SFT + RLF: {ppo['first judge']:+.2f}, {ppo['gold judge']:+.2f} for "
                f"{ppo['kl']:.1f} nats",
            )
        )
    bars = evaluation.get("benchmarks", [])
    for name in dict.fromkeys(bar["benchmark"] for bar in bars):
        rows = [bar for bar in bars if bar["benchmark"] == name]
        said = " → ".join(f"{bar['accuracy']:.2f} [{bar['low']:.2f}, {bar['high']:.2f}]" for bar in rows)
        found.append(("04 evaluation", f"{name}, base → SFT → SFT + RLF", f"{said} (n = {rows[0]['n']})"))
    return found


def headline(evaluation: dict) -> str:
    """How many measures got better and worse, in two lines."""
    rows = [*evaluation.get("verdicts", []), *evaluation.get("readable_letters", {}).values()]
    verdicts = [row["verdict"] for row in rows]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return f"{len(verdicts)} measures:\n{better} better, {worse} worse"


def _versus_rows(versus: dict) -> list[tuple[str, str, str]]:
    """Gold reward of the seed that the notebook trained: each method, and who went on with new topics."""
    found = {f"gold since SFT, {name}": c for name, c in versus.get("gold", {}).get("known", {}).items()}
    found |= {f"gold on new topics, {name}": c for name, c in versus.get("went_on", {}).items()}
    return [
        (
            "05 PPO against DPO",
            what,
            f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}] (n = {c['n']}): {c['verdict']}",
        )
        for what, c in found.items()
    ]


def _hacking_rows(hacking: dict) -> list[tuple[str, str, str]]:
    if "remedies" not in hacking:
        return []
    fall = hacking["from_peak_to_end"]
    turned = f"{fall['difference']:+.2f} [{fall['low']:+.2f}, {fall['high']:+.2f}] (n = {fall['n']})"
    return [
        ("06 reward hacking", f"gold from its peak (step {fall['peak']}) to the end", turned),
        *(
            (
                "06 reward hacking",
                f"gold since SFT, {one['remedy']}",
                f"{one['gold']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]",
            )
            for one in hacking["remedies"]
        ),
    ]


def _neutral_rows(neutral: dict) -> list[tuple[str, str, str]]:
    return [
        (
            "07 neutral summaries",
            name,
            f"{c['before_mean']:.3g} → {c['after_mean']:.3g};"
            f" {c['difference']:+.3g} [{c['low']:+.3g}, {c['high']:+.3g}] (n = {c['n']})",
        )
        for name, c in neutral.get("measures", {}).items()
        if name in ("neutrality", "similarity", "words")
    ]


def _domain_rows(domain: dict) -> list[tuple[str, str, str]]:
    return [
        (
            "08 domain adaptation",
            f"{measure}, {name}",
            f"{c['before']:.2f} → {c['after']:.2f};"
            f" {c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}] (n = {c['n']})",
        )
        for name, found in domain.get("measures", {}).items()
        for measure, c in found.items()
        if measure in ("facts named", "reward", "choices: truthful_mini")
    ]


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


def readme_table(results: dict) -> str:
    """The README's results, in Markdown."""
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


def update_readme(path: Path, results: dict) -> None:
    """Put the table between the README's two marks.

    Raises:
        ValueError: if the marks are not there.
    """
    text = path.read_text(encoding="utf-8")
    start, end = README_MARKS
    if start not in text or end not in text:
        raise ValueError(f"{path.name} has lost its marks: {start} … {end}")
    pattern = re.escape(start) + ".*?" + re.escape(end)
    filled = f"{start}\n{readme_table(results)}\n{end}"
    path.write_text(re.sub(pattern, lambda _: filled, text, flags=re.DOTALL), encoding="utf-8")


def copy_figures(run: Path, target: Path) -> None:
    """The workshop's five figures of a run, with their numbers where they have any."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in FIGURES:
        for file in sorted((run / "eval" / "figures").glob(f"{name}.*")):
            shutil.copyfile(file, target / file.name)


def stage_picture(results: dict, folder: Path) -> None:
    """The README's picture: the four stages with this run's results under them."""
    from sawyer_utils import plots

    plots.use_style()
    sft, reward, ppo, evaluation = (results[stage] for stage in STAGES)
    change = ppo["reward"]
    lines = {
        "sft": f"loss {sft['heldout_before']:.2f} → {sft['heldout_after']:.2f}\n"
        f"answers that end: {sft['base_finished']:.0%} → {sft['sft_finished']:.0%}",
        "reward": f"right on {reward['accuracy']:.0%} of pairs\n"
        f"(untrained {reward['accuracy_untrained']:.0%})",
        "ppo": f"reward {change['difference']:+.2f}\n[{change['low']:+.2f}, {change['high']:+.2f}] SFT s.d.",
        "eval": headline(evaluation),
    }
    plots.save(plots.four_stages(results=lines), folder, "stages")
