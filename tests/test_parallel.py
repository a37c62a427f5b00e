"""PPO over two processes is PPO over one: the same update, one writer.

Run as a script, this file is what each of the two processes executes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import build_actor, letter_tokenizer
from safetensors.torch import load_file, save_file

from sawyer_utils.chat import add_control_tokens
from sawyer_utils.ppo import PPOConfig, PPOTrainer
from sawyer_utils.rollout import Rollout

# Of unequal length: each process pads its share to another width.
PROMPTS = ["a b c", "d", "e f g h i j k l m n", "k l", "m n o p", "q r s t u", "v w"]
CONFIG = PPOConfig(
    steps=2,
    batch_size=7,  # cannot be shared evenly
    epochs=2,
    minibatches=2,
    micro_batch=2,
    learning_rate=1e-2,
    response_tokens=12,
    missing_stop_penalty=0.5,
    checkpoint_every=1,
    max_grad_norm=1e9,  # a clipped sum of gradients looks like a clipped mean of them
)
FIELDS = ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns")


def count_a(prompts: list[str], responses: list[str]) -> list[float]:
    return [float(response.split().count("a")) for response in responses]


def build_trainer(run_dir=None, **settings) -> PPOTrainer:
    tokenizer = add_control_tokens(letter_tokenizer())
    trainer = PPOTrainer(build_actor(tokenizer), tokenizer, count_a, replace(CONFIG, **settings), run_dir)
    with torch.random.fork_rng(), torch.no_grad():  # a critic with opinions, and a policy off the ref
        torch.manual_seed(9)
        for parameter in trainer.trained:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trainer


def work(folder: str) -> None:
    """One update on a batch that is sampled together, then a run with checkpoints."""
    torch.set_num_threads(1)
    trainer = build_trainer()
    rank = trainer.processes.rank
    assert trainer.processes.count == 2
    torch.manual_seed(10 + rank)
    batch = trainer.advantages(trainer.score(trainer.rollout(PROMPTS)))
    tensors = {k: v.clone().contiguous() for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    torch.manual_seed(20 + rank)  # the order of the second pass has to be one for both
    stats = trainer.update(batch)
    weights = {str(i): p.detach().clone() for i, p in enumerate(trainer.trained)}
    out = Path(folder)
    save_file(tensors, out / f"batch_{rank}.safetensors")
    save_file(weights, out / f"weights_{rank}.safetensors")
    texts = {"prompts": batch.prompts, "responses": batch.responses, "stats": stats}
    (out / f"texts_{rank}.json").write_text(json.dumps(texts))

    rank_says = build_trainer(missing_stop_penalty=0.0)
    rank_says.reward_fn = lambda prompts, responses: [float(rank)] * len(responses)
    assert not rank_says.score(batch).scores.any(), "each is paid what the first process was told"
    handlers = [signal.getsignal(signal.SIGINT)]
    run = build_trainer(out / "run")
    log = run.train(PROMPTS, on_step=lambda log: handlers.append(signal.getsignal(signal.SIGINT)))
    assert len(set(handlers)) == 1, "one of several cannot stop"
    (out / f"log_{rank}.json").write_text(json.dumps(log))
    groups = build_trainer(batch_size=6, baseline="group", group_size=2)
    asked = [prompt for prompt in PROMPTS[:3] for _ in range(2)]  # of the second one, each answers once
    batch = groups.advantages(groups.score(groups.rollout(asked)))
    assert batch.prompts == asked
    paid = batch.rewards.sum(1)
    others = paid.view(3, 2).flip(1).flatten()
    assert torch.allclose(batch.advantages[:, 0], paid - others, atol=1e-6)
    assert set(groups.update(batch)) >= {"policy_loss"}
    alike, seen = build_trainer(), []
    score = alike.score
    alike.score = lambda batch: seen.append(batch) or score(batch)
    alike.step(["a b c"] * 8)  # four each
    assert seen[0].responses[:4] != seen[0].responses[4:], "both processes drew the same numbers"
    again = build_trainer(out / "run")
    assert again.load_checkpoint()
    assert again.steps_done == 2


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def run(command: list[str]) -> str:
    """What the command printed."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """What two processes under ``accelerate launch`` left behind."""
    folder = tmp_path_factory.mktemp("two")
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no", "--main_process_port", free_port()]
    run(["-m", "accelerate.commands.launch", *options, __file__, str(folder)])
    return folder


def read_batch(folder: Path, rank: int) -> Rollout:
    texts = json.loads((folder / f"texts_{rank}.json").read_text())
    tensors = load_file(folder / f"batch_{rank}.safetensors")
    return Rollout(texts["prompts"], texts["responses"], **tensors)


def test_both_processes_hold_the_same_whole_batch(launched):
    first, second = (read_batch(launched, rank) for rank in (0, 1))
    assert first.prompts == second.prompts == PROMPTS
    assert first.responses == second.responses
    for name in ("input_ids", "attention_mask", "response_mask", "finished", *FIELDS):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert len(set(first.responses)) > 4, "each process sampled with a seed of its own"


def test_a_batch_of_two_processes_is_scored_as_one_would(launched):
    batch = read_batch(launched, 0)
    trainer = build_trainer()
    alone = Rollout(
        batch.prompts,
        batch.responses,
        batch.input_ids,
        batch.attention_mask,
        batch.response_mask,
        batch.finished,
    )
    alone.logprobs, alone.values = trainer._evaluate(alone)
    alone.ref_logprobs = batch.ref_logprobs
    trainer.advantages(trainer.score(alone))
    for name in FIELDS:  # whitened advantages too: over the tokens of both (№15)
        assert torch.allclose(getattr(alone, name), getattr(batch, name), atol=1e-5), name
    assert float(batch.values.abs().max()) > 0.01
    assert float((batch.logprobs - batch.ref_logprobs).abs().max()) > 0.01


def test_two_processes_make_the_update_of_one(launched):
    trainer = build_trainer()
    before = [p.detach().clone() for p in trainer.trained]
    torch.manual_seed(20)
    stats = trainer.update(read_batch(launched, 0))
    theirs = [load_file(launched / f"weights_{rank}.safetensors") for rank in (0, 1)]
    for index, weight in enumerate(trainer.trained):
        first, second = (weights[str(index)] for weights in theirs)
        assert torch.equal(first, second), "the two have parted"
        assert not torch.equal(first, before[index])
        # Adam divides by the gradient's size: where that is nearly 0, rounding shows.
        assert torch.allclose(first, weight, atol=2e-4)
    for rank in (0, 1):
        found = json.loads((launched / f"texts_{rank}.json").read_text())["stats"]
        assert found == pytest.approx(stats, rel=1e-4, abs=1e-5)


def test_one_of_them_writes(launched):
    assert {path.name for path in (launched / "run").iterdir()} == {"checkpoint", "run.json"}
    lines = (launched / "run" / "checkpoint" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    first, second = (json.loads((launched / f"log_{rank}.json").read_text()) for rank in (0, 1))
    for mine, other in zip(first, second, strict=True):
        assert {k: v for k, v in mine.items() if k in ("reward", "kl", "ratio", "grad_norm", "samples")} == {
            k: v for k, v in other.items() if k in ("reward", "kl", "ratio", "grad_norm", "samples")
        }


def test_what_two_began_one_can_finish(launched):
    one = build_trainer(launched / "run")
    assert one.load_checkpoint()
    assert one.steps_done == 2
    assert one.step(PROMPTS)["step"] == 3


def test_it_runs_from_a_notebook_too(tmp_path):
    code = (
        "from accelerate import notebook_launcher\n"
        "def start(folder):\n"
        "    import test_parallel\n"  # inside, as Accelerate asks: nothing loaded before the fork
        "    test_parallel.work(folder)\n"
        f"notebook_launcher(start, ({str(tmp_path)!r},), num_processes=2, use_port='{free_port()}')\n"
    )
    run(["-c", code])
    assert json.loads((tmp_path / "log_1.json").read_text())[-1]["step"] == 2


def test_a_process_without_rows_is_refused(monkeypatch):
    from accelerate import PartialState

    trainer = build_trainer()
    state = PartialState()
    monkeypatch.setitem(state._shared_state, "num_processes", 4)
    with pytest.raises(ValueError, match="fewer rows than 4 processes"):
        PPOTrainer(trainer.actor.model, trainer.tokenizer, count_a, CONFIG)


if __name__ == "__main__":
    work(sys.argv[1])
