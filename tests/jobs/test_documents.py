"""JSON set out for people says what it said."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from artifactfs.jobs.documents import pretty

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(documents, st.sampled_from([None, 0, 3]), st.booleans())
def test_it_looks_as_json_dumps_sets_it_out(document: Any, indent: Any, ascii_only: bool) -> None:
    written = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    expected = json.dumps(document, indent=2, ensure_ascii=ascii_only) + "\n"
    assert pretty(written) == expected.encode("utf-8", "surrogatepass")


def test_numbers_and_keys_that_come_twice_stay_as_they_were_written() -> None:
    written = b'{"a":1.10,"a":123456789012345678901234567890.5e-400,"b":[],"c":{ }}'
    assert pretty(written) == (
        b'{\n  "a": 1.10,\n  "a": 123456789012345678901234567890.5e-400,\n'
        b'  "b": [],\n  "c": {}\n}\n'
    )
