"""Notebook 03's PPO run with several seeds: does it come out the same each time?

    python benchmarks/ppo_seeds.py --seeds 0 1 2 3 4
    python benchmarks/ppo_seeds.py --seeds 5 --add      # keep those in the file
    python benchmarks/ppo_seeds.py --baseline group     # results/ppo_group_seeds.json
    python benchmarks/ppo_seeds.py --confirm            # only the median seed: is it as in the file?

Starts from the SFT adapter and the two judges of the current profile's run (or the shipped ones) and writes
results/ppo_seeds.json: one row a seed, measured as in notebook 03, and all of them together with an interval
that draws seeds and prompts. Answers before and after are sampled once each with one fixed seed, so only the
training differs. About 10 minutes a seed on two quiet cores.

``--confirm`` is for a change of the code that should change no result. If the median seed has the table's
numbers to the last digit, the table counts as one of the code as it is now. (Digits hang on the number of
threads: the group's table was made with OMP_NUM_THREADS=1.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import freshness
import numpy as np

from sawyer_utils import chat, data, evaluation, models, ppo, reward, runtime

WEIGHTS = "adapter_model.safetensors"


class Runs:
    """What all seeds share: the start, the judges, the prompts, and the SFT model's answers."""

    def __init__(self, profile, folders: list[Path], **settings):
        self.profile, self.settings = profile, settings
        self.sft, *judges = folders
        self.tokenizer, self.model = models.load_actor(profile, self.sft)
        rows = [data.load_prompts("train", profile.prompts, profile.limit)]
        rows += [data.load_prompts("test", profile.prompts)]
        fitting = (chat.that_fit(self.tokenizer, some, profile.prompt_tokens) for some in rows)
        self.train, test = ([row["prompt"] for row in some] for some in fitting)
        self.test = test[: profile.eval_prompts]
        known = evaluation.answer(self.model, self.tokenizer, self.train[:64], profile, seed=1)
        self.scores = {}
        for name, path in zip(("reward", "gold"), judges, strict=True):
            score = reward.RewardModel.load(path).score
            self.scores[name], _, _ = reward.standardised(score, self.train[:64], known.responses)
        self.similarity = evaluation.Similarity(profile.encoder)
        self.before = evaluation.answer(self.model, self.tokenizer, self.test, profile, seed=0)
        self.scored = self.judged(self.before.responses)

    def judged(self, responses: list[str]) -> dict[str, np.ndarray]:
        return {name: np.array(score(self.test, responses)) for name, score in self.scores.items()}

    def run(self, seed: int) -> dict:
        start = time.perf_counter()
        models.restart(self.model)
        config = ppo.PPOConfig.from_profile(self.profile, seed=seed, **self.settings)
        log = ppo.PPOTrainer(self.model, self.tokenizer, self.scores["reward"], config).train(
            self.train,
            on_step=lambda log: print(
                f"seed {seed} step {log[-1]['step']} {log[-1]['reward']:+.2f}", flush=True
            ),
        )
        after = evaluation.answer(self.model, self.tokenizer, self.test, self.profile, seed=0)
        scored = self.judged(after.responses)
        gains = {name: scored[name] - self.scored[name] for name in scored}
        lengths = self.before.lengths, after.lengths
        matched = evaluation.length_matched(self.scored["reward"], scored["reward"], *lengths)
        won = (gains["gold"] > 0) + 0.5 * (gains["gold"] == 0)
        return {
            "seed": seed,
            **{name: _with_interval(found) for name, found in gains.items()},
            "at_equal_length": [matched.adjusted, matched.adjusted_low, matched.adjusted_high],
            "gold_wins": _with_interval(won),
            "kl": statistics.mean(evaluation.kl_to_reference(self.model, after, models.REF, config.compute)),
            "tokens": [statistics.mean(some) for some in lengths],
            "finished": [float(np.mean(a.finished)) for a in (self.before, after)],
            "spread": [float(self.scored["reward"].std(ddof=1)), float(scored["reward"].std(ddof=1))],
            "similarity": [
                statistics.mean(self.similarity(self.test, a.responses)) for a in (self.before, after)
            ],
            "curve": [round(line["reward"], 3) for line in log],
            "minutes": round((time.perf_counter() - start) / 60, 1),
            "gains": {name: [round(float(x), 4) for x in found] for name, found in gains.items()},
        }


def _with_interval(found: np.ndarray) -> list[float]:
    return [float(np.mean(found)), *evaluation.bootstrap_interval(found)]


def together(rows: list[dict]) -> dict:
    """Mean over seeds and prompts, with intervals that draw both; and which seed is the median."""
    found = {name: evaluation.over_seeds([row["gains"][name] for row in rows]) for name in rows[0]["gains"]}
    means = sorted((row["reward"][0], row["seed"]) for row in rows)
    return {
        **found,
        "seeds": len(rows),
        "median_seed": means[(len(means) - 1) // 2][1],
        "kl": statistics.mean(row["kl"] for row in rows),
        "at_equal_length": statistics.mean(row["at_equal_length"][0] for row in rows),
        "gold_wins": statistics.mean(row["gold_wins"][0] for row in rows),
    }


def confirm(report: dict, depends: dict[str, str], row: dict) -> dict:
    """The report as one of today's code.

    Args:
        row: a seed of the report as it comes out today.

    Raises:
        SystemExit: if a number of it is another one.
    """
    row = json.loads(json.dumps(row))
    (then,) = (old for old in report["rows"] if old["seed"] == row["seed"])
    if changed := [key for key in then if key != "minutes" and row[key] != then[key]]:
        raise SystemExit(f"Seed {row['seed']} came out otherwise: {', '.join(changed)}.")
    return {**report, "depends_on": depends}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--add", action="store_true", help="of the same SFT and reward model")
    parser.add_argument("--confirm", action="store_true", help="by the median seed; renew the digests")
    parser.add_argument("--baseline", choices=["critic", "group"], default="critic")
    options = parser.parse_args()
    profile = runtime.setup()
    name = {"critic": "ppo_seeds.json", "group": "ppo_group_seeds.json"}[options.baseline]
    path = runtime.project_root() / "results" / name
    folders = [runtime.find_stage(profile, stage, f"{part}/{WEIGHTS}") / part
               for stage, part in (("sft", "adapter"), ("reward", "model"), ("gold", "model"))]  # fmt: skip
    depends = freshness.of_ppo(profile, *folders)
    runs = Runs(profile, folders, baseline=options.baseline)
    if options.confirm:
        report = runtime.read_json(path)
        row = runs.run(report["together"]["median_seed"])
        runtime.write_json(path, confirm(report, depends, row))
        return
    done = runtime.read_json(path)["rows"] if options.add and path.exists() else []
    for seed in options.seeds:
        done = sorted(
            [row for row in done if row["seed"] != seed] + [runs.run(seed)], key=lambda r: r["seed"]
        )
        path.parent.mkdir(exist_ok=True)
        report = {"profile": profile.name, "depends_on": depends, "together": together(done), "rows": done}
        runtime.write_json(path, report)
        row = next(row for row in done if row["seed"] == seed)
        print({key: value for key, value in row.items() if key not in ("gains", "curve")}, flush=True)


if __name__ == "__main__":
    main()
