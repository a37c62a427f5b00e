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
# You take a language model that rambles and teach it, by [supervised fine-tuning](../docs/glossary.md#supervised-fine-tuning), to answer and then stop.
#
# **You will be able to**
# - build a conversation format that no user can break with what they type,
# - compute by hand the loss that a trainer reports, and say which tokens it grades,
# - train 2 % of a model's weights with LoRA and judge the result on conversations it never saw.
#
# **Needs:** Python and a little PyTorch. No GPU, no account.
# **Minutes:** about 5 on two CPU cores (`local`); not measured on a T4 (`colab`), where the model is larger.

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

# %%
import gc
import math

import pandas as pd
import torch
from IPython.display import display

from sawyer_utils import chat, data, evaluation, models, plots, sft, show
from sawyer_utils.chapters import drawings
from sawyer_utils.plumbing import assets

folder = runtime.run_dir(profile, "sft")

# %% [markdown]
# ## The whole thing in one picture
#
# Four notebooks, four stages. Here the model learns to answer at all. Whether people *like* its
# answers is the business of the next two, and whether you should believe any of it, of the fourth.

# %% tags=["slide"]
plots.save(plots.four_stages(here="sft"), folder / "figures", "four_stages")

# %% [markdown]
# *The figure in words:* four boxes from left to right: SFT (you are here), [reward model](../docs/glossary.md#reward-model), [PPO](../docs/glossary.md#ppo),
# evaluation. Each stage hands its result to the next.
#
# One legend for the letters beside tensors, in all four notebooks: `B` [batch](../docs/glossary.md#batch), `P` prompt [tokens](../docs/glossary.md#token),
# `R` response tokens, `T = P + R`, `V` vocabulary.

# %%
tokenizer, base = models.load_policy(profile)
print(f"policy: {profile.policy_base}, {models.count_parameters(base)[1]:,} weights")

# %% [markdown]
# The model comes with two new tokens already in its vocabulary. Sections 2 and 3 explain them;
# until then, take it that `###HUMAN###…###BOT###` is how one asks it something.

# %% [markdown] tags=["slide"]
# ## 1. What does a raw model do with a question?
#
# Ask the model who America's first president was. It has read about him many times. Before you
# run the next cell, write down what you expect: the name? A wrong name? Something else?
#
# Five questions are fixed for the whole course and kept out of all training data. Each is asked
# three times, sampling at the [temperature](../docs/glossary.md#temperature) that the whole course uses.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The surprise that the course stands on: to know something is not to answer.
# - **Ask.** What will it write after the question mark? Collect guesses on paper before the cell
#   runs.
# - **The usual wrong answer.** "A wrong name." That takes for granted that it tries to answer. It
#   continues a text.

# %% tags=["subslide"]
fixed = list(data.FIXED_PROMPTS)
tries = evaluation.answer(base, tokenizer, fixed * 3, profile)
columns = {f"try {k + 1}": tries.responses[5 * k : 5 * k + 5] for k in range(3)}
assert tries.prompts[:5] == fixed
show.side_by_side(fixed, columns)

# %%
print(f"Sampled at temperature {profile.temperature}:")
print(f"{sum(tries.finished)} of {len(tries.finished)} answers ended by themselves.")
limit = profile.response_tokens
print(
    f"The others break off: at {limit} tokens,"
    " or at a mark of the base's own format."
)

# %% [markdown]
# It is not stupid. It was trained to continue text, and a question is a fine beginning of many
# texts: a quiz, a forum, a novel. Nobody told it that it is its turn, that an answer is wanted, or
# how to say "I have finished".
#
# Perhaps the dice are to blame? Take the likeliest token every time (temperature 0) on the
# course's test [prompts](../docs/glossary.md#prompt). We keep these answers to compare with in section 7.

# %%
prompts = data.load_prompts("test", profile.prompts, profile.eval_prompts)
prompts = chat.that_fit(tokenizer, prompts, profile.prompt_tokens)
questions = [row["prompt"] for row in prompts]
base_answers = evaluation.answer(base, tokenizer, questions, profile, temperature=0)
base_fixed = evaluation.answer(base, tokenizer, fixed, profile, temperature=0)
base_share = sum(base_answers.finished) / len(questions)
repeated = [evaluation.repetition(text) for text in base_answers.responses]
repeats = sum(repeated) / len(repeated)
end = tokenizer.eos_token
print(f"greedy: {base_share:.0%} of {len(questions)} answers end with {end}")
print(f"of an answer's three-word runs, {repeats:.0%} were said before")

# %% [markdown]
# Read the two lines together. The first says how often the model hands the turn back, the second
# how much of its text is a loop: [greedy decoding](../docs/glossary.md#greedy-decoding) trades rambling for repeating. Neither is
# an answer, and no setting of the sampler will make it one. So we have to teach it.

# %% [markdown] tags=["slide"]
# ## 2. How does it know whose turn it is?
#
# By marks in the text. Ours are `###HUMAN###` before a question, `###BOT###` before an answer, and after it
# the end token that this base already has. Any text would do as a mark, so why make *tokens* of
# them? Look at what the model's own [tokenizer](../docs/glossary.md#tokenizer) makes of the marks. Predict first: how many pieces is
# `###HUMAN###`?

# %% tags=["fragment"]
from transformers import AutoTokenizer

plain = AutoTokenizer.from_pretrained(assets.resolve(profile.policy_base))
rows = []
for mark in [*chat.MEANINGS, end]:
    before = plain.tokenize(mark)
    after = tokenizer.tokenize(mark)
    rows.append({"mark": mark, "before": " · ".join(before), "pieces": len(before)})
    rows[-1] |= {"after": " · ".join(after), "tokens": len(after)}
    assert (len(before) > 1) == (mark != end)
    assert after == [mark]
pd.DataFrame(rows).set_index("mark")

# %% [markdown]
# Before, the two marks that open a turn are several pieces that also occur in ordinary text. After, each is
# one token with a meaning of its own. The end was one token all along: every base ends its texts with it.
#
# ### What if a user types a mark?
#
# A mark that any user can type is a hole: with an end token and `###BOT###` in your message you could put
# words in the model's mouth. First the obvious way to encode a conversation, which is to paste
# the pieces together and tokenize the whole.

