"""Files of the pages that are the same for everybody: read once, named by their hash, kept by browsers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from notifier.errors import SettingsError

PATH = "/static/"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    tag: str
    media_type: str


class StaticFiles:
    """All files of a folder; not those of folders in it."""

    def __init__(self, folder: Path) -> None:
        self._by_name: dict[str, str] = {}
        self._files: dict[str, _File] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix in _TYPES:
                body = path.read_bytes()
                tag = hashlib.sha256(body).hexdigest()[:16]
                hashed = f"{path.stem}.{tag}{path.suffix}"
                self._by_name[path.name] = PATH + hashed
                self._files[hashed] = _File(body, f'"{tag}"', _TYPES[path.suffix])
        if not self._files:
            raise SettingsError(f"There are no files for pages in {folder}: is `templates_dir` right?")

    def path_of(self, name: str) -> str:
        """Where a page finds the file of this name. Raises KeyError for one there is not."""
        return self._by_name[name]

    async def serve(self, request: Request) -> Response:
        """The file, or 304 for who has it. A name of another version is unknown: its page is old too."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        headers = {
            "ETag": found.tag,
            "Cache-Control": "public, max-age=31536000, immutable",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if found.tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(found.body, headers=headers, media_type=found.media_type)
