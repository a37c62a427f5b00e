"""Neutral summaries: prompts, the parts of a reward, measures, and how a summariser starts."""

from __future__ import annotations

import re
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoTokenizer

from sawyer_utils import data, models
from sawyer_utils.chat import that_fit
from sawyer_utils.evaluation import Similarity, encoded, ngrams, repetition
from sawyer_utils.plumbing import assets, formats
from sawyer_utils.plumbing.sources import Schema, check_prompt, drawn, load, text_of
from sawyer_utils.profiles import Profile
from sawyer_utils.reward import RewardFn
from sawyer_utils.runtime import choose_precision

ASK = "Summarise in one sentence: "
WORDS = 18  # what a summary should have


def check_news(row: dict) -> None:
    """``{text, split}`` and, if there is one, ``summary``: a neutral sentence to measure against."""
    check_prompt(row, "text")
    if "summary" in row:
        text_of(row, "summary")


# The Hub's summary, under "prediction", is not needed to learn from a grade.
NEWS = Schema("news", check_news, formats.NEWS, {"argilla/news-summary": "train"}, has_split=True)


def load_news(split: str, source: str = "embedded", limit: int | None = None) -> list[dict]:
    """News-like paragraphs ``{id, topic, text, split}`` of one split, "train" or "test"; the embedded test
    rows have a ``summary``, too, a reference that a language model wrote."""
    return drawn([row for row in load(NEWS, source) if row["split"] == split], limit, source)


def prompt_for(text: str) -> str:
    """What the summariser is asked."""
    return ASK + text


def source_of(prompt: str) -> str:
    """The text that a prompt of :func:`prompt_for` asks about."""
    return prompt.removeprefix(ASK)


def settings(profile: Profile) -> Profile:
    """The profile with the sizes of this chapter: longer prompts, other steps."""
    own = profile.summariser == "policy"
    return replace(
        profile,
        precision=profile.precision if own else "fp32",  # T5 learnt in bf16 and overflows in fp16
        prompt_tokens=profile.news_prompt_tokens,
        response_tokens=profile.news_response_tokens,
        sft_epochs=profile.news_warmup_epochs,
        ppo_steps=profile.news_steps,
        ppo_batch=profile.news_batch,
        ppo_lr=profile.news_lr,
    )


def prompts_that_fit(tokenizer, rows: list[dict], profile: Profile) -> list[str]:
    """The prompt of each paragraph, without those longer than the profile allows (real articles are)."""
    return that_fit(tokenizer, [prompt_for(row["text"]) for row in rows], profile.news_prompt_tokens)


def sentences(text: str) -> list[str]:
    """Split after ``.``, ``!`` or ``?`` and a space before a capital letter."""
    return [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text.strip()) if part]


# --- what a summary is paid for -----------------------------------------------------------------


@cache
def _lexicon():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def tone(texts: list[str]) -> list[float]:
    """VADER's compound score of each text (Hutto and Gilbert 2014), −1 to 1; 0 where its lexicon knows
    no word. It sums up words, so it nears ±1 for any long text: compare sentences, not paragraphs."""
    return [_lexicon().polarity_scores(text)["compound"] for text in texts]


def loaded(texts: list[str]) -> list[float]:
    """The share of each text that VADER rates as positive or negative, 0 to 1: a rated word counts
    |rating| + 1, any other word 1. Praise does not cancel blame, and a long text is not louder for it."""
    scores = map(_lexicon().polarity_scores, texts)
    return [score["pos"] + score["neg"] for score in scores]


def mean_loaded(text: str) -> float:
    """How loaded a sentence of the text is, on average; 0 for an empty text."""
    found = loaded(sentences(text))
    return statistics.mean(found) if found else 0.0


def neutrality(prompts: list[str], summaries: list[str]) -> list[float]:
    """How much less loaded a summary is than a sentence of its source, on average.

    The source's own tone moves no summary of one text past another. It takes away what only says that
    this text is louder than the next: noise, when summaries of different texts are graded together.
    """
    heard = zip(prompts, loaded(summaries), strict=True)
    return [mean_loaded(source_of(prompt)) - share for prompt, share in heard]


def length_fit(prompts: list[str], summaries: list[str]) -> list[float]:
    """0 at ``WORDS`` words, −1 for none or for twice as many, falling in a straight line on either side."""
    return [-abs(len(summary.split()) - WORDS) / WORDS for summary in summaries]


