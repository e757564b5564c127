"""What tenants were promised: a time by which their requests are answered, a share of the device, or both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError, bounded
from tasks.base.run_date import site_zone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tasks.runlog.state import RunState

FIELD: Final = "--promise"
FORM: Final = "Give it as TENANT=HH:MM, TENANT=SHARE% or TENANT=HH:MM,SHARE%, such as acme=06:00,30%"
_TIME: Final = re.compile(r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})")
_SHARE: Final = re.compile(r"(?P<share>[0-9]+(\.[0-9]+)?)\s?%")


@dataclass(frozen=True, slots=True)
class Promise:
    """What a tenant was promised; one of the two at least.

    Attributes
    ----------
    tenant
        As the requests name it.
    ready_by
        HH:MM of the night's time zone: the first such time after the run has begun. None: no time.
    share
        Part of the device, of 1, that is the tenant's until its requests are answered; 0: none.
    timezone
        Whose time of day it is.
    """

    tenant: str
    ready_by: str | None = None
    share: float = 0.0
    timezone: str = "UTC"

    def ready_at(self, begun: datetime) -> datetime | None:
        """Return when it is to be kept in a run that has begun then (aware); None without a time.

        A time that clocks skip on that day is the same many hours after midnight as on others.
        """
        if self.ready_by is None:
            return None
        zone = site_zone(self.timezone)
        hour, _, minute = self.ready_by.partition(":")
        local = begun.astimezone(zone).replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
        if local <= begun:
            local = (local.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=zone)
        return local

    def told(self) -> str:
        """Return it as it is typed."""
        share = f"{100 * self.share:g}%" if self.share else None
        return f"{self.tenant}={','.join(filter(None, (self.ready_by, share)))}"


def parse_promises(texts: Sequence[str], timezone: str) -> tuple[Promise, ...]:
    """Return promises as they were typed.

    Raises
    ------
    ConfigurationError
        If one is not of the form that is needed, a tenant has two, all shares are more than the whole, or the
        timezone is not known.
    """
    if texts:
        site_zone(timezone)
    found: dict[str, Promise] = {}
    for text in texts:
        promise = _parse(text, timezone)
        if promise.tenant in found:
            raise ConfigurationError(
                FIELD, f"{promise.tenant!r} is promised something twice", "Give one promise with both"
            )
        found[promise.tenant] = promise
    total = sum(promise.share for promise in found.values())
    if total > 1.0 + 1e-9:
        said = f"all shares are {100 * total:g} %, more than the whole device"
        raise ConfigurationError(FIELD, said, "Lower some of them")
    return tuple(found.values())


def _parse(text: str, timezone: str) -> Promise:
    tenant, sign, rest = text.rpartition("=")
    tenant = tenant.strip()
    if not sign or not tenant:
        raise ConfigurationError(FIELD, f"{bounded(text)!r} names no tenant", FORM)
    ready_by, share = None, 0.0
    for part in rest.split(","):
        said = part.strip()
        time, percent = _TIME.fullmatch(said), _SHARE.fullmatch(said)
        if time is not None and ready_by is None and int(time["hour"]) < 24 and int(time["minute"]) < 60:
            ready_by = f"{int(time['hour']):02}:{time['minute']}"
        elif percent is not None and not share and 0.0 < float(percent["share"]) <= 100.0:
            share = float(percent["share"]) / 100.0
        else:
            said = f"{bounded(said)!r} for {bounded(tenant)!r}"
            raise ConfigurationError(FIELD, f"{said} is no time of day and no share up to 100 %", FORM)
    return Promise(tenant, ready_by, share, timezone)


def begun_at(state: RunState) -> datetime:
    """Return when a run has begun, by the clock of its first attempt (or of the last one that began anew)."""
    if state.begun_at is None:
        raise RuntimeError("the run has no attempt")
    return datetime.fromisoformat(state.begun_at)


def due_times(promises: Sequence[Promise], state: RunState) -> list[datetime | None]:
    """Return when each promise of a run is to be kept."""
    return [promise.ready_at(begun_at(state)) if promise.ready_by else None for promise in promises]


def row_of(promise: Promise, due: datetime | None) -> dict[str, Any]:
    """Return a promise as it is recorded."""
    return {
        "tenant": promise.tenant,
        "ready_by": None if due is None else due.isoformat(),
        "share": promise.share or None,
    }
