from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_results import sample_file, sample_result

from shmbench.errors import ResultFormatError
from shmbench.results import FIXED_KEYS, SCHEMA, Failure, Limit, Result, ResultFile, load, save

figures = st.floats(min_value=0, max_value=1e6)
names = st.text(max_size=12)
anything = st.dictionaries(
    names, st.recursive(st.none() | st.booleans() | figures | names, st.lists, max_leaves=4)
)
results = st.builds(
    Result,
    workload=names,
    channel=st.none() | names,
    region=st.none() | names,
    pages=st.none() | names,
    policy=st.none() | names,
    cache=st.sampled_from([None, "cold", "warm"]),
    directory=st.none() | names,
    file_bytes=st.none() | st.integers(0, 1 << 60),
    driver=st.sampled_from(["native", "python"]),
    launcher=st.sampled_from(["process", "mpi"]),
    message_bytes=st.none() | st.integers(0, 1 << 60),
    ranks=st.integers(1, 4096),
    placement=names,
    host=names,
    samples=st.lists(figures, max_size=5),
    median=st.none() | figures,
    ci=st.none() | st.lists(figures, min_size=2, max_size=2),
    percentiles=st.none() | st.dictionaries(names, figures),
    limit=st.none() | st.builds(Limit, name=names, value=figures, ratio=figures),
    counters=st.dictionaries(names, figures),
    flags=st.lists(names),
    error=st.none() | st.builds(Failure, type=names, message=names, remedy=st.none() | names),
    evidence=st.none() | anything,
)
files = st.builds(
    ResultFile,
    schema=st.just(SCHEMA),
    machine=anything,
    created=names,
    plan=anything,
    results=st.lists(results, max_size=3),
)
WHOLE = msgspec.json.encode(sample_file())


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def as_document() -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(WHOLE)
    return document


@settings(max_examples=50)
@given(file=files)
def test_what_is_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, file: ResultFile
) -> None:
    path = tmp_path_factory.mktemp("round") / "trip.json"
    save(file, path)
    assert load(path) == file


def test_every_fixed_key_is_written_even_where_it_does_not_apply(tmp_path: Path) -> None:
    bare = sample_result(channel=None, region=None, pages=None, samples=[], median=None, ci=None)
    save(
        ResultFile(schema=SCHEMA, machine={}, created="", plan={}, results=[bare]),
        tmp_path / "run.json",
    )
    document = json.loads((tmp_path / "run.json").read_text())
    assert set(document) >= {"schema", "machine", "created", "plan", "results"}
    (written,) = document["results"]
    assert set(FIXED_KEYS) <= set(written)
    for key in ("channel", "policy", "cache", "median", "ci", "percentiles", "limit", "error"):
        assert written[key] is None
    assert written["unit"] == "s/op"


def test_saving_replaces_the_whole_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("something longer than nothing")
    save(sample_file(), path)
    assert load(path).schema == SCHEMA
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"not json", b"[1, 2]", b"null", b'"\xff\xfe"', b"\x00" * 64, b"[" * 100_000],
    ids=["empty", "cut", "words", "a list", "null", "not UTF-8", "zeros", "too deep"],
)
def test_a_file_that_is_no_result_file_is_named_with_the_remedy(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ResultFormatError) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert "shmbench run --output" in (caught.value.remedy or "")
    assert "\n" not in str(caught.value)


@settings(max_examples=40)
@given(share=st.floats(0, 0.999))
def test_a_file_cut_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "run.json"
    path.write_bytes(WHOLE[: int(share * len(WHOLE))])
    with pytest.raises(ResultFormatError):
        load(path)


def test_a_path_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(ResultFormatError, match=str(path)):
            load(path)


@pytest.mark.parametrize("schema", ["shmbench/2", None, 1])
def test_another_schema_is_refused_with_both_names(tmp_path: Path, schema: object) -> None:
    path = write(tmp_path / "run.json", as_document() | {"schema": schema})
    with pytest.raises(ResultFormatError, match="shmbench/1") as caught:
        load(path)
    assert repr(schema) in caught.value.message


@pytest.mark.parametrize("key", ["schema", "machine", "created", "plan", "results"])
def test_a_file_without_one_of_its_keys_is_refused(tmp_path: Path, key: str) -> None:
    document = as_document()
    del document[key]
    with pytest.raises(ResultFormatError, match=key):
        load(write(tmp_path / "run.json", document))


@pytest.mark.parametrize("key", FIXED_KEYS)
def test_a_result_without_one_of_the_fixed_keys_is_refused(tmp_path: Path, key: str) -> None:
    document = as_document()
    del document["results"][1][key]
    with pytest.raises(ResultFormatError, match=key):
        load(write(tmp_path / "run.json", document))


def test_a_figure_that_is_text_is_refused_with_its_place(tmp_path: Path) -> None:
    document = as_document()
    document["results"][0]["median"] = "fast"
    with pytest.raises(ResultFormatError, match=r"results\[.*median"):
        load(write(tmp_path / "run.json", document))


def test_keys_that_stand_beside_the_fixed_ones_are_no_obstacle(tmp_path: Path) -> None:
    document = as_document()
    document["results"][0]["colour"] = "blue"
    assert load(write(tmp_path / "run.json", document)).results[0].channel == "spin"


def test_results_of_the_same_thing_have_the_same_case() -> None:
    slower = sample_result(median=1.0, samples=[1.0], host="node-b", cpus=[2, 3])
    assert slower.case() == sample_result().case()
    for change in ({"message_bytes": 16}, {"driver": "python"}, {"window": 8}, {"first_touch": 1}):
        assert sample_result(**change).case() != sample_result().case()
