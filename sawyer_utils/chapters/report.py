"""What a run recorded, and each number as a row (stage, what, result with its interval)."""

from __future__ import annotations

from collections.abc import Iterator

from sawyer_utils.plumbing.files import home, read_json
from sawyer_utils.profiles import Profile

STAGES = ("sft", "reward", "ppo", "eval")
# Of the chapters after 04.
EXTRA_STAGES = ("versus", "hacking", "neutral", "domain", "checkable", "ai_feedback")

# What a stage recorded -> its rows, by stage: ``what: result``, with the names of its metrics.json.
FIXED = {
    "01 SFT": {
        "loss on held-out conversations, nats per token": "{heldout_before:.2f} → {heldout_after:.2f}"
        " (falls by {loss_fall_share:.0%}, n = {n_heldout})",
        "greedy answers that end by themselves": "{base_finished:.0%} → {sft_finished:.0%} (n = {n_prompts})",
    },
    "02 reward model": {
        "right on held-out pairs": "{accuracy:.3f} [{accuracy_low:.3f}, {accuracy_high:.3f}],"
        " untrained {accuracy_untrained:.3f} (n = {n_pairs})",
        "right where the better answer is the shorter": "{accuracy_shorter:.3f}"
        " [{accuracy_shorter_low:.3f}, {accuracy_shorter_high:.3f}]",
        "own answer over an equally good one to another question": "{accuracy_stranger[0]:.3f}"
        " [{accuracy_stranger[1]:.3f}, {accuracy_stranger[2]:.3f}] (n = {n_strangers})",
    },
    "03 PPO": {
        "reward on held-out prompts, SFT's standard deviations": "{reward[before_mean]:.2f} ±"
        " {reward[before_std]:.2f} → {reward[after_mean]:.2f} ± {reward[after_std]:.2f};"
        " {reward[difference]:+.2f} [{reward[low]:+.2f}, {reward[high]:+.2f}], Wilcoxon p ="
        " {reward[wilcoxon_p]:.1g}, Levene p = {reward[levene_p]:.1g} (n = {reward[n]})",
        "drift, length, finished": "KL {kl:.1f} nats, {length[sft]:.0f} → {length[ppo]:.0f} tokens,"
        " {finished[sft]:.0%} → {finished[ppo]:.0%}",
        "gain left at equal length": "{gain_at_equal_length[0]:+.2f}"
        " [{gain_at_equal_length[1]:+.2f}, {gain_at_equal_length[2]:+.2f}]",
    },
}
CHANGE = "{difference:+.2f} [{low:+.2f}, {high:+.2f}]"
FINE_CHANGE = "{difference:+.3g} [{low:+.3g}, {high:+.3g}]"
NOT_MEASURED = "not measured"


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
    recorded = {stage: results.get(stage) or {} for stage in (*STAGES, *EXTRA_STAGES)}
    fixed = [
        (name, what, result(said, recorded[stage]))
        for stage, (name, lines) in zip(STAGES, FIXED.items(), strict=False)  # the evaluation's are a list
        if recorded[stage]
        for what, said in lines.items()
    ]
    listed = {"04 evaluation": _evaluation, "05 PPO against DPO": _versus, "06 reward hacking": _hacking}
    listed |= {"07 neutral summaries": _neutral, "08 domain adaptation": _domain}
    listed |= {"09 checkable rewards": _checkable, "10 AI feedback": _feedback}
    stages = zip(listed.items(), ("eval", *EXTRA_STAGES), strict=True)
    return fixed + [(name, *row) for (name, rows_of), stage in stages for row in rows_of(recorded[stage])]


def result(said: str, found: dict) -> str:
    """``said`` with the numbers that were found, or that one of them was not measured: ``runtime.record``
    leaves out what is not finite (of a list it keeps None)."""
    try:
        return said.format(**found)
    except (KeyError, TypeError):
        return NOT_MEASURED


