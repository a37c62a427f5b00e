"""The data sets that the profiles name, in the Hub's own shapes: columns, nesting, splits, files and cards.

The words are the course's own corpus. Mixed in among the first rows is what the real sets are known to have:
rows that are null or empty, answers that are equal, rows longer than every limit, talks that break their
own form, and text that spells a special token.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow
from pyarrow import parquet

from sawyer_utils.data import pairs
from sawyer_utils.plumbing.sources import EMBEDDED

TYPED = "What do <|im_end|>, </s>, [SEP], <mask>, <s>, <|endoftext|> and ###STOP### mean?"
ODD_EVERY = 3  # one of the odd rows after so many plain ones, until all have been


def rows(name: str) -> list[dict]:
    """A file of the embedded corpus."""
    return [json.loads(line) for line in (EMBEDDED / f"{name}.jsonl").read_text("utf-8").splitlines()]


def mixed(plain: Iterable[dict], odd: Iterable[dict]) -> Iterator[dict]:
    """The plain rows, with the odd ones among the first of them."""
    plain, odd = iter(plain), iter(odd)
    while some := [*itertools.islice(plain, ODD_EVERY), *itertools.islice(odd, 1)]:
        yield from some
    yield from odd


def long(words: int) -> str:
    """One text of about so many words, out of many."""
    text = " ".join(row["text"] for row in rows("news")).split()
    return " ".join(itertools.islice(itertools.cycle(text), words)) + "."


def talk(messages: list[dict], human: str, bot: str) -> str:
    """A conversation as one text, each turn after the name of who speaks."""
    return "".join({"user": human, "assistant": bot}[m["role"]] + m["content"] for m in messages)


# --- the sets -----------------------------------------------------------------------------------


def guanaco() -> tuple[list[dict], list[dict]]:
    """(training, evaluation rows) of one column, ``text``."""
    human, bot = "### Human: ", "### Assistant: "
    said = [talk(row["messages"], human, bot) for row in rows("conversations")]
    odd = [
        None,
        "",
        f"{human}Hello?",
        f"{bot}Nobody asked me this.",
        f"{human}{TYPED}{bot}They are control tokens: </s> ends a text, <|im_end|> a turn.",
        f"{human}Tell me all.{bot}{long(2500)}",
        f"{human}{long(1200)}{bot}That was long.",
        "".join(said[:20]),  # one talk of many turns
        f"{human}One?{human}Two?{bot}Three.",
        f"{human}   {bot}Yes.",
        f"{human}Who are you?{bot}  \n",
        f"{human}Go on.{bot}It says '### Human: hi' there.{human}Really?",
        f"{human}  Emoji 🙂 and 漢字, please \n{bot}\n Gladly: 🙂 漢字.",
    ]
    text = [{"text": one} for one in said]
    return list(mixed(text[40:], ({"text": one} for one in odd))), text[:40]


def ultrafeedback() -> list[dict]:
    best = {pair.id: pair for pair in sorted(pairs(rows("preferences")), key=lambda pair: pair.margin)}
    plain = [_pair(p.prompt, p.chosen, p.rejected, p.margin) for p in best.values()]
    again = plain[5]["prompt"]
    same = long(900)
    odd = [
        _pair("Equal?", "The same.", "The same.", 1.0),
        _pair("As good?", "One.", "Another.", 0.0),
        _pair("Empty?", "Words.", "", 3.0),
        _pair(None, "Words.", "Other words.", 3.0),
        _pair("Equal for long?", f"{same} This one is better.", f"{same} This one is worse.", 2.0),
        _pair(long(700), "A short answer to a long question.", "Another one.", 2.0),
        _pair(TYPED, "Control tokens: </s>, [SEP].", "<s>Nothing</s>", 4.0),
        _pair("Spaces?", " The same.", "The same. ", 1.0),
        *(_pair(again, f"Asked again, {n}.", "No.", 2.0) for n in range(4)),
        _pair("No messages?", "a", "b", 1.0) | {"chosen": []},
        _pair("Null messages?", "a", "b", 1.0) | {"rejected": None},
        _pair("No score?", "a", "b", 1.0) | {"score_chosen": None},
        _pair("Null answer?", None, "b", 1.0),
    ]
    return list(mixed(plain, odd))


def _pair(prompt: str | None, chosen: str | None, rejected: str, margin: float) -> dict:
    asked = {"content": prompt, "role": "user"}
    best, worst = ([asked, {"content": text, "role": "assistant"}] for text in (chosen, rejected))
    scores = {"score_chosen": 5.5 + margin / 2, "score_rejected": 5.5 - margin / 2}
    return {
        "prompt": prompt,
        "prompt_id": "0" * 64,
        "chosen": best,
        "rejected": worst,
        "messages": best,
    } | scores


def hh_rlhf() -> dict[str, list[dict]]:
    """Rows of each of the four subsets; a row is two whole talks."""
    every = pairs(rows("gold_preferences"))
    odd = [
        _talks("Odd?", "See you.\n\nHuman: Thanks, bye.", "No."),
        {
            "chosen": "\n\nHuman: A?\n\nAssistant: B.\n\nHuman: C?\n\nAssistant: D.",
            "rejected": _talk("A?", "E."),
        },
        _talks("Equal?", "The same.", "The same."),
        {"chosen": "", "rejected": ""},
        {"chosen": None, "rejected": None},
        _talks("Empty?", "", "Something."),
        {"chosen": "\n\nHuman: Hello?", "rejected": "\n\nHuman: Hello?"},
        _talks(long(1500), "A long question.", "Indeed."),
        _talks("Long?", long(900), long(901)),
        _talks(TYPED, "They are control tokens.", "</s></s>"),
        _talks("Two turns?\n\nAssistant: Yes.\n\nHuman: Which?", "These.", "Those."),
    ]
    names = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
    plain = {
        name: [_talks(p.prompt, p.chosen, p.rejected) for p in every[i::4]] for i, name in enumerate(names)
    }
    return {name: list(mixed(some, odd)) for name, some in plain.items()}


def _talk(asked: str, answered: str) -> str:
    return f"\n\nHuman: {asked}\n\nAssistant: {answered}"


def _talks(asked: str, chosen: str, rejected: str) -> dict:
    return {"chosen": _talk(asked, chosen), "rejected": _talk(asked, rejected)}


def dolly() -> list[dict]:
    plain = [_task(row["prompt"]) for row in rows("prompts")]
    contexts = [_task(f"Summarise the text about {row['topic']}.", row["text"]) for row in rows("news")[:60]]
    odd = [
        *(_task(f"Which of these is number {n}?", long(n)) for n in (150, 250, 400, 900, 2500)),
        *(
            _task(f"What is said here, in {n} words?", long(1000 + n)) for n in range(24)
        ),  # some are for testing
        _task(""),
        _task(None),
        _task("   \n"),
        _task("No context?", None),
        _task(TYPED),
        _task("A question with a space after it? \n"),
    ]
    return list(mixed(plain + contexts, odd))


def _task(asked: str | None, context: str | None = "") -> dict:
    return {"instruction": asked, "context": context, "response": "An answer.", "category": "open_qa"}


def news() -> list[dict]:
    odd = [long(700), "", None, TYPED, "Short.", long(3000)]
    texts = mixed(({"text": row["text"]} for row in rows("news")), ({"text": text} for text in odd))
    none = (
        "prediction_agent",
        "annotation",
        "annotation_agent",
        "metadata",
        "event_timestamp",
        "explanation",
    )
    rest = {"status": "Default", "metrics": {"text_length": 300}}
    said = {"prediction": [{"text": "A summary.", "score": 1.0}]}
    return [row | said | dict.fromkeys(none) | {"id": f"{i}"} | rest for i, row in enumerate(texts)]


def truthful() -> list[dict]:
    found = []
    for row in rows("truthful_mini"):
        label, n = row["label"], len(row["choices"])
        right = row["choices"][label]
        one = [right, *(c for c in row["choices"] if c != right)]  # in mc1 the first is always right
        many = [right, f"{right}, as far as we know", *one[1:]]
        labels = (
            {"choices": one, "labels": [1] + [0] * (n - 1)},
            {"choices": many, "labels": [1, 1] + [0] * (n - 1)},
        )
        found.append({"question": row["question"], "mc1_targets": labels[0], "mc2_targets": labels[1]})
    return found


def mmlu() -> dict[str, list[dict]]:
    every = [
        {
            "question": r["question"],
            "subject": "world_religions",
            "choices": r["choices"],
            "answer": r["label"],
        }
        for r in rows("religions_mini")
        if len(r["choices"]) == 4
    ]
    return {"dev": every[:5], "validation": every[5:10], "test": every[10:]}


def gsm8k() -> list[dict]:
    plain = [
        {
            "question": f"Bo has {n} eggs and buys {n % 7}. How many are there?",
            "answer": f"Add.\n#### {n + n % 7}",
        }
        for n in range(1, 120)
    ]
    odd = [
        {"question": "How many?", "answer": "Nobody knows."},
        {"question": "", "answer": "#### 1"},
        {"question": None, "answer": "#### 1"},
        {"question": TYPED, "answer": None},
        {"question": f"{long(700)} How many words?", "answer": "#### 1,700"},
    ]
    return list(mixed(plain, odd))


# --- files --------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """All of them, below ``folder/datasets``, in the files that the Hub has."""
    folder = folder / "datasets"
    train, test = guanaco()
    place = _place(folder, "timdettmers/openassistant-guanaco")
    _jsonl(place / "openassistant_best_replies_train.jsonl", train)
    _jsonl(place / "openassistant_best_replies_eval.jsonl", test)

    binarized = ultrafeedback()
    shares = {"train_prefs": binarized[:-40], "test_prefs": binarized[-40:]}
    _parquet(_place(folder, "HuggingFaceH4/ultrafeedback_binarized", {"default": shares}), "data", shares)

    place = _place(folder, "Anthropic/hh-rlhf")
    for name, some in hh_rlhf().items():
        _jsonl(place / name / "train.jsonl.gz", some)
        _jsonl(place / name / "test.jsonl.gz", some[:10])
    red = {"transcript": "\n\nHuman: Hi", "rating": 0.0, "tags": None}
    _jsonl(place / "red-team-attempts" / "red_team_attempts.jsonl.gz", [red] * 5)

    _jsonl(_place(folder, "databricks/databricks-dolly-15k") / "databricks-dolly-15k.jsonl", dolly())

    articles = news()
    shares = {"train": articles, "test": articles[:20]}
    _parquet(_place(folder, "argilla/news-summary", {"default": shares}), "data", shares)

    asked = {"generation": {"validation": [{"question": r["question"]} for r in truthful()]}}
    asked |= {"multiple_choice": {"validation": truthful()}}
    place = _place(folder, "truthfulqa/truthful_qa", asked)
    for config, shares in asked.items():
        _parquet(place, config, shares)
    sums = gsm8k()
    asked = {
        "main": {"train": sums[:80], "test": sums[80:]},
        "socratic": {"train": sums[:9], "test": sums[:9]},
    }
    place = _place(folder, "openai/gsm8k", asked)
    for config, shares in asked.items():
        _parquet(place, config, shares)
    asked = {"anatomy": mmlu(), "world_religions": mmlu()}
    place = _place(folder, "cais/mmlu", asked)
    for config, shares in asked.items():
        _parquet(place, config, shares)


def _place(folder: Path, name: str, configs: dict[str, dict] | None = None) -> Path:
    """The set's folder, with a card that names the files of each configuration, as the Hub's cards do."""
    place = folder / name
    place.mkdir(parents=True)
    lines = ["configs:"] if configs else []
    for config, shares in (configs or {}).items():
        lines += [f"- config_name: {config}", "  data_files:"]
        under = "data" if config == "default" else config
        lines += [line for s in shares for line in (f"  - split: {s}", f"    path: {under}/{s}-*")]
    card = ["---", "language:", "- en", *lines, "---", "", f"# {name}", ""]
    (place / "README.md").write_text("\n".join(card), encoding="utf-8")
    return place


def _jsonl(path: Path, some: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in some)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def _parquet(place: Path, under: str, shares: dict[str, list[dict]]) -> None:
    (place / under).mkdir()
    for share, some in shares.items():
        table = pyarrow.Table.from_pylist(some)
        parquet.write_table(table, place / under / f"{share}-00000-of-00001.parquet", row_group_size=100)
