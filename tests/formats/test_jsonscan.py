"""JSON in pieces, against the json module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from augpipe.data import jsonscan

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.dictionaries(st.sampled_from(["images", "x", "é", "n"]), st.lists(VALUES) | VALUES),
    size=st.integers(1, 40),
    indent=st.none() | st.integers(0, 2),
    plain=st.booleans(),
)
def test_it_finds_what_json_finds(
    tmp_path: Path, content: dict[str, Any], size: int, indent: int | None, plain: bool
) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(content, indent=indent, ensure_ascii=plain)
    data = text.encode(errors="surrogatepass" if plain else "replace")
    path.write_bytes(data)
    expected = json.loads(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonscan, "_PIECE", size)
        found = list(jsonscan.scan(path, ("images",)))
    whole = {each.key: each.value for each in found if each.key != "images"}
    listed = expected.get("images")
    places = [json.loads(data[each.start : each.start + each.size]) for each in found]
    if isinstance(listed, list):
        assert [v for v, each in zip(places, found, strict=True) if each.key == "images"] == listed
        del expected["images"]
    elif "images" in expected:
        whole["images"] = next(each.value for each in found if each.key == "images")
    assert whole == expected
