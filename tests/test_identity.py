"""Host id, address and epoch, against systemd, ip route and independently computed values."""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
import sys
import time
import uuid

import pytest
from structlog.testing import capture_logs
from support.agent import Agent, last_counters
from support.net import namespace

from flowstream.accounting.identity import epoch_at
from flowstream.host import identity

MACHINE_ID = "b1a7c4e0d2f94c6f8f0e3a5d7c9b1e2f"
# printf 6e5152ff05394c32a54a4c70f156d155 | xxd -r -p |
#     openssl dgst -sha256 -mac HMAC -macopt hexkey:b1a7c4e0d2f94c6f8f0e3a5d7c9b1e2f
# and the bits of version 4 and of the variant by hand.
HOST_ID = "aed75704e2be45e583ddde4c7e03d7c8"
# The same with the key "host-a".
HOST_ID_OF_NAME = "0c5774959aef4c33807fd97ad9b98bef"


@pytest.fixture
def machine_id(monkeypatch, tmp_path):
    """Write this text as the machine id; the second file stays missing."""
    files = tmp_path / "machine-id", tmp_path / "dbus-machine-id"
    monkeypatch.setattr(identity, "MACHINE_ID_FILES", files)
    return lambda text, file=0: files[file].write_text(text)


@pytest.mark.parametrize("file", [0, 1])
def test_the_host_id_is_derived_from_the_machine_id(machine_id, file):
    machine_id(f"{MACHINE_ID}\n", file)
    assert identity.host_id().hex() == HOST_ID


def test_the_host_id_of_this_host():
    found = identity.host_id()
    assert uuid.UUID(bytes=found).version == 4
    # Hosts without systemd have the fixed values above.
    if systemd := shutil.which("systemd-id128"):
        application = f"--app-specific={identity.APPLICATION_ID.hex}"
        done = subprocess.run(
            [systemd, "machine-id", application], capture_output=True, text=True, check=True
        )
        assert found.hex() == done.stdout.strip()


@pytest.mark.parametrize("text", [None, "", "uninitialized\n", "0" * 32, "ab" * 15, "\xe9" * 32])
def test_without_a_machine_id_the_name_is_used_with_a_warning(machine_id, monkeypatch, text):
    if text is not None:
        machine_id(text)
    monkeypatch.setattr(socket, "gethostname", lambda: "host-a")
    with capture_logs() as logs:
        assert identity.host_id().hex() == HOST_ID_OF_NAME
    (line,) = logs
    assert (line["log_level"], line["host"]) == ("warning", "host-a")
    assert line["event"] == "no machine id: host_id is made from the host's name"


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("192.0.2.17", "00000000000000000000ffffc0000211"),
        ("2001:db8::11", "20010db8000000000000000000000011"),
        ("::ffff:192.0.2.17", "00000000000000000000ffffc0000211"),
    ],
)
def test_an_address_has_sixteen_octets(literal, expected):
    assert identity.agent_address(literal).hex() == expected


@pytest.mark.parametrize("literal", ["", "host-a", "192.0.2", "192.0.2.017", "192.0.2.1/24"])
def test_only_literals_are_addresses(literal):
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
        identity.agent_address(literal)


def address_in(place) -> str:
    """The default address of an agent that runs in this namespace."""
    code = "from flowstream.host import identity; print(identity.agent_address().hex())"
    with place.popen(sys.executable, "-c", code, stdout=subprocess.PIPE, text=True) as process:
        address = ipaddress.IPv6Address(bytes.fromhex(process.communicate(timeout=60)[0]))
    return str(address.ipv4_mapped or address)


def test_the_default_address_is_that_of_the_default_route():
    with namespace() as place:
        assert address_in(place) == "0.0.0.0"
        place.run("ip", "link", "add", "out", "type", "veth", "peer", "name", "in")
        place.run("sysctl", "-qw", "net.ipv6.conf.out.disable_ipv6=0")
        for address in ("198.51.100.7/24", "198.51.100.8/24"):
            place.run("ip", "address", "add", address, "dev", "out")
        place.run("ip", "address", "add", "fd00::7/64", "dev", "out", "nodad")
        for name in ("in", "out"):
            place.run("ip", "link", "set", name, "up")
        assert address_in(place) == "0.0.0.0"
        place.run("ip", "-6", "route", "add", "default", "dev", "out")
        assert address_in(place) == "fd00::7"
        # The route's preferred source, not the interface's first address.
        place.run("ip", "route", "add", "default", "dev", "out", "src", "198.51.100.8")
        assert address_in(place) == "198.51.100.8"
        route = json.loads(place.run("ip", "-j", "route", "get", "192.0.2.1"))
        assert route[0]["prefsrc"] == "198.51.100.8"


def test_an_epoch_is_just_before_its_time_and_exact_as_a_double():
    now = time.time_ns()
    epoch = epoch_at(now)
    assert now - 1_024 < epoch <= now
    assert epoch % 1_024 == 0
    assert int(float(epoch)) == epoch


@pytest.mark.parametrize("options", [(), ("--agent-address", "2001:db8::17")])
def test_published_records_carry_the_identity(tmp_path, options):
    """Host id, epoch and address of a run, in its counters."""
    url = f"file:{tmp_path}/recording"
    with (
        namespace() as place,
        Agent("-i", "lo", "--netns", place.name, "--sink", url, *options) as agent,
    ):
        begin = time.time_ns()
        agent.publishing().stop()
    record = last_counters(url)
    assert record.host_id == identity.host_id()
    assert record.sampler_address == identity.agent_address(*options[1:])
    assert record.agent_epoch % 1_024 == 0
    assert 0 < begin - record.agent_epoch < 60 * 10**9 or record.agent_epoch > begin
