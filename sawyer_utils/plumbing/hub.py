"""The Hugging Face Hub, for the profiles that need it: login, access, streams, and what to do when
it does not answer. A token is neither asked for, nor printed, nor written anywhere.

The time limits are the libraries' own: HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, 10 s for each
request unless they are set. A file that stalls in the middle is given up after a minute and a half.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from sawyer_utils.plumbing import paths

UNGATED = {"meta-llama/Llama-2-7b-hf": "NousResearch/Llama-2-7b-hf"}  # the same weights
EMBEDDED_WAY = (
    'Without the Hub: os.environ["SAWYER_PROFILE"] = "local" before the setup cell, whose models and '
    "data are embedded."
)
# (what exceptions are called or say, the problem, the remedy), the first that fits. A request may go through
# huggingface_hub, datasets, httpx, requests, aiohttp or hf_xet, each of which has its own.
TROUBLES = (
    (
        "GatedRepoError|is a gated",
        "is gated, and {access}",
        "Accept the licence at {page}. Log in with huggingface_hub.login(), or in Colab add a secret "
        "HF_TOKEN (the key at the left), give this notebook access to it and restart the session; a token "
        "that may read is enough.{copy}",
    ),
    (
        r"OfflineMode|outgoing traffic has been disabled|(?s:\Aoffline .*EmptyDatasetError)",
        "is not cached, and HF_HUB_OFFLINE is set{nor_here}",
        "Unset HF_HUB_OFFLINE to go online.",
    ),
    (
        "RepositoryNotFoundError|DatasetNotFoundError",
        "does not exist on the Hub (any more), or is private{nor_here}",
        "Is it spelt right? It may have been renamed: look for it at https://huggingface.co. If it is "
        "private, log in with huggingface_hub.login() or set HF_TOKEN to a token that may read it.",
    ),
    (
        "Config name is missing|BuilderConfig .* not found|Bad split|Unknown split",
        "has several configurations, or no such split ({said})",
        'A configuration stands behind a colon: "owner/name:configuration". Of another split download once: '
        'datasets.load_dataset("{source}", "configuration", split="…").to_json("mine.jsonl"), and name '
        "that file.",
    ),
    (
        "No space left on device|Disk quota exceeded|PermissionError|Read-only file system",
        "cannot be stored in the Hub's cache ({said})",
        "Make room, or set HF_HOME to a folder of yours before Python starts.",
    ),
    (
        r"Cert\w*Error|CERTIFICATE_VERIFY_FAILED|invalid peer certificate",
        "cannot be read: the certificate shown for {endpoint} is not trusted ({said})",
        "A proxy that opens TLS, as companies have, shows its own. Get its certificate file from whoever "
        "runs the network; set SSL_CERT_FILE and REQUESTS_CA_BUNDLE to its path before Python starts.",
    ),
    (
        "Timeout|ConnectionError|ConnectError|URLError",
        "cannot be read: {endpoint} does not answer in time, or not at all{nor_here}",
        "Check the network and try again in a minute. On a slow line set HF_HUB_ETAG_TIMEOUT and "
        "HF_HUB_DOWNLOAD_TIMEOUT to 60 (seconds), behind a proxy HTTPS_PROXY, for a mirror HF_ENDPOINT.",
    ),
    ("", "could not be read ({said})", "The source may have changed, or the Hub be in trouble: try again."),
)


class HubUnavailable(RuntimeError):
    """The Hub does not give what the profile needs; the message says what to do."""


def explain(source: str, error: BaseException, kind: str = "model") -> str:
    """One problem and its remedy, from the exceptions of several libraries.

    Args:
        kind: "model" or "dataset".
    """
    words, cause = "offline " * offline(), error
    while cause is not None:
        words += f"{' '.join(cls.__name__ for cls in type(cause).__mro__)} {cause} "
        cause = cause.__cause__ or cause.__context__
    problem, remedy = next(trouble[1:] for trouble in TROUBLES if re.search(trouble[0], words))
    known = huggingface_hub.get_token()
    copy = f' Or take the ungated copy: os.environ["SAWYER_MODEL"] = "{UNGATED.get(source)}".'
    said = f"{problem}. {remedy}".format(
        access="your account has not been granted access" if known else "no Hub token was found",
        source=source.partition(":")[0],
        page=f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{source}",
        endpoint=constants.ENDPOINT,
        nor_here="; nor is a file or folder here called so",  # whoever meant one has only mistyped it
        said=f"{type(error).__name__}: {str(error)[:300]}",
        copy=copy if source in UNGATED else "",
    )
    return f"{source} {said} {EMBEDDED_WAY}"


@contextmanager
def explained(source: str, kind: str = "model") -> Iterator[None]:
    """Whatever goes wrong inside is a HubUnavailable with the remedy."""
    try:
        yield
    except Exception as error:
        raise HubUnavailable(explain(source, error, kind)) from error


def offline() -> bool:
    """Whether the Hub's libraries have been told to stay offline."""
    return constants.HF_HUB_OFFLINE


def ask(source: str = "The Hub") -> None:
    """A small request: any answer will do. Without it a dead Hub is tried for 23 s, and the reason is lost.

    Raises:
        HubUnavailable: if nothing answers.
    """
    with explained(source):
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def token_state() -> str:
    """Whether there is a token in HF_TOKEN, of an earlier login, or among Colab's secrets."""
    return "found" if huggingface_hub.get_token() else "none; public models and data need none"


def check_access(models: Iterable[str]) -> None:
    """Before anything downloads: may each of these Hub models be read? What is cached is not asked for.

    Raises:
        HubUnavailable: gated, gone or out of reach, with the ways out.
        NoSuchPath: for what can only be a path; nothing is asked for then (nor below).
    """
    for name in models:
        paths.existing(name)
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            with explained(name):
                url = huggingface_hub.hf_hub_url(name, "config.json")
                huggingface_hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)


def fetch_stage(repo: str, stage: str) -> Path:
    """The folder with one stage of a run that somebody pushed (``export.push_run``): safetensors and JSON,
    nothing that could run.

    Raises:
        HubUnavailable: if it is out of reach, gated or gone, with the remedy.
    """
    paths.existing(repo)
    wanted = [f"{stage}/*/*.{kind}" for kind in ("safetensors", "json")]
    if not offline():
        ask(repo)
    with explained(repo):
        return Path(huggingface_hub.snapshot_download(repo, allow_patterns=wanted)) / stage


def stream(source: str, split: str, name: str = "") -> Iterator[dict]:
    """The rows of a Hub data set, read as they are asked for: nothing is downloaded whole. Its files take
    turns: one after the other, a few thousand rows of Anthropic/hh-rlhf would all be of its first subset.

    Offline they are those of the Hub's cache, where ``prepare`` puts them (``datasets`` looks for files of
    its own making only).

    Args:
        name: of a configuration, which has a folder of its own.

    Raises:
        HubUnavailable: if it is out of reach, slow, gated or gone, with the remedy.
    """
    import datasets

    paths.existing(source)
    # huggingface_hub tries each read six times; by default datasets would have that done twenty times.
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    with explained(source, "dataset"):
        if offline():
            folder = huggingface_hub.snapshot_download(source, repo_type="dataset", local_files_only=True)
            rows = datasets.load_dataset(str(Path(folder, name)), split=split, streaming=True)
        else:
            ask(source)
            rows = datasets.load_dataset(source, name or None, split=split, streaming=True)
        files = [rows.shard(rows.num_shards, i) for i in range(rows.num_shards)]
        yield from datasets.interleave_datasets(files, stopping_strategy="all_exhausted_without_replacement")
