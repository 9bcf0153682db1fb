"""Data sets of recorded activity, their pools, people and machines."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db.models import Count, F, Max, Min, Value
from django.db.models.functions import Greatest

from desktops.core.metros import Metro
from desktops.errors import NameTaken
from desktops.models import Activity, Dataset, Desktop, DesktopUser, Pool, Site

# Before anything was observed; replaced in the transaction that makes the data set.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)
KEY_LENGTH = 80
NOT_IN_KEYS = re.compile(r"[^-a-zA-Z0-9_]+")


def open_dataset(*, name: str, source: str) -> Dataset:
    """The imported data set of that name, made when there is none, locked until the commit."""
    Dataset.objects.get_or_create(
        name=name,
        defaults={
            "label": name,
            "kind": Dataset.Kind.IMPORTED,
            "source": source,
            "as_of": NEVER,
        },
    )
    # Not against references: forecasts and plans of the data set go on during a long import.
    dataset = Dataset.objects.select_for_update(no_key=True).get(name=name)
    if dataset.kind != Dataset.Kind.IMPORTED:
        raise NameTaken(f"The data set {name} is {dataset.get_kind_display().lower()}.")
    return dataset


def open_pool(*, name: str, dataset: Dataset) -> Pool:
    """The data set's pool of that name, made when there is none; its members stay as they are."""
    pool, _ = Pool.objects.get_or_create(name=name, defaults={"dataset": dataset, "label": name})
    if pool.dataset_id != dataset.pk:
        raise NameTaken(f"The pool {name} belongs to the data set {pool.dataset.name}.")
    return pool


def advance_clock(*, dataset: Dataset, to: datetime) -> None:
    """Recorded history is planned as if it were `to`, unless it is later there already."""
    Dataset.objects.filter(pk=dataset.pk).update(as_of=Greatest(F("as_of"), Value(to)))
    dataset.refresh_from_db(fields=["as_of"])


def ensure_people(*, dataset: Dataset, pool: Pool, pseudonyms: Iterable[str]) -> dict[str, int]:
    """Pseudonym → id of the person, made where there is none."""
    wanted = list(pseudonyms)
    DesktopUser.objects.bulk_create(
        (DesktopUser(dataset=dataset, pool=pool, pseudonym=p) for p in wanted),
        ignore_conflicts=True,
    )
    return dict(
        DesktopUser.objects.filter(dataset=dataset, pseudonym__in=wanted).values_list(
            "pseudonym", "pk"
        )
    )


def ensure_machines(*, dataset: Dataset, pool: Pool, identities: Iterable[str]) -> dict[str, int]:
    """Identity → id of the recorded desktop, made where there is none."""
    keys = {identity: desktop_key(dataset.name, identity) for identity in identities}
    Desktop.objects.bulk_create(
        (
            Desktop(dataset=dataset, pool=pool, key=key, label=identity[:120])
            for identity, key in keys.items()
        ),
        ignore_conflicts=True,
    )
    found = dict(
        Desktop.objects.filter(dataset=dataset, key__in=keys.values()).values_list("key", "pk")
    )
    if taken := sorted(set(keys.values()) - set(found)):
        raise NameTaken(f"The desktop {taken[0]} belongs to another data set.")
    return {identity: found[key] for identity, key in keys.items()}


def desktop_key(dataset: str, identity: str) -> str:
    """`<data set>-<identity>`; a digest tells apart what the alphabet of keys would merge."""
    key = f"{dataset}-{identity}"
    slug = NOT_IN_KEYS.sub("-", key)
    if slug == key and len(slug) <= KEY_LENGTH:
        return slug
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"{slug[: KEY_LENGTH - 13]}-{digest}"


def ensure_sites(*, metros: Sequence[Metro], codes: Iterable[str]) -> dict[str, int]:
    """Code → id of the site, made from `metros` where there is none; a site that is there keeps
    what an admin made of it."""
    wanted = set(codes)
    Site.objects.bulk_create(
        (
            Site(
                code=metro.code,
                label=metro.label,
                country=metro.country,
                latitude=metro.latitude,
                longitude=metro.longitude,
                time_zone=metro.time_zone,
            )
            for metro in metros
            if metro.code in wanted
        ),
        ignore_conflicts=True,
    )
    return dict(Site.objects.filter(code__in=wanted).values_list("code", "pk"))


@dataclass(frozen=True, slots=True)
class Extent:
    """What a data set holds. first, last : the first and the last observed hour"""

    people: int
    desktops: int
    hours: int
    first: datetime
    last: datetime
    as_of: datetime


def extent_of(*, name: str) -> Extent:
    """Counts of a data set that has activity."""
    dataset = Dataset.objects.get(name=name)
    seen = Activity.objects.filter(dataset=dataset).aggregate(
        hours=Count("pk"), first=Min("hour"), last=Max("hour")
    )
    return Extent(
        people=dataset.people.count(),
        desktops=dataset.desktops.count(),
        as_of=dataset.clock(wall=seen["last"]),
        **seen,
    )
