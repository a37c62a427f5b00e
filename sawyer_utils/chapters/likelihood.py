"""How likely a model finds given texts, with what they share computed once.

:func:`loglikelihoods` gives what ``HFLM.loglikelihood`` of lm-eval 0.4.13 gives (held against it in
``tests/test_lm_eval.py``):

1. the tokens that all requests begin with, a few-shot prefix, are run once, and their keys and values
   serve every row;
2. requests with one context become one row, a tree: a beginning that several continuations have in
   common is there once, and each token sees the prefix and its own ancestors, nothing else;
3. only tokens that something is predicted from go through the output layer, a few at a time.

Letters: B rows, P prefix tokens, Q nodes of the largest tree of a batch, K = P + Q, D hidden size,
V vocabulary. Log-likelihoods are sums, in nats.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache

from sawyer_utils import losses

BATCH_TOKENS = 1024  # nodes in one batch, padding included
STEP = 16  # rows are padded to a multiple: on a CPU each new shape leaves a compiled kernel behind
CHUNK = 128  # tokens whose (…, V) logits exist at once, as in actor.py


# --- from text to tokens ------------------------------------------------------------------------


class Request(NamedTuple):
    """Tokens of a context and a continuation whose log-likelihood is asked for."""

    ids: list[int]  # both together, cut on the left to what the model can read
    start: int  # where the continuation begins, at least 1
    truncated: int  # tokens cut


def encode_request(tokenizer, context: str, continuation: str, longest: int) -> Request:
    """Encode as lm-eval does: both together, split where the context alone ends.

    Spaces that end the context go to the continuation, for in most vocabularies they belong to the
    next word. An empty context is the tokenizer's first token (or its stop token, without one).

    Args:
        longest: tokens the model can read. The last one of a continuation is never read, so
            ``longest + 1`` are kept.

    Raises:
        ValueError: if nothing is left to predict, or to predict it from, or the continuation alone
            is longer than ``longest``.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if context:
        bare = context.rstrip()
        before = _encode(tokenizer, bare, first)
        whole = _encode(tokenizer, context + continuation, first)
        ids, start = before + whole[len(before) :], len(before)
    else:
        ids, start = tokenizer.encode(continuation, add_special_tokens=False), 1
        ids = ids if ids[:1] == [first] else [first, *ids]
    if not 0 < start < len(ids):
        raise ValueError(f"No tokens to score in {continuation!r} after {context[-40:]!r}.")
    if len(ids) - start > longest:
        raise ValueError(f"A continuation of {len(ids) - start} tokens; the model reads {longest}.")
    cut = max(0, len(ids) - longest - 1)
    return Request(ids[cut:], start - cut, cut)


def _encode(tokenizer, text: str, first: int | None) -> list[int]:
    # A text that spells the first token itself shall not get it twice.
    spelled = first is not None and text.startswith(tokenizer.decode(first))
    return tokenizer.encode(text, add_special_tokens=not spelled)


def longest_input(model, tokenizer) -> int:
    """Tokens the model can read, by its configuration, else its tokenizer's, else 2048."""
    config = model.config.get_text_config()
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    known = tokenizer.model_max_length
    return int(known) if known < 10**9 else 2048


# --- from tokens to trees -----------------------------------------------------------------------


