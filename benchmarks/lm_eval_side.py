"""lm-eval in a process of its own: log-likelihoods of its tasks on local files. Used by
``choices_vs_lm_eval.py`` and by ``tests/test_lm_eval.py``; ``make lm-eval`` installs it.

    PYTHONPATH=build/lm-eval python benchmarks/lm_eval_side.py MODEL TASKS [BATCH] < jobs

``MODEL`` is a folder, or "embedded" for SmolLM2-135M as the course loads it; ``TASKS`` a folder made by
:func:`write_tasks`. A job is a line of JSON, ``{"tasks": […], "rows": […]}`` (without rows: all
of them), and so is each answer: ``{"seconds": …, "requests": …, "tasks": {name: {"acc": …,
"logliks": {id: […]}}}}``, in fp32. The seconds are those inside ``HFLM.loglikelihood`` alone, without
reading data and building prompts.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

INSTALLED = Path(__file__).resolve().parents[1] / "build" / "lm-eval"


def environment() -> dict[str, str]:
    """For the process that runs this file."""
    paths = [INSTALLED, INSTALLED.parents[1], os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, paths))), "HF_HUB_OFFLINE": "1"}


def write_tasks(folder: Path, truthfulqa: Path | None = None, mmlu: Path | None = None) -> None:
    """lm-eval's own task files, with the data read from local ones: ``local_mc1``, ``local_mc2`` and
    ``local_mmlu``.

    Args:
        truthfulqa, mmlu: JSONL in the shape of the Hub's data sets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = INSTALLED / "lm_eval" / "tasks"
    if truthfulqa:
        for kind in ("mc1", "mc2"):
            source = tasks / "truthfulqa" / f"truthfulqa_{kind}.yaml"
            _write_task(folder, f"local_{kind}", source, {"validation": truthfulqa})
    if mmlu:
        rows = [json.loads(line) for line in mmlu.read_text(encoding="utf-8").splitlines()]
        files = {split: folder / f"mmlu_{split}.jsonl" for split in ("dev", "test")}
        for split, file in files.items():
            own = [json.dumps(row) + "\n" for row in rows if row["split"] == split]
            file.write_text("".join(own), encoding="utf-8")
        source = tasks / "mmlu" / "default" / f"mmlu_{rows[0]['subject']}.yaml"
        _write_task(folder, "local_mmlu", source, files)


def _write_task(folder: Path, name: str, source: Path, files: dict[str, Path]) -> None:
    lines = [f"include: {source}", f"task: {name}", "dataset_path: json", "dataset_name: null"]
    lines += ["dataset_kwargs:", "  data_files:"]
    lines += [f"    {split}: {path}" for split, path in files.items()]
    (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(source: str):
    """(tokenizer, model) in fp32."""
    import torch

    if source == "embedded":
        from dataclasses import replace

        from sawyer_utils import models
        from sawyer_utils.profiles import PROFILES

        return models.load_policy(replace(PROFILES["local"], precision="fp32"))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(source), model.eval()


def evaluate(model, manager, job: dict) -> dict:
    import lm_eval

    spent, ask = [], model.loglikelihood

    def timed(requests, **options):
        start = time.perf_counter()
        found = ask(requests, **options)
        spent.append((time.perf_counter() - start, len(requests)))
        return found

    model.loglikelihood = timed
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=job["tasks"],
        num_fewshot=0,
        samples=dict.fromkeys(job["tasks"], job["rows"]) if "rows" in job else None,
        task_manager=manager,
        log_samples=True,
        bootstrap_iters=0,
    )
    model.loglikelihood = ask
    tasks = {}
    for name in job["tasks"]:
        logliks = {s["doc"]["id"]: [each[0][0] for each in s["resps"]] for s in found["samples"][name]}
        tasks[name] = {"acc": found["results"][name]["acc,none"], "logliks": logliks}
    seconds, requests = map(sum, zip(*spent))
    return {"seconds": seconds, "requests": requests, "tasks": tasks}


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever lm-eval prints goes to the log instead
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    source, tasks, batch = (*sys.argv[1:], "8")[:3]
    tokenizer, model = load(source)
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=int(batch))
    manager = TaskManager(include_path=tasks, include_defaults=False)
    for line in sys.stdin:
        print(json.dumps(evaluate(wrapped, manager, json.loads(line))), file=channel, flush=True)


if __name__ == "__main__":
    main()
