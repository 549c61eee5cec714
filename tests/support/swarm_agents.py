"""Runs agents of the gateway on the nodes of a swarm."""

import textwrap
from pathlib import Path

from tests.support.docker_site import Site
from tests.support.engines import Engine


class Agent(Site):
    """The agent on one node of a swarm. The target of its backend is a container on an overlay network."""

    def __init__(self, engine: Engine, folder: Path, instance: str) -> None:
        self.engine, self.folder = engine, folder
        self.instance = instance
        self.database = "db"
        from gateway.ops.ops_api_client import OpsApiClient  # noqa: PLC0415 - used only in this method

        self.peers = ""
        self.client = OpsApiClient(None, str(folder / "admin.sock"))
        folder.mkdir(exist_ok=True)

    def own(self) -> tuple[str, str]:
        """Return the state and the message of the attachment of the gateway's container."""
        own = self.get("/api/v1/status")["docker"]["container"]
        name = self.engine.inspect(own)["Name"].lstrip("/")
        (found,) = [each for each in self.get("/api/v1/plan")["attachments"] if each["container"] == name]
        return found["state"], found["message"]

    def heard(self) -> dict[str, int]:
        """Return the number of containers that each peer reports, by the instance name of the peer."""
        peers = self.get("/api/v1/status")["docker"]["peers"]
        return {each["instance"]: each["containers"] for each in peers if each["instance"]}

    def says_in(self, engine: Engine, container: str) -> str:
        """Connect to the backend `orders` from a container on `engine`; return the line that the backend sends."""
        client = "timeout 5 nc -w 5 orders 3306 </dev/null"
        return engine.docker("exec", container, "sh", "-c", client, check=False, timeout=20).stdout.strip()

    def begin(self, backends: str, docker: str = "") -> "Agent":
        (self.folder / "gateway.yaml").write_text(
            textwrap.dedent(f"""
            gateway: {{instance: {self.instance}, state_dir: {self.folder}/state}}
            ops: {{listen: "127.0.0.1:9090", admin_socket: {self.folder}/admin.sock}}
            shutdown: {{delay: 0s, drain: 1s}}
            backends: {backends}
            docker:
              host: {self.engine.url}
              networks: {{mesh: {{driver: overlay, subnet: 10.99.0.0/22}}}}
            """)
            + textwrap.indent(self.peers + textwrap.dedent(docker), "  ")
        )
        self.engine.run_gateway("gateway", self.folder)
        self.wait(lambda: self.attachment("gateway") == ("attached", None), timeout=40)
        return self


def with_peers(agent: Agent, secret: str = "0123456789abcdef" * 2) -> Agent:
    """Enable `docker.peers` in the configuration of the agent, and return the agent."""
    (agent.folder / "peers").write_text(secret)
    (agent.folder / "peers").chmod(0o600)
    agent.peers = f"peers: {{secret_file: {agent.folder}/peers}}\n"
    return agent
