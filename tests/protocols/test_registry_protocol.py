"""Challenges, tokens, names and Docker's configuration file."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.docker_config import Helper, decode_docker_config, decode_helper_answer
from nydus_app.protocols.registry import (
    Challenge,
    Credentials,
    choose_challenge,
    decode_challenges,
    decode_token,
    real_host,
    real_repo,
    token_fields,
)

BASIC = base64.b64encode(b"user:pass:word").decode()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'Bearer realm="https://a/t?x=1,2&y=z",service="r",scope="repository:a/b:pull,push"',
            [("bearer", {"realm": "https://a/t?x=1,2&y=z", "service": "r", "scope": "repository:a/b:pull,push"})],
        ),
        ('Basic realm="x \\" y"', [("basic", {"realm": 'x " y'})]),
        ("BASIC", [("basic", {})]),
        ('Negotiate, Basic realm=r , Bearer  realm = "b"', [("negotiate", {}), ("basic", {"realm": "r"}), ("bearer", {"realm": "b"})]),
        ("", []),
    ],
)  # fmt: skip
def test_challenges(text: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert decode_challenges(text) == [Challenge(*c) for c in found]


@given(st.text('Bearersc="\\, =', max_size=60))
def test_any_challenge_is_read_to_its_end(text: str) -> None:
    choose_challenge(decode_challenges(text))


def test_bearer_comes_before_basic_and_needs_a_realm() -> None:
    both = [Challenge("basic", {}), Challenge("bearer", {"realm": "r"})]
    assert choose_challenge(both) == both[1]
    assert choose_challenge([Challenge("bearer", {}), Challenge("digest", {})]) is None


def test_what_is_sent_for_a_token() -> None:
    challenge = Challenge("bearer", {"realm": "r", "service": "s"})
    assert token_fields(challenge, "a/b", Credentials())["scope"] == "repository:a/b:pull"
    sent = token_fields(challenge, "a/b", Credentials(identity_token="t"))
    assert (sent["grant_type"], sent["refresh_token"]) == ("refresh_token", "t")


def test_tokens() -> None:
    assert decode_token(b'{"token":"t"}') == ("t", 60)
    assert decode_token(b'{"access_token":"t","expires_in":300}') == ("t", 300)
    assert decode_token(b'{"token":"t","expires_in":-1}') == ("t", 60)
    for body in (b"", b"[]", b"{}", b'{"token":3}', b'{"token":"a\\r\\nEvil: 1"}', b"[" * 100_000):
        with pytest.raises(ProtocolViolation):
            decode_token(body)


def test_names_of_docker_hub() -> None:
    for host in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        assert (real_host(host), real_repo(host, "ubuntu")) == ("registry-1.docker.io", "library/ubuntu")
        assert real_repo(host, "a/b") == "a/b"
    assert (real_host("r.example:5000"), real_repo("r.example:5000", "ubuntu")) == ("r.example:5000", "ubuntu")


@pytest.mark.parametrize(
    ("config", "host", "found"),
    [
        ({"auths": {"r:5000": {"auth": BASIC}}}, "r:5000", Credentials(BASIC)),
        ({"auths": {"https://r:5000/v2/": {"auth": BASIC}}}, "r:5000", Credentials(BASIC)),
        ({"auths": {"https://index.docker.io/v1/": {"auth": BASIC}}}, "docker.io", Credentials(BASIC)),
        ({"auths": {"r": {"username": "user", "password": "pass:word"}}}, "r", Credentials(BASIC)),
        ({"auths": {"r": {"identitytoken": "t", "auth": BASIC}}}, "r", Credentials(identity_token="t")),
        ({"auths": {"r": {}}, "credsStore": "pass"}, "r", Helper("pass", "r")),
        ({"credsStore": "pass"}, "docker.io", Helper("pass", "https://index.docker.io/v1/")),
        ({"credHelpers": {"r": "ecr-login"}, "auths": {"r": {"auth": BASIC}}}, "r", Helper("ecr-login", "r")),
        ({"auths": {"other": {"auth": BASIC}}}, "r", None),
        ({}, "r", None),
    ],
)
def test_dockers_configuration(config: dict[str, Any], host: str, found: object) -> None:
    assert decode_docker_config(json.dumps(config).encode(), host) == found


@pytest.mark.parametrize("text", ["", "[]", '{"credHelpers": 1}', '{"auths": []}', '{"credsStore": "../../bin/sh"}', "[" * 100_000])
def test_what_is_no_configuration(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        decode_docker_config(text.encode(), "r")


def test_what_a_helper_says() -> None:
    assert decode_helper_answer(b'{"Username":"user","Secret":"pass:word"}') == Credentials(BASIC)
    assert decode_helper_answer(b'{"Username":"<token>","Secret":"t"}') == Credentials(identity_token="t")
    with pytest.raises(ProtocolViolation):
        decode_helper_answer(b'{"Username":"user"}')
