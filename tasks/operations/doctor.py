"""Looks whether a night could run, before a GPU is taken: store, clock, source, catalog, model, engine."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engine.choices import ENDPOINT, NATIVE
from engine.cost.devices import DeviceError, find_device, find_dtype, lock_file
from engine.errors import EngineError
from tasks.base.errors import ConfigurationError, bounded
from tasks.extract.listing import find_objects
from tasks.extract.table_source import is_table
from tasks.infer.backends.engines import check_engine, find_engine
from tasks.infer.give_way import holders
from tasks.night.model import find_model
from tasks.profile.tokenizer import load_tokenizer
from tasks.store.contract import StoreUnavailableError
from tasks.store.open import open_store
from tasks.warehouse.catalogs import choose_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import date

    from tasks.store.contract import Store

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"

CLOCK_KEY: Final = ".nightblend-clock"
SKEW_WARNING_S: Final = 30.0
SKEW_FAILED_S: Final = 600.0
"""S3 refuses requests that are signed a quarter of an hour off."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found of one thing.

    Attributes
    ----------
    outcome
        `ok`, `warning` (a night can run), `failed` (it cannot) or `skipped`.
    remedy
        What to do; '' where nothing needs to be done.
    """

    name: str
    outcome: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The settings to look at; what is None is skipped. They are those of `nightblend run`."""

    store: str
    job: str = ""
    source: str | None = None
    run_date: date | None = None
    model: str | None = None
    catalog: str | None = None
    engine: str = NATIVE
    engine_python: str | None = None
    engine_option: tuple[str, ...] = ()
    device: str = "auto"
    dtype: str = "auto"
    lease_s: float = 90.0


def check_night(asked: Asked) -> Iterator[Check]:
    """Look at everything that a night needs, one thing after the other; nothing is changed for good."""
    found: list[Store] = []

    def store() -> Check:
        opened = open_store(asked.store)
        opened.probe()
        found.append(opened)
        return Check("store", OK, f"{opened.uri} refuses a second conditional write, as it must")

    yield _checked("store", store)
    if not found:
        for name in ("clock", "source", "catalog"):
            yield Check(name, SKIPPED, "needs the store")
    else:
        yield _checked("clock", lambda: check_clock(found[0]))
        yield _checked("source", lambda: _source(asked, found[0]))
        yield _checked("catalog", lambda: _catalog(asked, found[0]))
    yield _checked("model", lambda: _model(asked))
    if asked.engine != ENDPOINT:
        yield _checked("device", lambda: _device(asked, found[0] if found else None))
    if asked.engine != NATIVE:
        yield _checked("engine", lambda: _engine(asked))


