"""Neutral summaries: what a summary is paid for, and where a summariser comes from."""

from __future__ import annotations

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import pair_tokenizer

from sawyer_utils.chapters import drawings, summaries
from sawyer_utils.profiles import PROFILES

torch.set_num_threads(1)


def overlap(a: list[str], b: list[str]) -> list[float]:
    """A similarity without an encoder: the share of b's words that a has."""
    return [len(set(x.split()) & set(y.split())) / max(1, len(y.split())) for x, y in zip(a, b)]


# --- what a summary is paid for -----------------------------------------------------------------


def test_a_prompt_and_its_source_belong_together():
    text = "The council met. Summarise in one sentence: no."
    assert summaries.prompt_for(text) == "Summarise in one sentence: " + text
    assert summaries.source_of(summaries.prompt_for(text)) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It rose by 2.5 per cent. Why?", ["It rose by 2.5 per cent.", "Why?"]),
        ("no end", ["no end"]),
        ("  ", []),
        ("", []),
    ],
)
def test_sentences(text, parts):
    assert summaries.sentences(text) == parts


def test_plain_words_have_no_tone_and_strong_ones_have():
    plain, praise, blame, empty = summaries.tone(
        ["The shop opens at nine.", "A wonderful, heroic triumph!", "A disgraceful betrayal.", ""]
    )
    assert plain == empty == 0.0
    assert praise > 0.8
    assert blame < -0.5


def test_a_rated_word_weighs_its_rating_and_one():
    # The list: good +1.9, bad −2.5.
    good, both, plain, empty = summaries.loaded(["A good day.", "A good bad day.", "The shop opens.", ""])
    assert good == pytest.approx(2.9 / 4.9, abs=1e-3)
    assert both == pytest.approx(6.4 / 8.4, abs=2e-3)  # blame does not cancel praise
    assert plain == empty == 0.0


def test_neutrality_is_what_a_summary_is_calmer_than_its_source():
    plain, loud = map(summaries.prompt_for, ("The shop opens.", "A good day. The shop opens."))
    good, bad = 2.9 / 4.9, 3.5 / 5.5
    texts = ["The shop opens.", "A good day.", "A bad day."]
    wanted = [0.0, -good, -bad]  # praise and blame alike
    assert summaries.neutrality([plain] * 3, texts) == pytest.approx(wanted, abs=1e-3)
    assert summaries.neutrality([loud] * 3, texts) == pytest.approx([good / 2 + x for x in wanted], abs=1e-3)


def test_a_paragraph_is_as_loaded_as_its_sentences_and_repeating_one_adds_nothing():
    sentence = "A wonderful morning."
    five = " ".join([sentence] * 5)
    assert summaries.mean_loaded(five) == pytest.approx(summaries.mean_loaded(sentence))
    assert summaries.loaded([five]) == pytest.approx(summaries.loaded([sentence]), abs=1e-3)
    assert abs(summaries.tone([five])[0]) > abs(summaries.tone([sentence])[0]) + 0.2  # the compound grows
    assert summaries.mean_loaded("") == 0.0


def test_the_length_costs_on_both_sides():
    texts = ["", " ".join(["w"] * summaries.WORDS), " ".join(["w"] * 2 * summaries.WORDS)]
    assert summaries.length_fit([""] * 3, texts) == [-1.0, 0.0, -1.0]
    longer, shorter = (" ".join(["w"] * n) for n in (summaries.WORDS + 3, summaries.WORDS - 3))
    assert summaries.length_fit(["", ""], [longer, shorter]) == pytest.approx([-3 / summaries.WORDS] * 2)


def test_similarity_is_measured_against_the_sources_own_sentences():
    asked = []

    def similarity(a, b):
        asked.append((a, b))
        return [{"One x.": 0.5, "Two y.": 0.7}.get(text, 0.9) for text in b]

    score, prompt = summaries.faithful(similarity), summaries.prompt_for("One x. Two y.")
    assert score([prompt, prompt], ["z", "One x."]) == pytest.approx([0.9 - 0.6, 0.5 - 0.6])
    assert asked[0] == (["One x. Two y."] * 2, ["One x.", "Two y."])
    assert asked[1] == (["One x. Two y."] * 2, ["z", "One x."])  # without the request
    score([prompt], ["z"])
    assert len(asked) == 3  # a source's own sentences are asked about once


def test_each_size_of_the_chapter_is_its_own():
    own = {
        "prompt_tokens": "news_prompt_tokens",
        "response_tokens": "news_response_tokens",
        "sft_epochs": "news_warmup_epochs",
        "ppo_steps": "news_steps",
        "ppo_batch": "news_batch",
        "ppo_lr": "news_lr",
    }
    wanted = {name: 70 + i for i, name in enumerate(own)}
    profile = replace(PROFILES["local"], **{own[name]: value for name, value in wanted.items()})
    found = summaries.settings(profile)
    assert {name: getattr(found, name) for name in own} == wanted


