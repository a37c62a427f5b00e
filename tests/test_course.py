"""Running the course: what is done is reused, what changed is run again, times are estimated."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from safetensors.torch import load_file, save_file

from sawyer_utils.__main__ import main
from sawyer_utils.course import cli, page, publish
from sawyer_utils.course import notebooks as course
from sawyer_utils.plumbing import paths
from sawyer_utils.plumbing.files import DriveNotMounted
from sawyer_utils.plumbing.reading import DataError
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


@pytest.fixture
def outdate(tmp_path):
    """``outdate(source="02_reward")``: what the ledger has of a notebook, or of all, is not what it was."""

    def change(source=None, **values):
        path = tmp_path / "smoke" / "course.json"
        ledger = {**json.loads(path.read_text()), **values}
        if source:
            ledger[source]["source"] = "another"
        path.write_text(json.dumps(ledger))

    return change


def test_a_second_call_reuses_everything_and_fresh_starts_over(fake_runs, tmp_path):
    for _ in range(2):
        course.run(PROFILES["smoke"])
        assert fake_runs == list(course.NOTEBOOKS)
    votes = tmp_path / "smoke" / "sft" / "votes.jsonl"
    votes.parent.mkdir()
    votes.write_text("what nobody can make again")
    course.run(PROFILES["smoke"], fresh=True)
    assert fake_runs == 2 * list(course.NOTEBOOKS)
    assert not votes.exists()
    assert (tmp_path / "smoke-1" / "sft" / "votes.jsonl").exists()


def test_a_notebook_that_was_deleted_runs_again(fake_runs, tmp_path):
    course.run(PROFILES["smoke"])
    fake_runs.clear()
    (tmp_path / "smoke" / "notebooks" / "04_eval.ipynb").unlink()
    course.run(PROFILES["smoke"])
    assert fake_runs == ["04_eval"]


def test_a_cell_may_take_as_long_as_it_takes(monkeypatch, tmp_path):
    told = {}
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    client = SimpleNamespace(execute=lambda env: None)
    monkeypatch.setattr("nbclient.NotebookClient", lambda notebook, **how: told.update(how) or client)
    course.execute(nbformat.v4.new_notebook(), PROFILES["smoke"], "a", course.Clock(["a"], {"a": 1.0}))
    assert told["timeout"] is None


@pytest.mark.parametrize(
    ("changed", "stopped", "done"),
    [
        (None, "03_ppo", ["01_sft", "02_reward"]),
        ("01_sft", "02_reward", ["01_sft"]),  # 03 and 04 were done once, but from an older 01
    ],
)
def test_after_a_crash_what_is_finished_is_kept_and_what_is_stale_is_not(
    fake_runs, outdate, monkeypatch, changed, stopped, done
):
    def crash(notebook, profile, name, eta):
        if name == stopped:
            raise KeyboardInterrupt
        fake_runs.append(name)

    if changed:
        course.run(PROFILES["smoke"])
        outdate(changed)
        fake_runs.clear()
    with monkeypatch.context() as patch:
        patch.setattr(course, "execute", crash)
        with pytest.raises(KeyboardInterrupt):
            course.run(PROFILES["smoke"])
    assert fake_runs == done
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("02_reward", ["02_reward", "03_ppo", "04_eval", *course.EXTRAS]),  # with all that builds on it
        ("06_reward_hacking", ["06_reward_hacking"]),
    ],
)
def test_a_changed_source_runs_again_with_all_that_builds_on_it(fake_runs, outdate, changed, again):
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == list(course.FOLDERS)
    outdate(changed)
    fake_runs.clear()
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == again


def test_the_extras_run_only_when_asked_and_are_stale_once_what_they_build_on_ran_again(fake_runs, outdate):
    course.run(PROFILES["smoke"], extra=True)
    fake_runs.clear()
    assert list(course.run(PROFILES["smoke"], extra=True)) == list(course.FOLDERS)
    assert list(course.run(PROFILES["smoke"])) == list(course.NOTEBOOKS)
    assert fake_runs == []
    outdate("04_eval")
    course.run(PROFILES["smoke"])
    course.run(PROFILES["smoke"], extra=True)
    assert fake_runs == ["04_eval", *course.EXTRAS]


def test_other_settings_start_over_and_what_was_there_is_moved_aside(fake_runs, outdate, tmp_path):
    course.run(PROFILES["smoke"])
    outdate(fingerprint="other settings")
    course.run(PROFILES["smoke"])
    assert fake_runs == 2 * list(course.NOTEBOOKS)
    assert json.loads((tmp_path / "smoke-1" / "course.json").read_text())["fingerprint"] == "other settings"


def test_a_training_goes_on_in_another_number_format_and_in_smaller_pieces(fake_runs, monkeypatch, tmp_path):
    course.run(PROFILES["smoke"])
    monkeypatch.setenv("SAWYER_PRECISION", "fp32")
    smaller = {"precision": "fp32", "ppo_micro_batch": 2, "sft_micro_batch": 2, "checkpoint_minutes": 9.0}
    course.run(replace(PROFILES["smoke"], **smaller))
    assert fake_runs == 2 * list(course.NOTEBOOKS), "the outputs are of the other format"
    assert not (tmp_path / "smoke-1").exists(), "the trainings stay where they are"
    course.run(replace(PROFILES["smoke"], lora_rank=2))
    assert (tmp_path / "smoke-1").exists()


def test_without_the_sources_nothing_is_touched(fake_runs, monkeypatch, tmp_path):
    course.run(PROFILES["smoke"])
    monkeypatch.setattr(course, "project_root", lambda: tmp_path / "class")
    with pytest.raises(SystemExit, match="notebooks' sources are not in"):
        main(["course", "--fresh", "--profile", "smoke"])
    assert (tmp_path / "smoke" / "course.json").exists()


def test_a_path_of_this_machine_is_refused_before_anything_is_copied(monkeypatch, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", id="x")])
    notebook.cells[0].outputs = [nbformat.v4.new_output("stream", text=str(course.project_root()))]
    clean = nbformat.v4.new_notebook()
    (tmp_path / "notebooks").mkdir()
    for name, made in (("01_sft", clean), ("02_reward", notebook)):
        nbformat.write(made, tmp_path / f"{name}.ipynb")
    ran = {name: tmp_path / f"{name}.ipynb" for name in ("01_sft", "02_reward")}
    monkeypatch.setattr(publish, "project_root", lambda: tmp_path)
    monkeypatch.setattr(publish, "course", lambda *_, **__: ran)
    with pytest.raises(SystemExit, match="cell x holds a path of this machine"):
        main(["notebooks"])
    assert not list((tmp_path / "notebooks").iterdir())


@pytest.mark.parametrize("field", [field.name for field in fields(PROFILES["smoke"])])
def test_each_setting_that_changes_results_is_part_of_the_fingerprint(field):
    profile = replace(PROFILES["smoke"])
    before = course.fingerprint(profile)
    object.__setattr__(profile, field, "another")  # whether or not a profile takes it
    goes_on = field == "precision" or field.endswith("micro_batch") or "checkpoint" in field
    assert (course.fingerprint(profile) == before) is goes_on


def test_the_corpus_is_part_of_the_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setattr(course, "EMBEDDED", tmp_path)
    found = set()
    for text in ("one", "two"):
        (tmp_path / "prompts.jsonl").write_text(text)
        found.add(course.fingerprint(PROFILES["smoke"]))
    assert len(found) == 2


@pytest.mark.parametrize("variable", ["SAWYER_QUESTIONS", "SAWYER_CHECKPOINTS"])  # a file, and a folder
@pytest.mark.parametrize("change", ["content", "another path", "none", "another variable"])
def test_what_a_user_brings_runs_the_notebooks_again(
    fake_runs, tmp_path, monkeypatch, capsys, variable, change
):
    mine = tmp_path / "mine"
    file = mine if variable == "SAWYER_QUESTIONS" else mine / "a.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_text("one")
    monkeypatch.setenv(variable, str(mine))
    course.run(PROFILES["smoke"])
    fake_runs.clear()
    monkeypatch.setenv("SAWYER_CACHE", "elsewhere")  # changes no result
    monkeypatch.setenv("SAWYER_PROFILE", "smoke")  # says what is known
    course.run(PROFILES["smoke"])
    assert fake_runs == []
    if change == "content":
        file.write_text("two")
    elif change == "another path":
        monkeypatch.setenv(variable, str(tmp_path / "others"))
    elif change == "none":
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv("SAWYER_ANYTHING", "1")
    course.run(PROFILES["smoke"])
    assert fake_runs == list(course.NOTEBOOKS)
    assert "has changed" in capsys.readouterr().out


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
    named = {"course", "notebooks", "test", "lab", "fetch", "check-data", "collect"}
    assert named <= set(capsys.readouterr().out.split())


def test_the_command_line_asks_for_the_extras(monkeypatch):
    asked = []
    monkeypatch.setenv("SAWYER_PROFILE", "local")
    monkeypatch.setattr(publish, "course", lambda profile, **options: asked.append(options))
    main(["course", "--extra", "--profile", "smoke"])
    main(["course", "--profile", "smoke"])
    assert asked == [{"fresh": False, "extra": True}, {"fresh": False, "extra": False}]
    assert os.environ["SAWYER_PROFILE"] == "smoke", "which the kernels read"


def test_minutes_are_those_of_a_run_from_nothing(fake_runs, outdate, tmp_path):
    course.run(PROFILES["smoke"])
    outdate("02_reward", seconds={"02_reward": 300.0})
    (tmp_path / "smoke" / "reward").mkdir()
    write_json(tmp_path / "smoke" / "reward" / "metrics.json", {})
    # It runs again, but only loads what it trained: that is not what the notebook takes.
    course.run(PROFILES["smoke"])
    assert read_json(tmp_path / "smoke" / "course.json")["seconds"]["02_reward"] == 300.0


def test_publishing_without_the_extras_keeps_their_numbers(monkeypatch, tmp_path):
    """Whoever reads the committed results finds the extras' there, and all pages are made from them."""
    root, run = tmp_path / "root", tmp_path / "runs" / "smoke"
    (root / "results").mkdir(parents=True)
    earlier = {"sft": {"loss": 2.0}, "hacking": {"peak": 3}, "minutes": {"06_reward_hacking": 28.0}}
    write_json(root / "results" / "smoke.json", earlier)
    run.mkdir(parents=True)
    now = {"sft": {"loss": 1.0}, "hacking": {}, "minutes": {"01_sft": 6.0}, "eval": {"n": 1}}
    write_json(run / "results.json", now)
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(publish, "project_root", lambda: root)
    monkeypatch.setattr(publish, "course", lambda profile, **options: {})
    told = {}
    for name in ("results_table", "headlines", "answers", "stage_picture"):
        monkeypatch.setattr(publish.page, name, lambda *args, name=name: told.update({name: args}) or name)
    monkeypatch.setattr(publish.page, "copy_figures", lambda *args: None)
    (root / "docs").mkdir()
    between = "before\n{}\nold\n{}\nafter\n"
    readme = between.format(*page.marks("answers")) + between.format(*page.marks("headlines"))
    (root / "README.md").write_text(readme, encoding="utf-8")
    table = between.format(*page.marks("results"))
    (root / "docs" / "results.md").write_text(table, encoding="utf-8")
    monkeypatch.setattr(publish, "ship", lambda profile: None)
    monkeypatch.setattr(publish, "write_minutes", lambda *args: told.update(minutes=args))
    committed = root / "results" / "smoke.json"
    monkeypatch.setattr(publish.teaching, "update", lambda: told.update(update=read_json(committed)))
    publish.publish(PROFILES["smoke"])
    found = read_json(committed)
    assert found["sft"] == {"loss": 1.0}
    assert found["hacking"] == {"peak": 3}
    assert found["minutes"] == {"06_reward_hacking": 28.0, "01_sft": 6.0}
    made = ("results_table", "headlines", "stage_picture")
    assert [told[name][0] for name in made] + [told["update"]] == [found] * 4
    assert told["answers"] == ({"n": 1},)
    assert told["minutes"] == (found["minutes"], root)
    shown = readme.replace("old", "answers", 1).replace("old", "headlines")
    assert (root / "README.md").read_text(encoding="utf-8") == shown
    table = table.replace("old", "results_table")
    assert (root / "docs" / "results.md").read_text(encoding="utf-8") == table


