"""What a name means, which files it stands for, and how they are cut."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picollm.corpus import local, stdlib
from picollm.corpus.catalog import CATALOG
from picollm.corpus.source import SourceFile, cut, estimated_tokens, open_source
from picollm.errors import MissingError, TextColumnError, UsageError


def lines(path: Path, text: str = '{"text": "a"}\n') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_misspelt_name_lists_the_aliases() -> None:
    with pytest.raises(MissingError, match="stdlib, fineweb-edu"):
        open_source("fineweb-edo")


def test_an_alias_comes_before_a_path_and_a_dot_makes_it_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "stdlib" / "x.jsonl")
    lines(tmp_path / "owner" / "name" / "x.jsonl")
    assert open_source("stdlib").kind == "stdlib"
    assert open_source("./stdlib").kind == "local"
    assert open_source("owner/name").name == "name"


def test_a_folder_gives_its_files_in_bytewise_order_hidden_ones_left_out(tmp_path: Path) -> None:
    for name in ("b.txt", "B.txt", "a/z.md", "a.py", "é.txt", ".hidden/x.txt", ".x.txt", "y.bin", "a/.git/x.py"):
        lines(tmp_path / name)
    source = open_source(str(tmp_path))
    assert [file.path for file in source.files] == ["B.txt", "a.py", "a/z.md", "b.txt", "é.txt"]
    assert any("y.bin" in warning for warning in source.warnings)


def test_in_a_folder_of_rows_a_readme_is_no_document(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl")
    lines(tmp_path / "README.md")
    assert [file.path for file in open_source(str(tmp_path)).files] == ["x.jsonl"]
    assert [file.path for file in open_source(str(tmp_path / "README.md")).files] == ["README.md"]
    assert len(open_source(str(tmp_path / "*")).files) == 2


def test_a_pattern_may_cross_folders(tmp_path: Path) -> None:
    for name in ("a/x.jsonl", "b/c/y.jsonl", "b/z.txt"):
        lines(tmp_path / name)
    source = open_source(str(tmp_path / "**" / "*.jsonl"))
    assert [file.path for file in source.files] == ["a/x.jsonl", "b/c/y.jsonl"]
    assert source.root == tmp_path.resolve()


@pytest.mark.parametrize("names", [(), ("x.bin",)])
def test_a_folder_without_text_is_missing_text(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        lines(tmp_path / name)
    with pytest.raises(MissingError, match="no text files"):
        open_source(str(tmp_path))


def test_a_wrong_column_lists_those_there_are(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", '{"body": "a", "n": 1}\n')
    assert open_source(str(path)).read.text_column == "body"
    with pytest.raises(TextColumnError, match=r'no column "foo"; columns: body \(string\), n \(number\)') as caught:
        open_source(str(path), text_column="foo")
    assert caught.value.exit_code == 2


def test_doubtful_columns_are_warned_about_by_name(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", '{"text": "http://example.org"}\n{"text": null}\n')
    warnings = open_source(str(path)).warnings
    assert [warning.split(":")[0] for warning in warnings] == ["short-text", "addresses", "empty-text"]


def test_hub_options_are_refused_for_files(tmp_path: Path) -> None:
    lines(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="--dataset-config"):
        open_source(str(tmp_path), dataset_config="sample-10BT")


def test_the_standard_library_is_python_files_without_tests() -> None:
    source = open_source("stdlib")
    assert source.val_ppm == 50_000
    paths = [file.path for file in source.files]
    assert paths == sorted(paths, key=str.encode)
    assert "abc.py" in paths
    assert not [path for path in paths if "/test/" in f"/{path}" or "site-packages" in path or not path.endswith(".py")]


def test_a_stripped_interpreter_is_missing_text(tmp_path: Path) -> None:
    lines(tmp_path / "abc.py", "x = 1\n")
    with pytest.raises(MissingError) as caught:
        stdlib.find(tmp_path)
    assert caught.value.hint == "picollm shard PATH"


def test_every_entry_of_the_catalog_is_complete() -> None:
    for alias, entry in CATALOG.items():
        assert alias == entry.alias
        assert entry.repo.count("/") == 1
        assert entry.configs
        assert entry.default_config is None or entry.default_config in entry.configs


@given(
    sizes=st.lists(st.integers(0, 5_000), max_size=30),
    names=st.sampled_from([("x.parquet",), ("x.txt", "x.jsonl"), ("x.jsonl.gz", "x.parquet", "x.md")]),
    wanted=st.integers(1, 3_000),
)
def test_segments_cover_every_file_once_in_order(sizes: list[int], names: tuple[str, ...], wanted: int) -> None:
    files = [SourceFile(f"{at:03}/{names[at % len(names)]}", size) for at, size in enumerate(sizes)]
    segments = cut(files, wanted)
    assert [segment.index for segment in segments] == list(range(len(segments)))
    covered = []
    for segment in segments:
        (first, end), (part, parts) = segment.files, segment.slice
        if parts == 1:
            covered += list(range(first, end))
            held = sum(estimated_tokens(file) for file in files[first:end])
            assert held <= wanted or end == first + 1
        else:
            assert end == first + 1
            assert local.extension(files[first].path) in local.ROWS
            covered += [first] if part == 0 else []
    assert covered == list(range(len(files)))
