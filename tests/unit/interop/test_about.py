"""nbft.help finds settings by our words and by theirs."""

import nbft
from nbft.interop.about import names_elsewhere


def test_what_is_said_of_a_setting():
    text = str(nbft.help("lora_alpha"))
    assert "peft.lora_alpha" in text
    assert "Default: 32. From: usual practice: twice the rank." in text
    assert "8 to 128 is usual" in text
    assert "ERNIEKit lora_alpha" in text


def test_a_name_of_another_system_finds_ours():
    assert nbft.help("micro_batch_size").settings[0].path.endswith("train_batch_size")
    assert nbft.help("cutoff_len").settings[0].path == "data.max_length"


def test_nothing_found_says_so_and_many_are_not_all_shown():
    assert "No setting has 'zebra'" in str(nbft.help("zebra"))
    everything = nbft.help("")
    assert "the first 12 are shown" in everything.summary
    assert str(everything).count("Default: ") == 12


def test_the_page_in_a_notebook_is_escaped():
    page = nbft.help("<b>")._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "<code>scheduler.warmup_steps</code>" in nbft.help("warmup")._repr_html_()


def test_names_of_every_system():
    assert names_elsewhere("training.learning_rate").keys() >= {"Oumi", "ERNIEKit", "PEFT Studio"}
    assert names_elsewhere("nowhere") == {}