def test_all_four_adapters_of_a_run_are_shipped_in_bf16_and_replace_what_was_there(monkeypatch, tmp_path):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path / "runs"))
    monkeypatch.setattr(publish, "project_root", lambda: tmp_path / "root")
    folders = ("sft/adapter", "reward/model", "ppo/adapter", "gold/model")
    for number, folder in enumerate(folders):
        run, shipped = tmp_path / "runs" / "smoke" / folder, tmp_path / "root/checkpoints/smoke" / folder
        for place, value in ((run, float(number)), (shipped, -1.0)):
            place.mkdir(parents=True)
            save_file({"w": torch.tensor([value])}, place / "adapter_model.safetensors")
        (run / "adapter_config.json").write_text(folder)
        (shipped / "old.json").touch()
    publish.ship(PROFILES["smoke"])
    for number, folder in enumerate(folders):
        shipped = tmp_path / "root/checkpoints/smoke" / folder
        weights = load_file(shipped / "adapter_model.safetensors")["w"]
        assert weights.dtype == torch.bfloat16
        assert weights.item() == number, folder
        assert (shipped / "adapter_config.json").read_text() == folder
        assert not (shipped / "old.json").exists()


@pytest.fixture
def pages(tmp_path):
    """A README, a source and a committed notebook that say how long 01 and 02 took."""
    (tmp_path / "notebooks" / "source").mkdir(parents=True)
    names = ("01_sft", "02_reward")
    rows = [f"| [{name}](notebooks/{name}.ipynb) | 3 words | 6 | badge |\n" for name in names]
    (tmp_path / "README.md").write_text("".join(rows))
    for name in names:
        said = "# 0\n\nNeeds 3. About seven\nminutes on two CPU cores."
        source = "# %% [markdown]\n# " + said.replace("\n", "\n# ")
        (tmp_path / "notebooks" / "source" / f"{name}.py").write_text(source)
        cells = [nbformat.v4.new_markdown_cell(said, id="a")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def test_what_a_notebook_took_is_written_into_the_table_and_its_title(pages):
    publish.write_minutes({"01_sft": 12.6}, pages)
    first, second = (pages / "README.md").read_text().splitlines()
    assert first == "| [01_sft](notebooks/01_sft.ipynb) | 3 words | 13 | badge |"
    assert "| 6 |" in second
    assert "About 13\n# minutes on" in (pages / "notebooks" / "source" / "01_sft.py").read_text()
    notebook = nbformat.read(pages / "notebooks" / "01_sft.ipynb", as_version=4)
    assert notebook.cells[0].source.endswith("Needs 3. About 13\nminutes on two CPU cores.")
    assert "About seven" in (pages / "notebooks" / "source" / "02_reward.py").read_text()


@pytest.mark.parametrize(("gone", "told"), [("README.md", "0 rows of 01_sft"), ("source", "0 times")])
def test_a_page_without_a_place_for_the_minutes_is_named(pages, gone, told):
    path = pages / gone if gone == "README.md" else pages / "notebooks" / "source" / "01_sft.py"
    path.write_text("nothing")
    with pytest.raises(ValueError, match=told):
        publish.write_minutes({"01_sft": 12.6}, pages)


def test_other_minutes_in_a_title_make_no_run_outdated(monkeypatch):
    def saying(minutes):
        said = f"About {minutes} minutes on two CPU cores."
        cells = [nbformat.v4.new_markdown_cell(said), nbformat.v4.new_markdown_cell("About 3 minutes")]
        return lambda name: nbformat.v4.new_notebook(cells=cells[: 1 if minutes < 9 else 2])

    hashes = []
    for minutes in (5, 6, 9):
        monkeypatch.setattr(course, "build", saying(minutes))
        hashes.append(course.source_hash("01_sft"))
    assert hashes[0] == hashes[1] != hashes[2]


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
    said = out.read_bytes().decode("utf-8")
    assert said.startswith("SAWYER, profile local")
    assert "\u2192 \u2212 \u00d7 \u4f60" in said


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


@pytest.mark.parametrize(
    "trouble", [DataError, paths.NoSuchPath, DriveNotMounted, cli.assets.WeightsUnavailable]
)
def test_what_a_user_can_mend_is_a_sentence_on_the_command_line(monkeypatch, trouble):
    def course(profile, **options):
        raise trouble("There is no file or folder ./x.")

    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    monkeypatch.setattr(publish, "course", course)
    with pytest.raises(SystemExit, match=r"There is no file or folder \./x"):
        main(["course", "--profile", "smoke"])


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["course"], {"SAWYER_PROFILE": "locl"}, "Unknown profile 'locl'"),
        (["badges", "--repo", "https://github.com/a/b"], {}, "is not OWNER/NAME"),
        (["course"], {"SAWYER_HOME": "FULL"}, r"Cannot write to the run folder .*Set SAWYER_HOME"),
        (["course"], {"SAWYER_HOME": "DAMAGED"}, r"course\.json is damaged"),
        (["lab"], {}, r"has no jupyterlab.*\.venv.*python -m sawyer_utils"),
    ],
)
def test_what_is_wrong_is_a_sentence_on_the_command_line(
    monkeypatch, tmp_path, fake_runs, words, variables, said
):
    def full(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("SAWYER_PROFILE", "smoke")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path) if name == "SAWYER_HOME" else value)
    if "FULL" in variables.values():
        monkeypatch.setattr("tempfile.TemporaryFile", full)
    if "DAMAGED" in variables.values():
        (tmp_path / "smoke").mkdir()
        (tmp_path / "smoke" / "course.json").write_text("{")
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    with pytest.raises(SystemExit, match=said) as stopped:
        main(words)
    assert stopped.value.code not in (0, None)


