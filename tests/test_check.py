from __future__ import annotations

import mmap
import os
import socket
from typing import TYPE_CHECKING

import pytest
from support import kafka_config
from support.net import namespace, veth_pair
from support.other_xdp import NAME, OtherProgram
from support.pinned import FIRST_EPOCH, PinnedRun
from support.tun import tun_device
from support.users import open_to_all

from flowstream.check import Finding, Status, check, hooks, host, interfaces
from flowstream.check.pins import check_pins
from flowstream.cli.main import main
from flowstream.config.hooks import DEFAULT, attach_modes
from flowstream.errors import KernelError
from flowstream.host.drivers import DriverFacts, XdpFeature, driver_facts
from flowstream.host.links import LinkFacts
from flowstream.host.selection import Selection
from flowstream.kafka import walk
from flowstream.kernel import features, libbpf
from flowstream.kernel.counter import CounterProbe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowstream.config.hooks import AttachModes


@pytest.fixture
def veth():
    with namespace() as place, veth_pair(place, mtu=1500) as (near, _), place.entered():
        yield near


def about(subject: str, findings) -> list[Finding]:
    return [finding for finding in findings if finding.subject == subject]


def only(subject: str, findings) -> Finding:
    (finding,) = about(subject, findings)
    return finding


def checked(
    *patterns: str,
    kinds: Sequence[str] = (),
    netns: Sequence[str] = (),
    sink: str | None = None,
    prefix: str = "flowstream",
    modes: AttachModes = DEFAULT,
) -> list[Finding]:
    return list(check(Selection(patterns, kinds), netns, sink, prefix, modes=modes))


def link(**changes) -> LinkFacts:
    return LinkFacts(2, "eth0", **changes)


def driver(**changes) -> DriverFacts:
    values = {"xdp_features": XdpFeature.BASIC | XdpFeature.RX_SG, "rx_vlan_offloads": ()}
    return DriverFacts(**values | changes)


def test_this_host_meets_every_requirement():
    findings = checked("!*")
    assert [finding.subject for finding in findings if finding.subject != "interfaces"] == [
        *("kernel", "capabilities", "BPF JIT", "libbpf", "program flow", "program counter", "bcc"),
        "TC hook",
    ]
    assert [finding for finding in findings if finding.status is Status.FAIL] == []
    assert only("kernel", findings).text.startswith(os.uname().release)


@pytest.mark.parametrize(
    ("version", "status"),
    [((5, 8), "fail"), ((5, 9), "warn"), ((5, 17), "warn"), ((5, 18), "ok"), ((6, 12), "ok")],
)
def test_kernel_versions(monkeypatch, version, status):
    monkeypatch.setattr(host, "kernel_version", lambda: version)
    finding = only("kernel", checked("!*"))
    assert finding.status == status
    assert ("5.18 or later" in finding.remedy) == (status != "ok")


def test_missing_capabilities(monkeypatch):
    monkeypatch.setattr(features, "effective_capabilities", lambda: {"CAP_NET_ADMIN"})
    finding = only("capabilities", checked("!*"))
    assert finding.status is Status.FAIL
    assert finding.text == "CAP_BPF, CAP_PERFMON missing"
    assert finding.remedy.startswith("run as root")


@pytest.mark.parametrize(("content", "status"), [("0\n", "warn"), ("1\n", "ok"), (None, "ok")])
def test_the_jit(monkeypatch, tmp_path, content, status):
    file = tmp_path / "bpf_jit_enable"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(host, "JIT", file)
    assert only("BPF JIT", checked("!*")).status == status


def test_no_libbpf(monkeypatch):
    def library():
        raise KernelError("libbpf.so.1 is missing")

    monkeypatch.setattr(libbpf, "library", library)
    finding = only("libbpf", checked("!*"))
    assert (finding.status, finding.remedy) == (Status.FAIL, "apt-get install libbpf1")


