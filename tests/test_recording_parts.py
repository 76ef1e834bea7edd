"""Recordings that lack topics or partitions, and those of a part: every reader says which."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest
from support.published import ANNOUNCEMENTS, FLOWS, PARTITIONS, Published, publish

from flowstream.cli.main import main
from flowstream.errors import MissingTopicError
from flowstream.reading import read

TOPICS = "flowstream.counters, flowstream.flows, flowstream.new_flows"


@pytest.fixture
def run(tmp_path):
    asyncio.run(publish(f"file:{tmp_path}/run", "json", Published()))
    return tmp_path / "run"


@pytest.fixture
def part(run):
    """Partitions 0, 2 and 4 of the flows only, as of one broker of several."""
    for partition in (1, 3):
        shutil.rmtree(run / f"flowstream.flows-{partition}")
    return run


@pytest.fixture
def lacking(part):
    return (
        f"{part}: topic flowstream.flows: no partition 1, 3 in this recording; "
        "its partitions: 0, 2, 4"
    )


@pytest.mark.parametrize("command", ["cat", "record", "replay"])
def test_missing_partitions_are_a_warning(part, lacking, command, tmp_path, capsys):
    to = {
        "cat": ["--output", f"{tmp_path}/lines"],
        "record": ["--to", f"{tmp_path}/to"],
        "replay": ["--to", f"file:{tmp_path}/to"],
    }
    assert main([command, str(part), "--topic", "flowstream.flows", *to[command]]) == 0
    assert capsys.readouterr().err == f"flowstream: warning: {lacking}\n"


def test_the_audit_names_missing_partitions(part, lacking, capsys):
    assert main(["audit", str(part), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert result["warnings"] == [lacking]
    (run,) = result["runs"]
    flows = next(topic for topic in run["topics"] if topic["topic"] == "flowstream.flows")
    assert flows["missing"] == FLOWS - flows["records"] > 0


def test_python_warns_of_missing_partitions(part, lacking):
    with pytest.warns(UserWarning, match="no partition") as caught:
        records = list(read(str(part)))
    assert [str(each.message) for each in caught] == [lacking]
    assert caught[0].filename == __file__
    assert 0 < len(records) < FLOWS
    # Topics that are whole are read without a word.
    assert len(list(read(str(part), topic="flowstream.new_flows"))) == ANNOUNCEMENTS


def test_only_gaps_are_told(run, capsys):
    """How many partitions a topic had cannot be seen."""
    shutil.rmtree(run / f"flowstream.flows-{PARTITIONS - 1}")
    assert main(["cat", str(run), "--output", f"{run}.jsonl"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "command",
    [
        ["cat", "--topic", "site.flows"],
        ["record", "--topic", "site.flows", "--to", "copy"],
        ["replay", "--topic", "site.flows", "--to", "file:copy"],
        ["audit", "--topic-prefix", "site"],
    ],
)
def test_a_missing_topic_is_an_error_that_names_the_others(run, command, capsys, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert main([command[0], str(run), *command[1:]]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"flowstream: error: {run}: no topic site.flows")
    assert line.endswith(f"in this recording; its topics: {TOPICS}")
    assert not (run.parent / "copy").exists()
    with pytest.raises(MissingTopicError, match=f"; its topics: {TOPICS}"):
        next(read(str(run), topic="site.flows"))


def test_a_condition_on_flows_leaves_counters_out_and_the_audit_does_not_hold(
    run, tmp_path, capsys
):
    to = str(tmp_path / "part")
    assert main(["record", str(run), "--where", "packets > 0", "--to", to]) == 0
    out, err = capsys.readouterr()
    assert out == f"{FLOWS} messages of {run} recorded in {to}\n"
    assert err == (
        "flowstream: warning: topic flowstream.counters: none of its messages was selected\n"
        "flowstream: warning: topic flowstream.new_flows: none of its messages was selected\n"
    )
    assert main(["audit", to, "--json"]) == 1
    ((problem,),) = (each["problems"] for each in json.loads(capsys.readouterr().out)["runs"])
    assert problem == (
        "ifindex 3 ingress: published records, but no counters record to compare them with"
    )
    # Counters by a second command.
    to = str(tmp_path / "two")
    for options in (["flowstream.flows", "--where", "seq != 17"], ["flowstream.counters"]):
        assert main(["record", str(run), "--topic", *options, "--to", to]) == 0
    assert capsys.readouterr().err == ""
    assert main(["audit", to, "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out)["runs"]
    assert any(
        "1 record is missing without a cause (1 not there; seq 17)" in each
        for each in result["problems"]
    )


def test_a_selection_of_counters_alone_can_be_read(run, tmp_path, capsys):
    to = str(tmp_path / "counters")
    where = ["--where", 'record_type == "counters"']
    assert main(["record", str(run), *where, "--to", to]) == 0
    assert "topic flowstream.flows: none of its messages was selected" in capsys.readouterr().err
    assert len(list(read(to, topic="flowstream.counters"))) == 2
