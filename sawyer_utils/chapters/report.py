"""What a run recorded, and each number as a row (stage, what, result with its interval)."""

from __future__ import annotations

from sawyer_utils.plumbing.files import home, read_json
from sawyer_utils.profiles import Profile

STAGES = ("sft", "reward", "ppo", "eval")
EXTRA_STAGES = ("versus", "hacking", "neutral", "domain", "checkable")  # of the chapters after 04


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
    made = (*course, _versus_rows, _hacking_rows, _neutral_rows, _domain_rows, _checkable_rows)
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
    verdicts = [row["verdict"] for row in evaluation.get("verdicts", [])]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    return f"{len(verdicts)} measures:\n{better} better, {worse} worse"


def _versus_rows(versus: dict) -> list[tuple[str, str, str]]:
    """Gold reward: each method, and what the judge's pick is worth on topics that it never saw."""
    gold = versus.get("gold", {})
    found = {f"gold since SFT, {name}": c for name, c in gold.get("known", {}).items()}
    found |= {f"gold on new topics, {n}": c for n, c in gold.get("new", {}).items() if n == "best of n"}
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


def _checkable_rows(checkable: dict) -> list[tuple[str, str, str]]:
    start = checkable.get("start", {})
    return [
        (
            "09 checkable rewards",
            f"right answers on held-out prompts, {name}",
            f"{start['reward']:.2f} → {checkable['right'][name]:.2f};"
            " {:+.2f} [{:+.2f}, {:+.2f}] over seeds and prompts".format(*found["reward"]),
        )
        for name, found in checkable.get("found", {}).items()
    ]
