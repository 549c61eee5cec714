from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from gateway.cli import cli


def completed(*words: str, incomplete: str = "") -> list[str]:
    completion = ShellComplete(cli, {}, "gateway", "_GATEWAY_COMPLETE")
    return [each.value for each in completion.get_completions(list(words), incomplete)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"_GATEWAY_COMPLETE={shell}_complete" in done.output


def test_names_come_from_the_configuration_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text("tunnels: {edge: {}}\nbackends: {orders: {kind: oops}, other: {}, reports: {}}\n")
    assert completed("check", "-c", str(file), incomplete="o") == ["orders", "other"]
    assert completed("check", "-c", str(file), "orders", incomplete="o") == ["other"]


def test_without_a_service_the_usual_configuration_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket, file = str(tmp_path / "admin.sock"), tmp_path / "gateway.yaml"
    assert completed("reconnect", "--admin-socket", socket) == []
    file.write_text("tunnels: {edge: {}}")
    monkeypatch.setenv("GATEWAY_CONFIG", str(file))
    assert completed("reconnect", "--admin-socket", socket) == ["edge"]
    assert completed("explain", "--url", "http://127.0.0.1:1") == []
    assert completed("explain", "--url", "http://127.0.0.1:x") == []
