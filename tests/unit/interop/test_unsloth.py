"""Scripts and notebooks of Unsloth and TRL: what is trained is found from the trainer's call."""

import json
import time
from pathlib import Path

import pytest

from nbft import registry
from nbft.data.examples import load_examples
from nbft.errors import ConfigError, DataError
from nbft.interop.importer import import_file

EXAMPLES = Path(__file__).parents[2] / "examples" / "unsloth"

IMPORTS = """
from unsloth import FastLanguageModel, FastModel, FastVisionModel
from unsloth.chat_templates import get_chat_template, standardize_sharegpt, train_on_responses_only
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainingArguments
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from trl import SFTConfig, SFTTrainer
from datasets import Dataset, concatenate_datasets, interleave_datasets, load_dataset
"""
MODEL = """
model, tokenizer = FastLanguageModel.from_pretrained("org/base", load_in_4bit=False)
model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
"""
ROWS = 'ds = load_dataset("org/rows", split="train")\n'
TRAINER = """
trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=ds, args=SFTConfig(max_steps=3))
trainer.train()
"""


@pytest.fixture
def imported(tmp_path):
    def importing(*parts, name="a.py"):
        path = tmp_path / name
        if name.endswith(".ipynb"):
            cells = [{"cell_type": "code", "source": part} for part in parts]
            path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
        else:
            path.write_text("\n".join(parts), encoding="utf-8")
        return import_file(path)

    return importing


def sets(config, split="train"):
    block = getattr(config.data, split)
    return [] if block is None else block.datasets


def only(config):
    (dataset,) = sets(config)
    return dataset


def lines(report, *kinds):
    return [f"{line.key}: {line.note}" for line in report if line.kind in kinds]


def line(report, key):
    return next(one for one in report if one.key == key)


# The model

