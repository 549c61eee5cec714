import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import cli
from gateway.errors import UsageError
from gateway.importing.compose_diff import compose_diff
from gateway.importing.config_conversion import convert, note_rest
from gateway.importing.import_result import ImportResult
from gateway.importing.proxy_command import parse_proxy_command
from gateway.importing.shell_parser import read_script
from gateway.importing.source_format import FORMS, ImportSource, recognize
from tests.support.import_cases import CORPUS, DIFFS, load_compose, sections

PLACES = frozenset({
    "services", "volumes", "networks", "secrets", "environment", "command", "entrypoint", "depends_on", "env_file",
    "driver_opts", "aliases", "ports", "image", "network_mode", "container_name", "name", "source", "target", "type",
    "o", "device",
})  # fmt: skip
"""The keys of Compose files that the import reads."""


def imported(*texts: str, form: str = "") -> ImportResult:
    return convert([ImportSource("", text, form) for text in texts])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh user@host", "there is no local forward"),
        ("ssh -L 3306:db:3306", "contains no server"),
        ("ssh -L nonsense u@h", "must have the form"),
        ("ssh -L 99999:db:3306 u@h", "not a port"),
        ("ssh -L $PORT:db:3306 u@h", "no source sets ..PORT., which must be a port number"),
        ("ssh -L", "needs a value"),
        ("ssh -Z -L 3306:db:3306 u@h", "-Z is not an option of ssh"),
        ("ssh 'unclosed", "not closed"),
    ],
)
def test_what_cannot_be_imported_is_reported(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        imported(text, form="ssh")


def test_the_note_on_ciphers_names_a_key_if_the_command_has_no_local_forward() -> None:
    result = imported("ssh -c aes256-gcm@openssh.com u@other\nssh -L 3306:db:3306 u@h", form="shell")
    assert any("set tunnels.NAME.ciphers if the server needs it" in note for note in result.notes), result.notes


def test_each_form_can_be_set(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["import", "ssh", "ssh -R 1:a:2 -L 3306:db:3306 u@h"])
    assert done.exit_code == 0
    assert yaml.safe_load(done.stdout)["backends"]["db"]["kind"] == "mysql"
    assert "RemoteForward 1:a:2: not imported" in done.stderr
    file = tmp_path / "config"
    file.write_text("Host a\n  LocalForward 1000 b:1000\n  User u\n")
    assert CliRunner().invoke(cli, ["import", "ssh-config", str(file)]).exit_code == 0
    file.write_text("services: {t: {command: ssh -L 1000:b:1000 u@a}}\n")
    assert CliRunner().invoke(cli, ["import", "compose", str(file)]).exit_code == 0


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("services: {a: 3}", "services.a must be a mapping"),
        ("services: [a]", "services must be a mapping"),
        ("volumes: [n]", "volumes must be a mapping"),
        ("volumes: {n: {driver_opts: [a]}}", "volumes.n.driver_opts must be a mapping"),
        ('services: {a: {command: "ssh \'x"}}', "services.a.command: No closing quotation"),
        (
            "volumes: {n: {driver_opts: {type: nfs, o: 'addr=h,port=x', device: ':/m'}}}",
            "volumes.n: port=x is not a port number",
        ),
        ("volumes: {n: {driver_opts: {type: nfs, o: rw, device: ':/m'}}}", "volumes.n: the server"),
        ("services: {a: {networks: {n: x}}}", "services.a.networks.n must be a mapping"),
        ("services: {a: {networks: {n: {aliases: {}}}}}", "services.a.networks.n.aliases must be a list"),
        ("services: {a: {secrets: 5}}", "services.a.secrets must be a list"),
        (
            "services: {a: {environment: [A=b, 5]}}",
            "services.a.environment.1 must be a string: write it in quotation marks",
        ),
        ("services: {a: {links: [{}]}}", "services.a.links.0 must be a string, not a mapping"),
        ("services: {a: {command: {}}}", "services.a.command must be a list"),
        ("- a", "not a Compose file"),
        ("{", "not valid YAML"),
    ],
)
def test_an_invalid_compose_file_is_reported_with_the_position(document: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        imported(document, form="compose")


SECRET = "{password: hunter2}"


@pytest.mark.parametrize(
    ("document", "position"),
    [
        (f"services: {{a: {{environment: [{SECRET}]}}}}", "services.a.environment.0"),
        (f"services: {{a: {{environment: {{DB_HOST: {SECRET}}}}}}}", "services.a.environment.DB_HOST"),
        (f"services: {{a: {{command: [{SECRET}]}}}}", "services.a.command.0"),
        (f"services: {{a: {{entrypoint: [{SECRET}]}}}}", "services.a.entrypoint.0"),
        (f"services: {{a: {{image: {SECRET}}}}}", "services.a.image"),
        (f"services: {{a: {{network_mode: {SECRET}}}}}", "services.a.network_mode"),
        (f"services: {{a: {{hostname: {SECRET}}}}}", "services.a.hostname"),
        (f"services: {{a: {{env_file: [a.env, {{path: {SECRET}}}]}}}}", "services.a.env_file.1.path"),
        (f"services: {{a: {{volumes: [{{target: {SECRET}}}]}}}}", "services.a.volumes.0.target"),
        (f"services: {{a: {{volumes: [/data, {{source: {SECRET}}}]}}}}", "services.a.volumes.1.source"),
        (f"services: {{a: {{secrets: [{{source: {SECRET}}}]}}}}", "services.a.secrets.0.source"),
        (f"services: {{a: {{networks: {{n: {{aliases: [{SECRET}]}}}}}}}}", "services.a.networks.n.aliases.0"),
        (f"services: {{a: {{extends: {{file: {SECRET}}}}}}}", "services.a.extends.file"),
        (f"secrets: {{n: {{file: {SECRET}}}}}", "secrets.n.file"),
        (f"volumes: {{n: {{name: {SECRET}}}}}", "volumes.n.name"),
        (f"volumes: {{n: {{driver_opts: {{o: {SECRET}}}}}}}", "volumes.n.driver_opts.o"),
    ],
)
def test_a_mapping_instead_of_a_string_is_not_printed(document: str, position: str) -> None:
    with pytest.raises(UsageError) as raised:
        imported(document, form="compose")
    assert str(raised.value) == f"{position} must be a string, not a mapping"


@pytest.mark.parametrize(
    ("value", "form"),
    [("[hunter2]", "a list"), ("!!set {hunter2}", "a value with another YAML tag"),
     ("!!binary aHVudGVyMg==", "a value with another YAML tag")],
)  # fmt: skip
def test_the_error_describes_the_form_of_a_value_that_is_not_a_string(value: str, form: str) -> None:
    with pytest.raises(UsageError) as raised:
        imported(f"services: {{a: {{environment: {{DB_USER: {value}}}}}}}", form="compose")
    assert str(raised.value) == f"services.a.environment.DB_USER must be a string, not {form}"


@pytest.mark.parametrize("mount", ["", '""', "'/data:'", "{type: volume, source: data}"])
def test_a_mount_without_a_target_is_an_error(mount: str) -> None:
    with pytest.raises(UsageError) as raised:
        imported(f"services:\n  a:\n    volumes:\n    - /x\n    - {mount}", form="compose")
    assert str(raised.value) == "services.a.volumes.1 must have a target, which is a path in the container"


@pytest.mark.parametrize("path", ["", "{required: false}"])
def test_an_env_file_without_a_path_is_an_error(path: str) -> None:
    with pytest.raises(UsageError) as raised:
        imported(f"services:\n  a:\n    env_file:\n    - {path}", form="compose")
    assert str(raised.value) == "services.a.env_file.0 must have a path"


@pytest.mark.parametrize(
    ("value", "text"),
    [("yes", "yes"), ("OFF", "OFF"), ("2026-02-31", "2026-02-31"), ("TRUE", "true"), ("1.5", "1.5")],
)
def test_values_become_the_same_strings_as_in_compose(value: str, text: str) -> None:
    result = imported(
        f"services: {{a: {{environment: {{DB_HOST: h.example.com, DB_PORT: 1, DB_USER: {value}}}}}}}", form="compose"
    )
    assert result.containers[0].environment["DB_USER"] == text


def test_keys_that_are_not_strings_are_accepted() -> None:
    result = imported(
        "{services: {a: {environment: {DB_HOST: h.example.com, DB_PORT: 1}}}, 1: {x: y}, on: z}", form="compose"
    )
    assert "the file: unchanged: 1, on" in result.notes


def test_a_dependency_that_is_not_a_string_is_reported_with_the_position() -> None:
    text = "services: {a: {environment: {DB_HOST: h.example.com}, depends_on: [[]]}}"
    result = convert([ImportSource("compose.yaml", text)])
    with pytest.raises(UsageError, match=r"services\.a\.depends_on\.0 must be a string, not a list"):
        compose_diff(text, "compose.yaml", result)


def test_a_network_without_aliases_is_accepted() -> None:
    result = imported(
        "services: {a: {networks: {inner: {aliases: }, outer: }, environment: {DB_HOST: h.example.com, DB_PORT: 1}}}"
    )
    assert result.backends["h"]["targets"] == ["h.example.com:1"]


def damaged(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield damaged copies of a Compose file, each together with a text that describes the damage.

    In each copy, one value is replaced by a value of another type. The text contains the keys that lead to this
    value, and the new value. An asterisk in the text stands for an index in a list, or for a key that is not in
    `PLACES`, such as the name of a service.
    """
    others: tuple[Any, ...] = (None, 5, "x", [], {})
    for other in others:
        yield f" {other!r}", other
    keys: Iterable[Any] = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        for place, inner in damaged(value[key]):
            name = key if key in PLACES else "*"
            if isinstance(value, dict):
                yield f"{name}.{place}", {**value, key: inner}
            else:
                yield f"{name}.{place}", [*value[:key], inner, *value[key + 1 :]]


def test_a_value_of_another_type_in_a_compose_file_gives_a_configuration_or_an_error() -> None:
    seen: set[str] = set()
    groups = [
        [ImportSource(head.partition(" ")[2], body) for head, body in sections(path)
         if head.startswith("file ") or (head == "argument" and body.strip() not in FORMS)]
        for path in (*CORPUS, *DIFFS)
    ]  # fmt: skip
    groups.sort(key=lambda sources: sum(len(each.text) for each in sources))  # small documents take less time
    for given in groups:
        for index, source in enumerate(given):
            if not source.name.endswith((".yaml", ".yml")):
                continue
            for place, document in damaged(load_compose(source.text)):
                if place in seen:
                    continue
                seen.add(place)
                text = yaml.safe_dump(document)
                with contextlib.suppress(UsageError):
                    result = convert([*given[:index], ImportSource(source.name, text), *given[index + 1 :]])
                    compose_diff(text, source.name, result)
    assert len(seen) > 250


@pytest.mark.parametrize(
    "services",
    [
        "{a: {extends: a, environment: {DB_HOST: h.internal}}}",
        "{a: {extends: b, environment: {DB_HOST: h.internal}}, b: {extends: {service: a}}}",
        "{a: {extends: none, environment: {DB_HOST: h.internal}}}",
        "{a: {extends: b, environment: {DB_HOST: h.internal}}, b: }",
        "{a: {extends: {}, environment: {DB_HOST: h.internal}}}",
    ],
)
def test_a_service_that_extends_itself_or_nothing_is_imported(services: str) -> None:
    text = f"services: {services}\n"
    result = imported(text)
    assert result.backends["h"]["targets"] == ["h.internal:3306"]
    assert "DB_HOST: h}" in compose_diff(text, "", result)


def test_empty_sections_and_other_mounts_of_a_compose_file_are_accepted() -> None:
    result = imported(
        "services: {a: }\n"
        "volumes: {nas: {driver_opts: {type: nfs, o: 'addr=fd00::1,nfsvers=3', device: ':/m'}}, p: }\n"
    )
    assert result.backends["nas"]["targets"] == ["[fd00::1]:2049"]
    assert any("NFS version 3" in note for note in result.notes)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_bytes(b"\xff\xfe")
    for kind in ("compose", "ssh-config"):
        done = CliRunner().invoke(cli, ["import", kind, str(file)])
        assert isinstance(done.exception, UsageError), done.output
        assert str(file) in str(done.exception)


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("", "ssh -L 1:a:2 u@h", "script"),
        ("x.yaml", "services: {}", "compose"),
        ("", "volumes:\n  a: {}\n", "compose"),
        ("fstab", "", "fstab"),
        ("", "nas:/a /a nfs rw 0 0\n", "fstab"),
        ("config", "Host a\n  LocalForward 1 b:2\n", "ssh-config"),
        (".env", "A=1\nexport B='x y'\n", "env"),
        ("a.conf", "[Interface]\n", "wireguard"),
        ("a.ovpn", "client\n", "openvpn"),
        ("a.service", "[Unit]\n[Service]\nExecStart=ssh\n", "systemd"),
        ("run.sh", "A=1\ndocker run a\n", "script"),
    ],
)
def test_the_form_of_a_source_is_recognized(name: str, text: str, form: str) -> None:
    assert recognize(ImportSource(name, text)) == form


@pytest.mark.parametrize(
    "text",
    [
        f"docker run -e DB_HOST=db -e DB_PORT={'9' * 5000} app",
        f"docker run -e DB_HOST=db -e SSH_HOST=h -e SSH_PORT={'9' * 5000} app",
        "docker run -e DB_HOST=db -e SSH_HOST=h -e SSH_PORT=70000 app",
        f"ssh -L {'9' * 5000}:db:3306 u@h",
        f"ssh -L 3306:db:3306 -p {'9' * 5000} u@h",
        f"docker volume create -o type=nfs -o o=addr=h,port={'9' * 5000} -o device=:/m media",
    ],
)
def test_an_invalid_port_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"port|digits"):
        imported(text)


def test_an_invalid_port_in_a_url_is_an_error_with_the_name_of_the_variable() -> None:
    with pytest.raises(UsageError, match="docker run app: DB_URL: '99999' is not a port number"):
        imported("docker run -e DB_URL=mysql://u@db.internal:99999/x app")


def test_a_port_in_a_variable_stays_a_variable() -> None:
    result = imported("docker run -e DB_HOST=db -e SSH_HOST=h -e SSH_PORT=$SSH_PORT app")
    assert result.tunnels["h"]["port"] == "${SSH_PORT}"


def test_a_compose_file_that_expands_to_many_values_is_refused() -> None:
    lines = "".join(f"x{level}: &x{level} [{f'*x{level - 1}, ' * 10}]\n" for level in range(1, 30))
    with pytest.raises(UsageError, match="the Compose file: has more than 100000 values"):
        imported(f"x0: &x0 [a]\n{lines}services: {{}}\n", form="compose")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (
            "no-such-file",
            "no-such-file: file not found: name an existing file, or use a command line in quotation marks",
        ),
        ("mysql://app:hunter2@db", "mysql://app:***@db: file not found"),
        ("/", "/: cannot be read: Is a directory"),
    ],
)
def test_a_source_that_cannot_be_read_is_an_error(argument: str, words: str) -> None:
    done = CliRunner().invoke(cli, ["import", argument])
    assert isinstance(done.exception, UsageError), done.output
    assert words in str(done.exception)


def test_a_command_line_can_be_longer_than_a_file_name() -> None:
    options = " ".join(f"--label l{number}=x" for number in range(1000))
    done = CliRunner().invoke(cli, ["import", f"docker run {options} -e DB_HOST=db.example.com -e DB_PORT=3306 app"])
    assert done.exit_code == 0, repr(done.exception)


@pytest.mark.parametrize("arguments", [["nothing here"], ["compose"], ["no-such-file"]])
def test_a_source_without_a_known_form_is_an_error(arguments: list[str]) -> None:
    done = CliRunner().invoke(cli, ["import", *arguments])
    assert isinstance(done.exception, UsageError), done.output


def test_stdin_is_a_source() -> None:
    done = CliRunner().invoke(cli, ["import", "-"], input="ssh -i /k -L 3306:db:3306 u@h")
    assert yaml.safe_load(done.stdout)["backends"]["db"]["via"] == "h"


def test_a_source_without_backends_is_an_error_with_the_notes() -> None:
    with pytest.raises(UsageError, match=r"(?s)no local forward.*docker run app: unchanged: image app"):
        result = imported("docker run --name app app")
        note_rest(result)
        result.to_yaml()


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a 'b c' \"d $X\" e\\ f", [["a", "b c", "d ${X}", "e f"]]),
        ("X=1; a $X ${X} ${Y:-2} '$X'", [["a", "1", "1", "2", "$X"]]),
        ("a && b | c & d # e", [["a"], ["b"], ["c"], ["d"]]),
        ("while true; do a; done", [["while", "true"], ["a"], ["done"]]),
        ("a \\\n b\nc 2>&1 >/dev/null", [["a", "b"], ["c"]]),
        ("a $(b c) d", [["a", "$(b c)", "d"]]),
        ("a > /dev/null 2>&1 -b >'c d' e &> f", [["a", "-b", "e"]]),
        ('a <<< "don\'t" b', [["a", "b"]]),
        ("echo $((1 << 2))\n(( a << 2 ))\nb", [["echo", "$((1 << 2)"], ["a"], ["b"]]),
        ("a <<X -b <<-'Y z'\ndon't\nX\nc\n\tY z\nd", [["a", "-b"], ["d"]]),
        ("command -v a || command b", [["command", "-v", "a"], ["b"]]),
    ],
)
def test_a_script_is_split_like_a_shell_does(text: str, commands: list[list[str]]) -> None:
    assert [command.words for command in read_script(text).commands] == commands


def test_a_here_document_is_not_imported() -> None:
    result = imported(
        "cat > /etc/motd <<'EOT'\nDon't use this host\nssh -L 9999:other:9999 x@y\nEOT\n"
        "ssh u@app <<EOF\ndocker run -e DB_HOST=inner -e DB_PORT=5432 app\nEOF\nssh -N -L 3306:db:3306 u@b\n"
    )
    assert [each["targets"] for each in result.backends.values()] == [["db:3306"]]
    assert "`ssh u@app <<EOF`: the here-document is not imported" in result.notes


def test_a_text_that_contains_an_ssh_command_is_not_imported() -> None:
    result = imported("echo 'ssh -N -L 9999:other:9999 x@y'\nssh -N -L 3306:db:3306 u@b\n")
    assert [each["targets"] for each in result.backends.values()] == [["db:3306"]]


@pytest.mark.parametrize(
    ("command", "jump", "url"),
    [
        ("ssh -q -W %h:%p u@edge", "u@edge", ""),
        ("ssh edge -W [%h]:%p", "edge", ""),
        ("ssh edge nc %h %p", "edge", ""),
        ("nc -X connect -x proxy:3128 %h %p", "", "http://proxy:3128"),
        ("ncat --proxy proxy:1080 --proxy-type socks5 %h %p", "", "socks5://proxy:1080"),
        ("corkscrew proxy 8080 %h %p", "", "http://proxy:8080"),
        ("nc -X 4 -x proxy:1080 %h %p", "", ""),
        ("aws ssm start-session", "", ""),
    ],
)
def test_a_proxy_command_is_a_jump_a_proxy_or_another_command(command: str, jump: str, url: str) -> None:
    found = parse_proxy_command(command)
    assert (found.jump, found.url) == (jump, url)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("-i %h/.ssh/id u@h", {"identity_files": ["${HOME}/.ssh/id"], "host": "h"}),
        ("-i %d/key u@h", {"identity_files": ["/etc/tunnel/key"]}),
        ('-o "ProxyCommand=ssh -W %%h:%%p jump" u@h', {"via": "jump"}),
        ("u@h \\\n# comment\n  -p 2222", {"port": 2222}),
        ("-i ${KEY} u@h \\", {"identity_files": ["${HOME}/.ssh/id"]}),
    ],
)
def test_specifiers_and_lines_of_a_unit_are_read_as_by_systemd(options: str, words: dict[str, Any]) -> None:
    unit = (
        "[Service]\nLoadCredential=key:/etc/tunnel/key\nEnvironment=KEY=%h/.ssh/id\n"
        "ExecStart=/usr/bin/ssh -L 1:old:2 old\nExecStart=\n"
        f"ExecStart = /usr/bin/ssh -N -L 3306:db:3306 {options}\n"
    )
    result = convert([ImportSource("tunnel.service", unit)])
    tunnel = result.tunnels["h"]
    assert {key: tunnel[key] for key in words} == words
    assert list(result.backends) == ["db"]


def test_the_instance_of_a_unit_comes_from_its_file_name() -> None:
    unit = "[Service]\nExecStart=/usr/bin/ssh -N -i /k -L 3306:db:3306 u@%I\n"
    names = ("tunnel@a.example.com.service", r"tunnel@my\x2dhost.service", "tunnel@.service")
    result = convert([ImportSource(name, unit) for name in names])
    assert [tunnel["host"] for tunnel in result.tunnels.values()] == ["a.example.com", "my-host", "%I"]
    (note,) = [note for note in result.notes if "systemd replaces" in note]
    assert note == (
        "tunnel@.service: systemd replaces %I in the unit, but the import does not"
        " know the values: write them in the result"
    )


def test_the_name_of_a_drop_in_says_nothing_about_its_unit() -> None:
    unit = "[Service]\nExecStart=/usr/bin/ssh -N -i /etc/%p/key -L 3306:%i:3306 u@h\n"
    result = convert([ImportSource("/etc/systemd/system/tunnel@db.service.d/override.conf", unit)])
    assert result.tunnels["h"]["identity_files"] == ["/etc/tunnel/key"]
    assert result.backends["db"]["targets"] == ["db:3306"]
    result = convert([ImportSource("unit.txt", unit.replace("%i", "db").replace("%p", "%N"))])
    assert result.tunnels["h"]["identity_files"] == ["/etc/%N/key"]
    assert any("systemd replaces %N in the unit" in note for note in result.notes)


def test_all_mount_units_of_a_source_are_imported() -> None:
    unit = (
        "# /etc/systemd/system/mnt-a.mount\n[Unit]\nDescription=A\n[Mount]\nWhat=nas:/a\nWhere=/mnt/a\nType=nfs\n"
        "# /etc/systemd/system/mnt-a.mount.d/o.conf\n[Mount]\nOptions=nfsvers=4.1\n"
        "# /etc/systemd/system/mnt-b.mount\n[Mount]\nWhat=//nas/b\nWhere=/mnt/b\nType=cifs\n"
        "Options=credentials=%h/.smb\n"
    )
    result = convert([ImportSource("", unit)])
    assert {name: backend["kind"] for name, backend in result.backends.items()} == {"a": "nfs", "b": "smb"}
    lines = [text for _, text in result.changes]
    assert "nfsvers=4.1" in lines[0]
    assert "credentials=/root/.smb" in lines[1]
    assert "not imported: Description=A" in result.notes
    automount = convert([ImportSource("mnt-a.automount", "[Automount]\nWhere=/mnt/a\n")])
    assert "not imported: Where=/mnt/a" in automount.notes
    service = convert(
        [ImportSource("x.service", "[Service]\nType=forking\nExecStart=/usr/bin/ssh -L 1:db:3306 u@h\n")]
    )
    assert any("Type=forking" in note for note in service.notes)


def test_the_directory_of_a_mount_unit_comes_from_its_name() -> None:
    unit = "[Mount]\nWhat=nas:/a\nWhere=%f\nType=nfs\n"
    result = convert([ImportSource(r"mnt-caf\xc3\xa9.mount", unit)])
    (client,) = result.clients
    assert client.folder == "/mnt/café"


@pytest.mark.parametrize(
    ("options", "noted"),
    [
        ("--context prod", True), ("-Htcp://h:2375", True), ("--context default", False),
        ("-H unix:///var/run/docker.sock", False), ("--cgroup-manager cgroupfs", False), ("-D", False),
    ],
)  # fmt: skip
def test_global_options_of_docker_may_select_another_engine(options: str, noted: bool) -> None:
    result = convert(
        [ImportSource("", f"docker {options} run --name app -e DATABASE_URL=mysql://db.example:3306/x app")]
    )
    assert result.backends
    assert any("run the gateway where this engine runs" in note for note in result.notes) is noted


def test_a_credential_without_a_path_is_reported() -> None:
    unit = "[Service]\nLoadCredentialEncrypted=key:/x\nExecStart=/usr/bin/ssh -N -i %d/key -L 3306:db:3306 u@h\n"
    result = convert([ImportSource("tunnel.service", unit)])
    assert any("systemd replaces %d/key in the unit" in note for note in result.notes)


@pytest.mark.parametrize(
    "script",
    [
        'OPTIONS="-N -i /k -o ServerAliveInterval=60"\nssh $OPTIONS -L 3306:db:3306 u@h',
        "EMPTY=\n$EMPTY\nssh -N -i /k $EMPTY -L 3306:db:3306 u@h",
        "/bin/sh -c 'ssh -N -i /k -L 3306:db:3306 u@h'",
        "autossh -f -M 20000:20001 -i /k -L 3306:db:3306 u@h",
    ],
)
def test_a_script_gives_the_same_tunnel_as_the_command_line(script: str) -> None:
    expected = imported("ssh -N -i /k -L 3306:db:3306 u@h")
    result = imported(script, form="shell")
    assert (result.tunnels, result.backends) == (expected.tunnels, expected.backends)


def test_the_value_of_an_assignment_is_not_split() -> None:
    assignments = "K='a\nb'; P='x  y'\nexport SSH_KEY=$K DB_PASSWORD=$P\n"
    script = f"{assignments}docker run -e SSH_KEY -e DB_PASSWORD -e DB_HOST=h.a app"
    (container,) = imported(script, form="shell").containers
    assert [container.environment[name] for name in ("SSH_KEY", "DB_PASSWORD")] == ["a\nb", "x  y"]


def test_a_long_password_is_not_a_private_key() -> None:
    variables = (
        f"SSH_HOST: b, SSH_USER: u, TARGET_HOST: db, TARGET_PORT: 5432, SSH_PASSWORD: {'0123456789abcdef' * 4}"
    )
    result = imported(f"services: {{t: {{image: ssh-tunnel, environment: {{{variables}}}}}}}", form="compose")
    assert "password_file" in result.tunnels["b"]


def test_quoted_variables_are_one_word() -> None:
    script = "A='x y'\ndocker run -e \"DB_USER=$A\" -e DB_NAME='$A' -e DB_PASSWORD=\\$A -e DB_HOST=db.example.com app"
    (container,) = imported(script, form="shell").containers
    assert [container.environment[name] for name in ("DB_USER", "DB_NAME", "DB_PASSWORD")] == ["x y", "$A", "$A"]


@pytest.mark.parametrize(
    "command",
    [
        "/usr/bin/docker run -e DB_HOST=db.example.com app",
        "sudo -E docker run -e DB_HOST=db.example.com app",
        "@reboot /usr/bin/podman run --replace --tls-verify=false -e DB_HOST=db.example.com app",
        "/bin/sh -c 'docker run -e DB_HOST=db.example.com app'",
        "docker service create --with-registry-auth -e DB_HOST=db.example.com app",
    ],
)
def test_a_docker_command_is_recognized_after_its_prefix(command: str) -> None:
    result = imported(command, form="shell")
    assert result.backends["db"]["targets"] == ["db.example.com:3306"]
    assert not [note for note in result.notes if "there is no option" in note]


def test_a_directory_of_a_share_is_part_of_the_new_line() -> None:
    result = imported("//nas.internal/team/projects/a /mnt/my\\040files cifs credentials=/c,ip=10.0.0.5 0 0")
    ((_, change),) = result.changes
    assert change == (
        "new line of /etc/fstab: //127.0.0.1/team/projects/a /mnt/my\\040files cifs"
        " credentials=/c,port=20490,_netdev 0 0"
    )
    (backend,) = result.backends.values()
    assert (backend["targets"], backend["share"]) == (["10.0.0.5:445"], "team/projects/a")


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("ncat --proxy proxy:3128 %h %p", "http://proxy:3128"),
        ("ncat --proxy proxy:1080 --proxy-type socks5 %h %p", "socks5://proxy:1080"),
        ("nc -x proxy:1080 %h %p", "socks5://proxy:1080"),
        ("nc -X connect -x proxy:3128 %h %p", "http://proxy:3128"),
        ("nc -x proxy:1080 -P joe %h %p", ""),
    ],
)
def test_the_default_of_a_netcat_selects_the_kind_of_proxy(command: str, url: str) -> None:
    assert parse_proxy_command(command).url == url


def test_comments_and_several_names_in_ssh_config() -> None:
    text = (
        "Host db db.example.com # production\n  HostName 10.0.0.5 # the db\n  User app\n"
        "  ProxyCommand nc -x p:1 %h %p # x\n  LocalForward 3306 db:3306\n"
        "Host *-prod\n  LocalForward 5432 pg:5432\n"
    )
    result = imported(text, form="ssh-config")
    assert list(result.backends) == ["db"]
    (tunnel,) = result.tunnels.values()
    assert (tunnel["host"], tunnel["user"]) == ("10.0.0.5", "app")
    assert tunnel["proxy_command"] == ["sh", "-c", "nc -x p:1 {host} {port} # x"]
    assert any("Host db.example.com: not imported, because Host db has the same" in note for note in result.notes)
    assert any("Host *-prod: not imported, because no imported host matches" in note for note in result.notes)


def test_the_port_of_ops_does_not_conflict_with_a_forward() -> None:
    result = imported("ssh -N -i /k -L 9090:prom:9090 -L 9091:push:9091 -L 9092:x:9092 u@h")
    ports = [result.sections["ops"]["listen"], *(backend["listen"] for backend in result.backends.values())]
    assert len(set(ports)) == len(ports)
