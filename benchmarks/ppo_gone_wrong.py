"""Four short PPO runs, three of them sick on purpose: what notebook 03 asks learners to diagnose.

    python benchmarks/ppo_gone_wrong.py [--steps 10]

Writes results/ppo_runs.json. Names are letters, so that the notebook gives nothing away.
"""

import argparse

from sawyer_utils import data, evaluation, models, ppo, reward, runtime


def brief(prompts, responses):
    """Pays for brevity and nothing else: won by saying one word."""
    return [1.0 - 0.1 * len(r.split()) for r in responses]


def long(prompts, responses):
    """Pays for every word."""
    return [0.1 * len(r.split()) for r in responses]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    steps = parser.parse_args().steps
    profile = runtime.setup()
    sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors") / "adapter"
    judge = runtime.find_stage(profile, "reward", "model/adapter_model.safetensors") / "model"
    tokenizer, model = models.load_actor(profile, sft)
    train = [row["prompt"] for row in data.load_prompts("train", profile.prompts, profile.limit)]
    known = evaluation.answer(model, tokenizer, train[:64], profile, seed=1)
    liked, _, _ = reward.standardised(reward.RewardModel.load(judge).score, train[:64], known.responses)
    small = {"steps": steps, "batch_size": 16, "micro_batch": 8, "response_tokens": 40}
    runs = {
        "Run A": (liked, {"kl_coef": 0.0, "learning_rate": 5 * profile.ppo_lr}),
        "Run B": (brief, {"kl_coef": 0.0, "learning_rate": 2 * profile.ppo_lr}),
        "Run C": (liked, {}),
        "Run D": (long, {"kl_coef": 0.0, "missing_stop_penalty": 0.0}),
    }
    saved = {}
    for name, (reward_fn, settings) in runs.items():
        models.load_policy_weights(model, sft)
        config = ppo.PPOConfig.from_profile(profile, **{**small, **settings})
        trainer = ppo.PPOTrainer(model, tokenizer, reward_fn, config)
        try:
            trainer.train(train, on_step=lambda log, name=name: print(name, log[-1]["step"]))
        except ppo.TrainingStopped as stopped:  # a collapse is one of the things to show
            print(name, stopped)
        saved[name] = {"log": trainer.log}
        runtime.write_json(runtime.project_root() / "results" / "ppo_runs.json", saved)


if __name__ == "__main__":
    main()
