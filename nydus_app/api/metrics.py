"""/api/v1/metrics/backend and /api/v1/config: the backend's counters, and what of it may be changed while it runs.

The counters are nydusd's (contract 3.4) and one more: `causes`, how often a try failed, by what was wrong.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from nydus_app.api.body import json_body, no_body
from nydus_app.api.bridge import Bridge
from nydus_app.api.errors import HttpError, parse_body
from nydus_app.api.port import DaemonPort
from nydus_app.daemon.info import BackendInfo
from nydus_app.errors import ConfigError
from nydus_app.storage.backend.meter import BackendMetrics

NO_COUNTER = HttpError(404, "Backend(Metrics(Stats(NoCounter)))")
SECRET = "***"


def backend_metrics(kind: str, metrics: BackendMetrics) -> dict[str, Any]:
    """Keys in nydusd's order."""
    matrix = metrics.by_size_and_latency
    return {
        "backend_type": kind,
        "read_count": metrics.read_count,
        "read_errors": metrics.read_errors,
        "read_amount_total": metrics.read_bytes,
        "read_cumulative_latency_millis_total": metrics.milliseconds,
        "read_cumulative_latency_millis_dist": [sum(column) for column in zip(*matrix, strict=True)],
        "read_count_block_size_dist": [sum(row) for row in matrix],
        "read_latency_sizes_dist": [list(row) for row in matrix],
        "causes": dict(sorted(metrics.causes.items())),
    }


def metrics_router(daemon: DaemonPort, bridge: Bridge) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    def backend_of(request: Request) -> BackendInfo | None:
        """The one of `id`, a mountpoint of the daemon's own tree, or the only one."""
        backend = bridge.call(daemon.backend)
        wanted = request.query_params.get("id")
        return backend if backend is not None and wanted in (None, backend.id) else None

    @router.get("/metrics/backend")
    def metrics(request: Request) -> Response:
        no_body(request)
        backend = backend_of(request)
        if backend is None:
            raise NO_COUNTER
        return JSONResponse(backend_metrics(backend.kind, backend.metrics))

    @router.get("/config")
    def config(request: Request) -> Response:
        """Secrets stay secret: only that they can be set is told."""
        no_body(request)
        backend = backend_of(request)
        prefix = "" if "id" in request.query_params or backend is None else f"{backend.id}:"
        return JSONResponse({prefix + key: SECRET for key in (backend.settings if backend else ())})

    @router.put("/config")
    def configure(request: Request) -> Response:
        body = json_body(request)
        backend = backend_of(request)
        for key, value in body.items():
            if not isinstance(value, str):
                raise parse_body("invalid type: a map of strings is expected")
            if backend is None or key not in backend.settings:
                raise HttpError(500, "Configure(ResponsePayloadType)")
        for key, value in body.items():
            assert backend is not None
            try:
                bridge.call(backend.settings[key], value)
            except ConfigError as e:
                raise parse_body(str(e)) from None
        return Response(status_code=204)

    return router
