"""The Hugging Face Hub, for the profiles that need it: login, access, streams, and what to do when
it does not answer. A token is neither asked for, nor printed, nor written anywhere.

``huggingface_hub`` waits for a slow Hub as long as that takes, and ``datasets`` tries a dead one for
half a minute; so everything here has a time limit of its own.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

UNGATED = {"meta-llama/Llama-2-7b-hf": "NousResearch/Llama-2-7b-hf"}  # the same weights
ANSWER_SECONDS = 10.0  # for a small request
ROW_SECONDS = 90.0  # for a row of a stream: the first one opens a file of up to a GB
VAULT_SECONDS = 30.0  # to click on Colab's "grant access"
EMBEDDED_WAY = (
    'Without the Hub: os.environ["SAWYER_PROFILE"] = "local" before the setup cell, whose models and '
    "data are embedded."
)


class HubUnavailable(RuntimeError):
    """The Hub does not give what the profile needs; the message says what to do."""


def within(seconds: float, function: Callable, *arguments) -> Any:
    """The function's result or exception, or TimeoutError if it takes longer."""
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def work():
        try:
            answers.put((function(*arguments), None))
        except BaseException as error:  # handed to the caller
            answers.put((None, error))

    context = contextvars.copy_context()  # the kernel knows by it which cell is running
    threading.Thread(target=context.run, args=(work,), daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def offline() -> bool:
    """Whether the Hub's libraries have been told to stay offline."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def reachable() -> bool:
    """Whether the Hub, or the mirror in HF_ENDPOINT, answers at all."""
    try:
        _knock()
    except (OSError, ValueError):
        return False
    return True


def _knock() -> None:
    """A small request; any answer will do, an error of the server too."""

    def ask():
        request = urllib.request.Request(endpoint(), method="HEAD", headers={"User-Agent": "sawyer"})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request, timeout=ANSWER_SECONDS).close()

    within(ANSWER_SECONDS, ask)


# --- login --------------------------------------------------------------------------------------


def hf_login(optional: bool = True) -> bool:
    """Use a Hub token if one is at hand: HF_TOKEN, a login of ``huggingface_hub``, Colab's secrets.

    Never asks and never waits long; says in one line what it found. A secret of Colab goes into this
    process's environment and nowhere else.

    Raises:
        HubUnavailable: if there is none and ``optional`` is False.
    """
    found, why = _find_token()
    if not found and not optional:
        raise HubUnavailable(f"No Hub token: {why}. {_how_to_log_in()}")
    print(f"Hub login  {why}" + ("" if found else "; going on without: public models and data need none"))
    return found


def _find_token() -> tuple[bool, str]:
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True, "token of the environment (HF_TOKEN)"
    from huggingface_hub import constants

    if os.path.exists(constants.HF_TOKEN_PATH):
        return True, "the login of huggingface_hub on this machine"
    if "google.colab" not in sys.modules:
        return False, "no HF_TOKEN, no login"
    return _ask_vault()


def _ask_vault() -> tuple[bool, str]:
    """Colab's secrets. They answer in the Colab web page only, and may be refused or time out."""
    try:
        from google.colab import userdata

        token = within(VAULT_SECONDS, userdata.get, "HF_TOKEN")
    except TimeoutError:
        found, why = False, f"Colab's secrets gave no answer within {VAULT_SECONDS:g} s"
    except Exception as error:  # its classes differ from one Colab to the next: go by their names
        found, why = False, _REFUSALS.get(type(error).__name__, f"Colab's secrets: {type(error).__name__}")
    else:
        found = bool(token and token.strip())
        why = "the secret HF_TOKEN of Colab" if found else "Colab's secret HF_TOKEN is empty"
    if found:
        os.environ["HF_TOKEN"] = token.strip()
    else:
        _ask_no_more()
    return found, why


_REFUSALS = {
    "NotebookAccessError": "this notebook has no access to Colab's secret HF_TOKEN",
    "SecretNotFoundError": "no HF_TOKEN among Colab's secrets",
    "TimeoutException": "Colab's secrets timed out",
}


def _ask_no_more() -> None:
    """huggingface_hub would ask the vault once more at the first download, with another wait."""
    from huggingface_hub.utils import _auth

    if hasattr(_auth, "_IS_GOOGLE_COLAB_CHECKED"):
        _auth._IS_GOOGLE_COLAB_CHECKED = True


def _how_to_log_in() -> str:
    return (
        "Log in with huggingface_hub.login(), or in Colab add a secret HF_TOKEN (the key at the left) and "
        "give this notebook access to it; a token that may read is enough."
    )


# --- models -------------------------------------------------------------------------------------


def check_access(models: Iterable[str]) -> None:
    """Before anything downloads: may each of these Hub models be read?

    What is cached is not asked for, and neither is anything when offline.

    Raises:
        HubUnavailable: gated, gone or out of reach, with the ways out.
    """
    from huggingface_hub import auth_check, try_to_load_from_cache

    for name in models:
        if offline() or isinstance(try_to_load_from_cache(name, "config.json"), str):
            continue
        try:
            within(ANSWER_SECONDS, auth_check, name)
        except Exception as error:
            kind = _kind(error)
            if kind != "unknown":  # a mirror may not know the question; the download will tell
                raise HubUnavailable(_gated(name) if kind == "gated" else explain(name, error, "")) from None


def _gated(name: str) -> str:
    has_token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    state = "your account has not been granted access" if has_token else "no Hub token was found"
    lines = [
        f"{name} is gated: its owner wants its licence accepted, and {state}. Nothing was downloaded.",
        "The ways out; set a variable in a cell above the setup cell, then run that again:",
        f"1. Accept the licence at https://huggingface.co/{name}. {_how_to_log_in()}",
    ]
    if copy := UNGATED.get(name):
        lines.append(f'2. The ungated copy: os.environ["SAWYER_MODEL"] = "{copy}"')
    lines.append(
        f'{len(lines) - 1}. Another model: os.environ["SAWYER_MODEL"] = "HuggingFaceTB/SmolLM2-1.7B", or the '
        'smaller profile: os.environ["SAWYER_PROFILE"] = "colab"'
    )
    return "\n".join(lines)


# --- data ---------------------------------------------------------------------------------------


def stream(source: str, **part: str) -> Iterator[dict]:
    """The rows of a Hub data set, read as they are asked for: nothing is downloaded whole.

    Args:
        part: ``split``, and ``name`` of a configuration.

    Raises:
        HubUnavailable: if it is out of reach, slow, gated or gone, with the remedy.
    """
    import datasets

    try:
        if not offline():
            _knock()
        place, part = _prepared(source, part)
        rows = iter(within(ROW_SECONDS, lambda: datasets.load_dataset(place, streaming=True, **part)))
        end = object()
        while (row := within(ROW_SECONDS, next, rows, end)) is not end:
            yield row
    except Exception as error:
        raise HubUnavailable(explain(source, error)) from error


def _prepared(source: str, part: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Offline, the folder of a data set in the Hub cache, where ``prepare`` puts it (``datasets`` looks
    for files of its own making only); else what was asked for, as it is."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not offline():
        return source, part
    try:
        folder = Path(snapshot_download(source, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return source, part
    if (folder / part.get("name", "")).is_dir():  # with a name: a configuration in a folder of its own
        return str(folder / part.pop("name", "")), part
    return str(folder), part


def fetch_stage(repo: str, stage: str) -> Path:
    """One stage's weights of a run that somebody pushed (:func:`sawyer_utils.export.push_run`): safetensors
    and JSON, nothing that could run. Returns its folder in the Hub's cache.

    Raises:
        HubUnavailable: if it is out of reach, gated or gone, with the remedy.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{stage}/*/*.{kind}" for kind in ("safetensors", "json")]
    try:
        if not offline():
            _knock()
        return Path(snapshot_download(repo, allow_patterns=wanted)) / stage
    except Exception as error:
        raise HubUnavailable(explain(repo, error, kind="")) from error


# --- what to do ---------------------------------------------------------------------------------


def explain(source: str, error: BaseException, kind: str = "datasets/") -> str:
    """One problem and its remedy, from the exceptions of three libraries.

    Args:
        kind: "datasets/", or "" for a model.
    """
    problem, remedy = {
        "gated": (
            "is gated",
            f"Accept its conditions at https://huggingface.co/{kind}{source}. {_how_to_log_in()}",
        ),
        "offline": ("is not cached, and HF_HUB_OFFLINE is set", "Unset HF_HUB_OFFLINE to go online."),
        "gone": (
            "does not exist on the Hub (any more), or is private",
            "It may have been renamed: look for it at https://huggingface.co.",
        ),
        "slow": (
            f"did not arrive: {endpoint()} gave no answer in time",
            "Try again in a minute. Behind a proxy set HTTPS_PROXY; for a mirror set HF_ENDPOINT.",
        ),
        "unreachable": (
            f"cannot be fetched: {endpoint()} is out of reach",
            "Check the network. Behind a proxy set HTTPS_PROXY; for a mirror set HF_ENDPOINT.",
        ),
        "unknown": (
            f"could not be read ({type(error).__name__}: {str(error)[:300]})",
            "The source may have changed, or the Hub be in trouble: try again in a minute.",
        ),
    }[_kind(error)]
    return f"{source} {problem}. {remedy} {EMBEDDED_WAY}"


def _kind(error: BaseException) -> str:
    """gated, offline, gone, slow, unreachable or unknown, from an exception and what caused it."""
    names, texts = set(), ""
    seen: BaseException | None = error
    while seen is not None:
        names |= {cls.__name__ for cls in type(seen).__mro__}
        texts += f"{seen} "
        seen = seen.__cause__ or seen.__context__
    signs = {
        "gated": "GatedRepoError" in names or "is a gated" in texts,
        "offline": "OfflineModeIsEnabled" in names or "OfflineModeIsEnabled" in texts,
        "gone": bool(names & {"RepositoryNotFoundError", "DatasetNotFoundError"}),
        "slow": any("Timeout" in name for name in names),
        "unreachable": bool(names & {"ConnectionError", "ConnectError", "URLError"}),
    }
    return next((kind for kind, sign in signs.items() if sign), "unknown")
