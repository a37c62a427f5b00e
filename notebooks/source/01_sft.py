# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown] tags=["slide"]
# # 01 · SFT: from a model that continues to a model that answers
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/sawyer-course/sawyer/blob/main/notebooks/01_sft.ipynb)
#
# **You will take a language model that rambles and teach it, by [supervised fine-tuning](../docs/glossary.md#supervised-fine-tuning), to answer and then stop.**
#
# You will be able to
# - build a conversation format that no user can break with what they type,
# - train 2 % of a model's weights with Hugging Face's PEFT and TRL, and give a reason for each setting,
# - judge the result on conversations that it never saw.
#
# The embedded model is SmolLM2-135M-Instruct, a *chat* model, which answers in its own format. It does not know
# our format's tokens; asked in our format it rambles, as a base model does. (The larger profiles, `colab` and `llama2`,
# have true bases.)
#
# In our run the loss on conversations that it never saw fell from 4.63 to 2.32 nats a token (section 5). Of 120 answers, 27
# ended by themselves before the training, and all 120 after it.
#
# Needs Python and a little PyTorch; no GPU, no account. About 3 minutes on two CPU cores.

# %%
# Setup, the same in every notebook. In Colab it fetches the course first.
import os, subprocess, sys

# In Colab, keep runs in your Google Drive: they survive a disconnect.
# os.environ["SAWYER_HOME"] = "drive"
REPO, REF = "sawyer-course/sawyer", "main"
if "google.colab" in sys.modules:
    course = f"/content/sawyer-{REF}"
    if not os.path.isdir(course):
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", REF]
        subprocess.run([*clone, f"https://github.com/{REPO}", course], check=True)
    sys.path.insert(0, course)
    from sawyer_utils.plumbing import colab

    colab.prepare()

from sawyer_utils import runtime

profile = runtime.setup()

# %% [markdown]
# ## The whole thing in one picture
#
# Four notebooks, four stages. This is the first.

# %% tags=["slide"]
import json, math, tempfile

import pandas as pd
import torch
from IPython.display import display

from sawyer_utils import chat, data, evaluation, models, plots, sft, show
from sawyer_utils.classroom import talk, widgets
from sawyer_utils.classroom.checks import check
from sawyer_utils.plumbing import assets, trainers

folder = runtime.run_dir(profile, "sft")
figures = folder / "figures"
plots.save(plots.four_stages(here="sft"), figures, "four_stages")

# %% [markdown] tags=["slide"]
# *Four boxes in a row: SFT (you are here), [reward model](../docs/glossary.md#reward-model),
# [PPO](../docs/glossary.md#ppo), evaluation. Each hands its result to the next.*
#
# The letters beside tensors, in all notebooks: `B` [batch](../docs/glossary.md#batch), `P` prompt
# [tokens](../docs/glossary.md#token), `R` response tokens, `T = P + R`, `V` vocabulary.
#
# ## 1. What does a raw model do with a question?
#
# We ask it in two formats: the one of its chat training, and ours, `###HUMAN###…###BOT###`, which it has
# never seen. **Predict first:** what will it write in the second?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The surprise that the course stands on: to know something is not to answer.
# - **Ask.** What will it write after the question mark? Collect guesses on paper before the cell
#   runs.
# - **The usual wrong answer.** "A wrong name." That takes for granted that it tries to answer. It
#   continues a text.

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

weights = assets.resolve(profile.policy_base)  # a folder, or a name on the Hub
tokenizer = models.load_tokenizer(profile)  # with two more tokens: section 2
own = AutoTokenizer.from_pretrained(weights)  # as it came
base = AutoModelForCausalLM.from_pretrained(
    weights,
    **models.loading(profile),  # the number format that suits this machine
)
base = models.prepare(base, tokenizer, profile)  # frozen, with rows for the two tokens
model = base  # until section 4
print(f"{profile.policy_base}: {base.num_parameters():,} weights")

