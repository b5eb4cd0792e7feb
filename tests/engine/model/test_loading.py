"""A model is loaded as its folder has it: weights, tokenizer, template, dtype; what is not whole is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.errors import Corrupt, Invalid, NotFound, Unavailable
from engine.model.loading import UNKNOWN_CONTEXT_TOKENS, chosen_device, chosen_dtype, load
from engine.model.sources import INSTALL
from engine.tiers.kv.tensors import WorkingCache
from tests.engine.model.families import CONTINUED_WRONGLY, REFUSED, config_of
from tests.engine.model.saved import opened, saved, settings
from tests.engine.model.small import CHATML, tokenizer_of

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[3]
NAMED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "phi", "phi3", "smollm3")
IDS = torch.arange(5, 45)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", NAMED)
def test_each_family_is_loaded_with_its_weights_and_a_kept_prefix_equals_full_prefill(
    name: str, tmp_path: Path
) -> None:
    loaded = opened(saved(tmp_path / "model", name), tmp_path)
    assert (loaded.info.device, loaded.info.dtype, loaded.info.kv_refusal) == ("cpu", "float32", None)
    assert loaded.info.family == name
    assert loaded.info.context_tokens == 2_048
    assert loaded.info.parameters == sum(one.numel() for one in loaded.model.parameters())
    assert loaded.info.kv_bytes_per_token == loaded.layout.bytes_per_token(4) > 0
    cache = WorkingCache(loaded.model.config)
    with torch.inference_mode():
        full = loaded.model(input_ids=IDS).logits
        loaded.model(input_ids=IDS[:, :30], past_key_values=cache, use_cache=True)
        kept = cache.taken(0, 30)
        again = WorkingCache(loaded.model.config)
        again.append(kept)
        rest = loaded.model(input_ids=IDS[:, 30:], past_key_values=again, use_cache=True).logits
        original = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()(input_ids=IDS).logits
    assert torch.equal(full, original)
    assert (rest - full[:, 30:]).abs().max() <= 1e-4


def test_the_tokenizer_is_the_one_in_the_file_whatever_the_family_usually_has(folder: Path, tmp_path: Path) -> None:
    text, plain = "What is the city of Alice? Füße, 東京", Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = opened(folder, tmp_path)
    assert loaded.tokenizer(text, add_special_tokens=False)["input_ids"] == plain.encode(text).ids
    words = saved(tmp_path / "words", "qwen2", tokenizer=tokenizer_of("words"))
    _replace(words / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    plain = Tokenizer.from_file(str(words / "tokenizer.json"))
    text = "the city of alice is paris ."
    assert AutoTokenizer.from_pretrained(words)(text)["input_ids"] != plain.encode(text).ids  # why it is not used
    assert opened(words, tmp_path).tokenizer(text)["input_ids"] == plain.encode(text).ids


def test_the_template_is_found_in_each_place_and_its_lack_is_said(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    assert opened(model, tmp_path).template == CHATML
    (model / "chat_template.jinja").unlink()
    said: list[str] = []
    assert load(str(model), settings(tmp_path), said.append).template is None
    assert ["no chat template" in line for line in said] == [True]
    (model / "chat_template.json").write_text(json.dumps({"chat_template": "from the processor"}))
    assert opened(model, tmp_path).template == "from the processor"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "the default"}]
    _replace(model / "tokenizer_config.json", chat_template=named)
    assert opened(model, tmp_path).template == "the default"
    _replace(model / "tokenizer_config.json", chat_template="the only")
    assert opened(model, tmp_path).template == "the only"


def test_auto_takes_the_dtype_of_the_weights_where_the_device_computes_in_it() -> None:
    cpu = torch.device("cpu")
    assert chosen_dtype("auto", cpu, torch.float32) is torch.float32
    assert chosen_dtype("auto", cpu, torch.float16) is torch.float32
    can = torch.cpu.get_capabilities()
    native = any(can.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    assert chosen_dtype("auto", cpu, torch.bfloat16) is (torch.bfloat16 if native else torch.float32)
    assert chosen_dtype("float16", cpu, torch.float32) is torch.float16
    assert chosen_dtype("bfloat16", cpu, torch.float32) is torch.bfloat16


def test_the_dtype_is_read_from_the_weights_where_the_configuration_is_silent(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", dtype=torch.float16)
    _replace(model / "config.json", dtype=None)
    assert opened(model, tmp_path, model_dtype="auto").info.dtype == "float32"
    loaded = opened(model, tmp_path, model_dtype="bfloat16")
    assert loaded.info.dtype == "bfloat16"
    assert loaded.model.dtype is torch.bfloat16
    assert loaded.info.kv_bytes_per_token == loaded.layout.bytes_per_token(2)


def test_a_device_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    assert chosen_device("cpu") == torch.device("cpu")
    for wanted in ("toaster", "cuda:99", "meta"):
        with pytest.raises(Invalid, match="MEMOS_MODEL_DEVICE"):
            opened(folder, tmp_path, model_device=wanted)


def test_the_context_is_what_the_model_takes_or_less(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    assert opened(model, tmp_path, model_context_tokens=100).info.context_tokens == 100
    said: list[str] = []
    more = settings(tmp_path, model_context_tokens=9_999)
    assert load(str(model), more, said.append).info.context_tokens == 2_048
    assert any("at most 2048" in line for line in said)
    two = saved(tmp_path / "two", "phi3 of two lengths")
    assert opened(two, tmp_path).info.context_tokens == 512
    silent = saved(tmp_path / "silent", "bloom")
    _drop(silent / "config.json", "max_position_embeddings", "seq_length")
    assert opened(silent, tmp_path).info.context_tokens == UNKNOWN_CONTEXT_TOKENS


def test_loading_leaves_threads_that_somebody_chose(folder: Path, tmp_path: Path) -> None:
    opened(folder, tmp_path)
    assert torch.get_num_threads() == 1


def test_a_family_without_kept_caches_is_loaded_with_the_reason(tmp_path: Path) -> None:
    family, more, word = REFUSED["linear attention"]
    model = _saved_config(tmp_path / "model", family, more)
    loaded = opened(model, tmp_path)
    assert loaded.info.kv_refusal is not None
    assert word in loaded.info.kv_refusal
    assert loaded.info.kv_bytes_per_token == 0
    assert loaded.layout.rope is None


def test_a_model_that_would_answer_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"bamba.*wrongly.*choose another"):
        opened(_saved_config(tmp_path / "model", *CONTINUED_WRONGLY), tmp_path)


def test_damaged_and_missing_weights_are_told_apart(folder: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(folder, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(Corrupt, match="fetch the model again"):
        opened(cut, tmp_path)
    fewer = shutil.copytree(folder, tmp_path / "fewer")
    _replace(fewer / "config.json", num_hidden_layers=4, layer_types=["full_attention"] * 4)
    with pytest.raises(Corrupt, match=r"lack model\.layers\.3"):
        opened(fewer, tmp_path)
    parts = saved(tmp_path / "parts", shard_size="100KB")
    assert opened(parts, tmp_path).info.kv_refusal is None
    (parts / "model-00001-of-00002.safetensors").unlink(missing_ok=True)
    for shard in sorted(parts.glob("model-00001-*.safetensors")):
        shard.unlink()
    with pytest.raises(Unavailable, match="lacks model-00001"):
        opened(parts, tmp_path)


def test_pickled_weights_and_code_of_a_model_are_never_used(folder: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(Unavailable, match="safetensors"):
        opened(pickled, tmp_path)
    coded = shutil.copytree(folder, tmp_path / "coded")
    trap = tmp_path / "ran"
    (coded / "own.py").write_text(f"open({str(trap)!r}, 'w')\n")
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    _replace(coded / "config.json", model_type="of-its-own", auto_map=auto)
    with pytest.raises(Unavailable, match="code of its own"):
        opened(coded, tmp_path)
    assert not trap.exists()


def test_what_is_no_causal_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    config_of("t5", {}).save_pretrained(other)
    with pytest.raises(Unavailable, match="not a causal language model"):
        opened(other, tmp_path)
    (other / "config.json").write_text("{ broken")
    with pytest.raises(Unavailable, match="could not be loaded"):
        opened(other, tmp_path)
    (other / "config.json").unlink()
    with pytest.raises(Unavailable, match=r"no config\.json"):
        opened(other, tmp_path)


def test_names_that_are_nowhere_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        opened(tmp_path / "nowhere", tmp_path)
    with pytest.raises(NotFound, match="Hugging Face name"):
        load("two words", settings(tmp_path), print)
    with pytest.raises(Unavailable, match=r"downloads are off.*hf download nobody/nothing"):
        load("nobody/nothing", settings(tmp_path), print)


# --- names: in a process of its own, which sees another Hugging Face -------------------------------------------------


@pytest.fixture
def hub(folder: Path) -> Iterator[str]:
    """A Hugging Face that has one model, `someone/small`, one that wants terms accepted, and nothing else."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    commit = "0123456789abcdef0123456789abcdef01234567"

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/someone/terms"):
                self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            elif path.startswith("/api/models/someone/small/tree/"):
                rows = [
                    {"type": "file", "path": name, "size": len(content), "oid": f"{number:040x}"}
                    for number, (name, content) in enumerate(files.items())
                ]
                self.answer(200, json.dumps(rows).encode())
            elif path.startswith("/api/models/someone/small"):
                siblings = [{"rfilename": name} for name in files]
                facts = {"id": "someone/small", "sha": commit, "siblings": siblings, "private": False}
                self.answer(200, json.dumps(facts).encode())
            elif path.startswith(f"/someone/small/resolve/{commit}/") and path.rpartition("/")[2] in files:
                name = path.rpartition("/")[2]
                mark = f'"{list(files).index(name):040x}"'
                self.answer(200, files[name], {"X-Repo-Commit": commit, "ETag": mark})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