def _evaluation(found: dict) -> Iterator[tuple[str, str]]:
    """Measures that PPO never saw, with their computed verdicts, and the mini-benchmarks."""
    for row in found.get("verdicts", []):
        if row["measure"] != "reward":
            said = "{sft:.3g} → {ppo:.3g}; " + FINE_CHANGE + ": {verdict}"
            if row.get("sft"):  # a mean of standardised scores is 0 but for rounding
                row = row | {"sft": round(row["sft"], 9)}
            yield f"{row['measure']}, SFT → SFT + RLF", result(said, row)
    if found.get("best_of_n"):
        bought = "{first judge:+.2f}, {gold judge:+.2f} for {kl:.1f} nats"
        best, ppo = found["best_of_n"][-1], found["frontier"][-1]
        said = f"best of {best['n']}: {result(bought, best)}; SFT + RLF: {result(bought, ppo)}"
        yield "gain by the first and by the gold judge, in SFT's standard deviations", said
    bars = found.get("benchmarks", [])
    for name in dict.fromkeys(bar["benchmark"] for bar in bars):
        rows = [bar for bar in bars if bar["benchmark"] == name]
        said = " → ".join(result("{accuracy:.2f} [{low:.2f}, {high:.2f}]", bar) for bar in rows)
        yield f"{name}, base → SFT → SFT + RLF", f"{said} (n = {rows[0]['n']})"


def _versus(found: dict) -> Iterator[tuple[str, str]]:
    """Gold reward: each method, and what the judge's pick is worth on topics that it never saw."""
    gold = found.get("gold", {})
    named = {f"gold since SFT, {name}": c for name, c in gold.get("known", {}).items()}
    named |= {f"gold on new topics, {n}": c for n, c in gold.get("new", {}).items() if n == "best of n"}
    for what, c in named.items():
        yield what, result(CHANGE + " (n = {n}): {verdict}", c)


def _hacking(found: dict) -> Iterator[tuple[str, str]]:
    if "remedies" not in found:
        return
    fall = found["from_peak_to_end"]
    yield f"gold from its peak (step {fall['peak']}) to the end", result(CHANGE + " (n = {n})", fall)
    for one in found["remedies"]:
        yield f"gold since SFT, {one['remedy']}", result(CHANGE.replace("difference", "gold"), one)


def _neutral(found: dict) -> Iterator[tuple[str, str]]:
    said = "{before_mean:.3g} → {after_mean:.3g}; " + FINE_CHANGE + " (n = {n})"
    for name, c in found.get("measures", {}).items():
        if name in ("neutrality", "similarity", "words"):
            yield name, result(said, c)


def _domain(found: dict) -> Iterator[tuple[str, str]]:
    said = "{before:.2f} → {after:.2f}; " + CHANGE + " (n = {n})"
    for name, measures in found.get("measures", {}).items():
        for measure, c in measures.items():
            if measure in ("facts named", "reward", "choices: truthful_mini"):
                yield f"{measure}, {name}", result(said, c)


def _checkable(found: dict) -> Iterator[tuple[str, str]]:
    for name, gained in found.get("found", {}).items():
        shares = {"before": found["start"].get("reward"), "after": found["right"].get(name)}
        said = "{before:.2f} → {after:.2f}; {reward[0]:+.2f} [{reward[1]:+.2f}, {reward[2]:+.2f}]"
        said += " over seeds and prompts"
        yield f"right answers on held-out prompts, {name}", result(said, shares | gained)


def _feedback(found: dict) -> Iterator[tuple[str, str]]:
    for name, c in found.get("right", {}).items():
        yield f"right on held-out pairs, {name}", result("{right:.2f} [{low:.2f}, {high:.2f}] (n = {n})", c)
    for c in found.get("changes", []):
        yield f"{c['measure']}, since SFT", result(CHANGE + " (n = {n}): {verdict}", c)


def headline(evaluation: dict) -> str:
    """How many measures got better and worse, in two lines."""
    verdicts = [row["verdict"] for row in evaluation.get("verdicts", [])]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return f"{len(verdicts)} measures:\n{better} better, {worse} worse"
