"""What if answers ended with a new token, whose row stays at the mean of "stop talking"?

    SAWYER_PROFILE=local python benchmarks/stop_token.py

One training of the SFT stage, equal to that of notebook 01 but for the token (5 minutes on 2 idle cores).
The result goes to results/stop_token.json, and notebook 01 cites it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from sawyer_utils import chat, data, evaluation, models, runtime, sft
from sawyer_utils.plumbing import machine
from sawyer_utils.profiles import Profile, current_profile

RESULTS = runtime.project_root() / "results" / "stop_token.json"
STOP = "###STOP###"


def give_it_a_stop_token(tokenizer, model) -> None:
    """A third control token, which ends answers in the place of the base's end token."""
    tokenizer.add_special_tokens({"extra_special_tokens": [*chat.MEANINGS, STOP]})
    tokenizer.eos_token = STOP
    tokenizer.chat_template = chat.chat_template(tokenizer)
    chat.start_as_phrases(model, tokenizer, {**chat.MEANINGS, STOP: "stop talking"})
    model.config.eos_token_id = tokenizer.eos_token_id
    model.requires_grad_(False)


def run(profile: Profile, train: list, held: list, prompts: list[str]) -> dict:
    """Train, and measure on held-out conversations and the test prompts."""
    tokenizer, model = models.load_policy(profile)
    give_it_a_stop_token(tokenizer, model)
    runtime.seed_everything(0)
    model = models.add_lora(model, profile.lora_rank, profile.lora_alpha)
    with tempfile.TemporaryDirectory() as folder:
        log = sft.train_sft(model, tokenizer, profile, train, Path(folder), on_log=lambda log: None)
    found = sft.graded_losses(model.eval(), tokenizer, held)
    answers = evaluation.answer(model, tokenizer, prompts, profile, temperature=0)
    return {
        "end": tokenizer.eos_token,
        "held_out_loss": sum(sum(x) / len(x) for _, x in found) / len(found),
        "loss_of_the_end": sum(x[-1] for _, x in found) / len(found),
        "share_finished": sum(answers.finished) / len(prompts),
        "steps": log[-1]["step"],
        "seconds": log[-1]["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine.quiet_libraries()
    profile = current_profile()
    train, held = data.split_rows(data.load_conversations(profile.conversations, profile.limit), 0.12)
    rows = data.load_prompts("test", profile.prompts, profile.eval_prompts)
    found = run(profile, train, held, [row["prompt"] for row in rows])
    report = {"profile": profile.name, "n_heldout": len(held), "n_prompts": len(rows), **found}
    print(report)
    runtime.write_json(options.output, report)


if __name__ == "__main__":
    main()