MODELS = {
    "plain": 'm, t = FastLanguageModel.from_pretrained("org/base")',
    "by name": 'm, t = FastLanguageModel.from_pretrained(model_name="org/base")',
    "another class": 'm, t = FastModel.from_pretrained("org/base")',
    "an alias": "from unsloth import FastModel as F\nm, t = F.from_pretrained('org/base')",
    "of the module": "import unsloth\nm, t = unsloth.FastModel.from_pretrained('org/base')",
    "of the module's alias": "import unsloth as u\nm, t = u.FastTextModel.from_pretrained('org/base')",
    "everything imported": "from unsloth import *\nm, t = FastNewModel.from_pretrained('org/base')",
    "a name": "NAME = 'org/base'\nm, t = FastModel.from_pretrained(NAME)",
    "an f-string": "a = 'base'\nm, t = FastModel.from_pretrained(f'org/{a}')",
    "a sum": "a = 'org' + '/' + 'base'\nm, t = FastModel.from_pretrained(a)",
    "a joined path": "import os\nm, t = FastModel.from_pretrained(os.path.join('org', 'base'))",
    "a path": "from pathlib import Path\nm, t = FastModel.from_pretrained(str(Path('org') / 'base'))",
    "a format": "m, t = FastModel.from_pretrained('{}/{name}'.format('org', name='base'))",
    "of a dict": "c = {'model': {'name': 'org/base'}}\nm, t = FastModel.from_pretrained(c['model']['name'])",
    "of a dict's call": "c = dict(**dict(name='x'), seq=3)\nc.update(name='org/base')\n"
    "m, t = FastModel.from_pretrained(c.get('name'))",
    "keywords of a dict": "c = dict(model_name='org/base')\nm, t = FastModel.from_pretrained(**c)",
    "of a list": "names = ['org/a', 'org/base']\nm, t = FastModel.from_pretrained(names[-1])",
    "of a class": "class C:\n    name = 'org/base'\nm, t = FastModel.from_pretrained(C.name)",
    "of an object": "from dataclasses import dataclass\n@dataclass\nclass C:\n    name: str = 'org/base'\n"
    "c = C()\nm, t = FastModel.from_pretrained(c.name)",
    "of an enum": (
        "from enum import Enum\nclass M(str, Enum):\n    A = 'org/base'\n"
        "m, t = FastModel.from_pretrained(M.A.value)"
    ),
    "of JSON in the file": (
        'import json\nc = json.loads(\'{"model": "org/base"}\')\n'
        "m, t = FastModel.from_pretrained(c['model'])"
    ),
    "of a namespace": (
        "from types import SimpleNamespace\nc = SimpleNamespace(model='org/base')\n"
        "m, t = FastModel.from_pretrained(c.model)"
    ),
    "returned early": (
        "def pick(x):\n    if x == 'a':\n        return 'org/a'\n    elif x == 'b':\n"
        "        return 'org/base'\n    return 'org/c'\nm, t = FastModel.from_pretrained(pick('b'))"
    ),
    "assigned twice": "name = 'org/old'\nname = 'org/base'\nm, t = FastModel.from_pretrained(name)",
    "under a condition": "BIG = False\nname = 'org/big' if BIG else 'org/base'\n"
    "m, t = FastModel.from_pretrained(name)",
    "in a branch": "if 1 > 2:\n    m, t = FastModel.from_pretrained('org/big')\n"
    "else:\n    m, t = FastModel.from_pretrained('org/base')",
    "in a try": "try:\n    m, t = FastModel.from_pretrained('org/base')\n"
    "except Exception:\n    m, t = FastModel.from_pretrained('org/other')",
    "in a function": "def load(name='org/base'):\n    model, tok = FastModel.from_pretrained(name)\n"
    "    return model, tok\nm, t = load()",
    "in a function of functions": "def get(n):\n    return FastModel.from_pretrained(f'org/{n}')\n"
    "def load(*, n):\n    pair = get(n)\n    return pair\nm, t = load(n='base')",
    "in one name": "pair = FastModel.from_pretrained('org/base')\nm, t = pair[0], pair[1]",
    "another model before": "a, b = FastModel.from_pretrained('org/other')\n"
    "m, t = FastModel.from_pretrained('org/base')",
    "another model after": "m, t = FastModel.from_pretrained('org/base')\n"
    "a, b = FastModel.from_pretrained('org/other')",
    "moved": "m, t = FastModel.from_pretrained('org/base')\nm = m.to('cuda')\nm = m.half().cuda()",
    "prepared": "m = AutoModelForCausalLM.from_pretrained('org/base')\nt = None\n"
    "m = prepare_model_for_kbit_training(m)\nm.config.use_cache = False",
    "compiled": "import torch\nm, t = FastModel.from_pretrained('org/base')\nm = torch.compile(m)",
    "walrus": "t = None\nif (m := AutoModelForCausalLM.from_pretrained('org/base')) is not None:\n    pass",
    "starred": "m, *rest = FastModel.from_pretrained('org/base')\nt = rest[0]",
    "awaited": "m, t = await load_it() if False else FastModel.from_pretrained('org/base')",
    "from the command line": "import argparse\np = argparse.ArgumentParser()\n"
    "p.add_argument('--model-name', '-m', default='org/base')\nargs = p.parse_args()\n"
    "m, t = FastModel.from_pretrained(args.model_name)",
    "from the environment": "import os\nm, t = FastModel.from_pretrained(os.getenv('MODEL', 'org/base'))",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_model_that_is_trained_is_found(imported, name):
    after = """
m = FastLanguageModel.get_peft_model(m, r=4)
trainer = SFTTrainer(model=m, tokenizer=t, train_dataset=ds, args=SFTConfig(max_steps=3))
trainer.train()
m.save_pretrained("result")
if False:
    m, t = FastModel.from_pretrained("result")
if 0:
    m = AutoModelForCausalLM.from_pretrained("result")
m, t = FastModel.from_pretrained("result")
FastLanguageModel.for_inference(m)
"""
    config, report = imported(IMPORTS, MODELS[name], ROWS, after)
    assert config.model.model_name == "org/base"
    assert config.peft.r == 4
    assert only(config).dataset_name == "org/rows"
    assert not lines(report, "impossible", "unknown")


def test_a_name_given_to_the_trainer(imported):
    config, _ = imported(IMPORTS, ROWS, 'SFTTrainer("org/base", train_dataset=ds).train()')
    assert config.model.model_name == "org/base"
    assert config.peft.method == "full"


@pytest.mark.parametrize(
    "model",
    ["model = find_it()", "import sys\nmodel, tokenizer = FastModel.from_pretrained(sys.argv[1])"],
)
def test_a_model_that_is_not_found_is_said(imported, model):
    _, report = imported(IMPORTS, model, ROWS, "SFTTrainer(model=model, train_dataset=ds).train()")
    found = line(report, "model")
    assert found.kind == "impossible"
    assert found.note.startswith("the base model was not found: ")
    assert "Set model.model_name before training" in found.note


def test_one_of_two_models_is_said(imported):
    text = "import torch\nname = 'org/a' if torch.cuda.is_available() else 'org/b'\n"
    text += "model, tokenizer = FastModel.from_pretrained(name)\n"
    config, report = imported(IMPORTS, text, ROWS, TRAINER)
    assert config.model.model_name == "org/a"
    assert "decided while running; the first is taken" in line(report, "model_name").note


def test_options_of_the_command_line_are_said(imported):
    _, report = imported(
        IMPORTS, MODELS["from the command line"], ROWS, "SFTTrainer(m, train_dataset=ds)"
    )
    assert any("options of the command line have their defaults" in text for text in report.remarks)


def test_defaults_of_unsloth_are_kept(imported):
    text = "model, tokenizer = FastLanguageModel.from_pretrained('org/base')\n"
    text += "model = FastLanguageModel.get_peft_model(model)\n"
    config, report = imported(IMPORTS, text, ROWS, TRAINER)
    assert config.quantization.load_in_4bit
    assert (config.peft.r, config.peft.lora_alpha) == (16, 16)
    assert (config.training.learning_rate, config.training.per_device_train_batch_size) == (5e-5, 4)
    assert line(report, "load_in_4bit").kind == "defaulted"


def test_defaults_of_transformers_arguments_are_theirs(imported):
    text = TRAINER.replace("SFTConfig", "TrainingArguments")
    assert imported(IMPORTS, MODEL, ROWS, text)[0].training.learning_rate == 5e-5
    plain = IMPORTS.replace("from unsloth", "# from unsloth")
    text = "model = AutoModelForCausalLM.from_pretrained('a/b')\ntokenizer = None\n"
    assert imported(plain, text, ROWS, TRAINER)[0].training.learning_rate == 2e-5


def test_embeddings_among_unsloths_targets_are_trained_whole(imported):
    text = MODEL.replace("r=8", "r=8, target_modules=['q_proj', 'embed_tokens', 'lm_head']")
    config, report = imported(IMPORTS, text, ROWS, TRAINER)
    assert config.peft.target_modules == ["q_proj"]
    assert config.peft.modules_to_save == ["embed_tokens", "lm_head"]
    assert line(report, "LoraConfig.modules_to_save").kind == "converted"


ADAPTERS = {
    "of the trainer": "SFTTrainer(model=m, train_dataset=ds, peft_config=c)",
    "before the trainer": "m = get_peft_model(m, c)\nSFTTrainer(model=m, train_dataset=ds)",
    "by name": "m = get_peft_model(model=m, peft_config=c)\nSFTTrainer(m, train_dataset=ds)",
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_adapter_that_is_trained_is_found(imported, name):
    text = """
b = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
m = AutoModelForCausalLM.from_pretrained("org/base", quantization_config=b, torch_dtype=torch.bfloat16)
other = LoraConfig(r=99)
c = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM")
"""
    config, _ = imported(
        IMPORTS, "import torch", text, ROWS, ADAPTERS[name], "later = LoraConfig(r=77)"
    )
    assert (config.peft.r, config.peft.lora_alpha) == (3, 5)
    assert config.quantization.load_in_4bit
    assert config.quantization.bnb_4bit_compute_dtype == "bfloat16"
    assert config.model.dtype == "bfloat16"


def test_an_adapter_that_is_trained_further(imported):
    text = "m = AutoModelForCausalLM.from_pretrained('org/base')\n"
    text += "m = PeftModel.from_pretrained(m, 'org/adapter', is_trainable=True)\n"
    config, _ = imported(IMPORTS, text, ROWS, "SFTTrainer(m, train_dataset=ds)")
    assert config.model.model_name == "org/base"
    assert config.model.adapter_name_or_path == "org/adapter"


def test_arguments_are_found_and_changed(imported):
    text = """
steps = 100 // 4
common = dict(learning_rate=1e-4, warmup_steps=int(0.1 * steps))
unused = SFTConfig(learning_rate=9e-4, max_steps=1)
args = SFTConfig("out", **common, max_steps=steps, num_train_epochs=2)
args.max_steps = steps * 2
trainer = SFTTrainer(model, args, train_dataset=ds)
after = TrainingArguments(max_steps=77)
"""
    config, _ = imported(IMPORTS, MODEL, ROWS, text)
    assert config.training.learning_rate == 1e-4
    assert config.training.max_steps == 50
    assert config.training.output_dir == "out"
    assert config.scheduler.warmup_steps == 2


def test_settings_that_say_to_save_nothing(imported):
    text = TRAINER.replace("max_steps=3", "max_steps=3, save_steps=0")
    assert imported(IMPORTS, MODEL, ROWS, text)[0].checkpoint.save_strategy == "no"


def test_rows_of_token_ids_from_code_are_said(imported):
    text = "def f(r):\n    r['input_ids'] = own(r['audio'])\n    return r\nds = ds.map(f)"
    _, report = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert line(report, "train_dataset.map").kind == "impossible"


def test_adapters_that_nbft_does_not_have_are_said(imported):
    text = "from peft import PrefixTuningConfig\nc = PrefixTuningConfig(num_virtual_tokens=9)\n"
    _, report = imported(IMPORTS, text, ROWS, "SFTTrainer('a/b', train_dataset=ds, peft_config=c)")
    assert line(report, "PrefixTuningConfig").kind == "impossible"
    _, report = imported(IMPORTS, ROWS, "SFTTrainer('a/b', train_dataset=ds, peft_config=find())")
    assert line(report, "peft_config").kind == "impossible"


def test_the_tokenizer_is_found(imported):
    text = "model = AutoModelForCausalLM.from_pretrained('org/base')\n"
    own = "tokenizer = AutoTokenizer.from_pretrained('org/other')\ntokenizer.pad_token = '<pad>'\n"
    config, _ = imported(IMPORTS, text, own, ROWS, TRAINER)
    assert (config.model.tokenizer_name, config.model.pad_token) == ("org/other", "<pad>")
    same = own.replace("org/other", "org/base").replace("'<pad>'", "tokenizer.eos_token")
    config, _ = imported(IMPORTS, text, same, ROWS, TRAINER)
    assert (config.model.tokenizer_name, config.model.pad_token) == (None, None)
    more = own + "tokenizer.add_special_tokens({'additional_special_tokens': ['<x>']})\n"
    _, report = imported(IMPORTS, text, more, ROWS, TRAINER)
    assert line(report, "add_special_tokens").kind == "impossible"


def test_a_class_that_holds_the_whole_training(imported):
    text = """
class Tuner:
    base = "org/base"

    def __init__(self, steps=5):
        self.steps = steps
        self.rows = load_dataset("org/rows", split="train")

    def load(self):
        self.model, self.tokenizer = FastModel.from_pretrained(self.base, load_in_4bit=False)

    def train(self):
        self.load()
        args = SFTConfig(max_steps=self.steps)
        self.trainer = SFTTrainer(model=self.model, args=args, train_dataset=self.rows)
        self.trainer = train_on_responses_only(self.trainer)
        self.trainer.train()
"""
    for end in ("Tuner(steps=7).train()", "def main():\n    t = Tuner(7)\n    t.train()\nmain()"):
        config, _ = imported(IMPORTS, text, end)
        assert config.model.model_name == "org/base"
        assert config.training.max_steps == 7
        assert only(config).dataset_name == "org/rows"
        assert config.data.completion_only_loss
    config, _ = imported(IMPORTS, text)  # nothing calls it
    assert (config.model.model_name, config.training.max_steps) == ("org/base", 5)


def test_a_main_function(imported):
    text = "def main():\n" + "\n".join(f"    {t}" for t in (MODEL + ROWS + TRAINER).splitlines())
    for end in ("if __name__ == '__main__':\n    main()", ""):
        config, _ = imported(IMPORTS, text, end)
        assert (config.model.model_name, only(config).dataset_name) == ("org/base", "org/rows")


def test_a_class_of_the_file_that_extends_the_trainer(imported):
    text = "class Mine(SFTTrainer):\n    def compute_loss(self, *a):\n        return 0\n"
    _, report = imported(IMPORTS, MODEL, ROWS, text, TRAINER.replace("SFTTrainer(", "Mine("))
    assert line(report, "Mine").kind == "impossible"


def test_a_notebook_of_marimo(imported):
    text = """
import marimo
app = marimo.App()

@app.cell
def _():
    from unsloth import FastModel
    model, tokenizer = FastModel.from_pretrained("org/base")
    return model, tokenizer

@app.cell(hide_code=True)
def _(model):
    from trl import SFTTrainer
    from datasets import load_dataset
    trainer = SFTTrainer(model=model, train_dataset=load_dataset("org/rows", split="train"))
    return
"""
    config, _ = imported(text)
    assert (config.model.model_name, only(config).dataset_name) == ("org/base", "org/rows")


def test_a_notebook_that_writes_its_script(imported):
    script = "%%writefile train.py\n" + IMPORTS + MODEL + ROWS + TRAINER
    config, report = imported("!pip install x", script, "!python train.py", name="a.ipynb")
    assert config.model.model_name == "org/base"
    assert "The notebook writes train.py, which trains; it is read." in report.remarks


# The rows

RESULTS = {
    "plain": ("ds = {load}", {}),
    "from a dict of splits": ('ds = load_dataset("org/rows")["train"]', {}),
    "a slice": ('ds = load_dataset("org/rows", split="train[:10]")', {"split": "train[:10]"}),
    "first rows": ("ds = {load}.select(range(9))", {"sample_count": 9}),
    "first rows of a list": ("ds = {load}.select(list(range(9)))", {"sample_count": 9}),
    "at most": ("ds = {load}\nds = ds.select(range(min(9, len(ds))))", {"sample_count": 9}),
    "taken": ("n = 3 * 3\nds = {load}.take(n)", {"sample_count": 9}),
    "shuffled": ("ds = {load}.shuffle(seed=7)", {"shuffle": True, "seed": 7}),
    "a sample": (
        "ds = {load}.shuffle(seed=7).select(range(9))",
        {"shuffle": True, "seed": 7, "sample_count": 9},
    ),
    "a part": ("ds = {load}.select(range(5, 9))", {"split": "train[5:9]"}),
    "of a function": (
        "def get(n):\n    return load_dataset(n, split='train')\nds = get('org/rows')",
        {},
    ),
    "of another name": ("a = {load}\nb = a\nds = b", {}),
    "standardised": ("ds = standardize_sharegpt({load})", {}),
    "cast": ("ds = {load}.with_format('torch').remove_columns(['x'])", {}),
    "by name": ("ds = load_dataset(path='org/rows', split='train')", {}),
    "streamed": ("ds = load_dataset('org/rows', split='train', streaming=True)", {}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_rows_that_the_trainer_gets_are_followed(imported, name):
    text, expected = RESULTS[name]
    text = text.replace("{load}", 'load_dataset("org/rows", split="train")')
    other = 'other = load_dataset("org/other", "en", split="test")\n'
    config, report = imported(IMPORTS, MODEL, other, text, other, TRAINER)
    dataset = only(config)
    assert dataset.dataset_name == "org/rows"
    assert dataset.subset is None
    for key, value in {"split": "train", **expected}.items():
        assert getattr(dataset, key) == value
    assert not lines(report, "impossible")
    assert config.data.split_ratio == 1.0, "all rows are trained on, as there"
    assert config.data.train.stream == (name == "streamed")


SPLITS = {
    "a dict of datasets": (
        "from datasets import DatasetDict\nd = DatasetDict({'train': load_dataset('org/rows', split="
        "'train'), 'test': load_dataset('org/rows', split='test')}).shuffle(seed=1)\n"
        "a, b = d['train'], d['test']"
    ),
    "two splits at once": "a, b = load_dataset('org/rows', split=['train', 'test'])",
    "a loop over splits": (
        "d = load_dataset('org/rows')\nfor s in ['train', 'test']:\n"
        "    d[s] = d[s].map(lambda r: {'text': 'Q: ' + r['q'] + 'A: ' + r['a']})\n"
        "a, b = d['train'], d['test']"
    ),
    "made of all splits": (
        "d = load_dataset('org/rows').map(lambda r: {'text': 'Q: ' + r['q'] + 'A: ' + r['a']})\n"
        "a, b = d['train'], d['test']"
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_both_splits_are_followed(imported, name):
    trainer = "SFTTrainer(model=model, train_dataset=a, eval_dataset=b).train()"
    config, report = imported(IMPORTS, MODEL, SPLITS[name], trainer)
    for dataset, split in ((only(config), "train"), (sets(config, "validation")[0], "test")):
        assert (dataset.dataset_name, dataset.split) == ("org/rows", split)
        if "map" in SPLITS[name]:
            assert dataset.prompt_template == "Q: {q}A: "
    assert not lines(report, "impossible")


def test_a_part_of_a_share_is_said(imported):
    text = "s = ds.train_test_split(test_size=0.2)\nds = s['train'].select(range(10))\n"
    trainer = TRAINER.replace("args=", "eval_dataset=s['test'], args=")
    _, report = imported(IMPORTS, MODEL, ROWS, text, trainer)
    assert line(report, "train_dataset.select").kind == "deviates"


def test_two_sets_one_of_which_is_trained_on(imported):
    text = 'a = load_dataset("org/first", split="part")\nb = load_dataset("org/b", "en", split="train")\n'
    dataset = only(imported(IMPORTS, MODEL, text, TRAINER.replace("=ds", "=a"))[0])
    assert (dataset.dataset_name, dataset.subset, dataset.split) == ("org/first", None, "part")
    dataset = only(imported(IMPORTS, MODEL, text, TRAINER.replace("=ds", "=b"))[0])
    assert (dataset.dataset_name, dataset.subset, dataset.split) == ("org/b", "en", "train")


def test_sets_that_are_joined_or_mixed(imported):
    text = (
        'a = load_dataset("org/a", split="train")\nb = load_dataset("org/b", "en", split="train")\n'
    )
    config, _ = imported(
        IMPORTS, MODEL, text, "ds = concatenate_datasets([a, b.select(range(5))])", TRAINER
    )
    assert [(d.dataset_name, d.subset, d.sample_count) for d in sets(config)] == [
        ("org/a", None, None),
        ("org/b", "en", 5),
    ]
    mixed = "ds = interleave_datasets([a, b], probabilities=[0.25, 0.75], stopping_strategy='all_exhausted')"
    config, _ = imported(IMPORTS, MODEL, text, mixed, TRAINER)
    assert [d.mixture_proportion for d in sets(config)] == [0.25, 0.75]
    assert config.data.train.mixture_strategy == "all_exhausted"
    config, report = imported(IMPORTS, MODEL, text, "ds = interleave_datasets([a, b])", TRAINER)
    assert [d.mixture_proportion for d in sets(config)] == [0.5, 0.5]
    assert lines(report, "deviates")


def test_rows_that_cannot_be_followed_are_all_taken_and_said(imported):
    text = 'a = load_dataset("org/a", split="train")\nb = load_dataset("org/b", split="train")\n'
    config, report = imported(IMPORTS, MODEL, text, TRAINER.replace("=ds", "=mystery"))
    assert [d.dataset_name for d in sets(config)] == ["org/a", "org/b"]
    assert (
        "all that the file loads is taken: 'org/a', 'org/b'" in line(report, "train_dataset").note
    )
    config, report = imported(IMPORTS, MODEL, text, "ds = own(a)", TRAINER)
    assert [d.dataset_name for d in sets(config)] == ["org/a"]
    assert "own(a) is code that would have to be run" in line(report, "train_dataset.map").note


UNKNOWN = {
    "a filter": ("ds = ds.filter(lambda r: len(r['text']) < 9)", "filter"),
    "a range from code": ("ds = ds.select(range(count()))", "select"),
    "rows left out": ("ds = ds.skip(5)", "skip"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_done_to_the_rows_and_has_no_effect_here_is_said(imported, name):
    text, key = UNKNOWN[name]
    config, report = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert only(config).dataset_name == "org/rows"
    assert line(report, f"train_dataset.{key}").kind == "impossible"


FILES = {
    "json": "load_dataset('json', data_files='rows.jsonl', split='train')",
    "by split": "load_dataset('json', data_files={'train': 'rows.jsonl'})['train']",
    "in a list": "load_dataset('json', data_files=['rows.jsonl'], split='train')",
    "a name": "load_dataset('json', data_files=FILE, split='train')",
    "from_json": "Dataset.from_json('rows.jsonl')",
    "a list": "Dataset.from_list(json.load(open('rows.jsonl')))",
    "a list of lines": "Dataset.from_list([json.loads(line) for line in open('rows.jsonl')])",
    "a list of a reader": "Dataset.from_list(read())",
    "pandas": "Dataset.from_pandas(pd.read_json('rows.jsonl', lines=True))",
}


@pytest.mark.parametrize("name", FILES)
def test_files_beside_the_script(imported, tmp_path, name):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    before = "FILE = 'rows' + '.jsonl'\nimport json, pandas as pd\ndef read():\n    rows = []\n"
    before += "    with open(FILE) as f:\n        for line in f:\n            rows.append(json.loads(line))\n"
    before += "    return rows\n"
    config, _ = imported(IMPORTS, before, MODEL, f"ds = {FILES[name]}", TRAINER)
    assert only(config).path == str(tmp_path / "rows.jsonl")
    assert only(config).dataset_name is None


def test_rows_in_the_script_are_said(imported):
    _, report = imported(IMPORTS, MODEL, "ds = Dataset.from_list([{'text': 'a'}])", TRAINER)
    assert "Save them as JSON Lines" in line(report, "train_dataset.from_list").note


HELD_OUT = {
    "a split of the rows": (
        "s = ds.train_test_split(test_size=0.1, seed=1)",
        "s['train']",
        "s['test']",
    ),
    "with other names": ("s = ds.train_test_split(0.1)\na, b = s['train'], s['test']", "a", "b"),
    "its values": ("a, b = ds.train_test_split(test_size=0.1).values()", "a", "b"),
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_a_share_of_the_rows_is_held_out(imported, name):
    text, train, test = HELD_OUT[name]
    trainer = f"SFTTrainer(model=model, train_dataset={train}, eval_dataset={test})"
    config, report = imported(IMPORTS, MODEL, ROWS, text, trainer)
    assert config.data.split_ratio == 0.9
    assert config.data.validation is None
    assert only(config).dataset_name == "org/rows"
    assert not lines(report, "impossible")


def test_another_split_for_evaluation(imported):
    text = 'ds = load_dataset("org/rows", "en")\n'
    trainer = "SFTTrainer(model=model, train_dataset=ds['train'], eval_dataset=ds['validation'])"
    config, _ = imported(IMPORTS, MODEL, text, trainer)
    (held_out,) = sets(config, "validation")
    assert (held_out.dataset_name, held_out.subset, held_out.split) == (
        "org/rows",
        "en",
        "validation",
    )
    assert only(config).split == "train"


# What a row becomes

TEMPLATE = '''
TEMPLATE = """Below is a task.

### Instruction:
{}

### Response:
{}"""
EOS_TOKEN = tokenizer.eos_token
'''
BATCH = """
def formatting(examples):
    texts = []
    for a, b in zip(examples["instruction"], examples["output"]):
        text = TEMPLATE.format(a, b) + EOS_TOKEN
        texts.append(text)
    return {"text": texts}
ds = ds.map(formatting, batched=True)
"""
FUNCTIONS = {
    "a batch": BATCH,
    "a list": "ds = ds.map(lambda e: {'text': [TEMPLATE.format(a, b) + EOS_TOKEN "
    "for a, b in zip(e['instruction'], e['output'])]}, batched=True)",
    "by number": "def f(e):\n    out = []\n    for i in range(len(e['instruction'])):\n"
    "        out.append(TEMPLATE.format(e['instruction'][i], e['output'][i]) + EOS_TOKEN)\n"
    "    return {'text': out}\nds = ds.map(f, batched=True)",
    "a row": "ds = ds.map(lambda r: {'text': TEMPLATE.format(r['instruction'], r['output']) + EOS_TOKEN})",
    "a row that is changed": "def f(r):\n    r['text'] = TEMPLATE.format(r['instruction'], r['output'])"
    " + EOS_TOKEN\n    return r\nds = ds.map(f)",
    "an f-string": "def f(r):\n    return {'text': f\"Below is a task.\\n\\n### Instruction:\\n"
    "{r['instruction']}\\n\\n### Response:\\n{r['output']}{tokenizer.eos_token}\"}\nds = ds.map(f)",
    "a sum": "def f(r):\n    t = 'Below is a task.\\n\\n### Instruction:\\n' + r['instruction']\n"
    "    t += '\\n\\n### Response:\\n'\n    t += r['output'] + EOS_TOKEN\n    return {'text': t}\nds = ds.map(f)",
    "lines": "def f(r):\n    parts = ['Below is a task.', '', '### Instruction:', r['instruction'], '',"
    " '### Response:', r['output']]\n    return {'text': '\\n'.join(parts) + EOS_TOKEN}\nds = ds.map(f)",
    "named fields": "N = 'Below is a task.\\n\\n### Instruction:\\n{instruction}\\n\\n### Response:\\n{output}'\n"
    "ds = ds.map(lambda r: {'text': N.format(**r) + EOS_TOKEN})",
    "percent": "P = 'Below is a task.\\n\\n### Instruction:\\n%s\\n\\n### Response:\\n%s'\n"
    "ds = ds.map(lambda r: {'text': P % (r['instruction'], r['output']) + EOS_TOKEN})",
    "arguments of the function": "def f(e, end):\n    return {'text': [TEMPLATE.format(a, b) + end for a, b in "
    "zip(e['instruction'], e['output'])]}\nds = ds.map(f, batched=True, fn_kwargs={'end': EOS_TOKEN})",
    "a partial function": "from functools import partial\ndef f(r, tok):\n    return {'text': "
    "TEMPLATE.format(r['instruction'], r['output']) + tok.eos_token}\nds = ds.map(partial(f, tok=tokenizer))",
    "in two functions": "def one(q, a):\n    return TEMPLATE.format(q, a) + EOS_TOKEN\ndef f(r):\n"
    "    return {'text': one(r['instruction'], r['output'])}\nds = ds.map(f)",
    "columns renamed before": "ds = ds.rename_column('instruction', 'q')\n"
    "ds = ds.map(lambda r: {'text': TEMPLATE.format(r['q'], r['output']) + EOS_TOKEN})",
    "columns made before": "ds = ds.map(lambda r: {'q': r['instruction']})\n"
    "ds = ds.map(lambda r: {'text': TEMPLATE.format(r['q'], r['output']) + EOS_TOKEN})",
    "a loop over the rows": "ds = [{'text': TEMPLATE.format(r['instruction'], r['output']) + EOS_TOKEN} "
    "for r in ds]",
    "an object of the file": (
        "class F:\n    def __init__(self, tok):\n        self.tok = tok\n"
        "    def __call__(self, r):\n        return {'text': TEMPLATE.format(r['instruction'], "
        "r['output'] or '') + self.tok.eos_token}\nds = ds.map(F(tokenizer))"
    ),
    "a function of a function": (
        "def make(end):\n    def f(r):\n        return {'text': TEMPLATE.format(r['instruction'], "
        "r['output']) + end}\n    return f\nds = ds.map(make(tokenizer.eos_token))"
    ),
    "a text that is dedented": (
        "import textwrap\nD = textwrap.dedent('  Below is a task.\\n\\n  ### Instruction:\\n"
        "  {}\\n\\n  ### Response:\\n  {}')\n"
        "ds = ds.map(lambda r: {'text': D.format(r['instruction'], r['output']) + EOS_TOKEN})"
    ),
    "defined again later": BATCH
    + "def formatting(examples):\n    return 1\nTEMPLATE = 'other {} {}'\n",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_template_of_columns_is_understood(imported, name):
    config, report = imported(IMPORTS, MODEL, ROWS, TEMPLATE, FUNCTIONS[name], TRAINER)
    dataset = only(config)
    assert dataset.dataset_name == "org/rows"
    assert dataset.prompt_template == (
        "Below is a task.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
    )
    assert dataset.completion_template == "{output}"
    assert not config.data.completion_only_loss, "the whole text is trained on"
    assert not lines(report, "impossible")
    assert not [one for one in report if "end of text" in one.key]


@pytest.mark.parametrize("name", ["row", "batch"])
def test_a_formatting_function_of_the_trainer(imported, name):
    row = "def f(r):\n    return f\"Q: {r['q']} {{1}}\\nA: {r['a']}\"\n"
    batch = "def f(e):\n    out = []\n    for i in range(len(e['q'])):\n"
    batch += "        out.append(f\"Q: {e['q'][i]} {{1}}\\nA: {e['a'][i]}\")\n    return out\n"
    trainer = TRAINER.replace("args=", "formatting_func=f, args=")
    config, report = imported(IMPORTS, MODEL, ROWS, row if name == "row" else batch, trainer)
    assert only(config).prompt_template == "Q: {q} {{1}}\nA: "
    assert only(config).completion_template == "{a}"
    assert any("nbft adds one and trains it" in text for text in lines(report, "converted"))


NOT_CERTAIN = {
    "a condition": "def f(r):\n    if r['input']:\n        t = 'A {}'.format(r['input'])\n"
    "    else:\n        t = 'B'\n    return {'text': t}\nds = ds.map(f)",
    "a condition in a batch": "def f(e):\n    out = []\n    for a in e['x']:\n        if a:\n"
    "            out.append('A ' + a)\n        else:\n            out.append('B')\n"
    "    return {'text': out}\nds = ds.map(f, batched=True)",
    "rows left out": "def f(e):\n    out = []\n    for a in e['x']:\n        if not a:\n"
    "            continue\n        out.append('A ' + a)\n    return {'text': out}\nds = ds.map(f, batched=True)",
    "two texts a row": "def f(e):\n    out = []\n    for a in e['x']:\n        out.append('A ' + a)\n"
    "        out.append('B ' + a)\n    return {'text': out}\nds = ds.map(f, batched=True)",
    "a loop in a row": "def f(r):\n    t = ''\n    for turn in r['turns']:\n        t += turn['value']\n"
    "    return {'text': t}\nds = ds.map(f)",
    "a changed column": "ds = ds.map(lambda r: {'text': 'Q: ' + r['q'].strip().lower() + r['a']})",
    "an item of a column": "ds = ds.map(lambda r: {'text': 'Q: ' + r['q'][0]})",
    "another function": "ds = ds.map(own_function)",
    "a random choice": "import random\nds = ds.map(lambda r: {'text': random.choice(['a', 'b']) + r['x']})",
    "a conversation that is changed": (
        "def f(r):\n    m = r['messages']\n    m.insert(0, {'role': 'system', 'content': 'x'})\n"
        "    return {'text': tokenizer.apply_chat_template(m, tokenize=False)}\nds = ds.map(f)"
    ),
    "turns that are changed": (
        "def f(r):\n    for m in r['messages']:\n        m['content'] = m['content'].lower()\n"
        "    return {'text': tokenizer.apply_chat_template(r['messages'], tokenize=False)}\n"
        "ds = ds.map(f)"
    ),
    "rows of another function": (
        "def f(e):\n    out = []\n    for m in own(e):\n        out.append('X ' + m['content'])\n"
        "    return {'text': out}\nds = ds.map(f, batched=True)"
    ),
    "text that is changed after": (
        "ds = ds.map(lambda r: {'text': tokenizer.apply_chat_template(r['messages'], tokenize=False)"
        ".replace('a', 'b')})"
    ),
    "merged rows": "from unsloth import to_sharegpt\nds = to_sharegpt(ds, merged_prompt='{a}', "
    "output_column_name='b', conversation_extension=3)",
}


@pytest.mark.parametrize("name", NOT_CERTAIN)
def test_what_is_not_certain_is_said_with_its_place(imported, name):
    config, report = imported(IMPORTS, MODEL, ROWS, NOT_CERTAIN[name], TRAINER, name="a.ipynb")
    dataset = only(config)
    assert dataset.dataset_name == "org/rows"
    assert (dataset.prompt_template, dataset.completion_template) == (None, None)
    assert (dataset.input_columns, dataset.dataset_type) == ([], "auto")
    (found,) = [one for one in report if one.kind == "impossible"]
    assert found.place.startswith("cell 4, line ")
    assert "is code that would have to be run" in found.note


WITH_AND_WITHOUT = {
    "a statement": """
def f(r):
    if r["input"]:
        return {"text": f"Q: {r['question']}\\nI: {r['input']}\\nA: {r['answer']}"}
    return {"text": f"Q: {r['question']}\\nA: {r['answer']}"}
""",
    "its length": """
def f(r):
    if len(r["input"]) > 0:
        text = "Q: {question} I: {input} A: {answer}".format(**r)
    else:
        text = "Q: {question} A: {answer}".format(**r)
    return {"text": text}
""",
    "no spaces": """
def f(r):
    if "input" in r and r["input"].strip() != "":
        return {"text": "Q: " + r["question"] + " I: " + r["input"] + " A: " + r["answer"]}
    else:
        return {"text": "Q: " + r["question"] + " A: " + r["answer"]}
""",
    "an expression": """
def f(r):
    more = f" ({r['input']})" if r.get("input") else ""
    return {"text": f"{r['question']}{more} A: {r['answer']}"}
""",
    "not": """
def f(r):
    text = r["question"]
    if not r["input"]:
        text += "?"
    else:
        text += ": " + r["input"]
    r["text"] = text + " A: " + r["answer"]
    return r
""",
    "prompt and completion": """
def f(r):
    prompt = r["question"]
    if r["input"] is not None and r["input"] != "":
        prompt += " " + r["input"]
    return {"prompt": prompt, "completion": r["answer"]}
""",
    "another column": """
def f(r):
    if r["context"]:
        return {"text": f"C: {r['context']} Q: {r['question']} A: {r['answer']}"}
    return {"text": f"Q: {r['question']} A: {r['answer']}"}
""",
}


@pytest.mark.parametrize("name", WITH_AND_WITHOUT)
def test_a_text_that_depends_on_an_empty_column(imported, tmp_path, name):
    code = WITH_AND_WITHOUT[name]
    column = "context" if "context" in code else "input"
    rows = [
        {"question": "Say it.", column: "Something.", "answer": "Yes."},
        {"question": "Say {it}.", column: "", "answer": "No."},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    load = 'ds = load_dataset("json", data_files="rows.jsonl", split="train")\n'
    config, report = imported(IMPORTS, MODEL, load, code, "ds = ds.map(f)", TRAINER)
    assert not lines(report, "impossible", "deviates")
    examples, _ = load_examples(config, "train", folder=tmp_path)
    given = {}
    exec(code, given)
    for example, row in zip(examples, rows, strict=True):
        theirs = given["f"](dict(row))
        parts = [theirs.get("prompt", ""), theirs.get("completion", theirs.get("text"))]
        assert example.prompt + example.completion == "".join(parts)


@pytest.mark.parametrize("name", [*WITH_AND_WITHOUT][:3])
def test_a_function_of_the_trainer_that_depends_on_an_empty_column(imported, name):
    trainer = TRAINER.replace("args=", "formatting_func=lambda r: f(r)['text'], args=")
    config, _ = imported(IMPORTS, MODEL, ROWS, WITH_AND_WITHOUT[name], trainer)
    assert only(config).no_input_template


def test_a_batch_whose_texts_depend_on_an_empty_column(imported):
    code = """
def f(rows):
    texts = []
    for q, more, a in zip(rows["question"], rows["input"], rows["answer"]):
        if more:
            texts.append(f"{q} {more}: {a}")
        else:
            texts.append(f"{q}: {a}")
    return {"text": texts}
ds = ds.map(f, batched=True)
"""
    dataset = only(imported(IMPORTS, MODEL, ROWS, code, TRAINER)[0])
    assert dataset.prompt_template == "{question} {input}: "
    assert dataset.no_input_template == "{question}: "


def test_a_conversation_that_depends_on_an_empty_column(imported):
    code = """
def f(r):
    user = r["question"] + "\\n" + r["context"] if r["context"] else r["question"]
    return {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": r["answer"]}]}
ds = ds.map(f)
"""
    dataset = only(imported(IMPORTS, MODEL, ROWS, code, TRAINER)[0])
    assert dataset.dataset_type == "chat_completion"
    assert dataset.columns == {"input": "context"}
    assert dataset.prompt_template == "{question}\n{input}"
    assert dataset.no_input_template == "{question}"
    code = """
def f(r):
    turns = [{"role": "user", "content": r["q"]}, {"role": "assistant", "content": r["a"]}]
    if r["system"]:
        turns = [{"role": "system", "content": r["system"]}] + turns
    return {"messages": turns}
ds = ds.map(f)
"""
    dataset = only(imported(IMPORTS, MODEL, ROWS, code, TRAINER)[0])
    assert (dataset.system_template, dataset.prompt_template) == ("{system}", "{q}")
    assert dataset.no_input_template is None


@pytest.mark.parametrize(
    "text",
    [
        "f'{r[\"q\"]}: {r[\"a\"]}' if r['good'] else f'{r[\"q\"]}: no'",  # another answer
        'f\'{r["q"]} {r["input"]}: {r["a"]}\' if r[\'x\'] else f\'{r["q"]}: {r["a"]}\'',  # two columns
        'f\'{r["q"]}: {r["a"]}\' if len(r[\'q\']) > 5 else f\'{r["q"]}? {r["a"]}\'',
        "f'{r[\"q\"]}: {r[\"a\"]}' if r['q'] == 'x' else f'{r[\"q\"]}? {r[\"a\"]}'",
    ],
)
def test_a_text_that_depends_on_more_is_said(imported, text):
    text = f"ds = ds.map(lambda r: {{'text': {text}}})"
    config, report = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert only(config).prompt_template is None
    (found,) = lines(report, "impossible")
    assert "is code that would have to be run" in found


def test_columns_of_text(imported):
    field = TRAINER.replace("max_steps=3", "max_steps=3, dataset_text_field='story'")
    assert only(imported(IMPORTS, MODEL, ROWS, field)[0]).input_columns == ["story"]
    text = "ds = ds.map(lambda e: {'text': [t + tokenizer.eos_token for t in e['text']]}, batched=True)"
    assert only(imported(IMPORTS, MODEL, ROWS, text, TRAINER)[0]).dataset_type == "text"
    text = "ds = ds.map(lambda r: {'text': 'Story: ' + r['story'] + '</s>'})"
    dataset = only(imported(IMPORTS, MODEL, ROWS, text, TRAINER)[0])
    assert (dataset.prompt_template, dataset.completion_template) == ("", "Story: {story}")


def test_prompt_and_completion(imported):
    text = "ds = ds.map(lambda r: {'prompt': 'Q: ' + r['q'], 'completion': r['a']})"
    config, _ = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert (only(config).prompt_template, only(config).completion_template) == ("Q: {q}", "{a}")
    assert config.data.completion_only_loss
    text = "ds = ds.rename_columns({'q': 'prompt', 'a': 'completion'})"
    config, _ = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert (only(config).prompt_template, only(config).completion_template) == ("{q}", "{a}")
    assert config.data.completion_only_loss
    off = TRAINER.replace("max_steps=3", "max_steps=3, completion_only_loss=False")
    assert not imported(IMPORTS, MODEL, ROWS, text, off)[0].data.completion_only_loss


CHATS = {
    "a column": (
        (
            "def f(e):\n    return {'text': [tokenizer.apply_chat_template(c, tokenize=False, "
            "add_generation_prompt=False) for c in e['conversations']]}\nds = ds.map(f, batched=True)"
        ),
        {"dataset_type": "messages", "columns": {"messages": "conversations"}},
    ),
    "its own name": (
        "ds = ds.map(lambda r: {'text': tokenizer.apply_chat_template(r['messages'], tokenize=False)})",
        {"dataset_type": "messages", "columns": {}},
    ),
    "without its first token": (
        (
            "ds = ds.map(lambda r: {'text': tokenizer.apply_chat_template(r['messages'], tokenize=False)"
            ".removeprefix('<bos>')})"
        ),
        {"dataset_type": "messages", "columns": {}},
    ),
    "of the trainer": (
        "def formatting(r):\n    return tokenizer.apply_chat_template(r['chat'], tokenize=False)\n",
        {"dataset_type": "messages", "columns": {"messages": "chat"}},
    ),
    "made of columns": (
        (
            "def f(r):\n    c = [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': "
            "r['q'] + '\\n' + r['more']}]\n    c.append({'role': 'assistant', 'content': r['a']})\n"
            "    return {'text': tokenizer.apply_chat_template(c, tokenize=False)}\nds = ds.map(f)"
        ),
        {
            "dataset_type": "chat_completion",
            "system_template": "Be kind.",
            "prompt_template": "{q}\n{more}",
            "completion_template": "{a}",
        },
    ),
    "made in a batch": (
        (
            "def f(e):\n    cs = []\n    for q, a in zip(e['q'], e['a']):\n        cs.append([{'role': 'user', "
            "'content': q}, {'role': 'assistant', 'content': a}])\n    return {'conversations': cs}\n"
            "ds = ds.map(f, batched=True)\nds = ds.map(lambda e: {'text': [tokenizer.apply_chat_template(c, "
            "tokenize=False) for c in e['conversations']]}, batched=True)"
        ),
        {"dataset_type": "chat_completion", "prompt_template": "{q}", "completion_template": "{a}"},
    ),
    "messages for TRL": (
        (
            "ds = ds.map(lambda r: {'messages': [{'role': 'user', 'content': r['q']}, "
            "{'role': 'assistant', 'content': r['a']}]}, remove_columns=ds.column_names)"
        ),
        {"dataset_type": "chat_completion", "prompt_template": "{q}", "completion_template": "{a}"},
    ),
}


@pytest.mark.parametrize("name", CHATS)
def test_conversations_are_understood(imported, name):
    text, expected = CHATS[name]
    extra = "formatting_func=formatting, args=" if "def formatting" in text else "args="
    trainer = TRAINER.replace("args=", extra)
    config, report = imported(IMPORTS, MODEL, ROWS, text, trainer)
    for key, value in expected.items():
        assert getattr(only(config), key) == value
    assert not config.data.completion_only_loss
    assert not lines(report, "impossible")


def test_arguments_of_the_chat_template_are_said(imported):
    text = CHATS["its own name"][0].replace(
        "tokenize=False", "tokenize=False, enable_thinking=True"
    )
    _, report = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    assert line(report, "train_dataset.map.enable_thinking").kind == "impossible"


def test_prompt_and_completion_in_messages(imported):
    text = (
        "ds = ds.map(lambda r: {'prompt': [{'role': 'user', 'content': r['q']}], "
        "'completion': [{'role': 'assistant', 'content': r['a']}]})"
    )
    config, _ = imported(IMPORTS, MODEL, ROWS, text, TRAINER)
    dataset = only(config)
    assert (dataset.dataset_type, dataset.prompt_template) == ("chat_completion", "{q}")
    assert config.data.completion_only_loss


# The mask

RESPONSES = """
trainer = train_on_responses_only(
    trainer, instruction_part="### Instruction:\\n", response_part="### Response:\\n")
"""


def test_training_on_responses_only(imported):
    before, start = TRAINER.split("trainer.train()")[0], "trainer.train()"
    config, report = imported(IMPORTS, MODEL, ROWS, TEMPLATE, BATCH, before, RESPONSES, start)
    assert config.data.completion_only_loss
    assert only(config).prompt_template.endswith("### Response:\n")
    assert only(config).completion_template == "{output}"
    found = line(report, "train_on_responses_only")
    assert (found.setting, found.became) == ("data.completion_only_loss", True)
    other = RESPONSES.replace("### Response:", "### Answer:")
    _, report = imported(IMPORTS, MODEL, ROWS, TEMPLATE, BATCH, before, other, start)
    assert lines(report, "impossible")


def test_parts_in_a_dict_and_a_notebook(imported):
    parts = "parts = dict(instruction_part='<user>', response_part='<bot>')\n"
    parts += "trainer = train_on_responses_only(trainer, **parts)"
    before = TRAINER.split("trainer.train()")[0]
    chat = CHATS["a column"][0]
    config, report = imported(
        IMPORTS, MODEL, ROWS, chat, before, parts, "trainer.train()", name="a.ipynb"
    )
    assert config.data.completion_only_loss
    assert line(report, "train_on_responses_only").place == "cell 6, line 2"


def test_a_collator_that_masks(imported):
    text = "from trl import DataCollatorForCompletionOnlyLM\n"
    text += "c = DataCollatorForCompletionOnlyLM('### Response:\\n', tokenizer=tokenizer)\n"
    trainer = TRAINER.replace("args=", "data_collator=c, args=")
    config, _ = imported(IMPORTS, MODEL, ROWS, TEMPLATE, BATCH, text, trainer)
    assert config.data.completion_only_loss
    assert only(config).completion_template == "{output}"


def test_collators_that_change_labels_are_said(imported):
    for own, said in (("Own(tokenizer)", True), ("lambda rows: rows", True)):
        trainer = TRAINER.replace("args=", f"data_collator={own}, args=")
        _, report = imported(IMPORTS, MODEL, ROWS, trainer)
        assert (
            any("what this collator masks" in text for text in lines(report, "impossible")) == said
        )
    padding = "from transformers import DataCollatorForSeq2Seq\n"
    padding += TRAINER.replace("args=", "data_collator=DataCollatorForSeq2Seq(tokenizer), args=")
    assert not lines(imported(IMPORTS, MODEL, ROWS, padding)[1], "impossible")


def test_early_stopping(imported):
    text = "from transformers import EarlyStoppingCallback\n" + TRAINER.replace(
        "args=", "callbacks=[EarlyStoppingCallback(early_stopping_patience=4)], args="
    )
    assert imported(IMPORTS, MODEL, ROWS, text)[0].callbacks.early_stopping_patience == 4


@pytest.mark.parametrize("answers", [True, False])
def test_the_answers_of_the_assistant(imported, answers):
    trainer = TRAINER.replace("max_steps=3", f"max_steps=3, assistant_only_loss={answers}")
    config, report = imported(IMPORTS, MODEL, ROWS, CHATS["a column"][0], trainer)
    assert config.data.completion_only_loss is answers
    assert line(report, "assistant_only_loss").kind == "converted"


def test_without_a_mask_the_whole_text_is_trained_and_said(imported, tmp_path):
    config, report = imported(IMPORTS, MODEL, ROWS, TRAINER)
    assert not config.data.completion_only_loss
    assert "the whole text is trained on, as there" in line(report, "completion_only_loss").note
    local = "ds = load_dataset('json', data_files='rows.jsonl', split='train')\n"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert imported(IMPORTS, MODEL, local, TRAINER)[0].data.completion_only_loss
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    assert not imported(IMPORTS, MODEL, local, TRAINER)[0].data.completion_only_loss


def test_flat_files_of_trl_train_the_whole_text_too(imported):
    text = "model_name_or_path: a/b\nlearning_rate: 1.0e-4\ndataset_name: c/d\n"
    config, report = imported(text, name="a.yaml")
    assert not config.data.completion_only_loss
    assert config.data.split_ratio == 1.0
    assert line(report, "completion_only_loss").kind == "defaulted"
    assert imported(text + "completion_only_loss: true\n", name="a.yaml")[
        0
    ].data.completion_only_loss
    assert imported(text + "assistant_only_loss: true\n", name="a.yaml")[
        0
    ].data.completion_only_loss


def test_the_chat_template_is_taken(imported):
    chat = CHATS["a column"][0]
    named = "tokenizer = get_chat_template(tokenizer, chat_template='chatml')"
    assert imported(IMPORTS, MODEL, ROWS, named, chat, TRAINER)[0].model.chat_template == "chatml"
    own = "tokenizer.chat_template = '{{ messages }}'"
    assert (
        imported(IMPORTS, MODEL, ROWS, own, chat, TRAINER)[0].model.chat_template
        == "{{ messages }}"
    )
    other = named.replace("chatml", "phi-4")
    config, report = imported(IMPORTS, MODEL, ROWS, other, chat, TRAINER)
    assert config.model.chat_template is None
    assert "nbft has no template of this name" in line(report, "get_chat_template").note
    without = TRAINER.replace("tokenizer=tokenizer, ", "")
    assert imported(IMPORTS, MODEL, ROWS, named, chat, without)[0].model.chat_template == "chatml"
    after = TRAINER + named
    assert imported(IMPORTS, MODEL, ROWS, chat, after)[0].model.chat_template is None


# Methods


@pytest.mark.parametrize(
    "name",
    ["PRM", "PPO", "GKD", "SentenceTransformer"],
)
@pytest.mark.parametrize("started", ["trainer.train()", ""])
def test_other_methods_are_refused_in_one_sentence(imported, name, started):
    text = f"from trl import {name}Config, {name}Trainer, SFTTrainer\n"
    text += (
        f"trainer = {name}Trainer(model=model, args={name}Config(), train_dataset=ds)\n{started}"
    )
    with pytest.raises(ConfigError) as caught:
        imported(IMPORTS, MODEL, ROWS, text)
    (problem,) = caught.value.problems
    assert f"{name}Trainer trains with the method '{name.lower()}'" in problem
    assert "nbft trains with the methods base, cpo, dpo, " in problem


def test_a_method_after_supervised_training_is_refused(imported):
    text = "from trl import PPOTrainer\nlast = PPOTrainer(model=trainer.model)\nlast.train()"
    with pytest.raises(ConfigError, match="PPOTrainer trains with the method 'ppo'"):
        imported(IMPORTS, MODEL, ROWS, TRAINER, text)


def test_the_arguments_of_training_with_rewards_are_taken(imported):
    text = "from trl import GRPOConfig, GRPOTrainer\n"
    text += "args = GRPOConfig(num_generations=6, temperature=0.8, beta=0.02, max_steps=10)\n"
    text += "def short(completions, **kwargs):\n    return [1.0 for c in completions]\n"
    text += "GRPOTrainer(model=model, reward_funcs=[short], args=args, train_dataset=ds).train()"
    config, report = imported(IMPORTS, MODEL, ROWS, text)
    assert config.training.method == "grpo"
    assert (config.grpo.num_generations, config.grpo.temperature) == (6, 0.8)
    assert (config.grpo.beta, config.preference.beta) == (0.02, 0.1)
    assert config.training.learning_rate == 5e-5  # Unsloth's own, of every trainer
    assert any("name each in grpo.rewards" in str(one) for one in report.dropped)


def test_arguments_alone_tell_the_method(imported):
    with pytest.raises(ConfigError, match="PPOConfig trains with the method 'ppo'"):
        imported(IMPORTS, MODEL, "from trl import PPOConfig\nargs = PPOConfig(beta=0.1)")
    given = "from trl import GRPOConfig\nargs = GRPOConfig(beta=0.1, max_completion_length=99)"
    config, _ = imported(IMPORTS, MODEL, given)
    assert config.training.method == "grpo"
    assert (config.grpo.beta, config.grpo.max_completion_length) == (0.1, 99)
    text = "model_name_or_path: a/b\nnum_generations: 8\nlora_r: 8\nmax_prompt_length: 99\n"
    config, report = imported(text, name="a.yaml")
    assert (config.training.method, config.grpo.num_generations) == ("grpo", 8)
    assert config.preference == type(config.preference)()
    assert any("longer than data.max_length" in str(one) for one in report.dropped)
    given = "from trl import ORPOConfig\nargs = ORPOConfig(beta=0.2)"
    config, _ = imported(IMPORTS, MODEL, given)
    assert (config.training.method, config.preference.beta) == ("orpo", 0.2)


@pytest.mark.parametrize(
    ("keys", "method"),
    [
        ("beta: 0.2", "dpo"),
        ("beta: 0.2\nundesirable_weight: 1.5", "kto"),
        ("cpo_alpha: 0.5", "cpo"),
        ("center_rewards_coefficient: 0.01", "reward"),
    ],
)
def test_the_keys_of_a_flat_file_tell_the_method(imported, keys, method):
    text = f"model_name_or_path: a/b\nlearning_rate: 1.0e-5\nlora_r: 8\nuse_peft: true\n{keys}\n"
    config, report = imported(text, name="a.yaml")
    assert config.training.method == method
    assert any(line.setting == "training.method" and line.became == method for line in report)
    text = text.replace("learning_rate: 1.0e-5\n", "per_device_train_batch_size: 2\n")
    rate = 1e-4 if method == "reward" else 1e-6
    assert imported(text, name="b.yaml")[0].training.learning_rate == rate


def test_the_place_of_a_refusal(imported):
    text = "from trl import PPOTrainer\nPPOTrainer(model=model).train()"
    with pytest.raises(ConfigError, match=r"a\.ipynb, cell 3, line 2: PPOTrainer trains"):
        imported(IMPORTS, MODEL, text, name="a.ipynb")


def test_a_method_that_is_registered_is_taken_by_its_name(imported):
    registry.trainers.register("gkd")(object)
    try:
        text = "from trl import GKDTrainer, GKDConfig\n"
        text += (
            "GKDTrainer(model=model, args=GKDConfig(learning_rate=1e-5), train_dataset=ds).train()"
        )
        config, _ = imported(IMPORTS, MODEL, ROWS, text)
        assert (config.training.method, config.training.learning_rate) == ("gkd", 1e-5)
    finally:
        registry.trainers.unregister("gkd")


def test_the_trainer_of_transformers(imported):
    text = """
from transformers import Trainer, DataCollatorForLanguageModeling
def tokenize(e):
    return tokenizer(e["text"], truncation=True)
ds = ds.map(tokenize, batched=True)
trainer = Trainer(model=model, args=TrainingArguments("out", learning_rate=1e-4), train_dataset=ds,
    data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False))
"""
    config, report = imported(IMPORTS, MODEL, ROWS, text)
    assert config.training.method == "base"
    assert only(config).dataset_type == "text"
    assert not config.data.completion_only_loss
    assert not lines(report, "impossible")


REFUSED = {
    "images": "from unsloth.trainer import UnslothVisionDataCollator\nSFTTrainer(model=model, train_dataset=ds,"
    " data_collator=UnslothVisionDataCollator(model, tokenizer)).train()",
    "images in messages": "ds = [{'messages': [{'role': 'user', 'content': [{'type': 'image', 'image': "
    "r['image']}]}, {'role': 'assistant', 'content': [{'type': 'text', 'text': r['t']}]}]} for r in ds]\n"
    "SFTTrainer(model=model, train_dataset=ds).train()",
    "a classifier": "from transformers import AutoModelForSequenceClassification as A, Trainer\n"
    "Trainer(model=A.from_pretrained('a/b'), train_dataset=ds).train()",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nbft_cannot_train_is_refused(imported, name):
    with pytest.raises(ConfigError, match="nbft trains"):
        imported(IMPORTS, MODEL, ROWS, REFUSED[name])


def test_trainers_of_other_things_do_not_count(imported):
    text = "from tokenizers.trainers import BpeTrainer\nfrom unsloth import PatchDPOTrainer\n"
    text += "PatchDPOTrainer()\nb = BpeTrainer(vocab_size=9)\n"
    assert imported(text, IMPORTS, MODEL, ROWS, TRAINER)[0].model.model_name == "org/base"


def test_a_second_training_is_said(imported):
    text = "more = load_dataset('org/more', split='train')\n"
    text += "trainer = SFTTrainer(model=model, train_dataset=more)\ntrainer.train()"
    config, report = imported(IMPORTS, MODEL, ROWS, TRAINER, text)
    assert only(config).dataset_name == "org/rows"
    assert "this config is its first training only" in lines(report, "impossible")[0]


def test_no_training_at_all(imported):
    for name in ("a.py", "a.ipynb"):
        with pytest.raises(ConfigError, match="there is no training to import") as caught:
            imported("x = 1\nprint(x)", name=name)
        assert len(caught.value.problems) == 1


def test_a_cell_that_restarts_the_kernel_ends_nothing(imported):
    first = "import os\nos.kill(os.getpid(), 9)\nexit()\nraise SystemExit"
    cells = (first, IMPORTS, MODEL, ROWS, TRAINER)
    assert imported(*cells, name="a.ipynb")[0].model.model_name == "org/base"


def test_a_cell_that_cannot_be_read_ends_nothing(imported):
    cells = ("print 'old'", IMPORTS, MODEL, ROWS, TRAINER)
    config, report = imported(*cells, name="a.ipynb")
    assert config.model.model_name == "org/base"
    assert report.remarks[0].startswith("Cell 1, line 1: the cell is passed over")


# Hostile files


@pytest.mark.parametrize(
    "text",
    [
        "x = 'a'\n" + "x = x + x\n" * 60,
        "x = [1]\n" + "x = x + x\n" * 60,
        "x = [1]\n" + "x = [x, x, x, x]\n" * 60 + "a = SFTConfig(optim=x)\n",
        "x = 'a' * 10**12",
        "x = 9 ** 9 ** 9 ** 9",
        "x = '{:>9999999999}'.format('a')\ny = f'{1:>9999999999}'\nz = '%9999999999d' % 1",
        "x = 'a'.replace('a', 'b' * 999999).replace('b', 'c' * 999999)",
        "x = sum(range(10**18))\ny = list(range(10**18))\nz = sorted(range(10**18))",
        "def f(x):\n    return f(f(x))\nf(1)",
        "def f(n):\n    f(n - 1)\n    f(n - 2)\nf(50)",
        "class A:\n    def m(self):\n        return self.m()\nA().m()",
        "x = " + "(" * 90 + "1" + ")" * 90,
        "x = " + " + ".join(["'a'"] * 900),
        "while True:\n    x = 1",
        "for i in range(10**9):\n    for j in range(10**9):\n        x = 1",
        "x = [i for i in range(20) for j in range(20) for k in range(20) for l in range(20)]",
        "l = []\nl.append(l)\nx = str(l)\ny = f'{l}'\nSFTConfig(optim=l)",
        "d = {}\nd['d'] = d\nSFTConfig(optim=d)",
        "import os\nos.system('touch ran')\nopen('ran', 'w')\n__import__('os').remove('x')",
    ],
)
def test_hostile_code_is_read_in_no_time_and_not_run(imported, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    config, _ = imported(text, IMPORTS, MODEL, ROWS, TRAINER)
    assert time.monotonic() - began < 3
    assert not (tmp_path / "ran").exists()
    assert config.model.model_name == "org/base" or "while" in text


# Rows as they will be trained


def test_imported_templates_make_the_same_text(imported, tmp_path):
    rows = [{"instruction": "Add {1}.", "output": "2"}, {"instruction": "Name", "output": "a\nb"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    local = "ds = load_dataset('json', data_files='rows.jsonl', split='train')\n"
    config, _ = imported(IMPORTS, MODEL, local, TEMPLATE, BATCH, TRAINER)
    examples, _ = load_examples(config, "train", folder=tmp_path)
    template = "Below is a task.\n\n### Instruction:\n{}\n\n### Response:\n{}"
    assert [e.prompt + e.completion for e in examples] == [
        template.format(row["instruction"], row["output"]) for row in rows
    ]


def test_a_conversation_made_of_columns_is_one(imported, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "Hi", "more": "", "a": "Yes"}\n')
    local = "ds = load_dataset('json', data_files='rows.jsonl', split='train')\n"
    config, _ = imported(IMPORTS, MODEL, local, CHATS["made of columns"][0], TRAINER)
    (example,), _ = load_examples(config, "train", folder=tmp_path)
    assert [(turn["role"], turn["content"]) for turn in example.messages] == [
        ("system", "Be kind."),
        ("user", "Hi\n"),
        ("assistant", "Yes"),
    ]


def test_rows_of_unknown_code_are_not_trained_otherwise_without_a_word(imported, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"x": "a"}\n')
    local = "ds = load_dataset('json', data_files='rows.jsonl', split='train')\n"
    config, _ = imported(IMPORTS, MODEL, local, "ds = ds.map(own)", TRAINER)
    with pytest.raises(DataError):
        load_examples(config, "train", folder=tmp_path)


# The examples


def test_the_script_of_the_examples():
    config, report = import_file(EXAMPLES / "template.py")
    assert config.model.model_name == "unsloth/SmolLM2-135M"
    assert (config.peft.r, config.training.learning_rate) == (8, 1e-4)
    assert only(config).prompt_template.endswith("### More:\n{input}\n\n### Answer:\n")
    assert only(config).completion_template == "{output}"
    assert config.data.completion_only_loss
    assert not lines(report, "impossible", "unknown", "deviates")


def test_the_notebook_of_the_examples():
    config, report = import_file(EXAMPLES / "conversations.ipynb")
    assert config.model.model_name == "unsloth/Llama-3.2-1B-Instruct"
    assert config.quantization.load_in_4bit
    dataset = only(config)
    assert (dataset.dataset_name, dataset.split) == ("mlabonne/FineTome-100k", "train[:1000]")
    assert (dataset.dataset_type, dataset.columns) == ("messages", {"messages": "conversations"})
    assert config.model.chat_template == "chatml"
    assert config.data.completion_only_loss
    assert not lines(report, "impossible", "unknown", "deviates")
    assert line(report, "from_pretrained.max_seq_length").place == "cell 3, line 3"
    assert line(report, "train_on_responses_only").place == "cell 7, line 22"


def test_every_kind_of_adapter_is_taken_from_a_script(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "from peft import AdaLoraConfig\nfrom trl import SFTTrainer\n"
        "adapter = AdaLoraConfig(init_r=10, target_r=6, tinit=3, tfinal=4, deltaT=2, total_step=40,\n"
        "    target_modules=['q_proj'], layers_to_transform=1, rank_pattern=None)\n"
        "trainer = SFTTrainer('a/b', train_dataset=None, peft_config=adapter)\ntrainer.train()\n"
    )
    config, _ = import_file(script, "unsloth")
    peft = config.peft
    assert (peft.method, peft.init_r, peft.r, peft.deltaT) == ("adalora", 10, 6, 2)
    assert (peft.tinit, peft.tfinal, peft.layers_to_transform) == (3, 4, [1])
