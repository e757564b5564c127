"""A Ray cluster as the place of engines: each in an actor of its own, which waits for a free GPU or core.

Ray starts, places and watches the actors, and carries what is said. What is computed again after one is lost
the run log decides alone, so no actor is restarted by Ray. Engines and models are those that are installed on
the nodes under the same paths.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from engine.job.running import RUNNING_FILE
from tasks.base.errors import ConfigurationError
from tasks.infer.backends.engine_host import EngineHost
from tasks.infer.backends.engine_process import GRACE_S
from tasks.infer.backends.inbox import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.infer.backends.engine_host import Batch

log = logging.getLogger(__name__)

PATIENCE_S: Final = 60.0
"""Without a word for so long each side takes the other for lost."""
PROBE_S: Final = 10.0
WAIT_S: Final = 2.0
"""A question for messages waits this long for the first one."""
PART_BYTES: Final = 16 << 20
"""Files of a job go in parts of this size."""
CALLS: Final = 4
"""An actor answers so many questions at a time: one may wait for messages while another asks it to stop."""
NAMESPACE: Final = "nightblend"


def check_ray(address: str) -> None:
    """Check that `--ray` can be used: that Ray is installed, and the address is one.

    Raises
    ------
    ConfigurationError
        In one line.
    """
    if address.startswith("ray://"):
        raise ConfigurationError(
            "--ray",
            f"{address} is an address of Ray's client, which loses its actors with its connection",
            "Run on a node of the cluster, with --ray auto or the address of its head, HOST:6379",
        )
    if find_spec("ray") is None:
        raise ConfigurationError("--ray", "Ray is not installed", "pip install 'nightblend[ray]'")


def connect(address: str) -> None:
    """Connect this process to a cluster, unless it is connected already.

    Raises
    ------
    ConfigurationError
        In one line, if there is none at the address.
    """
    check_ray(address)
    import ray

    if ray.is_initialized():
        return
    try:
        _probe(address)
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        raise ConfigurationError(
            "--ray",
            f"no cluster answers at {address} ({first})",
            "Start one on this machine with `ray start --head`, or join it with `ray start --address`",
        ) from None


def _probe(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself would try again for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), PROBE_S).close()


class RayPlace:
    """A place on a cluster: an actor, once there is room for it.

    Parameters
    ----------
    number
        Of the replica.
    device
        `cpu`, one core of a node, or `cuda:0`, a GPU: an actor sees the one that Ray gives it.
    """

    def __init__(self, number: int, device: str) -> None:
        self.device = device
        self._number = number
        self._actor: Any = None
        self._asked: Any = None
        self._there = False

    def ready(self) -> bool:
        """Tell whether the actor is there; ask for it if nobody has."""
        import ray

        if self._there:
            return True
        if self._actor is None:
            needs = {"num_cpus": 1} if self.device == "cpu" else {"num_cpus": 0, "num_gpus": 1}
            remote: Any = ray.remote(EngineHost)
            options = {"max_restarts": 0, "max_concurrency": CALLS, **needs}
            self._actor = remote.options(**options).remote(PATIENCE_S)
            self._asked = self._actor.where.remote()
        done, _ = ray.wait([self._asked], timeout=0)
        if not done:
            return False
        try:
            where = ray.get(self._asked)
        except ray.exceptions.RayError as error:
            log.warning("replica %d: its actor did not start (%s)", self._number, type(error).__name__)
            self._actor = None
            return False
        log.info("replica %d is on %s (process %d)", self._number, where["node"], where["pid"])
        self._there = True
        return True

    @contextmanager
    def start(self, folder: Path) -> Iterator[RayEngine]:
        """Start an engine on the job of a folder, and end it with the block."""
        engine = RayEngine(folder, self._actor)
        try:
            yield engine
        finally:
            engine.close()
            if engine.lost is not None:
                self.leave()

    def leave(self) -> None:
        """End the actor, and what it runs."""
        import ray

        actor, self._actor, self._there = self._actor, None, False
        if actor is not None:
            with suppress(ray.exceptions.RayError):
                ray.kill(actor)


class RayEngine(Inbox):
    """An engine in an actor; see `tasks.infer.backends.contract.RunningEngine`.

    Attributes
    ----------
    lost
        Why nothing more is heard of the actor; None as long as it answers.
    """

    def __init__(self, folder: Path, actor: Any) -> None:  # noqa: ANN401 - Ray's handles have no types
        super().__init__()
        self.folder = folder
        self.lost: str | None = None
        self._job = folder.name
        self._actor = actor
        self._code = 0
        self._reader = threading.Thread(target=self._receive, name="engine-messages", daemon=True)
        self._reader.start()

    def last_messages(self) -> Iterator[dict[str, Any]]:
        """Ask the engine to stop and return what it still sends."""
        if not self._ended:
            self.ask_to_stop()
        deadline = time.monotonic() + GRACE_S
        while not self._ended:
            try:
                message = self.next_message(max(0.0, deadline - time.monotonic()))
            except Empty:
                # Its end comes in any case now: from the actor, or because that is silent.
                self._tell(self._actor.close)
                message = self.next_message()
            if message is not None:
                yield message

    def ask_to_stop(self) -> None:
        """Have the engine finish its step, send what it has, and end."""
        self._tell(self._actor.ask_to_stop)

    def ask_to_give(self) -> None:
        """Ask for a message `given`."""
        self._tell(self._actor.ask_to_give)

    def _tell(self, method: Any) -> None:  # noqa: ANN401 - see above
        import ray

        with suppress(ray.exceptions.RayError):
            method.remote(self._job)

    def close(self) -> int:
        """End the engine if it still runs; return its exit code, negative for a signal, 0 if it is lost."""
        for _ in self.last_messages():
            pass
        self._reader.join()
        return self._code

    def _receive(self) -> None:
        import ray

        try:
            self._send_job()
            taken = 0
            while True:
                batch: Batch = self._ask(self._actor.take.remote(self._job, taken, WAIT_S))
                # Before the messages that name them.
                for name, content in batch.files.items():
                    (self.folder / name).write_bytes(content)
                for message in batch.messages[taken - batch.first :]:
                    self.put(message)
                    taken += 1
                if batch.end is not None:
                    self._code = batch.end.code
                    (self.folder / "engine.log").write_bytes(batch.end.said)
                    if batch.end.running is not None:
                        (self.folder / RUNNING_FILE).write_bytes(batch.end.running)
                    return
        except ray.exceptions.GetTimeoutError:
            self.lost = f"its actor was silent for {PATIENCE_S:g} s"
        except ray.exceptions.RayError as error:
            self.lost = f"its actor is gone ({type(error).__name__})"
        finally:
            self.put(None)

    def _send_job(self) -> None:
        for path in sorted(one for one in self.folder.rglob("*") if one.is_file()):
            name = path.relative_to(self.folder).as_posix()
            with path.open("rb") as file:
                first = True
                while (part := file.read(PART_BYTES)) or first:
                    self._ask(self._actor.put.remote(self._job, name, part))
                    first = False
        self._ask(self._actor.start.remote(self._job))

    @staticmethod
    def _ask(reference: Any) -> Any:  # noqa: ANN401 - see above
        import ray

        return ray.get(reference, timeout=PATIENCE_S)


def places_on_ray(count: int, device: str) -> Sequence[RayPlace]:
    """Return the places of so many replicas on the cluster that this process is connected to.

    An actor has one GPU, which is the first one that it sees.
    """
    return tuple(RayPlace(number, device) for number in range(count))
