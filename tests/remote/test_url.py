"""One value decides where a request goes and whether it carries the token."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import urlsplit

import pytest
import requests
import urllib3.util
from hypothesis import example, given
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

from artifactfs.config import HttpConfig
from artifactfs.errors import BadAnswer, ConfigError
from artifactfs.remote import Service
from artifactfs.remote.connection_pool import first_lines
from artifactfs.remote.url import (
    Url,
    of_header,
    parse,
    segment,
)
from artifactfs.token import Secret, TokenSource

BASE = parse("https://service.example:8443/prefix/api/v1/artifacts?limit=1")
API = parse("https://service.example:8443/prefix/api")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", "http://h/"),
        ("HTTP://H:80", "http://h/"),
        ("https://h:443/a", "https://h/a"),
        ("https://h:80/a", "https://h:80/a"),
        ("http://h:/a", "http://h/a"),
        ("http://h:81/a?b=c#d", "http://h:81/a?b=c"),
        ("http://h?b=c", "http://h/?b=c"),
        ("http://h#@evil/", "http://h/"),
        ("http://h/@evil", "http://h/@evil"),
        ("http://h?@evil", "http://h/?@evil"),
        ("http://h//evil/x", "http://h//evil/x"),
        ("http://h/é?é", "http://h/%C3%A9?%C3%A9"),
        ("http://h/%41%2f?%zz", "http://h/A%2F?%25zz"),
        ("http://h/a/../b/./c", "http://h/b/c"),
        ("http://h/a/%2e%2E/b/%2e/c", "http://h/b/c"),
        ("http://h/../../b", "http://h/b"),
        ("http://h/a/%252e%252e/b", "http://h/a/%252e%252e/b"),
        ("http://h/a?x=/../y", "http://h/a?x=/../y"),
        ("http://my_host-1.a/", "http://my_host-1.a/"),
        ("http://h./", "http://h./"),
        ("http://bü.de/", "http://xn--b-eha.de/"),
        ("http://XN--B-eha.de/", "http://xn--b-eha.de/"),
        ("http://сomputalot.com/", "http://xn--omputalot-u3h.com/"),  # noqa: RUF001 - the homograph
        ("http://127.0.0.1:82/", "http://127.0.0.1:82/"),
        ("http://[::1]:82/a", "http://[::1]:82/a"),
        ("http://[0:0:0:0:0:0:0:1]/a", "http://[::1]/a"),
        ("http://[FE80::A]/", "http://[fe80::a]/"),
        ("http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
    ],
)  # fmt: skip
def test_a_url_has_one_form(text: str, url: str) -> None:
    assert parse(text).text == url
    assert parse(parse(text).text) == parse(text)


HOSTILE = [
    "",
    # Authorities that parsers split in different places
    r"http://evil:80\@service.example/x",
    r"http://service.example\@evil/x",
    r"http:\\evil/x",
    r"\\evil/x",
    r"/\evil/x",
    r"http://service.example\.evil/x",
    "http://user@service.example/",
    "http://user:password@service.example/",
    "http://@service.example/",
    "http://:@service.example/",
    "http://evil@service.example@evil/",
    "http://service.example:80@evil/",
    "http://service.example%40evil/",
    "http://service.example%2Fevil/",
    "http://service.example%23@evil/",
    "http://service.example%00.evil/",
    "http://%73ervice.example/",
    "http://service.example%/",
    "http://[::1]evil/",
    "http://evil[::1]/",
    "http://[::1]@evil/",
    "http://[::1",
    "http://::1/",
    "http://[::1]]/",
    "http://[::1]:80:80/",
    "http://service.example:80:80/",
    "http:///evil/x",
    "http:/evil",
    "http:evil",
    "http://",
    "http://?x",
    "http://#x",
    "http://:80/",
    # White space, control and other unprintable characters
    *(f"http://service.example{character}.evil/" for character in "\t\n\r \0\x0b\x0c\x1f\x7f\x85"),
    *(f"http://service.example/{character}x" for character in "\t\n\r \0\x1b\x7f\x85\xa0"),
    *(f"http://service.example/?{character}x" for character in " \r\n\u2028\u2029\u3000"),
    *(f"http://service{character}.example/" for character in "\u200b\u200d\ufeff\u202e\xad\ud800"),
    " http://service.example/",
    "http://service.example/ ",
    "\thttp://service.example/",
    "ht\ntp://service.example/",
    "\x00http://service.example/",
    # Ports
    "http://service.example:0/",
    "http://service.example:00/",
    "http://service.example:080/",
    "http://service.example:65536/",
    "http://service.example:99999999999999999999/",
    "http://service.example:-1/",
    "http://service.example:+80/",
    "http://service.example:8_0/",
    "http://service.example:x/",
    "http://service.example:８０/",  # noqa: RUF001 - digits of another script
    "http://service.example:٨٠/",
    "http://service.example:²/",
    # IPv6
    "http://[fe80::1%eth0]/",
    "http://[fe80::1%25eth0]/",
    "http://[::1%25@evil]/",
    "http://[v1.x]/",
    "http://[]/",
    "http://[service.example]/",
    "http://[127.0.0.1]/",
    "http://[::127.0.0.256]/",
    "http://[1::2::3]/",
    # IPv4 in other forms, which resolvers read as addresses
    "http://127.1/",
    "http://0177.0.0.1/",
    "http://127.0.0.01/",
    "http://0x7f.0.0.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://127.0.0.256/",
    "http://1.2.3.4.5/",
    "http://1.2.3.4./",
    # Names
    "http://./",
    "http://../",
    "http://.service.example/",
    "http://service..example/",
    "http://service.example../",
    "http://-service.example/",
    "http://service-.example/",
    "http://*.example/",
    "http://a,b/",
    "http://a;b/",
    "http://a'b/",
    "http://a$b/",
    f"http://{'a' * 64}/",
    f"http://{'.'.join(['a' * 60] * 5)}/",
    "http://ｓervice.example/",  # noqa: RUF001 - a full-width letter
    "http://service。example/",  # an ideographic full stop
    "http://service．example/",  # noqa: RUF001 - a full-width full stop
    "http://BÜ.de/",
    "http://u\u0308.de/",  # not composed
    "http://\u212Aomputalot.com/",  # a Kelvin sign, whose lower case is the letter k
    "http://☃.example/",
    # Other schemes
    "ftp://service.example/",
    "file:///etc/passwd",
    "javascript://service.example/",
    "httpss://service.example/",
    "ws://service.example/",
    "x:service.example",
    "service.example:80/x",
    # Sizes
    f"http://service.example/{'a' * 40_000}",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:60])
def test_what_has_no_place_in_a_url_is_refused(text: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        parse(text)
    assert caught.value.message.isascii() or "…" in caught.value.message
    assert caught.value.message.isprintable()
    assert "password" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("//evil/x", "https://evil/x"),
        ("//service.example:8443/x", "https://service.example:8443/x"),
        ("/x", "https://service.example:8443/x"),
        ("/api/../x", "https://service.example:8443/x"),
        ("//a/../b", "https://a/b"),
        ("x", "https://service.example:8443/prefix/api/v1/x"),
        ("x?y#z", "https://service.example:8443/prefix/api/v1/x?y"),
        ("../x", "https://service.example:8443/prefix/api/x"),
        ("../../../../../x", "https://service.example:8443/x"),
        (".", "https://service.example:8443/prefix/api/v1/"),
        ("?cursor=2", "https://service.example:8443/prefix/api/v1/artifacts?cursor=2"),
        ("#x", BASE.text),
        ("http://service.example:8443/x", "http://service.example:8443/x"),
        ("@evil/x", "https://service.example:8443/prefix/api/v1/@evil/x"),
    ],
)  # fmt: skip
def test_a_relative_url_is_resolved_against_the_one_that_named_it(text: str, url: str) -> None:
    assert parse(text, BASE).text == url


@pytest.mark.parametrize("text", [one for one in HOSTILE if "service.example:80" not in one])
def test_what_is_hostile_stays_so_where_it_may_be_relative(text: str) -> None:
    try:
        url = parse(text, BASE)
    except BadAnswer:
        return
    assert url.origin == BASE.origin


@pytest.mark.parametrize(
    ("text", "is_below"),
    [
        ("/prefix/api/v1/x", True),
        ("/prefix/api/", True),
        ("/prefix/api/v1/a%2Fb", True),
        ("/prefix/api/v1/a%2F..%2Fb", True),
        ("/prefix/api/v1//x", True),
        ("/prefix/api/v1/../../api/x", True),
        ("//SERVICE.example:8443/prefix/api/x", True),
        ("/prefix/api", False),
        ("/prefix/apix/", False),
        ("/prefix/API/v1", False),
        ("/api/v1/x", False),
        ("//prefix/api/v1/x", False),
        ("/prefix//api/v1/x", False),
        ("/prefix/api/../objects/x", False),
        ("/prefix/api/%2e%2e/objects/x", False),
        ("/prefix/api/.%2E/objects/x", False),
        ("/prefix/api/..%2fobjects/x", False),
        ("/prefix/api/%2e%2e%2fobjects/x", False),
        ("/prefix/api/..%5cobjects/x", False),
        ("/prefix/api/%252e%252e/objects/x", False),
        ("/prefix/api/..%25252fobjects/x", False),
        ("/prefix/api/..;/objects/x", False),
        ("/prefix/api/..%3Bx=y/objects/x", False),
        ("/objects/../prefix/api/x", True),
        ("/objects/%2e%2e%2fprefix/api/x", False),
        ("https://service.example:8443/prefix/api/x", True),
        ("http://service.example:8443/prefix/api/x", False),
        ("https://service.example/prefix/api/x", False),
        ("https://service.example.:8443/prefix/api/x", False),
        ("https://evil.service.example:8443/prefix/api/x", False),
        ("https://service.example.evil:8443/prefix/api/x", False),
        ("https://ѕervice.example:8443/prefix/api/x", False),  # noqa: RUF001 - a homograph
        ("?https://service.example:8443/prefix/api/x", True),
        ("//evil/?x=https://service.example:8443/prefix/api/x", False),
    ],
)  # fmt: skip
def test_the_api_is_what_every_server_takes_for_it(text: str, is_below: bool) -> None:
    assert parse(text, BASE).is_below(API) is is_below


PIECES = st.sampled_from(
    ["http://", "https:", "//", "/", "\\", "@", ":", "#", "?", "%", "%2e", "%2F", "%41", ".", "..",
     ";", "[", "]", "::1", "80", "0", "evil", "service.example", "api", " ", "\t", "\r\n", "é",
     "。"]
)  # fmt: skip


@given(st.lists(st.one_of(PIECES, st.text(max_size=4)), max_size=10).map("".join))
@example("//evil/../..//x")
@example("http://h/%%41")
def test_whoever_parses_the_canonical_form_finds_the_same_place(text: str) -> None:
    try:
        url = parse(text, BASE)
    except BadAnswer:
        return
    again = urllib3.util.parse_url(url.text)
    assert (again.scheme, (again.host or "").strip("[]")) == (url.scheme, url.host)
    assert (again.port or {"http": 80, "https": 443}[url.scheme]) == url.port
    assert again.request_uri == url.target
    parts = urlsplit(url.text)
    assert (parts.scheme, parts.hostname, parts.username) == (url.scheme, url.host, None)
    prepared = requests.Request("GET", url.text).prepare()
    assert prepared.url == url.text
    assert HTTPAdapter().request_url(prepared, {}) == url.target
    host, _ = HTTPAdapter().build_connection_pool_key_attributes(prepared, True)
    assert (host["host"], host["port"]) == (parts.hostname, parts.port)
    assert re.fullmatch(r"/[!-~]* HTTP/1\.1\r\nHost: [!-~]+\r\n", first_lines(url))
    assert parse(url.text) == url
    assert parse(url.text, BASE) == url


@given(st.text(max_size=40), st.text(max_size=20))
def test_no_url_ever_adds_a_line_to_a_request(path: str, host: str) -> None:
    with contextlib.suppress(BadAnswer):
        lines = first_lines(parse(f"http://{host}h/{path}"))
        assert re.fullmatch(r"[!-~]+ HTTP/1\.1\r\nHost: [!-~]+\r\n", lines)


def test_the_bytes_of_a_header_are_those_of_the_url() -> None:
    assert parse(of_header("http://h/é".encode().decode("latin-1"))).text == "http://h/%C3%A9"
    assert of_header("<http://h/a?b=%20&c>; rel=next") == "<http://h/a?b=%20&c>; rel=next"


def test_parameters_are_added_to_those_that_are_there() -> None:
    url = Url("http", "h", 80, "/a", "x=y")
    assert url.with_parameters({"c": "&é /"}).target == "/a?x=y&c=%26%C3%A9+%2F"
    assert url.with_parameters(None) == url
    assert parse("http://h/a").with_parameters({"b": "c"}).text == "http://h/a?b=c"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_resolved_is_no_segment(name: str) -> None:
    with pytest.raises(BadAnswer):
        segment(name)


@pytest.mark.parametrize(
    "text", [r"http://evil\@service.example", "http://a b", "http://h:0", "http://[::1%25lo]"]
)
def test_a_service_at_no_usable_url_is_an_error_of_the_setting(text: str) -> None:
    with pytest.raises(ConfigError, match="usable URL"):
        Service(text, TokenSource("t", value=Secret("t")), HttpConfig())
