"""The explorer in a real browser: headless Chromium drives JupyterLab.

Server, browser and their files are the test's own, and reach this machine alone.
"""

import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from PIL import Image
from test_explore import CELL

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: make browser installs it"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.soak,  # a minute of computing
    pytest.mark.skipif(not BROWSER, reason=f"none of {', '.join(BROWSERS)} is there"),
]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
PATIENCE = 300  # seconds that a busy machine may take for any one step
PICTURE = "img.widget-image"


@pytest.fixture
def lab(tmp_path):
    """The address of a notebook that has `CELL`, in a JupyterLab of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "work").mkdir()
    nbformat.write(notebook, tmp_path / "work" / "trial.ipynb")
    # JupyterLab asks its makers' page for news unless told not to.
    news = "@jupyterlab/apputils-extension:announcements"
    settings = tmp_path / "config" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"disabledExtensions": {news: True}}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex()
    own = {
        name: str(tmp_path / name.split("_")[1].lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    log = tmp_path / "jupyter.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            command,
            cwd=tmp_path / "work",
            env={**os.environ, **own, "IPYTHONDIR": str(tmp_path / "ipython")},
            stdout=stream,
            stderr=stream,
        )
        try:
            wait(lambda: "is running at" in log.read_text(), server)
            yield f"http://127.0.0.1:{port}/lab/tree/trial.ipynb?token={token}"
        finally:
            server.terminate()  # it ends its kernels, too
            server.wait(PATIENCE)


@pytest.fixture
def page(tmp_path):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=BROWSER,
            args=FLAGS,
            viewport={"width": 1440, "height": 1200},
        )
        browser.set_default_timeout(1000 * PATIENCE)
        yield browser.pages[0]
        browser.pages[0].screenshot(path=tmp_path / "screen.png")
        browser.close()


def wait(ready, server):
    until = time.monotonic() + PATIENCE
    while not ready():
        assert server.poll() is None, "JupyterLab ended"
        assert time.monotonic() < until, "JupyterLab did not start"
        time.sleep(0.2)


READ = """async (selector) => {
    const image = document.querySelector(selector);
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return Array.from(bytes);
}"""


def picture(page):
    """The bytes of the picture that the page shows."""
    return bytes(page.evaluate(READ, PICTURE))


def after(page, act):
    """The picture that follows on the act."""
    shown = page.locator(PICTURE)
    before = shown.get_attribute("src")
    act()
    page.wait_for_function(
        f"before => document.querySelector('{PICTURE}').src != before", arg=before
    )
    return picture(page)


def drag(page, name, pixels):
    """Move the handle of the slider with this name."""
    slider = page.locator(".widget-hslider", has_text=name)
    box = slider.locator(".noUi-handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + pixels, y, steps=5)
    page.mouse.up()


def choose(page, path):
    with page.expect_file_chooser() as chooser:
        page.locator(".jupyter-widgets.widget-upload").click()
    chooser.value.set_files(path)


def test_sliders_and_an_upload_change_the_picture(lab, page, tmp_path):
    page.goto(lab)
    page.locator("[data-status='idle']").first.wait_for()  # the kernel's
    page.locator(".jp-CodeCell .cm-content").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(PICTURE)
    seen = [picture(page)]
    for slider in ("share kept, rho", "AutoCLIP's beta"):
        seen.append(after(page, lambda name=slider: drag(page, name, 60)))

    red = tmp_path / "red.png"
    Image.new("RGB", (300, 200), (250, 10, 20)).save(red)
    seen.append(after(page, lambda: choose(page, red)))
    assert len(set(seen)) == len(seen)
    shown = Image.open(io.BytesIO(seen[-1])).convert("RGB")
    assert shown.getpixel((shown.width // 8, shown.height // 4)) == (250, 10, 20)

    broken = tmp_path / "broken.png"
    broken.write_bytes(red.read_bytes()[:60])
    choose(page, broken)
    page.get_by_text("broken.png cannot be read as a picture").wait_for()
    assert picture(page) == seen[-1]
    assert not page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count()
