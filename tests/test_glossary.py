"""The glossary and the notebooks agree: every link leads somewhere, each word is explained where needed."""

import re

import pytest

from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root

PAGE = project_root() / "docs" / "glossary.md"
LINK = re.compile(r"\[([^\]]+)\]\(\.\./docs/glossary\.md#([^)]+)\)")


def anchor(heading):
    """As GitHub and JupyterLab make it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def entries():
    """Heading -> its text."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def prose(name):
    """Each Markdown cell before the exercises, with the heading it stands under."""
    heading = ""
    for cell in course.build(name).cells:
        if cell.cell_type != "markdown":
            continue
        if re.search(r"^## Exercises", cell.source, re.MULTILINE):
            return
        yield heading, cell.source
        found = re.findall(r"^#{1,2} (.+)$", cell.source, re.MULTILINE)
        heading = found[-1] if found else heading


def links(name):
    """(anchor, words, heading, text of the notebook before it) of each link to the glossary."""
    before = ""
    for heading, text in prose(name):
        for match in LINK.finditer(text):
            found = re.findall(r"^#{1,2} (.+)$", text[: match.start()], re.MULTILINE)
            so_far = before + text[: match.start()]
            yield match[2], match[1], found[-1] if found else heading, so_far
        # The title cell promises; what it names is explained later.
        before += text + "\n" if heading else ""


ALL = {name: list(links(name)) for name in course.FOLDERS}


def plain(text):
    """Prose alone: no headings, code, formulas or links."""
    formulas, links = (r"\$\$[\s\S]*?\$\$", r"\$[^$\n]*\$"), r"\[[^\]]*\]\([^)]*\)"
    for pattern in (r"^#+ .*$", r"`[^`]*`", *formulas, links, r"<[^>]*>"):
        text = re.sub(pattern, " ", text, flags=re.MULTILINE)
    return " ".join(text.split())


def test_the_glossary_is_in_order_and_of_a_size_to_be_read():
    headings = list(entries())
    assert headings == sorted(headings, key=str.lower)
    assert 40 <= len(headings) <= 100
    assert len({anchor(heading) for heading in headings}) == len(headings)


@pytest.mark.parametrize("name", entries())
def test_an_entry_is_two_sentences_and_says_where_the_word_is_first_needed(name):
    meaning, origin = entries()[name].split("\n\n")
    sentences = re.findall(r"[.?!](?= [A-Z]|$)", " ".join(meaning.split()))
    assert len(sentences) == 2
    said = r"First in \[(\w+)\]\(\.\./notebooks/(\w+)\.ipynb\), “(.+?)”\."
    found = re.match(said, " ".join(origin.split()))
    first = next(book for book in ALL if any(to == anchor(name) for to, *_ in ALL[book]))
    section = next(heading for to, _, heading, _ in ALL[first] if to == anchor(name))
    assert found.groups() == (first, first, section)


def test_every_link_leads_to_an_entry():
    known = {anchor(heading) for heading in entries()}
    assert {to for book in ALL.values() for to, *_ in book} == known


@pytest.mark.parametrize("book", ALL)
def test_a_word_is_linked_once_and_where_it_is_used_first(book):
    targets = [to for to, *_ in ALL[book]]
    assert len(targets) == len(set(targets))
    late = []
    for to, words, _, before in ALL[book]:
        pattern = r"(?<![\w-])" + r"\s+".join(map(re.escape, words.split())) + r"(?!\w)"
        if re.search(pattern, plain(before), re.IGNORECASE):
            late.append((to, words))
    assert not late
