"""The multiple-choice scores against lm-eval 0.4.13 itself, task by task, on real rows.

Skipped, saying so, without lm-eval (``make lm-eval`` installs it) or without the shared data
(``../shared/data`` beside the project, or the folder in ``SAWYER_SHARED``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sawyer_utils.chapters import choices

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import lm_eval_side as side

SHARED = Path(os.environ.get("SAWYER_SHARED") or Path(__file__).parents[2] / "shared" / "data")
TRUTHFULQA, MMLU = SHARED / "truthfulqa_mc_100.jsonl", SHARED / "mmlu_world_religions_65.jsonl"
MISSING = [str(path) for path in (TRUTHFULQA, MMLU) if not path.exists()]

pytestmark = [
    pytest.mark.skipif(not (side.INSTALLED / "lm_eval").exists(), reason="no lm-eval: `make lm-eval`"),
    pytest.mark.skipif(bool(MISSING), reason=f"no shared data: {', '.join(MISSING)}"),
]

ROWS = 12  # of each task
JOBS = {"truthfulqa": {"tasks": ["local_mc1", "local_mc2"]}, "mmlu": {"tasks": ["local_mmlu"]}}


@pytest.fixture(scope="module")
def tiny(tokenizer, tiny_model):
    return tiny_model(max_position_embeddings=2048, num_key_value_heads=2)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """``(TruthfulQA, MMLU)``: the first rows of each, and the solved ones that lm-eval asks of MMLU."""
    folder, files = tmp_path_factory.mktemp("rows"), []
    for path in (TRUTHFULQA, MMLU):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        solved = [line for line in lines if json.loads(line).get("split") == "dev"]
        asked = [line for line in lines if line not in solved]
        files.append(folder / path.name)
        files[-1].write_text("".join(solved + asked[:ROWS]), "utf-8")
    return files


@pytest.fixture(scope="module")
def theirs(tokenizer, tiny, rows, tmp_path_factory):
    """What lm-eval finds for each job."""
    folder = tmp_path_factory.mktemp("lm_eval")
    tiny.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    side.write_tasks(folder / "tasks", *rows)
    done = subprocess.run(
        [sys.executable, side.__file__, str(folder / "model"), str(folder / "tasks")],
        input="".join(json.dumps(job) + "\n" for job in JOBS.values()),
        env=side.environment() | {"HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(JOBS, answers, strict=True))


def same(ours, theirs: dict, score: str) -> None:
    """Every log-likelihood within 1e-3 nats, and the task's score the same."""
    assert ours.id.tolist() == list(theirs["logliks"])
    for row in ours.itertuples():
        assert row.logliks == pytest.approx(theirs["logliks"][row.id], abs=1e-3, rel=0), row.id
    if score == "correct":
        assert ours.correct.mean() == theirs["acc"]
    else:
        assert ours[score].mean() == pytest.approx(theirs["acc"], abs=1e-5)


def test_truthfulqa_is_lm_evals(tokenizer, tiny, rows, theirs):
    assert len(choices.load_questions(str(TRUTHFULQA))) == 200, "of each row mc1 and mc2"
    found = choices.score_choices(tiny, tokenizer, choices.load_questions(str(rows[0])))
    for kind, score in (("mc1", "correct"), ("mc2", "mass")):
        ours = found[found.task == f"truthfulqa_{kind}"]
        assert len(ours) == ROWS
        same(ours, theirs["truthfulqa"]["tasks"][f"local_{kind}"], score)


def test_mmlu_is_lm_evals(tokenizer, tiny, rows, theirs):
    assert len(choices.load_questions(str(MMLU))) == 60
    questions = choices.load_questions(str(rows[1]))
    assert len(questions) == ROWS
    same(choices.score_choices(tiny, tokenizer, questions), theirs["mmlu"]["tasks"]["local_mmlu"], "correct")
