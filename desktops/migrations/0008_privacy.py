"""Names apart from people, who looked at whom, and who may erase somebody."""

from __future__ import annotations

from django.db import migrations, models

MOVE_NAMES = """
INSERT INTO desktops_personname (desktop_user_id, name)
SELECT id, name FROM desktops_desktopuser WHERE name <> ''
ON CONFLICT (desktop_user_id) DO NOTHING
"""
MOVE_BACK = """
UPDATE desktops_desktopuser person SET name = named.name
FROM desktops_personname named WHERE named.desktop_user_id = person.id
"""


class Migration(migrations.Migration):
    dependencies = [("desktops", "0007_region_hosts")]

    operations = [
        migrations.RunSQL(
            # The foreign keys are deferred: the column cannot be dropped before they are checked.
            [MOVE_NAMES, "SET CONSTRAINTS ALL IMMEDIATE"],
            [MOVE_BACK, "SET CONSTRAINTS ALL IMMEDIATE"],
        ),
        migrations.RemoveField(model_name="desktopuser", name="name"),
        migrations.AlterModelOptions(
            name="desktopuser",
            options={
                "ordering": ("pseudonym",),
                "permissions": (
                    ("view_names", "Can see the names behind pseudonyms"),
                    ("erase_person", "Can export and erase people, and set their opt-outs"),
                ),
            },
        ),
        migrations.CreateModel(
            name="Look",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "viewer",
                    models.CharField(help_text="An account, or a program's token.", max_length=150),
                ),
                ("alias", models.CharField(max_length=64)),
                (
                    "what",
                    models.CharField(
                        choices=[
                            ("page", "Page"),
                            ("whereabouts", "Whereabouts"),
                            ("export", "Export"),
                        ],
                        max_length=12,
                    ),
                ),
                ("hour", models.DateTimeField()),
            ],
            options={
                "ordering": ("-hour", "viewer"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("hour", "viewer", "alias", "what"), name="look_once_per_hour"
                    )
                ],
            },
        ),
    ]
