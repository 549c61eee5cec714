"""Tests whether the output of `gateway import` contains secrets from the imported files."""

import time

import pytest
from click.testing import CliRunner

from gateway.cli import cli
from gateway.errors import UsageError
from gateway.importing.config_conversion import convert, note_rest
from gateway.importing.import_result import ImportResult
from gateway.importing.source_format import ImportSource
from gateway.secret_redaction import has_secrets, hide_secrets, redacted

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\\nhunter2\\n-----END OPENSSH PRIVATE KEY-----"
ENCODED_KEY = "LS0tLS1CRUdJTiBPUEVOU1NIIFBSSVZBVEUg/hunter2/S0VZLS0tLS0="


def imported(text: str, name: str = "") -> ImportResult:
    result = convert([ImportSource(name, text)])
    note_rest(result)
    return result


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["mysql", "--password=abc", "-h", "db"], "mysql --password=*** -h db"),
        (["x", "--token", "abc", "y"], "x --token *** y"),
        (["postgres://u:pw@h/d"], "postgres://u:***@h/d"),
        (["o=username=me,password=pw,vers=3.0"], "o=username=me,password=***,vers=3.0"),
        (["a b"], "'a b'"),
        (["PGPASSWORD=correct horse battery", "psql"], "PGPASSWORD=*** psql"),
        (["-o", "vers=3,username=u,password=my pass word"], "-o vers=3,username=u,password=***"),
        (["--env=DB_PASSWORD=my secret"], "--env=DB_PASSWORD=***"),
        (["prog", "--user", "me:my pass"], "prog --user 'me:***'"),
        (["prog", "--user=admin:123456", "-v"], "prog --user=admin:*** -v"),
        (["sh", "-c", 'prog --user "me:hunter2" --auth-key x'], """sh -c 'prog --user "me:***" --auth-key ***'"""),
    ],
)
def test_passwords_are_not_shown(words: list[str], shown: str) -> None:
    assert redacted(words) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql -uroot -phunter2 x", "mysql -uroot -p*** x"),
        ("`docker login -u me -p hunter2`: not imported", "`docker login -u me -p ***`: not imported"),
        ("sshpass -phunter2 ssh h", "sshpass -p*** ssh h"),
        ("curl -u me:hunter2 http://x", "curl -u *** http://x"),
        ("curl -H 'Authorization: Bearer hunter2' x", "curl -H 'Authorization: Bearer ***' x"),
        ("sh -c 'x --password hunter2; y'", "sh -c 'x --password ***; y'"),
        ("connect -H me:hunter2@proxy:3128 %h %p", "connect -H me:***@proxy:3128 %h %p"),
        ('NAME="x" TOKEN="open hunter2" y', 'NAME="x" TOKEN=*** y'),
        ("(SetEnv API_TOKEN=hunter2): not imported", "(SetEnv API_TOKEN=***): not imported"),
        ("o=username=me,password2=hunter2,vers=3", "o=username=me,password2=***,vers=3"),
        ("o=user=me%hunter2,vers=3", "o=user=me%***,vers=3"),
        ("redis-server --masterauth hunter2", "redis-server --masterauth ***"),
        ("redis-cli -h r -a hunter2 ping", "redis-cli -h r -a *** ping"),
        ("mongosh -u me -p hunter2", "mongosh -u me -p ***"),
        ("mongo -p hunter2", "mongo -p ***"),
        ("cqlsh -u me -p hunter2", "cqlsh -u me -p ***"),
        ("sqlcmd -S h -P hunter2", "sqlcmd -S h -P ***"),
        ("ldapsearch -w hunter2 -b x", "ldapsearch -w *** -b x"),
        ("plink -pw hunter2 h", "plink -pw *** h"),
        ("smbclient -U me%hunter2 //s/s", "smbclient -U me%*** //s/s"),
        ("lftp -u me,hunter2 h", "lftp -u me,*** h"),
        ("htpasswd -b f me hunter2", "htpasswd -b f me ***"),
        ("vault login -no-print hunter2", "vault login -no-print ***"),
        ("mc alias set s3 http://m me hunter2", "mc alias set s3 http://m me ***"),
        ("aws configure set aws_secret_access_key hunter2", "aws configure set aws_secret_access_key ***"),
        ("restic --password-command 'echo hunter2' x", "restic --password-command *** x"),
        ("x --api-key hunter2 y", "x --api-key *** y"),
        ("curl -H 'X-Api-Key: open hunter2' x", "curl -H 'X-Api-Key: ***' x"),
        ("curl -H X-Auth:hunter2 x", "curl -H X-Auth:*** x"),
    ],
)
def test_secrets_in_a_text_are_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-e", "DB_PWD=x"], True),
        (["--label", "proxy=http://me:x@proxy"], True),
        (["redis-server", "--masterauth", "x"], True),
        (["redis-cli", "-a", "x"], True),
        (["mongod", "--bind_ip", "10.0.0.1"], False),
        (["mongod", "--auth", "--bind_ip_all"], False),
        (["code-server", "--auth", "none"], False),
        (["prog", "--auth", "me:x"], True),
        (["tailscale", "up", "--authkey", "x"], True),
        (["prog", "--user", "1000:1000"], False),
        (["prog", "--user=www-data:www-data"], False),
        (["-v", "/private/db:/db", "a b"], False),
        (["--label", "traefik.http.services.app.loadbalancer.passhostheader=true"], False),
        (["--label", "app.tls.passthrough=False", "--label", "app.token=x"], True),
    ],
)
def test_words_with_a_secret_are_recognized(words: list[str], found: bool) -> None:
    assert has_secrets(words) is found


