"""Imports each file of `corpus/`, and compares the configuration and the notes with those in the file.

With `UPDATE_GOLDEN=1` in the environment, the test rewrites the expected sections of the files.
"""

import os
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.config import ConfigSources, load
from gateway.errors import UsageError
from gateway.importing.config_conversion import convert
from gateway.importing.source_format import FORMS, ImportSource
from tests.support.import_cases import CORPUS, load_compose, sections

PATHS = ("HOME", "SSH_AUTH_SOCK")
"""Environment variables whose value is a path."""
WORDS = frozenset({
    "ssh", "autossh", "sudo", "docker", "podman", "run", "volume", "create", "service", "services", "volumes",
    "mount", "environment", "driver_opts", "driver", "local", "version", "type", "bind", "source", "target", "device",
    "nfs4", "cifs", "localhost", "ssh-config", "false", "true", "command", "container_name", "defaults", "rw",
    "pgsql", "dev", "tun", "while", "do", "done", "then", "none",
})  # fmt: skip
"""Words of the syntax, and values that request the default behavior of the import."""
OPTIONS = frozenset({
    "name", "env", "cap-add", "opt", "mount", "config", "target", "HostName", "IdentityFile", "LocalForward", "addr",
    "SSH_KEY_PATH", "SSH_PRIVATE_KEY_PATH", "OPENVPN_CUSTOM_CONFIG", "!other", "ProxyJump", "ProxyCommand",
    "HostKeyAlias", "CertificateFile", "UserKnownHostsFile", "IdentityAgent", "env-file", "MYSQL_SSL_MODE",
    "./app.env", "base.env", "override.env",
})  # fmt: skip
"""Options and keywords for which only the value must be in the output."""
UNNAMED = frozenset({"environment", "volumes", "driver_opts", "command"})
"""Keys of Compose files whose values must be in the output."""
SHORT_OPTIONS = frozenset("DJLRWXcdegilmoptvx")
"""Short options for which the output contains the value or the long name of the option."""
SECRET = re.compile(
    r"(?i)(?:pass(?:word|phrase)?|_private_key|preshared_key|PrivateKey)\"?\s*[=:]\s*[\"']?([^\s,\"'/]{6,})"
)


def secrets_of(path: Path) -> set[str]:
    """Return the secrets in the sources of a case."""
    text = "".join(body for head, body in sections(path) if head not in ("configuration", "notes"))
    secrets = {*re.findall(r"\b\w*secret\w*\d\b|hunter2|mypassword|openpassphrase|hushhush1|s3cretvalue", text)}
    return secrets | {*SECRET.findall(text), *re.findall(r"://\w+:([^@\s]+)@", text)} - {"path"}


WITH_SECRETS = [path for path in CORPUS if secrets_of(path)]


def run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[str, str]:
    """Run `gateway import` on a file of the corpus; return the configuration and the notes."""
    monkeypatch.chdir(folder)
    arguments = []
    for head, body in sections(path):
        if head == "argument":
            arguments.append(body.rstrip("\n"))
        elif head.startswith("file "):
            Path(head[5:]).parent.mkdir(exist_ok=True)
            Path(head[5:]).write_text(body)
            arguments.append(head[5:])
    done = CliRunner().invoke(cli, ["import", *options, *arguments])
    assert done.exit_code == 0, repr(done.exception)
    return done.stdout, done.stderr


