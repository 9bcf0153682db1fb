"""The table of raw samples, partitioned by day, and an alias key of their own for everybody.

A field's default is computed once for all rows that exist, so they are given theirs here.
"""

from __future__ import annotations

from django.db import migrations

SAMPLES = """
CREATE TABLE desktops_sample (
    at timestamptz NOT NULL,
    desktop_user_id bigint NOT NULL DEFAULT 0,
    desktop_id bigint NOT NULL DEFAULT 0,
    source_id bigint NOT NULL,
    site_id bigint NOT NULL DEFAULT 0,
    active_ratio real NOT NULL DEFAULT 'NaN',
    cpu_cores real NOT NULL DEFAULT 'NaN',
    memory_bytes real NOT NULL DEFAULT 'NaN',
    network_bytes_per_s real NOT NULL DEFAULT 'NaN',
    storage_bytes_per_s real NOT NULL DEFAULT 'NaN',
    CONSTRAINT sample_has_subject CHECK (desktop_user_id > 0 OR desktop_id > 0)
) PARTITION BY RANGE (at);
CREATE INDEX sample_at ON desktops_sample USING brin (at) WITH (pages_per_range = 32);
"""
ALIAS_KEYS = """
UPDATE desktops_desktopuser
SET alias_key = decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
"""


class Migration(migrations.Migration):
    dependencies = [("desktops", "0003_activity_in")]

    operations = [
        migrations.RunSQL(SAMPLES, "DROP TABLE desktops_sample"),
        migrations.RunSQL(ALIAS_KEYS, migrations.RunSQL.noop),
    ]
