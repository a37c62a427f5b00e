"""One PPO iteration here, in TRL's last PPO and in AgileRL: seconds, memory, steps, first ratio.

    python benchmarks/ppo_vs_peers.py --make-envs ../peers              # builds both, then measures
    python benchmarks/ppo_vs_peers.py --trl PYTHON --agilerl PYTHON --iterations 3

Each contender is a process under its own interpreter that keeps its model and takes one iteration
when told to. They take turns: none computes while another is measured, and all see the same
machine. A turn is two iterations, of which the second is counted: what a process pays for having
slept is not its own. Writes results/ppo_vs_peers.json.

The same for all: SmolLM2-135M in bf16, frozen, with LoRA r = 16 in fp32 on every linear layer;
16 prompts of 24 tokens; responses of 32 tokens, from the full distribution, never stopped early;
2 epochs of one minibatch; autocast to bf16; no activation checkpointing; one reward on texts that
costs nothing (the share of "e"). Coefficients, which cost no time, are each one's defaults.
"generate" ends with the sampled responses, "evaluate" with all that training needs to know of them.

What differs is each one's design:

1. Critic. Here a linear head on the policy's trunk. In AgileRL too, but on an adapter of its own:
   the batch goes through the trunk twice. TRL has a second 135M model and trains it whole (here in
   bf16, which spares it time and memory).
2. Reward. TRL asks for a model. It gets a module that decodes and counts, so that its 135M reward
   model and the pass through it are left out, in its favour.
3. log π_old. TRL takes the sampler's scores; the others make a pass of their own after sampling.
4. Autocast. TRL 1.12 under transformers 5 ignores its own ``bf16=True``; an environment variable
   switches autocast on, for training alone. AgileRL uses autocast on GPUs alone; its context is
   replaced by the CPU's. Elsewhere the weights' own bf16 decides.
5. Attention. This repository's loader takes the plain products on a CPU, where SDPA's backward pass
   is slow at such lengths; the peers take transformers' default, SDPA.
6. AgileRL as it comes does not run on a CPU: its Liger layers are switched off. Its prompts are
   handed over as one dict of stacked rows, for it samples one dict after the other.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace

ROWS, PROMPT, RESPONSE, EPOCHS = 16, 24, 32, 2
LEARNING_RATE = 1e-4
PHASES = ("generate", "evaluate", "update")
PACKAGES = {
    "trl": ["torch==2.13.0", "trl==1.12.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0"],
    "agilerl": ["torch==2.13.0", "agilerl[cpu-llm]==2.58.0"],
}

# --- a contender's process ------------------------------------------------------------------------


class Line:
    """A worker's end: waits for its turn, keeps the clock, answers a JSON line an iteration."""

    def __init__(self):
        self.channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # whatever libraries print goes to the log instead

    def send(self, **answer) -> None:
        self.channel.write(json.dumps(answer) + "\n")
        self.channel.flush()

    def wait(self) -> None:
        """Block until it is this worker's turn; end the process when nobody asks any more."""
        if not sys.stdin.readline():
            sys.exit()
        self.optimizer_steps, self.seconds = 0, dict.fromkeys(PHASES, 0.0)
        self.last, self.cpu = time.perf_counter(), time.process_time()

    def count_step(self, *_) -> None:
        self.optimizer_steps += 1

    def mark(self, phase: str) -> None:
        """Charge the time since the last mark to ``phase``."""
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def done(self, **found) -> None:
        """Answer with this iteration's numbers; what was not marked yet was the update."""
        self.mark("update")
        unit = 2**30 if sys.platform == "darwin" else 2**20
        found["peak_memory_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        found["optimizer_steps"] = self.optimizer_steps
        # Well below cores × seconds: something else was using the machine.
        found["cpu_seconds"] = time.process_time() - self.cpu
        self.send(seconds=sum(self.seconds.values()), **self.seconds, **found)


def tap(owner, name: str, then: Callable) -> None:
    """Call ``then(arguments, result)`` whenever ``owner.name`` returns."""
    plain = getattr(owner, name)

    def tapped(*args, **kwargs):
        result = plain(*args, **kwargs)
        then(args, result)
        return result

    setattr(owner, name, tapped)


def load(folder: Path, kind: str = "AutoModelForCausalLM", attention: str = "sdpa", **options):
    """(tokenizer, frozen bf16 model) of the exported checkpoint."""
    import torch
    import transformers

    options |= {"dtype": torch.bfloat16, "attn_implementation": attention}
    model = getattr(transformers, kind).from_pretrained(folder, **options)
    return transformers.AutoTokenizer.from_pretrained(folder), model.requires_grad_(False)


def lora():
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def rewards(texts: list[str]) -> list[float]:
    """The share of "e" among a text's characters."""
    return [text.count("e") / max(1, len(text)) for text in map(str.strip, texts)]


def sawyer(line: Line, options, prompts: list[str]) -> None:
    import torch

    from sawyer_utils import models, ppo, rollout
    from sawyer_utils.plumbing import workarounds

    tokenizer, base = load(options.folder, attention="eager")
    workarounds.spare_the_head(base)  # as this repository's loader does
    # The base's other special tokens would end a response, too; the peers have none that does.
    rollout.endings = lambda tokenizer: [tokenizer.eos_token_id]
    model = models.add_lora(base)
    for name in (models.POLICY, models.REF):  # equal, for both start at zero
        model.add_adapter(name, lora())
    model.delete_adapter("default")
    sizes = {"batch_size": ROWS, "micro_batch": options.micro_batch, "epochs": EPOCHS, "minibatches": 1}
    sizes |= {"response_tokens": RESPONSE, "missing_stop_penalty": 0.0}
    config = ppo.PPOConfig(**sizes, learning_rate=LEARNING_RATE, compute=torch.bfloat16)
    trainer = ppo.PPOTrainer(model, tokenizer, lambda _, texts: rewards(texts), config)
    tap(ppo, "sample", lambda *_: line.mark("generate"))
    tap(trainer, "advantages", lambda *_: line.mark("evaluate"))
    line.send(versions=versions())
    while True:
        line.wait()
        found = trainer.step(prompts)
        line.done(ratio_error=found["ratio_error"], reward=found["reward"], length=found["length"])


def trl(line: Line, options, prompts: list[str]) -> None:
    # What ``accelerate launch --mixed_precision bf16`` sets.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer, policy = load(options.folder)
    _, value = load(options.folder, "AutoModelForSequenceClassification", num_labels=1)
    scores, passes = [], []

    class Reward(torch.nn.Module):
        base_model_prefix, score = "backbone", torch.nn.Identity()

        def backbone(self, input_ids, **_):
            scores[:] = rewards(tokenizer.batch_decode(input_ids[:, PROMPT:], skip_special_tokens=True))
            everywhere = torch.tensor(scores)[:, None, None].expand(*input_ids.shape, 1)
            return SimpleNamespace(hidden_states=[everywhere])  # TRL picks the last position

    class Turns(TrainerCallback):
        def on_train_begin(self, *_, **__):
            line.wait()

        def on_step_end(self, *_, **__):
            # log-probs of the sampler, of the reference, then of each epoch, which shuffles the rows.
            (sampled, old), _, (trained, new) = passes[:3]
            rows = (trained[:, None] == sampled).all(-1).int().argmax(1)
            error = float(((new - old[rows]).exp() - 1).abs().max())
            passes.clear()
            line.done(ratio_error=error, reward=statistics.mean(scores), length=sampled.shape[1])
            line.wait()

    tap(ppo_trainer, "selective_log_softmax", lambda args, found: passes.append((args[1], found.detach())))
    tap(ppo_trainer, "batch_generation", lambda *_: line.mark("generate"))
    tap(ppo_trainer, "masked_whiten", lambda *_: line.mark("evaluate"))  # of the advantages
    # One minibatch without accumulation: with it, ``num_mini_batches`` would not be honoured.
    sizes = {"per_device_train_batch_size": ROWS, "local_rollout_forward_batch_size": ROWS}
    sizes |= {"num_ppo_epochs": EPOCHS, "response_length": RESPONSE, "num_sample_generations": 0}
    sizes |= {"total_episodes": 2 * ROWS * (options.warmup + options.iterations)}
    switches = {"bf16": True, "use_cpu": True, "gradient_checkpointing": False, "temperature": 1.0}
    switches |= {"save_strategy": "no", "report_to": "none", "output_dir": str(options.folder / "trl")}
    trainer = PPOTrainer(
        PPOConfig(**sizes, **switches, learning_rate=LEARNING_RATE),
        tokenizer,
        policy,
        ref_model=None,  # the policy with its adapter off
        reward_model=Reward(),
        train_dataset=Dataset.from_dict({"input_ids": tokenizer(prompts).input_ids}),
        value_model=value.requires_grad_(True),
        callbacks=[Turns()],
        peft_config=lora(),
    )
    line.send(versions=versions())
    trainer.train()


def agilerl(line: Line, options, prompts: list[str]) -> None:
    import torch
    from agilerl.algorithms import LLMPPO, ppo_llm
    from agilerl.algorithms.core import base
    from transformers import AutoTokenizer

    @contextlib.contextmanager
    def autocast(agent):  # what it does on a GPU
        with torch.autocast("cpu", torch.bfloat16), agent._lora_input_cast_ctx():
            yield

    def keep_error(args, _) -> None:
        log_ratio, _, mask = args[:3]
        errors.append(float((log_ratio.detach().exp() - 1)[mask.bool()].abs().max()))

    base.HAS_LIGER_KERNEL, LLMPPO._amp_ctx, errors = False, autocast, []
    tap(ppo_llm, "clipped_is_surrogate", keep_error)
    tap(LLMPPO, "get_action", lambda *_: line.mark("generate"))
    tap(LLMPPO, "_fused_forward_no_grad", lambda *_: line.mark("evaluate"))
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    sizes = {"batch_size": ROWS, "update_epochs": EPOCHS, "max_output_tokens": RESPONSE, "top_k": 0}
    switches = {"device": "cpu", "gradient_checkpointing": False, "use_liger_loss": False}
    agent = LLMPPO(
        tokenizer.pad_token_id,
        tokenizer.pad_token,
        str(options.folder),
        model_config={"dtype": torch.bfloat16, "attn_implementation": "sdpa"},
        lora_config=lora(),
        **(sizes | switches | dict.fromkeys(("lr_actor", "lr_critic"), LEARNING_RATE)),
    )
    stacked = dict(tokenizer(prompts, return_tensors="pt"))
    line.send(versions=versions())
    while True:
        line.wait()
        sampled = agent.get_action([stacked])
        ids, masks = sampled.token_ids, sampled.action_masks
        scores = rewards(tokenizer.batch_decode(ids[0][:, PROMPT:], skip_special_tokens=True))
        agent.learn((ids, masks, torch.tensor(scores)))
        length = float(masks[0].sum(1).float().mean())
        line.done(ratio_error=errors[0], reward=statistics.mean(scores), length=length)
        errors.clear()


def versions() -> dict[str, str]:
    found = {d.name: d.version for d in importlib.metadata.distributions()}
    names = ("sawyer-utils", "trl", "agilerl", "torch", "transformers", "peft", "accelerate")
    return {name: found[name] for name in names if name in found}


def prepare(line: Line, options, _) -> None:
    """Export what all contenders load; answer with this machine and its limits."""
    from transformers import AutoTokenizer, GenerationConfig

    from sawyer_utils import data
    from sawyer_utils.plumbing import assets

    shutil.copytree(assets.embedded("smollm2-135m"), options.folder)
    tokenizer = AutoTokenizer.from_pretrained(options.folder, padding_side="left")
    # Ids beyond the model's vocabulary: no response can hold one, so none stops or looks padded.
    tokenizer.add_special_tokens({"eos_token": "<never-stop>", "pad_token": "<never-pad>"})
    tokenizer.save_pretrained(options.folder)
    GenerationConfig().save_pretrained(options.folder)
    ids = tokenizer(" ".join(row["prompt"] for row in data.load_prompts("train"))).input_ids
    cuts = [tokenizer.decode(ids[start : start + PROMPT]) for start in range(0, len(ids), PROMPT)]
    prompts = [cut for cut in cuts if len(tokenizer(cut).input_ids) == PROMPT][:ROWS]
    (options.folder / "prompts.json").write_text(json.dumps(prompts))
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    name = names[0].partition(": ")[2] if names else platform.processor()
    line.send(cpu=name, cores=os.cpu_count(), **limits())


def limits() -> dict[str, float]:
    """The best that this machine does: products in GFLOP/s, memory in GB/s."""
    import torch

    def fastest(work) -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return min(times)

    def product(n: int, k: int, m: int, dtype=torch.bfloat16) -> float:
        a, b = torch.randn(n, k, dtype=dtype), torch.randn(m, k, dtype=dtype)
        return 2e-9 * n * k * m / fastest(lambda: torch.nn.functional.linear(a, b))

    block, other = torch.ones(2, 2**27)  # 512 MiB each, more than any cache
    tokens, gigabytes = ROWS * (PROMPT + RESPONSE), block.nbytes / 1e9
    return {
        f"bf16_gflops_{tokens}x576x1536": product(tokens, 576, 1536),  # a layer in training
        f"bf16_gflops_{ROWS}x576x1536": product(ROWS, 576, 1536),  # the same one in sampling
        "bf16_gflops_2048x2048x2048": product(2048, 2048, 2048),
        "fp32_gflops_2048x2048x2048": product(2048, 2048, 2048, torch.float32),
        "read_gb_per_s": gigabytes / fastest(block.sum),
        "copy_gb_per_s": 2 * gigabytes / fastest(lambda: other.copy_(block)),
    }


def work(options) -> None:
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    line, saved = Line(), options.folder / "prompts.json"
    torch.manual_seed(0)
    register_optimizer_step_post_hook(line.count_step)
    prompts = json.loads(saved.read_text()) if saved.exists() else []
    workers = {"prepare": prepare, "sawyer": sawyer, "trl": trl, "agilerl": agilerl}
    workers[options.worker](line, options, prompts)


# --- the coordinator, which never computes ----------------------------------------------------------


class Contender:
    """A worker process and what it has answered."""

    def __init__(self, name: str, python: str, folder: Path, stack: contextlib.ExitStack):
        self.name, self.rounds, self.log = name, [], folder.with_name(f"{name}.log")
        command = [python, __file__, *sys.argv[1:], "--worker", name, "--folder", str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with open(self.log, "w") as log:
            process = subprocess.Popen(command, text=True, stderr=log, **pipes)
        self.process = stack.enter_context(process)
        self.ready = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} stopped:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)

    def iteration(self) -> dict:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def turn(self) -> dict:
        """The second of two iterations; the first wakes the process up."""
        self.iteration()
        self.rounds.append(self.iteration())
        if (length := self.rounds[-1]["length"]) != RESPONSE:
            raise RuntimeError(f"{self.name} sampled {length} tokens a response, not {RESPONSE}.")
        return self.rounds[-1]

    def summary(self, warmup: int) -> dict:
        """Medians of the counted rounds; the largest first ratio and peak memory of all."""
        counted = self.rounds[warmup:]
        found = {key: statistics.median(row[key] for row in counted) for key in counted[0]}
        found |= {key: max(row[key] for row in self.rounds) for key in ("ratio_error", "peak_memory_gib")}
        return found | self.ready | {"iterations": counted}


