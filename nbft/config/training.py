"""Settings of the training itself: how long, how much at a time, how fast it learns."""

from __future__ import annotations

from nbft import registry
from nbft.config.base import Section, key_of, setting


class Training(Section):
    """Length, batch, learning rate and seeds."""

    method: key_of(registry.trainers) = setting(  # type: ignore[valid-type]
        "sft",
        label="Training method",
        help="sft trains with TRL's SFTTrainer; base with the plain transformers Trainer; or a key "
        "of nbft.registry.trainers.",
        source="QEfficient training.type",
    )
    output_dir: str = setting(
        "runs",
        help="Folder that gets a new folder for every run.",
        source="nbft",
        level="basic",
    )
    run_name: str | None = setting(
        help="Name of the run; two words and a number are made up when empty.", source="nbft"
    )
    num_train_epochs: float = setting(
        1.0,
        label="Epochs",
        help="Passes over the training rows. Small sets: 3 to 5; large sets: 1 to 2.",
        unit="epochs",
        gt=0,
        le=10_000,
        usual=(1, 5),
        level="basic",
        source="usual practice; transformers has 3",
        why="Unsloth's guide has 1 to 5, more for small sets. When the held-out loss rises again, "
        "the passes are too many.",
    )
    num_samples_each_epoch: int | None = setting(
        label="Rows per epoch",
        help="Rows that count as one epoch: less or more than there are. All rows when empty.",
        unit="rows",
        ge=1,
        source="ERNIEKit num_samples_each_epoch",
        level="expert",
        why="The rows are still gone through in turn: no row comes twice before all came once.",
    )
    do_train: bool = setting(
        True,
        label="Train",
        help="Train; false only measures the held-out rows with the model as it is.",
        source="transformers TrainingArguments.do_train",
        level="expert",
    )
    resume_from_checkpoint: str | None = setting(
        help="Folder of a checkpoint or of a run to go on from; auto takes the newest of the same "
        "model under output_dir, where there is one.",
        source="transformers Trainer.train",
        suggestions=("auto",),
        level="expert",
        why="Run.resume() needs none of this: it goes on with the run itself.",
    )
    max_steps: int = setting(
        -1,
        label="Maximum steps",
        help="Stop after this many steps, whatever the epochs; -1 means no limit.",
        unit="steps",
        ge=-1,
        source="transformers TrainingArguments.max_steps",
    )
    per_device_train_batch_size: int = setting(
        4,
        label="Batch size per device",
        help="Rows that a device works on at a time.",
        unit="rows",
        ge=1,
        le=65_536,
        usual=(1, 64),
        level="basic",
        source="PEFT Studio batch_size",
        why="Larger is faster until the memory is full. Use gradient_accumulation_steps for a "
        "larger effective batch at no cost in memory. Unsloth's guide has 1 to 8. PEFT Studio "
        "advises a smaller one for slow training, and says itself that a larger one is faster: "
        "that is so.",
    )
    gradient_accumulation_steps: int = setting(
        4,
        help="Micro-batches added up before the weights change: effective batch = batch × this.",
        unit="micro-batches",
        ge=1,
        le=65_536,
        usual=(1, 64),
        source="PEFT Studio gradient_accumulation_steps",
        why="Unsloth's guide has 2 to 16: raise it when the batch cannot grow.",
    )
    learning_rate: float = setting(
        2e-4,
        help="How far each step moves the weights. LoRA: 1e-4 to 5e-4; full: 1e-5 to 5e-5.",
        gt=0,
        le=1,
        usual=(1e-5, 5e-4),
        level="basic",
        source="QLoRA, arXiv:2305.14314, appendix B",
        why="Too high and the loss jumps or becomes NaN; too low and nothing is learnt. An adapter "
        "takes about ten times the rate of full training. The guides disagree for LoRA: Unsloth has "
        "5e-5 to 1e-4, Oumi 1e-4, PEFT Studio 2e-4 and up to 5e-4 for small models, ERNIEKit 3e-4. "
        "Where the loss does not fall, go higher; where it is NaN, lower (PEFT Studio).",
    )
    max_grad_norm: float = setting(
        1.0,
        label="Gradient clipping norm",
        help="Gradients longer than this are shortened to it; 0 leaves them alone.",
        ge=0,
        source="transformers TrainingArguments.max_grad_norm",
    )
    seed: int = setting(
        42,
        help="Seed of everything random. The same seed on the same machine gives the same losses.",
        ge=0,
        le=2**32 - 1,
        source="transformers TrainingArguments.seed",
    )
    data_seed: int | None = setting(
        help="Seed of the order of rows; seed when empty.",
        ge=0,
        le=2**32 - 1,
        source="transformers TrainingArguments.data_seed",
    )
    stop_on_nan: bool = setting(
        True,
        help="Stop, with what was saved before, when the loss is not a number.",
        source="nbft: such a run does not come back",
    )
    full_determinism: bool = setting(
        False,
        help="Use only operations that repeat exactly; slower on a GPU.",
        source="transformers TrainingArguments.full_determinism",
        level="expert",
    )
    neftune_noise_alpha: float | None = setting(
        help="Noise on the embeddings while training, which can help instruction following.",
        gt=0,
        usual=(5, 15),
        source="NEFTune, arXiv:2310.05914",
        level="expert",
    )
