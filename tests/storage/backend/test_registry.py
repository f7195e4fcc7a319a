"""The registry backend against a registry that insists: passwords, tokens that expire, redirects, names."""

import base64
import json
import logging
import os
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from registries import REPO, Registry
from nydus_app.errors import BackendDenied, BackendError, BackendNotFound, BackendUnavailable, ConfigError, NotTls
from nydus_app.storage.backend import retry
from nydus_app.storage.backend.http.settings import HttpSettings, MirrorSettings
from nydus_app.storage.backend.registry import RegistryBackend, RegistrySettings
from nydus_app.testing.origin import Exchange, Origin, good, redirect, stall, status

ID = "c" * 64
DATA = os.urandom(100_000)
BLOBS = {ID: DATA}
PASSWORD = "s3cret-w0rd"
AUTH = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
OTHER_AUTH = base64.b64encode(b"user:an0ther").decode()


def make_backend(host: str, **settings: object) -> RegistryBackend:
    http = {"timeout_s": 1, "connect_timeout_s": 1, "retry_limit": 1}
    http |= {k: settings.pop(k) for k in list(settings) if k in HttpSettings.__dataclass_fields__}
    given = {"scheme": "http", "host": host, "repo": REPO, **settings}
    return RegistryBackend(HttpSettings(**http), RegistrySettings(**given))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(retry, "FAILED_FOR_S", 0.05)


async def read(backend: RegistryBackend, times: int = 1) -> None:
    with closing(backend.open_blob(ID)) as reader:
        for i in range(times):
            assert await reader.read(i, 500) == DATA[i : i + 500]


def test_an_anonymous_registry_is_asked_once_a_read() -> None:
    with Registry(BLOBS) as registry:
        trio.run(read, make_backend(registry.origin.place), 3)
        assert [s.path for s in registry.origin.seen] == [f"/v2/team/app/blobs/sha256:{ID}"] * 3
        assert all("authorization" not in s.headers for s in registry.origin.seen)


@pytest.mark.parametrize("wants", ["basic", "bearer"])
def test_a_challenge_is_met_once(wants: str) -> None:
    with Registry(BLOBS, wants, auth=AUTH) as registry:
        trio.run(read, make_backend(registry.origin.place, auth=AUTH), 3)
        assert registry.asked("/v2/") == 4 and registry.asked("/token") == (wants == "bearer")


def test_tokens_for_anybody_and_token_servers_that_know_post_only() -> None:
    with Registry(BLOBS, "bearer") as registry:
        registry.post_only = True
        trio.run(read, make_backend(registry.origin.place))
        assert [s.method for s in registry.origin.seen if s.path.startswith("/token")] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("wants", "given", "text"),
    [
        ("basic", "", "wants a user and a password"), ("basic", OTHER_AUTH, "refuses the user"),
        ("bearer", "", "token server .*401"), ("bearer", OTHER_AUTH, "token server .*401"),
    ],
)  # fmt: skip
def test_without_the_right_password_the_error_says_so_at_once(
    wants: str, given: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Registry(BLOBS, wants, auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=given, retry_limit=5)
        with pytest.raises(BackendDenied, match=text) as caught:
            trio.run(read, backend)
        assert len(registry.origin.seen) <= 3
        assert OTHER_AUTH not in str(caught.value) + caplog.text


def test_a_token_that_was_given_is_used_and_replaced_once_it_is_refused() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        registry.valid["given"] = time.monotonic() + 60
        backend = make_backend(registry.origin.place, registry_token="given", auth=AUTH)

        async def main() -> None:
            await read(backend)
            assert len(registry.origin.seen) == 1
            registry.valid.clear()
            await read(backend, 2)

        trio.run(main)
        assert len(registry.handed) == 1 and len(registry.origin.seen) == 5


def test_many_readers_share_one_renewal() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH)
        registry.token_delay_s = 0.1

        async def main() -> None:
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for _ in range(32):
                        nursery.start_soon(read, backend)
                registry.valid.clear()

        trio.run(main)
        assert len(registry.handed) == 3


def test_many_readers_share_one_failure_of_the_token_server() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH, timeout_s=0.2, connect_timeout_s=0.2, retry_limit=0)
        registry.token_delay_s = 5
        failed: list[BackendError] = []

        async def main() -> None:
            async def one() -> None:
                try:
                    await read(backend)
                except BackendError as e:
                    failed.append(e)

            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                for _ in range(32):
                    nursery.start_soon(one)
            assert len(failed) == 32 and time.monotonic() - began < 1
            assert registry.asked("/token") == 1
            registry.token_delay_s = 0
            await read(backend)

        trio.run(main)


