"""The HTTP API: an edge that checks who asks, calls `acts` and `controlling`, and says what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.engine import make_url

import notifier
from notifier.api import (
    campaigns,
    controls,
    deliveries,
    evidence,
    following,
    health,
    incidents,
    lists,
    problems,
    webhooks,
)
from notifier.api.auth import Context
from notifier.api.caller import Caller
from notifier.api.headers import Around, BodyLimit
from notifier.api.protocol import Wire
from notifier.providers.brevo_email import BrevoEmailReceipts
from notifier.providers.brevo_sms import BrevoSmsReceipts
from notifier.settings import Settings
from notifier.store import Database
from notifier.web import Front, create_pages
from notifier.web.mailer import Mailer

_ABOUT = """Tells patients about a data breach: one campaign a doctor, each notice tracked to its end.

Errors are problems (RFC 9457). Listings come in pages: hand `next` back as `cursor`. A POST with an
`Idempotency-Key` acts once however often it is sent. No answer holds a patient's name or contact, but for what a
caller has just sent: report, corrections and suggestions of a list are made from that file and kept nowhere.
"""
_LICENCE = {"name": "Apache License 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}
#: what the routes are about, in the order in which they are needed
_TAGS = {
    "Incidents": "A breach, and the facts that notices are composed from.",
    "Doctors": "Who is responsible for the data and signs the notices.",
    "Campaigns": "One doctor's notification of one incident, from draft to its end.",
    "Lists": "Files that say who is affected: looked at, imported, corrected.",
    "Patients": "Where each affected person stands, without a name.",
    "Deliveries": "Each notice to one contact: its attempts, its receipts, and sending it again.",
    "Changes": "For programs that follow: what has changed, and a whole campaign at once.",
    "Callbacks": "Being told of changes instead of asking.",
    "Evidence": "Letters, calls, who was told otherwise, and the proof file. These name people.",
    "Holds": "Stopping everything, a channel or a provider at once.",
    "Keys": "API keys.",
    "Webhooks": "Where providers report.",
    "Health": "Whether it lives and works, and numbers for Prometheus.",
}
#: shapes that are in no route's `response_model`
_BESIDES: tuple[type[BaseModel], ...] = (problems.Problem, following.ExportedPatient, following.ExportEnd)
_CONNECT_TIMEOUT_S = "5"
#: threads of the server, each with one transaction at a time
_CONNECTIONS = 20


class Api(FastAPI):
    """FastAPI with problems instead of its own error schemas."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                description=self.description,
                routes=self.routes,
                tags=self.openapi_tags,
                servers=self.servers,
                contact=self.contact,
                license_info=self.license_info,
            )
            reference = "#/components/schemas/{model}"
            schemas = document["components"]["schemas"]
            for model in _BESIDES:
                schema = model.model_json_schema(ref_template=reference, mode="serialization")
                schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
            self.openapi_schema = _renamed(document)
        return self.openapi_schema


def create_app(settings: Settings) -> FastAPI:
    """The API with the pages in front. Raises SettingsError if the database's address or master key is not set."""
    url = make_url(settings.sqlalchemy_url)
    # A database that is away must be an answer, not a request that hangs.
    url = url.update_query_dict({"connect_timeout": url.query.get("connect_timeout", _CONNECT_TIMEOUT_S)})
    database = Database(url.render_as_string(hide_password=False), pool_size=_CONNECTIONS)
    _ = settings.master
    mailer = Mailer(settings, database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(mailer.run()), asyncio.create_task(Caller(settings, database).run())]
        yield
        app.state.live.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        database.dispose()

    app = Api(
        title="Patient Notifier",
        version=notifier.__version__,
        description=_ABOUT,
        lifespan=lifespan,
        openapi_tags=[{"name": name, "description": about} for name, about in _TAGS.items()],
        servers=[{"url": "/", "description": "This deployment."}],
        contact={"name": settings.web.service, "url": settings.public_url},
        license_info=_LICENCE,
        # Their pages load scripts from elsewhere; openapi.json is served.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    by_delivery, by_account = BrevoSmsReceipts(), BrevoEmailReceipts(settings.brevo_email)
    app.state.context = Context(settings, database, {by_delivery.name: by_delivery}, {by_account.name: by_account})
    app.state.metrics = health.Metrics(database, settings)
    for router in (
        incidents.incidents,
        incidents.doctors,
        campaigns.router,
        lists.router,
        deliveries.patients,
        deliveries.deliveries,
        following.changes,
        following.callbacks,
        evidence.router,
        controls.holds,
        controls.keys,
        webhooks.router,
        health.router,
    ):
        app.include_router(router)
    problems.install(app)
    pages = create_pages(settings, database, mailer.wake)
    app.state.live = pages.state.site.live
    app.add_middleware(Front, pages=pages)
    app.add_middleware(BodyLimit, max_list_bytes=settings.max_list_bytes)
    app.add_middleware(Wire)
    app.add_middleware(Around)
    return app


def _renamed(document: dict[str, Any]) -> dict[str, Any]:
    """Gives states names that say so: in Python a module stands before them, in a generated client nothing."""
    written = orjson.dumps(document).decode()
    for name in ("Campaign", "Delivery"):
        written = written.replace(f'/schemas/{name}"', f'/schemas/{name}State"')
    renamed: dict[str, Any] = orjson.loads(written)
    schemas = renamed["components"]["schemas"]
    for name in ("Campaign", "Delivery"):
        schemas[f"{name}State"] = schemas.pop(name) | {"title": f"{name}State"}
    return renamed


def _operation_id(route: APIRoute) -> str:
    return route.name
