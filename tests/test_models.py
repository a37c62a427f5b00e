"""Adapters: what is trained, what is saved, and what is put back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import build_model, known_model
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import nn

from sawyer_utils import models
from sawyer_utils.chat import MEANINGS
from sawyer_utils.models import POLICY, REF

torch.set_num_threads(1)

IDS = torch.tensor([[34, 2, 3, 4, 35, 5, 6, 33, 7]])  # control tokens among letters


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def shaken(model, part: str = "", seed: int = 5, size: float = 0.1):
    """Random changes to what is trainable: as after a training, but at once."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and part in name:
                parameter += size * torch.randn_like(parameter)
    return model


def adapter_state(model) -> tuple:
    return model.active_adapter, {name: p.requires_grad for name, p in model.named_parameters()}


def test_a_restarted_policy_is_the_reference_again(letter_actor):
    model = letter_actor()
    start = logits(model)
    shaken(model)
    assert not torch.equal(logits(model), start)
    models.restart(model)
    assert torch.equal(logits(model), start)
    assert model.active_adapter == POLICY
    assert all(p.requires_grad == (f".{POLICY}" in name) for name, p in model.named_parameters())


# --- loading the base ---------------------------------------------------------------------------


def test_a_loaded_policy_is_frozen_and_knows_the_control_tokens(letter_profile):
    tokenizer, model = models.load_policy(letter_profile)
    assert models.count_parameters(model)[0] == 0
    assert not model.training
    table = model.get_input_embeddings().weight
    assert len(table) == len(tokenizer)
    for token, phrase in MEANINGS.items():
        pieces = tokenizer(phrase, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in pieces
        row = table[tokenizer.convert_tokens_to_ids(token)]
        assert torch.allclose(row, table[pieces].mean(0), atol=1e-6)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


# --- LoRA ---------------------------------------------------------------------------------------


def test_lora_trains_its_matrices_and_nothing_else(letters):
    model = models.add_lora(build_model(letters), rank=4, alpha=8)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * 2  # layers × linear maps × (A and B)
    assert all("lora_" in name for name in trained)
    # By hand: rank × (in + out) for four square maps and three of 32 and 64, in two layers.
    expected = 2 * (4 * 4 * (32 + 32) + 3 * 4 * (32 + 64))
    assert models.count_parameters(model)[0] == expected
    assert all(m.p == 0.0 for m in model.modules() if isinstance(m, nn.Dropout))


def test_fresh_lora_changes_nothing(letters):
    fresh = models.add_lora(build_model(letters))
    assert torch.equal(logits(fresh), logits(build_model(letters)))


def test_parameters_are_counted_with_an_adapter_and_without(letters):
    base = build_model(letters)
    weights = sum(p.numel() for p in base.parameters())
    assert models.count_parameters(base) == (0, weights)
    trained, total = models.count_parameters(models.add_lora(base, rank=4))
    assert total == weights + trained


# --- saving and loading -------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("adapter", ["default", POLICY])
def test_a_saved_adapter_gives_the_very_same_logits(letters, letter_actor, tmp_path, tied, adapter):
    if adapter == POLICY:  # beside another one
        model = letter_actor(tied=tied)
    else:
        model = models.add_lora(build_model(letters, tied=tied), rank=4)
    before = logits(model)
    shaken(model)
    expected = logits(model)
    assert not torch.allclose(before, expected, atol=0.1)
    models.save_adapter(model, tmp_path / "adapter", adapter)
    loaded = models.load_adapter(build_model(letters, tied=tied), tmp_path / "adapter", "anything")
    assert torch.equal(logits(loaded), expected)
    assert models.count_parameters(loaded)[0] == 0


def test_an_adapter_file_holds_no_embedding_table(letter_profile, tmp_path):
    """Neither ours nor one of a TRL trainer: PEFT would save the whole table of a base that has grown."""
    _, base = models.load_policy(letter_profile)
    model = models.add_lora(base, rank=4)
    models.save_adapter(model, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        weights = load_file(folder / "adapter_model.safetensors")
        assert all("lora_" in key for key in weights)
        assert sum(tensor.numel() for tensor in weights.values()) == models.count_parameters(model)[0]
        assert letter_profile.policy_base not in (folder / "adapter_config.json").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_saving_again_replaces_the_folder_whole(letters, tmp_path):
    model = models.add_lora(build_model(letters), rank=4)
    models.save_adapter(model, tmp_path / "adapter")
    (tmp_path / "adapter" / "stale").touch()
    models.save_adapter(shaken(model), tmp_path / "adapter")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert not (tmp_path / "adapter" / "stale").exists()
    loaded = models.load_adapter(build_model(letters), tmp_path / "adapter")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "garbage", "config"])
