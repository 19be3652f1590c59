"""The MLflow UI over a real sweep on a real server, in a real browser.

Screenshots lie in the tests' folders, to be looked at.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys

import pytest
from commands import environment
from servers import Server

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
SWEEP = (
    "-m", "backend=numpy,torch", "optimizer.lr=1e-3,1e-2,10", "data.n=50", "data.n_test=20",
    "train.epochs=1500", "tracking.model=false",
)  # fmt: skip
WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server that holds one sweep: two pairs that agree, and two runs that fail."""
    from mlflow import MlflowClient

    if BROWSER is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    folder = tmp_path_factory.mktemp("served")
    server = Server(folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *SWEEP, f"tracking.uri={server.uri}"],
            cwd=folder, env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        client = MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("twingrad").experiment_id
        runs = client.search_runs([experiment])
        ids = {run.info.run_name: run.info.run_id for run in runs}
        assert len(ids) == 7
        yield server.uri, experiment, ids, done.stdout
    finally:
        server.kill()


@pytest.fixture
def look(served, tmp_path):
    """A function that opens a page of the UI, and one that keeps a picture of it."""
    playwright = pytest.importorskip("playwright.sync_api")
    uri, *_ = served
    with contextlib.ExitStack() as opened:
        driver = opened.enter_context(playwright.sync_playwright())
        context = driver.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=BROWSER, args=list(ARGUMENTS),
            viewport={"width": 1800, "height": 1000},
        )  # fmt: skip
        opened.callback(context.close)
        page = context.pages[0]
        page.set_default_timeout(WAIT)
        page.add_init_script(
            "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', true)"
        )
        # The page also asks for things from elsewhere, which nobody shall wait for.
        page.route("**/*", lambda r: r.continue_() if r.request.url.startswith((uri, "data:", "blob:"))
                   else r.abort())  # fmt: skip

        def go(path):
            page.goto(f"{uri}/#/{path}")
            return page

        go.keep = lambda name: page.screenshot(path=tmp_path / f"{name}.png")
        yield go


def test_a_parent_unfolds_to_children_named_by_what_was_swept(served, look):
    """On the page that the command names at its end."""
    uri, experiment, _, out = served
    (address,) = re.findall(rf"MLflow  {uri}/#/(\S+)", out)
    assert address.startswith(f"experiments/{experiment}/runs?")
    page = look(address)
    page.get_by_text("7 matching runs").wait_for()
    assert "Runs of Twingrad" in page.inner_text("body")
    row = page.get_by_role("row").filter(has_text="linear on linear: backend × optimizer.lr")
    names = [
        f"backend={b},optimizer.lr={lr}" for b in ("numpy", "torch") for lr in (0.001, 0.01, 10)
    ]
    assert not page.get_by_text(names[0], exact=True).count()
    row.locator("button[data-component-id*=runnamecell]").first.click()
    for name in names:
        page.get_by_role("link", name=name, exact=True).wait_for()
    look.keep("unfolded")
    headers = map(str.strip, page.get_by_role("columnheader").all_inner_texts())
    groups = {"", "Metrics", "Parameters", "Tags"}
    shown = [text for text in dict.fromkeys(headers) if text not in groups]
    assert set(shown) >= {
        "Run Name",
        "eval/mse",
        "train/loss",
        "backend.name",
        "optimizer.lr",
        "parity.verdict",
    }
    assert len(shown) <= 12


def test_a_parents_description_says_what_was_asked_and_what_came_of_it(served, look):
    _, experiment, ids, _ = served
    page = look(f"experiments/{experiment}/runs/{ids['linear on linear: backend × optimizer.lr']}")
    page.get_by_text("Show more").click()
    page.get_by_text("Show less").wait_for()
    look.keep("description")
    text = page.inner_text("body")
    assert "Sweep, 6 jobs; its runs are nested below." in text
    assert "optimizer.lr=1e-3,1e-2,10" in text
    assert "Parity of 3 pairs: 3 PASS." in text
    assert "the loss became inf at step 8 (learning rate 10)" in text
    (head, *rows) = page.locator("table").first.locator("tr").all_inner_texts()
    assert head.split("\t")[:4] == ["backend.name", "optimizer.name", "optimizer.lr", "mse"]
    assert len(rows) == 4


def test_a_metric_is_a_chart_over_steps_of_not_too_many_points(served, look):
    from mlflow import MlflowClient

    uri, experiment, ids, _ = served
    run = ids["backend=torch,optimizer.lr=0.01"]
    page = look(f"experiments/{experiment}/runs/{run}/model-metrics")
    page.get_by_placeholder("Search metric charts").fill("train/")
    page.get_by_text("(train/loss)").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .js-line").first.wait_for(state="attached")
    look.keep("chart")
    text = page.inner_text("body")
    assert all(name in text for name in ("grad_norm", "Step", "(train/loss)"))
    points = MlflowClient(uri).get_metric_history(run, "train/loss")
    assert (points[0].step, points[-1].step) == (1, 1500)
    assert len(points) <= 321


def test_two_runs_side_by_side_differ_in_what_was_swept(served, look):
    _, experiment, ids, _ = served
    pair = [ids[f"backend={b},optimizer.lr=0.01"] for b in ("numpy", "torch")]
    page = look(f"compare-runs?runs={json.dumps(pair)}&experiments={json.dumps([experiment])}")
    page.get_by_text("Comparing 2 Runs").first.wait_for()
    page.get_by_text("Show diff only").first.click()
    page.get_by_text("optimizer.lr", exact=True).last.wait_for(state="detached")
    look.keep("compared")
    text = page.inner_text("body")
    assert "backend=numpy,optimizer.lr=0.01" in text
    rows = re.findall(r"^(\S+)\t(\S+)\t(\S+)$", text, re.M)
    assert ("backend.name", "numpy", "torch") in rows


def test_the_report_opens_among_the_artifacts(served, look):
    _, experiment, ids, _ = served
    page = look(
        f"experiments/{experiment}/runs/{ids['linear on linear: backend × optimizer.lr']}/artifacts/report.html"
    )
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="Leaderboard").wait_for()
    look.keep("report")
    text = report.locator("body").inner_text()
    assert "Twingrad report of" in text
    assert "Runs that did not finish" in text
    pictures = report.locator("figure img")
    assert pictures.count() >= 8
    assert pictures.first.evaluate("image => image.complete && image.naturalWidth > 100")
    listed = page.inner_text("body")
    for name in ("leaderboard.json", "differences.json", "verdicts.json", "runs.json", "plots"):
        assert name in listed
