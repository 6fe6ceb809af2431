"""What must be right before any process starts: a Redis that answers and keeps its keys, and the master key.

Used by the command line and by the workers.
"""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import select

from notifier import store
from notifier.errors import MissingKeyError, ServiceError, SettingsError
from notifier.models import Campaign
from notifier.sealing import MasterKey
from notifier.store import Database

#: the oldest Redis with what the queue's scripts use; every Valkey is newer
OLDEST_REDIS = (6, 2)


def client(url: str) -> redis.Redis:
    """A client that never repeats a command by itself: a repeated script would run twice.

    Connects when first used. Raises SettingsError if `url` is not the address of a Redis.
    """
    try:
        made = redis.Redis.from_url(
            url,
            socket_timeout=5,
            socket_connect_timeout=3,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 0),
        )
        # An option that no connection knows would be found only at the first command.
        made.connection_pool.connection_class(**made.connection_pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise _unfit_url() from error
    return made


def check_redis(url: str) -> None:
    """Raises SettingsError for a malformed URL, ServiceError if Redis is away, refuses us or may drop keys."""
    connection = client(url)
    try:
        policy, version = _policy_and_version(connection)
    except UnicodeError as error:  # a host that no name server could be asked for
        raise _unfit_url() from error
    except redis.AuthenticationError as error:
        raise ServiceError(
            f"Redis refuses the user or password in REDIS_URL ({error}): put the right ones there."
        ) from error
    except redis.RedisError as error:
        raise ServiceError(f"Redis does not answer at REDIS_URL: {error}") from error
    finally:
        connection.close()
    if policy != "noeviction":
        raise ServiceError(
            f"Redis at REDIS_URL has maxmemory-policy {policy}: it would silently drop queued work. "
            "Set it to noeviction (CONFIG SET maxmemory-policy noeviction, and in its configuration file)."
        )
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) < OLDEST_REDIS:
        raise ServiceError(f"Redis {version} at REDIS_URL is too old: 6.2 or newer, or Valkey, is needed.")


def check_master_key(database: Database, master: MasterKey) -> None:
    """Raises MissingKeyError if neither `master` nor a former key sealed something the database holds,
    SealingError if the newest campaign's data key does not open."""
    with database.staff() as session:
        sealed = store.sealed_by(session)
        newest = session.execute(
            select(Campaign.id, Campaign.data_key)
            .where(Campaign.data_key.is_not(None))
            .order_by(Campaign.id.desc())
            .limit(1)
        ).first()
    # A second factor that was never set up to its end keeps nobody from starting.
    by_key = [(key, kind, n) for kind, keys in sealed.items() for key, n in keys.items() if kind != "sessions"]
    if missing := [one for one in by_key if one[0] not in master.fingerprints]:
        keys = ", ".join(dict.fromkeys(key for key, _, _ in missing))
        what = ", ".join(f"{kind} {n}" for _, kind, n in missing)
        raise MissingKeyError(
            f"This database holds what was sealed by a master key that is not given ({keys}: {what}): "
            "is NOTIFIER_MASTER_KEY the one this database was made with? "
            "A former one belongs into NOTIFIER_MASTER_KEYS_FORMER."
        )
    if newest is not None:
        master.open_data_key(newest.data_key, newest.id)


def _policy_and_version(connection: redis.Redis) -> tuple[str, str | None]:
    """INFO may be read by users that may not read CONFIG; some have it the other way round."""
    try:
        told = dict(connection.info())
    except redis.ResponseError:
        told = {}
    if "maxmemory_policy" not in told:
        try:
            told["maxmemory_policy"] = connection.config_get("maxmemory-policy")["maxmemory-policy"]
        except (redis.ResponseError, KeyError) as error:
            raise ServiceError(
                "The user of REDIS_URL may run neither INFO nor CONFIG GET, so nobody can tell whether it would "
                f"drop queued work: allow it one (ACL SETUSER … +info). Redis said: {error}"
            ) from error
    version = told.get("redis_version")
    return str(told["maxmemory_policy"]), None if version is None else str(version)


def _unfit_url() -> SettingsError:
    # The URL itself is not repeated: it may hold a password.
    return SettingsError("REDIS_URL is not the address of a Redis: write it as redis://user:password@host:6379/0.")