@pytest.mark.parametrize(
    "text",
    [
        "-v ./secrets/tunnel_key:/root/.ssh/id_rsa",
        "image app:1.2@sha256:0123abcd",
        "docker run mysql: unchanged: -p 3306:3306",
        "docker run mongo: unchanged: -p 27017:27017",
        "backends.db: add check: {user: …, password_file: …}",
        "services.app: DB_PASSWORD: write the value of DB_PASSWORD to /run/secrets/db_password",
    ],
)
def test_paths_and_names_are_shown(text: str) -> None:
    assert hide_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Host a\n User u\n ProxyCommand sshpass -p hunter2 ssh -W %h:%p j\n LocalForward 1 b:2\n", "config"),
        ("Host a\n User u\n LocalForward 1 b:2\nHost b\n SetEnv TOKEN=hunter2\n", "config"),
        ('[Service]\nEnvironment="DB_PASSWORD=open hunter2"\nExecStart=ssh -L 1:a:2 u@h\n', "a.service"),
        ("echo hunter2 | docker login --password-stdin\nredis-cli -a hunter2\nssh -L 1:a:2 u@h", ""),
        ("docker run -v vol:/m --opt type=cifs --opt o=password=hunter2 --opt device=//s/x a\nssh -L 1:a:2 u@h", ""),
        ("docker run --mount type=volume,src=v,dst=/m,volume-opt=o=password=hunter2 a\nssh -L 1:a:2 u@h", ""),
        ("echo x | zip -P hunter2 a; sshpass -p 'x@hunter2' ssh -L 1:a:2 u@h", ""),
        ('spawn ssh -L 1:a:2 u@h\nredis-cli -a hunter2\nsend "hunter2\\r"\nssh -L 1:a:2 u@h', ""),
    ],
)
def test_a_note_contains_no_secret(text: str, name: str) -> None:
    result = imported(text, name)
    notes = "\n".join([*result.notes, *(each for _, each in result.changes)])
    assert "***" in notes or "Environment DB_PASSWORD" in notes
    assert "hunter2" not in notes + result.to_yaml()


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("docker run -e PASSWORD='hunter2 app", "", "quotation mark ' in line 1 is not closed"),
        ("psql postgres://u:hunter2@h", "", "not recognized"),
        ("services:\n  a: {environment: {P: hunter2}\n", "a.yaml", "line 3: not valid YAML"),
        ("services:\n  a: {environment: {P: *hunter2}}\n", "a.yaml", "undefined alias"),
        ("docker run --mount type=nfs,volume-opt=o=password=hunter2 a", "", "target= is missing"),
    ],
)
def test_an_error_contains_no_secret(text: str, name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        imported(text, name)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "key", [KEY, ENCODED_KEY, f"b3BlbnNzaC1rZXktdjEAAAAABG5v/hunter2{'A' * 60}", f"MII/hunter2{'A' * 60}"]
)
@pytest.mark.parametrize(
    "variables",
    [
        "SSH_HOST: b, SSH_USER: u, DB_HOST: db, DB_PORT: 5432, SSH_PRIVATE_KEY",
        "SSH_HOST: b, SSH_USER: u, TARGET_HOST: db, TARGET_PORT: 5432, SSH_PRIVATE_KEY",
        "SSH_HOST: b, SSH_USER: u, TARGET_HOST: db, TARGET_PORT: 5432, KEY",
    ],
)
def test_a_private_key_in_a_variable_becomes_a_file(variables: str, key: str) -> None:
    image = "ssh-tunnel" if "TARGET" in variables else "app"
    result = imported(
        f'services: {{t: {{image: {image}, environment: {{{variables}: "{key}", SSH_KEY_PASSPHRASE: hunter2}}}}}}'
    )
    tunnel = result.tunnels["b"]
    assert (tunnel["identity_files"], tunnel["passphrase_file"]) == (
        ["/run/secrets/t_key"], "/run/secrets/t_passphrase",
    )  # fmt: skip
    assert "password_file" not in tunnel
    assert "hunter2" not in "\n".join(result.notes) + result.to_yaml()


def test_a_note_contains_no_control_character() -> None:
    text = 'services: {a: {command: ["ssh -L 1:a:2 u@h; x \\e[31m"]}}'
    done = CliRunner().invoke(cli, ["import", "compose", "-"], input=text)
    assert done.exit_code == 0, repr(done.exception)
    assert "x ?[31m" in done.stderr
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"), [(b"ssh \xff", "standard input: "), (b"services: &a {x: *a}", "contains itself")]
)
def test_a_damaged_source_on_standard_input_is_an_error(text: bytes, words: str) -> None:
    done = CliRunner().invoke(cli, ["import", "-"], input=text)
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)


@pytest.mark.parametrize(
    "word",
    [
        "token.",
        "mysql ",
        "sshpass ",
        "curl ",
        "mongosh -p",
        "redis-cli -a",
        "'key",
        "a:",
        "a.b-",
        "--password ",
        "://",
        "'",
        "-----BEGIN ",
    ],
)
def test_the_time_grows_linearly_with_the_length_of_a_text(word: str) -> None:
    began = time.process_time()
    hide_secrets(word * 40_000)
    # The call usually takes less than 1 s. With nonlinear growth, the call would take minutes.
    assert time.process_time() - began < 20


def test_the_time_grows_linearly_with_the_number_of_options() -> None:
    began = time.process_time()
    assert redacted(["a=" + ",pass" * 40_000 + ",password=x y"]).endswith(",password=***")
    assert time.process_time() - began < 20