@dataclass
class Tree:
    """One row: token sequences that begin alike, each common beginning stored once."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)  # a smaller index, or −1
    depths: list[int] = field(default_factory=list)
    targets: list[tuple[int, int, int]] = field(default_factory=list)  # request, node, token after it
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, number: int, ids: list[int], start: int) -> None:
        """Add request ``number``, whose tokens from ``start`` on are to be predicted."""
        node = -1
        for depth, token in enumerate(ids):
            if depth >= start:
                self.targets.append((number, node, token))
            if depth < len(ids) - 1:  # nothing comes after the last token: it is not read
                node = self._child(node, token, depth)

    def _child(self, parent: int, token: int, depth: int) -> int:
        child = self._children.setdefault((parent, token), len(self.tokens))
        if child == len(self.tokens):
            self.tokens.append(token)
            self.parents.append(parent)
            self.depths.append(depth)
        return child

    def ancestry(self) -> np.ndarray:
        """(N, N) of bool: which nodes each node sees, itself included."""
        seen = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def shared_prefix(requests: list[Request]) -> list[int]:
    """The longest beginning of all contexts, but for the last token of each: from that one the
    first token of a continuation is predicted, so it must be in a tree."""
    contexts = [request.ids[: request.start - 1] for request in requests]
    low, high = min(contexts), max(contexts)  # in dictionary order: what these two share, all share
    n = next((i for i, (a, b) in enumerate(zip(low, high)) if a != b), len(low))
    return low[:n]


def grow_trees(requests: list[Request], skip: int, largest: int) -> list[Tree]:
    """One tree for the requests of each context, without their first ``skip`` tokens; several,
    where their continuations would have more than ``largest`` nodes in one."""
    trees: list[Tree] = []
    latest: dict[tuple[int, ...], Tree] = {}
    for number, (ids, start, _) in enumerate(requests):
        context = tuple(ids[:start])
        tree = latest.get(context)
        if tree is None or len(tree.tokens) - (start - skip) + len(ids) - start > largest:
            tree = latest[context] = Tree()
            trees.append(tree)
        tree.add(number, ids[skip:], start - skip)
    return trees


def batches(trees: list[Tree], tokens: int, prefix: int = 0):
    """Yield lists of trees of similar size: of at most ``tokens`` nodes, padding included, and four
    times as many keys, each row holding those of the prefix too."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: -len(tree.tokens)):
        # The first is the largest, so that a batch that cannot fit in memory fails at once.
        rows, width = len(batch) + 1, _width(batch or [tree])
        if batch and (rows * width > tokens or rows * (prefix + width) > 4 * tokens):
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _width(batch: list[Tree]) -> int:
    return -(-max(len(tree.tokens) for tree in batch) // STEP) * STEP


# --- from trees to log-likelihoods --------------------------------------------------------------


def loglikelihoods(
    model,
    tokenizer,
    requests: list[tuple[str, str]],
    compute: torch.dtype | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """log π(continuation | context) of each (context, continuation), in nats.

    Args:
        compute: autocast dtype, or None for the weights' own.
        batch_tokens: nodes in one batch. Half of it, if memory does not suffice.

    Raises:
        ValueError: for a request that cannot be scored (see :func:`encode_request`), a model that
            gives NaN or infinity, or one that does not read trees (see :func:`check_reads_trees`).
    """
    longest = longest_input(model, tokenizer)
    encoded = [encode_request(tokenizer, *request, longest) for request in requests]
    warn_of_truncation(encoded, longest)
    found = score_requests(model, encoded, compute, batch_tokens)
    if (wrong := np.flatnonzero(~np.isfinite(found))).size:
        raise ValueError(f"The model gives {found[wrong[0]]} for request {wrong[0]}.")
    return found


def warn_of_truncation(requests: list[Request], longest: int) -> None:
    cut = [request.truncated for request in requests if request.truncated]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(requests)} requests are longer than the {longest} tokens that the model "
            f"reads: up to {max(cut)} tokens cut from the left.",
            stacklevel=3,
        )


@torch.no_grad()
def score_requests(
    model, requests: list[Request], compute: torch.dtype | None = None, batch_tokens: int = BATCH_TOKENS
) -> list[float]:
    """The log-likelihood of each request, NaN where the model gives NaN."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    found = torch.zeros(len(requests), dtype=torch.float64)
    # Where one context was cut, its beginning is another: it would leave the others no prefix.
    whole = [i for i, request in enumerate(requests) if not request.truncated]
    cut = [i for i, request in enumerate(requests) if request.truncated]
    with evaluating(model), _autocast(base, compute):
        check_reads_trees(base, max((len(request.ids) for request in requests), default=0))
        for part in filter(None, (whole, cut)):
            found[part] = _score(base, [requests[i] for i in part], batch_tokens)
    return found.tolist()


@contextmanager
def evaluating(model):
    """Without dropout; and a model in training may refuse a cache."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _autocast(base, compute: torch.dtype | None):
    return torch.autocast(base.device.type, compute or torch.bfloat16, enabled=compute is not None)


def _score(base, requests: list[Request], batch_tokens: int) -> Tensor:
    """(requests,) in float64."""
    prefix = shared_prefix(requests)
    memory = _read_prefix(base, prefix)
    found = torch.zeros(len(requests), dtype=torch.float64)
    trees = grow_trees(requests, len(prefix), batch_tokens)
    for batch in batches(trees, batch_tokens, len(prefix)):
        hidden = _read_trees(base, batch, memory, len(prefix))  # (B, Q, D)
        # Of each target of each tree: its request, where its node is in (B · Q), its token.
        targets = [(i, row * hidden.shape[1] + n, t) for row, b in enumerate(batch) for i, n, t in b.targets]
        owners, nodes, tokens = torch.tensor(targets).T
        logprobs = _predict(base.get_output_embeddings(), hidden.flatten(0, 1), nodes, tokens)
        found.index_add_(0, owners, logprobs.double())
    return found


