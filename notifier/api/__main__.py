"""`python -m notifier.api`: serves the API; ends with 1 and a plain sentence if it cannot."""

from __future__ import annotations

import sys

from notifier import logs, settings, startup, store, tracing
from notifier.api.server import serve
from notifier.errors import NotifierError


def main() -> int:
    """Checks settings and database first; returns the exit status."""
    try:
        current = settings.load()
        logs.configure(current.log_level)
        database = store.Database(current.sqlalchemy_url, pool_size=1)
        try:
            database.check()
            startup.check_master_key(database, current.master)
        finally:
            database.dispose()
        tracing.start(current, "api")
        serve(current)
        tracing.stop()
    except NotifierError as error:
        print(error.message, file=sys.stderr)  # noqa: T201 - a person starts it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