def test_tests_and_committed_notebooks_take_no_settings_of_the_users_shell(monkeypatch):
    seen, given = [], []
    kept = {"SAWYER_HOME": "/runs", "SAWYER_CACHE": "/cache"}
    names = ("MODEL", "REWARD_BASE", "CONVERSATIONS", "PREFERENCES", "GOLD", "PROMPTS", "NEWS", "QUESTIONS")
    names += ("DOMAIN", "CHECKABLE", "PRECISION", "CHECKPOINTS", "HUMAN_PAIRS")
    brought = {f"SAWYER_{name}": "mine" for name in names}
    for name in [name for name in os.environ if name.startswith("SAWYER_")]:
        monkeypatch.delenv(name)
    for name, value in (kept | brought | {"SAWYER_PROFILE": "llama2"}).items():
        monkeypatch.setenv(name, value)

    def look(environment):
        seen.append({name: value for name, value in environment.items() if name.startswith("SAWYER_")})

    monkeypatch.setattr(cli.subprocess, "call", lambda command, env, **_: look(env) or 3)
    monkeypatch.setattr(cli.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(cli.assets, "fetch", dict)
    monkeypatch.setattr(publish, "publish", lambda profile, **_: look(os.environ) or given.append(profile))
    with pytest.raises(SystemExit):
        main(["test"])
    main(["notebooks"])
    tested, committed = ({name: env[name] for name in env if name not in kept} for env in seen)
    assert tested == {}
    assert {name.removeprefix("SAWYER_") for name in committed} == {"PROFILE", "HUMAN_PAIRS"}
    assert (committed["SAWYER_PROFILE"], given) == ("local", [PROFILES["local"]])


@pytest.mark.parametrize("words", [["lab"], ["test"]])
def test_kernels_of_the_lab_and_of_tests_import_this_course(monkeypatch, words):
    seen = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, env, **_: seen.append(env["PYTHONPATH"]) or 3)
    monkeypatch.setattr(cli.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(cli.assets, "fetch", dict)
    with pytest.raises(SystemExit):
        main(words)
    assert seen[0].split(os.pathsep)[0] == str(course.project_root())


@pytest.mark.parametrize("everything", [False, True])
def test_the_quick_tests_run_01_to_04_and_all_tests_every_notebook(monkeypatch, everything):
    commands = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, **_: commands.append(command) or 0)
    monkeypatch.setattr(cli.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(cli.assets, "fetch", dict)
    main(["test", "--all"] if everything else ["test"])
    ran = [Path(word).stem for command in commands for word in command if word.endswith(".ipynb")]
    there = sorted(path.stem for path in (course.project_root() / "notebooks").glob("*.ipynb"))
    assert ran == (there if everything else there[:4]) == list(course.FOLDERS)[: len(ran)]
    said = " ".join(word for command in commands for word in command)
    rest = ("test_killed_notebooks", "rehearse")
    assert [part in said for part in rest] == [everything] * len(rest)


def test_tests_stop_at_the_first_step_that_fails(monkeypatch):
    commands = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, **_: commands.append(command) or 3)
    monkeypatch.setattr(cli.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(cli.assets, "fetch", dict)
    with pytest.raises(SystemExit, match="3"):
        main(["test", "--all"])
    assert len(commands) == 1