def _read_prefix(base, prefix: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the prefix, layer by layer: (1, heads, P, D / heads) each."""
    if not prefix:
        return []
    ids = torch.tensor([prefix], device=base.device)
    cache = base.get_decoder()(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def _read_trees(base, batch: list[Tree], memory: list[tuple[Tensor, Tensor]], prefix: int) -> Tensor:
    """What the model knows at each node, ready for its output layer: (B, Q, D)."""
    rows, width = len(batch), _width(batch)
    ids, positions = (torch.zeros(rows, width, dtype=torch.long) for _ in range(2))
    # Padding sees the prefix and itself: a softmax over nothing would be NaN.
    seen = torch.eye(prefix + width, dtype=torch.bool)[prefix:].repeat(rows, 1, 1)  # (B, Q, K)
    seen[:, :, :prefix] = True
    for row, tree in enumerate(batch):
        n = len(tree.tokens)
        ids[row, :n] = torch.tensor(tree.tokens)
        positions[row, :n] = prefix + torch.tensor(tree.depths)
        seen[row, :n, prefix : prefix + n] = torch.from_numpy(tree.ancestry())
    cache = DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in memory])
    return base.get_decoder()(
        input_ids=ids.to(base.device),
        position_ids=positions.to(base.device),
        attention_mask=_as_mask(base, seen.unsqueeze(1).to(base.device)),
        past_key_values=cache if memory else None,
        use_cache=bool(memory),
    ).last_hidden_state


def _as_mask(base, seen: Tensor) -> Tensor:
    """(B, 1, Q, K) as the attention wants it. transformers hands a mask of four dimensions on as it
    is: "eager" adds it to the scores, "sdpa" takes True for what may be seen."""
    if base.config._attn_implementation == "sdpa":
        return seen
    return torch.where(seen, 0.0, torch.finfo(base.dtype).min).to(base.dtype)


def _predict(head, hidden: Tensor, nodes: Tensor, tokens: Tensor) -> Tensor:
    """(n,) log π(token | node) on the CPU.

    Args:
        hidden: (B · Q, D).
        nodes, tokens: (n,); several tokens may follow one node, whose logits are computed once.
    """
    parents, which = nodes.to(hidden.device).unique(return_inverse=True)
    tokens, found = tokens.to(hidden.device), hidden.new_zeros(len(tokens), dtype=torch.float32)
    for start in range(0, len(parents), CHUNK):
        logprobs = losses.log_softmax(head(hidden[parents[start : start + CHUNK]]))  # (at most CHUNK, V)
        here = ((which >= start) & (which < start + CHUNK)).nonzero().squeeze(1)
        found[here] = logprobs[which[here] - start, tokens[here]]
    return found.cpu()


def check_reads_trees(base, longest: int) -> None:
    """Score a small tree with a prefix in both ways, and compare; once for each model.

    A model that takes no mask of its callers (flash attention, state-space layers), counts positions
    by itself, or changes its logits after the output layer would give wrong numbers without a word.

    Args:
        longest: tokens of the longest request, for models that look back only so far.

    Raises:
        ValueError: if the two differ, or the model does not look back far enough.
    """
    config, attention = base.config.get_text_config(), base.config._attn_implementation
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and longest > window:
        raise ValueError(f"A request of {longest} tokens; this model looks back {window} in some layers.")
    if CHECKED.get(base) == attention:
        return
    # Ordinary tokens, of the middle of the vocabulary. The first ones are often special: SmolLM2 reads a
    # row of those so badly that half precision alone moves it by up to 16 nats (ordinary ones: 0.3).
    a, b, c, d, e, f, g, h, i = (int(config.vocab_size * (9 + n) / 36) for n in range(9))
    sequences = [[a, b, c, d, h, i], [a, b, c, f, e, i], [a, b, c, f, g, i]]
    ids = torch.tensor(sequences, device=base.device)
    logits = base(input_ids=ids, use_cache=False).logits[:, 2:-1]
    plain = losses.token_logprobs(logits, ids[:, 3:]).sum(1).cpu().double()
    found = _score(base, [Request(each, 3, 0) for each in sequences], BATCH_TOKENS)
    # Half precision rounds a log-prob of −10 to a few hundredths, each order of sums differently.
    tolerance = 1e-2 if logits.dtype == torch.float32 else 1.0
    if (difference := float((plain - found).abs().max())) > tolerance:  # NaN is not: it is found later
        raise ValueError(
            f"This model does not read trees: {difference:.2g} nats from plain sequences "
            f"(attention {attention!r}; 'eager' and 'sdpa' are known to work)."
        )
    CHECKED[base] = attention


CHECKED: WeakKeyDictionary = WeakKeyDictionary()  # model -> its attention when it was checked
