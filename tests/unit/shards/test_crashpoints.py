"""Every point of the commit protocol visited: killed before it, or made to fail, and nothing torn is ever accepted."""

import os
from pathlib import Path

import pytest
from tests.campaigns import crashpoints
from tests.campaigns.crashpoints import BROKEN, Campaign, Violation, good_log, order_faults

MOST_KILLS = 300


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    why = crashpoints.why_not()
    if why is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return Campaign(crashpoints.build_writer(), tmp_path_factory.mktemp("crashpoints"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row("S1")
def test_a_kill_before_any_call_of_the_protocol_leaves_nothing_torn(campaign: Campaign) -> None:
    assert 50 < campaign.kills() <= MOST_KILLS


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row("S1")
def test_a_kill_while_what_a_kill_left_is_cleaned_up_leaves_nothing_torn(campaign: Campaign) -> None:
    with campaign.beginning_after("rename", 4):
        assert campaign.kills(stride=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row("S4", "S5")
def test_a_call_that_fails_is_told_and_the_rerun_goes_on(campaign: Campaign) -> None:
    met = campaign.faults(stride=3)
    assert set(met) == {"ENOSPC", "EIO", "EINTR"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.row("S5")
def test_a_write_that_claims_what_it_did_not_do_is_noticed(campaign: Campaign) -> None:
    assert campaign.short_writes()


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_protocol_is_noticed(broken: str, campaign: Campaign) -> None:
    with pytest.raises(Violation):
        campaign.kills(broken)


@pytest.mark.slow
@pytest.mark.row("S3")
def test_content_is_durable_before_its_name_and_names_before_the_record(campaign: Campaign) -> None:
    log = good_log(campaign)
    assert not order_faults(log, campaign.out)
    folder = str(campaign.out)
    for forgotten in (f"<{folder}/.picollm/partial/", f"<{folder}>"):
        lines = [line for line in log.splitlines() if not ("fsync(" in line and forgotten in line)]
        assert len(lines) < len(log.splitlines())
        assert order_faults("\n".join(lines), campaign.out), f"without the fsync of {forgotten}"


def test_the_order_check_reads_a_log_by_hand() -> None:
    good = """
7 write(3</s/.picollm/partial/a.1>, "x", 1) = 1
7 fsync(3</s/.picollm/partial/a.1>) = 0
7 rename("/s/.picollm/partial/a.1", "/s/train_000000.bin") = 0
7 fsync(4</s>) = 0
7 rename("/s/.picollm/partial/r.1", "/s/segment_000000.json") = 0
7 fsync(4</s>) = 0
"""
    assert not order_faults(good, Path("/s"))
    lines = good.strip().splitlines()
    assert order_faults("\n".join([lines[0], *lines[2:]]), Path("/s")) == [
        "train_000000.bin: renamed before it was synced"
    ]
    assert order_faults("\n".join([*lines[:3], *lines[4:]]), Path("/s")) == [
        "segment_000000.json: named before train_000000.bin were durable"
    ]
    assert order_faults("\n".join(lines[:-1]), Path("/s")) == ["segment_000000.json: its name was never synced"]
