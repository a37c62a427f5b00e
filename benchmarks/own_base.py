"""What does notebook 01's training make of another base? Its answers to the five fixed questions.

    SAWYER_PROFILE=local SAWYER_MODEL=embedded:gemma3-270m python benchmarks/own_base.py --steps 24

The SFT stage of notebook 01 on the base that SAWYER_MODEL names, whole or a shorter one. Greedy answers
before and after, minutes and memory go to results/own_base.json, one entry a base.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from sawyer_utils import data, evaluation, models, runtime, sft
from sawyer_utils.chat import that_fit
from sawyer_utils.plumbing import machine, memory
from sawyer_utils.profiles import Profile, current_profile

RESULTS = runtime.project_root() / "results" / "own_base.json"


def run(profile: Profile, conversations: list[dict]) -> dict:
    """Ask, train, ask again; what is recorded of it."""
    tokenizer, model = models.load_policy(profile)
    fitting = that_fit(tokenizer, conversations, profile.conversation_tokens)
    train, held = data.split_rows(fitting, 0.12)

    def asked(model) -> dict:
        answers = evaluation.answer(model, tokenizer, list(data.FIXED_PROMPTS), profile, temperature=0)
        losses = [sum(x) / len(x) for _, x in sft.graded_losses(model, tokenizer, held)]
        found = {"answers": answers.responses, "finished": answers.finished}
        return found | {"held_out_loss": sum(losses) / len(losses)}

    before = asked(model)
    runtime.seed_everything(0)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    with tempfile.TemporaryDirectory() as folder:
        log = sft.train_sft(model, tokenizer, profile, train, Path(folder), on_log=lambda log: None)
    return {
        "weights": models.count_parameters(model)[1],
        "questions": list(data.FIXED_PROMPTS),
        "before": before,
        "after": asked(model.eval()),
        "n_heldout": len(held),
        "steps": log[-1]["step"],
        "minutes": log[-1]["seconds"] / 60,
        **memory.peak_memory_gib().entry,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--steps", type=int, help="of the training; default: the profile's")
    options = parser.parse_args()
    machine.quiet_libraries()
    profile = current_profile()
    profile = replace(profile, sft_max_steps=options.steps or profile.sft_max_steps)
    found = run(profile, data.load_conversations(profile.conversations, profile.limit))
    precision = runtime.choose_precision(profile.precision)
    on = {"device": precision.device, "compute": str(precision.compute), "cpu_cores": os.cpu_count()}
    on["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    known = runtime.read_json(options.output) if options.output.exists() else {}
    known[profile.policy_base] = {"profile": profile.name, "machine": on, **found}
    runtime.write_json(options.output, known)
    print(f"{found['steps']} steps, {found['minutes']:.1f} min: {options.output}")


if __name__ == "__main__":
    main()
