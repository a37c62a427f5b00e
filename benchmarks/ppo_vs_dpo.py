"""Notebook 05's four uses of one preference set, with several seeds.

    python benchmarks/ppo_vs_dpo.py --seeds 0 1 2
    python benchmarks/ppo_vs_dpo.py --seeds 0 1 2 --home FOLDER      # another run folder

Starts from the SFT adapter of the current profile's run (or the shipped one). The judge is trained once
and the SFT model's answers are sampled once; each seed then trains PPO, DPO and RLOO, goes on with the
new topics, and samples its own best of n. The dice of the evaluation are the same for all. What is in
the run folder is not done again. Writes results/ppo_vs_dpo.json after each seed.
"""

import argparse
import os


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--home", help="the run folder (SAWYER_HOME)")
    options = parser.parse_args()
    if options.home:
        os.environ["SAWYER_HOME"] = options.home
    from sawyer_utils import runtime
    from sawyer_utils.chapters import versus

    profile = runtime.setup()
    path = runtime.project_root() / "results" / "ppo_vs_dpo.json"
    common = versus.prepare(profile)
    found = {"profile": profile.name, "run": common.folder.name, "seeds": []}
    for seed in options.seeds:
        row = versus.run(profile, seed, common)
        found["seeds"].append(row)
        runtime.write_json(path, found)
        for name, budget in row["budgets"].items():
            gold = row["known" if name in row["known"] else "new"][name]["gold"]
            print(
                f"seed {seed} {name:10s} {budget['seconds']:4.0f} s, gold {gold['difference']:+.2f} "
                f"[{gold['low']:+.2f}, {gold['high']:+.2f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
