"""Activity from Gnocchi, where Ceilometer of an OpenStack cloud keeps it, over its REST API.

Servers are read page by page; for each page, one question per measure brings the numbers of all of
its servers at the granularity of the archive policy.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import numpy as np

from desktops.errors import SourceFailed
from desktops.sources.entries import Options
from desktops.sources.http import JsonClient, open_client
from desktops.sources.pulling import Pulled
from desktops.sources.registry import SiteOf
from desktops.sources.samples import FloatArray, Labels, Samples

MAKES_PEOPLE = False
SETTLE_S = 900  # a poll of Ceilometer, its way through the queue, and Gnocchi's own processing
NOT_FOUND = frozenset({404})  # Gnocchi's way of saying: no such metric on any of these
MIB = 2.0**20
NS = 1e-9


@dataclass(frozen=True, slots=True)
class Meter:
    """One metric of Ceilometer and what it is to us.

    resource_type, server : what the metric belongs to, and which of its attributes is the server
    unit : times the value, in the unit of the measure
    is_counter : it only rises; its change from poll to poll is read, and becomes a rate
    """

    measure: str
    name: str
    unit: float = 1.0
    is_counter: bool = True
    resource_type: str = "instance"
    server: str = "id"


_CARD = {"resource_type": "instance_network_interface", "server": "instance_id"}
_DISK = {"resource_type": "instance_disk", "server": "instance_id"}
METERS = (
    Meter("cpu_cores", "cpu", NS),
    Meter("memory_bytes", "memory.usage", MIB, is_counter=False),
    Meter("network_bytes_per_s", "network.incoming.bytes", **_CARD),
    Meter("network_bytes_per_s", "network.outgoing.bytes", **_CARD),
    Meter("storage_bytes_per_s", "disk.device.read.bytes", **_DISK),
    Meter("storage_bytes_per_s", "disk.device.write.bytes", **_DISK),
)


def connect(options: Options, *, site_of: SiteOf) -> GnocchiSource:
    """Raises InvalidFile."""
    step_s = options.whole("step_s", 300, maximum=3600)
    source = GnocchiSource(
        client=_client(options),
        step_s=step_s,
        poll_s=options.whole("poll_s", step_s, maximum=3600),
        window_s=options.whole("window_s", 3600, minimum=step_s),
        page=options.whole("page", 500, maximum=1000),
    )
    options.finish()
    return source


def _client(options: Options) -> JsonClient:
    if not options.has("cloud"):
        return open_client(options, url=options.url("url"))
    cloud, url = options.text("cloud"), options.url("url") if options.has("url") else ""
    session, endpoint = _session(cloud, url)
    return open_client(options, url=endpoint, auth=_Keystone(session))


def _session(cloud: str, url: str) -> tuple[Any, str]:
    """A session of the cloud that clouds.yaml calls so, and the address of its Gnocchi.

    url : instead of what the cloud's catalog says. Raises SourceFailed.
    """
    # Slow to import, and needed for clouds with Keystone alone.
    import openstack.config
    from keystoneauth1.exceptions import ClientException
    from openstack.exceptions import SDKException

    try:
        # openstacksdk 4.22 announces the end of its own InfluxDB support every time.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            region = openstack.config.OpenStackConfig().get_one(cloud=cloud)
        session = region.get_session()
        endpoint = url or session.get_endpoint(
            service_type="metric", region_name=region.region_name, interface="public"
        )
    except (ClientException, SDKException) as error:
        raise SourceFailed(f"Cloud {cloud!r}: {error}") from error
    if not endpoint:
        raise SourceFailed(f"Cloud {cloud!r} lists no service of type `metric`: name its url.")
    return session, endpoint


class _Keystone(httpx.Auth):
    """The headers of a session of keystoneauth, made anew when they have expired."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(self._headers())
        answer = yield request
        if answer.status_code == 401 and self._session.invalidate():
            request.headers.update(self._headers())
            yield request

    def _headers(self) -> Mapping[str, str]:
        from keystoneauth1.exceptions import ClientException

        try:
            return self._session.get_auth_headers() or {}
        except ClientException as error:
            raise SourceFailed(f"Keystone: {error}") from error


