"""Puts what a run has learnt about answer lengths into its scheduler: new estimates, and a new order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from engine.plan.replan import Replanning, Watch
from engine.plan.scan import (
    LEFT,
    RIGHT,
    SIDES_MOVED,
    Scan,
    move_retries,
    retried_requests,
    take_over,
    waiting_requests,
    wake,
)
from engine.runtime.schedule.forecast import redraw
from engine.runtime.state import DECODE_TOKENS, FINISHED, RUNNING, STEP, Requests, Slots

if TYPE_CHECKING:
    from engine.arrays import Int8, Int32
    from engine.cost.step import DeviceProfile, ModelShape
    from engine.plan.policies import Plan


class Reviser:
    """Looks at the answers of one run when it is time, and revises what remains.

    Attributes
    ----------
    watch
        When the next look is due.
    plan
        The last plan that was made: of the requests that waited then.
    replans
        How often it has made one.
    """

    def __init__(self, replanning: Replanning, plan: Plan, shape: ModelShape, device: DeviceProfile) -> None:
        self.watch = Watch(plan.order.shape[0], float(plan.estimate.sum()))
        self.plan = plan
        self.replans = 0
        self._replanning, self._shape, self._device = replanning, shape, device

    def due(self, slots: Slots) -> bool:
        """Return whether it is time to look."""
        return self.watch.due(int(slots.counts[FINISHED]), int(slots.counts[DECODE_TOKENS]))

    def look(
        self, requests: Requests, slots: Slots, scan: Scan, ended: Int8, page_size: int, token_budget: int
    ) -> Scan:
        """Give running requests their new expected lengths, and return the scan to go on with.

        Parameters
        ----------
        ended
            int8 [N]: 1 for answers that ended by themselves.
        """
        waiting = waiting_requests(scan)
        found = self._replanning.look(
            waiting, requests.generated, ended, self.plan.estimate, self._shape, self._device
        )
        # Waiting requests keep the estimates of the order that they are in.
        running = slots.request[slots.running[: slots.counts[RUNNING]]]
        revised = np.concatenate((running, retried_requests(scan)))
        unfinished = np.concatenate((revised, waiting))
        if found.plan is not None:
            revised = unfinished
            self.plan = replace(found.plan, reserve=self.plan.reserve)
            self.replans += 1
            old, scan = scan, self.plan.scan()
            take_over(scan, old)
        requests.estimate[revised] = np.clip(found.estimate[revised], 1.0, requests.max_new[revised])
        if self.plan.policy == "blend":
            self._choose_sides(requests, slots, scan, unfinished)
        redraw(requests, slots, float(slots.counts[STEP] + 1), page_size, token_budget)
        wake(scan)
        self.watch.looked(int(slots.counts[FINISHED]), int(slots.counts[DECODE_TOKENS]))
        return scan

    def _choose_sides(self, requests: Requests, slots: Slots, scan: Scan, unfinished: Int32) -> None:
        """Put running and preempted requests on the side of their new estimates, and have the sides balanced.

        A request is memory-heavy if its density is below that of all `unfinished` ones together; of shared
        prefixes this takes no account.
        """
        prompt = np.diff(requests.start)[unfinished].astype(np.float64)
        length = requests.estimate[unfinished]
        compute = self._shape.request_flops(prompt, np.zeros_like(prompt), length) / self._device.flops
        memory = self._shape.request_kv_bytes(prompt, length) / self._device.read_bytes
        heavy = np.zeros(requests.estimate.shape[0], np.int8)
        heavy[unfinished] = compute * memory.sum() < memory * compute.sum()
        running = slots.running[: slots.counts[RUNNING]]
        scan.heavy[slots.request[running]] = heavy[slots.request[running]]
        slots.side[running] = np.where(heavy[slots.request[running]], RIGHT, LEFT)
        move_retries(scan, heavy)
        scan.cursor[SIDES_MOVED] = 1
