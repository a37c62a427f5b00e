"""Notebook 09's GRPO as a script, for more than one card.

    accelerate launch --num_processes 2 --multi_gpu notebooks/grpo_launch.py

Prompts and reward function are the notebook's; on what it runs, Accelerate decides. The answers of a batch
are shared out, so that their number stays the same. Run for this release: two processes on a CPU, where
``--multi_gpu`` is needed, too (tests/test_checkable.py). Not run: several GPUs, DeepSpeed, FSDP, vLLM.
"""

import time
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from sawyer_utils import models, runtime
from sawyer_utils.chapters import checkable, peers

GROUP, PENALTY = 4, 1.0  # answers to each prompt; what one that does not end loses


def build(profile, folder: Path) -> GRPOTrainer:
    """The trainer of notebook 09, section 5, with a batch's answers shared out over the processes."""
    sizes, processes = checkable.settings(profile), PartialState().num_processes
    tasks = checkable.tasks(sizes, GROUP)
    task = tasks.get("list") or tasks["gsm8k"]
    share = sizes.ppo_batch // sizes.ppo_minibatches // processes  # of a gradient step
    micro = min(sizes.ppo_micro_batch, share)
    sft = runtime.find_stage(profile, "sft", "adapter/adapter_model.safetensors") / "adapter"
    tokenizer, model = peers.start(profile, sft)
    config = GRPOConfig(
        num_generations=GROUP,
        num_iterations=1,
        beta=profile.kl_coef,
        learning_rate=1e-3,
        max_steps=sizes.ppo_steps * sizes.ppo_minibatches,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=share // micro,
        steps_per_generation=sizes.ppo_batch // processes // micro,
        max_completion_length=sizes.response_tokens,
        temperature=sizes.temperature,
        top_k=0,
        disable_dropout=True,
        **peers.arguments(profile, folder),
    )
    asked = [{"prompt": [{"role": "user", "content": prompt}]} for prompt in task.train]
    return GRPOTrainer(
        model=model,
        reward_funcs=peers.TextReward(task.reward, tokenizer, PENALTY),
        args=config,
        train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer,
    )


def main() -> None:
    profile = runtime.setup()
    folder = runtime.run_dir(profile, "checkable") / "grpo-launched"
    trainer = peers.ready(build(profile, folder))
    trainer.train()
    if trainer.accelerator.is_main_process:
        models.save_adapter(trainer.accelerator.unwrap_model(trainer.model), folder / "adapter", peers.POLICY)
        rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
        print(f"{trainer.accelerator.num_processes} processes, {len(rewards)} batches:", end=" ")
        print(f"reward {rewards[0]:.2f} → {rewards[-1]:.2f}; adapter in {folder.name}/adapter")
    trainer.accelerator.wait_for_everyone()
    # Gloo's threads need the interpreter once more after their last work. Were it at its end by then, it
    # would wait for them for ever (torch 2.13, one run in thirteen).
    time.sleep(1)
    trainer.accelerator.end_training()  # the processes part before any of them is gone


if __name__ == "__main__":
    main()
