"""What an HTTP backend is told: time-outs, tries, TLS, and who stands between it and the origin.

Nobody changes one of these. They are not frozen, because the code for that takes a millisecond a class of every start.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(kw_only=True, repr=False, eq=False)
class ProxySettings:
    """`check_pause_s` without traffic, and the proxy is pinged no more."""

    url: str
    ping_url: str = ""
    fallback: bool = True
    check_interval_s: float = 5
    check_pause_s: float = 300
    use_http: bool = False


@dataclass(kw_only=True, repr=False, eq=False)
class MirrorSettings:
    """`auth_through`: it is asked also before anybody has authenticated."""

    host: str
    ping_url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    auth_through: bool = False
    check_interval_s: float = 5
    failure_limit: int = 5


@dataclass(kw_only=True, repr=False, eq=False)
class HttpSettings:
    """Seconds, 0 for none.

    A try ends when `timeout_s` pass without a byte, be it before the answer or within, and in any case after
    the longer of both time-outs plus a second for every `min_rate` bytes that were asked for. So a chunk of 16 MiB that comes
    at 3 MB/s is well with a time-out of 5 s, and a server that drips is not.
    """

    connect_timeout_s: float = 5
    timeout_s: float = 5
    min_rate: int = 128 << 10
    retry_limit: int = 3
    request_rate: int = 0
    skip_verify: bool = False
    ca_cert_files: tuple[str, ...] = ()
    client_cert_file: str = ""
    client_key_file: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    proxy: ProxySettings | None = None
    mirrors: tuple[MirrorSettings, ...] = ()

    def total_s(self, size: int) -> float:
        """So long one try for `size` bytes may take; infinite where one of the time-outs is off."""
        if not (self.connect_timeout_s and self.timeout_s and self.min_rate):
            return float("inf")
        return max(self.connect_timeout_s, self.timeout_s) + size / self.min_rate
