"""Verify a release on Colab itself: open a T4, run 01 to 04 there, and judge what they put out.

    pip install google-colab-cli        # Python 3.12 or newer, Linux or macOS, a Google account
    python benchmarks/colab_check.py
    python benchmarks/colab_check.py --judge FOLDER     # notebooks that were run by hand, in the browser

Not run for this release: nobody had an account at hand. The commands are those of google-colab-cli 0.7.5,
read from its source and help. Four of its habits decide how this is done:

1. `colab exec` ends with 0 whatever a cell raised, and goes on after an error. So the outputs are judged.
2. It gives up on a cell after 30 s unless told otherwise, and leaves what the file held before in the
   cells that it did not reach. So the copies that it gets have no outputs.
3. It writes no execution counts. So each cell of a copy begins by printing its number, and a last cell
   prints that the end was reached.
4. It does not restart a kernel when the first installation asks for it. So the setup cell runs alone
   first, and each notebook begins in a fresh kernel.

A notebook passes if every cell ran, none raised, the session had the profile and the card that were asked
for, the lines with its results are there, and every section that puts out something in the committed
notebook has put out something.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NOTEBOOKS = ("01_sft", "02_reward", "03_ppo", "04_eval")
COMMITTED = Path(__file__).resolve().parents[1] / "notebooks"
SESSION = "sawyer-check"
CELL_SECONDS = 3 * 3600.0  # of the longest cell
NUMBER = r"[+-]?[\d.]+"
MARK, END = "sawyer-check: cell {}", "sawyer-check: the end"
RESULTS = {  # the lines without which a notebook has no result
    "01_sft": (
        r"\d+ conversations to train on, \d+ held out",
        rf"{NUMBER} steps, \d+ s of training",
        rf"held-out loss {NUMBER} → {NUMBER} nats",
    ),
    "02_reward": (
        r"prompts to train on: \d+ pairs",
        rf"^fine-tuned +{NUMBER} \[",
        rf"^our judge +{NUMBER} \[",
    ),
    "03_ppo": (
        rf"\d+ steps of \d+ answers, {NUMBER} minutes",
        rf"n = \d+: {NUMBER} ± {NUMBER} → {NUMBER} ± {NUMBER}",
        r"In words, by interval and rank test: (better|worse|no difference shown)",
    ),
    "04_eval": (
        rf"gold judge: {NUMBER} \[.*\]: (better|worse|no difference shown)",
        r"\d+ got better, \d+ of them the gold judge's",
    ),
}


# --- judging ------------------------------------------------------------------------------------


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def text_of(cell: dict) -> str:
    """What a cell printed, and the text of what it showed."""
    parts = []
    for output in cell["outputs"]:
        for text in (output.get("text", ""), output.get("data", {}).get("text/plain", "")):
            parts.append("".join(text))
    return "\n".join(parts)


def shows_something(cell: dict) -> bool:
    """Whether a cell put out more than the line that says it began."""
    shown = [o for o in cell["outputs"] if "data" in o]
    return bool(shown or re.sub(MARK.format(r"\d+"), "", text_of(cell)).strip())


def sections(notebook: dict) -> dict[str, bool]:
    """Heading -> whether a cell below it put out something; for those with code."""
    found, heading = {}, "the opening"
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (titles := re.findall(r"^## (.+)", source, re.MULTILINE)):
            heading = titles[-1]
        elif cell["cell_type"] == "code" and source.strip() != f'print("{END}")':
            found[heading] = found.get(heading, False) or shows_something(cell)
    return found


def problems(executed: dict, committed: dict, stem: str, profile: str, card: str) -> list[str]:
    """All that speaks against an executed notebook, by its outputs; none if it passes.

    Args:
        executed, committed: notebooks, as parsed JSON.
        stem: "01_sft", …
    """
    cells, found = code_cells(executed), []
    marked = any(MARK.format(1) in text_of(cell) for cell in cells)
    if marked:
        if END not in text_of(cells[-1]):
            found.append("the end was not reached")
        cells = cells[:-1]
    expected = len(code_cells(committed))
    if len(cells) != expected:
        found.append(f"{len(cells)} code cells, in the committed notebook {expected}")
    for number, cell in enumerate(cells, 1):
        ran = MARK.format(number) in text_of(cell) if marked else cell.get("execution_count") is not None
        if not ran:
            found.append(f"cell {number} did not run")
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                found.append(f"cell {number}: {output['ename']}: {output['evalue'][:200]}")
    text = "\n".join(text_of(cell) for cell in cells)
    if "Traceback (most recent call last)" in text:
        found.append("a traceback was printed")
    lines = (rf"^profile +{profile}\b", rf"^device .*\b{card}\b", *RESULTS[stem])
    found += [f"no line {line!r}" for line in lines if not re.search(line, text, re.MULTILINE)]
    has = sections(executed)
    found += [
        f"section {heading!r} put out nothing"
        for heading, something in sections(committed).items()
        if something and not has.get(heading)
    ]
    return found


def judge(folder: Path, profile: str, card: str, ending: str = "") -> dict[str, list[str]]:
    """The problems of each notebook in a folder."""
    found = {}
    for stem in NOTEBOOKS:
        path = folder / f"{stem}{ending}.ipynb"
        if not path.exists():
            found[stem] = [f"{path.name} is not there"]
            continue
        executed, committed = (json.loads(p.read_text("utf-8")) for p in (path, COMMITTED / f"{stem}.ipynb"))
        found[stem] = problems(executed, committed, stem, profile, card)
    return found


# --- running ------------------------------------------------------------------------------------


def copy_for_colab(notebook: dict) -> dict:
    """Without outputs, each code cell announcing itself, and a last one that says it was the last."""
    copy = json.loads(json.dumps(notebook))
    for number, cell in enumerate(code_cells(copy), 1):
        source = "".join(cell["source"])
        cell |= {
            "source": f'print("{MARK.format(number)}")\n{source}',
            "outputs": [],
            "execution_count": None,
        }
    last = {"cell_type": "code", "id": "the-end", "metadata": {}, "outputs": [], "execution_count": None}
    copy["cells"].append(last | {"source": f'print("{END}")'})
    return copy


def colab(*arguments: str, auth: str | None = None) -> subprocess.CompletedProcess:
    """One command of google-colab-cli; what it says is shown as it comes, and returned."""
    command = ["colab", *([f"--auth={auth}"] if auth else []), *arguments]
    print("$", *command, flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = []
    for line in process.stdout:
        said.append(line)
        print(line, end="", flush=True)
    return subprocess.CompletedProcess(command, process.wait(), "".join(said))


def run(call: Callable, folder: Path, profile: str, card: str) -> list[str]:
    """Execute the four notebooks in a new session; they come back into ``folder``, as "…_output.ipynb".

    Args:
        call: :func:`colab`.

    Returns:
        What speaks against the session itself.
    """
    opened = call("new", "-s", SESSION, "--gpu", card)
    if opened.returncode:
        return [f"no session: {opened.stdout.strip()[-300:]}"]
    try:
        # It gives an A100 for a name that it does not know.
        if f"Hardware: {card}" not in (said := call("status", "-s", SESSION).stdout):
            return [f"no {card}: {said.strip()[-300:]}"]
        options = ["-s", SESSION, "--timeout", f"{CELL_SECONDS:g}", "--env", f"SAWYER_PROFILE={profile}"]
        notebooks = {stem: json.loads((COMMITTED / f"{stem}.ipynb").read_text("utf-8")) for stem in NOTEBOOKS}
        setup = folder / "setup.py"
        setup.write_text("".join(code_cells(notebooks[NOTEBOOKS[0]])[0]["source"]), encoding="utf-8")
        call("exec", *options, "-f", str(setup))  # may end in "RESTART NEEDED"
        for stem, notebook in notebooks.items():
            call("restart-kernel", "-s", SESSION)
            path = folder / f"{stem}.ipynb"
            path.write_text(json.dumps(copy_for_colab(notebook)), encoding="utf-8")
            call("exec", *options, "-f", str(path))
        return []
    finally:
        call("stop", "-s", SESSION)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="colab", choices=("colab", "llama2"))
    parser.add_argument("--card", default="T4")
    parser.add_argument("--auth", choices=("oauth2", "adc"), help="how the tool logs in; its own default")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="only judge the notebooks in a folder")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the executed notebooks go")
    chosen = parser.parse_args()
    against: list[str] = []
    if chosen.judge:
        verdicts = judge(chosen.judge, chosen.profile, chosen.card)
    elif shutil.which("colab") is None:
        print("No command `colab`: pip install google-colab-cli (Python 3.12 or newer).")
        return 2
    else:
        folder = chosen.keep or Path(tempfile.mkdtemp(prefix="sawyer-colab-"))
        folder.mkdir(parents=True, exist_ok=True)
        against = run(lambda *words: colab(*words, auth=chosen.auth), folder, chosen.profile, chosen.card)
        verdicts = judge(folder, chosen.profile, chosen.card, "_output")
        print(f"executed notebooks: {folder}")
    for stem, found in verdicts.items():
        print(f"{stem:10s} {'passes' if not found else f'refused, {len(found)} problems'}")
        print("".join(f"    {line}\n" for line in found[:20]), end="")
    print(*against, sep="\n", end="")
    return int(bool(against) or any(verdicts.values()))


if __name__ == "__main__":
    sys.exit(main())
