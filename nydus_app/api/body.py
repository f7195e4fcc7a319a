"""Request bodies: read before routing, handed to plain `def` endpoints as request state."""

import json
from typing import Any

from fastapi import Request

from nydus_app.api.errors import BAD_REQUEST, parse_body

MAX_BODY = 51200


def no_body(request: Request) -> None:
    if request.state.body:
        raise BAD_REQUEST


def json_body(request: Request) -> dict[str, Any]:
    """The JSON object of the request. Raises HttpError."""
    if not request.state.body:
        raise BAD_REQUEST
    try:
        body = json.loads(request.state.body)
    except (ValueError, RecursionError) as e:
        raise parse_body(str(e)) from None
    if not isinstance(body, dict):
        raise parse_body("invalid type: an object is expected")
    return body
