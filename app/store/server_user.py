"""Whom a server of our own runs as, and what that user must be able to reach."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from app.domain import StoreUnavailableError

_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class ServerUser:
    uid: int
    gid: int


def server_user(cluster: Path) -> ServerUser | None:
    """None: ourselves. For root, the owner of the cluster, and while there is none a user without rights."""
    if os.geteuid() != 0:
        return None
    if cluster.exists():
        owned_by = cluster.stat()
        return ServerUser(owned_by.st_uid, owned_by.st_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerUser(entry.pw_uid, entry.pw_gid)
    raise StoreUnavailableError(
        f"PostgreSQL does not run as root, and this machine has none of the users {', '.join(_CANDIDATES)}: "
        "start psharelora as another user, or set PSHARELORA_DATABASE_URL."
    )


def let_through(folder: Path) -> None:
    """Let every user pass through the directories down to this one; what they can list there stays as it is."""
    for directory in (folder, *folder.parents):
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(mode | stat.S_IXOTH)
