"""Errors as nydusd's API words them (contract 3.2): a status, and Rust's debug print of an enum."""

import json

from nydus_app.errors import NydusError, StateConflict, Unsupported


class HttpError(Exception):
    """`message` is the variant's text, such as NoRoute or Configure(ResponsePayloadType)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> dict[str, str]:
        return {"code": "UNDEFINED", "message": self.message}


def quoted(text: object) -> str:
    """A string as Rust's {:?} prints it."""
    return json.dumps(str(text), ensure_ascii=False)


NO_ROUTE = HttpError(404, "NoRoute")
BAD_REQUEST = HttpError(400, "BadRequest")


def parse_body(cause: str) -> HttpError:
    return HttpError(400, f"ParseBody(Error({quoted(cause)}, line: 1, column: 0))")


def daemon_error(variant: str, error: NydusError) -> HttpError:
    """What the daemon raised, inside of the endpoint's variant (Configure, Mount …)."""
    match error:
        case StateConflict():
            return HttpError(400, f"{variant}(DaemonAbnormal(UnexpectedEvent({quoted(error)})))")
        case Unsupported():
            return HttpError(501, f"{variant}(DaemonAbnormal(Unsupported))")
    return HttpError(500, f"{variant}(DaemonAbnormal(Other({quoted(error)})))")
