"""A judge on frozen models: what they make of an answer, and one linear layer that grades it.

A few hundred prompts are too few to teach a small model to read, and enough to ask one that can. Of each
answer we take

- the mean of a language model's hidden states at several depths, after it has read question and answer;
- the answer as one vector by a sentence encoder;
- how near this vector is to the question's: the cosine, one number.

The weights on these numbers are trained with the loss of every reward model (Bradley and Terry). That takes
seconds, so the one setting, the penalty on large weights, is chosen by cross-validation on training prompts.
(Linear probes: Alain & Bengio 2016, arXiv 1610.01644. On few examples they can beat fine-tuning: Kumar et al.
2022, arXiv 2202.10054.)
"""

from __future__ import annotations

import random
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from sawyer_utils.evaluation import Similarity
from sawyer_utils.losses import bradley_terry
from sawyer_utils.plumbing import workarounds
from sawyer_utils.plumbing.progress import each

DEPTHS = (1 / 6, 1 / 3, 1 / 2, 2 / 3)  # of the layers; the last third is about the next token
PENALTIES = (0.03, 0.1, 0.3, 1.0)  # of the squared weights, on features of variance 1
LIGHTLY = 0.01  # of the penalty for the cosine: one number beside thousands, and nothing to overfit with
FOLDS = 5

encoder_of = lru_cache(maxsize=1)(Similarity)


@lru_cache(maxsize=1)  # several judges of one base share it
def load_frozen(path: str, device: str, dtype: torch.dtype, attention: str) -> nn.Module:
    """A causal language model that is only read, up to the deepest layer that is."""
    deepest = max(depths_of(AutoConfig.from_pretrained(path).num_hidden_layers))
    options = {"dtype": dtype, "num_hidden_layers": deepest}
    if attention != "sdpa":  # as models.loading: a base without it takes eager by itself
        options["attn_implementation"] = attention
    return AutoModel.from_pretrained(path, **options).to(device).requires_grad_(False).eval()


def depths_of(layers: int) -> list[int]:
    """Which of a model's layers are read, from 1."""
    return sorted({max(1, round(depth * layers)) for depth in DEPTHS})


class Probe(nn.Module):
    """Two frozen models and one linear layer, ``head``, over what they make of an answer.

    Args:
        base: from :func:`load_frozen`.
        depths: the layers that are read.
        encoder: of sentences.
        pad: a token id of the base to pad with.
    """

    def __init__(self, base: nn.Module, depths: list[int], encoder: Similarity, pad: int):
        super().__init__()
        self.base, self.depths, self.encoder, self.pad = base, depths, encoder, pad
        size = base.config.hidden_size * len(depths) + encoder.model.config.hidden_size + 1
        self.head = nn.Linear(size, 1, bias=False)
        self.share = torch.ones(size)  # of the penalty, on each weight
        self.share[-1] = LIGHTLY

    @property
    def config(self):
        return self.base.config

    def features(self, texts: list[list[int]], prompts: list[str], responses: list[str]) -> Tensor:
        """(n, features), float32, on the CPU.

        Args:
            texts: token ids of each question with its answer.

        Raises:
            Fp16Overflow: if the base makes numbers of a text that are not finite.
        """
        sentences = list(dict.fromkeys([*prompts, *responses]))
        vectors = dict(zip(sentences, self.encoder.embed(sentences), strict=True))
        answers = torch.stack([vectors[response] for response in responses])
        near = (answers * torch.stack([vectors[prompt] for prompt in prompts])).sum(1, keepdim=True)
        return torch.cat([self.states(texts), answers, near], 1)

    @torch.no_grad()
    def states(self, texts: list[list[int]], batch: int = 16) -> Tensor:
        """(n, depths × size): the mean of each text's hidden states at each depth, float32.

        The last texts are remembered: the judges of one base are asked about the same ones in turn.
        """
        asked = self.depths, texts
        if getattr(self.base, "last", (None,))[0] != asked:
            self.base.last = asked, self._read(texts, batch)
        return self.base.last[1]

    def _read(self, texts: list[list[int]], batch: int) -> Tensor:
        new = sorted(set(map(tuple, texts)), key=len)  # each once, with little padding
        found: dict[tuple[int, ...], Tensor] = {}
        for start in each("batches read", range(0, len(new), batch)):
            some = new[start : start + batch]
            width = len(some[-1])
            ids = torch.tensor([[*text, *[self.pad] * (width - len(text))] for text in some])
            lengths = torch.tensor(list(map(len, some)))[:, None]
            mask = (torch.arange(width) < lengths).to(self.head.weight.device)
            read = {"input_ids": ids.to(mask.device), "attention_mask": mask.long()}
            layers = self.base(**read, output_hidden_states=True).hidden_states
            weight = (mask / lengths.to(mask.device))[..., None]
            means = torch.cat([(layers[depth].float() * weight).sum(1) for depth in self.depths], 1)
            if not means.isfinite().all():
                what = "makes numbers of a text that are not finite"
                advice = workarounds.overflow_advice(self.base, what, "SAWYER_REWARD_BASE")
                raise workarounds.Fp16Overflow(advice)
            found.update(zip(some, means.cpu(), strict=True))
        return torch.stack([found[tuple(text)] for text in texts])

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
        log.append({"step": len(log) + 1, "loss": float(plain.detach()), "accuracy": right})
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
