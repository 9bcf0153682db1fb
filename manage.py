#!/usr/bin/env python3
"""The command line of Foredesk."""

import os
import secrets
import sys

# They read files alone, and run where nothing is set up.
WITHOUT_SERVERS = ("evaluate_demand", "evaluate_locations")


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    if sys.argv[1:2] == ["demo"]:
        # The demo decides the settings, so it runs before Django reads them.
        from webapp.demo import main as run_demo

        sys.exit(run_demo(sys.argv[2:]))
    if sys.argv[1:2] and sys.argv[1] in WITHOUT_SERVERS:
        os.environ.update(
            DATABASE_URL="postgresql://nobody@127.0.0.1:1/none",
            REDIS_URL="redis://127.0.0.1:1/0",
            SECRET_KEY=secrets.token_urlsafe(64),
        )
    from django.core.management import execute_from_command_line

    from webapp.env import InvalidSetting

    try:
        execute_from_command_line(sys.argv)
    except InvalidSetting as error:
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
