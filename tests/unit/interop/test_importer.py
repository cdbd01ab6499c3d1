"""Every example of the documents imports, with one line for each key, and wrong files are told so."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml

import nbft
from nbft import decisions, hardware
from nbft.config import io
from nbft.errors import ConfigError
from nbft.hardware import Choice
from nbft.interop import conversions, importer
from nbft.interop.importer import SYSTEMS, Work, import_file, is_theirs, recognise, system, typed
from nbft.interop.read import read_document
from nbft.interop.report import KINDS, Line, Report
from nbft.plan.advice import Machine

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(file for file in EXAMPLES.glob("*/*") if file.is_file() and file.name != "rows.json")


def name_of(file):
    return f"{file.parent.name}/{file.name}"


@pytest.fixture
def imported(tmp_path):
    def importing(text, name=None, ending="yaml", strict=False):
        path = tmp_path / f"config.{ending}"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return import_file(path, name, strict=strict)

    return importing


def line(report, key):
    return next(one for one in report if one.key == key)


def flat_keys(tree, place=""):
    """Return the keys of a file, without any table: nothing may be lost."""
    if isinstance(tree, dict) and tree:
        return [k for n, v in tree.items() for k in flat_keys(v, f"{place}.{n}".lstrip("."))]
    if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        return [k for n, v in enumerate(tree) for k in flat_keys(v, f"{place}[{n}]")]
    return [place]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_example_imports_with_a_word_on_every_key(file):
    config, report = import_file(file)
    assert report.system == file.parent.name
    assert isinstance(config, nbft.Config)
    assert {one.kind for one in report} <= set(KINDS)
    assert not report.of_kind("unknown")
    if file.suffix in (".yaml", ".yml", ".json"):
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        reported = [one.key for one in report if one.kind != "defaulted"]
        for key in flat_keys(tree):
            whole = [r for r in reported if key == r or key.startswith((f"{r}.", f"{r}["))]
            assert len(whole) == 1, key


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_setting_in_the_report_is_the_one_in_the_config(file):
    config, report = import_file(file)
    flat = io.flatten(config.to_dict(full=True), {s.path for s in nbft.settings()})
    last = {one.setting: one for one in report if one.setting and one.kind != "impossible"}
    for setting, one in last.items():
        found = flat.get(setting, ...)
        if found is ... or isinstance(found, (list, dict)) or one.became is None:
            continue
        said = {o.became for o in report if o.setting == setting and not isinstance(o.became, list)}
        assert found in said, setting


@pytest.mark.parametrize("name", ["lines.jsonl", "array.json", "table.csv", "instructions.json"])
def test_the_data_samples_of_peft_studio_are_rows(name):
    config, report = import_file(EXAMPLES / "peft_studio" / "rows" / name)
    assert report.system == "rows"
    assert {one.kind for one in report} == {"taken"}
    assert config.data.train.datasets[0].path.endswith(name)


def test_the_dataset_format_of_peft_studio_needs_no_key(imported):
    """The rows are recognised by themselves, so the key is known and changes nothing."""
    config, report = imported("base_model: a/b\ndataset_format: alpaca\n", "peft_studio")
    assert line(report, "dataset_format").kind == "converted"
    assert config.diff(imported("base_model: a/b\n", "peft_studio")[0]) == {}


# Reading


def test_the_kinds_of_lines(imported):
    _, report = imported(
        {
            "model": {"model_name": "a/b", "peft_config": {"lora_r": 4, "bias": None}},
            "dataset": {"max_seq_length": 99, "max_seq_len": 9},
            "optimizers": {"optimizer_name": "AdamW"},
            "callbacks": {"Printer": None},
        },
        "qefficient",
    )
    kinds = {one.key: one.kind for one in report}
    assert kinds["model.model_name"] == "taken"
    assert kinds["model.peft_config.lora_r"] == "renamed"
    assert kinds["model.peft_config.bias"] == "converted"
    assert kinds["optimizers.optimizer_name"] == "converted"
    assert kinds["dataset.max_seq_length"] == "deviates"
    assert kinds["dataset.max_seq_len"] == "unknown"
    assert kinds["training.save_strategy"] == "defaulted"
    assert "Did you mean dataset.max_seq_length?" in line(report, "dataset.max_seq_len").note


def test_numbers_that_yaml_reads_as_text(imported):
    config, report = imported("training: {learning_rate: 5e-5, use_peft: true}", "oumi")
    assert config.training.learning_rate == 5e-5
    assert line(report, "training.learning_rate").note.startswith("YAML 1.1 reads 5e-5 as text")


def test_no_that_yaml_reads_as_false(imported):
    config, _ = imported("training:\n  eval_strategy: no\n  logging_strategy: no\n", "oumi")
    assert (config.evaluation.eval_strategy, config.logging.logging_strategy) == ("no", "no")


def test_their_defaults_are_kept_where_ours_differ(imported):
    config, report = imported("model: {model_name: a/b}\ntraining: {use_peft: true}", "oumi")
    assert config.training.learning_rate == 5e-5
    assert config.peft.lora_alpha == 8
    assert line(report, "training.learning_rate").note == "theirs; ours is 0.0002"
    assert "optimizer.weight_decay" not in {one.setting for one in report}  # the same as ours


def test_values_are_read_as_the_type_that_is_wanted():
    assert typed("8", int) == (8, "the text 8 is read as a number")
    assert typed(3.0, int) == (3, "")
    assert typed("True", bool)[0] is True
    for value, kind in ((2.5, int), ("fast", float), (True, int), ("maybe", bool), ("a", list)):
        with pytest.raises(ValueError, match="is n"):
            typed(value, kind)


def test_all_that_is_wrong_is_said_at_once_with_its_line(imported):
    with pytest.raises(ConfigError) as caught:
        imported(
            "base_model: a/b\nalgorithm: lora\nbatch_size: 64\nlearning_rate: 1\nnum_epochs: many\n"
            "scheduler: wavy\n",
            strict=True,
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "line 3: batch_size=64: PEFT Studio: must be 1 to 32.",
        "line 4: learning_rate=1.0: PEFT Studio: must be 1e-06 to 0.01.",
        "line 5: num_epochs='many': PEFT Studio: is not a number.",
        "line 6: scheduler='wavy': PEFT Studio: is not one of linear, cosine, constant.",
    ]


WRONG = {
    "qefficient": [
        (
            (
                "dataset: {dataset_name: a/b, prompt_template: '{a}', prompt_func: 'm:f', "
                "completion_template: '{b}'}"
            ),
            "prompt_func and prompt_template are mutually exclusive",
        ),
        ("training: {eval_strategy: steps}", "with steps, eval_steps must be given"),
        ("training: {device: tpu}", "is not one of qaic, cuda, cpu"),
        ("model: {peft_config: {lora_dropout: 1.0}}", "must be at least 0 and below 1"),
        ("dataset: {split_ratio: 1.0}", "must be above 0 and below 1"),
        ("model: {peft_config: {peft_type: PREFIX}}", "LORA or IA3"),
    ],
    "oumi": [
        ("peft: {lora_target_modules: all-linear}", "must be a list"),
        ("peft: {lora_r: 2.5}", "is not a whole number"),
        ("training: {optimizer: adamww}", "Did you mean adamw?"),
        (
            "training: {mixed_precision_dtype: bf16}\nmodel: {torch_dtype_str: bfloat16}",
            "mixed precision needs float32 weights",
        ),
        (
            "fsdp: {enable_fsdp: true}\ndeepspeed: {enable_deepspeed: true}",
            "FSDP and DeepSpeed are mutually exclusive",
        ),
        (
            (
                "data: {train: {datasets: [{dataset_name: a/b, mixture_proportion: 0.5}, "
                "{dataset_name: c/d}]}}"
            ),
            "1 of 2 datasets have a mixture_proportion",
        ),
        (
            (
                "data: {train: {datasets: [{dataset_name: a/b, mixture_proportion: 0.5}, "
                "{dataset_name: c/d, mixture_proportion: 0.4}]}}"
            ),
            "must add up to 1, not 0.9",
        ),
        ("data: {train: {datasets: [{subset: x}]}}", "Oumi: is required"),
    ],
    "erniekit": [
        ("stage: GRPO", "is not one of SFT, DPO"),
        ("layerwise_lr_decay_bound: 0", "must be above 0 and at most 1"),
        ("mix_strategy: random", "random needs max_steps above 0"),
        ("train_dataset_path: 'a,b,c'\ntrain_dataset_prob: '0.5,0.5'", "2 for 3 paths"),
        ("compute_type: wint8\nrslora: true", "does not go with LoRA"),
        ("loss_type: best", "is not one of sigmoid, ipo, kto_pair"),
    ],
    "peft_studio": [
        ("rank: 128", "must be 4 to 64"),
        ("quantization: int2", "is not one of int4, int8, nf4, none"),
        ("double_quantization: true\nalgorithm: lora", "needs qlora"),
        ("format_version: '1.0'\nconfiguration: {rank: 8}", "its import needs metadata"),
        ("experiment_tracker: excel", "is not one of wandb, cometml, phoenix"),
    ],
    "unsloth": [
        ("bf16: true\nfp16: true", "at most one of fp16 and bf16"),
        ("load_in_4bit: true\nload_in_8bit: true", "are exclusive"),
        ("eval_strategy: often", "is not one of no, steps, epoch"),
    ],
    "llama_factory": [
        ("quantization_bit: 4\nfinetuning_type: full", "LoRA method only"),
        ("val_size: 0.1\neval_dataset: a", "are exclusive"),
    ],
    "axolotl": [
        ("adapter: qlora\nload_in_4bit: false", "qlora requires load_in_4bit"),
        ("warmup_steps: 10\nwarmup_ratio: 0.1", "mutually exclusive"),
    ],
}


@pytest.mark.parametrize(
    ("name", "text", "words"), [(n, t, w) for n, cases in WRONG.items() for t, w in cases]
)
def test_a_file_that_is_wrong_by_its_own_rules_is_told_so(imported, name, text, words):
    with pytest.raises(ConfigError) as caught:
        imported(text, name, strict=True)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"), [(n, t, w) for n, cases in WRONG.items() for t, w in cases]
)
def test_what_is_wrong_by_its_own_rules_ends_no_file(imported, name, text, words):
    _, report = imported(text, name)
    assert any(words in one.note for one in report.dropped)


def test_what_is_wrong_by_our_rules_is_said_with_their_key(imported):
    text = "max_seq_len: 4\nmodel_name_or_path: a/b\n"
    with pytest.raises(ConfigError, match=r"line 1: max_seq_len=4: must be at least 8"):
        imported(text, "erniekit", strict=True)
    config, report = imported(text, "erniekit")
    assert config.data.max_length == nbft.Config().data.max_length
    assert line(report, "max_seq_len").note.endswith("nbft's default is kept.")


# Recognising


def test_systems_are_recognised_by_their_keys():
    assert {file.parent.name for file in FILES} == set(SYSTEMS)
    for file in FILES:
        assert recognise(read_document(file)).name == file.parent.name


def test_a_file_of_no_system_names_its_keys(imported):
    with pytest.raises(ConfigError, match=r"is not a file of a known system; its keys are colour"):
        imported("colour: red\nsize: 3\n")


def test_an_unknown_system_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean oumi"):
        system("oumy")
    assert system("TRL") is system("unsloth")


def test_a_config_of_ours_is_ours(imported, tmp_path):
    config, report = imported(nbft.Config.preset("two-minute-try").to_yaml())
    assert report.system == "nbft"
    assert config == nbft.Config.preset("two-minute-try")
    assert not is_theirs(tmp_path / "config.yaml")


def test_a_slip_in_a_config_of_ours_does_not_make_it_theirs(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(nbft.Config.preset("high-quality").to_yaml() + "scheduler: {warmup: 1}\n")
    assert not is_theirs(path)
    assert all(is_theirs(file) for file in FILES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "training: {learning_rate: fast, max_steps: -3}\nlerning: {x: 1}\n",
            [
                "training.learning_rate='fast': is not a number. The default is",
                "training.max_steps=-3: must be at least -1. Use -1.",
                "lerning: is not a setting. Did you mean training?",
            ],
        ),
        ("training: {lerning_rate: 1}\n", ["Did you mean learning_rate?"]),
    ],
)
def test_a_config_of_ours_with_mistakes_gets_our_words(imported, text, words):
    with pytest.raises(ConfigError) as caught:
        imported(text)
    assert all(part in str(caught.value) for part in words), str(caught.value)


@pytest.mark.parametrize("text", ["{}", "a: 1"])
def test_a_file_of_nobody_is_said(imported, text):
    with pytest.raises(ConfigError, match="is not a file of a known system"):
        imported(text)


def test_a_file_is_recognised_once(monkeypatch):
    asked = []
    known = importer.recognise
    monkeypatch.setattr(importer, "recognise", lambda found: asked.append(found) or known(found))
    import_file(EXAMPLES / "oumi" / "lora.yaml")
    assert len(asked) == 1


@pytest.mark.parametrize("name", ["config.yam", "config.yaml", "rows.jsonl"])
def test_a_missing_file_names_the_nearest(tmp_path, name):
    (tmp_path / f"my-{name}").touch()
    with pytest.raises(ConfigError, match=rf"no such file\. Did you mean my-{name}\?"):
        import_file(tmp_path / name)


def test_a_file_with_marks_of_its_system_reads_no_other_table(monkeypatch):
    for name in SYSTEMS:
        vars(system(name)).pop("table", None)
    importer._paths.cache_clear()
    assert recognise(read_document(EXAMPLES / "oumi" / "lora.yaml")).name == "oumi"
    assert [name for name in SYSTEMS if "table" in vars(system(name))] == ["oumi"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_reading_fewer_tables_finds_the_same_system(monkeypatch, file):
    found = recognise(read_document(file))
    monkeypatch.setattr(importer, "_most", lambda tree, marks: 10**6)
    assert recognise(read_document(file)) is found


# Each system


def test_the_four_samples_of_qefficient_have_a_note_for_each_repair():
    words = {
        "alpaca": ["fails on a path with slashes", "only a train split"],
        "samsum": ["quotes inside the braces"],
        "gsm8k": ["quotes inside the braces", "cannot be loaded without one"],
        "grammar": ["YAML has no f-strings", "quotes inside the braces"],
    }
    for name, notes in words.items():
        config, report = import_file(EXAMPLES / "qefficient" / f"{name}.yaml")
        said = " ".join(one.note for one in report)
        assert all(note in said for note in notes), name
        dataset = config.data.train.datasets[0]
        assert dataset.prompt_template is None or "'" not in dataset.prompt_template
    assert config.data.train.datasets[0].prompt_template == (
        "Correct the grammar in the sentence.\n### Sentence:\n{input}\n### Corrected:\n"
    )


def test_the_functions_of_qefficient(tmp_path):
    (tmp_path / "preprocess").mkdir()
    (tmp_path / "preprocess" / "own.py").write_text("def prompt(row):\n    return row['q']\n")
    path = tmp_path / "a.yaml"
    path.write_text(
        "dataset: {dataset_name: a/b, prompt_func: preprocess/own:prompt, "
        "completion_func: package.module:answer}"
    )
    config, report = import_file(path, "qefficient")
    dataset = config.data.train.datasets[0]
    assert dataset.prompt_func == f"{tmp_path}/preprocess/own:prompt"
    assert dataset.completion_func == "package.module:answer"
    assert report.functions == [dataset.prompt_func, "package.module:answer"]
    assert "runs your own code" in report.remarks[0]


def test_a_split_of_the_hub_for_evaluation():
    config, _ = import_file(EXAMPLES / "qefficient" / "gsm8k.yaml")
    assert config.data.validation.datasets[0].split == "test"
    assert config.data.validation.datasets[0].subset == "main"
    assert config.data.validation.datasets[0].prompt_template == "Do it.\n{question}\n"


@pytest.mark.parametrize(
    ("name", "block", "content", "setting"),
    [
        ("qefficient", "model.peft_config", {"lora_r": 3}, "peft.r"),
        ("qefficient", "training.ddp_config", {"ddp_timeout": 3}, "distributed.ddp_timeout"),
        (
            "qefficient",
            "training.gradient_checkpointing_kwargs",
            {"use_reentrant": True},
            "memory.gradient_checkpointing_kwargs.use_reentrant",
        ),
        ("oumi", "data.validation", {"seed": 3}, "data.validation.seed"),
        (
            "oumi",
            "data.train.datasets",
            [{"dataset_name": "a/b", "seed": 3}],
            "data.train.datasets[0].seed",
        ),
    ],
)
def test_a_block_may_be_empty_or_hold_keys(imported, name, block, content, setting):
    empty, report = imported(importer.tree_of({block: None}), name)
    assert line(report, block).kind == "taken"
    config, report = imported(importer.tree_of({block: content}), name)
    assert not report.of_kind("unknown")
    assert next(one for one in report if one.setting == setting).became in (3, True)
    assert config != empty


def test_keys_of_oumis_document_that_its_code_refuses():
    config, report = import_file(EXAMPLES / "oumi" / "qlora.yaml")
    assert (config.peft.method, config.peft.r) == ("lora", 16)
    assert config.quantization.load_in_4bit
    assert config.quantization.bnb_4bit_quant_type == "nf4"
    assert config.quantization.bnb_4bit_use_double_quant
    assert line(report, "peft.r").note.startswith("Oumi refuses this spelling")


def test_the_command_of_oumi_with_its_file():
    config, report = import_file(EXAMPLES / "oumi" / "override.sh")
    assert config.training.learning_rate == 5e-5
    assert config.training.num_train_epochs == 5
    assert config.data.train.datasets[0].sample_count == 2000
    assert config.peft.r == 16  # of the file that it names
    assert {line(report, key).kind for key in ("cli.c", "cli.override")} == {"converted"}
    assert not report.of_kind("unknown")


@pytest.mark.parametrize(("bits", "setting"), [(4, "load_in_4bit"), (8, "load_in_8bit")])
def test_the_bits_of_oumis_qlora(imported, bits, setting):
    config, report = imported(f"peft: {{q_lora: true, q_lora_bits: {bits}}}", "oumi")
    assert config.diff()[f"quantization.{setting}"] == (False, True)
    assert config.quantization.load_in_4bit != config.quantization.load_in_8bit
    assert line(report, "peft.q_lora_bits").kind == "taken"


def test_minutes_and_shares_and_seconds(imported):
    config, _ = imported("training: {nccl_default_timeout_minutes: 2, warmup_ratio: 0.1}", "oumi")
    assert config.distributed.ddp_timeout == 120
    assert config.scheduler.warmup_steps == 0.1


def test_ernies_alpha_and_its_presets(imported):
    assert imported("lora_rank: 16", "erniekit")[0].peft.lora_alpha == 32
    assert imported("rslora: true\nlora_alpha: -1", "erniekit")[0].peft.lora_alpha == 4
    config, _ = imported("rslora_plus: true\nlora_alpha: 64", "erniekit")
    assert config.peft.use_rslora
    assert (config.peft.lora_alpha, config.peft.loraplus_lr_ratio) == (4, 4.0)
    config, _ = imported("compute_type: wint4/8\nlora: false\nfine_tuning: LoRA", "erniekit")
    assert config.quantization.weight_quantize_algo == "weight_only_mix"
    assert config.peft.method == "lora"


def test_ernies_lists_of_sets(imported):
    config, report = imported(
        "train_dataset_path: 'a.jsonl, b.jsonl'\ntrain_dataset_type: 'erniekit,alpaca'\n"
        "train_dataset_prob: '3,1'\neval_dataset_path: c.jsonl\n",
        "erniekit",
    )
    first, second = config.data.train.datasets
    assert (first.path, second.path) == ("a.jsonl", "b.jsonl")
    assert (first.mixture_proportion, second.mixture_proportion) == (0.75, 0.25)
    assert (first.dataset_type, second.dataset_type) == ("erniekit", "chat_completion")
    assert [dataset.path for dataset in config.data.validation.datasets] == ["c.jsonl"]
    assert line(report, "train_dataset_path").kind == "converted"


METHODS = [
    ("axolotl", "base_model: a/b\nrl: gdpo\n", "line 2: rl='gdpo': asks for GDPO"),
    ("axolotl", "base_model: a/b\nprocess_reward_model: true\n", "asks for a process reward model"),
    ("llama_factory", "stage: ppo\n", "asks for PPO"),
    ("llama_factory", "finetuning_type: freeze\nuse_llama_pro: true\n", "every n-th layer"),
    ("oumi", "training: {trainer_type: TRL_GKD}", "asks for GKD"),
    ("erniekit", "stage: VL-SFT", "asks for VL-SFT (images)"),
    ("qefficient", "training: {type: kd}", "asks for kd"),
]


@pytest.mark.parametrize(("name", "text", "words"), METHODS, ids=str)
def test_a_method_that_nbft_has_not_ends_the_file(imported, name, text, words):
    with pytest.raises(ConfigError) as caught:
        imported(text, name)
    assert words in str(caught.value)
    (problem,) = caught.value.problems
    if "asks for" in words:
        assert ", but nbft trains with base, cpo, dpo, " in problem.why
        assert problem.why.endswith(" and sft only.")


OF_REWARDS = [
    (
        "oumi",
        (
            "training: {trainer_type: trl_grpo, reward_functions: [a], grpo: {num_generations: 4, "
            "max_completion_length: 99, temperature: 0.9}}"
        ),
        {"num_generations": 4, "max_completion_length": 99, "temperature": 0.9},
    ),
    (
        "axolotl",
        (
            "base_model: a/b\nrl: grpo\ntrl: {beta: 0.01, num_generations: 4, reward_funcs: [a.b], "
            "scale_rewards: false}"
        ),
        {"beta": 0.01, "num_generations": 4, "scale_rewards": "none"},
    ),
]


@pytest.mark.parametrize(("name", "text", "wanted"), OF_REWARDS, ids=str)
def test_training_with_rewards_is_taken_and_the_rewards_are_asked_for(imported, name, text, wanted):
    config, report = imported(text, name)
    assert config.training.method == "grpo"
    assert {setting: getattr(config.grpo, setting) for setting in wanted} == wanted
    (dropped,) = report.dropped
    assert "name each in grpo.rewards" in str(dropped)


def test_layers_that_one_process_does_not_split_are_said(imported):
    config, _ = imported("tensor_parallel_degree: 8\nmodel_name_or_path: a/b", "erniekit")
    problem = next(
        p for p in nbft.make_plan(config).warnings if p.field == "distributed.tensor_parallel_size"
    )
    assert problem.why == "has no effect with distributed.num_processes=1."
    changed = nbft.make_plan(config.apply(problem.changes))
    assert problem.field not in {p.field for p in changed.problems}


def test_the_algorithms_of_peft_studio(imported):
    settings = {
        "dora": ("peft.use_dora", True),
        "rslora": ("peft.use_rslora", True),
        "pissa": ("peft.init_lora_weights", "pissa"),
        "qlora": ("quantization.load_in_4bit", True),
    }
    for name, (path, value) in settings.items():
        config, _ = imported({"base_model": "a/b", "algorithm": name}, ending="json")
        section, setting = path.split(".")
        assert getattr(getattr(config, section), setting) == value


def test_a_script_of_unsloth():
    config, report = import_file(EXAMPLES / "unsloth" / "notebook.py")
    assert config.model.model_name == "unsloth/Llama-3.2-1B-Instruct"
    assert config.data.train.datasets[0].dataset_name == "yahma/alpaca-cleaned"
    assert (config.training.max_steps, config.peft.r) == (60, 16)
    assert config.precision.mixed_precision == "auto"
    assert line(report, "SFTTrainer.model").kind == "converted"


def test_code_that_would_have_to_be_run(imported):
    config, report = imported("args = SFTConfig(learning_rate=find_it(), max_steps=3)", ending="py")
    assert config.training.max_steps == 3
    assert config.training.learning_rate == nbft.Config().training.learning_rate
    assert line(report, "SFTConfig.learning_rate").kind == "impossible"


def test_names_of_unsloths_document(imported):
    config, _ = imported("base_lr = 1e-4\nwarmup_ratio = 0.05\nnum_gpus = 1\n", ending="py")
    assert (config.training.learning_rate, config.scheduler.warmup_steps) == (1e-4, 0.05)


def test_llama_factory_finds_rows_in_its_list(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(
        json.dumps(
            {"mine": {"file_name": "mine.json", "columns": {"prompt": "q", "response": "a"}}}
        )
    )
    path = tmp_path / "a.yaml"
    path.write_text("model_name_or_path: a/b\ndataset: mine\nfinetuning_type: lora\n")
    dataset = import_file(path)[0].data.train.datasets[0]
    assert dataset.path == str(tmp_path / "data" / "mine.json")
    assert dataset.columns == {"instruction": "q", "output": "a"}


def test_axolotl():
    config, _ = import_file(EXAMPLES / "axolotl" / "qlora.yml")
    assert config.quantization.load_in_4bit
    assert config.data.split_ratio == 0.95
    assert config.data.train.datasets[0].path == "training.jsonl"
    assert config.data.train.datasets[1].dataset_name == "mhenrichsen/alpaca_2k_test"
    assert config.optimizer.optim == "adamw_8bit"


def test_half_precision_follows_the_machine(imported, monkeypatch):
    text = "training: {dtype: fp16}"
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cpu": "CPU"})
    assert imported(text, "qefficient")[0].precision.mixed_precision == "auto"
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cuda": "GPU", "cpu": "CPU"})
    assert imported(text, "qefficient")[0].precision.mixed_precision == "fp16"


def test_use_cpu_of_qefficient_wins_over_a_gpu(imported, monkeypatch):
    there = {"cuda": "GPU", "cpu": "CPU"}
    monkeypatch.setattr(decisions, "available_devices", lambda: there)
    for text, device in (("{use_cpu: true}", "cpu"), ("{use_cpu: false}", "cuda")):
        config, report = imported(f"training: {text}", "qefficient")
        assert decisions.choose_device(config).value == device
        assert line(report, "training.use_cpu").kind != "unknown"


BASE = {
    "erniekit": {"do_eval": True, "evaluation_strategy": "epoch"},
    "peft_studio": {"base_model": "a/b"},
}


@pytest.mark.parametrize(
    ("name", "key", "value", "setting", "ours"),
    [
        (
            *("qefficient", "dataset.train_batch_size", 3),
            *("training.per_device_train_batch_size", 3),
        ),
        (
            *("qefficient", "dataset.eval_batch_size", 3),
            *("evaluation.per_device_eval_batch_size", 3),
        ),
        ("qefficient", "model.peft_config.peft_type", "IA3", "peft.method", "ia3"),
        ("qefficient", "training.do_eval", False, "evaluation.eval_strategy", "no"),
        ("qefficient", "training.dtype", "bf16", "precision.mixed_precision", "bf16"),
        ("oumi", "peft.peft_method", "ia3", "peft.method", "ia3"),
        ("oumi", "training.bf16", True, "precision.mixed_precision", "bf16"),
        ("oumi", "training.fp16", True, "precision.mixed_precision", "fp16"),
        ("oumi", "training.warmup_ratio", 0.2, "scheduler.warmup_steps", 0.2),
        ("oumi", "training.enable_tensorboard", True, "tracking.report_to", ["tensorboard"]),
        ("oumi", "training.enable_wandb", True, "tracking.report_to", ["wandb"]),
        (
            *("oumi", "training.try_resume_from_last_checkpoint", True),
            *("training.resume_from_checkpoint", "auto"),
        ),
        ("oumi", "model.compile", True, "compute.torch_compile", True),
        ("oumi", "model.model_max_length", 99, "data.max_length", 99),
        ("erniekit", "use_flash_attention", False, "model.attn_implementation", "eager"),
        ("erniekit", "fuse_rope", True, "model.use_liger_kernel", True),
        ("erniekit", "bf16", False, "precision.mixed_precision", "no"),
        ("erniekit", "do_eval", False, "evaluation.eval_strategy", "no"),
        ("peft_studio", "warmup_ratio", 0.2, "scheduler.warmup_steps", 0.2),
        ("peft_studio", "experiment_tracker", "wandb", "tracking.report_to", ["wandb"]),
        ("unsloth", "warmup_ratio", 0.2, "scheduler.warmup_steps", 0.2),
    ],
)
def test_a_parameter_becomes_the_setting_whose_effect_is_proved(
    imported, monkeypatch, name, key, value, setting, ours
):
    """Proofs of these parameters train with our setting; this is the way from one to the other."""
    monkeypatch.setattr(conversions, "is_installed", lambda name: True)
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cuda": "GPU", "cpu": "CPU"})

    def became(tree):
        config, _ = imported(tree, name)
        return io.flatten(config.to_dict(full=True), {s.path for s in nbft.settings()})[setting]

    base = BASE.get(name, {})
    assert became(base | importer.tree_of({key: value})) == ours != became(base)


# The tables


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_entry_names_a_setting_of_ours(name):
    for entry in system(name).table:
        assert not entry.setting or importer._setting(entry.setting), entry.path


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_key_stands_in_a_table_twice(name):
    paths = [path for entry in system(name).table for path in entry.paths]
    doubles = {path for path in paths if paths.count(path) > 1}
    assert doubles <= {"random_state"}  # of the training and of an adapter


@pytest.mark.parametrize("name", SYSTEMS)
def test_their_defaults_are_values_of_ours(name):
    """A default that our settings refuse would break every file that leaves the key out."""
    document = read_document(next(f for f in FILES if f.parent.name == name))
    document.tree, document.language = {}, "yaml"
    work = Work(document, system(name))
    work.add_defaults()
    _, report = work.finish()
    assert {one.kind for one in report} <= {"defaulted", "deviates"}


# The report


def test_the_report_as_text_json_and_table():
    report = Report("oumi", "Oumi", "a.yaml", [Line("a.b", "<1>", "renamed", "c.d", 1, "why", 3)])
    assert str(report) == (
        "Oumi: 1 keys read; 1 renamed.\nrenamed    line 3: a.b=<1> -> c.d=1 (why)"
    )
    assert json.loads(json.dumps(report.to_dict()))["lines"][0]["became"] == 1
    assert "&lt;1&gt;" in report._repr_html_()
    assert len(report) == 1


# Single keys of Oumi that become something else


def test_oumis_collators_say_what_is_trained(imported):
    text = "data: {{train: {{datasets: [{{dataset_name: a/b}}], collator_name: {}}}}}"
    config, _ = imported(text.format("text_with_padding"), "oumi")
    assert not config.data.completion_only_loss
    config, _ = imported(text.format("text_completions_only_with_padding"), "oumi")
    assert config.data.completion_only_loss


def test_oumis_target_column_is_the_text(imported):
    config, _ = imported(
        "data: {train: {datasets: [{dataset_name: a/b}], target_col: body}}", "oumi"
    )
    assert config.data.train.datasets[0].input_columns == ["body"]


def test_what_of_oumis_data_is_refused_is_said(imported):
    _, report = imported(
        "data: {train: {use_torchdata: true, datasets: [{dataset_name: a/b, "
        "trust_remote_code: true}]}}",
        "oumi",
    )
    assert line(report, "data.train.datasets[0].trust_remote_code").kind == "impossible"
    assert "the rows are the same" in line(report, "data.train.use_torchdata").note


def test_packing_of_oumi_is_end_to_end(imported):
    config, _ = imported("data: {train: {pack: true, datasets: [{dataset_name: a/b}]}}", "oumi")
    assert (config.data.packing, config.data.packing_strategy) == (True, "wrapped")


def test_the_wizard_of_oumi():
    config, _ = import_file(EXAMPLES / "oumi" / "wizard.sh")
    assert (config.model.model_name, config.peft.method) == ("meta-llama/Llama-3.1-8B", "lora")


def test_the_training_types_of_oumis_wizard(tmp_path):
    script = (EXAMPLES / "oumi" / "wizard.sh").read_text(encoding="utf-8")
    assert "--training-type lora" in script
    (tmp_path / "wizard.sh").write_text(script.replace("-type lora", "-type qlora"))
    config, _ = import_file(tmp_path / "wizard.sh")
    assert (config.peft.method, config.quantization.load_in_4bit) == ("lora", True)


@pytest.mark.parametrize(
    ("model", "device", "method", "in_4_bits"),
    [
        ("someone/model-2b", "cuda", "full", False),
        ("someone/model-8b", "cuda", "lora", False),
        ("someone/model-70b", "cuda", "lora", True),
        ("someone/model-2b", "cpu", "lora", False),
    ],
)
def test_auto_of_oumis_wizard_is_decided_as_oumis_guide_says(
    tmp_path, monkeypatch, empty_cache, model, device, method, in_4_bits
):
    machine = Machine(Choice(device, "of this test"), 80 * 2**30, has_16_bits=True)
    monkeypatch.setattr("nbft.plan.advice.this_machine", lambda: machine)
    (tmp_path / "wizard.sh").write_text(
        f"oumi config create train --model {model} --training-type auto --output my.yaml\n"
    )
    config, report = import_file(tmp_path / "wizard.sh")
    assert (config.peft.method, config.quantization.load_in_4bit) == (method, in_4_bits)
    said = line(report, "cli.create.training-type")
    assert said.kind == "converted"
    assert said.note.startswith("decided here: ")
    assert "Oumi's guide" in said.note


def test_the_processes_of_unsloth_and_peft_studio(imported):
    for name in ("unsloth", "peft_studio"):
        assert (
            imported("num_gpus: 4\nlearning_rate: 1.0e-4", name)[0].distributed.num_processes == 4
        )


def test_tracker_names_of_peft_studio(imported, monkeypatch):
    monkeypatch.setattr(conversions, "is_installed", lambda name: name == "comet_ml")
    config, _ = imported(
        "experiment_tracker: cometml\nproject_name: p\nrun_name: r\ntags: [a]\nbase_model: a/b"
    )
    assert config.tracking.report_to == ["comet_ml"]
    assert (config.tracking.project, config.training.run_name) == ("p", "r")
    assert config.tracking.tags == ["a"]


def test_what_of_ernies_kernels_is_refused_is_said(imported):
    _, report = imported("fuse_linear: true\nmodel_name_or_path: a/b", "erniekit")
    assert "in one kernel already" in line(report, "fuse_linear").note


def test_callbacks_of_qefficient_have_our_arguments(imported):
    config, _ = imported(
        "callbacks: {QAICProfilerCallback: {start_step: 2, end_step: 3}, json_logger: }",
        "qefficient",
    )
    assert config.callbacks.callbacks == {
        "profiler": {"first_step": 2, "last_step": 3},
        "json_logger": {},
    }


# Values that no file should have

ODD = [None, True, -1, 3.7, "", [], {}, ["x"], {"a": 1}, "5e-5", 10**30, float("inf"), [{"a": 1}]]


def places(tree, way=()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*way, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*way, key))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_an_odd_value_is_a_sentence_or_taken(file):
    document = read_document(file)
    found = recognise(document)
    if document.language not in ("yaml", "json"):
        return
    for number, way in enumerate(places(document.tree)):
        for odd in (ODD[number % len(ODD)], ODD[(5 * number + 3) % len(ODD)]):
            changed = read_document(file)
            place = changed.tree
            for key in way[:-1]:
                place = place[key]
            place[way[-1]] = odd
            with contextlib.suppress(ConfigError):
                importer.import_document(changed, found)
