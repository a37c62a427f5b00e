"""The policy: base model with SAWYER's tokens, LoRA adapters, the frozen reference adapter.

One base in memory plays every language-model role. The SFT adapter is loaded twice: as
``policy`` (trainable) and as ``ref`` (a frozen copy); switching costs nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from sawyer_utils.actor import check_output_layer
from sawyer_utils.chat import add_control_tokens, start_as_phrases
from sawyer_utils.plumbing import assets, bases, workarounds
from sawyer_utils.plumbing.adapters import POLICY, load_adapter, load_policy_weights, save_adapter  # noqa: F401
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import choose_precision

REF = "ref"


def load_tokenizer(profile: Profile):
    """The policy's tokenizer with SAWYER's two control tokens and chat template.

    Raises:
        UnsuitableBase: if the base is nothing that can be trained here (:func:`bases.check_base`).
    """
    tokenizer = bases.load_tokenizer(profile.policy_base)
    try:
        return add_control_tokens(tokenizer)
    except ValueError as error:
        raise bases.UnsuitableBase(f"{profile.policy_base}: {error}") from None


def load_policy(profile: Profile, device: str | None = None):
    """Return ``(tokenizer, model)``: the base with the control tokens' rows at their phrases' mean.

    Base weights are frozen and in the precision that suits the machine (or in 4-bit NF4).

    Args:
        device: put the model there, whatever suits the machine.

    Raises:
        UnsuitableBase: as :func:`load_tokenizer`, or if the model changes its logits after the output layer.
        ValueError: if the profile asks for more tokens than the model reads.
        Fp16Overflow: if it overflows in float16.
    """
    tokenizer = load_tokenizer(profile)
    model = AutoModelForCausalLM.from_pretrained(assets.resolve(profile.policy_base), **loading(profile))
    return tokenizer, prepare(model, tokenizer, profile, device)


def loading(profile: Profile) -> dict:
    """Keyword arguments for ``AutoModelForCausalLM.from_pretrained``: the number format that suits the
    machine (or 4-bit NF4), and the attention that is quickest there."""
    precision = choose_precision(profile.precision)
    options = {"dtype": precision.weights}
    if precision.attention != "sdpa":  # which transformers takes by itself, and eager for a base without it
        options["attn_implementation"] = precision.attention
    if precision.four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.compute,
        )
    return options


def prepare(model, tokenizer, profile: Profile, device: str | None = None):
    """A base as it was loaded -> the same, on its device, frozen, with rows for the control tokens. Arguments
    and errors as :func:`load_policy`."""
    precision = choose_precision(profile.precision)
    if not precision.four_bit:
        model.to(device or precision.device)
    elif (device or precision.device) == "cpu":
        workarounds.keep_gradients(model)
    start_as_phrases(model, tokenizer)
    _check_lengths(model, profile)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.requires_grad_(False)
    workarounds.spare_the_head(model)
    model.eval()
    # PEFT writes it into each adapter: this machine's path. And finding the base there, with fewer rows than
    # now, it would save the embedding with each adapter (113 MB for the 135M model; peft 0.21).
    model.name_or_path = ""
    if precision.compute == torch.float16:
        largest = workarounds.probe_fp16(model, tokenizer)
        print(f"fp16 probe: the largest activation is {largest:,.0f} of at most 65,504.")
    check_output_layer(model)
    return model


def _check_lengths(model, profile: Profile) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    wanted = max(profile.conversation_tokens, profile.prompt_tokens + profile.response_tokens)
    if positions is not None and wanted > positions:
        raise ValueError(
            f"The profile asks for {wanted} tokens (conversation_tokens, or prompt_tokens and "
            f"response_tokens); {profile.policy_base} reads {positions} at most."
        )


def add_lora(model, rank: int = 16, alpha: int = 32, name: str = "default", task: str = "CAUSAL_LM", **also):
    """Put a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) on every linear layer; ``also`` of LoraConfig."""
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,  # PPO needs the same log-probs twice from the same weights
        target_modules="all-linear",
        task_type=task,
        **also,
    )
    return get_peft_model(model, config, adapter_name=name)


def count_parameters(model) -> tuple[int, int]:
    """(trainable, total) numbers of parameters, as PEFT and transformers count them (4-bit ones, too)."""
    if isinstance(model, PeftModel):
        return model.get_nb_trainable_parameters()
    return model.num_parameters(only_trainable=True), model.num_parameters()


@torch.no_grad()
def restart(model: PeftModel) -> None:
    """Set the adapter ``policy`` back to what ``ref`` is: the start of a run."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if f".{POLICY}" in name:
            parameter.copy_(parameters[name.replace(f".{POLICY}", f".{REF}")])


def load_actor(profile: Profile, sft_adapter: Path):
    """Return ``(tokenizer, model)`` for PPO: the SFT adapter as trainable policy and frozen ref."""
    tokenizer, model = load_policy(profile)
    model = load_adapter(model, sft_adapter, POLICY, trainable=True)
    model = load_adapter(model, sft_adapter, REF)
    activate(model, POLICY)
    return tokenizer, model


def activate(model: PeftModel, name: str) -> None:
    """Make ``name`` the adapter in use, and what is trained unless it is the reference."""
    model.set_adapter(name, inference_mode=name == REF)


@contextmanager
def using(model: torch.nn.Module, name: str):
    """Use adapter ``name`` inside the block; what was active and trainable before comes back,
    also after an exception. ``name`` "base" switches every adapter off; a model without any is its base."""
    before = model.active_adapter if isinstance(model, PeftModel) else "base"
    if name == before:
        yield model
        return
    trained = {key: p.requires_grad for key, p in model.named_parameters()}
    try:
        if name == "base":
            with model.disable_adapter():
                yield model
        else:
            model.set_adapter(name)
            yield model
    finally:
        if name != "base":
            model.set_adapter(before)
        # PEFT makes whatever it switches on trainable.
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(trained[key])


@contextmanager
def merged(model: PeftModel):
    """Fold the active adapter into the base weights, for faster sampling; then put the very same
    tensors back, so that the base is bit for bit what it was.

    A quantised base cannot take an adapter without loss: there it stays beside the weights.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    weights = {id(p): p for p in (layer.get_base_layer().weight for layer in layers)}
    switched_off = any(layer.disable_adapters for layer in layers)  # the base: nothing to fold in
    quantised = any(not p.is_floating_point() for p in weights.values())
    if not layers or switched_off or quantised or model.active_adapter is None:
        yield model
        return
    originals = {key: p.data for key, p in weights.items()}
    try:
        for p in weights.values():
            p.data = p.data.clone()  # merging works in place
        model.merge_adapter()
        yield model
    finally:
        for key, parameter in weights.items():
            parameter.data = originals[key]
        for layer in layers:
            layer.merged_adapters.clear()


@contextmanager
def autocast(model: PeftModel, compute: torch.dtype):
    """Products in ``compute`` inside the block (float32: in what the weights are).

    PEFT copies what goes into an adapter to the adapter's fp32, only for autocast to copy it back:
    not inside the block.
    """
    if compute == torch.float32:
        yield
        return
    device = next(model.parameters()).device
    with disable_input_dtype_casting(model), torch.autocast(device.type, compute):
        yield