def faithful(similarity: Similarity) -> RewardFn:
    """How much nearer in meaning a summary is to its source than a sentence of the source is, on average:
    cosines of an encoder that is never trained. The source's own part is there as in :func:`neutrality`."""
    own: dict[str, float] = {}

    def score(prompts: list[str], summaries: list[str]) -> list[float]:
        sources = [source_of(prompt) for prompt in prompts]
        for text in dict.fromkeys(sources):
            if text not in own:
                parts = sentences(text) or [text]
                own[text] = statistics.mean(similarity([text] * len(parts), parts))
        near = similarity(sources, summaries)
        return [n - own[text] for n, text in zip(near, sources, strict=True)]

    return score


class Classifier:
    """The logit of one label of a sequence classifier, a Hub id or a folder, that reads the summary alone."""

    def __init__(self, source: str, label: int):
        path, self.label = assets.resolve(source), label
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
        self.model.to(choose_precision().device)

    @torch.no_grad()
    def __call__(self, prompts: list[str], summaries: list[str]) -> list[float]:
        found = []
        for inputs in encoded(self.tokenizer, summaries, 32):
            logits = self.model(**inputs.to(self.model.device)).logits  # (B, labels)
            found += logits[:, self.label].float().tolist()
        return found


# --- measures -----------------------------------------------------------------------------------


def measure(similarity: Similarity, prompts: list[str], summaries: list[str]) -> dict[str, list[float]]:
    """What is compared before and after, a value a summary: the three parts as they are, and three
    measures that no reward has."""
    sources = [source_of(prompt) for prompt in prompts]
    return {
        "neutrality": neutrality(prompts, summaries),
        "similarity": similarity(sources, summaries),
        "words": [float(len(summary.split())) for summary in summaries],
        "copied": [copied(*pair) for pair in zip(sources, summaries, strict=True)],
        "invented": [float(invented(*pair)) for pair in zip(sources, summaries, strict=True)],
        "repetition": [repetition(summary) for summary in summaries],
    }


def copied(source: str, summary: str) -> float:
    """Share of a summary's runs of three words that stand in the source; 0 if it is shorter."""
    known, runs = (ngrams(data.normalise(text), 3) for text in (source, summary))
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def invented(source: str, summary: str) -> int:
    """Capitalised words and numbers of the summary, but for the first word of a sentence, that the
    source does not have."""
    known = {*re.findall(r"\w+", source.lower()), *re.findall(r"\d+", source)}  # "1990s" has 1990
    names = [w for s in sentences(summary) for w in re.findall(r"\w+", s)[1:] if w[0].isupper()]
    return sum(word.lower() not in known for word in [*names, *re.findall(r"\d+", summary)])


# --- how a summariser starts --------------------------------------------------------------------


def central(text: str, similarity: Similarity, keep: int = 2) -> list[str]:
    """The sentences that mean most nearly what the whole text means, the nearest first."""
    parts = sentences(text)
    scores = similarity([text] * len(parts), parts)
    return sorted(parts, key=lambda part: -scores[parts.index(part)])[:keep]


def lessons(texts: list[str], similarity: Similarity, keep: int = 2) -> list[dict]:
    """Conversations that ask for a summary and get a sentence of the text itself: no one has to write
    one, and what they teach is the task, not the tone."""
    return [
        {"messages": data.talk(prompt_for(text), sentence)}
        for text in texts
        for sentence in central(text, similarity, keep)
    ]


def load_summariser(profile: Profile, adapter: Path | None = None):
    """``(tokenizer, model)`` with the adapters ``policy`` and ``ref``, ready for PPO; the course's own policy
    needs its adapter, an encoder-decoder none."""
    if profile.summariser == "policy":
        return models.load_actor(profile, adapter)
    path = assets.resolve(profile.summariser)
    tokenizer = AutoTokenizer.from_pretrained(path)
    base = AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32).requires_grad_(False)
    base.to(choose_precision(profile.precision).device)
    model = models.add_lora(base, profile.lora_rank, profile.lora_alpha, models.POLICY, "SEQ_2_SEQ_LM")
    model.add_adapter(models.REF, model.peft_config[models.POLICY])  # both start as the model itself: B is 0
    models.activate(model, models.POLICY)
    return tokenizer, model.eval()
