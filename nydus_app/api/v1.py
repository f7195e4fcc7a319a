"""/api/v1: the endpoints of a FUSE daemon (contract 3.3, 3.4)."""

import sys
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from nydus_app.api.body import json_body, no_body
from nydus_app.api.bridge import Bridge
from nydus_app.api.errors import HttpError, daemon_error, parse_body
from nydus_app.api.port import DaemonPort
from nydus_app.api.text import in_utf8
from nydus_app.daemon.info import DaemonInfo
from nydus_app.errors import ConfigError, NydusError
from nydus_app.version import __version__

Body = Callable[[Request], bytes]


def daemon_info(info: DaemonInfo) -> dict[str, Any]:
    """Keys in nydusd's order."""
    return {
        "version": {
            "package_ver": __version__,
            "git_commit": f"nydus-app-{__version__}",
            "build_time": "unknown",
            "profile": "release",
            "rustc": f"none, Python {sys.version.split()[0]}",
        },
        "id": info.id,
        "supervisor": info.supervisor,
        "state": info.state.name,
        "backend_collection": {in_utf8(m.mountpoint): in_utf8(m._asdict()) for m in info.mounts},
    }


def v1_router(daemon: DaemonPort, bridge: Bridge) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/daemon")
    def get_daemon(request: Request) -> Response:
        no_body(request)
        return JSONResponse(daemon_info(bridge.call(daemon.info)))

    @router.put("/daemon")
    def configure(request: Request) -> Response:
        body = json_body(request)
        if "log_level" not in body:
            raise parse_body("missing field `log_level`")
        if not isinstance(body["log_level"], str):
            raise parse_body("invalid type: a string is expected")
        try:
            bridge.call(daemon.set_log_level, body["log_level"])
        except ConfigError:
            raise HttpError(500, "Configure(ResponsePayloadType)") from None
        return Response(status_code=204)

    @router.put("/daemon/exit")
    def exit_daemon(request: Request) -> Response:
        no_body(request)
        try:
            bridge.call(daemon.exit)
        except NydusError as e:
            raise daemon_error("Configure", e) from None
        return Response(status_code=204)

    return router
