"""examples/web in a real browser, without a network: the page writes what the model writes.

What it needs beside the suite: the extra onnx, node with npm (whose registry has onnxruntime-web), and Chromium.
"""

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from sparsernn.data.text_styles import STYLES, Style
from sparsernn.deploy.graph_export import export
from sparsernn.deploy.onnx_tasks import TaskModel
from sparsernn.models.language_model import LanguageModel

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[1] / "examples" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TOKENS = [
    "<eos>",
    "<unk>",
    *[
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "then",
        "it",
        "was",
        "there",
        "(",
        "N",
        ")",
        ".",
        ",",
        "'",
        "éa",
    ],
]
TEXT = "The cat's mat (4.2) — été ²x, then...\n\nA\tnew  paragraph ==== ends; naïve_1 ’tis\n"
PROMPT = "The cat"
WATCH = """
<script type="module">
  const told = () => fetch("/told", {method: "POST", body: JSON.stringify({
    state: document.body.dataset.state, model: document.getElementById("model").textContent,
    text: document.getElementById("written").textContent, speed: document.getElementById("speed").textContent})});
  const wait = setInterval(() => {
    const state = document.body.dataset.state;
    if (state === "ready") {
      document.getElementById("prompt").value = "PROMPT";
      document.getElementById("temperature").value = document.getElementById("tokens").value = 0;
      document.getElementById("tokens").value = 12;
      document.getElementById("write").click();
    } else if (state === "done" || state === "failed") { clearInterval(wait); told(); }
  }, 50);
</script></body>""".replace("PROMPT", PROMPT)


def needed(*names):
    """The first program of these that there is."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found or pytest.skip(f"{names[0]} is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example as its README makes it, with a small model."""
    npm = needed("npm")
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    home = tmp_path_factory.mktemp("site") / "web"
    shutil.copytree(EXAMPLE, home, ignore=shutil.ignore_patterns("node_modules", "ort", "model.onnx"))
    torch.manual_seed(0)
    model = LanguageModel(len(TOKENS), 8, [12, 8], layer=["lstm", {"name": "rhn", "depth": 2}])
    with torch.no_grad():
        model.head.weight *= 30  # far from even chances
    told = {
        "name": "tiny",
        "tokens": {"vocabulary": TOKENS},
        "style": {"name": "prose", "lowercase": True},
    }
    export(model.eval(), home / "model.onnx", told, graph="sequence")
    for command in ("install --no-package-lock --ignore-scripts", "run copy"):
        done = subprocess.run([npm, *command.split()], cwd=home, capture_output=True, text=True, check=False)
        if done.returncode and "install" in command:
            pytest.skip(f"npm cannot fetch onnxruntime-web: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
    return home


class Server(SimpleHTTPRequestHandler):
    """Serves the page, has it press its own button, and hears what came of it."""

    def __init__(self, *given, heard, **more):
        self.heard = heard
        super().__init__(*given, **more)

    def do_GET(self):
        if self.path != "/":
            super().do_GET()
            return
        page = (EXAMPLE / "index.html").read_text(encoding="utf-8")
        # the page allows no script in itself; the one that watches is let in
        page = page.replace("script-src 'self'", "script-src 'self' 'unsafe-inline'").replace(
            "</body>", WATCH
        )
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page.encode())

    def do_POST(self):
        self.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()
        self.heard_one.set()

    def log_message(self, *given):
        """In silence."""


def told_by_the_page(site, tmp_path):
    """What the page says when it is done."""
    heard, Server.heard_one = [], threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, heard=heard, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    browser = subprocess.Popen(
        [
            needed(*BROWSERS),
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"http://127.0.0.1:{server.server_port}/",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert Server.heard_one.wait(120), "the page never came to an end"
    finally:
        browser.terminate()
        browser.wait(30)
        server.shutdown()
        server.server_close()
    return heard[0]


def test_the_page_writes_what_the_model_writes(site, tmp_path):
    said = told_by_the_page(site, tmp_path)
    assert said["state"] == "done", said["model"]
    assert said["model"].startswith(f"tiny: {len(TOKENS)} tokens, 0.0 MB")
    assert said["text"] == TaskModel(str(site / "model.onnx")).write(PROMPT, 12, temperature=0.0)
    assert said["speed"].startswith("12 tokens, ")


def test_the_page_loads_nothing_from_elsewhere():
    """What the policy in the page forbids, its files do not ask for either."""
    page = (EXAMPLE / "index.html").read_text(encoding="utf-8")
    assert "default-src 'self'" in page
    for name in ("index.html", "page.js", "onnx_writer.js"):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        assert "http:" not in text
        assert "https:" not in text


@pytest.mark.parametrize("name", [name for name in STYLES if name != "subword"])
def test_texts_are_cut_in_javascript_as_the_library_cuts_them(site, name):
    code = (
        "import { cut, join } from './onnx_writer.js';"
        "const [text, style] = JSON.parse(process.argv[1]); const tokens = cut(text, style);"
        "console.log(JSON.stringify([tokens, join(tokens, style)]));"
    )
    for lowercase in (False, True):
        style = Style(name, lowercase)
        given = json.dumps([TEXT, style.plain()])
        done = subprocess.run(
            [needed("node"), "--input-type=module", "-e", code, given],
            cwd=site,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tokens = style.prompt(TEXT)
        assert json.loads(done.stdout) == [tokens, style.text(tokens)]
