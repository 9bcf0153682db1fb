from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("desktops", "0008_privacy"),
    ]

    operations = [
        migrations.CreateModel(
            name="Erasure",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("person_id", models.BigIntegerField()),
                ("desktop_id", models.BigIntegerField(default=0, help_text="0: had none.")),
                ("alias", models.CharField(max_length=64)),
                ("pool_id", models.BigIntegerField()),
                ("actor", models.CharField(blank=True, max_length=150)),
                ("begun_at", models.DateTimeField()),
            ],
        ),
    ]
