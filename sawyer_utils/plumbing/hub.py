"""The Hugging Face Hub, for the profiles that need it: login, access, streams, and what to do when
it does not answer. A token is neither asked for, nor printed, nor written anywhere.

The time limits are the libraries' own: HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, 10 s for each
request unless they are set. A file that stalls in the middle is given up after a minute and a half.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

UNGATED = {"meta-llama/Llama-2-7b-hf": "NousResearch/Llama-2-7b-hf"}  # the same weights
EMBEDDED_WAY = (
    'Without the Hub: os.environ["SAWYER_PROFILE"] = "local" before the setup cell, whose models and '
    "data are embedded."
)
LOG_IN = (
    "Log in with huggingface_hub.login(), or in Colab add a secret HF_TOKEN (the key at the left), give this "
    "notebook access to it and restart the session; a token that may read is enough."
)


class HubUnavailable(RuntimeError):
    """The Hub does not give what the profile needs; the message says what to do."""


def offline() -> bool:
    """Whether the Hub's libraries have been told to stay offline."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def endpoint() -> str:
    """The Hub's address, or that of the mirror in HF_ENDPOINT."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def trouble() -> str | None:
    """Why the Hub cannot be used, and what to do; None if it answers at all."""
    try:
        _ask()
    except Exception as error:  # of httpx or httpx2, whichever huggingface_hub has: _kind knows them by name
        return explain("The Hub", error, "")
    return None


def _ask() -> None:
    """A small request: any answer will do, an error of the server too.

    By the client that everything else goes through: only it shows which proxy and which certificates
    they will meet. Without this request a dead Hub is tried for 23 s, and the reason is lost.
    """
    _client().head(endpoint())


def _client():
    """huggingface_hub's HTTP client. As it comes, a request without a time limit of its own, such as that
    for access to a model, waits for ever."""
    import huggingface_hub

    client = huggingface_hub.get_session()
    client.timeout = huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT
    return client


# --- login --------------------------------------------------------------------------------------


def hf_login(optional: bool = True) -> bool:
    """Whether huggingface_hub finds a token: in HF_TOKEN, of an earlier login, among Colab's secrets.

    Never asks, and says in one line what it found. huggingface_hub asks Colab's secrets itself, once in a
    session: they answer or give up within 10 s, and a refusal is remembered.

    Raises:
        HubUnavailable: if there is none and ``optional`` is False.
    """
    import huggingface_hub

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        found = huggingface_hub.get_token() is not None
    if found:
        named = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        print(f"Hub login  {'HF_TOKEN' if named else 'an earlier login, or a secret of Colab'}")
        return True
    refused = [str(note.message).strip().splitlines()[0] for note in notes if "HF_TOKEN" in str(note.message)]
    why = " ".join(refused) or "no HF_TOKEN, no login, no secret of Colab."
    if not optional:
        raise HubUnavailable(f"No Hub token: {why} {LOG_IN}")
    print(f"Hub login  {why} Going on without: public models and data need none")
    return False


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
            _client()
            auth_check(name)
        except Exception as error:
            kind = _kind(error)
            if kind != "unknown":  # a mirror may not know the question; the download will tell
                raise HubUnavailable(_gated(name) if kind == "gated" else explain(name, error, "")) from None


def _gated(name: str) -> str:
    from huggingface_hub import get_token

    state = "your account has not been granted access" if get_token() else "no Hub token was found"
    lines = [
        f"{name} is gated: its owner wants its licence accepted, and {state}. Nothing was downloaded.",
        "The ways out; set a variable in a cell above the setup cell, then run that again:",
        f"1. Accept the licence at https://huggingface.co/{name}. {LOG_IN}",
    ]
    if copy := UNGATED.get(name):
        lines.append(f'2. The ungated copy: os.environ["SAWYER_MODEL"] = "{copy}"')
    lines.append(
        f'{len(lines) - 1}. Another model: os.environ["SAWYER_MODEL"] = "HuggingFaceTB/SmolLM2-1.7B", or the '
        'smaller profile: os.environ["SAWYER_PROFILE"] = "colab"'
    )
    return "\n".join(lines)


def fetch_stage(repo: str, stage: str) -> Path:
    """One stage's weights of a run that somebody pushed (``export.push_run``): safetensors and
    JSON, nothing that could run. Returns its folder in the Hub's cache.

    Raises:
        HubUnavailable: if it is out of reach, gated or gone, with the remedy.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{stage}/*/*.{kind}" for kind in ("safetensors", "json")]
    try:
        if not offline():
            _ask()
        return Path(snapshot_download(repo, allow_patterns=wanted)) / stage
    except Exception as error:
        raise HubUnavailable(explain(repo, error, kind="")) from error


# --- data ---------------------------------------------------------------------------------------


def stream(source: str, **part: str) -> Iterator[dict]:
    """The rows of a Hub data set, read as they are asked for: nothing is downloaded whole.

    Its files take turns. One after the other, a few thousand rows of Anthropic/hh-rlhf would all be of
    the first of its four subsets.

    Args:
        part: ``split``, and ``name`` of a configuration.

    Raises:
        HubUnavailable: if it is out of reach, slow, gated or gone, with the remedy.
    """
    import datasets

    # huggingface_hub tries each read six times; by default datasets would have that done twenty times.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    try:
        if not offline():
            _ask()
        place, part = _prepared(source, part)
        rows = datasets.load_dataset(place, streaming=True, **part)
        files = [rows.shard(rows.num_shards, i) for i in range(rows.num_shards)]
        yield from datasets.interleave_datasets(files, stopping_strategy="all_exhausted_without_replacement")
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


# --- what to do ---------------------------------------------------------------------------------


def explain(source: str, error: BaseException, kind: str = "datasets/") -> str:
    """One problem and its remedy, from the exceptions of several libraries.

    Args:
        kind: "datasets/", or "" for a model.
    """
    problem, remedy = {
        "gated": ("is gated", f"Accept its conditions at https://huggingface.co/{kind}{source}. {LOG_IN}"),
        "offline": ("is not cached, and HF_HUB_OFFLINE is set", "Unset HF_HUB_OFFLINE to go online."),
        "gone": (
            "does not exist on the Hub (any more), or is private",
            "It may have been renamed: look for it at https://huggingface.co.",
        ),
        "certificate": (
            f"cannot be read: the certificate shown for {endpoint()} is not trusted "
            f"({str(error).partition(chr(10))[0]})",
            "A proxy that opens TLS, as companies have, shows its own. Get its certificate file from whoever "
            "runs the network; set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to its path before Python starts.",
        ),
        "slow": (
            f"did not arrive: {endpoint()} gave no answer in time",
            "Try again in a minute; on a slow line set HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT to 60 "
            "(seconds) first. Behind a proxy set HTTPS_PROXY; for a mirror set HF_ENDPOINT.",
        ),
        "unreachable": (
            f"cannot be read: {endpoint()} is out of reach",
            "Check the network. Behind a proxy set HTTPS_PROXY; for a mirror set HF_ENDPOINT.",
        ),
        "unknown": (
            f"could not be read ({type(error).__name__}: {str(error)[:300]})",
            "The source may have changed, or the Hub be in trouble: try again in a minute.",
        ),
    }[_kind(error)]
    return f"{source} {problem}. {remedy} {EMBEDDED_WAY}"


def _kind(error: BaseException) -> str:
    """gated, offline, gone, certificate, slow, unreachable or unknown, from an exception and its causes."""
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
        # OpenSSL's words, which httpx and requests pass on, aiohttp's class, and those of hf_xet.
        "certificate": any("Cert" in name for name in names)
        or any(words in texts for words in ("CERTIFICATE_VERIFY_FAILED", "invalid peer certificate")),
        "slow": any("Timeout" in name for name in names),
        "unreachable": bool(names & {"ConnectionError", "ConnectError", "URLError"}),
    }
    return next((kind for kind, sign in signs.items() if sign), "unknown")
