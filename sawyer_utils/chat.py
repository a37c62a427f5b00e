"""SAWYER's conversation format: three control tokens, and text that can never become one.

    ###HUMAN###Who wrote Hamlet?###BOT###William Shakespeare.###STOP###

The three tokens are new rows of the embedding. Each starts as the mean of a phrase that
already means what the token shall mean, as in the published workshop.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HUMAN, BOT, STOP = "###HUMAN###", "###BOT###", "###STOP###"
MEANINGS = {HUMAN: "The human said:", BOT: "The assistant said:", STOP: "stop talking"}

# A zero-width space splits every "###" that a user types, so that no text can spell a control
# token, alone or together with the token beside it. Twice, for "######" leaves one behind.
_SPLIT = "##\u200b#"
_CONTENT = f"message['content'] | trim | replace('###', '{_SPLIT}') | replace('###', '{_SPLIT}')"

# The same format for tokenizer.apply_chat_template and TRL. The generation block marks what is
# graded: the answers and their stop token, never the questions.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    f"{{{{- '{HUMAN}' + ({_CONTENT}) -}}}}"
    "{%- elif message['role'] == 'assistant' -%}"
    f"{{{{- '{BOT}' -}}}}"
    "{%- generation -%}"
    f"{{{{- ({_CONTENT}) + '{STOP}' -}}}}"
    "{%- endgeneration -%}"
    "{%- else -%}"
    "{{- raise_exception('SAWYER knows the roles user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{{{{- '{BOT}' -}}}}{{%- endif -%}}"
)


class Encoded(NamedTuple):
    """One conversation: token ids and, for each, whether it is graded (an answer's token)."""

    ids: list[int]
    graded: list[bool]


def add_control_tokens(tokenizer):
    """Add the three tokens and the chat template; the stop token becomes the end of sequence.

    Padding takes the base's own end-of-text token: padding and stopping must not be the same,
    or the model would never be graded on stopping.
    """
    padding = tokenizer.pad_token if tokenizer.pad_token not in (None, STOP) else tokenizer.eos_token
    tokenizer.add_special_tokens({"extra_special_tokens": list(MEANINGS)})
    tokenizer.eos_token = STOP
    tokenizer.pad_token = padding
    tokenizer.padding_side = "left"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def start_as_phrases(model, tokenizer, meanings: dict[str, str] = MEANINGS) -> None:
    """Resize the embeddings and start each control token as the mean of its phrase's rows."""
    import torch

    phrases = {
        tokenizer.convert_tokens_to_ids(token): tokenizer(phrase, add_special_tokens=False).input_ids
        for token, phrase in meanings.items()
    }
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for table in tables:  # one when tied, two when not
            for row, pieces in phrases.items():
                table[row] = table[pieces].float().mean(0).to(table.dtype)


def protect(text: str) -> str:
    """The text as the model reads it: stripped, and with every "###" split."""
    return text.strip().replace("###", _SPLIT).replace("###", _SPLIT)


def unprotect(text: str) -> str:
    """The inverse of :func:`protect`, for showing."""
    return re.sub("(?<=#)\u200b(?=#)", "", text)


def encode(tokenizer, messages: list[dict], add_generation_prompt: bool = False) -> Encoded:
    """Encode a conversation piece by piece. Equal, token for token, to the chat template.

    Args:
        messages: ``[{"role": "user" | "assistant", "content": str}, …]``.
        add_generation_prompt: end with ``###BOT###``, so that the model answers.

    Raises:
        ValueError: for another role.
    """
    human, bot, stop = tokenizer.convert_tokens_to_ids([HUMAN, BOT, STOP])
    ids: list[int] = []
    graded: list[bool] = []
    for message in messages:
        words = tokenizer(protect(message["content"]), add_special_tokens=False).input_ids
        if message["role"] == "user":
            ids += [human, *words]
            graded += [False] * (1 + len(words))
        elif message["role"] == "assistant":
            ids += [bot, *words, stop]
            graded += [False] + [True] * (len(words) + 1)
        else:
            raise ValueError(f"SAWYER knows the roles user and assistant, not {message['role']!r}.")
    if add_generation_prompt:
        ids.append(bot)
        graded.append(False)
    return Encoded(ids, graded)


def encode_prompt(tokenizer, prompt: str | list[dict]) -> list[int]:
    """One question, ready to be answered: ``###HUMAN### … ###BOT###``; or a conversation's messages, of
    which the last is the question.

    For a tokenizer without SAWYER's tokens (a T5 that summarises) it is the text as that one reads it.
    """
    if not isinstance(prompt, str):
        return encode(tokenizer, prompt, add_generation_prompt=True).ids
    if HUMAN not in tokenizer.added_tokens_encoder:
        return tokenizer(prompt).input_ids
    return encode(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True).ids


def decode(tokenizer, ids) -> str:
    """Response ids up to the first stop token, as plain text."""
    ids = [int(i) for i in ids]
    stop = tokenizer.eos_token_id
    if stop in ids:
        ids = ids[: ids.index(stop)]
    return unprotect(tokenizer.decode(ids, skip_special_tokens=True)).strip()
