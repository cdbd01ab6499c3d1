"""Price lists of our own, as SkyPilot keeps them, and what a run costs by them."""

import datetime
import os
import time

import pytest

from nbft.config import Config
from nbft.hardware import is_this_machine
from nbft.plan import offers as module
from nbft.plan.machines import SIZES
from nbft.plan.offers import offers
from nbft.plan.prices import price_list

COLUMNS = "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Region,SpotPrice,Price,"
COLUMNS += "AvailabilityZone,GpuInfo\n"


def line(gpu, price, spot="", memory_gib=0, count=1):
    about = (
        f"\"{{'Gpus': [{{'Name': '{gpu}', 'MemoryInfo': {{'SizeInMiB': {memory_gib * 1024}}}}}]}}\""
        if memory_gib
        else ""
    )
    return f"{count}x_{gpu},{gpu},{count},8,32,XX,{spot},{price},,{about}\n"


@pytest.fixture
def lists(tmp_path, monkeypatch):
    """Return a function that writes the price list of a provider, so many days old."""
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(tmp_path))

    def write(sky, *lines, days=0):
        path = tmp_path / ".sky/catalogs/v8" / sky / "vms.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(COLUMNS + "".join(lines))
        when = time.time() - days * 86_400
        os.utime(path, (when, when))
        return path

    return write


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_model):
    """A LoRA of 8B that fits into 24 GiB, and not into 16."""
    path = tmp_path_factory.mktemp("8B")
    next(model for model in SIZES if model.title == "8B").write(path)
    text = "word" * 256
    rows = [{"prompt": text, "completion": text}] * 64
    model = {"model_name": str(path), "tokenizer_name": str(tiny_model)}
    about = {"max_steps": 500, "per_device_train_batch_size": 1}
    return Config(model=model, data={"rows": rows}, training=about)


def test_the_cheapest_of_several_regions_counts(lists):
    lists("runpod", line("L4", 0.5, 0.3, 24), line("L4", 0.4, memory_gib=24), line("", 0.1))
    found = price_list("runpod")
    (price,) = found.prices
    assert (price.usd_per_hour, price.spot_usd_per_hour) == (0.4, 0.3)
    assert price.memory_bytes == 24 * 2**30
    assert found.date == datetime.datetime.now(tz=datetime.UTC).date()
    assert found.source == f"Prices of RunPod: SkyPilot's list of {found.date}."


@pytest.mark.parametrize(("days", "is_said"), [(30, False), (31, True)])
def test_an_old_list_is_said_to_be_old(lists, days, is_said):
    lists("vast", line("L4", 0.5), days=days)
    found = price_list("vast_ai")
    said = f"which is {days} days old; prices may have changed. Update it: nbft cloud prices."
    assert (said in found.source) == is_said


def test_a_failed_update_does_not_make_a_list_new(lists):
    path = lists("vast", line("L4", 0.5))
    checksum = path.parents[1] / ".meta/vast/vms.csv.md5"
    checksum.parent.mkdir(parents=True)
    checksum.touch()
    when = time.time() - 40 * 86_400
    os.utime(checksum, (when, when))  # SkyPilot touches the list itself
    assert price_list("vast_ai").age_days == 40


def test_without_a_list_the_published_range_is_labelled(lists):
    assert price_list("lambda_labs").source == (
        "There is no price list of Lambda Labs on this machine; PEFT Studio's undated table has 1.10 "
        "to 2.49 USD an hour. Get the list: nbft cloud prices."
    )


def test_a_list_that_cannot_be_read(lists):
    path = lists("runpod", "nothing\n")
    assert f"({path}: has no prices of GPUs)" in price_list("runpod").source
    path.write_bytes(b"\xff\xfe\x00")
    assert f"({path}: is no table)" in price_list("runpod").source
    path.unlink()
    path.mkdir()
    assert f"({path}: is a directory)" in price_list("runpod").source.lower()


