"""What Schemathesis must know of this API besides its document. Loaded by name from schemathesis.toml."""

from __future__ import annotations

import json
import os
import re
import zlib
from itertools import count
from typing import Any

import schemathesis

#: from test_schemathesis.py: importing the product here would cost each run a second
LIST, MOST_WAIT_S = os.environ["LIST"], int(os.environ["MOST_WAIT_S"])
KEY, DOOMED = int(os.environ["API_KEY_ID"]), int(os.environ["DOOMED_CAMPAIGN"])
REFERENCE = os.environ["REFERENCE"]
#: of the wrong values at borders one in so many is asked, always the same ones
SHARE = int(os.environ.get("SCHEMATHESIS_SHARE", "1"))
_turn = count()


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    """Of thousands of wrong requests at the borders, which all end at the same door, leaves most out where only a
    share is wanted; right ones are all asked."""
    if SHARE == 1 or case.meta is None or case.meta.phase.name.value != "coverage":
        return True
    if case.meta.generation.mode.is_positive:
        return True
    said = (case.method, case.path, case.path_parameters, case.query, case.body)
    return zlib.crc32(repr(said).encode()) % SHARE == 0


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Helps requests to get as far as what they are for, and keeps that alive."""
    path, where = case.operation.path, case.path_parameters
    if path.endswith("/keys/{key_id}") and where.get("key_id") == KEY:
        where["key_id"] = 1  # the key that asks is not revoked
    if path.endswith("/cancel"):
        where["campaign_id"] = DOOMED  # for good: there is one for it
    wait = case.query.get("wait")
    if isinstance(wait, int) and 1 < wait <= MOST_WAIT_S:
        case.query["wait"] = 1  # a long poll is a long poll, however long
    key = case.headers.get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch("[!-~]{1,240}", key):
        # The same one on another request is refused, and rightly so: test_idempotency.
        case.headers["Idempotency-Key"] = f"{key}-{next(_turn)}"
    if case.meta is None or not case.meta.generation.mode.is_positive or next(_turn) % 2:
        return
    if "reference" in where:
        where |= {"provider": "brevo-sms", "reference": REFERENCE}
    elif "provider" in where:
        where["provider"] = "brevo-email"
    elif isinstance(case.body, dict) and "file" in case.body:
        case.body = {"file": LIST, **({"rows": "all"} if "rows" in case.body else {})}


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext, failure: Any, case: schemathesis.Case, response: schemathesis.Response
) -> bool:
    """What no schema can say (a cursor is one of ours, there is such a profile) is refused by a 422 without `errors`.
    What a schema can say is refused with `errors`, and must stand in it: that is a failure."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 422:
        return True
    return "errors" in json.loads(response.content)


@schemathesis.deserializer("application/x-ndjson")
def ndjson(context: Any, response: schemathesis.Response) -> Any:
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.deserializer("text/csv")
def csv(context: Any, response: schemathesis.Response) -> Any:
    return response.content.decode()