# %%
greet = [{"role": "user", "content": "How do I greet someone?"}]
formats = {"its own format": own, "ours": tokenizer}
for name, reader in formats.items():
    if reader.chat_template is None:  # a true base has none
        continue
    asked = reader.apply_chat_template(
        greet, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with models.using(model, "base"):  # also if you come back after the training
        found = model.generate(
            **asked.to(model.device),
            max_new_tokens=profile.response_tokens,
            do_sample=False,  # greedy: the likeliest token every time
            pad_token_id=tokenizer.pad_token_id,
        )  # (1, P + R)
    answer = found[0, asked["input_ids"].shape[1] :]  # (R,)
    print(f"In {name}:\n{reader.decode(answer, skip_special_tokens=True)}\n")

# %% [markdown]
# Is greedy choice the cause? Five questions are fixed for the whole course and kept out of all training data. Each is
# asked three times, sampled at the course's [temperature](../docs/glossary.md#temperature);
# then the test [prompts](../docs/glossary.md#prompt), with [greedy decoding](../docs/glossary.md#greedy-decoding).
# `evaluation.answer` calls the same `generate`, many prompts at a time.

# %% tags=["slide"]
fixed = list(data.FIXED_PROMPTS)
with models.using(model, "base"):
    tries = evaluation.answer(model, tokenizer, fixed * 3, profile)
prompts = data.load_prompts("test", profile.prompts, profile.eval_prompts)
prompts = chat.that_fit(tokenizer, prompts, profile.prompt_tokens)
questions = [row["prompt"] for row in prompts]
with models.using(model, "base"):
    base_answers = evaluation.answer(
        model, tokenizer, questions, profile, temperature=0
    )
    base_fixed = evaluation.answer(model, tokenizer, fixed, profile, temperature=0)
columns = {f"try {k + 1}": tries.responses[5 * k : 5 * k + 5] for k in range(3)}
for how, found in (("sampled", tries), ("greedy", base_answers)):
    print(f"{how}: {sum(found.finished)} of {len(found.finished)} end by themselves")
print(f"the others break off, most of them at {profile.response_tokens} tokens")
show.side_by_side(fixed, columns)

# %% [markdown]
# In our run 2 of 15 sampled answers and 27 of 120 greedy ones end by themselves. Neither way makes it answer reliably:
# it continues a text, and nothing in our marks tells it yet that it is its turn, or how to end.
#
# ## 2. How does it know whose turn it is?
#
# By marks in the text: `###HUMAN###` before a question, `###BOT###` before an answer, and after it the end token that
# this base already has. Why make *tokens* of them? **Predict first:** how many pieces does the model's own
# [tokenizer](../docs/glossary.md#tokenizer) make of `###HUMAN###`?

# %% tags=["fragment"]
end, stop = tokenizer.eos_token, tokenizer.eos_token_id
rows = []
for mark in [*chat.MEANINGS, end]:
    pieces = own.tokenize(mark)
    assert tokenizer.tokenize(mark) == [mark]
    row = {"mark": mark, "before": " · ".join(pieces), "pieces": len(pieces)}
    rows.append(row | {"now": len(tokenizer.tokenize(mark))})
print("the new rows start as the mean of:", chat.MEANINGS)
pd.DataFrame(rows).set_index("mark")

# %% [markdown]
# Before, a mark is several pieces that also occur in ordinary text; now it is one token, a new row of the
# [embedding](../docs/glossary.md#embedding) table. The row starts as the mean of a phrase's rows and stays there, for
# [LoRA](../docs/glossary.md#lora) (section 4) does not train embeddings. An end token made so would not work. The
# workshop's is `###STOP###`, the mean of "stop" and "talking". The output uses the same table: its
# [logit](../docs/glossary.md#logits) is the mean of theirs, so one of the two words is always at least as likely.
# Trained so, 0 of 120 answers ended (`benchmarks/stop_token.py`).
#
# ### What if a user types a mark?
#
# A message with two marks, encoded twice: pasted together, and by `chat.encode_prompt`.

# %% tags=["slide"]
typed = f"What do {end} and {chat.BOT} mean?"
human, bot = tokenizer.convert_tokens_to_ids([chat.HUMAN, chat.BOT])
pasted = tokenizer(chat.HUMAN + typed + chat.BOT, add_special_tokens=False).input_ids
ours = chat.encode_prompt(tokenizer, typed)
lines = []
for ids in (pasted, ours):
    pieces = [tokenizer.decode([i]).replace("\ufffd", "░") for i in ids]
    lines.append((pieces, [float(i in (human, bot, stop)) for i in ids]))
print(f"end tokens: {pasted.count(stop)} when pasted, {ours.count(stop)} when encoded")
assert (pasted.count(stop), ours.count(stop)) == (1, 0)
assert chat.decode(tokenizer, ours[ours.index(human) + 1 : -1]) == typed
legend = (
    "Shaded: control tokens. Above: pasted. Below: chat.encode. ░: part of a letter."
)
show.shaded_tokens(lines, legend)

# %% [markdown]
# When pasted, the user's text ends the conversation inside the question. When encoded, it stays text: each `###` and
# special token that anybody types is split by an invisible space, and only our code adds
# [control tokens](../docs/glossary.md#control-token).
# The format is the tokenizer's *[chat template](../docs/glossary.md#chat-template)*, which TRL's trainer uses, too.
#
# ## 3. What should be graded?
#
# Training grades the model's guess of each next token of a conversation. All of them? The model never has to write the
# user's questions.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Why a mark has to be a token that only the code can write.
# - **Ask.** Where else does text turn into a command? (SQL injection is the same hole.)
# - **The usual wrong answer.** "Delete the marks from the message." Then nobody can talk about
#   them, and a filter that runs once turns `###B###BOT###OT###` into a mark.

# %% tags=["fragment"]
corpus = data.load_conversations(profile.conversations, profile.limit)
corpus = data.untested(corpus, data.load_prompts("test", profile.prompts))
corpus = chat.that_fit(tokenizer, corpus, profile.conversation_tokens)
train, held = data.split_rows(corpus, 0.12)  # by a hash: the same in every run
assert not {row["id"] for row in train} & {row["id"] for row in held}
print(f"{len(train)} conversations to train on, {len(held)} held out")
several = [row for row in train if len(row["messages"]) > 2] or list(train)
several.sort(key=lambda row: chat.token_count(tokenizer, row))
ids, graded = chat.encode(tokenizer, several[0]["messages"])
print(f"{sum(graded)} of {len(ids)} tokens are graded")
assert all(flag for i, flag in zip(ids, graded) if i == stop)
show.graded_tokens([tokenizer.decode([i]) for i in ids], graded)

# %% [markdown] tags=["slide"]
# The answers are graded, and the end after each: that is how the model learns to stop. The conversations that are
# [held out](../docs/glossary.md#held-out-data) are never trained on; they are the exam.
#
# ## 4. How is it trained?
#
# Each weight matrix W stays as it is, and gets a correction of two thin matrices, LoRA
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1):
#
# $$ h = W x + \frac{\alpha}{r}\, B A\, x $$
#
# A is r × d_in, B is d_out × r, and the *[rank](../docs/glossary.md#rank)* r is small. A starts at random numbers,
# B at zero. **Predict first:** what does the model say with a fresh [adapter](../docs/glossary.md#adapter)?

