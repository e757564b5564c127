"""Steps in flight: the host goes on before it knows what a step has sampled.

At launch every sampled sequence is taken to go on, with a placeholder for its token (`assume`); the next step
finds the token itself on the device. When the ids arrive they replace the placeholders (`fill`), and only
then is it known which sequences have ended. With one step in flight an ended sequence has by then one surplus
token in the next step, which is thrown away (`forget`). A sequence that reaches its length limit is known to
end at launch, so it has no surplus: its last token is not counted before it arrives, and nothing is left to
compute meanwhile. A sequence that is preempted gives up its token in flight and computes it again; draws are
keyed by (seed, position), so it is the same one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.jit import entry
from engine.jit_types import struct
from engine.runtime.state import (
    LENGTH,
    PLACEHOLDER,
    STOPPED,
    UNFINISHED,
    W_SAMPLES,
    Requests,
    Slots,
    Work,
)

if TYPE_CHECKING:
    from engine.arrays import Int8, Int32, Int64


@struct()
class Flight(NamedTuple):
    """The sampled rows of one launched step.

    Attributes
    ----------
    size
        int64 [1]: number of rows.
    slot, request, place
        int32 [S]: the sequence, and the index of the token in its answer.
    live
        int8 [S]: 0 once the sequence was preempted or has ended, so that the token is not wanted.
    reason
        int8 [S]: filled on arrival with UNFINISHED, STOPPED or LENGTH.
    """

    size: Int64
    slot: Int32
    request: Int32
    place: Int32
    live: Int8
    reason: Int8


def make_flight(slots: int) -> Flight:
    """Return an empty flight for steps of up to `slots` sequences."""
    return Flight(
        size=np.zeros(1, np.int64),
        slot=np.zeros(slots, np.int32),
        request=np.zeros(slots, np.int32),
        place=np.zeros(slots, np.int32),
        live=np.zeros(slots, np.int8),
        reason=np.zeros(slots, np.int8),
    )


@entry()
def assume(requests: Requests, slots: Slots, work: Work, flight: Flight) -> None:
    """Note the samples of the step just launched and let their sequences go on with placeholders."""
    flight.size[0] = work.size[W_SAMPLES]
    for i in range(work.size[W_SAMPLES]):
        slot = work.sample_slots[i]
        request = slots.request[slot]
        place = requests.generated[request]
        flight.slot[i] = slot
        flight.request[i] = request
        flight.place[i] = place
        flight.live[i] = 1
        slots.output[slot, place] = PLACEHOLDER
        if place + 1 < requests.max_new[request]:
            requests.generated[request] = place + 1


@entry()
def fill(requests: Requests, slots: Slots, flight: Flight, sampled: Int64, stops: Int64) -> None:
    """Put the tokens that arrived in their places and say which answers are complete.

    Parameters
    ----------
    sampled
        int64 [at least flight.size]: in the order of the flight.
    stops
        int64: the model's stop tokens.
    """
    for i in range(flight.size[0]):
        flight.reason[i] = UNFINISHED
        if flight.live[i] == 0:
            continue
        request, place = flight.request[i], flight.place[i]
        slots.output[flight.slot[i], place] = sampled[i]
        if requests.ignore_stop[request] == 0:
            for stop in stops:
                if stop == sampled[i]:
                    flight.reason[i] = STOPPED
        if flight.reason[i] == UNFINISHED and place + 1 >= requests.max_new[request]:
            flight.reason[i] = LENGTH


@entry()
def end(requests: Requests, flight: Flight) -> int:
    """Fix the lengths of the answers whose `reason` says they are complete; return how many are."""
    count = 0
    for i in range(flight.size[0]):
        if flight.reason[i] != UNFINISHED:
            requests.generated[flight.request[i]] = flight.place[i] + 1
            count += 1
    return count


@entry()
def forget(flight: Flight, slot: int) -> int:
    """Drop what is in flight for the sequence in `slot`; return how many tokens that is (0 or 1)."""
    for i in range(flight.size[0]):
        if flight.slot[i] == slot and flight.live[i]:
            flight.live[i] = 0
            return 1
    return 0


@entry()
def take_back(requests: Requests, flight: Flight, slot: int) -> None:
    """Undo `assume` for the sequence in `slot`, which has just been preempted."""
    for i in range(flight.size[0]):
        if flight.slot[i] == slot and flight.live[i]:
            flight.live[i] = 0
            requests.generated[flight.request[i]] = flight.place[i]