@pytest.mark.parametrize("onto", ["a plain base", "other adapters"])
def test_a_damaged_adapter_is_named(letters, letter_actor, tmp_path, damage, onto):
    folder = tmp_path / "adapter"
    models.save_adapter(models.add_lora(build_model(letters), rank=4), folder)
    file = folder / "adapter_model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    elif damage == "garbage":
        file.write_bytes(b"<html>404</html>" * 50)
    else:
        (folder / "adapter_config.json").write_text('{"peft_type": "LO', encoding="utf-8")
    model = build_model(letters) if onto == "a plain base" else letter_actor()
    with pytest.raises(ValueError, match="cannot be read") as error:
        models.load_adapter(model, folder, "another")
    assert str(folder) in str(error.value)
    if onto == "other adapters" and damage != "config":
        with pytest.raises(ValueError, match="cannot be read") as error:
            models.load_policy_weights(model, folder)
        assert str(folder) in str(error.value)


@pytest.mark.parametrize("onto", ["a plain base", "other adapters"])
def test_running_out_of_memory_is_no_damage(letters, letter_actor, tmp_path, monkeypatch, onto):
    models.save_adapter(models.add_lora(build_model(letters), rank=4), tmp_path)

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model = build_model(letters) if onto == "a plain base" else letter_actor()
    monkeypatch.setattr(models.PeftModel, "load_adapter", full)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        models.load_adapter(model, tmp_path, "another")


@pytest.mark.parametrize(
    "sizes", [{"conversation_tokens": 513}, {"prompt_tokens": 449, "response_tokens": 64}], ids=str
)
def test_a_base_that_reads_less_than_the_profile_asks_for_is_refused(letter_profile, sizes):
    models.load_policy(replace(letter_profile, conversation_tokens=512))  # just fits
    with pytest.raises(ValueError, match=r"asks for 513 tokens.*reads 512 at most"):
        models.load_policy(replace(letter_profile, **sizes))


def test_an_actor_starts_as_its_own_reference(letter_profile, tmp_path):
    _, model = models.load_policy(letter_profile)
    sft = shaken(models.add_lora(model, rank=4))
    expected = logits(sft)
    models.save_adapter(sft, tmp_path / "sft")
    _, actor = models.load_actor(letter_profile, tmp_path / "sft")
    assert torch.equal(logits(actor), expected)
    with models.using(actor, REF):
        assert torch.equal(logits(actor), expected)
    trained = {name for name, p in actor.named_parameters() if p.requires_grad}
    assert trained
    assert all(f".{POLICY}" in name for name in trained)


# --- switching ----------------------------------------------------------------------------------


def test_only_the_policy_is_ever_trained(letter_actor):
    model = letter_actor()
    of = {name: {n for n, _ in model.named_parameters() if f".{name}" in n} for name in (POLICY, REF)}
    assert len(of[POLICY]) == len(of[REF]) == 2 * 7 * 2
    for name in (REF, POLICY, REF, POLICY, POLICY):
        models.activate(model, name)
        assert model.active_adapter == name
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert trained == (of[POLICY] if name == POLICY else set())
    shaken(model)
    changed = logits(model)
    models.activate(model, REF)
    assert not torch.allclose(logits(model), changed, atol=0.1)