def make_envs(folder: Path) -> dict[str, str]:
    """A virtual environment for each peer; the interpreters of those that install."""
    pythons = {name: str(folder / name / "bin" / "python") for name in PACKAGES}
    for name, packages in PACKAGES.items():
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        if subprocess.run([pythons[name], "-m", "pip", "install", "--quiet", *packages]).returncode:
            print(f"{name} does not install here and is left out.")
            del pythons[name]
    return pythons


def measure(options, pythons: dict[str, str]) -> dict:
    """Let the contenders take turns; all that is known of the run."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch) / "model"
        machine = Contender("prepare", sys.executable, folder, stack).ready
        contenders = [Contender(name, python, folder, stack) for name, python in pythons.items()]
        for number in range(options.warmup + options.iterations):
            for contender in contenders:
                print(f"round {number:<2} {contender.name:8} {describe(contender.turn())}", flush=True)
        found = {contender.name: contender.summary(options.warmup) for contender in contenders}
    for row in found.values():
        pairs = zip(row["iterations"], found["sawyer"]["iterations"], strict=True)
        row["times_sawyer"] = [peer["seconds"] / own["seconds"] for peer, own in pairs]
    size = {"rows": ROWS, "prompt_tokens": PROMPT, "response_tokens": RESPONSE, "epochs": EPOCHS}
    return {"date": date.today().isoformat(), "machine": machine, "size": size, "contenders": found}


def describe(row: dict) -> str:
    phases = ", ".join(f"{phase} {row[phase]:.2f}" for phase in PHASES)
    return (
        f"{row['seconds']:6.2f} s ({phases}), process memory {row['peak_memory_gib']:.2f} GiB, "
        f"{row['optimizer_steps']:g} optimizer steps, largest first |ratio − 1| {row['ratio_error']:.2g}"
    )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trl", metavar="PYTHON", help="interpreter of an environment with TRL 1.12")
    parser.add_argument("--agilerl", metavar="PYTHON", help="… with AgileRL 2.58")
    parser.add_argument("--make-envs", metavar="DIR", type=Path, help="make both environments in DIR first")
    parser.add_argument("--iterations", type=int, default=3, help="counted, of each")
    parser.add_argument("--warmup", type=int, default=1, help="not counted, of each")
    parser.add_argument("--micro-batch", type=int, default=ROWS, help="of this repository's trainer")
    parser.add_argument("--output", type=Path, help="instead of results/ppo_vs_peers.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parsed()
    if options.worker:
        return work(options)
    from sawyer_utils import runtime

    pythons = {"sawyer": sys.executable, "trl": options.trl, "agilerl": options.agilerl}
    pythons |= make_envs(options.make_envs.resolve()) if options.make_envs else {}
    found = measure(options, {name: python for name, python in pythons.items() if python})
    path = options.output or runtime.project_root() / "results" / "ppo_vs_peers.json"
    runtime.write_json(path, found)
    print(*(f"{key}: {value}" for key, value in found["machine"].items()), sep="\n")
    for name, row in found["contenders"].items():
        times, middle = row["times_sawyer"], statistics.median(row["times_sawyer"])
        print(f"{name:8} {describe(row)}, {middle:.2f} × SAWYER's ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