def test_there_are_enough_cases() -> None:
    assert len(CORPUS) >= 60
    assert len(WITH_SECRETS) >= 20


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_case_has_the_expected_output(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, notes = run(path, tmp_path, monkeypatch)
    given = [(head, body) for head, body in sections(path) if head not in ("configuration", "notes")]
    if os.environ.get("UPDATE_GOLDEN"):
        written = [*given, ("configuration", configuration), ("notes", notes)]
        path.write_text("".join(f"=== {head}\n{body}" for head, body in written))
    expected = dict(sections(path))
    assert configuration == expected["configuration"]
    assert notes == expected["notes"]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_output_is_a_configuration(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, _ = run(path, tmp_path, monkeypatch)
    file = tmp_path / "gateway.yaml"
    file.write_text(configuration)
    environment = {
        name: f"/{name}" if name in ("HOME", "SSH_AUTH_SOCK") else name
        for name in re.findall(r"\$\{(\w+)\}", configuration)
    }
    config = load(ConfigSources(file=file, environment=environment))
    assert config.backends.keys() == yaml.safe_load(configuration)["backends"].keys()


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_each_word_of_a_source_is_in_the_output(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, notes = run(path, tmp_path, monkeypatch)
    output = configuration + notes
    for head, body in sections(path):
        if head == "argument":
            missing = missing_words(body, output)
        elif head.endswith((".yaml", ".yml")):
            missing = missing_leaves(load_compose(body), output)
        elif head.startswith("file ") and not head.endswith((".ovpn", ".conf")):
            missing = missing_words(re.sub(r"(?m)^\s*#.*$", "", body), output)
        else:
            continue
        assert not missing, missing


def missing_words(text: str, output: str) -> list[str]:
    """Return the words of a command or a file that are not in the output.

    For `NAME=VALUE`, the output must contain the value if `import` used it, or otherwise the name. For
    `SOURCE:TARGET`, the output must contain the source. The output must contain the names of passwords, but not the
    passwords.
    """
    missing = []
    output = re.sub(r"[\"']", "", output)
    for word in re.sub(r"[\"']|\$\{?\w+|\\\n|^(\[\w+\]|ExecStart=)", "", text, flags=re.MULTILINE).split():
        name, equals, value = word.strip("-\\;,{}[]&").partition("=")
        parts = value if equals and not SECRET.search(word) else name
        found = [
            part
            for part in re.split(r"[^\w.-]+", parts)
            if len(part.strip("-")) > 1 and not re.fullmatch("22|0+", part)
        ]
        if ":" in word and "/" in word.partition(":")[0] and "=" not in word and "://" not in word:
            found = found[: len(re.findall(r"[\w.-]{2,}", word.partition(":")[0]))]
        absent = [part for part in found if part.lower().strip("-") not in output.lower() and part not in WORDS]
        if word.startswith("/") and absent and word.rpartition("/")[2] in output:
            absent = []  # The output contains the path on the host instead of the path in the container.
        if re.fullmatch(r"-\w{1,3}", word) and word not in output:
            absent = [f"-{letter}" for letter in set(word[1:]) - SHORT_OPTIONS if f"-{letter}" not in output]
        if absent and name not in OPTIONS and not (equals and name in output) and word != "s3cretvalue":
            missing.append(word)
    return missing


def is_named(path: tuple[str, ...], output: str) -> bool:
    """Return whether the notes list the key `path[2]` of a service or volume as unchanged or not needed."""
    return bool(re.search(rf"{'.'.join(path[:2])}: (unchanged|.*not needed):.*\b{path[2]}\b", output))


def missing_leaves(value: object, output: str, *path: str) -> list[str]:
    """Return the values of a Compose file for which the output contains neither the value nor the key."""
    if isinstance(value, dict):
        return [each for key, inner in value.items() for each in missing_leaves(inner, output, *path, str(key))]
    if isinstance(value, list):
        return [each for inner in value for each in missing_leaves(inner, output, *path)]
    if value is None or isinstance(value, bool) or path[0] == "version" or path[2:3] == ("env_file",):
        return []
    place, text = ".".join(path), str(value)
    if path[2:3] == ("environment",):
        text = text if len(path) == 3 else f"{path[3]}={text}"
    elif path[0] not in ("services", "volumes"):
        return [] if path[0] in output else [place]
    elif any(key in output for key in path[2:] if key not in UNNAMED) or is_named(path, output):
        return []
    return [f"{place}: {each}" for each in missing_words(text, output)]


@pytest.mark.parametrize("path", WITH_SECRETS, ids=lambda path: path.stem)
def test_no_secret_of_a_source_is_in_the_output(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration, notes = run(path, tmp_path, monkeypatch)
    for secret in secrets_of(path):
        assert secret not in configuration + notes, secret


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_damaged_source_gives_a_configuration_or_an_error(path: Path, tmp_path: Path) -> None:
    given = [(head, body) for head, body in sections(path) if head == "argument" or head.startswith("file ")]
    given = [(head.partition(" ")[2], body) for head, body in given if body.strip() not in FORMS]
    file = tmp_path / "gateway.yaml"
    converted = 0
    for index, (name, body) in enumerate(given):
        words = re.split(r"(\s+)", body)
        step = len(words) // 8 | 1  # `words` alternates words and spaces, so an odd step reaches both
        for at in range(0, len(words), step):
            damaged = "".join(words[:at] + words[at + 1 :])
            others = [ImportSource(*each) for each in given]
            try:
                text = convert([*others[:index], ImportSource(name, damaged), *others[index + 1 :]]).to_yaml()
            except UsageError:
                continue
            converted += 1
            file.write_text(text)
            names = re.findall(r"\$\{(\w+)\}", text)
            load(
                ConfigSources(
                    file=file, environment={each: f"/{each}" if each in PATHS else "example" for each in names}
                )
            )
    assert converted
