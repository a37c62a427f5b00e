"""A judge on a frozen language model: what the model makes of an answer, and one linear layer that grades it.

A few hundred prompts are too few to teach a small model to read, and enough to ask one that can. Of each
answer it gives two things:

- the mean of its hidden states at several depths, which holds what kind of text this is (linear probes: Alain
  & Bengio 2016, arXiv 1610.01644; on few examples they can beat fine-tuning: Kumar et al. 2022, arXiv
  2202.10054);
- its relevance: how much more likely the answer is with its question than without (their pointwise mutual
  information; Li et al. 2016, arXiv 1510.03055, section 4.3).

The weights on these numbers are trained with the loss of every reward model (Bradley and Terry). That takes
seconds, so the one setting, the penalty on large weights, is chosen by cross-validation on training prompts.
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from sawyer_utils.losses import bradley_terry, token_logprobs
from sawyer_utils.plumbing.progress import each

DEPTHS = (1 / 6, 1 / 3, 1 / 2, 2 / 3)  # of the layers; the last third is about the next token
PENALTIES = (0.03, 0.1, 0.3, 1.0)  # of the squared weights, on features of variance 1
LIGHTLY = 0.01  # of the penalty on relevance: one number beside thousands, and nothing to overfit with
FOLDS = 5

Ids = list[int]


@lru_cache(maxsize=1)  # several judges of one base share it
def load_frozen(path: str, device: str, dtype: torch.dtype, attention: str) -> nn.Module:
    """A causal language model that is only read."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention)
    return model.to(device).requires_grad_(False).eval()


class Probe(nn.Module):
    """A frozen causal model and one linear layer, ``head``, over what it makes of an answer.

    Args:
        base: from :func:`load_frozen`.
        pad: a token id to pad with.
    """

    def __init__(self, base: nn.Module, pad: int):
        super().__init__()
        self.base, self.pad = base, pad
        layers = base.config.num_hidden_layers
        self.depths = sorted({max(1, round(depth * layers)) for depth in DEPTHS})
        size = base.config.hidden_size * len(self.depths) + 1
        self.head = nn.Linear(size, 1, bias=False)
        self.share = torch.ones(size)  # of the penalty, on each weight
        self.share[-1] = LIGHTLY

    @property
    def config(self):
        return self.base.config

    def features(self, with_question: list[tuple[Ids, Ids]], alone: list[tuple[Ids, Ids]]) -> Tensor:
        """(answers, features), float32, on the CPU.

        Args:
            with_question: of each answer, the tokens before it (with its question) and its own.
            alone: the same without the question.
        """
        states, likely = self._read(with_question)
        _, alone_likely = self._read(alone)
        more = likely - alone_likely  # nats that the question saves; by its size, not by the answer's length:
        return torch.cat([states, (more.sign() * more.abs().log1p())[:, None]], 1)

    @torch.no_grad()
    def _read(self, texts: list[tuple[Ids, Ids]], batch: int = 8) -> tuple[Tensor, Tensor]:
        """((n, depths × size) mean hidden states of each text, (n,) log-probability of its second part)."""
        texts = [(tuple(before), tuple(answer)) for before, answer in texts]
        new = sorted(set(texts), key=lambda text: len(text[0]) + len(text[1]))  # each once, little padding
        found: dict = {}
        device = self.head.weight.device
        for start in each("batches read", range(0, len(new), batch)):
            some = new[start : start + batch]
            width = max(len(before) + len(answer) for before, answer in some)
            rows = [[*b, *a] + [self.pad] * (width - len(b) - len(a)) for b, a in some]
            ids = torch.tensor(rows, device=device)
            places = torch.arange(width, device=device)
            ends = torch.tensor([len(b) + len(a) for b, a in some], device=device)[:, None]
            begins = torch.tensor([len(b) for b, _ in some], device=device)[:, None]
            mask = places < ends
            out = self.base(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
            weight = (mask / ends)[..., None].float()
            states = torch.cat([(out.hidden_states[d].float() * weight).sum(1) for d in self.depths], 1)
            likely = token_logprobs(out.logits[:, :-1].float(), ids[:, 1:])
            likely = (likely * (mask & (places >= begins))[:, 1:]).sum(1)
            found.update(zip(some, zip(states.cpu(), likely.cpu(), strict=True), strict=True))
        states, likely = zip(*(found[text] for text in texts), strict=True)
        return torch.stack(states), torch.stack(likely)

    def forward(self, features: Tensor) -> Tensor:
        """(n, features) -> (n,) grades."""
        return self.head(features.to(self.head.weight.device)).squeeze(-1)


def fit(better: Tensor, worse: Tensor, penalty: Tensor | float) -> tuple[Tensor, list[dict]]:
    """The weights with the least loss, and the log of the search for them.

    Args:
        better, worse: (pairs, features) of the chosen and the rejected answers.
        penalty: of the squared weights, on features of variance 1; one for all, or (features,).

    Returns:
        (features,) weights for the features as they are; ``[{"step", "loss", "accuracy"}, …]``.
    """
    scale = torch.cat([better, worse]).std(0) + 1e-6
    gaps = (better - worse) / scale
    weights, log = torch.zeros(gaps.shape[1], dtype=gaps.dtype, requires_grad=True), []
    search = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        lead = gaps @ weights
        plain = bradley_terry(lead).mean()
        found = plain + (penalty * weights.square()).sum()
        found.backward()
        right = float((lead > 0).float().mean())
        log.append({"step": len(log) + 1, "loss": float(plain), "accuracy": right})
        return found

    search.step(loss)
    return weights.detach() / scale, log


def cross_validated(better: Tensor, worse: Tensor, groups: list[str], share: Tensor) -> dict[float, float]:
    """``{penalty: share of pairs right}`` when each fifth of the groups (prompts) is judged by weights that
    were trained on the others.

    Args:
        share: (features,) of the penalty on each.
    """
    names = sorted(set(groups))
    random.Random(0).shuffle(names)
    fold = {name: i % FOLDS for i, name in enumerate(names)}
    of_pair = torch.tensor([fold[name] for name in groups])
    right = dict.fromkeys(PENALTIES, 0)
    for penalty in PENALTIES:
        for i in range(min(FOLDS, len(names))):
            test = of_pair == i
            weights, _ = fit(better[~test], worse[~test], penalty * share)
            right[penalty] += int(((better[test] - worse[test]) @ weights > 0).sum())
    return {penalty: count / len(groups) for penalty, count in right.items()}
