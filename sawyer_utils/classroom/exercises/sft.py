"""The judges of notebook 01's exercises. V is small here: a wrong loss is wrong at any size."""

from __future__ import annotations

import torch

from sawyer_utils.classroom.checks import close, exercise, fresh, mistake, number, unlike
from sawyer_utils.losses import masked_mean, token_logprobs

VOCABULARY = 11


def conversations(rows: int = 3, length: int = 9):
    """Fresh ``logits (B, T, V), ids (B, T), graded (B, T)``; each row grades another number of tokens, the
    last one all, its first included, which no logits guess."""
    generator = fresh()
    logits = 2 * torch.randn(rows, length, VOCABULARY, generator=generator)
    ids = torch.randint(VOCABULARY, (rows, length), generator=generator)
    starts = length - 2 - torch.arange(rows).unsqueeze(1) * 2
    starts[-1] = 0
    return logits, ids, torch.arange(length) >= starts


@exercise(
    "01.1",
    hints=(
        "How many numbers has A, of r × d_in? How many has B, of d_out × r?",
        "Together they have r times something. Write down when that exceeds d_out · d_in.",
        "Solve it for r, and take the next whole number above the quotient.",
    ),
    lesson="r (d_out + d_in) exceeds d_out · d_in only beyond r = d_out · d_in / (d_out + d_in). At rank 8 "
    "or 32 a large matrix saves nearly everything; the 6 × 4 toy lost at rank 4.",
)
def _(answer):
    rank, d_out, d_in = number(answer), 1536, 576
    if rank != round(rank) or rank < 1:
        return "A rank is a whole number, 1 or more."
    if rank * (d_out + d_in) <= d_out * d_in:
        return (
            f"At that rank A and B hold {rank * (d_out + d_in):,.0f} numbers, no more than the matrix does."
        )
    if (rank - 1) * (d_out + d_in) > d_out * d_in:
        return "At a smaller rank they hold more than the matrix already."
    return None


@exercise(
    "01.2",
    hints=(
        "The logits at position t are a guess. For the token at which position?",
        "After the shift there are T − 1 guesses and T − 1 truths. How many flags has `graded` then?",
        "Pick the graded tokens of the whole batch first, then take one mean over all of them.",
    ),
    lesson="This is the number that a trainer reports: shift, pick what is graded, one mean over the batch's "
    "tokens. Each of the three can go wrong without any error message.",
)
def _(answer):
    for _ in range(3):
        logits, ids, graded = conversations()
        nll = -token_logprobs(logits[:, :-1], ids[:, 1:])
        found = number(answer(logits, ids, graded))
        if not close(found, masked_mean(nll, graded[:, 1:])):
            return _wrong_loss(found, logits, ids, graded, nll)
    return None


def _wrong_loss(found: float, logits, ids, graded, nll) -> str:
    """What can be seen of a wrong loss, in the order in which one would look."""
    counts = graded[:, 1:]
    each_row = torch.stack([masked_mean(row, mask) for row, mask in zip(nll, counts)])
    seen = {
        "The log-probability is taken at the position of the token itself.": masked_mean(
            -token_logprobs(logits, ids), graded
        ),
        "The result grows with the number of graded tokens.": nll[counts].sum(),
        "Tokens that are not graded have a part in it.": nll.mean(),
        "The flags of the mask lie beside other tokens than their own.": masked_mean(nll, graded[:, :-1]),
        "A token of a short answer counts more than one of a long answer.": each_row.mean(),
        "A row's first token, which nothing guesses, is counted.": nll[counts].sum() / graded.sum(),
        "The sign is wrong: a better guess has a higher loss.": -masked_mean(nll, counts),
    }
    return mistake(
        found, seen, "On fresh logits it is another number than the mean loss of the graded tokens."
    )


@exercise(
    "01.3",
    hints=(
        "Without the shift, which token is the guess at position t compared with?",
        "The model sees that very token. What is the laziest guess that is always right?",
        "A large logit for one token, zero for the others. `torch.nn.functional.one_hot` makes such rows.",
    ),
    lesson="Without the shift, repeating the input is the perfect answer: the loss falls to almost nothing "
    "in no time, and as a guess of the next token the model is worse than none. A loss that is too good is a "
    "symptom.",
)
def _(answer):
    for vocabulary in (VOCABULARY, VOCABULARY + 5, 1000):  # the ids alone do not tell it
        ids = torch.stack([torch.randperm(VOCABULARY, generator=fresh())[:8] for _ in range(3)])
        changed = ids.clone()
        changed[:, 5:] = ids[:, 5:].flip(1)
        # Cut, for −inf is a fair logit.
        logits, others = (torch.as_tensor(answer(x, vocabulary)).clamp(-1e3, 1e3) for x in (ids, changed))
        close(logits, torch.zeros(3, 8, vocabulary))  # raises for another shape
        if not close(others[:, :5], logits[:, :5]):
            return "A guess changes when a later token does: no model can see what is still to come."
        unshifted = float(-token_logprobs(logits, ids).mean())
        if unshifted > 0.01:
            return (
                f"With a vocabulary of {vocabulary} the loss without the shift is {unlike(unshifted, 0.01)}: "
                "more than 0.01."
            )
    return None


END = 4


@exercise(
    "01.4",
    hints=(
        "Run the careless version with the padding that you fear. Which label is missing in every row?",
        "What a token is does not tell you why it stands there. Where it stands does.",
        "The rows are filled up on the left, to T. Compare `torch.arange(T)` with T minus a row's length.",
    ),
    lesson="Masked by its id, every end goes with the padding: the loss looks fine, and no answer ever "
    "ends. Padding is a matter of position: mask by position, or keep the two tokens apart as "
    "`chat.add_control_tokens` does.",
)
def _(answer):
    for pad in (END, 0, END):
        ids, lengths = padded(pad)
        is_text = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths.unsqueeze(1)
        wanted = torch.where(is_text, ids, -100)
        found = answer(ids, lengths, pad)
        if close(found, wanted, 0):
            continue
        found = torch.as_tensor(found)
        if (found[is_text & (ids == END)] == -100).any():
            return "Some answer's own end has the label −100, so the model is not graded on it."
        if (found[~is_text] != -100).any():
            return "Some padding is graded."
        return "A token of the text has lost its label, or has another one than its id."
    return None


def padded(pad: int):
    """Fresh ``ids (B, T)``, each row padded on the left, with an end token, and ``lengths (B,)``. Every other
    text begins with the very token that is its padding."""
    lengths = torch.randperm(8, generator=fresh())[:4] + 2  # of 2 to 9 tokens, all different
    ids = torch.full((4, 9), pad)
    for row, n in zip(ids, lengths.tolist()):
        row[9 - n : -1] = torch.randint(END, VOCABULARY, (n - 1,), generator=fresh())
        row[-1] = END
    for row, n in zip(ids[::2], lengths[::2].tolist()):
        row[9 - n] = pad
    return ids, lengths
