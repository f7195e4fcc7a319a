"""Registries to be asked: one of our own that insists, and Debian's docker-registry."""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from nydus_app.testing.origin import Exchange, Origin

REPO = "team/app"


class Registry:
    """Wants what `wants` says: nothing, basic or bearer; makes tokens for who knows `auth` (None: for anybody)."""

    def __init__(self, blobs: Mapping[str, bytes], wants: str = "", *, auth: str | None = None, lifetime_s: float = 60) -> None:
        self.wants = wants
        self.auth = auth
        self.lifetime_s = lifetime_s
        self.valid: dict[str, float] = {}
        self.handed: list[str] = []
        self.token_delay_s = 0.0
        self.post_only = False
        self.challenge = ""
        self.origin = Origin(blobs)
        self.origin.answer = self.answer

    def __enter__(self) -> "Registry":
        self.origin.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.origin.__exit__(*exc)

    def answer(self, exchange: Exchange) -> None:
        if exchange.seen.path.startswith("/token"):
            self.make_token(exchange)
        elif self.is_allowed(exchange.seen.headers.get("authorization", "")):
            exchange.serve()
        else:
            realm = self.origin.url("token?x=1,2")
            bearer = f'Bearer realm="{realm}",service="a registry",scope="repository:{REPO}:pull"'
            challenge = self.challenge or (bearer if self.wants == "bearer" else 'Basic realm="r"')
            exchange.answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})

    def is_allowed(self, header: str) -> bool:
        if self.wants == "basic":
            return header == f"Basic {self.auth}"
        if self.wants == "bearer":
            return self.valid.get(header.removeprefix("Bearer "), 0) > time.monotonic()
        return True

    def make_token(self, exchange: Exchange) -> None:
        seen = exchange.seen
        if self.post_only and seen.method == "GET":
            exchange.answer(405)
            return
        fields = parse_qs(seen.body.decode() if seen.method == "POST" else urlsplit(seen.path).query)
        assert fields["service"] == ["a registry"] and fields["scope"] == [f"repository:{REPO}:pull"]
        if self.auth is not None and seen.headers.get("authorization") != f"Basic {self.auth}":
            exchange.answer(401, b"{}")
            return
        self.origin.ending.wait(self.token_delay_s)
        token = f"token-{len(self.handed)}-{os.urandom(8).hex()}"
        self.handed.append(token)
        self.valid[token] = time.monotonic() + self.lifetime_s
        exchange.answer(200, json.dumps({"token": token, "expires_in": self.lifetime_s}).encode())

    def asked(self, path: str) -> int:
        return sum(s.path.startswith(path) for s in self.origin.seen)


class DockerRegistry:
    """Debian's docker-registry over a directory that holds `blobs` as layers of REPO.

    `auth` is its configuration's section of that name.
    """

    def __init__(self, folder: Path, blobs: Mapping[str, bytes], auth: Mapping[str, object] | None = None) -> None:
        root = folder / "docker/registry/v2"
        for name, content in blobs.items():
            data = root / f"blobs/sha256/{name[:2]}/{name}/data"
            link = root / f"repositories/{REPO}/_layers/sha256/{name}/link"
            for path in (data, link):
                path.parent.mkdir(parents=True, exist_ok=True)
            data.write_bytes(content)
            link.write_text(f"sha256:{name}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.place = f"127.0.0.1:{port}"
        config = {
            "version": 0.1,
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(folder)}},
            "http": {"addr": self.place},
            **({"auth": auth} if auth else {}),
        }
        self._config = folder / "registry.yml"
        self._config.write_text(json.dumps(config))  # JSON is YAML
        self._log = folder / "registry.log"

    def __enter__(self) -> "DockerRegistry":
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(["docker-registry", "serve", self._config], stdout=log, stderr=log)
        host, _, port = self.place.partition(":")
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((host, int(port))).close()
                return self
            except ConnectionRefusedError:
                assert self._process.poll() is None and time.monotonic() < end, self._log.read_text()
                time.sleep(0.02)  # it tells nobody when it listens

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()


def sign_token(key: ec.EllipticCurvePrivateKey, chain: Sequence[bytes], claims: Mapping[str, object]) -> str:
    """A JSON web token as distribution wants it: ES256, with the chain of certificates (DER) in its header."""
    header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(c).decode() for c in chain]}
    parts = [_web64(json.dumps(part).encode()) for part in (header, claims)]
    r, s = decode_dss_signature(key.sign(".".join(parts).encode(), ec.ECDSA(hashes.SHA256())))
    return ".".join([*parts, _web64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))])


def _web64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TokenServer:
    """Makes tokens for DockerRegistry's `token` authentication, for who knows `auth`."""

    def __init__(self, folder: Path, auth: str, lifetime_s: int = 60) -> None:
        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        own = authority.issue_cert("token.example", key_type=trustme.KeyType.ECDSA)
        bundle = folder / "token-ca.pem"
        authority.cert_pem.write_to_path(bundle)
        self._key = load_pem_private_key(own.private_key_pem.bytes(), None)
        self._chain = [load_pem_x509_certificate(c.bytes()).public_bytes(Encoding.DER) for c in own.cert_chain_pems]
        self._auth = auth
        self._lifetime_s = lifetime_s
        self.tokens: list[str] = []
        self.origin = Origin()
        self.origin.answer = self._answer
        realm = self.origin.url("token")
        self.section = {"token": {"realm": realm, "service": "s", "issuer": "i", "rootcertbundle": str(bundle)}}

    def _answer(self, exchange: Exchange) -> None:
        if exchange.seen.headers.get("authorization") != f"Basic {self._auth}":
            exchange.answer(401, b"{}")
            return
        now = int(time.time())
        claims = {
            "iss": "i", "sub": "user", "aud": "s", "jti": os.urandom(8).hex(), "iat": now, "nbf": now - 5,
            "exp": now + self._lifetime_s, "access": [{"type": "repository", "name": REPO, "actions": ["pull"]}],
        }  # fmt: skip
        self.tokens.append(sign_token(self._key, self._chain, claims))
        body = json.dumps({"token": self.tokens[-1], "expires_in": self._lifetime_s})
        exchange.answer(200, body.encode())

    def __enter__(self) -> "TokenServer":
        self.origin.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.origin.__exit__(*exc)
