"""LoRA adapters on disk."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from sawyer_utils.plumbing.files import replacing, write_json

POLICY = "policy"


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
    with named(path):
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, path, adapter_name=name, is_trainable=trainable)
        model.load_adapter(path, adapter_name=name, is_trainable=trainable)
    return model


@contextmanager
def named(path: Path):
    """What goes wrong inside the block with weights that are read is a ValueError that names their folder."""
    try:
        yield
    except torch.OutOfMemoryError:  # a RuntimeError, and nothing wrong with the file
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:  # of another base, too
        raise ValueError(
            f"The weights in {path} cannot be read ({error}). Delete it and run its stage again."
        ) from error


def load_policy_weights(model, folder: Path, name: str = POLICY) -> None:
    """Overwrite the weights of the adapter ``policy`` (or another), in place, with saved ones.

    Raises:
        ValueError: if the file is damaged, naming it.
    """
    with named(folder):
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        set_peft_model_state_dict(model, weights, adapter_name=name)
