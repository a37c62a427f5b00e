"""Reading chapter 05's results: several seeds at once, and when to use which."""

from __future__ import annotations

import statistics

from sawyer_utils.chapters.versus import GONE_ON, METHODS, TRAINED

NAMES = {"ppo": "PPO", "dpo": "DPO", "rloo": "RLOO", "best_of_n": "best of n"}
NAMES |= {"ppo_new": "PPO, gone on", "dpo_online": "online DPO"}
NOBODY = "none of them"


def over_seeds(rows: list[dict], topics: str = "known", measure: str = "gold") -> dict[str, dict]:
    """Method -> the differences to SFT of one measure in each seed, their mean, lowest and highest, and in
    how many seeds the verdict was "better".

    Args:
        rows: what :func:`versus.run` gives, one a seed.
    """
    found = {}
    for name in rows[0][topics]:
        cells = [row[topics][name][measure] for row in rows]
        each = [cell["difference"] for cell in cells]
        better = sum(cell["verdict"] == "better" for cell in cells)
        spread = {"mean": statistics.mean(each), "lowest": min(each), "highest": max(each)}
        found[name] = {"each": each, **spread, "better": better}
    return found


def when_to_use(rows: list[dict]) -> list[dict[str, str]]:
    """What the results say to do, a row a situation: ``{"if", "then", "because"}``; the last is the rule
    with its numbers. "Good" is a method whose gold reward is better than SFT's in most of the seeds.

    Args:
        rows: as in :func:`over_seeds`.
    """
    gold, kl = ({n: of["mean"] for n, of in over_seeds(rows, measure=m).items()} for m in ("gold", "kl"))
    good = [n for n, of in over_seeds(rows).items() if 2 * of["better"] > len(rows)]
    trained = [n for n in good if n in TRAINED]
    spent = {n: [row["budgets"][n] for row in rows] for n in METHODS}
    # Other work on the machine stretches the clock, but not the computing.
    seconds = {n: statistics.mean(b.get("cpu_seconds", b["seconds"]) for b in of) for n, of in spent.items()}
    new = {n: [row["went_on"][n]["gold"] for row in rows] for n in GONE_ON}
    gained = [n for n in new if 2 * sum(cell["verdict"] == "better" for cell in new[n]) > len(rows)]
    gains = {n: statistics.mean(cell["difference"] for cell in new[n]) for n in new}

    def row(situation, names, number, rule, pick=max, digits=2):
        then = NAMES[pick(names, key=number.get)] if names else NOBODY
        numbers = ", ".join(f"{NAMES[n]} {number[n]:.{digits}f}" for n in names) or NOBODY
        return {"if": situation, "then": then, "because": f"{rule}: {numbers}"}

    highest = "highest mean gold gain of the good ones"
    still = "highest mean gold gain over its own start, of those better than it in most seeds"
    untrained, unjudged = ([n for n in good if n == name] for name in ("best_of_n", "dpo"))
    return [
        row("gold reward is all that counts", good, gold, highest),
        row("an answer may cost one sample only", trained, gold, f"{highest} that are trained"),
        row("nothing may be trained", untrained, gold, "it is good"),
        row("there is no reward model", unjudged, gold, "it is good"),
        row(
            "the training must be short",
            trained,
            seconds,
            "fewest seconds of computing of the good ones",
            min,
            digits=0,
        ),
        row("the model must stay close to SFT", good, kl, "smallest KL of the good ones, nats", min),
        row("new topics come without labels", gained, gains, still),
    ]
