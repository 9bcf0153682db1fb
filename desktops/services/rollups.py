"""Hours whose samples changed, computed anew from all of their samples.

So late, doubled and out-of-order deliveries all end in the same hours, whatever way they took.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import connection, transaction

from desktops.services.samples import TABLE
from desktops.sources.samples import MEASURES

HOURS_AT_ONCE = 50_000

# A mark is taken before the samples are read: whoever adds samples meanwhile holds its row, or
# marks the hour again.
TAKE = """
CREATE TEMPORARY TABLE due_hour ON COMMIT DROP AS
WITH taken AS (
    DELETE FROM desktops_dirtyhour WHERE id IN (
        SELECT id FROM desktops_dirtyhour WHERE marked_at <= %s
        ORDER BY hour LIMIT %s FOR UPDATE SKIP LOCKED
    ) RETURNING desktop_user_id, desktop_id, hour
) SELECT * FROM taken
"""
EXTENT = "SELECT count(*), min(hour), max(hour) FROM due_hour"
ROLL_UP = f"""
INSERT INTO desktops_activity
    (dataset_id, desktop_user_id, desktop_id, hour, {", ".join(MEASURES)}, site_id)
SELECT coalesce(person.dataset_id, desktop.dataset_id), person.id, desktop.id, due.hour,
    {", ".join(f"due.{m}" for m in MEASURES)}, site.id
FROM (
    SELECT s.desktop_user_id, s.desktop_id, due_hour.hour,
        {", ".join(f"avg(s.{m}) FILTER (WHERE s.{m} <> 'NaN') AS {m}" for m in MEASURES)},
        (max(ARRAY[extract(epoch FROM s.at)::bigint, s.site_id]) FILTER (WHERE s.site_id > 0))[2]
            AS site_id
    FROM {TABLE} s JOIN due_hour
        ON s.desktop_user_id = due_hour.desktop_user_id AND s.desktop_id = due_hour.desktop_id
        AND s.at >= due_hour.hour AND s.at < due_hour.hour + interval '1 hour'
    WHERE s.at >= %s AND s.at < %s
    GROUP BY 1, 2, 3
) due
LEFT JOIN desktops_desktopuser person ON person.id = due.desktop_user_id
LEFT JOIN desktops_desktop desktop ON desktop.id = due.desktop_id
LEFT JOIN desktops_site site ON site.id = due.site_id AND person.is_located IS NOT FALSE
WHERE person.id IS NOT NULL OR (due.desktop_user_id = 0 AND desktop.id IS NOT NULL)
ORDER BY due.hour, person.id, desktop.id
ON CONFLICT (desktop_user_id, desktop_id, hour) DO UPDATE SET
    {", ".join(f"{m} = coalesce(excluded.{m}, desktops_activity.{m})" for m in MEASURES)},
    site_id = coalesce(excluded.site_id, desktops_activity.site_id)
"""


def roll_up(*, until: datetime, most: int | None = None) -> int:
    """Compute every hour that was marked up to `until`; returns how many.

    most : stop after about that many; None for all
    """
    done = 0
    while most is None or done < most:
        taken = _roll_up_some(until)
        done += taken
        if not taken:
            break
    return done


def _roll_up_some(until: datetime) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TAKE, [until, HOURS_AT_ONCE])
        cursor.execute("ANALYZE due_hour")
        cursor.execute(EXTENT)
        n, first, last = cursor.fetchone()
        if n:
            cursor.execute(ROLL_UP, [first, last + timedelta(hours=1)])
        cursor.execute("DROP TABLE due_hour")
    return int(n)
