"""TruthfulQA's mc1 and mc2 by log-likelihood, here and in lm-eval 0.4.13: speed, and the same numbers.

    make lm-eval
    python benchmarks/choices_vs_lm_eval.py                 # 24 items in both, then all 100 here
    python benchmarks/choices_vs_lm_eval.py --items 100     # all in both: ten minutes or more

SmolLM2-135M in fp32 with the same attention on both sides. The items are cut into rounds; in each, both
score the same ones in turn, and neither computes while the other is measured. lm-eval's time is that
inside ``HFLM.loglikelihood`` alone; ours is all of ``choices.score_choices``. Writes
results/choices_vs_lm_eval.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import lm_eval_side as side
import torch

from sawyer_utils import models, runtime
from sawyer_utils.chapters import choices
from sawyer_utils.plumbing.machine import quiet_libraries
from sawyer_utils.profiles import PROFILES

TASKS = ("mc1", "mc2")


@contextmanager
def lm_eval_process(rows: Path, batch: int):
    """``ask(row numbers)``: a process that holds its model, and waits."""
    with tempfile.TemporaryDirectory() as folder:
        side.write_tasks(Path(folder), truthfulqa=rows)
        command = [sys.executable, side.__file__, "embedded", folder, str(batch)]
        environment = side.environment() | {"HF_DATASETS_CACHE": f"{folder}/cache"}
        with (
            open(side.INSTALLED.parent / "lm_eval.log", "w") as log,
            subprocess.Popen(command, stdin=-1, stdout=-1, stderr=log, text=True, env=environment) as process,
        ):

            def ask(numbers: list[int]) -> dict:
                job = {"tasks": [f"local_{task}" for task in TASKS], "rows": numbers}
                print(json.dumps(job), file=process.stdin, flush=True)
                answer = process.stdout.readline()
                if not answer:
                    raise RuntimeError(f"lm-eval stopped; see {log.name}")
                return json.loads(answer)

            yield ask
            process.stdin.close()


def ours(model, tokenizer, questions: list[dict]):
    """(seconds, frame)."""
    start = time.perf_counter()
    frame = choices.score_choices(model, tokenizer, questions)
    return time.perf_counter() - start, frame


def largest_difference(frame, theirs: dict) -> float:
    """In nats, over all choices of all items."""
    return max(
        abs(a - b)
        for row in frame.itertuples()
        for a, b in zip(
            row.logliks,
            theirs["tasks"][row.task.replace("truthfulqa", "local")]["logliks"][row.id],
            strict=True,
        )
    )


def in_turns(score, ask, pairs: list[list[dict]], numbers: list[int], rounds: int) -> dict:
    """Both sides on the same items, round by round.

    Args:
        score: our side, of questions.
        ask: lm-eval's, of row numbers.
        pairs: each row's mc1 and mc2.
        numbers: the rows to take.
    """
    counted, difference = [], 0.0
    for part in (numbers[start::rounds] for start in range(rounds)):
        seconds, frame = score([question for number in part for question in pairs[number]])
        theirs = ask(part)
        requests = int(frame.logliks.map(len).sum())
        assert requests == theirs["requests"]
        difference = max(difference, largest_difference(frame, theirs))
        counted.append({"requests": requests, "ours": seconds, "lm_eval": theirs["seconds"]})
        print(f"{requests} requests: ours {seconds:.1f} s, lm-eval {theirs['seconds']:.1f} s", flush=True)
    requests = sum(each["requests"] for each in counted)
    return {
        "items": len(numbers),
        "rounds": counted,
        "requests_per_second": {
            who: requests / sum(each[who] for each in counted) for who in ("ours", "lm_eval")
        },
        "ratio": statistics.median(each["lm_eval"] / each["ours"] for each in counted),
        "largest_difference_nats": difference,
    }


def everything(score, pairs: list[list[dict]]) -> dict:
    """Our side alone, on all items."""
    seconds, frame = score([question for pair in pairs for question in pair])
    means = frame.groupby("task")[["correct", "mass"]].mean()
    return {
        "items": len(pairs),
        "requests": int(frame.logliks.map(len).sum()),
        "seconds": seconds,
        "mc1": float(means.correct["truthfulqa_mc1"]),
        "mc2": float(means.mass["truthfulqa_mc2"]),
    }


def machine() -> dict:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    name = names[0].partition(": ")[2] if names else platform.processor()
    return {"cpu": name, "threads": torch.get_num_threads(), "load_before": round(os.getloadavg()[0], 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    shared = Path(os.environ.get("SAWYER_SHARED") or runtime.project_root().parent / "shared" / "data")
    parser.add_argument("--rows", type=Path, default=shared / "truthfulqa_mc_100.jsonl")
    parser.add_argument("--items", type=int, default=24, help="scored by both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="lm-eval's")
    options = parser.parse_args()
    quiet_libraries()
    found = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in ("torch", "transformers")} | {"lm_eval": "0.4.13"},
        "lm_eval_batch": options.batch,
    }
    tokenizer, model = models.load_policy(replace(PROFILES["local"], precision="fp32"))
    score = partial(ours, model, tokenizer)
    questions = choices.load_questions(str(options.rows))
    pairs = [questions[i : i + 2] for i in range(0, len(questions), 2)]
    score(pairs[-1])  # not counted
    with lm_eval_process(options.rows, options.batch) as ask:
        ask([len(pairs) - 1])
        numbers = list(range(len(pairs)))[:: max(1, len(pairs) // options.items)][: options.items]
        found |= in_turns(score, ask, pairs, numbers, options.rounds)
    found["all"] = everything(score, pairs)
    speeds = found["requests_per_second"]
    print(f"requests a second: ours {speeds['ours']:.1f}, lm-eval {speeds['lm_eval']:.2f}")
    print(f"ratio {found['ratio']:.1f}, largest difference {found['largest_difference_nats']:.1g} nats")
    print("all items, here:", found["all"])
    runtime.write_json(runtime.project_root() / "results" / "choices_vs_lm_eval.json", found)


if __name__ == "__main__":
    main()
