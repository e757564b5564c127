"""The report of a night as files: beside its results when it is published, or wherever a person wants it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from tasks.base.errors import ConfigurationError
from tasks.report.inspect_run import open_run
from tasks.store.contract import ObjectNotFoundError
from tasks.store.open import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.night.night import Night
    from tasks.runlog.log import RunLog

log = logging.getLogger(__name__)

HTML: Final = "report.html"
MARKDOWN: Final = "report.md"


def write_report(night: Night, summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the report of a night that is about to be published below a local folder; return its files.

    A report that fails is a report less: it must not keep a night from being published.
    """
    try:
        return _write(night.log, night.scratch, summary, folder)
    except Exception as error:
        # Its own words could quote a name out of the data.
        log.warning("no report was made (%s); `nightblend report` tells more", type(error).__name__)
        log.debug("no report", exc_info=error)
        return []


def report_run(run: str, out: Path) -> list[Path]:
    """Write the report of a run directory: the page as `out`, the markdown beside it.

    Parameters
    ----------
    run
        URI or path of the run directory, as `nightblend run` prints it.

    Raises
    ------
    ConfigurationError
        If there is no run log, or no folder for `out`.
    """
    if not out.absolute().parent.is_dir():
        raise ConfigurationError("--out", f"there is no folder {out.parent}", "Make it, or name another")
    run_log = open_run(run)
    with TemporaryDirectory(prefix="nightblend-") as folder:
        return _write(run_log, Path(folder), _summary(run_log), out.absolute().parent, out.name)


def report_markdown(run: str) -> str:
    """Return the report of a run directory as markdown: that of its publication, else one without simulation.

    Raises
    ------
    ConfigurationError
        If there is no run log.
    """
    run_log = open_run(run)
    published = run_log.state.steps.get("publish")
    uri = published.results.get("report_file") if published is not None else None
    if uri:
        folder, _, name = str(uri).rpartition("/")
        try:
            return open_store(folder).get(str(Path(name).with_suffix(".md"))).decode()
        except ObjectNotFoundError:
            log.info("the report of %s is gone; made again", run)
    from tasks.report.document import to_markdown
    from tasks.report.night_data import read_night
    from tasks.report.night_report import night_document

    with TemporaryDirectory(prefix="nightblend-") as folder:
        night = read_night(run_log, Path(folder), _summary(run_log), with_orders=False)
        return to_markdown(night_document(night))


def _write(
    run_log: RunLog, scratch: Path, summary: Mapping[str, Any], folder: Path, name: str = HTML
) -> list[Path]:
    # matplotlib is slow to import.
    from tasks.report.document import to_html, to_markdown
    from tasks.report.night_data import read_night
    from tasks.report.night_report import night_document

    document = night_document(read_night(run_log, scratch, summary))
    page = folder / name
    text = page.with_suffix(".md")
    page.write_text(to_html(document))
    text.write_text(to_markdown(document))
    return [page, text]


def _summary(run_log: RunLog) -> Mapping[str, Any]:
    """Return the summary of a run's publication, empty if it was not published."""
    published = run_log.state.steps.get("publish")
    if published is None:
        return {}
    folder, _, name = str(published.results["summary_file"]).rpartition("/")
    try:
        found: dict[str, Any] = json.loads(open_store(folder).get(name))
    except ObjectNotFoundError:
        # An older publication may have been cleaned up.
        return {}
    return found
