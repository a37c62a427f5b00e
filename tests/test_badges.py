"""The repository's address stands in one place; badges and setup cells are copies of it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from sawyer_utils.__main__ import main
from sawyer_utils.course import badges
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing.files import project_root

ROOT = project_root()
# The slash in "/notebooks/" ends the ref, which may hold slashes of its own.
BADGE = re.compile(r"colab\.research\.google\.com/github/([^/\s]+/[^/\s]+)/blob/(\S+?)/notebooks/([\w.-]+)")
SETUP = re.compile(r'^REPO, REF = "([^"]*)", "([^"]*)"$', re.MULTILINE)


def files(root) -> list:
    """What holds the address."""
    return [path for pattern in badges.FILES for path in sorted(root.glob(pattern))]


@pytest.fixture
def copy(tmp_path):
    for path in files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def found(root):
    """{file: [(repo, ref, notebook), …]} of all badges."""
    return {path.name: BADGE.findall(path.read_text(encoding="utf-8")) for path in files(root)[1:]}


def test_every_badge_names_the_repository_and_its_own_file():
    repo, ref = badges.address()
    for name, links in found(ROOT).items():
        stem = name.partition(".")[0]
        own = [f"{n}.ipynb" for n in course.FOLDERS] if stem == "README" else [f"{stem}.ipynb"]
        assert links == [(repo, ref, file) for file in own], name


def test_readmes_rows_and_setup_cells_agree_and_nothing_is_rewritten(copy):
    rows = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if BADGE.search(row)]
    assert len(rows) == len(course.FOLDERS)
    for row in rows:
        assert re.search(r"\]\(notebooks/([\w.]+)\)", row)[1] == BADGE.search(row)[3]
    for name in course.FOLDERS:
        assert SETUP.findall(course.source_path(name).read_text(encoding="utf-8")) == [badges.address()]
    assert badges.rewrite(root=copy) == []


def test_a_new_address_reaches_every_copy(copy):
    changed = badges.rewrite("some-school/rlhf-course", "v1.0/autumn", root=copy)
    assert {path.name for path in changed} == {"pyproject.toml", *found(copy)}
    assert badges.address(copy) == ("some-school/rlhf-course", "v1.0/autumn")
    for links in found(copy).values():
        assert {link[:2] for link in links} == {badges.address(copy)}
    assert [n for links in found(copy).values() for *_, n in links] == [
        n for links in found(ROOT).values() for *_, n in links
    ]
    for path in (copy / "notebooks" / "source").glob("*.py"):
        assert SETUP.findall(path.read_text(encoding="utf-8")) == [badges.address(copy)]
    badges.rewrite(*badges.address(), root=copy)
    for path in files(ROOT):
        assert (copy / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path.name


def test_in_a_notebook_only_the_address_and_its_hash_change(copy):
    path = copy / "notebooks" / "01_sft.ipynb"
    before = json.loads(path.read_text(encoding="utf-8"))
    setup = next(c for c in before["cells"] if "REPO, REF" in "".join(c["source"]))
    setup["metadata"]["sawyer_hash"] = course.cell_hash("".join(setup["source"]))
    path.write_text(json.dumps(before), encoding="utf-8")
    badges.rewrite("c/d", "v1", root=copy)
    after = json.loads(path.read_text(encoding="utf-8"))
    moved = [(a, b) for a, b in zip(after["cells"], before["cells"], strict=True) if a != b]
    (badge, _), *linked = [pair for pair in moved if pair[0]["cell_type"] == "markdown"]
    ((new, old),) = (pair for pair in moved if pair[0]["cell_type"] == "code")
    assert BADGE.findall("".join(badge["source"])) == [("c/d", "v1", "01_sft.ipynb")]
    place = "/".join(("https://github.com", badges.address()[0], "blob", badges.address()[1]))
    assert linked
    for one, other in linked:
        assert "".join(one["source"]) == "".join(other["source"]).replace(
            place, "https://github.com/c/d/blob/v1"
        )
    source = "".join(new["source"])
    assert SETUP.findall(source) == [("c/d", "v1")]
    assert new["metadata"]["sawyer_hash"] == course.cell_hash(source) != old["metadata"]["sawyer_hash"]
    for one, other in moved:
        one.pop("source"), other.pop("source"), one.pop("metadata"), other.pop("metadata")
        assert one == other


@pytest.mark.parametrize("repo", ["course", "https://github.com/a/b", "a/b/c", "a/b)", ""])
def test_what_is_no_repository_is_refused(copy, repo):
    if repo:
        with pytest.raises(ValueError, match="is not OWNER/NAME"):
            badges.rewrite(repo, root=copy)
    with pytest.raises(ValueError, match="branch or tag"):
        badges.rewrite("a/b", "v 1", root=copy)
    assert badges.address(copy) == badges.address()


def test_the_command_says_what_it_did(monkeypatch, copy, capsys):
    monkeypatch.setattr(badges, "project_root", lambda: copy)
    monkeypatch.setattr(course, "project_root", lambda: copy)
    monkeypatch.setattr("sawyer_utils.course.cli.project_root", lambda: copy)
    main(["badges", "--repo", "some-school/rlhf-course", "--ref", "v1.0"])
    said = capsys.readouterr().out
    assert "rewritten README.md" in said
    assert "badges and setup cells name some-school/rlhf-course at v1.0" in said