@dataclass(frozen=True, slots=True)
class GnocchiSource:
    """step_s : the granularity that is read
    poll_s : seconds between two polls of Ceilometer
    page : servers per question
    """

    client: JsonClient
    step_s: int
    poll_s: int
    window_s: int
    page: int

    def pull(self, since: datetime, until: datetime) -> Iterator[Pulled]:
        """Steps that begin at `since` or later and are over at `until`. Raises SourceFailed."""
        step = self.step_s
        begin = -(-int(since.timestamp()) // step)
        end = int(until.timestamp()) // step
        while begin < end:
            n = min(self.window_s // step, end - begin)
            yield Pulled(
                self._samples(begin * step, n), datetime.fromtimestamp((begin + n) * step, UTC)
            )
            begin += n

    def _samples(self, first_s: int, n: int) -> Samples:
        servers: list[str] = []
        grids: dict[str, list[FloatArray]] = {meter.measure: [] for meter in METERS}
        for page in self._pages(first_s):
            servers += page
            for measure, parts in grids.items():
                parts.append(self._measure(measure, page, first_s, n))
        columns = {
            measure: np.concatenate([np.empty((0, n)), *parts]) for measure, parts in grids.items()
        }
        observed = ~np.isnan(np.stack(list(columns.values()))).all(axis=0)
        point, server = np.nonzero(observed.T)
        rows = len(point)
        return Samples(
            np.arange(1, rows + 1),
            first_s + point * self.step_s,
            Labels.none(rows),
            Labels(tuple(servers), server.astype(np.int64)),
            Labels.none(rows),
            {measure: grid[server, point] for measure, grid in columns.items()},
        )

    def _pages(self, first_s: int) -> Iterator[list[str]]:
        """Ids of the servers that were there at `first_s` or came later."""
        params = {"limit": str(self.page), "sort": "id:asc"}
        while True:
            found = self.client.post(
                "/v1/search/resource/instance",
                params=params,
                json={"or": [{"=": {"ended_at": None}}, {">=": {"ended_at": _iso(first_s)}}]},
            )
            ids = [str(each["id"]) for each in _listed(found)]
            if ids:
                yield ids
            if len(ids) < self.page:
                return
            params["marker"] = ids[-1]

    def _measure(self, measure: str, servers: Sequence[str], first_s: int, n: int) -> FloatArray:
        """(len(servers), n): what is read and written, or sent and received, together."""
        total = np.full((len(servers), n), np.nan)
        for meter in METERS:
            if meter.measure == measure:
                values = self._meter(meter, servers, first_s, n)
                total = np.where(np.isnan(total), values, total + np.nan_to_num(values))
        return total

    def _meter(self, meter: Meter, servers: Sequence[str], first_s: int, n: int) -> FloatArray:
        """(len(servers), n), NaN where there is no measure."""
        aggregation = "rate:mean" if meter.is_counter else "mean"
        answer = self.client.post(
            "/v1/aggregates",
            params={
                "groupby": meter.server,
                "start": _iso(first_s),
                "stop": _iso(first_s + n * self.step_s),
                "granularity": str(self.step_s),
                "fill": "null",  # a card that came later is not waited for
            },
            json={
                "resource_type": meter.resource_type,
                "search": {"in": {meter.server: list(servers)}},
                "operations": f"(aggregate sum (metric {meter.name} {aggregation}))",
            },
            absent=NOT_FOUND,
        )
        grid = np.full((len(servers), n), np.nan)
        row_of = {server: row for row, server in enumerate(servers)}
        for group in _listed(answer or []):
            row = row_of.get(str(group["group"][meter.server]))
            if row is not None:
                self._fill(grid[row], group["measures"]["measures"].get("aggregated", []), first_s)
        if not meter.is_counter:
            return grid * meter.unit
        # A counter that fell began anew, with the server or its card; how much passed is unknown.
        return np.where(grid < 0, np.nan, grid) * (meter.unit / self.poll_s)

    def _fill(self, row: FloatArray, measures: Sequence[Any], first_s: int) -> None:
        for stamp, _, value in measures:
            point = round((datetime.fromisoformat(stamp).timestamp() - first_s) / self.step_s)
            if value is not None and 0 <= point < len(row):
                row[point] = value

    def close(self) -> None:
        self.client.close()


def _iso(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def _listed(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise SourceFailed("The answer is not one of Gnocchi's API.")
    return answer
