"""The judges of notebook 07's exercises. Texts, scores and runs are made up anew at each check."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from sawyer_utils.chapters import summaries
from sawyer_utils.classroom.checks import Wrong, choice, close, exercise, fresh, kind, number, uniform, unlike

SENTENCE = "A good council, a good plan, a bad evening."
PARTS = ("neutrality", "similarity", "length")
NOTHING = "nothing"


@exercise(
    "07.1",
    hints=(
        "The list adds up what it knows before it squeezes anything. What is the sum of the three words?",
        "Section 1 squeezes a sum s by s/√(s² + 15). One of the three ratings counts against the others.",
        "Twice the rating of “good”, and the rating of “bad” with its sign; then squeeze that one sum.",
    ),
    lesson="Praise and blame cancel: with three loaded words a sentence counts as milder than with a single "
    "“good”. Whoever is rude to both sides is nearly neutral to this judge.",
)
def compound(answer):
    """VADER's compound of ``SENTENCE``."""
    found, [wanted] = number(answer), summaries.tone([SENTENCE])
    if not -1 < found < 1:
        return "A compound lies between −1 and 1."
    if close(found, wanted, 2e-3):
        return None
    if found * wanted <= 0:
        return "The list takes the sentence for praise."
    return "The list hears more praise in it." if found < wanted else "The list hears less praise in it."


@exercise(
    "07.2",
    hints=(
        "Find the numerals of the summary first: `re.findall` with a pattern for a run of digits.",
        "Compare numerals with numerals. Text in text finds a 4 in 40, too.",
        "Every summary is held against its own prompt. What is a share of no numerals at all to be?",
    ),
    lesson="The cheapest way to win this part is to name no number: then none can be wrong. A part that only "
    "punishes faults pays for silence, and another part has to pay for what should be said.",
)
def numerals(answer):
    """f(prompts, said) -> for each summary, the share of its numerals that stand in its source."""
    for _ in range(3):
        cases = numeral_cases()
        prompts = [summaries.prompt_for(_sentence("The count rose from", source)) for source, *_ in cases]
        said = [_sentence("It rose from", own) for _, own, *_ in cases]
        found, wanted = answer(prompts, said), torch.tensor([share for *_, share, _ in cases])
        close(found, wanted)  # refuses another shape, and what is no number
        for value, (*_, share, what) in zip(torch.as_tensor(found).tolist(), cases, strict=True):
            if not close(value, share):
                return f"To a summary that {what} your part gives {unlike(value, share)}."
    return None


def numeral_cases() -> list[tuple[list[str], list[str], float, str]]:
    """(the source's numerals, the summary's, their share, what the summary does), in another order each
    time."""
    order = torch.randperm(9000, generator=fresh())[:16] + 1000  # four digits: none is a part of another
    a, b, c, d, e, f, g, h, i, j, k, m, n, *wrong = map(str, order.tolist())
    cases = [
        ([a, b, c], [b, a], 1.0, "names two of three numbers, both rightly"),
        ([d, e], [wrong[0], d], 0.5, "names one number rightly and one wrongly"),
        ([f], [wrong[1]], 0.0, "names another number than its source"),
        ([], [wrong[2]], 0.0, "names a number where its source has none"),
        ([g, h], [], 1.0, "names no number"),
        ([i, j], [i[:2]], 0.0, "names the first half of a number of its source"),
        ([k, m], [m, n, wrong[0]], 1 / 3, "names one number rightly and two wrongly"),
    ]
    return [cases[at] for at in torch.randperm(len(cases), generator=fresh()).tolist()]


def _sentence(start: str, numerals: list[str]) -> str:
    return f"{start} {' to '.join(numerals) or 'few to many'}."


@exercise(
    "07.3",
    hints=(
        "A standardised score is (score − mean)/s.d. Which of the two does the order of the summaries depend "
        "on?",
        "Whoever multiplies a part by its weight counts it as often as it varies. What undoes that?",
        "`statistics.stdev(scores[name])` says how much a part varies. A weight per standard deviation …",
    ),
    lesson="weight/s.d.: the means move all summaries alike and change no order. So a weight means something "
    "only beside a spread, and one that was copied from another run weighs something else in yours.",
)
def raw_weights(answer):
    """f(scores, weights) -> weights for the raw scores that order summaries as the standardised sum does."""
    for _ in range(3):
        scores, weights = uneven_parts()
        wanted = sum(weights[name] * (s - s.mean()) / s.std() for name, s in scores.items())
        given = answer({name: s.tolist() for name, s in scores.items()}, weights)
        if not isinstance(given, dict):
            raise Wrong(f"A dictionary is asked for, a weight for each part; this is {kind(given)}.")
        if missing := [name for name in scores if name not in given]:
            raise Wrong(f"There is no weight for {missing[0]}.")
        found = sum(number(given[name]) * s for name, s in scores.items())
        pairs = list(combinations(range(len(found)), 2))
        turned = sum((found[i] > found[j]) != (wanted[i] > wanted[j]) for i, j in pairs)
        if turned:
            return f"By your weights {turned} of {len(pairs)} pairs of summaries change places."
    return None