# %% tags=["slide"]
typed = f"What do {end} and {chat.BOT} mean?"
human, bot = tokenizer.convert_tokens_to_ids([chat.HUMAN, chat.BOT])
stop = tokenizer.eos_token_id
control = {human, bot, stop}
pasted = tokenizer(chat.HUMAN + typed + chat.BOT, add_special_tokens=False).input_ids
ours = chat.encode_prompt(tokenizer, typed)
lines = []
for ids in (pasted, ours):
    pieces = [tokenizer.decode([i]).replace("\ufffd", "░") for i in ids]
    lines.append((pieces, [float(i in control) for i in ids]))
print(f"end tokens: {pasted.count(stop)} when pasted, {ours.count(stop)} when encoded")
assert (pasted.count(stop), ours.count(stop)) == (1, 0)
assert (pasted.count(bot), ours.count(bot)) == (2, 1)
legend = (
    "Shaded: control tokens. Above: pasted. Below: chat.encode. ░: part of a letter."
)
show.shaded_tokens(lines, legend)

# %% [markdown] tags=["fragment"]
# Pasted, the user's text ends the conversation in the middle of the question. With `chat.encode`
# it stays text: every `###` and every special token that anybody types is split by an invisible zero-width
# space (two tokens, ░░ above) before it is tokenized, and only the code, never the text, adds [control tokens](../docs/glossary.md#control-token).
# Decoding takes the space out again, so nobody notices.

# %% [markdown] tags=["teaching"]
# - **What it is for.** Why a mark has to be a token that only the code can write.
# - **Ask.** Where else does text turn into a command? (SQL injection is the same hole.)
# - **The usual wrong answer.** "Delete the marks from the message." Then nobody can talk about
#   them, and a filter that runs once turns `###B###BOT###OT###` into a mark.

# %%
conversation = [
    {"role": "user", "content": typed},
    {"role": "assistant", "content": "It ends an answer."},
]
ids, graded = chat.encode(tokenizer, conversation)
template = tokenizer.apply_chat_template(
    conversation, return_dict=True, return_assistant_tokens_mask=True
)
assert ids == template["input_ids"]
assert graded == [bool(flag) for flag in template["assistant_masks"]]
question = ids[ids.index(human) + 1 : ids.index(bot)]
assert chat.decode(tokenizer, question) == typed
print(tokenizer.decode(ids))

# %% [markdown]
# That line is all the model ever sees of a conversation. The format is written once, as the tokenizer's
# *[chat template](../docs/glossary.md#chat-template)*: `chat.encode` asks it for the tokens, and so does TRL's trainer.

# %% [markdown] tags=["slide"]
# ## 3. What do new tokens mean before any training?
#
# A new token is a new row in the [embedding](../docs/glossary.md#embedding) table, and a row must start somewhere. Three candidates:
# - **random** numbers of the usual size,
# - the **mean of all rows**, the average of everything,
# - the **mean of a phrase** that already says what the token shall say, which is what the published
#   workshop does and what `load_policy` has done here.
#
# Ours also *stay* where they start: [LoRA](../docs/glossary.md#lora) leaves embeddings alone.
#
# Predict first: which start gives the lowest [loss](../docs/glossary.md#loss) on real conversations, before any training?

# %% [markdown] tags=["teaching"]
# - **What it is for.** A token without a past has to start somewhere, and the start decides what
#   can be told apart.
# - **Ask.** Which start do you expect to have the lowest loss? And which one would you train from?
# - **The usual wrong answer.** "The lowest loss on the first day is the best start." The next two
#   cells take that apart.

# %%
print(chat.MEANINGS)
new = tokenizer.convert_tokens_to_ids(list(chat.MEANINGS))


@torch.no_grad()
def start_rows(kind: str) -> None:
    """Set the two rows, in one table where it serves both ends, else in two."""
    chat.start_as_phrases(base, tokenizer)
    generator = torch.Generator().manual_seed(0)
    tables = {base.get_input_embeddings().weight, base.get_output_embeddings().weight}
    for table in tables:
        known = table[: min(new)].float()  # (V, D) the rows that came with the model
        if kind == "random":
            noise = torch.randn(2, known.shape[1], generator=generator)  # (2, D)
            table[new] = (noise.to(known.device) * known.std()).to(table.dtype)
        if kind == "mean of all rows":
            table[new] = known.mean(0).to(table.dtype)


# %% [markdown]
# The judges are conversations that no stage trains on: 12 % of the corpus, chosen by a hash of
# their ids, so that the same ones are [held out](../docs/glossary.md#held-out-data) in every run. We look at two numbers: the loss of
# all graded tokens (the answers, and the end after each), and the loss of the end alone; in [nats](../docs/glossary.md#nat).

# %%
corpus = data.load_conversations(profile.conversations, profile.limit)
corpus = chat.that_fit(tokenizer, corpus, profile.conversation_tokens)
train, held = data.split_rows(corpus, 0.12)
few = held[:32]
assert not {row["id"] for row in train} & {row["id"] for row in held}
print(f"{len(train)} conversations to train on, {len(held)} held out")


def answer_and_stop_loss(model) -> tuple[float, float]:
    """Mean loss in nats: of whole conversations, and of their end tokens."""
    found = sft.graded_losses(model, tokenizer, few)
    whole = [sum(losses) / len(losses) for _, losses in found]
    stops = [x for ids, losses in found for i, x in zip(ids, losses) if i == stop]
    return sum(whole) / len(whole), sum(stops) / len(stops)


# %% tags=["fragment"]
starts = []
kinds = ("random", "mean of all rows", "mean of a phrase")
rows_of = {}
for kind in kinds:
    start_rows(kind)
    rows_of[kind] = base.get_input_embeddings().weight[new].float().cpu()  # (2, D)
    loss, stop_loss = answer_and_stop_loss(base)
    starts.append({"start": kind, "loss": loss, "loss of the end": stop_loss})
starts = pd.DataFrame(starts)
best = starts.loc[starts["loss"].idxmin(), "start"]
print(f"Lowest loss before any training, on {len(few)} conversations: {best}.")
starts.set_index("start").round(2)

# %% [markdown]
# Did you guess it? Do not crown a winner yet: a low loss on the first day is not what a start is
# *for*. Look at the second property, how far the two rows are from each other and what they are
# near to.

# %%
known = base.get_input_embeddings().weight[: min(new)].float().cpu()  # (V, D)
for kind in kinds:
    rows = torch.nn.functional.normalize(rows_of[kind], dim=-1)  # (2, D)
    near = rows @ torch.nn.functional.normalize(known, dim=-1).T  # (2, V) cosines
    print(f"{kind}; cosine of the two rows: {float(rows[0] @ rows[1]):.2f}")
    for mark, cosines in zip(chat.MEANINGS, near):
        words = [tokenizer.decode([int(i)]) for i in cosines.topk(4).indices]
        print(f"    {mark:12s} nearest to {words}")
