"""From the planner's arrays to one `Advice`: dates, items, terms and the sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

import numpy as np

from desktops.core.zones import zone_named
from migration.core import reasons
from migration.core.advice import (
    Action,
    Advice,
    ConfirmTerms,
    Item,
    SourceAfter,
    StayReason,
)
from migration.core.inputs import FleetInput, PoolPolicy
from migration.core.outlook import TIERS, World
from migration.core.priced import ITEMS, N_STAY_ITEMS, NO_TIER, Priced
from migration.core.slo import IntArray, to_micros

RESIZE_STRATEGY = "stop"


@dataclass(frozen=True, slots=True)
class WhyStay:
    """gain, region : of the best alternative that was priced; short : what it lacked."""

    reason: StayReason
    gain: int = 0
    region: int | None = None
    short: str = ""


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes the advice of one plan. stay_items : (4, n) micro-units."""

    fleet: FleetInput
    world: World
    currency: str
    stay_items: IntArray

    def stay(self, row: int, why: WhyStay) -> Advice:
        items = _items(self.stay_items[:, row].tolist())
        total = sum(item.micros for item in items)
        here, flavor = int(self.fleet.region[row]), int(self.fleet.flavor[row])
        regions = self.world.tables.regions
        sentence = reasons.stay_sentence(
            why.reason,
            region=regions[here],
            degradation=int(self.stay_items[:3, row].sum()),
            currency=self.currency,
            best_gain=why.gain,
            best_region="" if why.region is None else regions[why.region],
            min_gain=self._policy(row).min_gain,
            short=why.short,
        )
        if not self.fleet.allowed_regions[row, here]:
            sentence += f" It stands in {regions[here]}, which is not allowed for it."
        return Advice(
            desktop=row,
            action=Action.STAY,
            source_region=here,
            target_region=here,
            source_flavor=flavor,
            target_flavor=flavor,
            stay_items=items,
            action_items=items,
            stay_cost=total,
            action_cost=total,
            gain=0,
            confidence=1.0,
            expires_at=self._at(self.fleet.hours),
            reason=sentence,
            stay_reason=why.reason,
        )

    def act(self, priced: Priced, one: int) -> Advice:
        """What alternative `one` advises."""
        row = int(priced.row[one])
        here, there = int(self.fleet.region[row]), int(priced.region[one])
        is_resize = int(priced.tier[one]) == NO_TIER
        stay = _items(self.stay_items[:, row].tolist())
        action = _items(priced.items[:, one].tolist())
        stay_cost = sum(item.micros for item in stay)
        action_cost = sum(item.micros for item in action)
        advice = Advice(
            desktop=row,
            action=Action.RESIZE if is_resize else Action.PREPARE,
            source_region=here,
            target_region=there,
            source_flavor=int(self.fleet.flavor[row]),
            target_flavor=int(priced.flavor[one]),
            stay_items=stay,
            action_items=action,
            stay_cost=stay_cost,
            action_cost=action_cost,
            gain=stay_cost - action_cost,
            confidence=float(priced.confidence[one]),
            expires_at=self._at(int(priced.last_hour[one]) + 1),
            reason=self._resize(priced, one) if is_resize else self._prepare(priced, one),
            tier=None if is_resize else TIERS[int(priced.tier[one])],
            strategy=self._strategy(priced, one),
            sync_interval_s=self._interval_s(priced, one),
            prepare_by=None if is_resize else self._at(int(priced.ready_hour[one])),
            cutover_start=self._at(int(priced.first_hour[one])),
            cutover_end=self._at(int(priced.end_hour[one])),
            source_after=None if is_resize else _source_after(priced, one),
            expected_stall_ms=round(float(priced.stall_s[one]) * 1000),
            target_site=None if is_resize else int(priced.site[one]),
            confirm_terms=self._terms(priced, one),
        )
        return advice

    def _policy(self, row: int) -> PoolPolicy:
        return self.world.policies[int(self.fleet.pool[row])]

    def _at(self, hour: int) -> datetime:
        return self.fleet.start + timedelta(hours=hour)

    def _zone(self, site: int) -> tzinfo:
        zones = self.world.tables.site_zones
        return UTC if zones is None or site < 0 else zone_named(zones[site])

    def _strategy(self, priced: Priced, one: int) -> str:
        if int(priced.tier[one]) == NO_TIER:
            return RESIZE_STRATEGY
        return self.world.tables.strategies[int(priced.strategy[one])].name

    def _interval_s(self, priced: Priced, one: int) -> int | None:
        """A seed is not kept in step."""
        if int(priced.tier[one]) <= 0:
            return None
        return round(float(priced.interval_h[one]) * 3600)

    def _prepare(self, priced: Priced, one: int) -> str:
        row, site = int(priced.row[one]), int(priced.site[one])
        here, there = int(self.fleet.region[row]), int(priced.region[one])
        tables, zone = self.world.tables, self._zone(site)
        flavor = int(priced.flavor[one])
        return reasons.prepare_sentences(
            site=tables.sites[site],
            region=tables.regions[there],
            arrives=reasons.clock(self._at(int(priced.first_hour[one])), zone),
            away_hours=float(priced.away_hours[one]),
            confidence=float(priced.confidence[one]),
            rtt_ms=(float(tables.rtt_ms[site, here]), float(tables.rtt_ms[site, there])),
            stay_degradation=int(self.stay_items[:3, row].sum()),
            left_degradation=int(priced.items[:3, one].sum()),
            extra_run=int(priced.items[3, one] - self.stay_items[3, row]),
            action=int(priced.items[N_STAY_ITEMS:, one].sum()),
            currency=self.currency,
            tier=TIERS[int(priced.tier[one])],
            whole_by=reasons.clock(self._at(int(priced.ready_hour[one])), zone),
            strategy=self._strategy(priced, one),
            stall_s=float(priced.stall_s[one]),
            source_after=_source_after(priced, one),
            flavor=tables.flavors[flavor] if flavor != self.fleet.flavor[row] else None,
        )

    def _resize(self, priced: Priced, one: int) -> str:
        row = int(priced.row[one])
        flavors = self.world.tables.flavors
        return reasons.resize_sentences(
            old=flavors[int(self.fleet.flavor[row])],
            new=flavors[int(priced.flavor[one])],
            confidence=float(priced.confidence[one]),
            at=reasons.clock(self._at(int(priced.first_hour[one])), UTC) + " UTC",
            stay_saturation=int(self.stay_items[1, row]),
            left_saturation=int(priced.items[1, one]),
            extra_run=int(priced.items[3, one] - self.stay_items[3, row]),
            action=int(priced.items[N_STAY_ITEMS:, one].sum()),
            currency=self.currency,
            stall_s=float(priced.stall_s[one]),
        )

    def _terms(self, priced: Priced, one: int) -> ConfirmTerms | None:
        row = int(priced.row[one])
        here, there = int(self.fleet.region[row]), int(priced.region[one])
        tables, policy, flavor = self.world.tables, self._policy(row), int(self.fleet.flavor[row])
        is_resize = int(priced.tier[one]) == NO_TIER
        if is_resize and tables.flavor_vcpus[priced.flavor[one]] < tables.flavor_vcpus[flavor]:
            # Demand that stays away is nothing one observation could show.
            return None
        commit = tables.flavor_price_per_hour[flavor, here] * policy.commit_window_hours
        site_terms: tuple[str, ...] = ()
        fixed_stall_s, memory, in_stall, egress, is_lost = policy.resize_stall_s, 0, 0, 0.0, True
        delta_ratio = 1.0
        if not is_resize:
            strategy = tables.strategies[int(priced.strategy[one])]
            memory = int(self.fleet.memory_bytes[row]) if strategy.carries_memory else 0
            in_stall = round(memory * strategy.memory_in_stall_ratio)
            scan_s = int(self.fleet.volume_bytes[row]) / strategy.scan_bytes_per_s
            fixed_stall_s = strategy.fixed_stall_s[TIERS[int(priced.tier[one])]] + scan_s
            egress = float(tables.egress_price_per_gb[here, there])
            is_lost = not strategy.carries_memory
            delta_ratio = strategy.delta_in_stall_ratio
            site_terms = self._better_sites(row, here, there)
        return ConfirmTerms(
            source_region=here,
            target_region=there,
            sites=site_terms,
            demand_vcpus=float(tables.flavor_vcpus[flavor]) if is_resize else None,
            demand_memory_bytes=int(tables.flavor_memory_bytes[flavor]) if is_resize else None,
            probability=float(priced.confidence[one]),
            active_hours=float(priced.active_hours[one]),
            other_saving=int(priced.other_saving[one]),
            fixed_stall_s=fixed_stall_s,
            memory_in_stall_bytes=in_stall,
            memory_bytes=memory,
            egress_price_per_gb=egress,
            commit_cost=int(to_micros(float(commit))),
            session_lost=is_lost,
            delta_in_stall_ratio=delta_ratio,
        )

    def _better_sites(self, row: int, here: int, there: int) -> tuple[str, ...]:
        latency = self.world.latency_per_hour[int(self.fleet.pool[row]), :-1]
        better = latency[:, here] > latency[:, there]
        return tuple(self.world.tables.sites[site] for site in np.nonzero(better)[0].tolist())


def _items(amounts: Iterable[int]) -> tuple[Item, ...]:
    """What staying pays too is always shown; of the rest only what is not zero."""
    return tuple(
        Item(name, micros, reasons.NOTES[name])
        for number, (name, micros) in enumerate(zip(ITEMS, amounts, strict=False))
        if micros or number < N_STAY_ITEMS
    )


def _source_after(priced: Priced, one: int) -> SourceAfter:
    return SourceAfter.DELETE if priced.deletes_source[one] else SourceAfter.SHADOW