# %% [markdown] tags=["teaching"]
# - **What it is for.** LoRA in one line. Draw the two thin matrices beside the thick one.
# - **Ask.** What does the model say at step 0, before any training?
# - **The usual wrong answer.** "Something slightly worse, for A is random." B is zero, so it says
#   the same to the last bit.

# %% tags=["show-code", "fragment"]
from peft import LoraConfig, get_peft_model

lora = LoraConfig(
    r=profile.lora_rank,  # how much an adapter can express: sections 8 and 9
    lora_alpha=profile.lora_alpha,  # corrections are scaled by alpha / r
    lora_dropout=0.0,  # in 03 the same weights must give the same probabilities twice
    target_modules="all-linear",  # each matrix but embedding and output layer
    task_type="CAUSAL_LM",
)
base = base if model is base else model.unload()  # where this cell runs again
before = sft.graded_losses(base, tokenizer, held)  # the exam, before any training
probe = chat.encode_prompt(tokenizer, fixed[0])
probe = torch.tensor([probe], device=base.device)  # (1, P)
with torch.no_grad():
    base_logits = base(input_ids=probe).logits  # (1, P, V)
model = get_peft_model(base, lora)
with torch.no_grad():
    assert torch.equal(model(input_ids=probe).logits, base_logits)  # to the last bit
trainable, total = models.count_parameters(model)
print(f"trainable: {trainable:,} of {total:,} ({trainable / total:.1%})")

# %% tags=["show-code", "slide"]
from trl import SFTConfig, SFTTrainer

