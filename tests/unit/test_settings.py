from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from webapp.env import InvalidSetting

SETTINGS = Path(__file__).resolve().parents[2] / "webapp" / "settings.py"
KEY = "0123456789abcdefghij" * 3
PRODUCTION = {
    "DATABASE_URL": "postgresql://desk:secret@db.example.org:5432/desk",
    "REDIS_URL": "rediss://:secret@redis.example.org:6379/0",
    "SECRET_KEY": KEY,
    "ALLOWED_HOSTS": "desk.example.org",
    "CSRF_TRUSTED_ORIGINS": "https://desk.example.org",
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The settings of a process with exactly these variables."""

    def run(**variables: str) -> dict[str, Any]:
        for name in [
            *PRODUCTION,
            "HTTPS_ONLY",
            "DEBUG",
            "LOG_LEVEL",
            "OS_CLOUD",
            "QEMU_CLOUDS_FILE",
        ]:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("FOREDESK_DATA", str(tmp_path))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS))

    return run


def test_production_is_safe_by_default(load: Any) -> None:
    settings = load(**PRODUCTION)
    assert settings["DEBUG"] is False
    assert settings["SESSION_COOKIE_SECURE"] and settings["CSRF_COOKIE_SECURE"]
    assert settings["SECURE_SSL_REDIRECT"] and settings["SECURE_HSTS_SECONDS"] > 0
    assert settings["DATABASES"]["default"]["HOST"] == "db.example.org"
    assert settings["CLOUDS"] == {}


def test_each_table_of_the_qemu_file_is_a_cloud(load: Any, tmp_path: Path) -> None:
    file = tmp_path / "qemu.toml"
    file.write_text('[plant]\naccelerator = "tcg"\n[plant.regions.east]\nfolder = "/srv/east"\n')
    settings = load(**PRODUCTION, QEMU_CLOUDS_FILE=str(file))
    assert settings["CLOUDS"] == {
        "plant": {
            "driver": "desktops.clouds.qemu",
            "options": {"accelerator": "tcg", "regions": {"east": {"folder": "/srv/east"}}},
        }
    }


@pytest.mark.parametrize("text", ["plant = 1", "[plant", "\x00"])
def test_a_qemu_file_that_cannot_be_read_names_its_variable(
    load: Any, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "qemu.toml"
    file.write_text(text)
    with pytest.raises(InvalidSetting, match="QEMU_CLOUDS_FILE"):
        load(**PRODUCTION, QEMU_CLOUDS_FILE=str(file))


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "SECRET_KEY"])
def test_what_has_no_safe_default_refuses_to_start_without(load: Any, name: str) -> None:
    variables = {key: value for key, value in PRODUCTION.items() if key != name}
    with pytest.raises(InvalidSetting, match=name):
        load(**variables)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "sqlite:///desk.sqlite3"),
        ("REDIS_URL", "amqp://broker"),
        ("SECRET_KEY", "too short"),
        ("HTTPS_ONLY", "sometimes"),
        ("HSTS_SECONDS", "a year"),
        ("LOG_LEVEL", "LOUD"),
        ("CSRF_TRUSTED_ORIGINS", "desk.example.org"),
        ("OS_CLIENT_CONFIG_FILE", "/nowhere/clouds.yaml"),
        ("SIMULATOR_URL", "somewhere"),
        ("FORECAST_HOUR", "24"),
    ],
)
def test_a_bad_value_names_its_variable(load: Any, name: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=name):
        load(**{**PRODUCTION, name: value})


def test_commands_in_a_second_shell_find_the_running_demo(load: Any, tmp_path: Path) -> None:
    lines = {**PRODUCTION, "DATABASE_URL": "postgresql://foredesk:pw@127.0.0.1:1/foredesk"}
    (tmp_path / "demo.env").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
    settings = load()
    assert settings["DATABASES"]["default"]["HOST"] == "127.0.0.1"
    assert settings["SECRET_KEY"] == KEY


def test_the_demo_is_no_part_of_a_configured_installation(load: Any, tmp_path: Path) -> None:
    (tmp_path / "demo.env").write_text(f"SECRET_KEY={KEY}\nREDIS_URL=redis://127.0.0.1:1/0\n")
    with pytest.raises(InvalidSetting, match=r"SECRET_KEY|REDIS_URL"):
        load(DATABASE_URL=PRODUCTION["DATABASE_URL"])


def test_clouds_of_clouds_yaml_are_named(load: Any) -> None:
    settings = load(**PRODUCTION, OPENSTACK_CLOUDS="east, west")
    assert list(settings["CLOUDS"]) == ["east", "west"]
    assert settings["CLOUDS"]["east"]["driver"] == "desktops.clouds.openstack"