NAMES = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from engine.errors import MemosError
from engine.model.loading import load
from engine.settings import Settings
online = Settings(data=Path(sys.argv[1]))
for source in ("someone/small", "someone/small", "someone/terms", "someone/nothing"):
    try:
        print("loaded", load(source, online, lambda line: print("said", line)).info.source)
    except MemosError as error:
        print(error.code, error)
print("offline", load("someone/small", replace(online, offline=True), print).info.family)
"""


def test_a_name_is_downloaded_once_which_is_said_and_then_loaded_without_a_network(hub: str, tmp_path: Path) -> None:
    lines = _process(NAMES, str(tmp_path / "data"), HF_ENDPOINT=hub, HF_HOME=str(tmp_path / "hf")).splitlines()
    assert lines[0].startswith("said downloading the model someone/small (0.0 GB) from Hugging Face to ")
    assert lines[1:3] == ["loaded someone/small"] * 2
    assert lines[3].startswith("Unavailable someone/terms is given only to people who accepted its terms")
    assert lines[4].startswith("NotFound Hugging Face has no model someone/nothing")
    assert lines[5:] == ["offline qwen2"]


SWITCH = """
import sys, threading
from pathlib import Path
from engine.errors import Busy
from engine.model.host import ModelHost
from engine.settings import Settings
reached, go_on = threading.Event(), threading.Event()
def announce(line):
    reached.set()
    assert go_on.wait(60)