same = rows_of["mean of all rows"]
assert torch.equal(same[0], same[1])
start_rows("mean of a phrase")

# %% [markdown]
# The mean of all rows makes the two tokens *the same token*: the model could tell whose turn it is only by
# counting. The phrase gives two rows that it can tell apart, near to words that fit.
#
# ### Why is there no new token for the end?
#
# The published workshop has one, `###STOP###`, which starts as the mean of "stop talking". A token that opens
# a turn is only ever read: we write it. The end has to be *said* by the model, against all other words. A
# word is said with the probability that its [logit](../docs/glossary.md#logits) gives it, and the logit of a mean of rows is the mean
# of their logits. So, as long as the row stays there, "stop" or "talking" is always at least as likely:

# %%
ids = chat.encode(tokenizer, few[0]["messages"]).ids
ids = torch.tensor([ids], device=base.device)  # (1, T)
phrase = tokenizer("stop talking", add_special_tokens=False).input_ids
with torch.no_grad():
    logits = base(input_ids=ids).logits[0].float()  # (T, V)
of_mean = logits[:, phrase].mean(-1)  # (T,) what a row of that mean would get
best = logits[:, phrase].amax(-1)  # (T,) what the likelier word gets
print(f"the mean wins at {int((of_mean > best).sum())} of {len(best)} places")
behind = float((best - of_mean).mean())
print(f"it trails the likelier word by {behind:.1f} nats on average")
assert (of_mean <= best + 1e-4).all()
del known, logits

# %% [markdown]
# We tried it, with everything else as in section 6. Compare with the numbers that you will see there and in 7.

# %%
saved = runtime.project_root() / "results" / "stop_token.json"
if saved.exists():
    tried = runtime.read_json(saved)
    print(f"{tried['end']}, profile {tried['profile']}, {tried['steps']} steps:")
    loss, of_end = tried["held_out_loss"], tried["loss_of_the_end"]
    print(f"held-out loss {loss:.2f} nats, of the end alone {of_end:.2f}")
    share, n = tried["share_finished"], tried["n_prompts"]
    print(f"{share:.0%} of {n} greedy answers end by themselves")
else:
    print("No saved run here. Make it with: python benchmarks/stop_token.py")

# %% [markdown]
# It could be mended by training that row, at a price: PEFT and TRL then need special treatment all along the
# way. Simpler: let the answer end with the token that every base already says at the end of its texts.

# %% [markdown] tags=["slide"]
# ## 4. What should be graded?
#
# Training shows the model a conversation and grades its guess of each next token. All of them? It
# will never have to write the user's questions. Here is one conversation from the corpus; shaded
# is what `chat.encode` marks as graded.

# %% tags=["fragment"]
several = [row for row in train if len(row["messages"]) > 2] or list(train)
several.sort(key=lambda row: len(chat.encode(tokenizer, row["messages"]).ids))
ids, graded = chat.encode(tokenizer, several[0]["messages"])
print(f"{sum(graded)} of {len(ids)} tokens are graded")
assert all(flag for i, flag in zip(ids, graded) if i == stop)
show.graded_tokens([tokenizer.decode([i]) for i in ids], graded)

# %% [markdown]
# The end is graded: that is how the model learns to finish. `###BOT###` is not: we write it, not the
# model.
#
# ### By hand, on ten tokens
#
# Two short turns. Suppose the model gave each true next token these probabilities. The loss of a
# token is minus the logarithm of its probability, and a loss is the mean over the tokens that
# count. Predict first: which of the three losses below is the highest?

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

# %% [markdown] tags=["teaching"]
# - **What it is for.** The loss of the whole course, small enough for the blackboard. Let somebody
#   do one token by hand.
# - **Ask.** Whose words should the model be graded on, and who pays if the questions count as well?
# - **The usual wrong answer.** "The way with the lowest loss is the best one." The three are means
#   over different tokens; they cannot be compared.

# %% [markdown]
# The questions are the hard part of the text: nobody can guess what a user will ask. Graded, they
# would fill the loss with something the model need not learn. The last answer alone would waste
# the earlier ones: in a conversation of three turns, two thirds of the data.
#
# ### The same three on the real model
#
# TRL's trainer packs the conversations into a batch: token ids, and labels, which are the ids again
# with −100 wherever nothing is graded. We ask it for its loss, and the model for the logits of the same
# batch, and compute all three from those. (A trainer wants something to train, so the model
# wears a LoRA [adapter](../docs/glossary.md#adapter) here. Section 5 shows why that changes nothing yet.)

# %%
scratch = folder / "scratch"
runtime.seed_everything(0)
model = models.add_lora(base, profile.lora_rank, profile.lora_alpha)
four = several[:4]
trainer = sft.sft_trainer(model, tokenizer, profile, four, scratch, save_strategy="no")
batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(four))])
batch = {name: tensor.to(base.device) for name, tensor in batch.items()}  # each (B, T)
with torch.no_grad():
    trl_loss = trainer.compute_loss(model, dict(batch))
    read = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**read).logits.float()  # (B, T, V)
print(f"batch {tuple(batch['labels'].shape)}, logits {tuple(logits.shape)}")
print(f"the trainer's own loss: {float(trl_loss):.4f}")

# %% [markdown]
# The logits at position t are the guess for token t + 1. So the guesses are all positions but the
# last, and the truths all but the first: the *shift*. Forgetting it is a classic mistake, and
# it stays in the table as a fourth line.

# %%
ids, labels = batch["input_ids"], batch["labels"]  # (B, T) both
is_text = batch["attention_mask"].bool()  # (B, T) no padding
answers = labels != -100  # (B, T)
is_bot = (ids == tokenizer.convert_tokens_to_ids(chat.BOT)).long()  # (B, T)
bots_to_come = is_bot.flip(1).cumsum(1).flip(1)  # (B, T) ###BOT### from here on
logprobs = logits.log_softmax(-1)  # (B, T, V)
nll = -logprobs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T - 1)
unshifted = -logprobs.gather(-1, ids[..., None]).squeeze(-1)  # (B, T)
by_hand = {
    "all tokens": nll[is_text[:, 1:]].mean(),
    "answers only": nll[answers[:, 1:]].mean(),
    "last answer only": nll[(answers & (bots_to_come == 0))[:, 1:]].mean(),
    "answers, shift forgotten": unshifted[answers].mean(),
}
by_hand = {name: float(loss) for name, loss in by_hand.items()}
for name, loss in by_hand.items():
    print(f"{name:25s} {loss:.4f}")
