"""What must hold before a process starts to work; run by every command and by `manage.py check`."""

from __future__ import annotations

from typing import Any

import maxminddb
from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from desktops.clouds.registry import get_cloud
from desktops.errors import InvalidFile
from desktops.services.locating import open_geoip
from desktops.services.pulling import configured_sources


@register()
def database_is_postgresql(**kwargs: Any) -> list[CheckMessage]:
    if settings.DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
        return []
    return [Error("DATABASE_URL must name a PostgreSQL database.", id="webapp.E001")]


@register()
def geoip_database_can_be_read(**kwargs: Any) -> list[CheckMessage]:
    try:
        if reader := open_geoip():
            reader.close()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        return [Error(f"GEOIP_DATABASE: {settings.GEOIP_DATABASE}: {error}", id="webapp.E002")]
    return []


@register()
def clouds_can_be_connected(**kwargs: Any) -> list[CheckMessage]:
    """Whether their options are well written; no cloud is asked."""
    problems: list[CheckMessage] = []
    for name in settings.CLOUDS:
        try:
            get_cloud(name)
        except (TypeError, ValueError) as error:
            problems.append(Error(f"Cloud {name!r}: {error}", id="webapp.E003"))
    return problems


@register()
def browser_assets_are_installed(**kwargs: Any) -> list[CheckMessage]:
    missing = [name for name, path in settings.BROWSER_PACKAGES.items() if not path.is_dir()]
    if not missing:
        return []
    return [
        Warning(
            f"Browser packages are not installed: {', '.join(missing)}.",
            hint="Run npm ci in the project's folder.",
            id="webapp.W001",
        )
    ]


@register()
def sources_file_can_be_read(**kwargs: Any) -> list[CheckMessage]:
    try:
        configured_sources()
    except InvalidFile as error:
        # Nothing but pulling waits for it: transitions go on.
        return [Warning(f"SOURCES_FILE: {error}", id="webapp.W003")]
    return []


@register(deploy=True)
def traffic_is_encrypted(**kwargs: Any) -> list[CheckMessage]:
    if settings.HTTPS_ONLY:
        return []
    return [Warning("HTTPS_ONLY is false: passwords travel in clear.", id="webapp.W002")]
