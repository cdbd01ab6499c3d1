"""Settings of the training itself: length, batch size, learning rate and seeds."""

from __future__ import annotations

from nbft import registry
from nbft.config.base import Section, expert_setting, key_of, setting


class Training(Section):
    """Training length, batch size, learning rate and seeds."""

    method: key_of(registry.trainers) = setting(  # type: ignore[valid-type]
        "sft",
        label="Training method",
        help="sft trains with TRL's SFTTrainer, base with the plain transformers Trainer; dpo, orpo "
        "and cpo learn from pairs of answers, kto from labelled ones; reward trains a reward model on "
        "pairs; grpo and rloo learn from rewards; or a key of nbft.registry.trainers.",
        source="QEfficient training.type",
    )
    output_dir: str = setting(
        "runs",
        help="Folder in which each run gets its own subfolder.",
        source="nbft",
        level="basic",
        why="Choose a folder that outlives the machine: on Colab, for example, one in a mounted Drive.",
    )
    run_name: str | None = setting(
        help="Name of the run; generated (two words and a number) when empty.", source="nbft"
    )
    share_with_group: bool = expert_setting(
        False,
        help="Let the group of the run's folder read the run; otherwise only you can.",
        source="nbft: a run holds your rows, so it is private by default",
        why="The folder gets mode 2750 and its files 0640, instead of 0700 and 0600. The group is "
        "that of output_dir if its setgid bit is set, and otherwise your own.",
    )
    num_train_epochs: float = setting(
        1.0,
        label="Epochs",
        help="Number of passes over the training data. Small datasets need more than large ones.",
        unit="epochs",
        gt=0,
        le=10_000,
        usual=(1, 5),
        level="basic",
        source="usual practice; transformers has 3",
        why="Unsloth's guide recommends 1 to 5, more for small datasets. If the held-out loss "
        "starts to rise again, use fewer epochs.",
    )
    num_samples_each_epoch: int | None = expert_setting(
        label="Rows per epoch",
        help="Rows that count as one epoch, more or fewer than there are; all when empty.",
        unit="rows",
        ge=1,
        source="ERNIEKit num_samples_each_epoch",
        why="Rows are still used in turn: no row repeats before all have been used.",
    )
    do_train: bool = expert_setting(
        True,
        label="Train",
        help="Train the model; false only evaluates the current model on the held-out rows.",
        source="transformers TrainingArguments.do_train",
    )
    resume_from_checkpoint: str | None = expert_setting(
        help="Checkpoint or run folder to continue from; auto uses the newest one of the same "
        "model under output_dir, if any.",
        source="transformers Trainer.train",
        suggestions=("auto",),
        why="Not needed for Run.resume(), which continues the run itself.",
    )
    resume_despite_changes: bool = expert_setting(
        False,
        help="Resume although the rows, their functions, the chat template, the tokenizer or the "
        "base model have changed since the checkpoint was saved.",
        source="nbft: the steps before and after would otherwise be trained on different things",
        why="What has changed is named in the run's notes. Run.resume() asks for it each time.",
    )
    max_steps: int = setting(
        -1,
        label="Maximum steps",
        help="Stop after this many steps, regardless of epochs; -1 means no limit.",
        unit="steps",
        ge=-1,
        source="transformers TrainingArguments.max_steps",
    )
    max_seconds: float | None = setting(
        label="Time budget",
        help="Stop with a checkpoint after this much time, loading included; no limit when empty.",
        unit="seconds",
        gt=0,
        source="nbft",
        why="A run that is resumed has the whole budget again. Time in a pause does not count.",
    )
    max_tokens: int | None = setting(
        label="Token budget",
        help="Stop with a checkpoint after training on this many tokens; no limit when empty.",
        unit="tokens",
        ge=1,
        source="nbft",
    )
    max_energy_kwh: float | None = setting(
        label="Energy budget (kWh)",
        help="Stop with a checkpoint after this much energy; no limit when empty.",
        unit="kWh",
        gt=0,
        source="nbft",
        why="Counted as time × the highest power of the device: its data sheet's for a listed GPU, "
        "15 watts for each core that is used otherwise. Nothing is measured.",
    )
    max_cost_usd: float | None = setting(
        label="Cost budget (USD)",
        help="Stop with a checkpoint after this cost; no limit when empty.",
        unit="USD",
        gt=0,
        source="nbft",
        why="Counted as time × compute.price_usd_per_hour, which must be set.",
    )
    per_device_train_batch_size: int = setting(
        4,
        label="Batch size per device",
        help="Number of rows that a device processes at a time.",
        unit="rows",
        ge=1,
        le=65_536,
        usual=(1, 64),
        level="basic",
        source="PEFT Studio batch_size",
        why="Larger is faster until memory is full. Use gradient_accumulation_steps for a larger "
        "effective batch at no extra memory. Unsloth's guide recommends 1 to 8. PEFT Studio "
        "recommends a smaller one for slow training, but also says, correctly, that larger is "
        "faster.",
    )
    gradient_accumulation_steps: int = setting(
        4,
        help="Micro-batches accumulated before each update: effective batch = batch × this.",
        unit="micro-batches",
        ge=1,
        le=65_536,
        usual=(1, 64),
        source="PEFT Studio gradient_accumulation_steps",
        why="Unsloth's guide recommends 2 to 16: increase it when the batch size cannot grow.",
    )
    learning_rate: float = setting(
        2e-4,
        help="How far each step moves the weights. LoRA: 1e-4 to 5e-4; full: 1e-5 to 5e-5.",
        gt=0,
        le=1,
        usual=(1e-5, 5e-4),
        level="basic",
        source="QLoRA, arXiv:2305.14314, appendix B",
        why="If it is too high, the loss jumps or becomes NaN; if too low, the model barely "
        "learns. An adapter needs about ten times the learning rate of full training. The guides "
        "disagree for LoRA: Unsloth recommends 5e-5 to 1e-4, Oumi 1e-4, PEFT Studio 2e-4 and up "
        "to 5e-4 for small models, ERNIEKit 3e-4. If the loss does not fall, increase it; if it "
        "is NaN, reduce it (PEFT Studio).",
    )
    max_grad_norm: float = setting(
        1.0,
        label="Gradient clipping norm",
        help="Clip gradients to this norm; 0 disables clipping.",
        ge=0,
        source="transformers TrainingArguments.max_grad_norm",
    )
    seed: int = setting(
        42,
        help="Random seed. The same seed on the same machine gives the same losses.",
        ge=0,
        le=2**32 - 1,
        source="transformers TrainingArguments.seed",
    )
    data_seed: int | None = setting(
        help="Seed for the order of the rows; seed when empty.",
        ge=0,
        le=2**32 - 1,
        source="transformers TrainingArguments.data_seed",
    )
    stop_on_nan: bool = setting(
        True,
        help="Stop when the loss becomes NaN, keeping what was saved before.",
        source="nbft: such a run does not come back",
    )
    full_determinism: bool = expert_setting(
        False,
        help="Use only deterministic operations; slower on a GPU.",
        source="transformers TrainingArguments.full_determinism",
    )
    neftune_noise_alpha: float | None = expert_setting(
        help="Noise on the embeddings during training, which can improve instruction following.",
        gt=0,
        usual=(5, 15),
        source="NEFTune, arXiv:2310.05914",
    )