def test_the_unrelated_package_called_bcc(monkeypatch, tmp_path):
    """A distribution of that name on the path; bcc/libbcc.py tells the right one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    information = tmp_path / "bcc-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: bcc\nVersion: 1.0\n")
    (information / "RECORD").write_text("bcc/__init__.py,,\n")
    finding = only("bcc", checked("!*"))
    assert (finding.status, finding.remedy) == (Status.WARN, "pip uninstall bcc")
    (information / "RECORD").write_text("bcc/__init__.py,,\nbcc/libbcc.py,,\n")
    assert only("bcc", checked("!*")).status is Status.OK


def test_a_veth(veth):
    findings = about("near", checked("near"))
    assert [(finding.status, finding.text) for finding in findings] == [
        (Status.OK, "is up, MTU 1500"),
        (Status.OK, "the driver has native XDP, for which it copies packets, being virtual"),
        (Status.OK, "VLAN tags reach XDP if the peer writes them into the packet"),
        (Status.OK, "no XDP program attached"),
    ]
    assert [finding.remedy for finding in findings][1:3] == [
        "--hook tcx copies none, and takes less than half the time",
        "--hook tcx, or ethtool -K PEER txvlan off",
    ]
    # By the other hook nothing of that matters.
    by_tcx = about("near", checked("near", modes=attach_modes("both", "tcx", "auto")))
    assert [(finding.status, finding.text) for finding in by_tcx] == [
        (Status.OK, "is up, MTU 1500"),
        (Status.OK, "VLAN tags reach the TC hook"),
        (Status.OK, "no XDP program attached"),
    ]


def test_both_ends_of_a_veth_in_both_directions(veth):
    findings = checked("near", "far", "lo", modes=attach_modes("both", "auto", "auto"))
    found = {f.subject: (f.text, f.remedy) for f in findings if "both" in f.text}
    assert found == {
        "lo": (
            "receives what it sends: both directions see each packet",
            "leave it out, for example by -i '!lo', or observe one direction",
        ),
        "far": (
            (
                "is the other end of near: each receives what the other sends, so every packet is "
                "seen at both ends"
            ),
            "leave out one or the other, for example by -i '!NAME'",
        ),
    }


def test_facts_of_a_driver(veth):
    features = driver_facts(LinkFacts(veth.index, "near")).xdp_features
    assert features is not None
    assert XdpFeature.BASIC in features
    assert driver_facts(LinkFacts(1, "lo")).xdp_features == 0


def test_an_interface_that_is_down(veth):
    veth.namespace.run("ip", "link", "set", "near", "down")
    findings = about("near", checked("near"))
    warnings = [(f.text, f.remedy) for f in findings if f.status is Status.WARN]
    assert warnings == [("is down", "ip link set dev near up")]


PAGE = mmap.PAGESIZE
UNSEEN = "what it drops or redirects is not observed"


@pytest.mark.parametrize(
    ("options", "status", "text", "remedy"),
    [
        (("ingress", "auto"), "warn", f": --hook auto takes tcx beside it; {UNSEEN}", ""),
        (("both", "auto"), "warn", f": --hook auto takes tcx beside it; {UNSEEN}", ""),
        (("ingress", "tcx"), "warn", f": {UNSEEN}", ""),
        (("egress", "auto"), "ok", "", ""),
        (
            ("both", "xdp"),
            "fail",
            "",
            (
                "--hook tcx to observe beside it, or stop its owner, or, if it has none, remove "
                "it by: ip link set dev near xdp off"
            ),
        ),
    ],
)
def test_another_program_on_the_interface(veth, options, status, text, remedy):
    with OtherProgram(veth.index) as other:
        finding = about("near", checked("near", modes=attach_modes(*options, "auto")))[-1]
        held = f"program {NAME} (id {other.id}) is attached"
    assert finding == Finding(Status(status), "near", f"{held}{text}", remedy)


def test_beside_another_agent_the_hook_must_be_named(veth):
    """A run refuses what the check reports as a failure."""
    with CounterProbe(max_flows=101) as probe:
        probe.attach("near")
        finding = about("near", checked("near"))[-1]
        by_tcx = about("near", checked("near", modes=attach_modes("ingress", "tcx", "auto")))[-1]
    assert finding.status is Status.FAIL
    assert finding.remedy.startswith("--hook tcx to observe beside it, or stop its owner")
    assert by_tcx.status is Status.WARN


@pytest.mark.parametrize(
    ("version", "options", "pinned", "status", "text"),
    [
        ((6, 6), ("egress", "auto"), True, "ok", "TCX serves egress and --hook tcx"),
        (
            (6, 5),
            ("egress", "auto"),
            False,
            "ok",
            "a clsact filter serves egress and --hook tcx, before Linux 6.6",
        ),
        ((6, 5), ("ingress", "auto"), True, "ok", "a clsact filter serves egress and --hook tcx"),
        ((6, 5), ("both", "auto"), True, "fail", "--pin at the TC hook requires Linux 6.6 or"),
        ((6, 5), ("ingress", "tcx"), True, "fail", "--pin at the TC hook requires Linux 6.6 or"),
    ],
)
def test_what_serves_the_tc_hook(monkeypatch, version, options, pinned, status, text):
    monkeypatch.setattr(features, "has_tcx", lambda: version >= features.TCX)
    finding = hooks.tc_hook(attach_modes(*options, "auto"), pinned=pinned)
    assert (finding.status, finding.subject) == (status, "TC hook")
    assert finding.text.startswith(text)


def test_an_interface_that_the_next_agent_takes_over(veth, bpffs):
    place = bpffs / "pins"
    with PinnedRun(place) as run:
        run.attach(veth)
        finding = about("near", check(Selection(["near"]), (), None, "flowstream", pin=str(place)))
        held = f"program xdp_flow (id {run.attachment.program.id}) is attached"
        assert finding[-1] == (
            Finding(Status.OK, "near", f"{held} and pinned: the next agent takes it over")
        )
        # With another directory, or none, it is in the way.
        finding = about("near", checked("near"))
        assert (finding[-1].status, finding[-1].text) == (Status.FAIL, held)
        assert finding[-1].remedy.endswith("flowstream detach DIR, with the DIR of --pin")


def test_no_such_interface(veth):
    """The agent would not start, so it does not wait for one either."""
    missing, not_chosen = about("interfaces", checked("none"))
    assert (missing.status, not_chosen.status) == (Status.FAIL, Status.OK)
    assert "give a glob" in missing.remedy
    names = ", ".join(sorted(name for _, name in socket.if_nameindex()))
    assert missing.text == f"no interface 'none'; there are: {names}"


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        ({"xdp_features": None}, "ok", "this kernel does not report whether"),
        ({"xdp_features": XdpFeature(0)}, "warn", "the driver has no native XDP"),
        ({"xdp_features": XdpFeature.BASIC, "mtu": PAGE - 598}, "ok", "the driver has native XDP"),
        (
            {"xdp_features": XdpFeature.BASIC, "mtu": PAGE - 597},
            "warn",
            "the driver has native XDP only for",
        ),
        ({"mtu": 9000}, "ok", "the driver has native XDP"),
    ],
)
def test_drivers(changes, status, text):
    mtu = changes.pop("mtu", 1500)
    eth0 = link(mtu=mtu, parent_device="0000:01:00.0")
    finding = hooks.native_xdp("eth0", eth0, driver(**changes))
    assert finding.status == status
    assert finding.text.startswith(text)
    assert "virtual" not in finding.text


def test_generic_xdp_is_worse_than_the_tc_hook():
    assert hooks.native_xdp("eth0", link(), driver(xdp_features=XdpFeature(0))) == Finding(
        Status.WARN,
        "eth0",
        "the driver has no native XDP: generic XDP copies packets, and counts a segment that is "
        "still to be cut as one packet; from Linux 6.9 on it hides the Ethernet header from other "
        "TC programs",
        "--hook tcx does none of that, and takes less than half the time",
    )


def test_a_bond_is_virtual_and_its_members_run_the_program():
    bond = link(kind="bond")
    assert hooks.native_xdp("bond0", bond, driver()).text == "the driver has native XDP"


def test_offloads_that_remove_tags(veth):
    veth.namespace.run("ethtool", "-K", "near", "rxvlan", "on", "rx-vlan-stag-hw-parse", "on")
    near = LinkFacts(veth.index, "near")
    finding = hooks.vlan_tags("eth0", link(), driver_facts(near))
    assert finding.status is Status.WARN
    command = "ethtool -K eth0 rxvlan off rx-vlan-stag-hw-parse off"
    assert finding.remedy == f"--hook tcx, or {command}"
    # ethtool accepts the remedy.
    veth.namespace.run(*command.replace("eth0", "near").split())
    assert driver_facts(near).rx_vlan_offloads == ()
    assert hooks.vlan_tags("eth0", link(), driver_facts(near)).status is Status.OK


def test_an_interface_without_a_link_layer_header():
    with namespace() as place, tun_device(place), place.entered():
        findings = about("tun0", checked("tun0"))
    generic = (
        "the driver has no native XDP: generic XDP copies packets, and counts a segment that is "
        "still to be cut as one packet"
    )
    assert [(finding.status, finding.text) for finding in findings] == [
        (Status.OK, "has no link-layer header: packets are read as raw IP"),
        (Status.OK, "is up, MTU 65535"),
        (Status.WARN, generic),
        (Status.OK, "no XDP program attached"),
    ]


def test_an_interface_whose_packets_cannot_be_read():
    can0 = LinkFacts(7, "can0", link_type=280)
    assert next(iter(interfaces.findings("can0 in blue", can0, driver(), DEFAULT))) == Finding(
        Status.FAIL,
        "can0 in blue",
        "packets of link type 280 cannot be read",
        "leave it out: -i '!can0'",
    )


def test_which_interfaces_are_chosen_and_why_others_are_not():
    with namespace() as place, veth_pair(place), place.entered():
        for number in range(10):
            place.run("ip", "link", "add", f"idle{number}", "type", "ifb")
        found = about("interfaces", checked("*", "!lo", "!idle9", kinds=["veth", "bond"]))
        assert found == [
            Finding(Status.OK, "interfaces", "chosen: far, near"),
            Finding(Status.OK, "interfaces", "not chosen, excluded by !lo: lo"),
            Finding(
                Status.OK,
                "interfaces",
                "not chosen, ifb, not veth or bond: idle0, idle1, idle2, idle3, idle4, idle5, "
                "idle6, idle7 and 1 more",
            ),
            Finding(Status.OK, "interfaces", "not chosen, excluded by !idle9: idle9"),
        ]
        # By default, the physical ones: there are none.
        none, *others = about("interfaces", checked())
        text = "none is chosen: the agent waits for one"
        assert (none.status, none.text) == (Status.WARN, text)
        assert [each.text.partition(":")[0] for each in others] == [
            *("not chosen, virtual, not physical", "not chosen, veth, not physical"),
            "not chosen, ifb, not physical",
        ]


def test_interfaces_of_several_namespaces():
    with namespace() as blue, namespace() as red, veth_pair(blue, red, names=("eth0", "eth0")):
        findings = checked("eth0", netns=[blue.name, str(red.path)])
        names = [f"eth0 in {blue.name}", f"eth0 in {red.path}"]
        assert about("interfaces", findings)[0].text == f"chosen: {names[0]}, {names[1]}"
        for name in names:
            texts = [each.text for each in about(name, findings)]
            assert texts[0].startswith("is up")
            assert texts[3] == "no XDP program attached"
        (overlap,) = (each for each in findings if "other end" in each.text)
        assert (overlap.status, overlap.subject) == (Status.WARN, names[0])
        assert overlap.text.startswith(f"is the other end of {names[1]}: ")
        assert only("netns", checked(netns=["nowhere"])).status is Status.FAIL


def test_a_broker_and_its_topics(broker):
    findings = checked("!*", sink=broker.url, prefix="nowhere")
    assert findings[-8:-4] == [
        Finding(Status.OK, f"resolve {broker.address}", "127.0.0.1"),
        Finding(Status.OK, f"connect {broker.address}", "answers as a Kafka broker"),
        Finding(Status.OK, f"metadata {broker.address}", "1 broker"),
        Finding(Status.OK, "idempotent writing", "allowed"),
    ]
    assert findings[-4].subject == "clock"
    assert findings[-3:] == [
        Finding(Status.OK, f"topic nowhere.{stream}", "does not exist yet; run creates it")
        for stream in ("flows", "new_flows", "counters")
    ]
    # The check must not have created them.
    assert checked("!*", sink=broker.url, prefix="nowhere")[-3:] == findings[-3:]


@pytest.mark.anyio
async def test_existing_topics(broker):
    from support.outcomes import Account, make_batch

    from flowstream.kafka.admin import partition_counts
    from flowstream.sink import open_sink

    opened = open_sink(broker.url, Account(), partitions=7, record_format="json")
    await opened.start(["checked.flows"])
    await opened.send(make_batch("checked.flows", 0, 0, 3))
    await opened.close(60)
    counts = await partition_counts(broker.cluster, ["checked.flows", "checked.none"], 10)
    assert counts == {"checked.flows": 7, "checked.none": 0}


def test_no_broker():
    finding = only("connect 127.0.0.1:1", checked("!*", sink="kafka://127.0.0.1:1"))
    remedy = "start a broker there or correct the address"
    assert (finding.status, finding.text) == (Status.FAIL, "connection refused")
    assert finding.remedy == remedy


def test_a_silent_listener_fails_within_the_deadline(monkeypatch):
    monkeypatch.setattr(walk, "DEADLINE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        finding = only(f"connect {address}", checked("!*", sink=f"kafka://{address}"))
    assert finding.status is Status.FAIL
    assert finding.text == "accepts connections but does not answer as a Kafka broker"


def test_directories(tmp_path):
    def found(path: Path) -> tuple[str, str]:
        finding = only(f"file:{path}", checked("!*", sink=f"file:{path}"))
        return finding.status, finding.text

    (tmp_path / "file").touch()
    assert found(tmp_path) == ("ok", "exists")
    assert found(tmp_path / "a" / "b") == ("ok", "can be created")
    assert found(tmp_path / "file") == ("fail", f"{tmp_path}/file is not a directory")
    assert found(tmp_path / "file" / "a") == ("fail", f"{tmp_path}/file is not a directory")
    (tmp_path / "closed").mkdir(mode=0o700)
    open_to_all(tmp_path)
    uid = os.geteuid()
    os.seteuid(65_534)
    try:
        refused = found(tmp_path / "closed")
    finally:
        os.seteuid(uid)
    assert refused == ("fail", f"{tmp_path}/closed is not writable")


def test_the_command_prints_a_line_each_and_fails_when_one_fails(capsys, veth):
    assert main(["check", "-i", "near", "--sink", "stdout:"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"ok    kernel: {os.uname().release}")
    assert lines[-1] == "ok    stdout:: takes JSON lines"
    assert main(["check", "-i", "near", "-i", "none"]) == 1
    assert "fail  interfaces: no interface 'none'; there are: " in capsys.readouterr().out


def test_hook_and_direction_are_the_agents(capsys, veth, tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text('interface = ["near"]\nhook = "tcx"\n')
    assert main(["check", "--config", str(config)]) == 0
    assert "ok    near: VLAN tags reach the TC hook\n" in capsys.readouterr().out
    assert main(["check", "--config", str(config), "--hook", "xdp", "--direction", "egress"]) == 2
    assert "hook: xdp sees received packets only" in capsys.readouterr().err


NOT_RAW_IP = "none without a link-layer header: no VLAN support for Raw IP"
NOT_IN_PACKET = (
    "inbound, outbound and ifindex are not in the packet; use --direction and --interface"
)


@pytest.mark.parametrize(
    ("expression", "finding"),
    [
        ("tcp port 80", "ok    filter: 20 instructions of classic BPF"),
        (
            "vlan",
            f"ok    filter: 6 instructions of classic BPF; {NOT_RAW_IP}",
        ),
        (
            "tcp prot 443",
            "fail  filter: syntax error, in: tcp prot 443 -> correct it, see pcap-filter(7)",
        ),
        (
            "inbound",
            f"fail  filter: {NOT_IN_PACKET}",
        ),
    ],
)
def test_a_filter_is_compiled(capsys, veth, expression, finding):
    status = main(["check", "-i", "near", "--filter", expression])
    assert status == finding.startswith("fail")
    assert finding in capsys.readouterr().out.splitlines()


WITHOUT_MEANING = (
    "the filter has no meaning without a link-layer header: no VLAN support for Raw IP -> "
    "use one of IP alone, or leave the interface out: -i '!tun0'"
)


@pytest.mark.parametrize(
    ("expression", "finding"),
    [
        ("udp", "ok    tun0: has no link-layer header: packets are read as raw IP"),
        (
            "vlan or udp",
            f"fail  tun0: {WITHOUT_MEANING}",
        ),
    ],
)
def test_a_filter_without_a_meaning_on_an_interface(capsys, expression, finding):
    with namespace() as place, tun_device(place):
        status = main(["check", "--netns", place.name, "-i", "tun0", "--filter", expression])
    assert status == finding.startswith("fail")
    assert finding in capsys.readouterr().out.splitlines()


def test_the_agents_configuration_is_checked(capsys, secure_broker, tmp_path):
    file = tmp_path / "flowstream.toml"
    text = f'interface = ["lo"]\ninterval = 1\nsink = "{secure_broker.url_of("SASL")}"\n'
    file.write_text(text + kafka_config.table(secure_broker.settings("SASL")), encoding="utf-8")
    file.chmod(0o600)
    main(["check", "--config", str(file)])  # others may have attached to lo
    said = capsys.readouterr().out
    assert "\nok    lo: is up" in said
    assert ": authenticated as agent by SCRAM-SHA-256\n" in said
    assert main(["check", "--config", str(file), "--sink", "stdout:", "-i", "none"]) == 2
    assert "has no effect on stdout:" in capsys.readouterr().err


def test_a_directory_of_pins(bpffs, tmp_path):
    def found(path) -> Finding:
        (finding,) = check_pins(str(path))
        return finding

    place = bpffs / "pins"
    assert found(place) == Finding(Status.OK, str(place), "can be made")
    assert not place.exists()
    (place / str(FIRST_EPOCH)).mkdir(parents=True)
    assert found(place) == Finding(Status.OK, str(place), "has the pins of 1 run")
    for other in (tmp_path, tmp_path / "pins"):
        assert found(other).status is Status.FAIL
        assert "mount -t bpf bpf /sys/fs/bpf" in found(other).remedy
    assert found(bpffs / "no" / "pins").text == f"the directory {bpffs}/no does not exist"
    bpffs.chmod(0o1777)
    shared = found(bpffs)
    assert (shared.status, shared.remedy) == (Status.FAIL, f"use {bpffs}/flowstream")


def test_the_directory_of_pins_is_the_agents(bpffs, tmp_path, capsys):
    config = tmp_path / "agent.toml"
    config.write_text(f'interface = ["lo"]\npin = "{bpffs}/pins"\n')
    main(["check", "--config", str(config)])
    assert f"ok    {bpffs}/pins: can be made\n" in capsys.readouterr().out