print(f"{'the trainer':25s} {float(trl_loss):.4f}")
assert abs(by_hand["answers only"] - float(trl_loss)) < 1e-3

# %% [markdown]
# One line agrees with the trainer, and the assertion says which: the answers only. From here on we use
# the package's function for it, after checking that it is the same thing.

# %%
packaged = sft.graded_losses(model, tokenizer, four)
packaged = torch.tensor([loss for _, losses in packaged for loss in losses])
print(f"by hand {by_hand['answers only']:.4f}, package {float(packaged.mean()):.4f}")
# Another padding may change the last bits of bf16 arithmetic: hence 0.02, not 0.001.
assert abs(float(packaged.mean()) - by_hand["answers only"]) < 0.02
base = model.unload()  # takes the adapter off again
del model, trainer, logits, logprobs, nll, unshifted

# %% [markdown] tags=["slide"]
# ## 5. How do you teach so many weights by training two per cent?
#
# Leave every weight matrix W as it is and add a correction made of two thin matrices, LoRA
# ([Hu et al. 2021](https://arxiv.org/abs/2106.09685), section 4.1):
#
# $$ h = W x + \frac{\alpha}{r}\, B A\, x $$
#
# A is r × d_in, B is d_out × r, and r, the *[rank](../docs/glossary.md#rank)*, is small. Here is one with a W of 6 × 4.

# %% [markdown] tags=["teaching"]
# - **What it is for.** LoRA in one line. Draw the two thin matrices beside the thick one.
# - **Ask.** What does the model say at step 0, before any training?
# - **The usual wrong answer.** "Something slightly worse, for A is random." B is zero, so it says
#   the same to the last bit.

# %% tags=["nbval-check-output"]
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

# %% [markdown]
# B starts at zero, so at step 0 the model is exactly what it was, whatever A holds. Then one
# number in B moves one output, here the first, by α/r times A's row seen by x.
#
# Does the library do the same? Put PEFT's LoRA on a linear layer with our W, A and B.

# %%
from peft import LoraConfig, get_peft_model

layer = torch.nn.Sequential(torch.nn.Linear(4, 6, bias=False))
layer[0].weight.data = W.clone()
config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])
peft_layer = get_peft_model(layer, config)
inner = peft_layer.base_model.model[0]
assert (inner.lora_B["default"].weight == 0).all()  # PEFT starts B at zero too
inner.lora_A["default"].weight.data = A.clone()
inner.lora_B["default"].weight.data = B.clone()
by_hand_h = W @ x + alpha / rank * B @ A @ x
assert torch.allclose(peft_layer(x), by_hand_h)
print("PEFT gives     ", peft_layer(x).tolist())

# %% [markdown]
# ### What does it cost, and what can it not do?
#
# Predict first: how many numbers do A and B hold at rank 4, for our matrix of 24? And for one of
# this model's real matrices at rank 8?

# %% tags=["nbval-check-output"]
for d_out, d_in, r in [(6, 4, 1), (6, 4, 2), (6, 4, 4), (576, 576, 8), (1536, 576, 8)]:
    full, thin = d_out * d_in, r * (d_out + d_in)
    share = f"{thin / full:.1%}"
    print(
        f"{d_out:4d} x {d_in:3d}  rank {r}: {thin:6,d} instead of {full:7,d}, {share}"
    )

# %% [markdown]
# On a tiny matrix LoRA is no bargain; at rank 4 it holds more numbers than the matrix itself. The
# saving comes with size.
#
# The price is that B·A has rank r at most. Take a known update, the change that full training would
# have made, and ask how much of it each rank can express. The best possible answer is the singular
# value decomposition cut off at r (Eckart and Young, 1936).

# %% tags=["nbval-check-output"]
down, across = torch.tensor([3.0, 2, 1, -1, -2, -3]), torch.tensor([1.0, 1, -1, -1])
update = torch.outer(down, across)  # (6, 4): one strong pattern,
zigzag, ends = torch.tensor([1.0, -2, 1, 1, -2, 1]), torch.tensor([1.0, -1, -1, 1])
update += torch.outer(zigzag, ends)  # a weaker one,
update += 0.5 * torch.eye(6, 4)  # and a little of everything
U, S, Vt = torch.linalg.svd(update, full_matrices=False)  # (6, 4), (4,), (4, 4)
best = {r: (U[:, :r] * S[:r]) @ Vt[:r] for r in (1, 2, 4)}  # each (6, 4)
missing = {r: float((m - update).norm() / update.norm()) for r, m in best.items()}
for r, share in missing.items():
    print(f"rank {r}: {share:.1%} of the update is missing")
assert missing[1] > missing[2] > missing[4]
assert missing[4] < 1e-5

# %%
table = pd.DataFrame({"rank": list(missing), "share_missing": list(missing.values())})
pictures = {r: m.numpy() for r, m in best.items()}
figure = drawings.low_rank(update.numpy(), pictures)
plots.save(figure, folder / "figures", "low_rank", table)

# %% [markdown]
# *The figure in words:* the update as a table of 24 coloured numbers, then its best approximation of
# rank 1, 2 and 4, with the missing share of each above it. Rank 1 catches the strong pattern, rank 2
# nearly everything, rank 4 all of it.
#
# LoRA is not given the answer; it has to find it by [gradient](../docs/glossary.md#gradient) descent from B = 0. Does it?

# %%
torch.manual_seed(0)
A, B = torch.randn(2, 4) * 0.5, torch.zeros(6, 2)  # (r, 4), (6, r)
A.requires_grad_(), B.requires_grad_()
optimizer = torch.optim.Adam([A, B], lr=0.05)
for _ in range(400):
    optimizer.zero_grad()
    ((B @ A - update) ** 2).sum().backward()
    optimizer.step()
found = float((B @ A - update).detach().norm() / update.norm())
print(f"rank 2, trained: {found:.1%} missing; the best possible: {missing[2]:.1%}")
assert missing[2] - 1e-4 < found < missing[2] + 0.01

# %% [markdown]
# It does. Whether the update that *our* model needs has a low rank is another question; it is an
# assumption, and the table in section 8 tests it.
#
# Now the real thing: an adapter on every linear layer, and nothing else.

