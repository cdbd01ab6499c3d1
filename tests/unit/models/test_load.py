"""The libraries are quiet as long as somebody wants them to be, in whichever thread."""

import logging
import threading

import datasets
import pytest
from transformers.utils import logging as transformers_logging

from nbft.config import Config
from nbft.errors import ModelError
from nbft.models.load import load_tokenizer, quiet

LOGGER = logging.getLogger("transformers")


def state():
    return (
        transformers_logging.is_progress_bar_enabled(),
        datasets.are_progress_bars_disabled(),
        transformers_logging._default_handler in LOGGER.handlers,
        LOGGER.propagate,
    )


@pytest.fixture
def loud():
    transformers_logging.get_logger("transformers")  # adds its handler
    bars, is_off = transformers_logging.is_progress_bar_enabled(), state()[1]
    transformers_logging.enable_progress_bar()
    datasets.enable_progress_bars()
    yield state()
    if not bars:
        transformers_logging.disable_progress_bar()
    if is_off:
        datasets.disable_progress_bars()


def test_quiet_and_as_before(loud):
    assert loud[:3] == (True, False, True)
    with quiet():
        assert state()[:3] == (False, True, False)
        with quiet():
            pass
        assert state()[:3] == (False, True, False), "the inner one does not end the outer one"
    assert state() == loud
    with pytest.raises(ValueError, match="on the way"), quiet():
        raise ValueError("on the way")
    assert state() == loud


def test_of_two_threads_the_last_one_turns_it_on_again(loud):
    """The first that came leaves first: what it found must not come back yet."""
    inside, leave = threading.Event(), threading.Event()

    def second():
        with quiet():
            inside.set()
            leave.wait(10)
            seen.append(state())

    seen = []
    thread = threading.Thread(target=second)
    with quiet():
        thread.start()
        assert inside.wait(10)
    assert state()[:3] == (False, True, False), "the second is still there"
    leave.set()
    thread.join()
    assert seen[0][:3] == (False, True, False)
    assert state() == loud


def test_the_log_of_a_run_that_begins_meanwhile_is_kept(loud):
    handler = logging.NullHandler()
    with quiet():
        LOGGER.addHandler(handler)
        with quiet():
            assert not LOGGER.propagate
    assert handler in LOGGER.handlers
    LOGGER.removeHandler(handler)
    assert state() == loud


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("latin.jinja", "is not UTF-8 text (byte 6)."),
        ("none.jinja", "cannot be read: no such file or directory."),
        (".", "cannot be read: is a directory."),
        ("a\0b", "is not a valid file name."),
    ],
)
def test_a_template_file_that_cannot_be_read_gets_one_sentence(name, why, tmp_path, tiny_model):
    (tmp_path / "latin.jinja").write_bytes(b"{{ caf\xe9 }}")
    config = Config().apply({"model.chat_template_path": name})
    with pytest.raises(ModelError) as caught:
        load_tokenizer(config, tiny_model, base=tmp_path)
    [problem] = caught.value.problems
    assert (problem.field, problem.why) == ("model.chat_template_path", why)
