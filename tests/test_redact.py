"""Passwords in texts."""

from __future__ import annotations

import json

import pytest

from pipeline.redact import hide_words, redact, redact_values


@pytest.mark.parametrize(
    "text",
    [
        "http://me:secret@host:5000", "postgresql+psycopg://me:secret@host/db",
        "http://secret@host", "http://me:se@secret@host/x", "postgresql://me:a/secret@host/db",
        "failed: http://me:secret@host, again 'http://me:secret@host'",
        "https://host/x?token=secret&a=b", "mssql://host/db?user=me&password=secret",
        '["tracking.uri=http://me:secret@127.0.0.1:1"]',
        "http://host/#access_token=secret", "http://host/?token='secret'", "http://host/?pass=secret",
        "http://host/?token=\\'secret\\'", "http://host/?auth_token[]=secret", "https:/me:secret@host",
        "//me:secret@host/x", "host?token%3Dsecret", "host?access_token1=secret", "?sas=secret&host",
        "access_key=secret host", "host;AccountKey=secret==", "host AccountKey=secret==",
        "host?authorization=Bearer%20secret", "http://host/?jwt=secret",
        "http://me:it'secret@host", 'http://me:a"secret@host', "'http://it'secret@host'",
    ],
)  # fmt: skip
def test_passwords_are_taken_out_of_any_text(text):
    shown = redact(text)
    assert "secret" not in shown
    assert "***" in shown
    assert "host" in shown or "127.0.0.1" in shown


@pytest.mark.parametrize(
    "text",
    ["sqlite:///outputs/mlflow.db", "http://127.0.0.1:5000", "a@b", "optimizer.key=3", "monkey=1",
     "data.features=[a,b]", '["http://h?token=", "b"]', "// a comment: no user @ all"],
)  # fmt: skip
def test_what_holds_no_password_stays(text):
    assert redact(text) == text


def test_a_config_is_redacted_in_every_text():
    values = {"a": {"b": ["http://me:secret@h", 1, None]}, "t": "x?token=secret", "n": 2.0}
    shown = redact_values(values)
    assert "secret" not in str(shown)
    assert (shown["a"]["b"][1:], shown["n"], list(shown)) == ([1, None], 2.0, ["a", "t", "n"])
    assert values["t"] == "x?token=secret"


def test_json_stays_json():
    values = {"uri": "http://h?token=secret", "quoted": '?key="secret"', "n": 1}
    shown = json.loads(redact(json.dumps(values)))
    assert "secret" not in str(shown)
    assert (list(shown), shown["n"]) == (list(values), 1)


def test_a_password_is_hidden_where_a_message_has_its_uri_in_parts():
    words = ["experiment=https://me:secret@host"]
    assert hide_words("experiment/https:/=me:secret@host: must be", words) == (
        "experiment/https:/=***@host: must be"
    )


@pytest.mark.parametrize("start", ["?", "?a=b&", "?a=b;"])
@pytest.mark.parametrize(
    "name",
    ["password", "passwd", "pwd", "token", "client_secret", "credential", "credentials", "sig",
     "X-Amz-Signature", "key", "access_key", "AWSAccessKeyId", "key_id", "API_TOKEN"],
)  # fmt: skip
def test_every_kind_of_secret_in_a_query_is_taken_out(name, start):
    assert (
        redact(f"https://host/x{start}{name}=hunter2&b=c") == f"https://host/x{start}{name}=***&b=c"
    )