# %%
question = chat.encode_prompt(tokenizer, fixed[0])
probe = torch.tensor([question], device=base.device)  # (1, P)
with torch.no_grad():
    base_logits = base(input_ids=probe).logits  # (1, P, V)
runtime.seed_everything(0)
model = models.add_lora(base, profile.lora_rank, profile.lora_alpha)
with torch.no_grad():
    with_adapter = model(input_ids=probe).logits
assert torch.equal(with_adapter, base_logits)  # to the last bit
trainable, total = models.count_parameters(model)
print(f"trainable: {trainable:,} of {total:,} ({trainable / total:.1%})")
base = model.unload()

# %% [markdown]
# At step 0 the logits are the base's, bit for bit: that is why section 4 could use the adapter.

# %% [markdown]
# ## 6. Does it learn?
#
# ### The training itself
#
# First the exam, so that nobody can say we chose it afterwards: the loss of the base on each
# held-out conversation.

# %%
before = sft.conversation_losses(base, tokenizer, held)
print(f"base, before training: {sum(before) / len(before):.3f} nats per graded token")

# %% [markdown]
# TRL's `SFTTrainer` does the rest: batches, the shift, the labels, the cosine schedule of the
# [learning rate](../docs/glossary.md#learning-rate). The next cell trains once. If it is cut off it goes on from its last [checkpoint](../docs/glossary.md#checkpoint) when you
# run it again; once it is done it loads what was learnt. With other data or settings it is another training: it
# begins anew, and what was there is moved aside.

# %%
adapter = folder / "adapter"
runtime.seed_everything(0)
model = models.add_lora(base, profile.lora_rank, profile.lora_alpha)
log = sft.train_sft(model, tokenizer, profile, train, folder)
print(f"{log[-1]['step']} steps, {log[-1]['seconds']:.0f} s of training")
assert log[-1]["step"] == sft.total_steps(profile, len(train))
assert all(math.isfinite(line["loss"]) for line in log)

# %% [markdown]
# A falling training loss says little: the model has seen those conversations, some of them three
# times. The exam is the held-out ones. Each conversation is its own control, so we look at its loss after
# minus its loss before, and the [interval](../docs/glossary.md#interval) comes from a [bootstrap](../docs/glossary.md#bootstrap) that draws *conversations*, because
# the tokens of one conversation are no independent witnesses.

# %% tags=["slide"]
after = sft.conversation_losses(model.eval(), tokenizer, held)
change = [a - b for a, b in zip(after, before)]
low, high = evaluation.bootstrap_interval(change)
mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
fall = 1 - mean_after / mean_before
mean_change = sum(change) / len(change)
found = evaluation.verdict(low, high, higher_is_better=False)
print(f"held-out loss {mean_before:.3f} → {mean_after:.3f} nats (n = {len(held)})")
print(f"change {mean_change:+.3f}, 95 % interval [{low:+.3f}, {high:+.3f}]")
print(f"verdict: {found}; a fall of {fall:.0%}")
print(f"{sum(c > 0 for c in change)} of {len(held)} conversations got worse")
assert low <= mean_change <= high

# %% tags=["fragment"]
levels = [("held-out, before", mean_before), ("held-out, after", mean_after)]
figure = plots.loss_curve(log, levels=levels)
plots.save(figure, folder / "figures", "loss", log)

# %%
end = [line["loss"] for line in log[-7:]]
first, last = log[0]["loss"], sum(end) / len(end)
gap, where = mean_after - last, "above" if mean_after > last else "below"
print(f"In words: the training loss goes from {first:.2f} to {last:.2f} at the end.")
print(f"The held-out loss after training is {abs(gap):.2f} {where} that.")

# %% [markdown]
# The thin line jumps because each step sees other conversations (short to long inside a step, for little
# [padding](../docs/glossary.md#padding)); look at the thick one, an average.
#
# After a full run, the distance between the end of the curve and the line of the held-out loss is
# (mostly) what having seen the conversations before is worth. If it grows while the held-out loss rises,
# the model is learning them by heart.
#
# ### Where did it get better?
#
# The same held-out answer, token by token, before and after: the darker, the more the token surprised
# the model. Predict first: which token gains most?

