"""What the libraries need to be told on some machines. Each says in which version it was seen; it goes when
that is over."""

from __future__ import annotations

import math

import torch

PROBE = "Why is the sky blue? Because air scatters short waves of light more than long ones. 1, 2, 3: go!"


@torch.no_grad()
def probe_fp16(model, tokenizer) -> float:
    """Send one text through the model in float16, where one trained in bf16 may overflow; returns the largest
    activation (float16 ends at 65,504).

    Raises:
        Fp16Overflow: naming the layer and what to do.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([tokenizer(PROBE).input_ids], device=device)
    with torch.autocast(device.type, torch.float16):
        out = model(input_ids=ids, use_cache=False, output_hidden_states=True)
    largest = [float(states.abs().max()) for states in [*out.hidden_states, out.logits]]
    for layer, value in enumerate(largest):
        if not math.isfinite(value):
            raise Fp16Overflow(
                overflow_advice(model, f"overflows in float16 (layer {layer} of {len(largest) - 1})")
            )
    return max(largest)


def overflow_advice(model, what: str, variable: str = "SAWYER_MODEL") -> str:
    """What to do about a model whose activations are not finite.

    Args:
        variable: of the environment, that names another model in its place.
    """
    ways = [
        f'another model: os.environ["{variable}"] = "…"',
        "a GPU of compute capability 8.0 or more (L4, A100), which has bf16",
    ]
    if not getattr(model, "is_loaded_in_4bit", False):
        ways.insert(0, 'os.environ["SAWYER_PRECISION"] = "fp32", slower and with twice the memory')
    return "\n".join(
        [
            f"The model {what}: training it would give NaN.",
            "Ways out; a variable is set in a cell above the setup cell, after a restart:",
            *(f"{number}. {way}" for number, way in enumerate(ways, 1)),
        ]
    )


class Fp16Overflow(RuntimeError):
    """The model's activations do not fit float16."""


def trainables_to_fp32(model) -> None:
    """What is trained stays in float32. TRL casts it to bf16 on a 4-bit base (1.16): slow on a T4, and
    fp16's gradient scaler refuses gradients of half precision ("Attempting to unscale")."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def spare_the_head(model) -> None:
    """transformers hands the head a slice of the hidden states (the last position of each row).
    For such a view torch's linear copies the weight once a row: 2 GB for 40 rows here."""
    head = model.get_output_embeddings()  # None for an encoder
    if head is not None and not getattr(head, "takes_contiguous", False):
        head.takes_contiguous = True
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def keep_gradients(model) -> None:
    """On some CPUs bitsandbytes repacks a 4-bit layer at its first use in eval mode, for a kernel
    without a backward pass (0.50): a later training would get wrong gradients with only a warning."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