@pytest.mark.parametrize("start", [POLICY, REF])
@pytest.mark.parametrize("name", [POLICY, REF, "base"])
@pytest.mark.parametrize("fails", [False, True])
def test_using_puts_everything_back(letters, letter_actor, start, name, fails):
    model = shaken(letter_actor())
    models.activate(model, start)
    state, before = adapter_state(model), logits(model)
    inside = None
    try:
        with models.using(model, name):
            inside = logits(model)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert adapter_state(model) == state
    assert torch.equal(logits(model), before)
    assert torch.equal(inside, before) == (name == start)
    if name == "base":
        assert torch.equal(inside, logits(build_model(letters)))


def test_using_can_be_nested(letter_actor):
    model = shaken(letter_actor())
    state, policy = adapter_state(model), logits(model)
    with models.using(model, REF):
        ref = logits(model)
        with models.using(model, "base"):
            base = logits(model)
            assert not torch.allclose(base, ref, atol=1e-3)
        with models.using(model, POLICY):
            assert torch.equal(logits(model), policy)
        assert torch.equal(logits(model), ref)
    assert adapter_state(model) == state


def test_a_model_without_adapters_is_its_own_base(tiny_model):
    """01's first cells ask the base before the training, and after it, where they run again."""
    model = tiny_model()
    state = {name: p.requires_grad for name, p in model.named_parameters()}
    with models.using(model, "base") as used:
        assert used is model
    assert {name: p.requires_grad for name, p in model.named_parameters()} == state


# --- merging ------------------------------------------------------------------------------------


def base_weights(model) -> dict:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "base_layer" in n}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_merged_weights_act_alike_and_the_very_same_come_back(letter_actor, tied, fails):
    model = shaken(letter_actor(tied=tied))
    before, weights, state = logits(model), base_weights(model), adapter_state(model)
    storages = {n: p.data_ptr() for n, p in model.named_parameters() if "base_layer" in n}
    assert weights
    try:
        with models.merged(model):
            assert model.get_model_status().merged_adapters == [POLICY]
            assert torch.allclose(logits(model), before, atol=1e-4)
            changed = base_weights(model)
            assert not any(torch.equal(changed[name], weights[name]) for name in weights)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert model.get_model_status().merged_adapters == []
    assert all(torch.equal(p, weights[n]) for n, p in base_weights(model).items())
    assert {n: p.data_ptr() for n, p in model.named_parameters() if "base_layer" in n} == storages
    assert adapter_state(model) == state
    assert torch.equal(logits(model), before)


def test_an_error_half_way_leaves_no_half_merged_base(letter_actor):
    model = letter_actor()
    weights = base_weights(model)
    last = [m for m in model.modules() if isinstance(m, BaseTunerLayer)][-1]
    last.merge = None  # what comes before it is merged by then
    with pytest.raises(TypeError), models.merged(model):
        pass
    assert model.get_model_status().merged_adapters == []
    assert all(torch.equal(p, weights[n]) for n, p in base_weights(model).items())


def test_merging_takes_the_adapter_in_use_and_not_the_base(letters, letter_actor):
    model = shaken(letter_actor())
    for name in (REF, "base"):
        with models.using(model, name):
            alone = logits(model)
            with models.merged(model):
                inside = logits(model)
            assert torch.allclose(inside, alone, atol=1e-4)
            # With the adapters off there is nothing to fold in, and not a bit may change.
            assert name == REF or torch.equal(inside, alone)
            assert torch.equal(logits(model), alone)


def test_a_model_without_adapters_need_not_be_merged(letters):
    model = known_model(letters, {"a": 1.0})
    assert not isinstance(model, PeftModel)
    before = logits(model)
    with models.merged(model):
        assert torch.equal(logits(model), before)


def test_the_head_never_reads_a_view_of_the_hidden_states(letter_profile):
    # For a view torch's linear copies the head's weight once a row: 2 GB for 40 real rows.
    _, model = models.load_policy(letter_profile)
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, x: seen.append(x[0].is_contiguous()))
    model(input_ids=torch.ones(3, 5, dtype=torch.long), logits_to_keep=1)
    assert seen == [True]