def test_who_renews_may_be_cancelled_and_another_takes_over() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH)
        registry.token_delay_s = 0.3

        async def main() -> None:
            async def impatient() -> None:
                with first:
                    await read(backend)

            first = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(impatient)
                with trio.fail_after(5):
                    while not registry.asked("/token"):
                        await trio.sleep(0.01)
                for _ in range(4):
                    nursery.start_soon(read, backend)
                await trio.testing.wait_all_tasks_blocked(0.05)
                first.cancel()

        trio.run(main)
        assert registry.asked("/token") == 2


def test_a_token_is_renewed_before_it_expires_while_readers_go_on() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH, lifetime_s=0.8) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH)

        async def main() -> None:
            reader = backend.open_blob(ID)
            end = time.monotonic() + 1.6
            while time.monotonic() < end:
                began = time.monotonic()
                assert await reader.read(0, 100) == DATA[:100]
                if len(registry.handed) > 1:
                    assert time.monotonic() - began < 0.15  # nobody waited for the token server
                await trio.sleep(0.02)
                registry.token_delay_s = 0.15
            reader.close()

        trio.run(main)
        refused = registry.asked("/v2/") - sum("authorization" in s.headers for s in registry.origin.seen if s.path.startswith("/v2"))
        assert refused == 1 and len(registry.handed) >= 3


def test_a_token_that_has_expired_meanwhile_is_renewed_before_it_is_sent() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH, lifetime_s=0.2) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH)

        async def main() -> None:
            await read(backend)
            await trio.sleep(0.25)
            await read(backend)

        trio.run(main)
        assert registry.asked("/v2/") == 3 and len(registry.handed) == 2


def test_credentials_are_replaced_while_it_runs() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=OTHER_AUTH)

        async def main() -> None:
            with pytest.raises(BackendDenied):
                await read(backend)
            backend.replace_credentials(AUTH)
            await read(backend)
            registry.auth = OTHER_AUTH
            registry.valid.clear()
            backend.replace_credentials(OTHER_AUTH)
            await read(backend)

        trio.run(main)
        with pytest.raises(ConfigError) as caught:
            backend.replace_credentials(PASSWORD)
        assert PASSWORD not in str(caught.value)


def test_dockers_configuration_is_read_anew_with_each_challenge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Registry(BLOBS, "basic", auth=AUTH) as registry:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {registry.origin.place: {"auth": AUTH}}}))
        backend = make_backend(registry.origin.place, docker_config=str(tmp_path))
        trio.run(read, backend)
        registry.auth = OTHER_AUTH
        helper = tmp_path / "docker-credential-test"
        helper.write_text('#!/bin/sh\nread server\necho "{\\"Username\\":\\"user\\",\\"Secret\\":\\"an0ther\\",\\"ServerURL\\":\\"$server\\"}"\n')
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        config.write_text(json.dumps({"credHelpers": {registry.origin.place: "test"}}))
        trio.run(read, backend)
        registry.auth = AUTH
        helper.write_text(f"#!/bin/sh\necho {PASSWORD}\nexit 1\n")
        with pytest.raises(BackendDenied, match="docker-credential-test ended with 1") as caught:
            trio.run(read, backend)
        assert PASSWORD not in str(caught.value)
        config.unlink()
        with pytest.raises(BackendDenied, match="config.json: No such file"):
            trio.run(read, backend)


# ---- redirects -----------------------------------------------------------------------------------


