"""The same PPO run with several seeds: does the reward go the same way each time?

    python benchmarks/ppo_seeds.py --seeds 0 1 2
    python benchmarks/ppo_seeds.py --seeds 3 --add      # keep those in the file

Starts from the SFT adapter and the reward model of the current profile's run (or the shipped
ones), asks notebook 04's gold judge too, and writes results/ppo_seeds.json: one row a seed, measured
as in notebook 03. The answers before and after are sampled once each with one fixed seed, so only
training differs.
"""

import argparse
import statistics
import time

from sawyer_utils import data, evaluation, models, ppo, reward, runtime


def run(profile, seed: int) -> dict:
    start = time.perf_counter()
    sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors") / "adapter"
    judge = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors") / "model"
    tokenizer, model = models.load_actor(profile, sft)
    score = reward.RewardModel.load(judge).score
    train = [row["prompt"] for row in data.load_prompts("train", profile.prompts, profile.limit)]
    test = [row["prompt"] for row in data.load_prompts("test", profile.prompts)][: profile.eval_prompts]
    known = evaluation.answer(model, tokenizer, train[:64], profile, seed=1)
    reward_fn, _, _ = reward.standardised(score, train[:64], known.responses)
    before = evaluation.answer(model, tokenizer, test, profile, seed=0)
    config = ppo.PPOConfig.from_profile(profile, seed=seed)
    log = ppo.PPOTrainer(model, tokenizer, reward_fn, config).train(
        train, on_step=lambda log: print(f"seed {seed} step {log[-1]['step']} {log[-1]['reward']:+.2f}")
    )
    after = evaluation.answer(model, tokenizer, test, profile, seed=0)
    rewards = reward_fn(test, before.responses), reward_fn(test, after.responses)
    matched = evaluation.length_matched(*rewards, before.lengths, after.lengths)
    kl = evaluation.kl_to_reference(model, after, models.REF, config.compute)
    gold = runtime.find_stage(profile, "gold", "model/adapter_model.safetensors") / "model"
    gold_score = reward.RewardModel.load(gold).score
    by_gold = evaluation.compare_rewards(*(gold_score(test, a.responses) for a in (before, after)))
    return {
        "seed": seed,
        **evaluation.compare_rewards(*rewards).as_dict(),
        "at_equal_length": [matched.adjusted, matched.adjusted_low, matched.adjusted_high],
        "gold": {**by_gold.as_dict(), "verdict": by_gold.verdict},
        "kl": statistics.mean(kl),
        "length": statistics.mean(after.lengths),
        "finished": statistics.mean(after.finished),
        "curve": [round(line["reward"], 3) for line in log],
        "minutes": (time.perf_counter() - start) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--add", action="store_true", help="of the same SFT and reward model")
    options = parser.parse_args()
    profile = runtime.setup()
    path = runtime.project_root() / "results" / "ppo_seeds.json"
    done = runtime.read_json(path)["seeds"] if options.add and path.exists() else []
    for seed in options.seeds:
        done = [row for row in done if row["seed"] != seed] + [run(profile, seed)]
        path.parent.mkdir(exist_ok=True)
        runtime.write_json(path, {"profile": profile.name, "seeds": done})
        row = done[-1]
        print(f"seed {seed}: {row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]")


if __name__ == "__main__":
    main()
