"""Properties of Kafka clients: names, values, references to secrets, contradictions."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flowstream.errors import UsageError
from flowstream.kafka.configuration import client_settings, from_arguments, from_table
from flowstream.kafka.properties import PROPERTIES
from flowstream.kafka.settings import ClientSettings

FILE = Path("/etc/flowstream/flowstream.toml")
PASSWORD = "correct horse battery staple"


def of_toml(text: str) -> ClientSettings:
    return client_settings(from_table(tomllib.loads(text)["kafka"], f"{FILE}: kafka", FILE))


def of_arguments(*texts: str) -> ClientSettings:
    return client_settings(from_arguments(texts))


def refusal_of_toml(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        of_toml(text)
    return str(caught.value)


def refusal(*texts: str) -> str:
    with pytest.raises(UsageError) as caught:
        of_arguments(*texts)
    return str(caught.value)


def test_nothing_given_is_plaintext():
    settings = of_arguments()
    assert settings == ClientSettings()
    assert settings.security_protocol == "PLAINTEXT"


def test_every_property_in_toml(tmp_path):
    (tmp_path / "secret").write_text("of a file\n")
    settings = of_toml(
        f"""
        [kafka]
        security.protocol = "SASL_SSL"
        ssl.ca.location = "ca.pem"
        ssl.certificate.location = "client.pem"
        "ssl.key.location" = "key.pem"
        ssl.key.password = "{PASSWORD}"
        ssl.endpoint.identification.algorithm = "none"
        sasl.mechanism = "scram-sha-512"
        sasl.username = "agent"
        sasl.password = "file:{tmp_path}/secret"
        client.id = "probe-7"
        client.rack = "b"
        compression.type = "zstd"
        batch.size = 131072
        request.timeout.ms = 7_001
        delivery.timeout.ms = 61_003
        metadata.max.age.ms = 30_011
        """
    )
    tls, sasl = settings.tls, settings.sasl
    assert tls is not None
    assert sasl is not None
    assert (tls.ca, tls.certificate, tls.key) == (*map(Path, ("ca.pem", "client.pem", "key.pem")),)
    assert tls.key_password is not None
    assert tls.key_password.reveal() == PASSWORD
    assert not tls.check_host
    assert (sasl.mechanism, sasl.username) == ("SCRAM-SHA-512", "agent")
    assert sasl.password is not None
    assert sasl.password.reveal() == "of a file"
    assert settings.security_protocol == "SASL_SSL"
    assert (settings.client_id, settings.rack, settings.compression) == ("probe-7", "b", "zstd")
    assert (settings.batch_size, settings.request_timeout) == (131072, 7.001)
    assert (settings.delivery_timeout, settings.metadata_max_age) == (61.003, 30.011)


def test_tokens(monkeypatch):
    monkeypatch.setenv("CLIENT_SECRET", PASSWORD)
    settings = of_arguments(
        "security.protocol=sasl_ssl",
        "sasl.mechanism=OAUTHBEARER",
        "sasl.oauthbearer.token.endpoint.url=https://login.example:8443/token?tenant=7",
        "sasl.oauthbearer.client.id=agent",
        "sasl.oauthbearer.client.secret=${CLIENT_SECRET}",
        "sasl.oauthbearer.scope=kafka",
        "sasl.oauthbearer.extensions=logicalCluster=lkc-1,identityPoolId=pool-2",
        "https.ca.location=/etc/ca",
    )
    assert settings.sasl is not None
    oauth = settings.sasl.oauth
    assert oauth is not None
    assert oauth.token_url == "https://login.example:8443/token?tenant=7"
    assert (oauth.client_id, oauth.client_secret.reveal()) == ("agent", PASSWORD)
    assert (oauth.scope, oauth.ca) == ("kafka", Path("/etc/ca"))
    assert oauth.extensions == {"logicalCluster": "lkc-1", "identityPoolId": "pool-2"}
    assert settings.tls is not None
    assert settings.tls.ca is None


def test_the_command_line_takes_precedence():
    table = from_table({"client": {"id": "a"}, "compression": {"type": "lz4"}}, "FILE")
    settings = client_settings(table | from_arguments(["client.id=b", "client.id=c"]))
    assert (settings.client_id, settings.compression) == ("c", "lz4")


def test_a_value_may_name_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").write_text("${HOME} file:x")
    settings = of_toml(
        """
        [kafka]
        security.protocol = "SASL_SSL"
        ssl.ca.location = "${CREDENTIALS_DIRECTORY}/ca.pem"
        sasl.mechanism = "PLAIN"
        sasl.username = "u"
        sasl.password = "file:${CREDENTIALS_DIRECTORY}/password"
        """
    )
    assert settings.tls is not None
    assert settings.tls.ca == tmp_path / "ca.pem"
    assert settings.sasl is not None
    assert settings.sasl.password is not None
    # What a file holds is not looked into.
    assert settings.sasl.password.reveal() == "${HOME} file:x"


def test_a_secret_in_the_environment_that_is_not_utf8(monkeypatch):
    # The octets b"secret\xff".
    monkeypatch.setenv("BROKEN", "secret\udcff")
    said = refusal("sasl.password=${BROKEN}")
    assert said.startswith("-X sasl.password: the value is not allowed")
    assert "secret" not in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sasl.mechanisms", "did you mean sasl.mechanism?"),
        ("ssl.ca.locatoin", "did you mean ssl.ca.location?"),
        ("security_protocol", "did you mean security.protocol?"),
        ("x", "; flowstream audit -X list prints all of them"),
        ("debug", ": use --log-level debug of run"),
        ("linger.ms", "not needed: a batch fills while"),
        ("bootstrap.servers", "the addresses are part of the URL: kafka://HOST:PORT"),
        ("enable.ssl.certificate.verification", "brokers are always verified"),
        ("sasl.jaas.config", "use sasl.username and sasl.password"),
    ],
)
def test_an_unsupported_property_names_the_nearest(name, hint):
    for said in (refusal(f"{name}={PASSWORD}"), refusal_of_toml(f"kafka.{name} = '{PASSWORD}'")):
        assert f"unsupported property '{name}'" in said
        assert hint in said
        assert PASSWORD not in said


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("security.protocol", ("TLS", "", "ssl ")),
        ("ssl.ca.location", ("", "a\0b")),
        ("ssl.endpoint.identification.algorithm", ("HTTP", "false")),
        ("sasl.mechanism", ("GSSAPI", "SCRAM")),
        ("sasl.username", ("", "a\nb", "x" * 256, "\udcff")),
        ("sasl.oauthbearer.token.endpoint.url",
         ("http://login.example/", "login.example", "https://", "https://u:p@h/", "ftp://h/",
          "https://h:0/", "https://h:99999/", "https://h/#x", "https://h/a b")),
        ("sasl.oauthbearer.extensions", ("a", "a=", "=b", "auth=x", "a=b,", "a=\x01")),
        ("client.id", ("", "x" * 256, "caf\udce9")),
        ("compression.type", ("zip", "")),
        ("batch.size", ("1023", "8388609", "1e5", "-1", "", "9" * 5000)),
        ("request.timeout.ms", ("999", "300001", "10s")),
        ("delivery.timeout.ms", ("0", "86400001")),
        ("metadata.max.age.ms", ("1", "-1")),
    ],
)  # fmt: skip
def test_a_wrong_value_names_what_is_allowed(name, wrong):
    for value in wrong:
        said = refusal(f"{name}={value}")
        assert said.startswith(f"-X {name}: ")
        assert f"it takes {PROPERTIES[name].allowed}" in said
        assert "\n" not in said
        assert len(said) < 300


@pytest.mark.parametrize("name", [each.name for each in PROPERTIES.values() if each.is_secret])
def test_a_secret_on_the_command_line_is_refused(name):
    said = refusal(f"{name}={PASSWORD}")
    assert said.startswith(f"-X {name}: every user can read it in the process list; use ")
    assert f"{name}=file:PATH, '{name}=${{VARIABLE}}' in single quotes, or --kafka-config" in said
    assert PASSWORD not in said
    # A part of it is enough.
    assert "process list" in refusal(f"{name}=x${{HOME}}")


@pytest.mark.parametrize("text", ["", "sasl.password", PASSWORD])
def test_text_that_is_no_property_is_not_repeated(text):
    assert refusal(text) == "-X: takes KEY=VALUE, such as security.protocol=SASL_SSL"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("kafka = 7", "kafka: is not a table; write [kafka] and properties below it"),
        ("[kafka]\nsasl.password = 17011", "kafka.sasl.password: takes text"),
        ("[kafka]\nsasl.password = ''", "kafka.sasl.password: the value is not allowed"),
        ("[kafka]\nclient.id = true", "kafka.client.id: takes 1 to 255 printable characters"),
        ("[kafka]\nclient.id = ['a']", "kafka.client.id: takes 1 to 255 printable"),
        ("[kafka]\nclient.id.x = 'a'", "kafka.client.id: takes 1 to 255 printable"),
        ("[kafka]\nclient.id = 'a'\n'client.id' = 'b'", "kafka.client.id: is given twice"),
        ("[kafka]\nclient = 'a'", "unsupported property 'client'; did you mean client.id?"),
        ("[kafka]\nbatch.size = 5.0", "kafka.batch.size: takes a whole number of octets"),
        ("[kafka]\nsasl.username = '${NO_SUCH_VARIABLE}'",
         "no variable NO_SUCH_VARIABLE; export it (sudo passes it on with --preserve-env=NO_SUCH"),
        ("[kafka]\nsasl.password = 'file:/nonexistent'",
         "kafka.sasl.password: /nonexistent: cannot be read: No such file or directory"),
        ("[kafka]\nsasl.password = 'file:/dev/zero'",
         "kafka.sasl.password: /dev/zero: cannot be read: Is a character device"),
        ("[kafka]\nsasl.password = 'file:'", "kafka.sasl.password: .: cannot be read: Is a dir"),
    ],
)  # fmt: skip
def test_a_mistake_in_toml_names_its_place(table, says):
    said = refusal_of_toml(table)
    assert said.startswith(f"{FILE}: kafka")
    assert says in said
    assert "17011" not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not one line of text"),
        (b"\n", "not one line of text"),
        (b"a\nb\n", "not one line of text"),
        (b"a\0", "not one line of text"),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"x" * 65537, "larger than 64 KiB"),
    ],
)
def test_a_file_with_something_else_than_a_secret(tmp_path, content, says):
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert refusal(f"sasl.password=file:{file}") == f"-X sasl.password: {file}: {says}"


SASL = ("security.protocol=SASL_SSL", "sasl.username=u", "sasl.password=${SECRET}")
TOKENS = (
    "security.protocol=SASL_SSL",
    "sasl.mechanism=OAUTHBEARER",
    "sasl.oauthbearer.token.endpoint.url=https://h/",
    "sasl.oauthbearer.client.id=c",
    "sasl.oauthbearer.client.secret=${SECRET}",
)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("sasl.username=u",),
         "-X sasl.username: has no effect without security.protocol=SASL_SSL or SASL_PLAINTEXT"),
        (("security.protocol=SSL", "sasl.password=${SECRET}"), "-X sasl.password: has no effect"),
        (("ssl.ca.location=ca",),
         "-X ssl.ca.location: has no effect without security.protocol=SSL or SASL_SSL"),
        (("security.protocol=SASL_PLAINTEXT", "ssl.key.location=k"), "-X ssl.key.location: has"),
        (("security.protocol=SSL", "ssl.key.location=k"),
         "-X ssl.key.location: has no effect without ssl.certificate.location"),
        (("security.protocol=SASL_SSL",),
         "-X security.protocol: SASL_SSL requires sasl.mechanism"),
        ((*SASL[:2], "sasl.mechanism=PLAIN"),
         "-X sasl.mechanism: PLAIN requires sasl.password"),
        ((SASL[0], SASL[2], "sasl.mechanism=SCRAM-SHA-256"),
         "-X sasl.mechanism: SCRAM-SHA-256 requires sasl.username"),
        ((*SASL, "sasl.mechanism=PLAIN", TOKENS[3]),
         "-X sasl.oauthbearer.client.id: has no effect without sasl.mechanism=OAUTHBEARER"),
        ((*SASL, "sasl.mechanism=PLAIN", "https.ca.location=x"),
         "-X https.ca.location: has no effect without sasl.mechanism=OAUTHBEARER"),
        ((*TOKENS, SASL[1]),
         "-X sasl.username: has no effect without sasl.mechanism=PLAIN or SCRAM"),
        (TOKENS[:2] + TOKENS[3:],
         "-X sasl.mechanism: OAUTHBEARER requires sasl.oauthbearer.token.endpoint.url"),
        (TOKENS[:-1],
         "-X sasl.mechanism: OAUTHBEARER requires sasl.oauthbearer.client.secret"),
        (("delivery.timeout.ms=9999",),
         ("-X delivery.timeout.ms: 9999 is less than request.timeout.ms, 10000: "
         "records would be given up before their answer")),
    ],
)  # fmt: skip
def test_properties_that_contradict_each_other(given, says, monkeypatch):
    monkeypatch.setenv("SECRET", PASSWORD)
    assert refusal(*given).startswith(says)


def test_no_text_of_the_settings_has_a_secret(monkeypatch):
    monkeypatch.setenv("SECRET", PASSWORD)
    for given in ((*SASL, "sasl.mechanism=PLAIN"), TOKENS):
        settings = of_arguments(*given)
        assert settings.sasl is not None
        for each in (settings, settings.sasl, settings.sasl.password, settings.sasl.oauth):
            assert PASSWORD not in f"{each} {each!r}"


def test_a_secret_of_a_file_is_read_again_when_the_file_changes(tmp_path):
    file = tmp_path / "password"
    file.write_text("first")
    settings = of_arguments(SASL[0], SASL[1], "sasl.mechanism=PLAIN", f"sasl.password=file:{file}")
    assert settings.sasl is not None
    password = settings.sasl.password
    assert password is not None
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").rename(file)
    assert password.reveal() == "first"
    assert password.refresh()
    assert not password.refresh()
    assert password.reveal() == "second"
    file.write_text("")
    assert not password.refresh()
    assert password.fault == f"{file}: not one line of text"
    file.unlink()
    assert not password.refresh()
    assert password.reveal() == "second"
    file.write_text("third")
    assert password.refresh()
    assert (password.reveal(), password.fault) == ("third", "")
