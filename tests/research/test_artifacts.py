"""Files are whole or absent, strict, and refused when they are not what they should be."""

import hashlib
import json
import math
import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo_royale.errors import ArtifactError
from algo_royale.market import Timeframe
from algo_royale.research import artifacts

MANIFEST = {
    "schema_version": 1, "kind": "run_manifest", "units": {}, "holdout_reads": 0, "symbols": [], "timeframe": "1Day",
    "windows": [],
}  # fmt: skip

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), values, max_size=5))
def test_documents_come_back_equal(document: dict) -> None:
    content = artifacts.dumps(document)

    assert json.loads(content) == document
    assert content.endswith(b"\n") and artifacts.dumps(json.loads(content)) == content


def test_what_json_cannot_hold_becomes_null_or_plain() -> None:
    found = json.loads(
        artifacts.dumps(
            {
                "nan": math.nan, "inf": -math.inf, "array": np.array([1.5, np.nan]), "count": np.int64(3),
                "day": date(2012, 3, 2), "frame": Timeframe.DAY_1, "flag": np.bool_(True), "pair": (1, 2),
            }
        )
    )  # fmt: skip

    assert found == {
        "nan": None, "inf": None, "array": [1.5, None], "count": 3, "day": "2012-03-02", "frame": "1Day", "flag": True,
        "pair": [1, 2],
    }  # fmt: skip
    with pytest.raises(TypeError, match="object has no place"):
        artifacts.dumps({"x": object()})


def test_identity_leaves_out_when_and_how_long_and_nothing_else() -> None:
    document = {"a": [{"meta": {"created_at": "x", "run_time_sec": 3.0, "seed": 1}}], "b": 2}

    assert artifacts.identity(document) == {"a": [{"meta": {"seed": 1}}], "b": 2}


def test_a_write_replaces_whole_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"

    artifacts.write(path, b"one")
    artifacts.write(path, b"two")

    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["b.json"]


def test_a_crash_before_the_replace_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.json"
    artifacts.write(path, b"old")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    for step in ("fsync", "replace"):
        monkeypatch.setattr(os, step, dies)
        with pytest.raises(KeyboardInterrupt):
            artifacts.write(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["b.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ArtifactError, match="cannot write .*file/x.json"):
        artifacts.write(tmp_path / "file" / "x.json", b"")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "corrupt"),
        (b'{"schema_version": 1', "corrupt"),
        (b"\xff\xfe", "corrupt"),
        (b"[1]", "not an object"),
        (b'{"schema_version": 1, "kind": "run_manifest", "units": NaN}', "NaN is not strict JSON"),
        (json.dumps(MANIFEST | {"schema_version": 2}).encode(), "schema version 2"),
        (json.dumps({"x": 1, "y": 2}).encode(), "schema version None"),
        (json.dumps(MANIFEST | {"kind": "signal_summary"}).encode(), "'run_manifest'"),
        (json.dumps({k: v for k, v in MANIFEST.items() if k != "units"}).encode(), "'units' is missing"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_the_artifact_is_refused_with_its_path_and_a_way_out(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "run_manifest.json"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match=complaint) as caught:
        artifacts.read(path, "run_manifest")
    assert str(path) in str(caught.value) and "run-backtest" in str(caught.value)


def test_a_missing_file_says_how_to_make_it_and_unknown_keys_are_ignored(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist; run run-backtest"):
        artifacts.read(tmp_path / "none.json", "run_manifest")
    path = tmp_path / "m.json"
    path.write_bytes(artifacts.dumps(MANIFEST | {"from_the_future": 1}))
    assert artifacts.read(path)["from_the_future"] == 1


def test_arrays_are_deterministic_and_bound_to_their_artifact(tmp_path: Path) -> None:
    arrays = {"b": np.arange(5.0), "a": np.eye(3)}
    content = artifacts.npz(arrays)
    assert content == artifacts.npz(dict(reversed(arrays.items())))

    path = tmp_path / "trials.npz"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert artifacts.read_sidecar(path, digest)["b"].tolist() == [0, 1, 2, 3, 4]
    assert list(artifacts.read_sidecar(path, digest, ("a",))) == ["a"]
    path.write_bytes(content[:-10])
    with pytest.raises(ArtifactError, match="checksum"):
        artifacts.read_sidecar(path, digest)
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        artifacts.read_sidecar(path, digest)


def test_long_universes_are_named_by_a_digest() -> None:
    assert artifacts.universe_name(["MSFT", "AAPL"]) == "AAPL_MSFT"
    many = [f"SYM{i:03d}" for i in range(20)]
    assert artifacts.universe_name(many).startswith("U20_") and len(artifacts.universe_name(many)) == 16


def test_the_code_version_changes_with_the_code() -> None:
    """It is release and digest, the same within a process."""
    release, _, digest = artifacts.code_version().partition("+s")

    assert release and len(digest) == 12 and artifacts.code_version() == artifacts.code_version()
