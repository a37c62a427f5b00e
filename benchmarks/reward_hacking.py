"""Notebook 06's bad run with several seeds: does the gold reward turn each time?

    python benchmarks/reward_hacking.py --seeds 0 1 2

Another seed draws other pairs for the one-sided judge, another start of its head, and other samples in PPO.
Writes results/reward_hacking.json after each seed: what was seen at each look, without the texts.
"""

import argparse
import statistics

from sawyer_utils import data, models, reward, runtime
from sawyer_utils.chapters import hacking


def open_lab(profile, seed: int, folder) -> hacking.Lab:
    sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors") / "adapter"
    gold = runtime.find_stage(profile, "gold", "model/adapter_model.safetensors") / "model"
    tokenizer, model = models.load_actor(profile, sft)
    rows, _ = data.split_rows(data.load_preferences(profile.preferences, profile.limit), 0.2)
    few = hacking.one_sided(data.pairs(rows), profile.hack_pairs, seed)
    proxy = hacking.train_judge(profile, few, folder / "judge", seed)
    train = [row["prompt"] for row in data.load_prompts("train", profile.prompts, profile.limit)]
    test = [row["prompt"] for row in data.load_prompts("test", profile.prompts)][: profile.eval_prompts]
    judges = proxy.score, reward.RewardModel.load(gold).score
    return hacking.Lab(profile, tokenizer, model, train, test, *judges, folder)


def row(seed: int, run: hacking.Run) -> dict:
    """One line of the file."""
    top, last = hacking.peak(run.looks), run.looks[-1]
    turned = hacking.on_the_rest(top, last)
    looks = [
        {
            "step": one.step,
            "kl": one.kl,
            "proxy": statistics.mean(one.proxy),
            "gold": statistics.mean(one.gold),
            "length": one.length,
            "finished": one.finished,
        }
        for one in run.looks
    ]
    fall = {"peak": top.step, "difference": turned.difference, "low": turned.low, "high": turned.high}
    return {"seed": seed, "looks": looks, "from_peak_to_end": fall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    profile = hacking.settings(runtime.setup())
    rows = []
    for seed in seeds:
        folder = runtime.run_dir(profile, "hacking") / f"seed-{seed}"
        lab = open_lab(profile, seed, folder)
        print("seed", seed, "start", round(statistics.mean(lab.start.gold), 2))
        tell = lambda log, seed=seed: print(  # noqa: E731
            seed, log[-1]["step"], {k: round(log[-1][k], 2) for k in ("reward", "kl", "length", "finished")}
        )
        run = lab.run("bad", lab.proxy, looks=hacking.LOOKS, on_step=tell, seed=seed)
        rows.append(row(seed, run))
        print(rows[-1])
        runtime.write_json(runtime.project_root() / "results" / "reward_hacking.json", {"seeds": rows})


if __name__ == "__main__":
    main()
