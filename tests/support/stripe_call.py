"""Calls Stripe's side of a simulator over a socket, as some other program of the merchant would."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from typing import Any
from urllib.parse import urlencode

from tests.support.server import STOP_SECONDS, Server

PRIMARY = "sk_test_sim"


def called(server: Server, operation: str, account: str | None = None, key: str | None = None, **params: str) -> Any:
    """Call `POST /v1/accounts` with the platform's key, for a connected account if one is named; tells the JSON.

    Args:
        server: The simulator.
        operation: Method and path, with the query of a GET.
        account: Whose; the platform's by default.
        key: The idempotency key.
        **params: What a POST sends; names with brackets go through `**{"a[b]": "1"}`.
    """
    method, path = operation.split(" ")
    headers = {"Authorization": "Basic " + b64encode(f"{PRIMARY}:".encode()).decode()}
    if account is not None and account != server.account:
        headers["Stripe-Account"] = account
    if key is not None:
        headers["Idempotency-Key"] = key
    body = urlencode(params).encode() if method == "POST" else None
    request = urllib.request.Request(server.url + path, body, headers, method=method)  # noqa: S310  # loopback
    with urllib.request.urlopen(request, timeout=STOP_SECONDS) as answer:  # noqa: S310  # the same
        return json.load(answer)
