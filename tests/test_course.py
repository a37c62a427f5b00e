"""Running the course: what is done is reused, what changed is run again, times are estimated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from sawyer_utils.__main__ import main
from sawyer_utils.course import notebooks as course
from sawyer_utils.course import page, publish
from sawyer_utils.plumbing import paths
from sawyer_utils.profiles import PROFILES
from sawyer_utils.runtime import read_json, write_json


@pytest.fixture
def fake_runs(monkeypatch, tmp_path):
    """Notebooks 'run' in no time: what is tested is which of them run."""
    ran = []
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    monkeypatch.setattr(course, "execute", lambda notebook, profile, name, eta: ran.append(name))
    monkeypatch.setattr("sawyer_utils.plumbing.assets.fetch", lambda: {"model": "folder"})
    return ran


def test_the_seconds_of_a_section_are_those_of_its_cells():
    def code(began, ended):
        times = {"iopub.status.busy": began, "shell.execute_reply": ended}
        return nbformat.v4.new_code_cell("1", metadata={"execution": times})

    cells = [
        code("2026-11-24T10:00:00.000Z", "2026-11-24T10:00:01.500Z"),
        nbformat.v4.new_markdown_cell("# Title\n\n## 1. Why?\n### Not a section"),
        code("2026-11-24T10:00:02Z", "2026-11-24T10:00:03Z"),
        code("2026-11-24T10:00:03Z", "2026-11-24T10:01:03Z"),
        nbformat.v4.new_markdown_cell("prose\n## 2. How?"),
        nbformat.v4.new_code_cell("never run"),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    assert course.section_seconds(notebook) == {"start": 1.5, "1. Why?": 61.0}


def test_a_second_call_reuses_everything(fake_runs):
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)


def test_fresh_starts_over(fake_runs, tmp_path):
    course.run(PROFILES["smoke"])
    (tmp_path / "smoke" / "sft").mkdir()
    course.run(PROFILES["smoke"], fresh=True)
    assert fake_runs == 2 * list(course.NOTEBOOKS)
    assert not (tmp_path / "smoke" / "sft").exists()


def test_after_a_crash_the_finished_notebooks_are_kept(fake_runs, monkeypatch):
    def crash_in_ppo(notebook, profile, name, eta):
        if name == "03_ppo":
            raise KeyboardInterrupt
        fake_runs.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(course, "execute", crash_in_ppo)
        with pytest.raises(KeyboardInterrupt):
            course.run(PROFILES["smoke"])
    assert fake_runs == ["01_sft", "02_reward"]
    course.run(PROFILES["smoke"])
    assert fake_runs == ["01_sft", "02_reward", "03_ppo", "04_eval"]


def test_a_changed_source_runs_again_with_all_that_builds_on_it(fake_runs, tmp_path):
    course.run(PROFILES["smoke"])
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    ledger["02_reward"]["source"] = "another"
    ledger_path.write_text(json.dumps(ledger))
    fake_runs.clear()
    course.run(PROFILES["smoke"])
    assert fake_runs == ["02_reward", "03_ppo", "04_eval"]


def test_a_crash_while_running_again_leaves_nothing_stale(fake_runs, monkeypatch, tmp_path):
    course.run(PROFILES["smoke"])
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    ledger["01_sft"]["source"] = "another"
    ledger_path.write_text(json.dumps(ledger))

    def crash_in_reward(notebook, profile, name, eta):
        if name == "02_reward":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(course, "execute", crash_in_reward)
        with pytest.raises(KeyboardInterrupt):
            course.run(PROFILES["smoke"])
    fake_runs.clear()
    course.run(PROFILES["smoke"])
    # 03 and 04 were done once, but from an older 01.
    assert fake_runs == ["02_reward", "03_ppo", "04_eval"]


def test_other_settings_start_over(fake_runs, tmp_path):
    course.run(PROFILES["smoke"])
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    ledger["fingerprint"] = "other settings"
    ledger_path.write_text(json.dumps(ledger))
    fake_runs.clear()
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)
    # What was there is moved aside, not deleted.
    assert json.loads((tmp_path / "smoke-1" / "course.json").read_text())["fingerprint"] == "other settings"


@pytest.mark.parametrize(
    "change", ["a file's content", "another file", "no file", "another profile variable"]
)
def test_what_a_user_brings_runs_the_notebooks_again(fake_runs, tmp_path, monkeypatch, capsys, change):
    mine = tmp_path / "questions.jsonl"
    mine.write_text("one")
    monkeypatch.setenv("SAWYER_QUESTIONS", str(mine))
    course.run(PROFILES["smoke"])
    fake_runs.clear()
    course.run(PROFILES["smoke"])
    assert fake_runs == []
    monkeypatch.setenv("SAWYER_CACHE", "elsewhere")  # changes no result
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")  # says what is known
    course.run(PROFILES["smoke"])
    assert fake_runs == []
    if change == "a file's content":
        mine.write_text("two")
    elif change == "another file":
        monkeypatch.setenv("SAWYER_QUESTIONS", str(tmp_path / "others.jsonl"))
    elif change == "no file":
        monkeypatch.delenv("SAWYER_QUESTIONS")
    else:
        monkeypatch.setenv("SAWYER_ANYTHING", "1")
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)
    assert "has changed" in capsys.readouterr().out


def test_the_extras_run_only_when_asked(fake_runs):
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == [*course.NOTEBOOKS, *course.EXTRAS]
    fake_runs.clear()
    assert list(course.run(PROFILES["smoke"], extra=True)) == list(course.FOLDERS)
    assert list(course.run(PROFILES["smoke"])) == list(course.NOTEBOOKS)
    assert fake_runs == []


def test_a_changed_extra_runs_alone(fake_runs, tmp_path):
    course.run(PROFILES["smoke"], extra=True)
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    name = next(iter(course.EXTRAS))
    ledger[name]["source"] = "another"
    ledger_path.write_text(json.dumps(ledger))
    fake_runs.clear()
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == [name]


def test_an_extra_is_stale_once_what_it_builds_on_ran_again(fake_runs, tmp_path):
    course.run(PROFILES["smoke"], extra=True)
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    ledger["04_eval"]["source"] = "another"
    ledger_path.write_text(json.dumps(ledger))
    course.run(PROFILES["smoke"])  # without the extras
    fake_runs.clear()
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == list(course.EXTRAS)


def test_the_estimate_learns_from_a_slow_machine(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    clock = course.Clock(["01_sft", "02_reward"], {"01_sft": 5.0, "02_reward": 5.0})
    assert "about 10 min left" in clock()
    now[0] = 600.0  # twice as long as expected
    assert clock.finished("01_sft") == 600.0
    assert "about 10 min left" in clock()


def test_the_command_line_names_its_commands(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    assert {"course", "notebooks", "test", "lab", "fetch", "check-data"} <= set(
        capsys.readouterr().out.split()
    )


def test_the_command_line_asks_for_the_extras(monkeypatch):
    asked = []
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    monkeypatch.setattr(publish, "course", lambda profile, **options: asked.append(options))
    main(["course", "--extra", "--profile", "smoke"])
    main(["course", "--profile", "smoke"])
    assert asked == [{"fresh": False, "extra": True}, {"fresh": False, "extra": False}]


def test_minutes_are_those_of_a_run_from_nothing(fake_runs, tmp_path):
    course.run(PROFILES["smoke"])
    ledger_path = tmp_path / "smoke" / "course.json"
    ledger = json.loads(ledger_path.read_text())
    ledger["seconds"]["02_reward"] = 300.0
    ledger["02_reward"]["source"] = "another"
    ledger_path.write_text(json.dumps(ledger))
    (tmp_path / "smoke" / "reward").mkdir()
    (tmp_path / "smoke" / "reward" / "metrics.json").write_text("{}")
    # It runs again, but only loads what it trained: that is not what the notebook takes.
    course.run(PROFILES["smoke"])
    assert json.loads(ledger_path.read_text())["seconds"]["02_reward"] == 300.0


def test_publishing_without_the_extras_keeps_their_numbers(monkeypatch, tmp_path):
    """Whoever reads the committed results finds the extras' there, and the pages are made from them."""
    root, run = tmp_path / "root", tmp_path / "runs" / "smoke"
    (root / "results").mkdir(parents=True)
    earlier = {"sft": {"loss": 2.0}, "hacking": {"peak": 3}, "minutes": {"06_reward_hacking": 28.0}}
    write_json(root / "results" / "smoke.json", earlier)
    run.mkdir(parents=True)
    write_json(run / "results.json", {"sft": {"loss": 1.0}, "hacking": {}, "minutes": {"01_sft": 6.0}})
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(publish, "project_root", lambda: root)
    monkeypatch.setattr(publish, "course", lambda profile, **options: {})
    told = {}
    for name in ("results_table", "headlines", "stage_picture"):
        monkeypatch.setattr(publish.page, name, lambda *args, name=name: told.update({name: args}) or name)
    monkeypatch.setattr(publish.page, "copy_figures", lambda *args: None)
    (root / "docs").mkdir()
    for path, what in ((root / "README.md", "headlines"), (root / "docs" / "results.md", "results")):
        path.write_text("before\n{}\nold\n{}\nafter\n".format(*page.marks(what)), encoding="utf-8")
    monkeypatch.setattr(publish, "ship", lambda profile: None)
    monkeypatch.setattr("sawyer_utils.course.teaching.update", lambda: None)
    publish.publish(PROFILES["smoke"])
    found = read_json(root / "results" / "smoke.json")
    assert found["sft"] == {"loss": 1.0}
    assert found["hacking"] == {"peak": 3}
    assert found["minutes"] == {"06_reward_hacking": 28.0, "01_sft": 6.0}
    assert told["results_table"][0] == told["headlines"][0] == told["stage_picture"][0] == found
    for path, shown in ((root / "README.md", "headlines"), (root / "docs" / "results.md", "results_table")):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert [lines[0], lines[2], lines[4]] == ["before", shown, "after"]


