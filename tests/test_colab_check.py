"""benchmarks/colab_check.py: what it refuses of executed notebooks, and what it asks of the `colab` command.

Nothing here runs on Colab. The notebooks are the committed ones with other outputs; the command is a
function that does what google-colab-cli 0.7.5 does.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import colab_check as check

COMMITTED = {
    stem: json.loads((check.COMMITTED / f"{stem}.ipynb").read_text("utf-8")) for stem in check.NOTEBOOKS
}


def on_a_t4(notebook: dict) -> dict:
    """The committed notebook as if it had run under `colab` in the browser."""
    found = copy.deepcopy(notebook)
    setup = check.code_cells(found)[0]
    setup["outputs"] = [
        printed("profile    colab (a/b)\ndevice     Tesla T4, 14.7 GiB, compute capability 7.5\n")
    ]
    return found


def printed(text: str) -> dict:
    return {"output_type": "stream", "name": "stdout", "text": text}


def verdict(notebook: dict, stem: str = "03_ppo", profile: str = "colab", card: str = "T4") -> list[str]:
    return check.problems(notebook, COMMITTED[stem], stem, profile, card)


@pytest.mark.parametrize("stem", check.NOTEBOOKS)
def test_a_notebook_that_ran_passes(stem):
    """Also: the lines that the check looks for are those that the notebooks print."""
    assert verdict(on_a_t4(COMMITTED[stem]), stem) == []


@pytest.mark.parametrize("stem", check.NOTEBOOKS)
def test_another_profile_or_card_is_refused(stem):
    notebook = on_a_t4(COMMITTED[stem])
    assert len(verdict(notebook, stem, profile="llama2")) == 1
    assert len(verdict(notebook, stem, card="L4")) == 1
    assert len(verdict(COMMITTED[stem], stem)) == 2, "it ran on a CPU, under `local`"


def test_an_error_is_refused_with_its_cell_wherever_it_is():
    notebook = on_a_t4(COMMITTED["03_ppo"])
    error = {
        "output_type": "error",
        "ename": "RestartNeeded",
        "evalue": "RESTART NEEDED, once",
        "traceback": [],
    }
    check.code_cells(notebook)[7]["outputs"].append(error)
    assert verdict(notebook) == ["cell 8: RestartNeeded: RESTART NEEDED, once"]
    notebook = on_a_t4(COMMITTED["03_ppo"])
    check.code_cells(notebook)[7]["outputs"].append(printed("Traceback (most recent call last):\n  File …"))
    assert verdict(notebook) == ["a traceback was printed"]


def test_a_cell_that_did_not_run_is_refused():
    notebook = on_a_t4(COMMITTED["03_ppo"])
    check.code_cells(notebook)[9]["execution_count"] = None
    assert verdict(notebook) == ["cell 10 did not run"]


def test_a_missing_cell_is_refused():
    notebook = on_a_t4(COMMITTED["03_ppo"])
    quiet = next(cell for cell in check.code_cells(notebook) if not cell["outputs"])
    notebook["cells"].remove(quiet)
    assert len(verdict(notebook)) == 1
    assert "code cells" in verdict(notebook)[0]


@pytest.mark.parametrize(
    ("stem", "line"), [(s, line) for s, lines in check.RESULTS.items() for line in lines]
)
def test_each_missing_result_is_refused(stem, line):
    notebook = on_a_t4(COMMITTED[stem])
    for cell in check.code_cells(notebook):
        for output in cell["outputs"]:
            if "text" in output:
                kept = [t for t in "".join(output["text"]).splitlines(True) if not re.search(line, t)]
                output["text"] = "".join(kept) + "…\n"
    assert f"no line {line!r}" in verdict(notebook, stem)


def test_a_section_without_any_output_is_refused():
    notebook = on_a_t4(COMMITTED["03_ppo"])
    inside = False
    for cell in notebook["cells"]:
        if "## 3." in "".join(cell["source"]):
            inside = True
        elif "## 4." in "".join(cell["source"]):
            inside = False
        elif inside and cell["cell_type"] == "code":
            cell["outputs"] = []
    assert verdict(notebook) == ["section '3. Who earned it?' put out nothing"]


# --- the command --------------------------------------------------------------------------------


class Cli:
    """google-colab-cli, as its source has it: no execution counts, exit code 0, outputs beside the file."""

    def __init__(self, card: str = "T4", stops_in: str = ""):
        self.card, self.stops_in, self.calls = card, stops_in, []

    def __call__(self, *words: str) -> CompletedProcess:
        self.calls.append(words)
        if words[0] == "exec" and words[-1].endswith(".ipynb"):
            self.execute(Path(words[-1]))
        said = (
            f"[{check.SESSION}] x | Hardware: {self.card} | Shape: STANDARD" if words[0] == "status" else ""
        )
        return CompletedProcess(words, 0, said)

    def execute(self, path: Path) -> None:
        notebook = json.loads(path.read_text("utf-8"))
        shown = check.code_cells(on_a_t4(COMMITTED[path.stem]))
        for number, cell in enumerate(check.code_cells(notebook), 1):
            if path.stem == self.stops_in and number > 20:
                break
            if number > len(shown):
                cell["outputs"] = [printed(check.END)]
            else:
                cell["outputs"] = [printed(check.MARK.format(number) + "\n"), *shown[number - 1]["outputs"]]
        path.with_name(f"{path.stem}_output.ipynb").write_text(json.dumps(notebook), "utf-8")


def test_the_four_run_in_fresh_kernels_after_the_setup_cell(tmp_path):
    cli = Cli()
    assert check.run(cli, tmp_path, "colab", "T4") == []
    assert check.judge(tmp_path, "colab", "T4", "_output") == {stem: [] for stem in check.NOTEBOOKS}
    commands = [words[0] for words in cli.calls]
    assert commands == ["new", "status", "exec", *4 * ["restart-kernel", "exec"], "stop"]
    ran = [Path(words[-1]).name for words in cli.calls if words[0] == "exec"]
    assert ran == ["setup.py", *(f"{stem}.ipynb" for stem in check.NOTEBOOKS)]
    for words in cli.calls:
        assert words[words.index("-s") + 1] == check.SESSION
        if words[0] == "exec":
            assert float(words[words.index("--timeout") + 1]) >= 3600, "its own is 30 s a cell"
            assert words[words.index("--env") + 1] == "SAWYER_PROFILE=colab"
    assert "colab.prepare()" in (tmp_path / "setup.py").read_text("utf-8")


def test_a_run_that_is_cut_off_is_refused_though_the_command_says_nothing(tmp_path):
    cli = Cli(stops_in="02_reward")
    check.run(cli, tmp_path, "colab", "T4")
    found = check.judge(tmp_path, "colab", "T4", "_output")
    assert [stem for stem, lines in found.items() if lines] == ["02_reward"]
    assert found["02_reward"][:2] == ["the end was not reached", "cell 21 did not run"]


def test_the_committed_outputs_are_never_taken_for_those_of_the_run():
    notebook = check.copy_for_colab(COMMITTED["01_sft"])
    assert not any(cell["outputs"] for cell in check.code_cells(notebook))
    assert len(verdict(notebook, "01_sft")) > len(check.code_cells(notebook)) - 1
    assert check.code_cells(COMMITTED["01_sft"])[0]["outputs"], "the copy is another object"


def test_another_card_than_the_one_asked_for_ends_it_and_the_session_is_closed(tmp_path):
    cli = Cli(card="A100")
    assert "no T4" in check.run(cli, tmp_path, "colab", "T4")[0]
    assert [words[0] for words in cli.calls] == ["new", "status", "stop"]


def test_the_session_is_closed_after_an_interruption(tmp_path):
    class Pressed(Cli):
        def execute(self, path):
            raise KeyboardInterrupt

    cli = Pressed()
    with pytest.raises(KeyboardInterrupt):
        check.run(cli, tmp_path, "colab", "T4")
    assert cli.calls[-1][0] == "stop"


def test_the_exit_code_is_the_verdict(tmp_path, monkeypatch, capsys):
    for stem, notebook in COMMITTED.items():
        (tmp_path / f"{stem}.ipynb").write_text(json.dumps(on_a_t4(notebook)), "utf-8")
    monkeypatch.setattr("sys.argv", ["colab_check.py", "--judge", str(tmp_path)])
    assert check.main() == 0
    (tmp_path / "04_eval.ipynb").unlink()
    assert check.main() == 1
    assert "04_eval.ipynb is not there" in capsys.readouterr().out
