"""Packed rows do not compress: PostgreSQL need not try with every delivery."""

from __future__ import annotations

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("desktops", "0005_batch_extras")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE desktops_batch ALTER COLUMN body SET STORAGE EXTERNAL",
            "ALTER TABLE desktops_batch ALTER COLUMN body SET STORAGE EXTENDED",
        )
    ]
