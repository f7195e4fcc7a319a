"""The FastAPI application: routers, and the one place where errors become replies.

Callers of nydusd rely on its ways: an unknown path is 404 `NoRoute`, every other misuse 400, never
405 or 422 (contract 3.2).
"""

import logging
import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from nydus_app.api.body import MAX_BODY
from nydus_app.api.bridge import Bridge
from nydus_app.api.explain import explain_router
from nydus_app.api.errors import BAD_REQUEST, NO_ROUTE, HttpError
from nydus_app.api.metrics import metrics_router
from nydus_app.api.port import DaemonPort
from nydus_app.api.v1 import v1_router

log = logging.getLogger("nydus.api")

ABSOLUTE_FORM = re.compile(r"\Ahttps?://[^/]*")
"""A request line may name the whole address; what host that is does not matter on a Unix socket (contract 3.1)."""


def make_app(daemon: DaemonPort, bridge: Bridge) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.include_router(v1_router(daemon, bridge))
    app.include_router(explain_router(daemon, bridge))
    app.include_router(metrics_router(daemon, bridge))

    @app.middleware("http")
    async def take_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return _reply(BAD_REQUEST)
        request.state.body = bytes(body)
        request.scope["path"] = ABSOLUTE_FORM.sub("", request.scope["path"])
        reply = await call_next(request)
        log.debug("%s %s: %d", request.method, request.url.path, reply.status_code)
        return reply

    @app.exception_handler(HttpError)
    def known(request: Request, error: HttpError) -> Response:
        log.error("%s %s: %s", request.method, request.url.path, error.message)
        return _reply(error)

    @app.exception_handler(HTTPException)
    def routing(request: Request, error: HTTPException) -> Response:
        return _reply(NO_ROUTE if error.status_code == 404 else BAD_REQUEST)

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        log.error("%s %s: unexpected %r", request.method, request.url.path, error)
        return _reply(HttpError(500, "Internal"))

    return app


def _reply(error: HttpError) -> Response:
    return JSONResponse(error.body(), status_code=error.status)
