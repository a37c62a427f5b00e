"""SAWYER's conversation format: two control tokens, an end, and text that can never become one of them.

    ###HUMAN###Who wrote Hamlet?###BOT###William Shakespeare.<|im_end|>

The format is written once, as the tokenizer's chat template: :func:`encode` reads it, and so does TRL.
The two tokens that open a turn are new rows of the embedding. Each is the mean of a phrase that already
means what the token shall mean, as in the published workshop, and stays so: the model only ever reads it.
What ends an answer has to be said, too: it is the base's own end token, which every base knows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import NamedTuple

HUMAN, BOT = "###HUMAN###", "###BOT###"
MEANINGS = {HUMAN: "The human said:", BOT: "The assistant said:"}
A_SERIES = 32  # special tokens that differ by a number are treated as one from here on
PAD = "###PAD###"  # for a base without a padding token of its own

# A zero-width space splits what a user types like a control token. Every "###", so that no text can spell
# one of ours, alone or together with the token beside it; twice, for "######" leaves one behind.
_SPACE = "\u200b"
_SPLIT = f"##{_SPACE}#"

# The generation block marks what is graded: the answers and the end token, never the questions.
_TEMPLATE = (
    "<BEGIN>"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    f"{{{{- '{HUMAN}' + (<CONTENT>) -}}}}"
    "{%- elif message['role'] == 'assistant' -%}"
    f"{{{{- '{BOT}' -}}}}"
    "{%- generation -%}"
    f"{{{{- (<CONTENT>) + <END> -}}}}"
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
    """Add the two tokens and the chat template; an answer ends with the tokenizer's own end token.

    Padding and ending must not be the same token, or the model would never be graded on ending: padding is
    the base's own token for it, else the one for unknown text, else a new one.

    Raises:
        ValueError: for a tokenizer without an end token, or without the fast backend, whose tokens do not
            know their characters.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} is a slow tokenizer; the course needs a fast one.")
    if tokenizer.eos_token is None:
        raise ValueError(
            "This base has no end token (tokenizer.eos_token), so nothing can end an answer. Choose another "
            'base, or name the token that ended its texts: AutoTokenizer.from_pretrained(…, eos_token="…").'
        )
    unused = (tokenizer.pad_token, tokenizer.unk_token, PAD)
    padding = next(token for token in unused if token not in (None, tokenizer.eos_token))
    tokenizer.add_special_tokens({"extra_special_tokens": list(MEANINGS), "pad_token": padding})
    tokenizer.padding_side = "left"
    tokenizer.chat_template = chat_template(tokenizer)
    return tokenizer


def chat_template(tokenizer) -> str:
    """The format as a Jinja template for ``apply_chat_template``.

    It begins as every text of this tokenizer does: Llama-2 and Gemma were trained on texts that all begin
    with one token, and do badly without it.
    """
    begin, first = tokenizer.bos_token, tokenizer("a").input_ids[0]
    begins = begin is not None and first == tokenizer.bos_token_id
    content = "message['content'] | trim"
    for token, split in _splits(tokenizer).items():
        content += f" | replace({_literal(token)}, {_literal(split)})"
    content += f" | replace('###', '{_SPLIT}')" * 2
    template = _TEMPLATE.replace("<CONTENT>", content).replace("<END>", _literal(tokenizer.eos_token))
    return template.replace("<BEGIN>", f"{{{{- {_literal(begin)} -}}}}" if begins else "")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _splits(tokenizer) -> dict[str, str]:
    """The base's own special tokens, its end token among them, and what a text has in the place of one:
    "<|im_end|>" typed by a user is text. Of many that differ by a number ("<unused0>" to "<unused6241>") it
    is what stands before the number: Jinja cannot read a template with thousands of replacements."""
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    starts = {token: re.split(r"\d", token)[0] for token in special if token not in (*MEANINGS, PAD)}
    counts = Counter(starts.values())
    many = {start for start, n in counts.items() if n > A_SERIES and len(start) > 1}
    split = dict.fromkeys(start if start in many else token for token, start in starts.items())
    return {token: token[0] + _SPACE + token[1:] for token in split}


def endings(tokenizer) -> list[int]:
    """The ids that end an answer: the end token, and every other special one, after which nothing that is
    said belongs to it. "<unk>" stands for a piece of text and is none of them."""
    decoder = tokenizer.added_tokens_decoder
    return [i for i, token in decoder.items() if token.special and "unk" not in token.content.lower()]


