"""Runs the API until it is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable

import structlog
import uvicorn

from notifier.api import create_app
from notifier.errors import ServiceError
from notifier.settings import Settings

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says its real port once it answers."""

    def __init__(self, settings: Settings, ready: Callable[[int], None] | None = None) -> None:
        """Binds the port. Raises ServiceError if it cannot be had, SettingsError as `create_app` does."""
        app = create_app(settings)
        self._live = app.state.live
        config = uvicorn.Config(
            app,
            # Our own log names the path's template only, and no traceback.
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.engine.shutdown_s),
        )
        super().__init__(config)
        self.socket = _bound(settings.api_host, settings.api_port)
        self.port: int = self.socket.getsockname()[1]
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("api_ready", port=self.port)
            if self._ready is not None:
                self._ready(self.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Open streams end by themselves only when somebody leaves: nobody is to wait for that.
        self._live.close()
        await super().shutdown(sockets)

    def serve_until_stopped(self) -> None:
        """Answers until `should_exit` is set, then finishes what is in progress."""
        self.run(sockets=[self.socket])


def serve(settings: Settings, ready: Callable[[int], None] | None = None) -> None:
    """Serves the API on `api_host` and `api_port` until SIGTERM or SIGINT; `ready` is told the real port.

    Raises ServiceError if the port cannot be had, SettingsError if a needed setting is missing.
    """
    server = Server(settings, ready)
    if threading.current_thread() is threading.main_thread():
        # uvicorn hands a signal on to these when it is done: a stop that was asked for is no failure.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
    server.serve_until_stopped()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ServiceError(
            f"The API cannot listen at {host} port {port}: {error.strerror or 'the name is unknown'}. "
            "Change NOTIFIER_API_HOST or NOTIFIER_API_PORT, or stop what uses it."
        ) from error
