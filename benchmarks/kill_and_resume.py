"""Kill a training at a random moment, start it again: is it the same training?

    python benchmarks/kill_and_resume.py --times 5

Each stage, with the embedded weights and few steps, runs once to its end. Then, ``times`` times in a row,
a fresh one is killed (SIGKILL, so that nothing can tidy up) at a moment drawn from the whole length of the
first, and started again. Compared are every number of the log but the times, and the weights to the last bit.
Writes results/kill_and_resume.json; ends with an error if one of them differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from sawyer_utils import runtime
from sawyer_utils.plumbing.machine import quiet_libraries
from sawyer_utils.profiles import PROFILES

STAGES = {"sft": "adapter", "reward": "model", "ppo": "adapter"}
STEPS = 6
PROFILE = replace(PROFILES["smoke"], sft_max_steps=STEPS, reward_max_steps=STEPS, ppo_steps=STEPS)


# --- what is killed: one training in a process of its own ---------------------------------------


def train(stage: str, folder: Path) -> None:
    quiet_libraries()
    runtime.seed_everything(0)
    log = {"sft": train_sft, "reward": train_reward, "ppo": train_ppo}[stage](folder)
    runtime.write_json(folder / "log.json", log)


def train_sft(folder: Path) -> list[dict]:
    from sawyer_utils import data, models, sft

    tokenizer, base = models.load_policy(PROFILE)
    model = models.add_lora(base, PROFILE.lora_rank, PROFILE.lora_alpha)
    return sft.train_sft(model, tokenizer, PROFILE, data.load_conversations("embedded", 48), folder)


def train_reward(folder: Path) -> list[dict]:
    from sawyer_utils import data, reward

    pairs = data.pairs(data.load_preferences("embedded", 48))
    tuned = replace(PROFILE, reward_base=PROFILE.encoder, reward_frozen=False)  # only that keeps checkpoints
    return reward.train_reward(reward.RewardModel.untrained(tuned), tuned, pairs, folder)


def train_ppo(folder: Path) -> list[dict]:
    from sawyer_utils import data, models, ppo

    sft_adapter = runtime.project_root() / "checkpoints" / "local" / "sft" / "adapter"
    tokenizer, model = models.load_actor(PROFILE, sft_adapter)

    def few_e(prompts, responses):
        return [-response.count("e") / (1 + len(response)) for response in responses]

    trainer = ppo.PPOTrainer(model, tokenizer, few_e, ppo.PPOConfig.from_profile(PROFILE), folder)
    log = trainer.train([row["prompt"] for row in data.load_prompts("train", "embedded", 48)])
    models.save_adapter(model, folder / "adapter", models.POLICY)
    return log


# --- the killer ---------------------------------------------------------------------------------


def start(stage: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", stage, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(stage: str, folder: Path) -> tuple[list[dict], bytes]:
    """The log without its times, and the weights' file."""
    timed = ("second", "memory")
    log = [
        {key: value for key, value in line.items() if not any(word in key for word in timed)}
        for line in runtime.read_json(folder / "log.json")
    ]
    return log, (folder / STAGES[stage] / "adapter_model.safetensors").read_bytes()


def steps_kept(folder: Path) -> int:
    """How far the killed training had come, by its last checkpoint."""
    states = [runtime.read_json(path) for path in (folder / "checkpoint").rglob("*state.json")]
    return max((state.get("steps_done", state.get("global_step", 0)) for state in states), default=0)


def try_stage(stage: str, times: int, dice: random.Random) -> list[dict]:
    rounds = []
    with tempfile.TemporaryDirectory() as home:
        began = time.monotonic()
        start(stage, Path(home) / "whole").wait()
        length = time.monotonic() - began
        whole = outcome(stage, Path(home) / "whole")
        for k in range(times):
            folder, moment = Path(home) / f"cut-{k}", dice.uniform(0, length)
            process = start(stage, folder)
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
            kept = steps_kept(folder)
            start(stage, folder).wait()
            same = outcome(stage, folder) == whole
            rounds.append({"moment": moment / length, "killed": killed, "steps_kept": kept, "same": same})
            print(f"{stage:7s}killed at {moment / length:4.0%}, {kept} of {STEPS} steps kept: same {same}")
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return train(options.child[0], Path(options.child[1]))
    dice = random.Random(options.seed)
    found = {stage: try_stage(stage, options.times, dice) for stage in STAGES}
    machine = {"cpu_cores": os.cpu_count()}
    path = runtime.project_root() / "results" / "kill_and_resume.json"
    runtime.write_json(path, {"steps": STEPS, "machine": machine, **found})
    if not all(one["same"] for rounds in found.values() for one in rounds):
        sys.exit("a training that was killed ended elsewhere")


if __name__ == "__main__":
    main()
