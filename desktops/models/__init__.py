from desktops.models.activity import Activity, ImportedFile
from desktops.models.dataset import Dataset
from desktops.models.event import Event
from desktops.models.fleet import Desktop, DesktopUser, Pool
from desktops.models.geography import Flavor, FlavorPrice, Region, RegionLink, RoundTrip, Site

__all__ = [
    "Activity",
    "Dataset",
    "Desktop",
    "DesktopUser",
    "Event",
    "Flavor",
    "FlavorPrice",
    "ImportedFile",
    "Pool",
    "Region",
    "RegionLink",
    "RoundTrip",
    "Site",
]
