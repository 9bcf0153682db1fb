from __future__ import annotations

from pathlib import Path

import pytest

from webapp.env import Env, InvalidSetting, parse_env_file


@pytest.mark.parametrize("word", ["1", "true", "Yes", " ON "])
def test_flag_understands_words_for_true(word: str) -> None:
    assert Env({"FAST": word}).flag("FAST", False) is True


@pytest.mark.parametrize("word", ["0", "false", "No", "off"])
def test_flag_understands_words_for_false(word: str) -> None:
    assert Env({"FAST": word}).flag("FAST", True) is False


def test_an_empty_value_counts_as_not_set() -> None:
    env = Env({"FAST": "  "})
    assert not env.is_set("FAST")
    assert env.flag("FAST", True) is True


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda env: env.flag("X", True), "perhaps"),
        (lambda env: env.whole("X", 1), "1.5"),
        (lambda env: env.whole("X", 1, minimum=0), "-1"),
        (lambda env: env.origins("X"), "desk.example.org"),
        (lambda env: env.origins("X"), "https://desk.example.org/path"),
        (lambda env: env.url("X", schemes=("redis",)), "http://host:1/0"),
        (lambda env: env.url("X", schemes=("redis",)), "redis://"),
        (lambda env: env.url("X", schemes=("redis",)), "redis://host:port/0"),
        (lambda env: env.secret("X", minimum_length=50), "short"),
        (lambda env: env.existing_file("X"), "/nowhere/clouds.yaml"),
        (lambda env: env.folder("X", Path("/")), __file__),
        (lambda env: env.text("X"), ""),
    ],
)
def test_a_bad_value_names_its_variable(read, value: str) -> None:
    with pytest.raises(InvalidSetting, match=r"\bX\b"):
        read(Env({"X": value}))


@pytest.mark.parametrize(
    "read",
    [
        lambda env: env.secret("X", minimum_length=50),
        lambda env: env.url("X", schemes=("postgresql",)),
    ],
)
def test_a_bad_secret_is_never_shown(read) -> None:
    with pytest.raises(InvalidSetting) as raised:
        read(Env({"X": "mysql://me:hunter2@host/name"}))
    assert "hunter2" not in str(raised.value)


def test_items_are_split_and_stripped() -> None:
    assert Env({"X": " a, b,,c "}).items("X") == ["a", "b", "c"]
    assert Env({}).items("X") == []


def test_origins_keep_scheme_host_and_port() -> None:
    assert Env({"X": "https://a.example:8443,http://b"}).origins("X") == [
        "https://a.example:8443",
        "http://b",
    ]


def test_folder_expands_home_and_need_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert Env({"X": "~/data"}).folder("X", Path("/")) == Path("/home/ada/data")


def test_env_file_keeps_equals_signs_of_values_and_skips_comments() -> None:
    assert parse_env_file("# a=b\n\nKEY=x=y==\n OTHER = 1 \nnonsense\n") == {
        "KEY": "x=y==",
        "OTHER": "1",
    }
