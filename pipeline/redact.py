"""Texts without the passwords and tokens in them."""

from __future__ import annotations

import re

# A password may hold quotes, so a text between two URIs without a space may go with it.
_PASSWORD = re.compile(r"://[^\s/@:]*:\S*@|://[^\s/]*@")
_SECRET = re.compile(r"(?i)([?&;](?:\w*password|passwd|pwd|\w*token|secret|api_?key)=)[^&;\s\"']+")


def redact(text: str) -> str:
    """Return a text without the users, passwords and tokens of the URIs in it."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub("://***@", text))
