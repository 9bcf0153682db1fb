from desktops.models.activity import Activity, ImportedFile
from desktops.models.dataset import Dataset
from desktops.models.event import Event
from desktops.models.fleet import Desktop, DesktopUser, PersonName, Pool
from desktops.models.geography import (
    Flavor,
    FlavorPrice,
    Network,
    Region,
    RegionLink,
    RoundTrip,
    RoundTripProbe,
    Site,
)
from desktops.models.ingest import (
    ApplicationUse,
    Batch,
    DirtyHour,
    DiskRead,
    QuarantinedRow,
    Sample,
    Sighting,
    Source,
    Watermark,
)
from desktops.models.inventory import Drift, InventorySync, RegionState
from desktops.models.notices import Notice
from desktops.models.privacy import Erasure, Look
from desktops.models.tokens import AgentCommand, AgentCredential, EnrolmentToken, IntegrationToken

__all__ = [
    "Activity",
    "AgentCommand",
    "AgentCredential",
    "ApplicationUse",
    "Batch",
    "Dataset",
    "Desktop",
    "DesktopUser",
    "DirtyHour",
    "DiskRead",
    "Drift",
    "EnrolmentToken",
    "Erasure",
    "Event",
    "Flavor",
    "FlavorPrice",
    "ImportedFile",
    "IntegrationToken",
    "InventorySync",
    "Look",
    "Network",
    "Notice",
    "PersonName",
    "Pool",
    "QuarantinedRow",
    "Region",
    "RegionLink",
    "RegionState",
    "RoundTrip",
    "RoundTripProbe",
    "Sample",
    "Sighting",
    "Site",
    "Source",
    "Watermark",
]
