"""/api/v1/explain: what was fetched, why, and how long it took. Ours alone; nydusd has nothing of the kind.

    GET /api/v1/explain?files=true|false      {"fetches": [oldest …], "totals": {WHY: {"requests", "bytes"}}}
"""

import os
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from nydus_app.api.body import no_body
from nydus_app.api.bridge import Bridge
from nydus_app.api.errors import BAD_REQUEST, NO_ROUTE
from nydus_app.api.port import DaemonPort
from nydus_app.api.text import in_utf8
from nydus_app.storage.fetch_log import Fetch


def explain_router(daemon: DaemonPort, bridge: Bridge) -> APIRouter:
    router = APIRouter(prefix="/api/v1")

    @router.get("/explain")
    def explain(request: Request) -> Response:
        """Runs on a thread of the API's: the names of files are looked for here, not on the daemon's."""
        no_body(request)
        files = request.query_params.get("files", "true")
        if files not in ("true", "false"):
            raise BAD_REQUEST
        explanation = bridge.call(daemon.explanation)
        if explanation is None:
            raise NO_ROUTE
        fetches = bridge.call(explanation.log.entries)
        names = explanation.files_of(fetches) if files == "true" else [[] for _ in fetches]
        log = explanation.log
        return JSONResponse(
            {
                "fetches": [_shown(f, n) for f, n in zip(fetches, names, strict=True)],
                "totals": {w.value: {"requests": n, "bytes": log.bytes[w]} for w, n in sorted(log.requests.items())},
            }
        )

    return router


def _shown(fetch: Fetch, names: list[bytes]) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(fetch.time_s, timezone.utc).isoformat(timespec="milliseconds"),
        "why": fetch.why.value,
        "files": [in_utf8(os.fsdecode(n)) for n in names],
        "blob": fetch.blob_id,
        "asked": {"offset": fetch.asked[0], "size": fetch.asked[1]},
        "fetched": {"offset": fetch.fetched[0], "size": fetch.fetched[1], "chunks": fetch.fetched_chunks},
        "latency_ms": round(fetch.latency_ns / 1e6, 3),
        "origin": fetch.origin,
        "status": fetch.status,
        "tries": fetch.tries,
        "trouble": fetch.trouble,
        "error": fetch.error,
    }