SUMMARY = """
from sawyer_utils.course import cli, page, publish
from sawyer_utils.plumbing.files import project_root, read_json

results = read_json(project_root() / "results" / "local.json")
signs = ("\\u2192 \\u2212 \\u00d7", "\\u4f60 \\u0e01 \\xe9", "a file called \\udc80")
publish.course = lambda profile, **options: print(page.summary(results), *signs)
cli.main(["course", "--profile", "smoke"])
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "cp1252:strict"])
def test_a_summary_that_is_redirected_survives_any_encoding(tmp_path, encoding):
    root = str(Path(course.__file__).parents[2])
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": root}
    out = tmp_path / "out.txt"
    with out.open("wb") as stream:
        command = [sys.executable, "-c", SUMMARY]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    name = encoding.partition(":")[0]
    said = out.read_bytes().decode(name)
    assert said.startswith("SAWYER, profile local")
    assert ("\u2192" if name == "utf-8" else "->") in said


def test_a_relative_folder_is_the_same_to_the_kernels(fake_runs, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiz.jsonl").write_text("one")
    monkeypatch.setenv("SAWYER_HOME", "myruns")
    monkeypatch.setenv("SAWYER_QUESTIONS", "quiz.jsonl")
    monkeypatch.setattr(course, "execute", lambda *args: seen.update(os.environ))
    course.run(PROFILES["smoke"])
    assert seen["SAWYER_HOME"] == str(tmp_path / "myruns")
    assert seen["SAWYER_QUESTIONS"] == str(tmp_path / "quiz.jsonl")
    assert (tmp_path / "myruns" / "smoke" / "course.json").exists()


@pytest.mark.parametrize("variable", ["SAWYER_CHECKPOINTS", "SAWYER_PREFERENCES"])
def test_a_folder_that_a_user_brings_is_looked_into(fake_runs, monkeypatch, tmp_path, variable):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.jsonl").write_text("one")
    monkeypatch.setenv(variable, str(mine))
    course.run(PROFILES["smoke"])
    fake_runs.clear()
    course.run(PROFILES["smoke"])
    assert fake_runs == []
    (mine / "a.jsonl").write_text("two")
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)


def test_what_a_user_mistyped_is_a_sentence_on_the_command_line(monkeypatch):
    def mistyped(profile, **options):
        raise paths.NoSuchPath("There is no file or folder ./x.")

    monkeypatch.setattr(publish, "course", mistyped)
    with pytest.raises(SystemExit, match=r"There is no file or folder \./x"):
        main(["course", "--profile", "smoke"])


def test_the_first_estimate_is_what_the_notebooks_took_here():
    committed = read_json(course.project_root() / "results" / "local.json")["minutes"]
    minutes, _ = course._expected(PROFILES["local"], {"seconds": {"01_sft": 66.0}})
    assert minutes["01_sft"] == 1.1 != committed["01_sft"]
    assert minutes["02_reward"] == committed["02_reward"]
