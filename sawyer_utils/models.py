"""The policy: base model with SAWYER's tokens, LoRA adapters, the frozen reference adapter.

One base in memory plays every language-model role. The SFT adapter is loaded twice: as
``policy`` (trainable) and as ``ref`` (a frozen copy); switching costs nothing.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from sawyer_utils.chat import add_control_tokens, start_as_phrases
from sawyer_utils.plumbing import assets
from sawyer_utils.plumbing.files import replacing, write_json
from sawyer_utils.profiles import Profile
from sawyer_utils.runtime import choose_precision

POLICY, REF = "policy", "ref"


def load_tokenizer(profile: Profile):
    """The policy's tokenizer with SAWYER's two control tokens and chat template."""
    return add_control_tokens(AutoTokenizer.from_pretrained(assets.resolve(profile.policy_base)))


def load_policy(profile: Profile, device: str | None = None):
    """Return ``(tokenizer, model)``: the base with the control tokens' rows at their phrases' mean.

    Base weights are frozen and in the precision that suits the machine (or in 4-bit NF4).

    Args:
        device: put the model there, whatever suits the machine.

    Raises:
        ValueError: if the profile asks for more tokens than the model reads.
        Fp16Overflow: if it overflows in float16.
    """
    precision = choose_precision(profile.precision)
    precision = replace(precision, device=device or precision.device)
    tokenizer = load_tokenizer(profile)
    options = {"dtype": precision.weights, "attn_implementation": precision.attention}
    if precision.four_bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.compute,
        )
    path = assets.resolve(profile.policy_base)
    model = AutoModelForCausalLM.from_pretrained(path, **options)
    if not precision.four_bit:
        model.to(precision.device)
    elif precision.device == "cpu":
        _keep_gradients(model)
    start_as_phrases(model, tokenizer)
    _check_lengths(model, profile)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.requires_grad_(False)
    _spare_the_head(model)
    model.eval()
    # PEFT writes it into each adapter: this machine's path. And finding the base there, with fewer rows than
    # now, it would save the embedding with each adapter (113 MB for the 135M model; peft 0.21).
    model.name_or_path = ""
    if precision.compute == torch.float16:
        largest = probe_fp16(model, tokenizer)
        print(f"fp16 probe: the largest activation is {largest:,.0f} of at most 65,504.")
    return tokenizer, model


def _check_lengths(model, profile: Profile) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    wanted = max(profile.conversation_tokens, profile.prompt_tokens + profile.response_tokens)
    if positions is not None and wanted > positions:
        raise ValueError(
            f"The profile asks for {wanted} tokens (conversation_tokens, or prompt_tokens and "
            f"response_tokens); {profile.policy_base} reads {positions} at most."
        )


PROBE = "Why is the sky blue? Because air scatters short waves of light more than long ones. 1, 2, 3: go!"


@torch.no_grad()
def probe_fp16(model, tokenizer) -> float:
    """Send one text through the model in float16; returns the largest activation (float16 ends at 65,504).

    Models trained in bf16 may overflow there: everything after is NaN, hours before anyone looks.

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
            raise Fp16Overflow(_overflow_advice(model, layer, len(largest) - 1))
    return max(largest)


def _overflow_advice(model, layer: int, layers: int) -> str:
    ways = [
        'another model: os.environ["SAWYER_MODEL"] = "…"',
        "a GPU of compute capability 8.0 or more (L4, A100), which has bf16",
    ]
    if not getattr(model, "is_loaded_in_4bit", False):
        ways.insert(0, 'os.environ["SAWYER_PRECISION"] = "fp32", slower and with twice the memory')
    return "\n".join(
        [
            f"The model overflows in float16 (layer {layer} of {layers}): training it would give NaN.",
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


def _spare_the_head(model) -> None:
    """transformers hands the head a slice of the hidden states (the last position of each row).
    For such a view torch's linear copies the weight once a row: 2 GB for 40 rows here."""
    head = model.get_output_embeddings()  # None for an encoder
    if head is not None and not getattr(head, "takes_contiguous", False):
        head.takes_contiguous = True
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))


def _keep_gradients(model) -> None:
    """On some CPUs bitsandbytes repacks a 4-bit layer at its first use in eval mode, for a kernel
    without a backward pass (0.50): a later training would get wrong gradients with only a warning."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def add_lora(model, rank: int = 16, alpha: int = 32, targets: str | list[str] = "all-linear"):
    """Put a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) on every linear layer.

    Raises:
        ValueError: if nothing became trainable (the targets matched no layer).
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,  # PPO needs the same log-probs twice from the same weights
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config)
    if count_parameters(model)[0] == 0:
        raise ValueError(f"LoRA matched no layer: target_modules={targets!r}.")
    return model


def count_parameters(model) -> tuple[int, int]:
    """(trainable, total) numbers of parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)


def save_adapter(model: PeftModel, path: Path, adapter: str = "default", **also) -> None:
    """Save one adapter as safetensors, atomically: LoRA's weights and nothing of the base.

    Args:
        also: name -> what ``name.json`` beside it shall hold.
    """
    with replacing(Path(path)) as temporary:
        model.save_pretrained(temporary, selected_adapters=[adapter])
        nested = temporary / adapter
        if nested.is_dir():  # PEFT puts any adapter not called "default" one level down
            for file in nested.iterdir():
                file.rename(temporary / file.name)
            nested.rmdir()
        (temporary / "README.md").unlink(missing_ok=True)  # a template card with nothing in it
        for name, value in also.items():
            write_json(temporary / f"{name}.json", value)


def load_adapter(model, path: Path, name: str = POLICY, trainable: bool = False):
    """Load a saved adapter under ``name``, onto a plain base or beside other adapters.

    Raises:
        ValueError: if the file is damaged, naming it.
    """
    from safetensors import SafetensorError

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(path, adapter_name=name, is_trainable=trainable)
        else:
            model = PeftModel.from_pretrained(model, path, adapter_name=name, is_trainable=trainable)
    except torch.OutOfMemoryError:  # a RuntimeError, and nothing wrong with the file
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:  # of another base, too
        raise ValueError(
            f"The adapter in {path} cannot be read ({error}). Delete it and run its stage again."
        ) from error
    return model


def load_policy_weights(model, folder: Path, name: str = POLICY) -> None:
    """Overwrite the weights of the adapter ``policy`` (or another), in place, with saved ones."""
    weights = load_file(Path(folder) / "adapter_model.safetensors")
    set_peft_model_state_dict(model, weights, adapter_name=name)


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


def activate(model: PeftModel, name: str, trainable: bool | None = None) -> None:
    """Make ``name`` the adapter in use. Only ``policy`` is trained, whatever PEFT would assume."""
    model.set_adapter(name)
    trainable = name == POLICY if trainable is None else trainable
    for parameter_name, parameter in model.named_parameters():
        if f".{name}" in parameter_name:
            parameter.requires_grad_(trainable)


@contextmanager
def using(model: PeftModel, name: str):
    """Use adapter ``name`` inside the block; what was active and trainable before comes back,
    also after an exception. ``name`` "base" switches every adapter off."""
    before = model.active_adapter
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


def memory_footprint(model) -> dict[str, float]:
    """MiB of weights, split into frozen and trainable."""
    sizes = {"frozen": 0, "trainable": 0}
    for p in model.parameters():
        sizes["trainable" if p.requires_grad else "frozen"] += p.numel() * p.element_size()
    return {name: size / 2**20 for name, size in sizes.items()}
