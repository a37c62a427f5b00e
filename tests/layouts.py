"""Tokenizers of every layout that the profiles name and that users bring, made small here.

Each is the class that transformers takes for the real one, with a vocabulary learnt from the course's own
corpus, saved and read again by ``AutoTokenizer`` as one from the Hub would be.
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sawyer_utils import data
from sawyer_utils.plumbing import assets

POLICIES = ("smollm2", "llama2", "llama2-legacy", "llama3", "gemma", "gpt2")
JUDGES = ("minilm", "roberta")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def build(name: str, folder):
    """The tokenizer of a layout, read from ``folder`` after it was written there."""
    if name in EMBEDDED:
        return AutoTokenizer.from_pretrained(assets.resolve(EMBEDDED[name]))
    BUILDERS[name]().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


EMBEDDED = {"smollm2": "embedded:smollm2-135m", "minilm": "embedded:minilm-l6"}


def texts() -> list[str]:
    rows = data.load_conversations(limit=120)
    return [message["content"] for row in rows for message in row["messages"]]


def _pieces(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges over spaces written as ▁, with a token for each byte (SentencePiece's BPE)."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trained.train_from_iterator(texts(), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    vocab = [*special, *BYTES, *sorted(trained.get_vocab(), key=trained.get_vocab().get)]
    merges = [tuple(merge) for merge in _merges(trained)]
    return {piece: i for i, piece in enumerate(dict.fromkeys(vocab))}, merges


def _merges(trained: Tokenizer) -> list:
    found = json.loads(trained.to_str())["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in found]


def _llama2():
    from transformers import LlamaTokenizer

    vocab, merges = _pieces(["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocab=vocab, merges=merges, legacy=False, add_bos_token=True)


def _llama2_legacy() -> PreTrainedTokenizerFast:
    """As the first Llama-2 and Mistral files have it: a ▁ before each stretch of text between two tokens."""
    vocab, merges = _pieces(["<unk>", "<s>", "</s>"])
    raw = Tokenizer(models.BPE(vocab, merges, fuse_unk=True, byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(steps)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def _gemma():
    from transformers import GemmaTokenizer

    vocab, merges = _pieces(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    )
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    return tokenizer


def _byte_level(special: list[str], **roles) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": 800, "show_progress": False, "initial_alphabet": alphabet}
    raw.train_from_iterator(texts(), trainers.BpeTrainer(special_tokens=special, **options))
    return PreTrainedTokenizerFast(tokenizer_object=raw, **roles)


def _llama3():
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    special = [begin, end, "<|eot_id|>", "<|start_header_id|>"]
    tokenizer = _byte_level(special, bos_token=begin, eos_token=end)
    starts = [(begin, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=starts
    )
    return tokenizer


def _gpt2():
    end = "<|endoftext|>"
    return _byte_level([end], bos_token=end, eos_token=end, unk_token=end)


def _roberta():
    from transformers import RobertaTokenizer

    trained = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    merges = [tuple(merge) for merge in _merges(trained.backend_tokenizer)]
    return RobertaTokenizer(vocab=trained.get_vocab(), merges=merges)


def _t5():
    from transformers import T5Tokenizer

    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    raw.train_from_iterator(
        texts(),
        trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    vocab = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=[*vocab, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(100)))])


BUILDERS = {
    "llama2": _llama2,
    "llama2-legacy": _llama2_legacy,
    "llama3": _llama3,
    "gemma": _gemma,
    "gpt2": _gpt2,
    "roberta": _roberta,
    "t5": _t5,
}
