"""Runs a Docker volume plugin whose mounts a test can delay.

https://docs.docker.com/engine/extend/plugins_volume/ describes the protocol.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

_MOUNTED = 60.0


class VolumePlugin:
    """The volumes of a plugin, and the plugin's responses to the engine.

    Args:
        name: The name of the driver, for `docker volume create --driver`.
        folder: The directory that the plugin returns as the mount point of every volume.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.mount_requested = threading.Event()
        self.proceed = threading.Event()
        """Each mount waits until this event is set, but at most one minute."""
        self.proceed.set()
        self._folder = str(folder)
        self._volumes: set[str] = set()

    def respond(self, path: str, request: dict[str, Any]) -> dict[str, Any]:
        """Return the response to a request from the engine."""
        name = request.get("Name", "")
        match path:
            case "/Plugin.Activate":
                return {"Implements": ["VolumeDriver"]}
            case "/VolumeDriver.Capabilities":
                return {"Capabilities": {"Scope": "local"}}
            case "/VolumeDriver.Create":
                self._volumes.add(name)
            case "/VolumeDriver.Get":
                return {"Volume": {"Name": name}} if name in self._volumes else {"Err": "no such volume"}
            case "/VolumeDriver.List":
                return {"Volumes": [{"Name": each} for each in self._volumes]}
            case "/VolumeDriver.Mount":
                self.mount_requested.set()
                self.proceed.wait(_MOUNTED)
                return {"Mountpoint": self._folder}
        return {}


@contextmanager
def volume_plugin(folder: Path, plugins: Path) -> Iterator[VolumePlugin]:
    """Run a volume plugin until the `with` block ends.

    Args:
        folder: The directory that the plugin returns as the mount point of every volume.
        plugins: The directory in which the engine looks for the sockets of plugins.
    """
    plugin = VolumePlugin(f"gw-slow-{os.getpid()}", folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            response = json.dumps(plugin.respond(self.path, json.loads(body or b"{}"))).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()
            self.wfile.write(response)

        def log_message(self, *_: object) -> None:
            pass

    path = plugins / f"{plugin.name}.sock"
    with ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield plugin
        finally:
            plugin.proceed.set()
            server.shutdown()
            thread.join(10)
            path.unlink()