# --- measures -----------------------------------------------------------------------------------


def test_what_is_copied_and_what_is_invented():
    source = "The library in Pellworth closed on Monday, after 30 years."
    assert summaries.copied(source, "the library in Pellworth closed") == 1.0
    assert summaries.copied(source, "The library in London closed") == pytest.approx(1 / 3)
    assert summaries.copied(source, "Closed") == 0.0
    assert summaries.invented(source, "Closed on Monday. Pellworth mourns 30 years.") == 0
    assert summaries.invented(source, "The mayor of London closed it after 31 years.") == 2


def test_each_measure_is_of_the_summary_against_its_source():
    prompt = summaries.prompt_for("The red bus waits at the old mill.")
    assert summaries.measure(overlap, [prompt], ["The red bus waits"]) == {
        "neutrality": [0.0],
        "similarity": [1.0],
        "words": [4.0],
        "copied": [1.0],
        "invented": [0.0],
        "repetition": [0.0],
    }


@pytest.mark.parametrize("said", ["the 1990s", "the 20th", "5km at 10am", "£5m, up 3.5%", "A380s", "10_000"])
def test_what_is_copied_word_for_word_is_not_invented(said):
    source = f"It was {said}. So they say."
    assert summaries.invented(source, source) == summaries.invented(source, f"It was {said}.") == 0
    assert summaries.invented(source, "In 1066 they came.") == 1


# --- how a summariser starts --------------------------------------------------------------------


def test_the_central_sentence_comes_first():
    text = "Shame! The red bus stops here. The red bus stops at the old red mill."
    nearest = summaries.central(text, lambda a, b: [float(len(y)) for y in b], keep=2)
    assert nearest == ["The red bus stops at the old red mill.", "The red bus stops here."]


def test_a_lesson_answers_with_the_texts_own_sentence():
    (lesson,) = summaries.lessons(["One thing. Another thing altogether."], overlap, keep=1)
    user, assistant = lesson["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert user["content"] == summaries.prompt_for("One thing. Another thing altogether.")
    assert assistant["content"] in summaries.sentences(summaries.source_of(user["content"]))


def test_the_lessons_and_prompts_of_the_corpus_fit_their_profile(tokenizer):
    from sawyer_utils.chat import encode, encode_prompt

    profile = PROFILES["local"]
    texts = [row["text"] for split in ("train", "test") for row in summaries.load_news(split)]
    prompts = [summaries.prompt_for(text) for text in texts]
    assert max(len(encode_prompt(tokenizer, p)) for p in prompts) <= profile.news_prompt_tokens
    lessons = summaries.lessons(texts[:12], overlap)
    assert max(len(encode(tokenizer, x["messages"]).ids) for x in lessons) <= profile.conversation_tokens


# --- the Hub's path, with tiny random models ----------------------------------------------------


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A random RoBERTa with three labels, in a folder, as ``cardiffnlp/…-sentiment`` would come."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    tokenizer, folder = pair_tokenizer(), tmp_path_factory.mktemp("roberta")
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=300,
        num_labels=3,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_classifier_gives_the_logit_of_its_label(roberta):
    from transformers import AutoModelForSequenceClassification

    texts = ["a b c", "d", "e f g h i j k"]
    found = [summaries.Classifier(roberta, label)(["x"] * 3, texts) for label in range(3)]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(roberta).eval(), pair_tokenizer()
    for i, text in enumerate(texts):  # one at a time: padding must change nothing
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        assert torch.allclose(torch.tensor([scores[i] for scores in found]), logits, atol=1e-5)


def test_only_the_hub_profiles_take_models_from_the_hub_here():
    assert PROFILES["local"].news_hub_models == PROFILES["smoke"].news_hub_models == ()
    for name in ("colab", "llama2"):
        assert PROFILES[name].news_hub_models == (
            "cardiffnlp/twitter-roberta-base-sentiment",
            "textattack/roberta-base-CoLA",
            "google/flan-t5-small",
        )
        assert "argilla/news-summary" in PROFILES[name].hub_data


# --- the figure ---------------------------------------------------------------------------------


def test_every_part_has_its_panel_on_one_scale_and_every_run_its_line():
    def log(slope):
        entry = {"reward_std": 1.0, "reward_length": 0.0}
        return [{"step": i, "kl": 5.0 * i, "reward_neutrality": slope * i, **entry} for i in range(3)]

    figure = drawings.reward_parts({"paid": log(0.1), "unpaid": log(-0.2)})
    assert [ax.get_title() for ax in figure.axes] == ["neutrality", "length", "KL to the start"]
    paid, unpaid = figure.axes[0].lines
    assert (paid.get_label(), unpaid.get_label()) == ("paid", "unpaid")
    assert (list(paid.get_ydata()), list(unpaid.get_ydata())) == ([0.0, 0.1, 0.2], [0.0, -0.2, -0.4])
    first, second, kl = (ax.get_ylim() for ax in figure.axes)
    assert first == second != kl
    plt.close(figure)
