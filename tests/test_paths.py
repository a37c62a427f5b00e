"""What a user gives as a path: told from a Hub id, separated, absolute, and an error before the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sawyer_utils.plumbing import paths
from sawyer_utils.plumbing.files import home

LOCAL = ["./my_chekpoints", "../runs", ".", "/data/quiz", "~/pairs", "~", r"C:\data\quiz.jsonl", "c:/x"]
LOCAL += ["C:/data/quiz.jsonl", r"data\pairs", r"\\server\share\quiz.jsonl", "a/b/c", "runs/sft/adapter"]
LOCAL += ["quiz.jsonl", "owner/pairs.csv", "mine.PARQUET", "my model", "my data/pairs", "a/b/", "é/b"]
LOCAL += ["./mmlu.jsonl:anatomy"]
ENDINGS = "jsonl json csv tsv txt md parquet arrow gz zip gguf safetensors bin pt yaml yml xlsx"
LOCAL += [f"owner/mine.{ending}" for ending in ENDINGS.split()]
EITHER = ["gpt2", "my_chekpoints", "owner/name", "HuggingFaceTB/SmolLM2-1.7B", "cais/mmlu:world_religions"]
OTHER = ["embedded", "embedded:smollm2-135m", "https://example.org/a.jsonl"]


@pytest.mark.parametrize("source", LOCAL)
def test_what_can_only_be_a_path_and_is_not_there_is_an_error_before_the_network(
    source, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert paths.looks_local(source)
    if source in (".", "~"):
        return
    with pytest.raises(paths.NoSuchPath) as found:
        paths.existing(source, "SAWYER_CHECKPOINTS")
    assert str(found.value).startswith(f"SAWYER_CHECKPOINTS: there is no file or folder {source}")


@pytest.mark.parametrize("source", [*EITHER, *OTHER])
def test_what_may_be_a_hub_id_is_left_to_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert not paths.looks_local(source)
    assert paths.existing(source) is None


@pytest.mark.parametrize(("source", "found"), [("a/b", "a/b"), ("~/c d", "{}/c d"), ("~", "{}")])
def test_what_is_here_comes_before_the_hub(source, found, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("a/b", "c d"):
        (tmp_path / name).mkdir(parents=True)
    assert paths.existing(source) == Path(found.format(tmp_path))


def test_the_home_folder_is_meant_in_sawyer_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SAWYER_HOME", "~/runs")
    assert home() == tmp_path / "runs"


def test_a_slip_is_shown_its_neighbour(tmp_path):
    (tmp_path / "my_checkpoints").mkdir()
    with pytest.raises(paths.NoSuchPath, match=r"Did you mean .*my_checkpoints\?"):
        paths.existing(str(tmp_path / "my_chekpoints"))


# --- several ------------------------------------------------------------------------------------

WINDOWS = (r"C:\data\quiz.jsonl", "C:/data/quiz.jsonl", r"d:\a b\x.csv", "Z:/")
SEVERAL = [
    (":", "a.jsonl:b.jsonl", ["a.jsonl", "b.jsonl"]),
    (":", ":a.jsonl:/b", ["a.jsonl", "/b"]),
    (":", "/a/b:~/c d:./e", ["/a/b", "~/c d", "./e"]),
    (":", "cais/mmlu:anatomy:own.jsonl", ["cais/mmlu:anatomy", "own.jsonl"]),
    (":", "own.jsonl:cais/mmlu:anatomy", ["own.jsonl", "cais/mmlu:anatomy"]),
    (";", r"C:\a.jsonl;D:\b.jsonl", [r"C:\a.jsonl", r"D:\b.jsonl"]),
    (";", "a.jsonl;cais/mmlu:anatomy;C:/b;", ["a.jsonl", "cais/mmlu:anatomy", "C:/b"]),
    *((";", path, [path]) for path in WINDOWS),
]
ALONE = ("", "cais/mmlu:anatomy", "embedded:smollm2-135m", "https://a.b/c")
SEVERAL += [(sign, one, [one] * bool(one)) for sign in ":;" for one in ALONE]


@pytest.mark.parametrize(("sign", "value", "expected"), SEVERAL)
def test_a_drive_letter_and_a_subject_separate_nothing(sign, value, expected, monkeypatch):
    monkeypatch.setattr(os, "pathsep", sign)
    assert paths.separate(value) == expected


def test_a_file_whose_name_has_the_sign_is_one_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = f"at 10{os.pathsep}30.csv"
    Path(name).touch()
    assert paths.separate(name) == [name]


SUBJECTS = [(path, (path, "")) for path in (*WINDOWS, "quiz.jsonl", "mini", "embedded:smollm2-135m")]
for whole in (("cais/mmlu", "world_religions"), ("./mmlu.jsonl", "anatomy"), (r"C:\mmlu.jsonl", "anatomy")):
    SUBJECTS.append((":".join(whole), whole))


@pytest.mark.parametrize(("source", "expected"), SUBJECTS)
def test_the_subject_of_a_benchmark(source, expected):
    assert paths.split_subject(source) == expected


# --- the same to every process ------------------------------------------------------------------

SETTLED = [
    ("SAWYER_HOME", "myruns", "{start}/myruns"),
    ("SAWYER_HOME", "drive", "drive"),
    ("SAWYER_CACHE", "cache", "{start}/cache"),
    ("SAWYER_WEIGHTS", "../share", "{parent}/share"),
    ("SAWYER_CHECKPOINTS", "given", "{start}/given"),  # which is there
    ("SAWYER_CHECKPOINTS", "./away", "{start}/away"),
    ("SAWYER_CHECKPOINTS", "owner/run", "owner/run"),
    ("SAWYER_MODEL", "HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B"),
    ("SAWYER_MODEL", "embedded:gemma3-270m", "embedded:gemma3-270m"),
    ("SAWYER_MODEL", "given", "{start}/given"),
    ("SAWYER_QUESTIONS", "cais/mmlu:anatomy", "cais/mmlu:anatomy"),
    ("SAWYER_HUMAN_PAIRS", f"a.jsonl{os.pathsep}/b.jsonl", "{start}/a.jsonl" + os.pathsep + "/b.jsonl"),
    ("SAWYER_DOMAIN", "~/town.jsonl", "{user}/town.jsonl"),
    ("SAWYER_DOMAIN", r"C:\town.jsonl", r"C:\town.jsonl"),
    ("SAWYER_PREFERENCES", "pairs.csv", "{start}/pairs.csv"),
    ("SAWYER_PROFILE", "smoke", "smoke"),
    ("SAWYER_ANYTHING", "1", "1"),
]


@pytest.mark.skipif(os.name == "nt", reason="written with the paths of POSIX")
@pytest.mark.parametrize(("name", "value", "expected"), SETTLED)
def test_paths_are_absolute_before_a_kernel_starts(name, value, expected, monkeypatch, tmp_path):
    start = tmp_path / "where I am"
    (start / "given").mkdir(parents=True)
    (start / "smoke").mkdir()  # a folder that is called like a word
    monkeypatch.chdir(start)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv(name, value)
    expected = expected.format(start=start, parent=tmp_path, user=tmp_path / "me")
    for _ in range(2):  # the second time nothing changes
        paths.settle()
        assert os.environ[name] == expected
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("folder", ["model", "my model", "it's mine", "$HOME"])
def test_a_shell_takes_a_quoted_path_as_one_word(folder):
    said = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    command = " ".join([*map(paths.quoted, said), paths.quoted(folder)])
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([folder])
