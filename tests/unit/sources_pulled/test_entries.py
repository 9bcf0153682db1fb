from __future__ import annotations

from pathlib import Path

import pytest

from desktops.errors import InvalidFile
from desktops.sources.entries import Entry, read_entries
from desktops.sources.registry import KINDS, pull_module

GOOD = """
[metrics]
kind = "prometheus"
pool = "office"
url = "https://prometheus.example.org:9090/"
preset = "node"
token = "open-sesame"
"""


def entries(path: Path, text: str, mode: int = 0o640) -> dict[str, Entry]:
    path = path / "sources.toml"
    path.write_text(text)
    path.chmod(mode)
    return read_entries(path, kinds=KINDS)


def test_an_entry_is_read_whole(tmp_path: Path) -> None:
    entry = entries(tmp_path, GOOD + "settle_s = 30\n")["metrics"]
    assert (entry.kind, entry.pool, entry.first_days, entry.settle_s) == (
        "prometheus",
        "office",
        None,
        30,
    )
    assert set(entry.options) == {"url", "preset", "token"}


def test_a_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="chmod o-rwx") as told:
        entries(tmp_path, GOOD, mode=0o644)
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('kind = "prometheus"|kind = "nagios"', "'metrics': kind must be one of gnocchi"),
        ('pool = "office"|', "'metrics': pool is missing"),
        ('pool = "office"|pool = 3', "'metrics': pool must be text"),
        ("[metrics]|[metrics]\nfirst_days = 0", "'metrics': first_days must be between 1"),
        ("[metrics]|[metrics]\nsettle_s = true", "'metrics': settle_s must be a whole number"),
        ("[metrics]|", "stands outside of any source"),
        ('[metrics]|["two words"]', "'two words': a name is letters"),
        ("[metrics]|[metrics", "Expected"),
    ],
)
def test_a_bad_entry_is_told_by_name_and_key(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(InvalidFile) as told:
        entries(tmp_path, GOOD.replace(*change.split("|")))
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("preset|presets", "must be one of libvirt, node, windows"),
        ('"node"|"nude"', "preset must be one of libvirt, node, windows, not 'nude'"),
        ("https://|", "url must be an address"),
        ("https://|https://me:open-sesame@", "url must hold no user"),
        ("token|tokne", "tokne means nothing here"),
        ("token|step_s = 0\ntoken", "step_s must be between 1 and 3600"),
        ("token|max_points = 11001\ntoken", "max_points must be between 1 and 11000"),
        ("token|label_pattern = '('\ntoken", "label_pattern is no regular expression"),
        ("token|label_pattern = 'a'\ntoken", "label_pattern must have one group"),
        ("token|ca_file = '/nowhere/ca.pem'\ntoken", "ca_file names /nowhere/ca.pem"),
        ("token|queries.gpu = 'x'\ntoken", "queries.gpu means nothing"),
    ],
)
def test_a_bad_option_is_told_by_name_and_key(tmp_path: Path, change: str, message: str) -> None:
    entry = entries(tmp_path, GOOD.replace(*change.split("|")))["metrics"]
    with pytest.raises(InvalidFile) as told:
        pull_module(entry.kind).connect(entry.read_options(), site_of=lambda address: None)
    assert message in str(told.value) and "'metrics'" in str(told.value)
    assert "sesame" not in str(told.value)


def test_the_example_file_is_well_written(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "deploy" / "sources.toml.example"
    found = entries(tmp_path, example.read_text().replace('ca_file = "', '# ca_file = "'))
    assert {entry.kind for entry in found.values()} == set(KINDS)
    for entry in found.values():
        if "cloud" not in entry.options:
            module = pull_module(entry.kind)
            module.connect(entry.read_options(), site_of=lambda address: None).close()