def test_lines_that_cannot_be_read_are_counted(lists, config):
    lists(
        "runpod", line("L4", "cheap"), line("L4", -1), line("L4", 0.5, count=0.5), line("L4", 0.4)
    )
    assert price_list("runpod").skipped == 2
    assert "2 lines of RunPod could not be read." in offers(config, "runpod").remarks


def test_offers_are_sorted_by_what_the_run_costs(lists, config):
    lists(
        "runpod",
        line("T4", 0.1, memory_gib=16),
        line("L4", 0.4, 0.2, 24),
        line("RTX4090", 0.6, memory_gib=24),
        line("A100-80GB", 1.4, 0.9, 80),
        line("A100-80GB", 2.8, count=2),
        line("RTX6090", 0.2, memory_gib=48),
    )
    lists("vast", line("H100", 1.8, memory_gib=80))
    found = offers(config)
    costs = [sum(offer.cost_usd()) for offer in found.offers if offer.fits]
    assert costs == sorted(costs)
    assert costs
    assert found.offers[-1].price.gpu == "T4"
    assert found.offers[-1].fits is False
    assert found.cheapest is found.offers[0]
    assert found.unknown == 1
    assert "Left out: 1 kind of GPU that nbft does not know." in found.remarks
    assert str(found).count("cheapest that fits") == 1
    assert found.of("a100-80gb").price.usd_per_hour == 1.4
    assert is_this_machine()


def test_the_cost_counts_the_setup_and_both_ends_of_the_time(lists, config):
    lists("lambda", line("H100", 2.0, memory_gib=80))
    (offer,) = offers(config, "lambda_labs").offers
    low, high = offer.seconds
    assert offer.cost_usd() == ((low + 300) / 3600 * 2.0, (high + 900) / 3600 * 2.0)
    assert high == pytest.approx(low * 5)
    assert offer.cost_usd(spot=True) is None
    none = offers(config, "lambda_labs", spot=True)
    assert none.offers == ()
    assert none.remarks[0] == "No machine in the lists is for this run as spot."


def test_nothing_is_large_enough(lists, config):
    lists("runpod", line("T4", 0.1, memory_gib=16))
    found = offers(config, "runpod")
    assert found.cheapest is None
    assert found.remarks[0].startswith("None is large enough: the run needs about ")
    assert found.remarks[0].endswith(" GiB, and T4 has 15 GiB free.")


def test_a_model_that_is_not_here_has_no_cost(lists, config):
    lists("runpod", line("L4", 0.4, memory_gib=24))
    found = offers(config.apply({"model.model_name": "nobody/nothing"}), "runpod")
    assert found.cheapest is None
    assert found.offers[0].fits is None
    assert (
        "The model nobody/nothing is not on this machine, so memory, time and cost are not known."
    ) in found.remarks


def test_what_would_stop_the_run_anywhere_is_said(lists, config):
    lists("runpod", line("L4", 0.4, memory_gib=24), line("T4", 0.1, memory_gib=16))
    assert offers(config, "runpod").errors == []
    found = offers(config.apply({"data": {"path": "gone.jsonl"}}), "runpod")
    (problem,) = found.errors
    assert "gone.jsonl" in problem
    assert found.remarks[0] == f"Fix first: {problem}"
    assert "The rows are not on this machine, so memory" in found.remarks[1]


def test_one_plan_serves_all_providers_of_a_gpu(lists, config, monkeypatch):
    lists("runpod", line("L4", 0.4, memory_gib=24))
    lists("vast", line("L4", 0.3), line("A10", 0.5, memory_gib=24))
    planned = []
    make = module.make_plan
    monkeypatch.setattr(module, "make_plan", lambda *a, **k: planned.append(1) or make(*a, **k))
    assert len(offers(config).offers) == 3
    assert len(planned) == 2
    monkeypatch.setattr(module, "_MOST_PLANS", 1)
    found = offers(config)
    assert (len(found.offers), found.left_out) == (2, 1)
