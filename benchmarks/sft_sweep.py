"""Rank, learning rate and steps of the SFT stage, one changed at a time.

    SAWYER_PROFILE=local python benchmarks/sft_sweep.py [--steps N]

Five trainings from the same start and seed (about 20 minutes on 2 idle cores). Each is added to
results/sft_sweep.json as it ends, and notebook 01 shows the table.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from sawyer_utils import data, evaluation, models, runtime, sft
from sawyer_utils.plumbing import machine
from sawyer_utils.profiles import Profile, current_profile

RESULTS = runtime.project_root() / "results" / "sft_sweep.json"


def variants(profile: Profile, steps: int) -> dict[str, tuple[Profile, int]]:
    """name -> (profile, steps); rank 8 is the course's own setting."""
    ranks = {f"rank {r}": (replace(profile, lora_rank=r, lora_alpha=2 * r), steps) for r in (2, 8, 32)}
    slow = replace(profile, sft_lr=profile.sft_lr / 5)
    return {**ranks, "learning rate x 0.2": (slow, steps), "half the steps": (profile, steps // 2)}


def run(name: str, profile: Profile, steps: int, train: list, held: list, prompts: list[str]) -> dict:
    """Train one variant from scratch and measure it."""
    runtime.seed_everything(0)
    profile = replace(profile, sft_max_steps=steps)
    tokenizer, model = models.load_policy(profile)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    folder = Path(tempfile.mkdtemp())
    try:
        log = sft.train_sft(
            model, tokenizer, profile, train, folder, on_log=lambda log: None, save_strategy="no"
        )
    finally:
        shutil.rmtree(folder)
    losses = sft.conversation_losses(model, tokenizer, held)
    answers = evaluation.answer(model, tokenizer, prompts, profile, temperature=0)
    low, high = evaluation.bootstrap_interval(losses)
    finished = sum(answers.finished)
    finished_low, finished_high = evaluation.wilson_interval(finished, len(prompts))
    return {
        "name": name,
        "rank": profile.lora_rank,
        "learning_rate": profile.sft_lr,
        "steps": steps,
        "trainable_parameters": models.count_parameters(model)[0],
        "heldout_loss": sum(losses) / len(losses),
        "heldout_low": low,
        "heldout_high": high,
        "share_finished": finished / len(prompts),
        "finished_low": finished_low,
        "finished_high": finished_high,
        "mean_length": sum(answers.lengths) / len(prompts),
        "seconds": log[-1]["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="steps of a full training (default: the profile's)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine.quiet_libraries()
    profile = current_profile()
    rows = data.load_conversations(profile.conversations, profile.limit)
    train, held = data.split_rows(rows, 0.12)
    steps = options.steps or sft.total_steps(profile, len(train))
    if steps < 2:
        parser.error("--steps must be at least 2: one variant takes half of them.")
    prompts = [r["prompt"] for r in data.load_prompts("test", profile.prompts, profile.eval_prompts)]
    report = {
        "profile": profile.name,
        "machine": machine.report(profile, runtime.choose_precision(profile.precision)).splitlines()[1:],
        "n_heldout": len(held),
        "n_prompts": len(prompts),
        "runs": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name, (variant, variant_steps) in variants(profile, steps).items():
        result = run(name, variant, variant_steps, train, held, prompts)
        report["runs"].append(result)
        runtime.write_json(options.output, report)
        print(
            f"{name:20s} loss {result['heldout_loss']:.3f}  finished {result['share_finished']:.0%}  "
            f"{result['trainable_parameters']:,} parameters  {result['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