def test_a_redirect_is_remembered_and_never_told_the_password() -> None:
    with Registry(BLOBS, "basic", auth=AUTH) as registry, Origin({ID: DATA}) as store:
        allowed = registry.answer

        def to_store(exchange: Exchange) -> None:
            if registry.is_allowed(exchange.seen.headers.get("authorization", "")):
                exchange.answer(307, b"", {"Location": store.url(f"{ID}?signature=hush")})
            else:
                allowed(exchange)

        registry.origin.answer = to_store
        trio.run(read, make_backend(registry.origin.place, auth=AUTH), 4)
        assert len(registry.origin.seen) == 2 and len(store.seen) == 4
        assert all("authorization" not in s.headers for s in store.seen)
        assert store.seen[0].path == f"/{ID}?signature=hush"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_every_redirect_is_followed_also_a_relative_one(code: int) -> None:
    with Registry(BLOBS) as registry:
        registry.origin.script(redirect(f"../../../../store/{ID}", code), redirect(f"/other/{ID}", code))
        trio.run(read, make_backend(registry.origin.place))
        assert [s.path for s in registry.origin.seen[1:]] == [f"/store/{ID}", f"/other/{ID}"]


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_an_address_whose_signature_expired_is_asked_for_again(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "nydus")
    with Registry(BLOBS) as registry, Origin({ID: DATA}) as store:
        signatures = iter("abcdef")
        valid = [""]

        def to_store(exchange: Exchange) -> None:
            valid[0] = next(signatures)
            exchange.answer(307, b"", {"Location": store.url(f"{ID}?signature={valid[0]}")})

        def signed(exchange: Exchange) -> None:
            if exchange.seen.path.endswith(f"={valid[0]}"):
                exchange.serve()
            else:
                exchange.answer(code, b"<Code>ExpiredToken</Code>")

        registry.origin.answer, store.answer = to_store, signed
        backend = make_backend(registry.origin.place, retry_limit=0)

        async def main() -> None:
            reader = backend.open_blob(ID)
            assert await reader.read(0, 100) == DATA[:100]
            valid[0] = "another"
            assert await reader.read(5, 100) == DATA[5:105]
            assert await reader.read(6, 100) == DATA[6:106]
            reader.close()

        trio.run(main)
        assert len(registry.origin.seen) == 2 and len(store.seen) == 4
        assert "signature" not in caplog.text


def test_a_store_that_fails_is_left_and_the_registry_asked_again() -> None:
    with Registry(BLOBS) as registry, Origin({ID: DATA}) as store, Origin({ID: DATA}) as other:
        registry.origin.script(redirect(store.url(ID)), redirect(other.url(ID)))
        store.script(good, status(503))
        trio.run(read, make_backend(registry.origin.place), 3)
        assert [len(o.seen) for o in (registry.origin, store, other)] == [2, 2, 2]


def test_redirects_without_end_end() -> None:
    with Registry(BLOBS) as registry:
        registry.origin.answer = redirect(registry.origin.url("again"))
        with pytest.raises(BackendError, match="redirects without end"):
            trio.run(read, make_backend(registry.origin.place))
        assert len(registry.origin.seen) == 6


@pytest.mark.parametrize("location", ["", "ftp://h/x", "http://", "http://h:99999/", "http://[x", "http://h\x01/", "https://.h/", f"http://{'h' * 64}/"])
def test_a_location_that_is_none_is_an_error(location: str) -> None:
    with Registry(BLOBS) as registry:
        registry.origin.answer = redirect(location)
        with pytest.raises(BackendError):
            trio.run(read, make_backend(registry.origin.place))


def test_the_addresses_of_redirects_are_rewritten_as_configured() -> None:
    with Registry(BLOBS) as registry, Origin({ID: DATA}) as store:
        registry.origin.answer = redirect(f"https://store.example:{store.port}/{ID}")
        trio.run(read, make_backend(registry.origin.place, blob_url_scheme="http", blob_redirected_host="127.0.0.1"))
        registry.origin.answer = redirect(f"https://store.example/{ID}")
        trio.run(read, make_backend(registry.origin.place, blob_url_scheme="http", blob_redirected_host=store.place))
        assert len(store.seen) == 2 and store.seen[0].headers["host"] == store.place


# ---- the rest ------------------------------------------------------------------------------------


def test_sizes_also_where_an_address_is_signed_for_get_only() -> None:
    with Registry(BLOBS) as registry, Origin({ID: DATA}) as store:
        with closing(make_backend(registry.origin.place).open_blob(ID)) as reader:
            assert trio.run(reader.size) == len(DATA)

        def get_only(exchange: Exchange) -> None:
            exchange.answer(403) if exchange.seen.method == "HEAD" else exchange.serve()

        store.answer = get_only
        registry.origin.answer = redirect(store.url(ID))
        with closing(make_backend(registry.origin.place).open_blob(ID)) as reader:
            assert trio.run(reader.size) == len(DATA)