def uneven_parts() -> tuple[dict[str, Tensor], dict[str, float]]:
    """Scores of three parts, one of which varies far more than the others, and what each shall weigh."""
    generator = fresh()
    spreads = torch.tensor([0.02, 0.3, 5.0])[torch.randperm(3, generator=generator)].double()
    weights = torch.tensor([0.5, 1.0, 2.0])[torch.randperm(3, generator=generator)].tolist()
    shifts, raw = torch.randn(3, generator=generator), torch.randn(3, 40, generator=generator).double()
    scores = spreads[:, None] * raw + shifts[:, None]
    return dict(zip(PARTS, scores, strict=True)), dict(zip(PARTS, weights, strict=True))


@exercise(
    "07.4",
    hints=(
        "Neutrality is best where the list knows no word at all. What do the summaries of section 3 say?",
        "It may be about anything, or about nothing. `summaries.loaded` tells you what the list hears in it.",
        "The length part counts `len(text.split())`. Where is it highest?",
    ),
    lesson="One sentence wins on every paragraph, so it says nothing of any. Look for such a text before you "
    "train: PPO looks for it, too, and has more patience.",
)
def one_for_all(answer):
    """One text that earns as much on every test paragraph as its reference summary."""
    if not isinstance(answer, str):
        raise Wrong(f"One text is asked for; this is {kind(answer)}.")
    rows = summaries.load_news("test")
    prompts = [summaries.prompt_for(row["text"]) for row in rows]
    own, one = (_poor_reward(prompts, said) for said in ([r["summary"] for r in rows], [answer] * len(rows)))
    beaten = int((own > one + 1e-9).sum())
    return f"On {beaten} of {len(rows)} paragraphs the reference summary earns more." if beaten else None


def _poor_reward(prompts: list[str], said: list[str]) -> Tensor:
    """Neutrality and length, without the similarity (section 8)."""
    parts = summaries.neutrality(prompts, said), summaries.length_fit(prompts, said)
    return torch.tensor(parts).double().sum(0)


@exercise(
    "07.5",
    hints=(
        "Three questions, one a part. Each has its own unit: which number of this part is one too far?",
        "For neutrality and similarity compare the means after and before. For the words look at the end "
        "alone.",
        "A length that nobody pays for may go either way: compare it with the 18 words of section 3.",
    ),
    lesson="The sum of a reward tells none of these runs from another. Its parts do, one by one, each in its "
    "own unit: that is why the log shows them apart.",
)
def unpaid(answer):
    """f(before, after) -> the part that nobody paid for, or "nothing"."""
    generator, kinds = fresh(), (*PARTS, NOTHING)
    right = dict.fromkeys(kinds, 0)
    for i in range(6):
        for part in kinds:
            right[part] += choice(answer(*made_up_run(part, generator, shorter=i % 2 == 0)), kinds) == part
    for part, count in right.items():
        if count < 6:
            what = "is paid for everything" if part == NOTHING else f"is not paid for {part}"
            return f"Of the runs in which the model {what}, you see through {count} in 6."
    return None


def made_up_run(missing: str, generator: torch.Generator, shorter: bool = False) -> tuple[dict, dict]:
    """What ``summaries.measure`` might show of the start and of a run without the part ``missing``.

    Args:
        shorter: where a length goes that nobody pays for: far down instead of far up.
    """

    def some(mean: float, spread: float) -> Tensor:
        return mean + spread * torch.randn(60, generator=generator)

    before = {"neutrality": some(0.05, 0.2), "similarity": some(0.65, 0.1), "words": some(19, 4).round()}
    calmer = uniform(-0.12, -0.04, generator) if missing == "neutrality" else uniform(0.12, 0.25, generator)
    nearer = uniform(-0.4, -0.2, generator) if missing == "similarity" else uniform(-0.04, 0.04, generator)
    longer = (-10 if shorter else 12) if missing == "length" else uniform(-1.5, 1.5, generator)
    after = {
        "neutrality": before["neutrality"] + some(calmer, 0.1),
        "similarity": before["similarity"] + some(nearer, 0.05),
        "words": some(summaries.WORDS + longer, 2).round(),
    }
    return tuple({name: values.tolist() for name, values in run.items()} for run in (before, after))
