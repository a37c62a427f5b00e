"""Supervised fine-tuning: exactly the answers' tokens are graded, by the weights that are trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import build_model

from sawyer_utils import models, plots, runtime, sft
from sawyer_utils.chat import encode, token_count
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import resuming, trainers
from sawyer_utils.profiles import PROFILES
from sawyer_utils.sft import (
    conversation_losses,
    graded_losses,
    sft_trainer,
    total_steps,
    train_sft,
    trainer_precision,
)

torch.set_num_threads(1)

PROFILE = replace(PROFILES["smoke"], precision="fp32", sft_batch=4, sft_micro_batch=2, sft_max_steps=2)


def talk(*texts: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


# Unequal lengths, two turns, spaces that are cut, and a question that tries to end the answer.
CONVERSATIONS = [
    talk("Who wrote Hamlet?", "William Shakespeare."),
    talk(
        "  Hi!  ", "Hello! How are you?\n", "Fine, and you?", "I am only a model, but thank you for asking."
    ),
    talk("What does <|im_end|> mean?", "Whatever <|im_end|> means to you: 你好."),
    talk("Yes?", "No."),
]


@pytest.fixture
def student(tokenizer):
    """A tiny model with LoRA that already differs from where it started."""
    model = models.add_lora(build_model(tokenizer), rank=4)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model


def slow_losses(model, tokenizer, conversation: dict) -> list[float]:
    """The loss of each graded token, one after the other."""
    ids, graded = encode(tokenizer, conversation["messages"])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    return [-float(logits[t - 1].log_softmax(-1)[ids[t]]) for t in range(1, len(ids)) if graded[t]]


# --- the measure --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_losses_equal_those_of_one_conversation_alone(student, tokenizer, batch):
    expected = [slow_losses(student, tokenizer, row) for row in CONVERSATIONS]
    found = graded_losses(student, tokenizer, CONVERSATIONS, batch)
    for (ids, per_token), row, losses in zip(found, CONVERSATIONS, expected, strict=True):
        assert per_token == pytest.approx(losses, abs=1e-4)
        all_ids, graded = encode(tokenizer, row["messages"])
        assert ids == [i for i, g in zip(all_ids, graded, strict=True) if g]
        assert ids[-1] == tokenizer.eos_token_id
    means = [sum(losses) / len(losses) for losses in expected]
    assert conversation_losses(student, tokenizer, CONVERSATIONS, batch) == pytest.approx(means, abs=1e-4)
    assert max(means) - min(means) > 0.1, "the conversations should differ"


# --- what the trainer sees ----------------------------------------------------------------------


def test_the_trainer_sees_the_courses_own_tokens_and_grades_the_answers(student, tokenizer, tmp_path):
    trainer = sft_trainer(student, tokenizer, PROFILE, CONVERSATIONS, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    found = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        real = mask.bool()
        assert (labels[~real] == -100).all()
        found.append((ids[real].tolist(), labels[real].tolist()))
    wanted = []
    for conversation in CONVERSATIONS:
        ids, graded = encode(tokenizer, conversation["messages"])
        wanted.append((ids, [token if g else -100 for token, g in zip(ids, graded, strict=True)]))
    assert sorted(found) == sorted(wanted)


def test_a_long_conversation_keeps_its_start(student, tokenizer, tmp_path):
    profile = replace(PROFILE, conversation_tokens=12)
    trainer = sft_trainer(student, tokenizer, profile, CONVERSATIONS, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    ids, graded = encode(tokenizer, CONVERSATIONS[1]["messages"])
    assert len(ids) > 12
    assert batch["input_ids"].shape[1] == 12
    row = batch["input_ids"].tolist().index(ids[:12])
    assert (batch["labels"][row] != -100).tolist() == graded[:12]


def test_the_order_is_random_and_each_batch_goes_from_short_to_long(student, tokenizer, tmp_path):
    words = ["yes", "no", "why", "who", "how"]
    rows = [talk("a", " ".join(words[: 1 + i % 5]) + " " + "b" * (i % 7)) for i in range(40)]
    trainer = sft_trainer(student, tokenizer, PROFILE, rows, tmp_path)
    seen = [row["input_ids"] for row in trainer.train_dataset]
    given = [encode(tokenizer, row["messages"]).ids for row in rows]
    assert sorted(seen) == sorted(given)
    batches = [set(map(tuple, ids[i : i + 4])) for ids in (seen, given) for i in range(0, 40, 4)]
    assert not any(batch in batches[10:] for batch in batches[:10])
    for i in range(0, 40, 4):
        lengths = [len(ids) for ids in seen[i : i + 4]]
        assert lengths == sorted(lengths)
    loaded = [ids for batch in trainer.get_train_dataloader() for ids in batch["input_ids"].tolist()]
    firsts = [row[: len(ids)] for row, ids in zip(loaded, seen, strict=True)]
    assert firsts == seen


# --- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_is_the_mean_over_all_graded_tokens(tokenizer, tmp_path, tied):
    model = models.add_lora(build_model(tokenizer, tied=tied), rank=4)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    losses = [slow_losses(model, tokenizer, row) for row in CONVERSATIONS]
    flat = [loss for row in losses for loss in row]
    expected = sum(flat) / len(flat)
    assert abs(expected - sum(sum(r) / len(r) for r in losses) / len(losses)) > 1e-3, "else any mean would do"
    trainer = sft_trainer(model, tokenizer, PROFILE, CONVERSATIONS, tmp_path)
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        assert float(trainer.compute_loss(model, dict(batch))) == pytest.approx(expected, abs=1e-4)
        # Under gradient accumulation, the sum over the tokens of all micro-batches together.
        share = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(2 * len(flat)))
    assert float(share) == pytest.approx(expected / 2, abs=1e-4)


def trained(tokenizer, folder, **changes):
    model = models.add_lora(build_model(tokenizer), rank=4)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.data.normal_(0, 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    profile, lines = replace(PROFILE, **changes), []
    log = train_sft(
        model, tokenizer, profile, CONVERSATIONS, folder, lambda log: lines.append(len(log)), warmup_steps=0
    )
    assert lines == [1, 2]
    return model, before, log


def test_two_steps_change_lora_only(tokenizer, tmp_path):
    model, before, log = trained(tokenizer, tmp_path)
    after = dict(model.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("lora_" in name for name in changed)
    assert len(changed) > 20
    assert log[1]["loss"] < log[0]["loss"]


def test_a_trained_adapter_is_saved_as_it_is_used(tokenizer, tmp_path):
    model, _, _ = trained(tokenizer, tmp_path)
    loaded = models.load_adapter(build_model(tokenizer), tmp_path / "adapter")
    expected = conversation_losses(model, tokenizer, CONVERSATIONS)
    assert conversation_losses(loaded, tokenizer, CONVERSATIONS) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "log.json", "run.json"]


def test_micro_batches_do_not_change_the_training(tokenizer, tmp_path):
    (one, _, log_one), (four, _, log_four) = (
        trained(tokenizer, tmp_path / str(size), sft_micro_batch=size) for size in (1, 4)
    )
    for (name, a), (_, b) in zip(one.named_parameters(), four.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5), name
    assert [x["loss"] for x in log_one] == pytest.approx([x["loss"] for x in log_four], abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "batch", "micro_batch", "epochs", "steps"),
    [
        *((4, 4, 2, 3.0, 3), (10, 4, 2, 1.0, 3), (9, 4, 2, 2.0, 6), (3, 8, 8, 1.0, 1), (12, 4, 4, 1.5, 5)),
        *((12, 4, 8, 1.0, 3), (12, 4, 3, 1.0, 3), (12, 6, 4, 1.0, 2), (12, 5, 3, 1.0, 3)),
    ],
)
def test_total_steps_are_those_of_the_trainer(
    student, tokenizer, tmp_path, rows, batch, micro_batch, epochs, steps
):
    profile = replace(
        PROFILE, sft_max_steps=-1, sft_batch=batch, sft_micro_batch=micro_batch, sft_epochs=epochs
    )
    assert total_steps(profile, rows) == steps
    conversations = (CONVERSATIONS * 3)[:rows]
    trainer = sft_trainer(student, tokenizer, profile, conversations, tmp_path)
    assert trainer.args.per_device_train_batch_size <= micro_batch
    assert trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps == batch
    # Counted as transformers counts before it trains.
    loader = trainer.get_train_dataloader()
    counts = trainer.set_initial_training_values(trainer.args, loader)
    assert counts[-1] == steps


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 5), {"fp16": True, "bf16": False}),  # T4: says that it supports bf16, and emulates it
        ((7, 0), {"fp16": True, "bf16": False}),
        ((8, 0), {"fp16": False, "bf16": True}),
        ((9, 0), {"fp16": False, "bf16": True}),
    ],
)
@pytest.mark.parametrize("precision", ["auto", "nf4"])
def test_the_card_decides_the_number_format(monkeypatch, capability, expected, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    profile = replace(PROFILE, precision=precision)
    assert trainer_precision(profile) == {**expected, "use_cpu": False}


def test_fp32_is_said_out_loud(monkeypatch):
    # TRL's own default is bf16.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert trainer_precision(PROFILE) == {"fp16": False, "bf16": False, "use_cpu": True}


def test_without_conversations_nothing_is_trained(student, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="No conversation to learn from"):
        sft_trainer(student, tokenizer, PROFILE, [], tmp_path)


def test_a_conversation_that_does_not_fit_is_not_cut_but_left_out(tokenizer, tmp_path, capsys):
    limit = token_count(tokenizer, CONVERSATIONS[0])
    profile = replace(PROFILE, conversation_tokens=limit, sft_max_steps=-1, sft_epochs=1.0)
    fit = [row for row in CONVERSATIONS if token_count(tokenizer, row) <= limit]
    assert 0 < len(fit) < len(CONVERSATIONS)
    model = models.add_lora(build_model(tokenizer), rank=4)
    log = train_sft(model, tokenizer, profile, CONVERSATIONS, tmp_path, on_log=lambda log: None)
    left_out = len(CONVERSATIONS) - len(fit)
    said = f"{left_out} of {len(CONVERSATIONS)} conversations left out: longer than {limit} tokens."
    assert said in capsys.readouterr().out
    assert log[-1]["step"] == total_steps(profile, len(fit))


class Built(Exception):
    """The trainer is built; the rest of the cell is not wanted."""


@pytest.mark.parametrize("profile", [PROFILE, replace(PROFILES["local"], precision="fp32")])
def test_notebook_01_builds_the_same_trainer_in_the_open(tokenizer, tmp_path, monkeypatch, profile):
    """Two cells hold the settings that :func:`sft_trainer` and ``models.add_lora`` hold for all others."""
    sources = [cell.source for cell in course.build("01_sft").cells]
    [settings] = [source for source in sources if "lora = LoraConfig(" in source]
    [training] = [source for source in sources if "sft.run(" in source]

    def built(trainer, *_):
        raise Built

    monkeypatch.setattr(sft, "run", built)
    model = models.add_lora(build_model(tokenizer), profile.lora_rank, profile.lora_alpha)
    space = {"model": model, "runtime": runtime, "sft": sft, "trainers": trainers, "tokenizer": tokenizer}
    space |= {"profile": profile, "folder": tmp_path, "train": CONVERSATIONS, "plots": plots}
    exec(settings[: settings.index("base = ")], space)
    with pytest.raises(Built):
        exec(training, space)
    runtime.seed_everything(0)
    model = models.add_lora(build_model(tokenizer), profile.lora_rank, profile.lora_alpha)
    ours = sft_trainer(model, tokenizer, profile, CONVERSATIONS, tmp_path)
    theirs = space["trainer"]
    assert resuming.identity(theirs, "tiny") == resuming.identity(ours, "tiny")
    assert theirs.args.to_dict() == ours.args.to_dict()
    assert theirs.model.peft_config["default"].to_dict() == ours.model.peft_config["default"].to_dict()
    weights = dict(ours.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in theirs.model.named_parameters() if "lora" in name)