def ask():
    try:
        print(host.runner("someone/small").loaded.info.source)
    except Busy as error:
        print(error)
host = ModelHost(Settings(data=Path(sys.argv[1]), model=sys.argv[2]), announce)
runner = host.runner()
asking = threading.Thread(target=ask)
asking.start()
assert reached.wait(60)
print(host.state.stage, host.state.source)
assert host.runner() is runner
print(runner.call(lambda loaded: loaded.info.source) == sys.argv[2])
try:
    host.runner("someone/other")
except Busy as error:
    print(error)
with host.in_use():
    go_on.set()
    asking.join()
print(host.state.stage, host.state.source == sys.argv[2], host.runner() is runner)
ask()
host.close()
"""


def test_the_model_that_is_there_answers_until_the_files_of_another_are(hub: str, folder: Path, tmp_path: Path) -> None:
    there = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "hf")}
    assert _process(SWITCH, str(tmp_path / "data"), str(folder), **there).splitlines() == [
        "loading someone/small",
        "True",
        "the model someone/small is being loaded: ask for someone/other when it is there",
        f"the model {folder.name} is at work: ask for someone/small when it is idle",
        "ready True True",
        "someone/small",
    ]


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "accelerate"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
from pathlib import Path
from engine.errors import Unavailable
from engine.model.host import ModelHost
from engine.settings import Settings
host = ModelHost(Settings(data=Path(sys.argv[1]), model="someone/small"), print)
try:
    host.runner()
except Unavailable as error:
    print(error)
print(host.state.stage, host.info)
"""


def test_without_the_extra_the_host_says_what_to_install(tmp_path: Path) -> None:
    said = _process(WITHOUT, str(tmp_path)).splitlines()
    assert said == [
        f"the local model needs torch and transformers and accelerate: {INSTALL}",
        "unloaded None",
    ]


def _process(program: str, *arguments: str, **environment: str) -> str:
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MEMOS_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=ROOT,
        env={**keep, **environment, "OMP_NUM_THREADS": "1", "NO_PROXY": "*", "no_proxy": "*"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _replace(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def _drop(path: Path, *names: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text("utf-8")).items() if k not in names}))


def _saved_config(folder: Path, family: str, more: dict[str, object]) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config_of(family, more), dtype=torch.float32).save_pretrained(folder)
    tokenizer_of("bytes").save_pretrained(folder)
    return folder