def check_clock(store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Check:
    """Compare this machine's clock with the store's, as it stamps an object written now."""
    before = now()
    store.put(CLOCK_KEY, b"the store's clock\n")
    after = now()
    written = store.get_with_info(CLOCK_KEY)[1].last_modified
    store.delete(CLOCK_KEY)
    # The store may cut off the fraction of a second.
    early, late = (before - written).total_seconds() - 1.0, (written - after).total_seconds()
    skew = max(early, late, 0.0)
    if skew < SKEW_WARNING_S:
        return Check("clock", OK, "agrees with the store's" if not skew else f"{skew:.0f} s off the store's")
    text = f"{skew:.0f} s {'ahead of' if early > late else 'behind'} the store's"
    remedy = "Set the clock of this machine (NTP); run dates and signed requests depend on it"
    return Check("clock", FAILED if skew >= SKEW_FAILED_S else WARNING, text, remedy)


def _source(asked: Asked, store: Store) -> Check:
    if asked.source is None or asked.run_date is None:
        return Check("source", SKIPPED, "not asked for")
    if is_table(asked.source):
        return Check("source", SKIPPED, "rows of a table are read when a night runs")
    _, objects, ignored = find_objects(asked.source, asked.run_date, store, asked.job)
    size = sum(info.size for info in objects) / 1e6
    text = f"{len(objects):,} objects, {size:,.1f} MB for {asked.run_date.isoformat()}"
    if ignored:
        text += f"; {len(ignored)} left out for their names"
    if not objects:
        return Check("source", WARNING, text, "See whether the logs have come, or correct --source")
    return Check("source", OK, text)


def _catalog(asked: Asked, store: Store) -> Check:
    uri = choose_catalog(asked.catalog, asked.store)
    if uri is None:
        return Check("catalog", SKIPPED, "files only")
    from tasks.warehouse.replace import open_warehouse

    try:
        catalog = open_warehouse(uri, store.uri)
        tables = [name for space in catalog.list_namespaces() for name in catalog.list_tables(space)]
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - each kind of catalog has errors of its own
        said = f"{uri}: {type(error).__name__}: {bounded(str(error).partition(chr(10))[0], 160)}"
        return Check("catalog", FAILED, said, "See that it runs and lets this user in")
    return Check("catalog", OK, f"{uri} answers, {len(tables)} tables")


def _model(asked: Asked) -> Check:
    if asked.model is None:
        return Check("model", SKIPPED, "not asked for")
    folder = asked.model
    if not Path(folder).is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = snapshot_download(asked.model, local_files_only=True)
        except LocalEntryNotFoundError:
            return Check(
                "model",
                WARNING,
                f"{asked.model} is no folder and is not on this machine yet",
                "The first night downloads it; do it before: `hf download`",
            )
        except HFValidationError:
            return Check(
                "model",
                FAILED,
                f"{asked.model} is no folder, and no name that the hub could have",
                "Name a Hugging Face model folder or a hub id",
            )
    found = find_model(folder)
    load_tokenizer(str(found))
    weights = sum(path.stat().st_size for path in found.glob("*.safetensors"))
    if not weights:
        return Check("model", FAILED, f"{found} holds no *.safetensors", "Complete the folder")
    return Check("model", OK, f"{found}: architecture and tokenizer are known, {weights / 1e9:,.2f} GB")


def _engine(asked: Asked) -> Check:
    check_engine(asked.engine, asked.engine_option, None, asked.engine_python)
    if asked.model is None:
        return Check("engine", SKIPPED, "needs the model, whose name and tokenizer it has to share")
    folder = find_model(asked.model)
    facts = find_engine(
        asked.engine,
        asked.engine_option,
        None,
        folder,
        load_tokenizer(str(folder)).encode,
        asked.model,
        python=asked.engine_python,
        device=ENDPOINT if asked.engine == ENDPOINT else find_device(asked.device),
    )
    takes = "token ids" if facts.prompts == "ids" else "prompts as text, so hits of the plan are estimates"
    text = f"{facts.version} answers and takes {takes}"
    if facts.unsupported:
        text += f"; requests that ask for {', '.join(facts.unsupported)} are refused"
    if facts.warning:
        return Check("engine", WARNING, f"{text}; it {facts.warning}", "Try it with few requests first")
    return Check("engine", OK, text)


def _device(asked: Asked, store: Store | None) -> Check:
    device = find_device(asked.device)
    text = f"{device}, {find_dtype(asked.dtype, device)}"
    if store is not None:
        for said, _ in holders(store, None, lease_s=asked.lease_s):
            text += f"; {said.run} computes at {said.place}" + (" and gives way" if said.gives_way else "")
    if device != "cpu" and _is_locked(lock_file(device)):
        return Check("device", WARNING, f"{text}; an engine has it", "Wait for it: two cannot share a device")
    return Check("device", OK, text)


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _checked(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except DeviceError as error:
        return Check(name, FAILED, f"{error.option}: {error.message}", _sentence(error.remedy))
    except ConfigurationError as error:
        return Check(name, FAILED, f"{error.field}: {error.message}", _sentence(error.remedy))
    except (EngineError, StoreUnavailableError) as error:
        return Check(name, FAILED, str(error), "Try again when it is there" if name == "store" else "")


def _sentence(remedy: str) -> str:
    return remedy[:1].upper() + remedy[1:]