def start_as_phrases(model, tokenizer, meanings: dict[str, str] = MEANINGS) -> None:
    """Resize the embeddings and give each control token the mean of its phrase's rows.

    A new padding token gets the mean of all rows: a random row could be likelier than any word.
    """
    import torch

    phrases = {
        tokenizer.convert_tokens_to_ids(token): tokenizer(phrase, add_special_tokens=False).input_ids
        for token, phrase in meanings.items()
    }
    if tokenizer.pad_token == PAD:
        phrases[tokenizer.pad_token_id] = slice(len(tokenizer) - len(meanings) - 1)
    if model.get_input_embeddings().num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for table in tables:  # one when tied, two when not
            for row, pieces in phrases.items():
                table[row] = table[pieces].mean(0, dtype=torch.float32).to(table.dtype)


def encode(tokenizer, messages: list[dict], add_generation_prompt: bool = False) -> Encoded:
    """Encode a conversation by the chat template, so that training, sampling and TRL see the same tokens.

    Args:
        messages: ``[{"role": "user" | "assistant", "content": str}, …]``.
        add_generation_prompt: end with ``###BOT###``, so that the model answers.

    Raises:
        ValueError: for another role.
    """
    if unknown := [m["role"] for m in messages if m["role"] not in ("user", "assistant")]:
        raise ValueError(f"SAWYER knows the roles user and assistant, not {unknown[0]!r}.")
    found = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=add_generation_prompt,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return Encoded(found["input_ids"], [bool(flag) for flag in found["assistant_masks"]])


def encode_prompt(tokenizer, prompt: str | list[dict]) -> list[int]:
    """One question, ready to be answered: ``###HUMAN### … ###BOT###``; or a conversation's messages, of
    which the last is the question.

    For a tokenizer without SAWYER's tokens (a T5 that summarises) it is the text as that one reads it,
    where a special token that the text spells is text, too.
    """
    if isinstance(prompt, str):
        if HUMAN not in tokenizer.added_tokens_encoder:
            return tokenizer(as_text(tokenizer, prompt)).input_ids
        prompt = [{"role": "user", "content": prompt}]
    return encode(tokenizer, prompt, add_generation_prompt=True).ids


def as_text(tokenizer, text: str) -> str:
    """The text with every special token of the tokenizer in it split by a zero-width space, so that it is
    read as text. (``split_special_tokens`` is not enough: T5's own vocabulary holds "</s>" as a piece.)"""
    for token, split in _splits(tokenizer).items():
        text = text.replace(token, split)
    return text


def decode(tokenizer, ids) -> str:
    """Response ids up to the first that ends an answer, as plain text; ids on any device."""
    ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    ends = set(endings(tokenizer))
    length = next((place for place, i in enumerate(ids) if i in ends), len(ids))
    text = re.sub(f"(?<=#){_SPACE}(?=#)", "", tokenizer.decode(ids[:length]))
    for token, split in _splits(tokenizer).items():
        text = text.replace(split, token)
    return text.strip()


def that_fit(tokenizer, rows: list, limit: int) -> list:
    """The rows that take at most ``limit`` tokens, control tokens included; says in one line how many were
    left out. Every notebook and every training uses it: nothing is cut, and nothing is left out in silence.

    Args:
        rows: prompts (texts, or rows with a "prompt" or a "question"), or conversations (with "messages").

    Raises:
        ValueError: if none fits.
    """
    kept = [row for row in rows if token_count(tokenizer, row) <= limit]
    if left_out := len(rows) - len(kept):
        what = "conversations" if isinstance(rows[0], dict) and "messages" in rows[0] else "prompts"
        print(f"{left_out} of {len(rows)} {what} left out: longer than {limit} tokens.")
        if not kept:
            raise ValueError(f"None of {len(rows)} {what} fits into {limit} tokens.")
    return kept


def token_count(tokenizer, row: str | dict) -> int:
    """Tokens of a prompt that is to be answered, or of a whole conversation."""
    if isinstance(row, dict) and "messages" in row:
        return len(encode(tokenizer, row["messages"]).ids)
    text = row if isinstance(row, str) else row.get("prompt") or row["question"]
    return len(encode_prompt(tokenizer, text))
