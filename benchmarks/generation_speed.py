"""What makes sampling faster: tokens a second against plain ``generate`` with the adapter beside the weights.

    python benchmarks/generation_speed.py

Each variant takes its turn in each round, so that all see the same machine; the time of folding the
adapter in is counted. Every response is 32 tokens long. Prints medians and their ratios, and writes
results/generation_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from datetime import date
from importlib.metadata import version

import torch
from transformers import GenerationConfig, LogitsProcessorList

from sawyer_utils import models, rollout, runtime
from sawyer_utils.plumbing.machine import quiet_libraries
from sawyer_utils.profiles import PROFILES

ROWS, PROMPT, RESPONSE = 16, 24, 32
VARIANTS = {  # name -> (fold the adapter in, draw with one random number a row, settings)
    "plain generate": (False, False, {}),
    "adapter folded in": (True, False, {}),
    "and one random number a row": (True, True, {}),  # what rollout.sample does
    "and a static cache": (True, True, {"cache_implementation": "static"}),
}


def generate(model, ids, fold_in: bool, draw: bool, settings: dict) -> float:
    """Seconds of one batch."""
    # A length that is wanted exactly: no token stops it.
    config = GenerationConfig(
        max_new_tokens=RESPONSE, do_sample=not draw, top_k=0, pad_token_id=0, eos_token_id=None, **settings
    )
    start = time.perf_counter()
    with models.merged(model) if fold_in else nullcontext(), torch.no_grad():
        out = model.get_base_model().generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([rollout.Draw(1.0)] if draw else []),
        )
    if out.device.type == "cuda":
        torch.cuda.synchronize()
    assert out.shape[1] == PROMPT + RESPONSE
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted, after one that is not")
    options = parser.parse_args()
    quiet_libraries()
    _, base = models.load_policy(PROFILES["local"])
    model = models.add_lora(base, rank=16).eval()
    model.get_base_model().generation_config = GenerationConfig()  # its own stop token and settings
    ids = torch.randint(1000, 40_000, (ROWS, PROMPT), device=next(model.parameters()).device)
    seconds = {name: [] for name in VARIANTS}
    for _ in range(1 + options.rounds):
        for name, variant in VARIANTS.items():
            seconds[name].append(generate(model, ids, *variant))
    plain = seconds["plain generate"][1:]
    rows = {}
    for name, (_, *counted) in seconds.items():
        ratios = [a / b for a, b in zip(plain, counted, strict=True)]
        speed = ROWS * RESPONSE / statistics.median(counted)
        rows[name] = {"tokens_per_second": speed, "ratio": statistics.median(ratios), "ratios": ratios}
        print(f"{name:28} {speed:6.0f} tokens/s, {rows[name]['ratio']:.2f} × plain")
    found = {
        "date": date.today().isoformat(),
        "device": str(ids.device),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "size": {"rows": ROWS, "prompt_tokens": PROMPT, "response_tokens": RESPONSE},
        "variants": rows,
    }
    runtime.write_json(runtime.project_root() / "results" / "generation_speed.json", found)


if __name__ == "__main__":
    main()
