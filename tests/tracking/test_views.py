from __future__ import annotations

import pytest

from pipeline.tracking import views


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:///outputs/mlflow.db", "http://127.0.0.1:5000/#/experiments/3/runs?view=a"),
        ("https://me:word@host/mlflow/", "https://host/mlflow/#/experiments/3/runs?view=a"),
        ("databricks", ""),
    ],
)
def test_runs_have_an_address_without_secrets(monkeypatch, uri, address):
    monkeypatch.setattr(views, "find_page", lambda experiment: "/#/experiments/3/runs?view=a")
    assert views.find_runs_address("x", uri=uri) == address


def test_runs_of_a_store_that_does_not_answer_have_no_address(monkeypatch):
    monkeypatch.setattr(views, "find_page", lambda experiment: "")
    assert views.find_runs_address("x", uri="http://127.0.0.1:1") == ""
