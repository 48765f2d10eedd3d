"""File names through headers, JSON and back."""

from __future__ import annotations

from email.message import Message
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from artifactfs.server.responses import (
    bytes_of,
    disposition,
    header_filename,
    text_of,
)
from tests.server.conftest import Client

LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f%"))


def as_aiohttp_shows(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@given(LATIN)
@example("Ã©.txt")
def test_a_latin_1_header_is_that_name(name: str) -> None:
    assert text_of(header_filename(as_aiohttp_shows(name.encode("latin-1")))) == name


@given(st.binary(max_size=80))
def test_a_percent_encoded_header_is_those_bytes(name: bytes) -> None:
    assert header_filename(quote(name, safe="/ ")) == name


@pytest.mark.parametrize("name", ["100%", "50% off.csv", "%zz", "%e9 and é"])
def test_a_percent_sign_that_begins_no_escape_is_a_percent_sign(name: str) -> None:
    assert text_of(header_filename(as_aiohttp_shows(name.encode("latin-1")))) == name


@given(st.binary(max_size=80))
def test_any_header_is_some_name(raw: bytes) -> None:
    assert isinstance(text_of(header_filename(as_aiohttp_shows(raw))), str)


@given(st.text(max_size=60))
@example("\ud800")
@example("a\udcffb")
def test_a_name_in_json_comes_back_as_it_was(name: str) -> None:
    assert text_of(bytes_of(name)) == name


@given(st.text(max_size=60))
def test_a_disposition_is_one_clean_line_that_names_the_last_component(name: str) -> None:
    header = disposition(name)
    assert header.isascii()
    assert header.isprintable()
    message = Message()
    message["Content-Disposition"] = header
    assert message.get_content_disposition() == "attachment"
    last = name.rpartition("/")[2]
    if "filename*=" in header:
        encoded = header.rpartition("UTF-8''")[2]
        assert unquote(encoded) == last.encode("utf-8", "replace").decode()
    else:
        assert message.get_filename() == (last or "artifact")


@pytest.mark.parametrize(
    "name",
    ["plain.txt", "données.csv", "日本語 🎉.parquet", "a/b/c.csv", "50% done", "..", "nul\0"],
)
def test_over_http_every_name_is_listed_as_it_was_sent(client: Client, name: str) -> None:
    try:
        header = name.encode("latin-1") if "%" not in name and name.isprintable() else None
    except UnicodeEncodeError:
        header = None
    sent = client.ask(
        "POST",
        "artifacts",
        data=b"x",
        headers={"X-Artifact-Filename": header if header is not None else quote(name)},
    )
    assert sent.json()["filename"] == name
    assert [artifact["filename"] for artifact in client.listed()] == [name]
    begun = client.begin("direct", b"x", name + "2")
    assert begun["artifact"]["filename"] == name + "2"


def test_an_upload_without_a_name_is_called_by_its_id(client: Client) -> None:
    artifact = client.ask("POST", "artifacts", data=b"x").json()
    assert artifact["filename"] == artifact["id"]
