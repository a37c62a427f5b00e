"""Is this a base that the course can train? Asked before any weights are read, and answered in a sentence."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sawyer_utils.plumbing import assets

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.*", "merges.txt", "spiece.model", "*.tiktoken")
HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")  # how classes with an output layer end


class UnsuitableBase(ValueError):
    """The base cannot be trained here; the message says why, and what to take."""


def check_base(source: str) -> str:
    """What ``from_pretrained`` takes for a policy base, once nothing speaks against it.

    Args:
        source: "embedded:…", a folder or a Hub id.

    Raises:
        UnsuitableBase: for a folder without weights or tokenizer, an adapter, an encoder-decoder, a
            vision-language model, an encoder, a trunk without an output layer.
        NoSuchPath: for what can only be a path, where nothing is.
    """
    path = assets.resolve(source)
    if Path(path).exists():
        _check_folder(source, Path(path))
    with _said(source, "its config.json"):
        config = AutoConfig.from_pretrained(path)
    if problem := _problem(config):
        raise UnsuitableBase(f"{source} {problem}")
    return path


def load_tokenizer(source: str):
    """The tokenizer of a base that :func:`check_base` has passed.

    Raises:
        UnsuitableBase: if there is none that transformers can read.
    """
    path = check_base(source)
    with _said(source, "its tokenizer"):
        return AutoTokenizer.from_pretrained(path)


def _check_folder(source: str, folder: Path) -> None:
    def has(*patterns: str) -> bool:
        return any(next(folder.glob(pattern), None) for pattern in patterns)

    if not folder.is_dir():
        raise UnsuitableBase(f"{source} is a file. A base is the folder that save_pretrained writes.")
    if not has("config.json"):
        what = "holds no config.json: it is not what save_pretrained writes."
        if has("adapter_config.json"):
            what = (
                "is an adapter, not a base. Merge it (export.merge, or PEFT's merge_and_unload), save that."
            )
        elif has("*.gguf"):
            what = "holds a GGUF file: save what AutoModelForCausalLM.from_pretrained(…, gguf_file=…) reads."
        raise UnsuitableBase(f"{source} {what}")
    if not has(*WEIGHTS):
        raise UnsuitableBase(f"{source} holds no weights ({' or '.join(WEIGHTS)}).")
    if not has(*TOKENIZERS):
        raise UnsuitableBase(
            f"{source} holds no tokenizer: save that of the model there, too (tokenizer.save_pretrained)."
        )


def _problem(config: PretrainedConfig) -> str:
    """What speaks against a model of this configuration; "" if nothing does."""
    kind, saved_as = config.model_type, (config.architectures or [""])[0]
    if config.is_encoder_decoder:
        return (
            f"is an encoder-decoder ({kind}). The policy has to be a causal language model; notebook 07 "
            "takes an encoder-decoder as its summariser."
        )
    if config.get_text_config() is not config:
        return (
            f"is a model of several kinds of input ({kind}), with a language model inside. Take the one for "
            "text alone, if its makers have one (as Gemma 3 has in its sizes 270M and 1B)."
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"is no causal language model ({kind}), which continues a text token by token."
    if saved_as and not saved_as.endswith(HEADS):
        return (
            f"was saved as {saved_as}, which has no output layer over the vocabulary: it cannot write. Take "
            "the model that was saved as …ForCausalLM."
        )
    return ""


@contextmanager
def _said(source: str, what: str):
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = f"{type(error).__name__}: {str(error).strip()[:300]}"
        raise UnsuitableBase(f"{source}: {what} cannot be read ({said})") from error
