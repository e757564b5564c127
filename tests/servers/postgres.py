"""PostgreSQL on this machine, for one command: nothing of it is left behind.

    python -m tests.servers.postgres COMMAND...

installs the Debian package if it is not there and this user may, starts a server in a folder of its own, and
runs the command with NIGHTBLEND_CATALOG set to a database in it. Where that cannot be done it says why and
ends with 0: the command is skipped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.servers.debian import free_port, install

START_S = 60
USER = "postgres"


def programs() -> Path | None:
    """Return the folder of the newest server's programs, if there is one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def main(command: list[str]) -> int:
    """Run `command` beside a server; return its exit code."""
    problem = install(["postgresql"], 60, lambda: programs() is not None)
    folder = programs()
    if problem is not None or folder is None:
        print(f"skipped: {problem}")
        return 0
    with tempfile.TemporaryDirectory(prefix="nightblend-postgres-") as place:
        # The server refuses to run as root.
        become: list[str] = []
        if os.geteuid() == 0:
            become = ["runuser", "-u", USER, "--"]
            user = pwd.getpwnam(USER)
            os.chown(place, user.pw_uid, user.pw_gid)
        data, log = f"{place}/data", f"{place}/log"
        port = free_port()

        def run(*arguments: str) -> str | None:
            done = subprocess.run(
                [*become, str(folder / arguments[0]), *arguments[1:]],
                cwd="/",
                capture_output=True,
                timeout=2 * START_S,
                check=False,
            )
            return (done.stderr or done.stdout).decode(errors="replace")[-800:] if done.returncode else None

        settings = f"-h 127.0.0.1 -p {port} -c unix_socket_directories={place} -c fsync=off"
        control = ("pg_ctl", "-D", data, "-l", log, "-o", settings, "-w", "-t", str(START_S), "start")
        failed = run("initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8") or run(*control)
        if failed:
            print(f"skipped: PostgreSQL does not start here: {failed}")
            return 0
        try:
            failed = run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "nightblend")
            if failed:
                print(f"createdb failed: {failed}")
                return 1
            uri = f"postgresql+psycopg://{USER}@127.0.0.1:{port}/nightblend"
            return subprocess.run(
                command, env={**os.environ, "NIGHTBLEND_CATALOG": uri}, check=False
            ).returncode
        finally:
            run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
