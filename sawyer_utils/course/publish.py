"""After the notebooks: results on one screen and as a page; what is committed of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sawyer_utils.chapters import report
from sawyer_utils.course import notebooks, page, teaching
from sawyer_utils.plumbing.files import as_others_are, home, project_root, read_json, write_json
from sawyer_utils.profiles import Profile


def course(profile: Profile, fresh: bool = False, extra: bool = False) -> dict[str, Path]:
    """``make course``: run, then one screen of results and where everything is; returns what ran."""
    executed = notebooks.run(profile, fresh, extra)
    folder = home() / profile.name
    results = report.collect(profile, read_json(folder / "course.json"))
    write_json(folder / "results.json", results)
    written = page.write_html(folder, results)
    print("\n" + page.summary(results) + "\n")
    for path in executed.values():
        print("notebook ", path)
    print("figures  ", folder / "*" / "figures")
    print("report   ", written)
    return executed


def publish(profile: Profile, extra: bool = False) -> None:
    """``make notebooks``: run, then copy executed notebooks, adapters and results to be committed.

    Raises:
        DataError: if an output names a folder of this machine; nothing has been copied then.
    """
    import nbformat

    executed = course(profile, extra=extra)
    root, folder = project_root(), home() / profile.name
    for path in executed.values():  # all of them, before anything is copied
        notebooks.refuse_private(nbformat.read(path, as_version=4))
    for path in executed.values():
        shutil.copyfile(path, root / "notebooks" / path.name)
    committed = root / "results" / f"{profile.name}.json"
    results = read_json(folder / "results.json")
    if committed.exists():
        results = report.kept(read_json(committed), results)
    write_json(committed, results)
    ship(profile)
    page.fill(root / "docs" / "results.md", {"results": lambda _: page.results_table(results)})
    seeds = root / "results" / "ppo_seeds.json"
    seeds = read_json(seeds) if seeds.exists() else None
    makers = {"headlines": lambda _: page.headlines(results, seeds)}
    makers |= {"answers": lambda _: page.answers(results["eval"])}
    page.fill(root / "README.md", makers)
    write_minutes(results["minutes"], root)
    page.stage_picture(results, root / "results")
    page.copy_figures(folder, root / "results" / "figures")
    teaching.update()


def write_minutes(minutes: dict[str, float], root: Path) -> None:
    """Put what each notebook took into the README's table and its title cell: of the source, and of the
    committed notebook.

    Raises:
        ValueError: if a title cell, or the table, has no place for it.
    """
    import nbformat

    readme = (root / "README.md").read_text(encoding="utf-8")
    for name in notebooks.FOLDERS.keys() & minutes:
        took = minutes[name]
        row = rf"(?m)^(\| \[{name}\][^|]*\|[^|]*\| )[^|]*(?= \|)"
        readme, rows = re.subn(row, rf"\g<1>{round(took)}", readme)
        if rows != 1:
            raise ValueError(f"README.md has {rows} rows of {name}.")
        source = root / "notebooks" / "source" / f"{name}.py"
        text = source.read_text(encoding="utf-8")
        source.write_text(notebooks.with_minutes(text, took), encoding="utf-8")
        committed = source.parents[1] / f"{name}.ipynb"
        notebook = nbformat.read(committed, as_version=4)
        notebook.cells[0].source = notebooks.with_minutes(notebook.cells[0].source, took)
        nbformat.write(notebook, committed)
    (root / "README.md").write_text(readme, encoding="utf-8")


def ship(profile: Profile) -> None:
    """Copy the adapters to ``checkpoints/local`` in bf16, so that any notebook opens cold."""
    import torch
    from safetensors.torch import load_file, save_file

    stages = (("sft", "adapter"), ("reward", "model"), ("ppo", "adapter"), ("gold", "model"))
    for stage, kind in stages:
        source = home() / profile.name / stage / kind
        target = project_root() / "checkpoints" / profile.name / stage / kind
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        weights = load_file(source / "adapter_model.safetensors")
        small = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        save_file(small, target / "adapter_model.safetensors", metadata={"format": "pt"})
        as_others_are(target)
