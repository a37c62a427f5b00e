"""A judge that was never fine-tuned: a frozen language model reads, and one linear layer grades.

A few hundred prompts are too few to teach a small model to read, and enough to ask one that can. Each text
is read once; what the layers make of it is averaged over its tokens at several depths. The weights on these
numbers are trained with the loss of every reward model (Bradley and Terry), which takes seconds, so that the
one setting there is, the penalty on large weights, is chosen by cross-validation on the training prompts.
(Linear probes: Alain & Bengio 2016, arXiv 1610.01644. On few examples they can beat fine-tuning: Kumar et al.
2022, arXiv 2202.10054.)
"""

from __future__ import annotations

import random
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from sawyer_utils.losses import bradley_terry
from sawyer_utils.plumbing.files import replacing, write_json
from sawyer_utils.plumbing.progress import each

DEPTHS = (1 / 6, 1 / 3, 1 / 2, 2 / 3)  # of the layers: the last third is about the next token
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the squared weights, on features of variance 1
FOLDS = 5
HEAD = "adapter_model.safetensors"  # as PEFT calls what is trained beside a base
REMEMBERED = 2**13  # texts: 10 KB each for SmolLM2-135M


@lru_cache(maxsize=1)  # several judges of one base share it
def load_trunk(path: str, device: str, dtype: torch.dtype, attention: str) -> nn.Module:
    """The layers of a causal model up to the deepest that is read, frozen."""
    layers = max(depths_of(AutoConfig.from_pretrained(path).num_hidden_layers))
    options = {"dtype": dtype, "attn_implementation": attention, "num_hidden_layers": layers}
    return AutoModel.from_pretrained(path, **options).to(device).requires_grad_(False).eval()


def depths_of(layers: int) -> list[int]:
    """Which of a model's layers are read."""
    return sorted({max(1, round(depth * layers)) for depth in DEPTHS})


class FrozenReader(nn.Module):
    """A frozen trunk and one linear layer over the mean of what its layers make of a text.

    Args:
        trunk: the layers up to the deepest of ``depths``.
        depths: layers that are read, from 1.
    """

    def __init__(self, trunk: nn.Module, depths: list[int]):
        super().__init__()
        self.trunk, self.depths = trunk, depths
        self.head = nn.Linear(trunk.config.hidden_size * len(depths), 1, bias=False)

    @property
    def config(self):
        return self.trunk.config

    def features(self, texts: list[tuple[int, ...]], tokenizer, batch: int = 16) -> Tensor:
        """(texts, features) of token ids; what was read lately is remembered, by all readers of one trunk."""
        known: OrderedDict = self.trunk.__dict__.setdefault("read_before", OrderedDict())
        new = sorted({ids for ids in texts if ids not in known}, key=len)  # little padding
        device = self.head.weight.device
        for start in each("batches read", range(0, len(new), batch)):
            some = new[start : start + batch]
            inputs = tokenizer.pad({"input_ids": [list(ids) for ids in some]}, return_tensors="pt")
            known.update(zip(some, self.read(**inputs.to(device)).cpu(), strict=True))
        for ids in texts:
            known.move_to_end(ids)
        found = torch.stack([known[ids] for ids in texts])
        while len(known) > REMEMBERED:
            known.popitem(last=False)
        return found

    @torch.no_grad()
    def read(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) token ids -> (B, features), float32: the mean over each text's tokens at each depth."""
        found = self.trunk(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
        mask = attention_mask[..., None].float()
        means = [(found.hidden_states[d].float() * mask).sum(1) / mask.sum(1) for d in self.depths]
        return torch.cat(means, 1)

    def save_head(self, path: Path, **also) -> None:
        """Save the linear layer, atomically; ``also``: name -> what ``name.json`` shall hold."""
        with replacing(path) as temporary:
            temporary.mkdir()
            save_file({"head.weight": self.head.weight.data.cpu()}, temporary / HEAD)
            for name, value in also.items():
                write_json(temporary / f"{name}.json", value)

    def load_head(self, path: Path) -> FrozenReader:
        """Take the linear layer of a folder; returns itself.

        Raises:
            ValueError: if the file is damaged or of another base, naming it.
        """
        try:
            self.head.weight.data.copy_(load_file(path / HEAD)["head.weight"])
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"The judge in {path} cannot be read ({error}). Delete it and run its stage again."
            ) from error
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.read(input_ids, attention_mask)))


def fit(better: Tensor, worse: Tensor, margins: Tensor, penalty: float) -> tuple[Tensor, list[dict]]:
    """The weights with the least loss, and the log of the search for them.

    Args:
        better, worse: (pairs, features) of the chosen and the rejected answers.
        margins: (pairs,) that differences shall exceed.
        penalty: of the squared weights of features that are scaled to variance 1.

    Returns:
        (features,) weights for the features as they are; ``[{"step", "loss", "accuracy"}, …]``.
    """
    scale = torch.cat([better, worse]).std(0) + 1e-6
    gaps = (better - worse) / scale
    weights, log = torch.zeros(gaps.shape[1], requires_grad=True), []
    search = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        scores = gaps @ weights
        plain = bradley_terry(scores, margins).mean()
        found = plain + penalty * weights.square().sum()
        found.backward()
        right = float((scores > 0).float().mean())
        log.append({"step": len(log) + 1, "loss": float(plain), "accuracy": right})
        return found

    search.step(loss)
    return weights.detach() / scale, log


def best_penalty(better: Tensor, worse: Tensor, margins: Tensor, groups: list[str]) -> float:
    """The penalty with the most pairs right in cross-validation, where all pairs of a group (a prompt) are
    on one side; of equally good ones the largest."""
    names = sorted(set(groups))
    random.Random(0).shuffle(names)
    fold = {name: i % FOLDS for i, name in enumerate(names)}
    of_pair = torch.tensor([fold[name] for name in groups])
    right = dict.fromkeys(PENALTIES, 0)
    for penalty in PENALTIES:
        for i in range(min(FOLDS, len(names))):
            learn, test = of_pair != i, of_pair == i
            weights, _ = fit(better[learn], worse[learn], margins[learn], penalty)
            right[penalty] += int(((better[test] - worse[test]) @ weights > 0).sum())
    return max(PENALTIES, key=lambda penalty: (right[penalty], penalty))
