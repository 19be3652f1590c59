"""What MLflow's pages show of an experiment: its description, and a view of its runs."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipeline.redact import redact
from pipeline.tracking.spool import now_ms
from pipeline.tracking.store import TrackingError, ask_patiently, is_prepared

LOCAL_PAGES = "http://127.0.0.1:5000"  # where `make ui` serves a local store
MODE = "workflowType=machine_learning"  # MLflow's pages have another one, for language models
VIEW = "twingrad"  # the name of the view of runs, few columns in order
_COLUMNS = (
    "params.`backend.name`", "params.`optimizer.name`", "params.`optimizer.lr`", "params.`seed`",
    "metrics.`train/loss`", "metrics.`eval/mse`", "metrics.`eval/accuracy`",
    "metrics.`time/train_s`", "tags.`parity.verdict`",
)  # fmt: skip
_ABOUT = """\
Runs of **Twingrad**: the same model trained in several frameworks, and compared.

- A sweep is one run; its jobs are nested below it. Its description says what was asked and what \
came of it; `report.html` among its artifacts has everything.
- The view `twingrad` (*Views*) has few columns, in order.
- `tags.parity.verdict = 'FAIL'` finds the pairs that disagree.
- Curves are thinned; `record/` among a run's artifacts has every step.
"""


def describe_experiment() -> dict[str, str]:
    """Return tags of an experiment for MLflow's pages: a description, and a view of its runs.

    The view is what the page itself would save of chosen columns; one that does not know the format
    leaves it out.
    """
    state = {
        "searchFilter": "", "orderByKey": "attributes.start_time", "orderByAsc": False,
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [],
        "modelVersionFilter": "All Runs", "selectedColumns": list(_COLUMNS), "columnOrder": [],
        "columnWidths": {}, "hideEmptyCharts": True,
        "globalLineChartConfig": {
            "xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": "",
        },
    }  # fmt: skip
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    view = {
        "name": VIEW, "createdAt": now_ms(), "updatedAt": now_ms(), "state": f"deflate;{packed}",
    }  # fmt: skip
    return {
        "mlflow.note.content": _ABOUT,
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def find_run_page(run: str) -> str:
    """Return where MLflow's pages show a run; empty where the store does not know it yet."""
    try:
        about = ask_patiently(lambda: MlflowClient().get_run(run)).info
    except (MlflowException, requests.RequestException, TrackingError):
        return ""
    return f"/#/experiments/{about.experiment_id}/runs/{run}?{MODE}"


def list_linked(children: Sequence[Any], parent: str) -> list[tuple[str, str]]:
    """Return name and page of those runs of a sweep that an earlier one had finished."""
    linked = [run for run in children if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent]
    return [
        (run.info.run_name, f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{MODE}")
        for run in linked
    ]


def find_runs_address(experiment: str, *, uri: str) -> str:
    """Return the address, ``…/runs?…``, at which MLflow shows an experiment's runs.

    Of a local store it is where ``make ui`` serves it; empty of a store that has no pages.
    """
    page = find_page(experiment)
    if not page or not uri.startswith(("http", "sqlite")):
        return ""
    server = uri.rstrip("/") if uri.startswith("http") else LOCAL_PAGES
    return redact(server).replace("://***@", "://") + page


def find_page(experiment: str) -> str:
    """Return where MLflow's pages show an experiment's runs in the view made for them."""
    if not is_prepared():
        return ""
    try:
        known = ask_patiently(lambda: MlflowClient().get_experiment_by_name(experiment))
    except (MlflowException, requests.RequestException, TrackingError):
        known = None
    if known is None:
        return ""
    shown = f"{MODE}&viewStateShareKey={VIEW}"
    return f"/#/experiments/{known.experiment_id}/runs?{shown}"