base = model.unload()  # without adapter: each run of this cell begins with a new one
runtime.seed_everything(0)  # of A's random numbers
model = get_peft_model(base, lora)
accumulate = max(1, profile.sft_batch // profile.sft_micro_batch)
config = SFTConfig(
    num_train_epochs=profile.sft_epochs,  # times that each conversation is read
    max_steps=profile.sft_max_steps,  # -1: the epochs decide
    per_device_train_batch_size=profile.sft_micro_batch,  # in memory at once
    gradient_accumulation_steps=accumulate,  # so many of these make a step
    learning_rate=profile.sft_lr,  # LoRA bears more than full training, about 1e-5
    lr_scheduler_type="cosine",  # down to 0, so that the end is not noise
    warmup_steps=5,  # Adam's first estimates rest on few gradients
    max_length=profile.conversation_tokens,  # what is longer was left out above
    assistant_only_loss=True,  # grade the answers only: section 3
    train_sampling_strategy="sequential",  # in_order has shuffled, by length
    seed=0,
    **sft.machine_options(profile, folder),  # number format, memory, log
)
trainer = SFTTrainer(
    model=model,
    args=trainers.one_gpu(config),
    train_dataset=sft.in_order(tokenizer, train),
    processing_class=tokenizer,  # which holds the chat template
)
print(f"rank {lora.r}, rate {config.learning_rate:g}, {profile.sft_batch} a step")
live = plots.LivePlot(plots.loss_curve, sft.total_steps(profile, len(train)), 4, folder)
log = sft.run(trainer, profile, folder, live)  # trainer.train(); goes on if cut off
live.clear()  # the next cell has the whole curve
print(f"{log[-1]['step']} steps, {log[-1]['seconds']:.0f} s of training")
assert log[-1]["step"] == sft.total_steps(profile, len(train))
assert all(math.isfinite(line["loss"]) for line in log)

# %% [markdown]
# The fresh adapter changed no logit: it says what the base says. Run again, the training cell loads what was learnt, or
# goes on from its last [checkpoint](../docs/glossary.md#checkpoint); with other settings it begins anew.
#
# ## 5. Does it learn?
#
# For each held-out conversation we take its [loss](../docs/glossary.md#loss) after the training minus its loss before,
# in [nats](../docs/glossary.md#nat). The [interval](../docs/glossary.md#interval) comes from a
# [bootstrap](../docs/glossary.md#bootstrap) that draws *conversations*, because the tokens of one conversation are not
# independent.

# %% tags=["slide"]
after = sft.graded_losses(model.eval(), tokenizer, held)
was, now = ([sum(x) / len(x) for _, x in found] for found in (before, after))
change = [a - b for a, b in zip(now, was)]
low, high = evaluation.bootstrap_interval(change)
mean_before, mean_after = sum(was) / len(was), sum(now) / len(now)
fall = 1 - mean_after / mean_before
found = evaluation.verdict(low, high, higher_is_better=False)
print(f"held-out loss {mean_before:.3f} → {mean_after:.3f} nats (n = {len(held)})")
print(f"change {sum(change) / len(change):+.3f} [{low:+.3f}, {high:+.3f}]: {found}")
print(f"{sum(c > 0 for c in change)} of {len(held)} conversations got worse")
assert low <= sum(change) / len(change) <= high
levels = [("held-out, before", mean_before), ("held-out, after", mean_after)]
plots.save(plots.loss_curve(log, levels=levels), figures, "loss", log)

# %% [markdown]
# *The training loss at every step, thin, and its average, bold; two level lines: the held-out loss before and
# after.*
#
# In our run the held-out loss halves, from 4.63 to 2.32, and no conversation got worse. The bold curve ends close to
# the lower line; after learning by heart it would end far below.
#
# One held-out answer, token by token: the darker, the more it surprised the model. **Predict first:** what is easier
# to teach, the words or the end?

# %% tags=["slide"]
sizes = [chat.token_count(tokenizer, row) for row in held]
k = sizes.index(sorted(sizes)[len(held) // 4])  # one of the shorter ones
print(held[k]["messages"][0]["content"])
lines = []
for name, found in (("base", before), ("SFT", after)):
    ends = [x for ids, losses in found for i, x in zip(ids, losses) if i == stop]
    words = [x for ids, losses in found for i, x in zip(ids, losses) if i != stop]
    said, ended = sum(words) / len(words), sum(ends) / len(ends)
    chance = math.exp(-ended)
    print(f"{name:4s} words {said:.2f} nats, end {ended:.2f} (p = {chance:.2g})")
    ids, losses = found[k]
    lines.append(([tokenizer.decode([i]) for i in ids], losses))
show.shaded_tokens(lines, "Loss of each graded token: base above, SFT below.")

# %% [markdown]
# In our run the end's loss fell by 3.7 nats, the words' by 1.8: stopping is one habit, the same in every conversation.
#
# The adapter's file holds A and B alone. We load it onto the base, so that the saved one is judged.

# %%
from peft import PeftModel

with torch.no_grad():
    trained_logits = model(input_ids=probe).logits.float()  # (1, P, V)
base = model.unload()
model = PeftModel.from_pretrained(base, folder / "adapter").eval()
with torch.no_grad():
    loaded_logits = model(input_ids=probe).logits.float()  # (1, P, V)
difference = float((loaded_logits - trained_logits).abs().max())
size = sum(file.stat().st_size for file in (folder / "adapter").iterdir()) / 2**20
print(f"adapter: {size:.1f} MiB; largest difference of any logit: {difference:.1e}")
assert torch.allclose(loaded_logits, trained_logits, atol=1e-3)

# %% [markdown]
# ## 6. Did it learn to answer?
#
# The five fixed questions again, greedy, base beside SFT.

# %% tags=["slide"]
sft_fixed = evaluation.answer(model, tokenizer, fixed, profile, temperature=0)
sft_tries = evaluation.answer(model, tokenizer, fixed * 3, profile)
notes, rows = {}, [{"prompt": prompt} for prompt in fixed]
both = {"base": (base_fixed, tries), "SFT": (sft_fixed, sft_tries)}
for name, (greedy, sampled) in both.items():
    how = ["stopped by itself" if f else "cut off" for f in greedy.finished]
    notes[name] = [f"{what}, {n} tokens" for what, n in zip(how, greedy.lengths)]
    for i, row in enumerate(rows):
        row[name.lower()] = greedy.responses[i]
        row[f"{name.lower()}_finished"] = greedy.finished[i]
        row[f"{name.lower()}_samples"] = sampled.responses[i::5]
runtime.write_json(folder / "answers.json", rows)
columns = {name: greedy.responses for name, (greedy, _) in both.items()}
show.side_by_side(fixed, columns, notes)

# %% [markdown]
# In our run all five stop, and the loop about greeting became "Say hello, smile, and say thank you." "John Adams." is
# wrong: no training answer names a president, for the training teaches a manner, not facts.
#
# Now the test prompts.

# %% tags=["slide"]
sft_answers = evaluation.answer(model, tokenizer, questions, profile, temperature=0)
names, shares, intervals, mean_lengths = ["base", "SFT"], [], [], []
n = len(questions)
for name, found in zip(names, (base_answers, sft_answers)):
    ended = sum(found.finished)
    shares.append(ended / n)
    intervals.append(evaluation.wilson_interval(ended, n))
    mean_lengths.append(sum(found.lengths) / n)
    print(f"{name}: {ended} of {n} end, {mean_lengths[-1]:.0f} tokens each")
texts = [m["content"] for row in train for m in row["messages"][1::2]]
counts = [sum(chat.encode(tokenizer, row["messages"]).graded) for row in train]
print(f"the answers it was shown: {sum(counts) / len(texts):.0f} tokens each")
lows, highs = zip(*intervals)
numbers = {"model": names, "share": shares, "low": lows, "high": highs}
label = "share that ends by itself"
bars = plots.bars_with_intervals(
    names, shares, lows, highs, [n] * 2, label, ylim=(0, 1.05)
)
plots.save(bars, figures, "finished", numbers)

# %% [markdown]
# *Two bars, base and SFT: the share of answers that end by themselves, each with its 95 %
# [Wilson interval](../docs/glossary.md#wilson-interval).*
#
# In our run every SFT answer ends, after 15 tokens on average, about as many as in the answers that it was shown.
#
# **Predict first:** what does a model say about your cat that has learned to answer every question? And which of three
# presidents is likeliest, before and after?

# %% tags=["slide"]
unknowable = [
    "What is the name of my cat?",
    "Who is the mayor of the village of Brumbleton-on-Wyre?",
    "Who won the chess world championship in 2041?",
]
invented = evaluation.answer(model, tokenizer, unknowable, profile, temperature=0)
presidents = ["George Washington.", "Thomas Jefferson.", "John Adams."]
asked = []
for name in presidents:
    answer = {"role": "assistant", "content": name}
    asked.append({"messages": [{"role": "user", "content": fixed[0]}, answer]})
for title, adapter in (("base", "base"), ("SFT", "default")):
    with models.using(model, adapter):
        found = sft.graded_losses(model, tokenizer, asked)
    # Summed, without the end: minus the logarithm of the name's probability.
    cost = [sum(losses[:-1]) for _, losses in found]
    print(f"likeliest by {title}: {presidents[cost.index(min(cost))]}")
unsure = ("don't know", "not know", "cannot know", "can't know", "not sure", "no idea")
admits = sum(any(words in text.lower() for words in unsure) for text in texts)
print(f"{admits} of the {len(texts)} answers it was trained on admit not to know.")
show.side_by_side(unknowable, {"SFT": invented.responses})

# %% [markdown] tags=["slide"]
# A model that was trained to answer does so whether it knows or not. The training can also move a fact: in our run the
# base finds Washington the likeliest of the three names, SFT finds Adams.
#
# ## 7. What did the trainer compute?
#
# The loss of a token is minus the logarithm of its probability; a loss is the mean over the tokens that count. First ten
# tokens by hand. **Predict:** which of three ways of counting gives the highest loss?

# %% [markdown] tags=["teaching"]
# - **What it is for.** The loss of the whole course, small enough for the blackboard. Let somebody
#   do one token by hand.
# - **Ask.** Whose words should the model be graded on, and who pays if the questions count as well?
# - **The usual wrong answer.** "The way with the lowest loss is the best one." The three are means
#   over different tokens; they cannot be compared.

# %% tags=["nbval-check-output", "slide", "show-code"]
toy = ["HUMAN", "Why", "BOT", "Because", "END", "HUMAN", "Sure", "BOT", "Yes", "END"]
probability = torch.tensor([0.1, 0.5, 0.2, 0.8, 0.4, 0.05, 0.5, 0.5, 0.9])  # (T - 1,)
nll = -probability.log()  # (T - 1,) of toy[1:], for nothing predicts the first token
counts = {
    "all tokens": [1, 1, 1, 1, 1, 1, 1, 1, 1],
    "answers only": [0, 0, 1, 1, 0, 0, 0, 1, 1],
    "last answer only": [0, 0, 0, 0, 0, 0, 0, 1, 1],
}
for name, mask in counts.items():
    chosen = nll[torch.tensor(mask) == 1]
    print(f"{name:17s} {len(chosen)} tokens  loss {chosen.mean():.4f}")
assert len(nll) == len(toy) - 1

# %% [markdown]
# Now a batch of the real trainer: ids, and labels, which are the ids with −100 wherever nothing is graded. The logits at
# position t are the guess for token t + 1. Who forgets this *shift* grades the model for repeating each token.

# %%
batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
batch = {name: tensor.to(base.device) for name, tensor in batch.items()}  # each (B, T)
ids, answers = batch["input_ids"], batch["labels"] != -100  # (B, T) both
is_text = batch["attention_mask"].bool()  # (B, T) no padding
with torch.no_grad():
    trl_loss = float(trainer.compute_loss(model, dict(batch)))
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logprobs = model(**read).logits.float().log_softmax(-1)  # (B, T, V)
nll = -logprobs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T - 1)
unshifted = -logprobs.gather(-1, ids[..., None]).squeeze(-1)  # (B, T)
by_hand = float(nll[answers[:, 1:]].mean())
print(f"all tokens                {nll[is_text[:, 1:]].mean():.4f}")
print(f"answers only              {by_hand:.4f}")
print(f"answers, shift forgotten  {unshifted[answers].mean():.4f}")
print(f"the trainer               {trl_loss:.4f}")
assert abs(by_hand - trl_loss) < 1e-3
del logprobs, nll, unshifted

# %% [markdown]
# The trainer's number is that of the answers only, of four conversations. ([Padding](../docs/glossary.md#padding) never
# counts.) It can differ from section 5's loss: these four were trained on, so few scatter widely, and tokens, not
# conversations, are averaged.
#
# ## 8. What does LoRA change?
#
# The formula of section 4 on a W of 6 × 4. B moves first: while it is zero, A has no
# [gradient](../docs/glossary.md#gradient).

# %% tags=["nbval-check-output", "slide", "show-code"]
rank, alpha = 2, 4
W = (torch.arange(24) % 5 - 2.0).view(6, 4)  # (6, 4) any matrix will do
A = torch.tensor([[0.5, -0.5, 0.25, 0], [0, 0.25, -0.5, 0.5]])  # (r, 4) starts random
B = torch.zeros(6, rank)  # (6, r) starts at zero
x = torch.tensor([1.0, 2.0, 0.0, -1.0])  # (4,)
h = W @ x + alpha / rank * B @ A @ x  # (6,)
print("W x            ", (W @ x).tolist())
print("with LoRA      ", h.tolist())
B[0, 0] = 1.0  # one step of learning
print("after a change ", (W @ x + alpha / rank * B @ A @ x).tolist())
assert torch.equal(h, W @ x)
for d_out, d_in, r in [(6, 4, 2), (6, 4, 4), (576, 576, 8), (1536, 576, 8)]:
    full, thin = d_out * d_in, r * (d_out + d_in)
    print(f"{d_out:4d} x {d_in:3d}  rank {r}: {thin:6,d} instead of {full:7,d}")

# %% [markdown]
# On a tiny matrix LoRA saves nothing: at rank 4 it holds more numbers than the matrix. The saving grows with the size.
#
# ## 9. What would you change?
#
# Five saved runs differ in one setting each. (They also trained the rows of three new marks: compare them only with one
# another.) **Predict first:** how much lower is the loss of rank 32 than of rank 2? Which raises it
# more, a fifth of the [learning rate](../docs/glossary.md#learning-rate) or half of the steps?

# %%
saved = runtime.read_json(runtime.project_root() / "results" / "sft_sweep.json")
shown = pd.DataFrame(saved["runs"])
bounds = zip(shown.heldout_low, shown.heldout_high)
shown["interval"] = [f"{a:.2f} to {b:.2f}" for a, b in bounds]
keys = ["trainable_parameters", "steps", "heldout_loss", "interval", "share_finished"]
shown.set_index("name")[keys].round(3)

# %% [markdown]
# The intervals of the three ranks overlap widely: one run of each names no winner, and the smaller adapter is a fair
# choice. A fifth of the rate costs more than half of the steps (3.08 against 2.47): it is too slow.
#
# ## Your own data
#
# A file with one conversation a line (other forms: README). With `SAWYER_CONVERSATIONS=mine.jsonl` set before the
# start, this notebook trains on it, in a run folder of its own; `SAWYER_MODEL=…` takes another base.

# %%
mine = folder / "mine.jsonl"  # here one line; a training wants a few hundred
ask = {"role": "user", "content": "What are you?"}
reply = {"role": "assistant", "content": "SAWYER, a model of a course."}
mine.write_text(json.dumps({"messages": [ask, reply]}) + "\n", encoding="utf-8")
for row in data.load_conversations(str(mine)):
    print(tokenizer.decode(chat.encode(tokenizer, row["messages"]).ids))

# %% [markdown] tags=["slide"]
# ## The doubt
#
# Suppose it said "George Washington." **Is that good?** It is right and short; a person might add that he refused to be
# king. Nothing here could prefer that answer: the loss knows one written answer a question, and calls everything
# else wrong. Somebody has to say which of two answers is better: [notebook 02](02_reward.ipynb).
#
# Ask both; their answers are sampled, from one [seed](../docs/glossary.md#seed). Tick "[blind
# vote](../docs/glossary.md#blind-vote)" to hide the names. Pages without widgets show the table alone. (KL: notebook 03.)

# %%
peak = runtime.record_peak(profile, "sft")
print(f"peak memory of this notebook: {peak:.1f} GiB")
runtime.record(
    profile,
    "sft",
    heldout_before=mean_before,
    heldout_after=mean_after,
    heldout_change=[low, high],
    loss_fall_share=fall,
    base_finished=shares[0],
    sft_finished=shares[1],
    sft_finished_interval=list(intervals[1]),
    base_samples_finished=sum(tries.finished) / len(tries.finished),
    sft_samples_finished=sum(sft_tries.finished) / len(sft_tries.finished),
    mean_length={"base": mean_lengths[0], "sft": mean_lengths[1]},
    n_prompts=len(questions),
    n_heldout=len(held),
    n_train=len(train),
    seconds_train=log[-1]["seconds"],
    trainable_parameters=trainable,
)
chat_with = talk.Talk(model, tokenizer, profile, {"base": "base", "sft": "default"})
display(widgets.Chat(chat_with, folder))
few_tokens = min(40, profile.response_tokens)
widgets.compare(chat_with, talk.questions()[:3], tokens=few_tokens)

# %% [markdown] tags=["teaching"]
# - **What it is for.** The bridge to 02. Leave the question open.
# - **Ask.** Two right answers: "George Washington." and one that adds that he refused to be king.
#   Which part of this notebook could tell you which is better?
# - **The usual wrong answer.** "The held-out loss." It knows one written answer a question and
#   calls everything else wrong.

# %% [markdown]
# ## Without this package
#
# The same in plain transformers, PEFT and TRL, on the small model under every profile. It stops after four steps, to be
# quick, and cannot answer yet; without `max_steps` it trains three epochs. It reads a typed mark as a token, and cannot go
# on after a stop.

# %% tags=["show-code"]
from datasets import Dataset

# On the Hub it is HuggingFaceTB/SmolLM2-135M-Instruct.
small = assets.resolve("embedded:smollm2-135m")
plain = AutoTokenizer.from_pretrained(small)
marks = {"extra_special_tokens": ["###HUMAN###", "###BOT###"], "pad_token": "<pad>"}
plain.add_special_tokens(marks)  # the padding is not the end, which is graded
plain.chat_template = (
    "{% for m in messages %}{% if m.role == 'user' %}###HUMAN###{{ m.content }}"
    "###BOT###{% else %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
student = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
student.resize_token_embeddings(len(plain))
SFTTrainer(
    model=student,
    processing_class=plain,
    train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in train]),
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    args=SFTConfig(
        **{"output_dir": tempfile.mkdtemp(), "report_to": "none", "bf16": False},
        disable_tqdm=True,
        **{"assistant_only_loss": True, "learning_rate": 5e-4, "max_steps": 4},
        use_cpu=torch.cuda.device_count() > 1,  # several GPUs want a launcher
    ),
).train()
asked = plain.apply_chat_template(greet, return_tensors="pt", return_dict=True)
found = student.generate(**asked.to(student.device), max_new_tokens=30)
print(plain.decode(found[0]))

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`: `check` gives one hint at a time. Solutions stand at the end. (`SOLUTION` is
# for teachers who use nbgrader.)
#
# ### 01.1 Predict the number: when does LoRA save nothing?
#
# For a matrix of 1536 × 576, from which rank on do A and B together hold *more* numbers than the matrix?

# %% tags=["exercise"]
### BEGIN SOLUTION
rank_without_gain = None
### END SOLUTION

check("01.1", rank_without_gain)

# %% [markdown]
# ### 01.2 Write this function: the loss that a trainer reports
#
# The mean loss, in nats, of the graded tokens of a batch, as in section 7: from logits that are *not* shifted yet.


# %% tags=["exercise"]
def answer_loss(logits, ids, graded):
    """Logits (B, T, V), ids (B, T), graded (B, T) True or False -> one number."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("01.2", answer_loss)

# %% [markdown]
# ### 01.3 Break it: the loss that is too good
#
# A colleague forgot the shift. Build the model that this loss likes best: from ids, return logits that make the loss
# *without* the shift smaller than 0.01 nats. The logits at position t may depend on the tokens up to t only.


# %% tags=["exercise"]
def too_good(ids, vocabulary):
    """ids (B, T) -> logits (B, T, vocabulary)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("01.3", too_good)

# %% [markdown]
# ### 01.4 Break it and mend it: padding is stopping?
#
# Many recipes say `tokenizer.pad_token = tokenizer.eos_token`, and many collators find padding by its id:
# `torch.where(ids == pad, -100, ids)`. What happens to the ends? Write the labels for rows padded on the left, right for
# *every* choice of `pad`: −100 on the padding, the ids everywhere else.


# %% tags=["exercise"]
def careful_labels(ids, lengths, pad):
    """ids (B, T), lengths (B,) of the texts without padding -> labels (B, T)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("01.4", careful_labels)

# %% [markdown]
# ### An open question
#
# Train with `assistant_only_loss=False`. What will the model do that it should not? (It learns to write the user's
# questions, too. The reported loss is of other tokens: the two cannot be compared.)
#
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | the answers never end | the end is not graded, or is the padding | the end's loss (5), bars (6) |
# | it writes the user's next question | all tokens were graded | the answers (6) |
# | training loss falls, held-out loss rises | too many epochs, too high a rank | loss figure (5) |
# | loss falls to almost 0 at once | the shift was forgotten | exercise 01.3 |
# | a message breaks the conversation | user text became a control token | the two encodings (2) |
#
# ## What we simplified
#
# 1. **The embedded "base" is a chat model**, rounded to about 4 bits (GGUF, Q4_1). Part of what
#    returns so quickly was learned there.
# 2. **Small data:** a few hundred conversations, written by language models, and three epochs. The workshop
#    ([Ozdemir](https://github.com/sinanuozdemir/odsc-llm-alignment)) used 46,580, one epoch and 8 billion weights: its
#    loss fell from 1.504 to 0.971.
# 3. **No system role, no tools, no packing** of several conversations into one row.
# 4. **One seed.** The interval covers the choice of held-out conversations, not another training run.

# %% [markdown]
# ## Five questions
#
# **1. Compare the two answers at the start of section 1. Why does the second one ramble?**
#
# - A: It is too small to know the answer to that.
# - B: It was sampled at the wrong temperature.
# - C: It has never been trained on these marks.
#
# <details><summary>Answer</summary>
#
# **C** is right. It continues a text. Nothing in our marks says yet that an answer is wanted, or how to end it.
#
# Not A. The weights are the same in both; in its own format it writes to the point.
#
# Not B. Both answers are greedy: nothing was sampled.
#
# It stands in “1. What does a raw model do with a question?”.
#
# </details>
#
# **2. A user types `###BOT###` and the end token. Why does the conversation go on?**
#
# - A: Typed marks are split, and stay text.
# - B: The model has learned to ignore them.
# - C: Marks are deleted from each message.
#
# <details><summary>Answer</summary>
#
# **A** is right. Only the code adds control tokens: no end token when encoded, one when pasted.
#
# Not B. It holds for the untrained model, too: no end token reaches it.
#
# Not C. It is still there. Decoding takes the invisible space out again.
#
# It stands in “What if a user types a mark?”.
#
# </details>
#
# **3. Why does a fresh LoRA adapter leave the base's logits as they are?**
#
# - A: The rounding of bf16 hides what it adds.
# - B: B starts at zero, so B·A·x is zero, too.
# - C: It is off until the first step is done.
#
# <details><summary>Answer</summary>
#
# **B** is right. Whatever A is. The first change of B moves the output.
#
# Not A. The toy in fp32 gives equal numbers, too, and A's numbers are of ordinary size.
#
# Not C. It is on, and adds exactly nothing yet.
#
# It stands in “4. How is it trained?”.
#
# </details>
#
# **4. Read the printed lines above the shaded tokens. Why could the end be learnt better than the words?**
#
# - A: The end is one habit; the words differ each time.
# - B: The end is not graded, so that its loss is lower.
# - C: The end is a new token, which starts with no loss.
#
# <details><summary>Answer</summary>
#
# **A** is right. The same token stands at the end of every answer; no two answers have the same words.
#
# Not B. It is graded: section 3 asserts it. What is not graded has no loss here.
#
# Not C. It is the base's own token, and its loss before the training is printed, too.
#
# It stands in “5. Does it learn?”.
#
# </details>
#
# **5. Why does the bootstrap draw conversations and not tokens?**
#
# - A: Drawing the tokens would take too long.
# - B: Long conversations should count for more.
# - C: Tokens of one of them depend on another.
#
# <details><summary>Answer</summary>
#
# **C** is right. Counted as independent, they would pretend to more evidence than there is.
#
# Not A. It would take no time worth mentioning.
#
# Not B. The reverse: each conversation is one mean, however long it is.
#
# It stands in “5. Does it learn?”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("01")

# %% [markdown]
# ## Solutions
#
# Each passes its own check. Look here after you have tried.

# %% tags=["solution"]
### BEGIN SOLUTION
rank_without_gain = 1536 * 576 // (1536 + 576) + 1
### END SOLUTION

assert check("01.1", rank_without_gain).right


# %% tags=["solution"]
def answer_loss(logits, ids, graded):
    ### BEGIN SOLUTION
    logprobs = logits[:, :-1].log_softmax(-1)  # (B, T - 1, V)
    nll = -logprobs.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T - 1)
    return nll[graded[:, 1:]].mean()
    ### END SOLUTION


assert check("01.2", answer_loss).right


# %% tags=["solution"]
def too_good(ids, vocabulary):
    ### BEGIN SOLUTION
    return 20.0 * torch.nn.functional.one_hot(ids, vocabulary)  # says what it sees
    ### END SOLUTION


assert check("01.3", too_good).right


# %% tags=["solution"]
def careful_labels(ids, lengths, pad):
    ### BEGIN SOLUTION
    T = ids.shape[1]
    is_text = torch.arange(T) >= T - lengths[:, None]  # (B, T)
    return torch.where(is_text, ids, -100)
    ### END SOLUTION


assert check("01.4", careful_labels).right
