"""`notifier up`: one machine, real settings, data kept in the data folder."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer


def up(
    email_workers: Annotated[int, typer.Option(min=0, help="Worker processes for email.")] = 1,
    sms_workers: Annotated[int, typer.Option(min=0, help="Worker processes for SMS.")] = 1,
) -> None:
    """Run everything on this machine: servers if none are named, API, feeder, sweeper and workers.

    Stays until Ctrl-C. A process that ends is started anew; its log is in the data folder.
    """
    from rich.console import Console

    from notifier import settings, store
    from notifier.cli import common
    from notifier.cli.supervise import Supervisor, engine
    from notifier.rehearsal import servers

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    current = common.environment()
    data_dir = Path(settings.load().data_dir).resolve()
    environment = common.complete_environment(data_dir)
    store.migrate(current.sqlalchemy_url)
    out = Console(stderr=True)
    supervisor = Supervisor(environment, data_dir / "log")
    engine(supervisor, email_workers, sms_workers)
    try:
        with supervisor:
            out.print(f"The API answers at [bold]http://{current.api_host}:{current.api_port}/api/v1[/bold]")
            out.print(
                f"Email goes to {current.smtp.host}:{current.smtp.port}, SMS to {current.brevo_sms.base_url}"
            )
            out.print(f"Data and logs are in {data_dir}. Ctrl-C ends everything; the data stays.")
            stop.wait()
            out.print("Stopping …")
    finally:
        # Only servers of our own folder: those named by a URL are not ours to stop.
        servers.stop_all(data_dir)
