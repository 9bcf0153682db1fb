from django.db import migrations

REFUSE = """
CREATE FUNCTION desktops_event_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER desktops_event_append_only BEFORE UPDATE OR DELETE ON desktops_event
    FOR EACH ROW EXECUTE FUNCTION desktops_event_refuse();
"""
ALLOW = """
DROP TRIGGER desktops_event_append_only ON desktops_event;
DROP FUNCTION desktops_event_refuse();
"""


class Migration(migrations.Migration):
    dependencies = (("desktops", "0001_initial"),)

    operations = (migrations.RunSQL(REFUSE, ALLOW),)
