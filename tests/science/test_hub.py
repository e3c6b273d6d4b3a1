"""Models of the hub, which a server on this machine plays: fetched by name, whatever lies beside them."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from scattervae.errors import CheckpointError
from scattervae.science import shipped
from scattervae.science.shipped import model_folder, push, shipped_models

huggingface_hub = pytest.importorskip("huggingface_hub")
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that offers `files` as the model some/stars, and notes what is asked of it."""
    state = SimpleNamespace(files={}, asked=[], sizes={})

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.partition("?")[0]
            state.asked.append(path)
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": n, "size": len(c), "oid": "b"} for n, c in state.files.items()
                ]
                return self.answer(json.dumps(tree).encode())
            if path in ("/api/models/some/stars", "/api/models/some/stars/revision/main") or path.endswith(
                SHA
            ):
                files = [
                    {
                        "rfilename": name,
                        "size": state.sizes.get(name, len(content)),
                        "blobId": "b",
                        "lfs": None,
                    }
                    for name, content in state.files.items()
                ]
                return self.answer(json.dumps({"id": "some/stars", "sha": SHA, "siblings": files}).encode())
            name = path.partition(f"/resolve/{SHA}/")[2]
            if name in state.files:
                return self.answer(state.files[name])
            return self.answer(b"{}", status=404)

        def answer(self, content, status=200):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", SHA)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield state
    server.shutdown()
    server.server_close()


def files_of(folder):
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_name_of_the_hub_is_a_model_wherever_one_is_taken(hub, cli):
    from scattervae import load_model

    hub.files = files_of(shipped_models()["best"])
    for name in ("some/stars", f"some/stars@{SHA}"):
        assert load_model(name).digest == load_model("best").digest
    assert cli("info", "some/stars", "--json").json["digest"] == load_model("best").digest


def test_code_and_pickles_beside_it_stay_where_they_are(hub):
    own = files_of(shipped_models()["best"])
    hub.files = own | {"setup.py": b"x", "model.pkl": b"x", "labels/a.py": b"x", "../../up.json": b"{}"}
    assert files_of(model_folder("some/stars")).keys() == own.keys()
    assert not any(name.endswith((".py", ".pkl", "up.json")) for name in hub.asked)


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "some/stars",
            {"weights.safetensors": 10**10},
            r"10,0\d\d MB on the hub; models have 500 MB at most",
        ),
        ("some/other", {}, "the hub does not give it"),
        ("some/stars@no-such", {}, "the hub does not give it"),
    ],
)
def test_what_cannot_be_a_model_is_refused_in_one_line(hub, name, sizes, message):
    hub.files, hub.sizes = files_of(shipped_models()["best"]), sizes
    with pytest.raises(CheckpointError, match=message) as refused:
        model_folder(name)
    assert "\n" not in str(refused.value)
    assert not any("resolve" in path for path in hub.asked)


def test_a_repository_without_a_model_and_a_damaged_one(hub):
    from scattervae import load_model

    hub.files = {"README.md": b"hello"}
    with pytest.raises(CheckpointError, match="no model of scattervae"):
        model_folder("some/stars")
    hub.files = files_of(shipped_models()["best"])
    hub.files["weights.safetensors"] = hub.files["weights.safetensors"][:-4] + b"evil"
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: "):
        load_model("some/stars")


def test_a_mistyped_path_is_not_looked_up(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match=r"runs/modle: no such folder, and no model of that name"):
        model_folder("runs/modle")
    assert hub.asked == []


def test_push_sends_files_of_a_model_alone(monkeypatch, cli):
    sent = {}

    class Api:
        def __init__(self, endpoint):
            pass

        def create_repo(self, name, exist_ok):
            sent["repo"] = name if exist_ok else None

        def upload_folder(self, **given):
            sent.update(given)
            return SimpleNamespace(commit_url="https://hub/some/stars")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    run = cli("push", "best", "some/stars")
    assert (run.code, run.out.endswith("to https://hub/some/stars\n")) == (0, True)
    assert (sent["repo"], sent["repo_id"]) == ("some/stars", "some/stars")
    assert sent["allow_patterns"] == list(shipped.MODEL_FILES)
    with pytest.raises(CheckpointError, match="expected user/name"):
        push(shipped_models()["best"], "stars")