def test_a_blob_that_the_registry_does_not_have() -> None:
    with Registry(BLOBS) as registry:
        with closing(make_backend(registry.origin.place).open_blob("d" * 64)) as reader:
            with pytest.raises(BackendNotFound, match=r"404 Not Found \(BLOB_UNKNOWN\)"):
                trio.run(reader.read, 0, 1)
        assert len(registry.origin.seen) == 1


def test_http_is_tried_only_where_certificates_do_not_matter() -> None:
    with Registry(BLOBS) as registry:
        with pytest.raises(BackendUnavailable, match="backend.scheme=http"):
            trio.run(read, make_backend(registry.origin.place, scheme="https"))
        assert not registry.origin.seen
        backend = make_backend(registry.origin.place, scheme="https", skip_verify=True)
        trio.run(read, backend, 2)
        assert backend.describe() == f"registry http://{registry.origin.place}/team/app"


def test_another_ones_want_of_tls_does_not_take_the_registry_s() -> None:
    """A store that refuses TLS is asked again; the registry's password does not go without it for that."""
    with Registry(BLOBS) as registry, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        registry.origin.answer = redirect(f"https://127.0.0.1:{nobody.getsockname()[1]}/{ID}")
        backend = make_backend(registry.origin.place, skip_verify=True)
        asked: list[NotTls] = []
        backend.fall_back_to_http = asked.append  # type: ignore[method-assign]
        with pytest.raises(BackendUnavailable):
            trio.run(read, backend)
        assert not asked


def test_a_registry_that_answers_by_http_neither_keeps_its_scheme() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        backend = make_backend(f"127.0.0.1:{nobody.getsockname()[1]}", scheme="https", skip_verify=True)
        with pytest.raises(BackendUnavailable):
            trio.run(read, backend)
        assert backend.scheme == "https"


def test_mirrors_get_the_header_once_there_is_one_and_are_no_place_to_authenticate() -> None:
    with Registry(BLOBS, "bearer", auth=AUTH) as registry, Origin({ID: DATA}) as mirror:
        backend = make_backend(registry.origin.place, auth=AUTH, mirrors=(MirrorSettings(host=mirror.url()),))
        trio.run(read, backend, 3)
        assert registry.asked("/v2/") == 1 and len(mirror.seen) == 3
        assert mirror.seen[0].headers["authorization"] == f"Bearer {registry.handed[0]}"
        mirror.answer = status(401, {"WWW-Authenticate": f'Bearer realm="{mirror.url("steal")}",service="s"'})
        trio.run(read, backend)
        assert registry.asked("/v2/") == 2 and not any("steal" in s.path for s in mirror.seen)


def test_a_mirror_that_redirects_into_the_void_is_gone_round() -> None:
    with Registry(BLOBS) as registry, Origin({ID: DATA}) as mirror:
        backend = make_backend(registry.origin.place, mirrors=(MirrorSettings(host=mirror.url()),))
        answers = iter([redirect("/elsewhere"), status(404)])
        mirror.answer = lambda exchange: next(answers)(exchange)
        trio.run(read, backend)
        assert [s.path for s in mirror.seen][1:] == ["/elsewhere"] and len(registry.origin.seen) == 1


def test_credentials_do_not_go_to_a_token_server_without_tls_when_the_registry_has_it(tmp_path: Path) -> None:
    from nydus_app.protocols.http1 import decode_head
    from nydus_app.storage.backend.http.client import Answer
    from nydus_app.storage.backend.http.url import parse_url

    with Registry(BLOBS, "bearer", auth=AUTH) as registry:
        backend = make_backend(registry.origin.place, auth=AUTH)
        head = decode_head(f'HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer realm="{registry.origin.url("token")}"'.encode())
        answer = Answer(401, "No", head.headers, b"", parse_url("https://registry.example/v2/"))
        with pytest.raises(BackendDenied, match="without TLS"):
            trio.run(backend.auth.refused, "", answer, parse_url("https://registry.example/v2/"))
        assert not registry.origin.seen


def test_64_readers_of_one_range_are_told_of_one_stall_each_in_time() -> None:
    with Registry(BLOBS) as registry:
        backend = make_backend(registry.origin.place, timeout_s=0.2, connect_timeout_s=0.2, retry_limit=1)
        registry.origin.answer = stall(5)
        began = time.monotonic()

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(64):
                    nursery.start_soon(refused)

        async def refused() -> None:
            with pytest.raises(BackendUnavailable):
                await read(backend)

        trio.run(main)
        assert time.monotonic() - began < 2
