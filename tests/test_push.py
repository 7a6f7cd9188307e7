"""``gac-sj push`` against a local stand-in for the Hugging Face Hub, which speaks its protocol."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
import pytest
import timm
import torch
from helpers.files import contents
from helpers.programs import refused, run

from gac_sj.checkpoint import load_pretrained, save_pretrained
from gac_sj.cli.main import main

pytestmark = pytest.mark.one_release

NAME = "gac_ms_resnet8_cifar"


class Hub(BaseHTTPRequestHandler):
    """One repository: made, then written by one commit."""

    files: dict[str, bytes]
    calls: list[str]

    def log_message(self, *arguments):
        pass

    def _answer(self, content, status=200):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.calls.append(self.path)
        good = self.headers.get("Authorization") == "Bearer hf_good"
        self._answer({"name": "me", "type": "user"} if good else {"error": "Invalid token."}, 200 if good else 401)

    def do_POST(self):
        self.calls.append(self.path)
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            return self._answer({"url": f"{self.server.address}/me/net", "name": "me/net"})
        if "/preupload/" in self.path:
            about = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(sent)["files"]]
            return self._answer({"files": [each | {"shouldIgnore": False, "oid": None} for each in about]})
        if "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            oid = "0123456789abcdef0123456789abcdef01234567"
            return self._answer(
                {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/me/net/commit/{oid}"}
            )
        return self._answer({"errors": [], "warnings": []})  # of the card's first lines


@pytest.fixture
def hub(monkeypatch):
    handler = type("Handler", (Hub,), {"files": {}, "calls": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    save_pretrained(timm.create_model(NAME, T=2).eval(), tmp_path / "net")
    (tmp_path / "net" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# net\n")
    return tmp_path / "net"


def test_the_folder_arrives_as_it_is(hub, folder, tmp_path):
    (folder / ".lock").touch()
    printed = run(main, "push", folder, "--to", "hf-hub:me/net")
    assert printed.startswith("hf-hub:me/net@0123456789abcdef") and "timm.create_model('hf-hub:me/net'" in printed
    assert hub.files == {str(name): content for name, (content, _) in contents(folder).items()}
    assert set(hub.files) == {"README.md", "config.json", "model.safetensors"}
    for name, content in hub.files.items():
        (tmp_path / "there" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(content)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_pretrained(tmp_path / "there")(x), load_pretrained(folder)(x))


@pytest.mark.parametrize(
    "to", ["me/net", "hf-hub:net", "hf-hub:me/net/more", "hf-hub:me/a b", "hf-hub:", "hf-hub:me/net@v1"]
)
def test_malformed_names_are_refused(hub, folder, to, capsys):
    refused(capsys, main, ["push", folder, "--to", to], "--to must be hf-hub:OWNER/NAME", repr(to))
    assert not hub.calls


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "README.md").unlink(), ["no model card README.md"]),
        (lambda folder: (folder / "config.json").unlink(), ["not a folder of weights with a config.json"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["has no model.safetensors"]),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 9), ["checksum is wrong"]),
    ],
)
def test_folders_in_another_form_are_refused(hub, folder, change, words, capsys):
    change(folder)
    refused(capsys, main, ["push", folder, "--to", "hf-hub:me/net"], *words)
    assert not hub.calls


def test_without_a_login_or_a_network_nothing_is_pushed(hub, folder, capsys, monkeypatch):
    command = ["push", folder, "--to", "hf-hub:me/net"]
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    refused(capsys, main, command, "hf-hub:me/net cannot be written", "your token may write")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(capsys, main, command, "hf-hub:me/net cannot be written", "check the network")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(folder / "nowhere"))
    refused(capsys, main, command, "Nobody is logged in", "hf auth login")
    assert not hub.files