# %%
sizes = [len(chat.encode(tokenizer, row["messages"]).ids) for row in held]
example = held[sizes.index(sorted(sizes)[len(held) // 4])]  # one of the shorter ones
lines, stop_change = [], {}
for name in ("base", "default"):
    with models.using(model, name):
        [(ids, losses)] = sft.graded_losses(model, tokenizer, [example])
        lines.append(([tokenizer.decode([i]) for i in ids], losses))
        stop_change[name] = answer_and_stop_loss(model)
print(example["messages"][0]["content"])
(tokens, base_losses), (_, sft_losses) = lines
gains = [(b - a, token) for token, b, a in zip(tokens, base_losses, sft_losses)]
print(f"largest gain: {max(gains)[1]!r}, {max(gains)[0]:.1f} nats")
display(show.shaded_tokens(lines, "Loss of each graded token: base above, SFT below."))

# %%
print(f"{len(few)} held-out conversations   whole answer    end alone")
for name, title in (("base", "base"), ("default", "SFT")):
    whole, stop_loss = stop_change[name]
    chance = math.exp(-stop_loss)
    print(f"{title:27s} {whole:9.2f} {stop_loss:12.2f}   (an end gets {chance:.2g})")

# %% [markdown]
# The number in brackets is the probability that the model gives the end token where the answer really ends (a
# geometric mean). Stopping is one habit, the same in every conversation; the words of an answer are
# different each time. Compare the two columns to see which of the two is easier to teach.
#
# ### What did we save?
#
# The adapter file holds A and B, nothing of the base. Before we judge the model, make sure
# that it is the saved one we judge: drop this one, load a fresh base, put the file on it.

# %%
with torch.no_grad():
    trained_logits = model(input_ids=probe).logits.float().cpu()  # (1, P, V)
trained_parameters = trainable
del model, base
gc.collect()
tokenizer, base = models.load_policy(profile)
model = models.load_adapter(base, adapter, "default").eval()
with torch.no_grad():
    loaded_logits = model(input_ids=probe).logits.float().cpu()  # (1, P, V)
difference = float((loaded_logits - trained_logits).abs().max())
size = sum(file.stat().st_size for file in adapter.iterdir()) / 2**20
print(f"adapter: {size:.1f} MiB; largest difference of any logit: {difference:.1e}")
assert torch.allclose(loaded_logits, trained_logits, atol=1e-3)

# %% [markdown]
# That small folder is the whole result of this notebook; 03 will start from it.

# %% [markdown]
# ## 7. Did it learn to answer?
#
# The five fixed questions again, with greedy decoding, base beside SFT. Nothing is picked: the
# questions were fixed before anything was trained.

# %% tags=["slide"]
sft_fixed = evaluation.answer(model, tokenizer, fixed, profile, temperature=0)
notes = {}
for name, found in (("base", base_fixed), ("SFT", sft_fixed)):
    ends = ["stopped by itself" if f else "cut off" for f in found.finished]
    notes[name] = [f"{end}, {n} tokens" for end, n in zip(ends, found.lengths)]
columns = {"base": base_fixed.responses, "SFT": sft_fixed.responses}
show.side_by_side(fixed, columns, notes)

# %%
sft_tries = evaluation.answer(model, tokenizer, fixed * 3, profile)
rows = []
for i, prompt in enumerate(fixed):
    row = {"prompt": prompt}
    both = {"base": (base_fixed, tries), "sft": (sft_fixed, sft_tries)}
    for name, (greedy, sampled) in both.items():
        row[name] = greedy.responses[i]
        row[f"{name}_finished"] = greedy.finished[i]
        row[f"{name}_samples"] = sampled.responses[i::5]
    rows.append(row)
runtime.write_json(folder / "answers.json", rows)
print("answers that ended by themselves, three samples of each fixed prompt:")
counts = f"base {sum(tries.finished)}, SFT {sum(sft_tries.finished)}"
print(f"{counts}, each of {len(tries.finished)}")

# %% [markdown]
# Five questions are an impression. The test prompts, which no stage trains on, are a measurement: how
# many greedy answers end with the end token, and how long are they?

# %% tags=["slide"]
sft_answers = evaluation.answer(model, tokenizer, questions, profile, temperature=0)
shares, intervals, mean_lengths = [], [], []
for found in (base_answers, sft_answers):
    shares.append(sum(found.finished) / len(questions))
    intervals.append(evaluation.wilson_interval(sum(found.finished), len(questions)))
    mean_lengths.append(sum(found.lengths) / len(questions))
lows, highs = zip(*intervals)
numbers = {"model": ["base", "SFT"], "share": shares, "low": lows, "high": highs}
names, counts = ["base", "SFT"], [len(questions)] * 2
label = "share that ends by itself"
figure = plots.bars_with_intervals(
    names, shares, lows, highs, counts, label, ylim=(0, 1.05)
)
plots.save(figure, folder / "figures", "finished", numbers)

# %%
for name, share, (a, b), n in zip(names, shares, intervals, mean_lengths):
    print(
        f"{name:4s} {share:.0%} end by themselves [{a:.0%}, {b:.0%}],"
        f" {n:.0f} tokens each"
    )
written = [chat.encode(tokenizer, row["messages"]) for row in train]
turns = sum(len(row["messages"]) // 2 for row in train)
mean_written = sum(sum(graded) for _, graded in written) / turns
print(f"the answers it was shown: {mean_written:.0f} tokens each")


def words(text: str) -> str:
    return " ".join(text.lower().split())


said = {words(m["content"]) for row in train for m in row["messages"][1::2]}
copied = sum(words(text) in said for text in sft_answers.responses)
print(f"{copied} of {len(questions)} SFT answers stand word for word in its examples")

# %% [markdown]
# *The figure in words:* two bars, base and SFT, the share of answers that end by themselves, each
# with its 95 % [Wilson interval](../docs/glossary.md#wilson-interval); the lines above give the numbers. The model takes its length from the
# answers it was shown: it imitates, and the copies, if there are any, are the same imitation gone too far.
#
# ### What did it not learn?
#
# Facts it never had. Nobody ever told it the name of your cat. Predict first: what will a model say
# that has learned to answer every question?

# %% tags=["slide"]
unknowable = [
    "What is the name of my cat?",
    "Who is the mayor of the village of Brumbleton-on-Wyre?",
    "Who won the chess world championship in 2041?",
]
invented = evaluation.answer(model, tokenizer, unknowable, profile, temperature=0)
ends = ["stopped by itself" if f else "cut off" for f in invented.finished]
show.side_by_side(unknowable, {"SFT": invented.responses}, {"SFT": ends})

# %%
unsure = ["don't know", "not know", "cannot know", "can't know", "not sure", "no idea"]


def admits(text: str) -> bool:
    return any(phrase in text.lower() for phrase in unsure)


print(f"{sum(map(admits, invented.responses))} of {len(unknowable)} answers admit it.")
print(f"{sum(map(admits, said))} of {len(said)} answers it was trained on do.")

# %% [markdown]
# It can only imitate what it was shown, and the second line says how often that was "I do not
# know". A model trained to answer *answers*, in the same tone whether it knows or not.
#
# And facts it did have, from its pretraining? Take four answers to the first fixed question. Which
# one does each model find the least surprising?

# %%
names = ["George Washington", "James Madison", "Thomas Jefferson", "Abraham Lincoln"]
surprise = {"answer": names}
asked = []
for name in names:
    messages = [{"role": "user", "content": fixed[0]}]
    messages.append({"role": "assistant", "content": name + "."})
    asked.append({"messages": messages})
for adapter_name, title in (("base", "base"), ("default", "SFT")):
    with models.using(model, adapter_name):
        found = sft.graded_losses(model, tokenizer, asked)
    # Summed, without the end: minus the logarithm of the answer's probability.
    surprise[title] = [sum(losses[:-1]) for _, losses in found]
    print(f"{title}: {min(zip(surprise[title], names))[1]}")
told = sum("washington" in text for text in said)
print(f"answers of the training data that name Washington: {told}")
pd.DataFrame(surprise).set_index("answer").round(2)

# %% [markdown]
# The smaller the number (nats), the likelier the answer. What a model knows comes from its pretraining;
# a few hundred conversations teach it *how* to say it, and can move what it says without meaning to.

# %% [markdown]
# ## 8. What would you change?
#
# Rank, learning rate, number of steps: five saved runs, each trained from the same start, differ in one
# of them. (They are older than the choice of the end token: each trained a stop token of its own, too.) Predict first: what does a rank of 32 buy over a rank of 2? Which costs more, a fifth of
# the learning rate or half of the steps?

# %%
sweep = runtime.project_root() / "results" / "sft_sweep.json"
if sweep.exists():
    saved = runtime.read_json(sweep)
    shown = pd.DataFrame(saved["runs"])
    bounds = zip(shown.heldout_low, shown.heldout_high)
    shown["interval"] = [f"{a:.2f} to {b:.2f}" for a, b in bounds]
    keys = ["trainable_parameters", "steps", "heldout_loss", "interval"]
    display(shown.set_index("name")[[*keys, "share_finished"]].round(3))
    lowest = shown.loc[shown.heldout_loss.idxmin(), "name"]
    overlap = shown.heldout_low.max() < shown.heldout_high.min()
    print(f"{saved['profile']} profile, {saved['n_heldout']} held-out conversations")
    print(f"lowest loss: {lowest}; all intervals overlap: {'yes' if overlap else 'no'}")
else:
    print("No saved sweep here. Make it with: python benchmarks/sft_sweep.py")
    print("(five trainings, about 20 minutes on two idle cores with the local profile)")

# %% [markdown]
# Mind what the intervals say: they are those of each run's own mean over the same conversations. Where they
# overlap widely, one run of each is not enough to call a winner, and the smallest adapter is a fair
# choice.

# %% [markdown]
# ## The doubt

# %%
verdict = "right" if "Washington" in sft_fixed.responses[0] else "not the right one"
print(f"{fixed[0]}  →  {sft_fixed.responses[0]!r}")
print(f"The right name is George Washington; this answer is {verdict}.")
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
    row_starts=starts.to_dict("records"),
    n_prompts=len(questions),
    n_heldout=len(held),
    n_train=len(train),
    seconds_train=log[-1]["seconds"],
    trainable_parameters=trained_parameters,
)

# %% [markdown] tags=["slide"]
# Suppose it says "George Washington.", or that a larger model does. That is right. **Is it good?** It
# is short and flat; ask a person, and they might tell you that he refused to be king. Nothing in this
# notebook could prefer that answer: the loss knows one written answer a question and calls everything
# else wrong by the same rule. To prefer one answer over another, somebody has to say which is better.
# That is the next notebook.

# %% [markdown] tags=["teaching"]
# - **What it is for.** The bridge to 02. Leave the question open.
# - **Ask.** Two right answers: "George Washington." and one that adds that he refused to be king.
#   Which part of this notebook could tell you which is better?
# - **The usual wrong answer.** "The held-out loss." It knows one written answer a question and
#   calls everything else wrong.

# %% [markdown]
# ## Try it: base and SFT side by side
#
# The widget below asks both, from one [seed](../docs/glossary.md#seed), with the same dice. Tick "[blind vote](../docs/glossary.md#blind-vote)", ask five
# questions, and see whether you can tell which is which. (On a page without widgets you see one line
# instead; the table below it is the same thing, still.)

# %%
from sawyer_utils.classroom import talk, widgets

chat_with = talk.Talk(model, tokenizer, profile, {"base": "base", "sft": "default"})
widgets.Chat(chat_with, folder)

# %%
few_tokens = min(40, profile.response_tokens)
widgets.compare(chat_with, talk.questions()[:3], tokens=few_tokens)

# %% [markdown]
# ### Would it fit a larger model?
#
# What fills a graphics card when a model is trained with PPO (notebook 03), from the shapes alone:
# computed, not measured. Find the largest model that fits a T4, then the setting that frees the most
# memory: `replace(profile, ppo_batch=…)` gives the table of another size.

# %%
from dataclasses import replace

from sawyer_utils.chapters import memory_budget

larger = replace(profile, ppo_micro_batch=8, prompt_tokens=256, response_tokens=256)
memory_budget.table(larger)

# %% [markdown]
# GiB at the peak of a PPO step on prompts and answers of 256 tokens each. In fp16 a 7B model does not fit
# a T4 (14.7 GiB): its weights alone take almost all of it.

# %% [markdown]
# ## Exercises
#
# Write your answer where it says `None`, run the cell, and `check` tells you what it sees: right, or not
# yet, with one hint at a time. It tries functions on fresh inputs. The solutions stand at the end of the
# notebook. (The comments with `SOLUTION` are for teachers who use nbgrader.)

# %%
from sawyer_utils.classroom.checks import check

# %% [markdown]
# ### 01.1 Predict the number: when is LoRA no bargain?
#
# For a matrix of 1536 × 576, from which rank on do A and B together hold *more* numbers than the
# matrix?

# %% tags=["exercise"]
### BEGIN SOLUTION
rank_without_gain = None
### END SOLUTION

check("01.1", rank_without_gain)

# %% [markdown]
# ### 01.2 Write this function: the loss that a trainer reports
#
# The mean loss, in nats, of the graded tokens of a batch, as section 4 computed it: from logits that are
# *not* shifted yet. Nothing else may have a part in it.


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
# A colleague forgot the shift. Build the model that this loss likes best: from ids, return logits that make
# the loss *without* the shift smaller than 0.01 nats. As in any language model, the logits at position t may
# depend on the tokens up to t only. Then look at what such a model "says", and at what the figure of section
# 6 would show if this happened to you.


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
# Many recipes say `tokenizer.pad_token = tokenizer.eos_token`, and many collators recognise padding by its
# id, like this one. Run it on the two rows with `pad = 4`, the id of the end here: what has happened to
# the ends? Then write the labels for rows that are padded on the left, right for *every* choice of `pad`:
# −100 on the padding, the ids everywhere else.


# %%
def careless_labels(ids, lengths, pad):
    return torch.where(ids == pad, -100, ids)


two_rows = torch.tensor([[0, 0, 7, 8, 4], [6, 9, 5, 8, 4]])  # (B, T), padded with 0
print(careless_labels(two_rows, torch.tensor([3, 5]), pad=0))


# %% tags=["exercise"]
def careful_labels(ids, lengths, pad):
    """ids (B, T), lengths (B,) of the texts without padding -> labels (B, T)."""
    ### BEGIN SOLUTION
    return None
    ### END SOLUTION


check("01.4", careful_labels)

# %% [markdown]
# ### An open question: grade the questions too
#
# Train with `assistant_only_loss=False` (an option of `sft.sft_trainer`). What will the model be able to do
# that it should not, and what happens to its reported training loss? No check can answer this in two
# seconds; a training can.
#
# <details><summary>What to expect</summary>
#
# It learns to write questions as well: left to run on after the end token, it goes on with
# `###HUMAN###` and plays the user. The reported loss is higher, for questions are hard to guess, and
# it is the mean of other tokens: the two losses cannot be compared.
#
# </details>

# %% [markdown]
# ## What can go wrong
#
# | symptom | likely cause | where it shows |
# |---|---|---|
# | the answers never end | the end token is not graded, or it is the padding | the loss of the end (section 6), share that ends (7) |
# | the model writes the user's next question | all tokens were graded | the answers side by side (7) |
# | training loss falls, held-out loss rises | too many epochs, too high a rank for so little data | loss figure (6), table (8) |
# | loss does not move at all | nothing is trainable, or the learning rate is still warming up | the count of trainable numbers (5), first steps of the curve |
# | training loss falls to almost 0 in no time | the shift was forgotten: the model learns to repeat the token it sees | the fourth line of the table (4), loss figure (6) |
# | a reloaded model talks like the base | the adapter was put onto another base | the assertion on logits (6) |
# | the answers stop at once | an empty or one-word answer is common in the data | mean length (7) |
# | a message breaks the conversation | user text became a control token | the two encodings (2) |

# %% [markdown]
# ## What we simplified
#
# 1. **The embedded "base" has been to school before.** In the `local` and `smoke` profiles it is
#    SmolLM2-135M-Instruct, chat-tuned with *another* template. On SAWYER's own tokens it
#    behaves like a base model, but part of what returns so quickly here was learned there. The `colab` profile
#    starts from a true base. The embedded weights were also rounded to about 4 bits before they came to
#    us (GGUF, Q4_1).
# 2. **Precision and gradient checkpointing** are set for the machine; TRL's defaults are bf16 and on,
#    everywhere.
# 3. **Small data.** A few hundred conversations and three epochs; the workshop that this course follows
#    ([Ozdemir](https://github.com/sinanuozdemir/odsc-llm-alignment)) used 46,580 conversations and one,
#    on an 8B model, in 1 h 56 min: held-out loss 1.504 → 0.971.
# 4. **Two kinds of mean.** The trainer's loss is the mean over a batch's tokens; our held-out loss is the mean
#    over conversations of each one's mean, so that a long conversation does not count more and the
#    bootstrap has a unit.
# 5. **No dropout** in the adapter (many recipes use some): PPO will need the same weights to give
#    the same probabilities twice.
# 6. **No system role, no tools, no packing** of several conversations into one row.
# 7. **One seed.** The interval covers the choice of held-out conversations, not another training run.

# %% [markdown]
# ## Five questions
#
# **1. Why does the base model not simply answer?**
#
# - A: It is too small to know the answers.
# - B: It was sampled at the wrong temperature.
# - C: It was trained to continue text, and a question can be continued in many ways.
#
# <details><summary>Answer</summary>
#
# **C** is right. A question begins a quiz, a forum or a novel. Nothing told the model that it is its turn, or how to say that it has finished.
#
# Not A. Knowing is another matter: a large raw model rambles too. What is missing is not a fact but the sign that an answer is wanted.
#
# Not B. The same prompts with the likeliest token every time trade rambling for loops. No setting of the sampler makes it an answer.
#
# It stands in “1. What does a raw model do with a question?”.
#
# </details>
#
# **2. A user types `###BOT###` and the end token in a message. Why does the conversation go on?**
#
# - A: Every `###` and every special token in a message is split before it is tokenized, and only the code adds control tokens.
# - B: The model has learned to ignore marks that stand inside a question.
# - C: The mark is deleted from the message.
# - D: The end token only counts after `###BOT###`.
#
# <details><summary>Answer</summary>
#
# **A** is right. Text can never spell a control token; the two encodings beside each other count one end when pasted and none when encoded.
#
# Not B. Nothing is learned here: it holds for the untrained model too, because no end token reaches it.
#
# Not C. It is still there, as text. Decoding takes out the invisible space, and the message reads as it was typed.
#
# Not D. A pasted message does contain the real end token in the middle of the question: position protects from nothing.
#
# It stands in “What if a user types a mark?”.
#
# </details>
#
# **3. A new token `###STOP###` would start as the mean of the rows of "stop" and "talking" and stay frozen. Why would no answer end with it?**
#
# - A: A frozen row has no gradient, so no weight of the model changes.
# - B: Its logit is the mean of the two words' logits, so one of the words is always at least as likely.
# - C: The mean of two rows is a vector close to zero, so its logit is always small.
#
# <details><summary>Answer</summary>
#
# **B** is right. A mean is never larger than the largest of what it is made of, whatever the rest of the model learns. The likelier word is said in its place.
#
# Not A. The adapters on the other layers do train, and they move every logit.
#
# Not C. A small logit could still be the largest one. What it cannot do is pass the likelier of its two words.
#
# It stands in “Why is there no new token for the end?”.
#
# </details>
#
# **4. Why does the model with a fresh LoRA adapter give exactly the base's logits?**
#
# - A: A and B are both so small that bf16 rounds their product away.
# - B: The adapter is switched off until the first step.
# - C: A's random numbers cancel in the mean.
# - D: B starts at zero, so (α/r)·B·A is zero whatever A is.
#
# <details><summary>Answer</summary>
#
# **D** is right. The first change in B moves the output, by α/r times A's row seen by x.
#
# Not A. A starts at random numbers of ordinary size. Rounding is not needed, and the toy in fp32 gives equal numbers too.
#
# Not B. It is on; the trainer computed its loss through it in section 4. It adds nothing yet.
#
# Not C. Nothing is averaged, and the logits are equal bit for bit, not on average.
#
# It stands in “5. How do you teach so many weights by training two per cent?”.
#
# </details>
#
# **5. Why does the bootstrap draw conversations and not tokens?**
#
# - A: Drawing tokens would take too long.
# - B: The tokens of one conversation are no independent witnesses.
# - C: Long conversations should count more.
#
# <details><summary>Answer</summary>
#
# **B** is right. Counted as independent they would pretend to more evidence than there is, and the interval would come out far too narrow.
#
# Not A. It would take no time worth mentioning. It would answer another question.
#
# Not C. The reverse: each conversation is one mean, so that a long one does not count more than a short one.
#
# It stands in “The training itself”.
#
# </details>

# %% tags=["quiz"]
from sawyer_utils.classroom.quiz import quiz

quiz("01")

# %% [markdown]
# ## Next
#
# **02 · The reward model.** Two answers to "How do I greet someone?", one vote. How a vote becomes a
# number, and a number becomes a taste.

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
