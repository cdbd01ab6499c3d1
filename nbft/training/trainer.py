"""From a config and its decisions to a ready trainer.

Each method's trainer has one subclass. Its parts are in files of their own, each with its
mathematics, and leave everything to the library unless a setting asks for them. Called by
`nbft.training.worker`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers import TrainerCallback, TrainerControl

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions, keeps_float32
from nbft.devices import peak_flops
from nbft.errors import ConfigError, Problem
from nbft.hardware import available_devices
from nbft.interop.huggingface import training_arguments
from nbft.methods import method_of
from nbft.models.eva import eva_ranks
from nbft.models.float8 import activation_scales, use_float8
from nbft.models.freezing import freeze, freeze_except
from nbft.models.initial_weights import adapter_matrices, take_out
from nbft.models.peft_types import PeftType, peft_type_of
from nbft.models.peft_types.lora import changes_weights
from nbft.models.subclass import extend
from nbft.models.targets import layer_problems, layers_of, named_targets
from nbft.plan.memory import file_layers
from nbft.plan.schedule import total_steps
from nbft.runs.provenance import Provenance, Resumption
from nbft.runs.requests import Unfinished
from nbft.training.callbacks.stopping import EarlyStoppingCallback
from nbft.training.fast.attention import use_row_attention
from nbft.training.fast.batches import Measured
from nbft.training.fast.head import use_loss_head
from nbft.training.fast.lora import use_lean_adapters
from nbft.training.fast.norm import use_lean_norms
from nbft.training.fp8 import FakeFloat8Linear, StepCount
from nbft.training.optim import OwnOptimizer, OwnScheduler, is_loraplus
from nbft.training.precision import OwnPrecision, low_weights, train_in_float32
from nbft.training.ranks import ALONE, Ranks
from nbft.training.recompute import use_granularity
from nbft.training.resuming import OwnResuming, state_of
from nbft.training.room import Room
from nbft.training.rows import TrainingRows
from nbft.training.sampling import OwnSampling
from nbft.training.saving import OwnSaving
from nbft.training.sharding import settle, shard, whole
from nbft.training.tensor_parallel import Split
from nbft.training.throughput import StepClock, Throughput, TokenMeans


class OwnTrainer(
    TokenMeans,
    Throughput,
    OwnOptimizer,
    OwnScheduler,
    OwnSampling,
    OwnSaving,
    OwnResuming,
    OwnPrecision,
):
    """What nbft adds to a trainer; other arguments are those of the trainer."""

    def __init__(
        self,
        *args: Any,
        config: Config,
        decisions: Decisions,
        rows: TrainingRows,
        room: Room | None,
        clock: StepClock | None,
        begin: Callable[[str, int, str], None] | None,
        say: Callable[..., None] | None,
        after_step: Callable[[Any], bool] | None,
        ranks: Ranks,
        provenance: Provenance | None,
        resumption: Resumption | None,
        **kwargs: Any,
    ) -> None:
        self.nbft_room, self.nbft_ranks = room, ranks
        self.nbft_after_step = after_step
        self.nbft_split: Split | None = None
        self.nbft_provenance, self.nbft_resumption = provenance, resumption
        if clock is not None:
            self.nbft_clock = clock
        self.nbft_begin = begin or (lambda *_: None)
        self.nbft_say = say or (lambda *_, **__: None)
        self.nbft_config, self.nbft_decisions, self.nbft_rows = config, decisions, rows
        device = decisions.device.value
        self.nbft_peak_flops = peak_flops(
            device, config.compute.peak_tflops, available_devices().get(device, "")
        )
        super().__init__(*args, **kwargs)

    @functools.cached_property
    def _parameters_but_embeddings(self) -> int:
        model: Any = self.model  # type: ignore[attr-defined]
        return int(model.num_parameters(exclude_embeddings=True))

    def floating_point_ops(self, inputs: Any) -> int:
        """Return the operations of a batch; counting parameters each time would take milliseconds."""
        usual: Any = super().floating_point_ops  # type: ignore[misc]
        is_own = usual.__func__ is not transformers.Trainer.floating_point_ops
        ids = None if isinstance(inputs, list) else inputs.get("input_ids")
        if is_own or ids is None or not hasattr(self.model, "num_parameters"):  # type: ignore[attr-defined]
            return int(usual(inputs))
        return int(6 * ids.numel() * self._parameters_but_embeddings)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """Log, evaluate and save after a step; an evaluation that is cut short saves too."""
        usual: Any = super()._maybe_log_save_evaluate
        self.nbft_ranks.agree_on(self.control)  # type: ignore[attr-defined]
        try:
            usual(*args, **kwargs)
        except Unfinished:  # the callback that cut it short has asked for a checkpoint only
            usual(*args, **kwargs)
        control: Any = self.control  # type: ignore[attr-defined]
        if self.nbft_after_step is not None and not control.should_training_stop:
            with self.nbft_clock.stopped():
                is_over = self.nbft_after_step(self)
            if is_over:  # it has asked for a checkpoint only
                usual(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Measure the held-out rows, which is said first; the first process adds its scores."""
        self.nbft_begin("evaluating", self.nbft_step, "Measuring the held-out loss …")
        measured = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        settle(self.model)  # type: ignore[attr-defined]
        self.nbft_ranks.agree_on(self.control)  # type: ignore[attr-defined]
        return self.nbft_ranks.every(measured)[0]

    def get_tp_size(self) -> int:
        """Return how many processes split a layer, and so read the same rows."""
        return self.nbft_config.distributed.alike

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a batch; what processes that split layers hold alike stays so."""
        trainer: Any = self
        if self.nbft_split is None:
            return super().training_step(*args, **kwargs)
        self.nbft_split.begin_batch(self.nbft_config.training.seed, self.nbft_step)
        loss = super().training_step(*args, **kwargs)
        if trainer.accelerator.sync_gradients:
            self.nbft_split.finish_gradients()
        return loss

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """Move a model to its device, unless it may fit there in shards only."""
        if not self.nbft_config.distributed.shards:
            super()._move_model_to_device(model, device)  # type: ignore[misc]

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """Return the norm of all gradients, also where each process has shards of them."""
        return whole(super()._get_grad_norm(*args, **kwargs))  # type: ignore[misc]

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, which is said first."""
        self.nbft_begin("checkpoint", self.nbft_step, "Saving a checkpoint …")
        super()._save_checkpoint(*args, **kwargs)

    @property
    def nbft_step(self) -> int:
        """Optimiser steps done so far; `_step` is TRL's count of micro-batches."""
        return int(self.state.global_step)  # type: ignore[attr-defined]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log numbers without the entropy, which our head does not compute."""
        if _head(self.nbft_config, self.nbft_decisions) is not None:
            for measured in getattr(self, "_metrics", {}).values():  # SFTTrainer's
                measured.pop("entropy", None)
        super().log(logs, *args, **kwargs)


@functools.cache
def trainer_class(base: type, *parts: type) -> type:
    """Return the subclass of SFTTrainer, Trainer or one of somebody's own."""
    return type(base.__name__, (OwnTrainer, *parts, base), {"__doc__": base.__doc__})


def build_trainer(
    config: Config,
    decisions: Decisions,
    model: Any,
    tokenizer: Any,
    rows: TrainingRows,
    *,
    output_dir: Path,
    callbacks: Sequence[TrainerCallback],
    resumption: Resumption | None = None,
    provenance: Provenance | None = None,
    room: Room | None = None,
    clock: StepClock | None = None,
    begin: Callable[[str, int, str], None] | None = None,
    say: Callable[..., None] | None = None,
    after_step: Callable[[Any], bool] | None = None,
    ranks: Ranks = ALONE,
) -> Any:
    """Build the trainer that a config asks for.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
        model: The base model; gets an adapter unless all of it is trained.
        tokenizer: Its tokenizer.
        rows: Training and held-out rows.
        output_dir: Folder of the checkpoints.
        callbacks: Added to those of the config.
        resumption: How it goes on from a checkpoint; the evaluation before the first step has then
            been done.
        provenance: What it is trained on, which its checkpoints say.
        room: Waits while the disk is full.
        clock: Measures the time of the steps.
        begin: Called with the stage, the step and a text when it begins to evaluate or to save.
        say: Called with an event and its fields by trainers that report more than numbers.
        after_step: Called with the trainer when all that follows a step is done; returns whether the
            training ends there with what its control asks for.
        ranks: Which of several processes this is.
    """
    method = method_of(config)
    arguments = training_arguments(config, decisions)
    if rows.held_out is None:
        arguments |= {"eval_strategy": "no", "eval_on_start": False}
    if resumption is not None:
        arguments["eval_on_start"] = False
    check_layers(config, model)
    checkpoint = None if resumption is None else state_of(resumption.checkpoint)
    adapter = None
    kind = peft_type_of(config)
    is_new = kind is not None and not isinstance(model, peft.PeftModel)
    if kind is not None and is_new:
        adapter = _adapter(config, kind, model, tokenizer, rows, resumption)
    _prepare_model(model, decisions)
    placed: dict[str, Any] = {}
    if not method.takes_peft_config:
        if config.memory.gradient_checkpointing and config.peft.trains_adapter:
            model.enable_input_require_grads()
        placed["data_collator"] = method.collator(config, decisions, tokenizer, model)
    is_cast = keeps_float32(config, decisions)
    prepares = kind is not None and is_new and kind.prepares(config)
    if method.takes_peft_config and not is_cast and not prepares:
        placed["peft_config"] = adapter
    elif adapter:
        model = peft.get_peft_model(model, adapter)
    initial: Mapping[str, torch.Tensor] | None = (checkpoint or {}).get("initial")
    if initial is not None and is_new:
        take_out(model, initial)
    elif kind is not None and prepares and resumption is None:
        kind.prepare(model, config, rows.known.dataset, tokenizer.pad_token_id)
        initial = adapter_matrices(model) if changes_weights(config.peft) else None
    in_float32 = {n: p.data for n, p in model.named_parameters() if is_cast and p.requires_grad}
    asked_arguments = method.arguments_class()(output_dir=str(output_dir), **arguments)
    # A kernel may have started CUDA with several GPUs; the model is on one of them.
    asked_arguments._n_gpu = min(1, asked_arguments.n_gpu)
    trainer = trainer_class(method.trainer_class(), *method.trainer_parts())(
        model=model,
        **placed,
        args=asked_arguments,
        train_dataset=rows.train,
        eval_dataset=_measured(rows, config),
        processing_class=tokenizer,
        callbacks=_in_order([*asked_callbacks(config), *callbacks], ranks),
        config=config,
        decisions=decisions,
        rows=rows,
        room=room,
        clock=clock,
        begin=begin,
        say=say,
        after_step=after_step,
        ranks=ranks,
        provenance=provenance,
        resumption=resumption,
    )
    trainer.nbft_peft_type = kind
    if kind is not None and is_new:
        kind.fit_types(trainer.model)
        kind.join(trainer, config)
    trainer.nbft_initial = initial
    for name, p in trainer.model.named_parameters():
        if name in in_float32:
            p.data = in_float32[name]
    if decisions.scales_float16:
        train_in_float32(trainer.model)
    trainer.remove_callback(transformers.PrinterCallback)
    if config.data.collate_fn != "dynamic_padding":
        trainer.data_collator = registry.collators.get(config.data.collate_fn)(tokenizer)
    trainer.data_collator = Measured(
        trainer.data_collator,
        rows=decisions.uses("row_attention"),
        targets=_head(config, decisions) is not None,
    )
    _finish_model(trainer, config, decisions)
    return trainer


def _adapter(
    config: Config,
    kind: PeftType,
    model: Any,
    tokenizer: Any,
    rows: TrainingRows,
    resumption: Resumption | None,
) -> Any:
    """Return PEFT's config of a new adapter.

    Raises:
        ConfigError: The run has too few steps for it.
    """
    steps = total_steps(config, rows.sequences)
    if problems := list(kind.step_problems(config.peft, steps)):
        raise ConfigError(problems)
    more = kind.arguments(config, steps)
    more |= named_targets(config, kind, model)
    more |= method_of(config).adapter_arguments(config)
    if "tokenizer_name_or_path" in more:
        more["tokenizer_name_or_path"] = tokenizer.name_or_path
    if resumption is not None and config.peft.init_lora_weights == "eva":
        more |= eva_ranks(resumption.checkpoint)
    return kind.peft_config(more)


def check_layers(config: Config, model: Any) -> None:
    """Check the names of layers in a config against the model itself.

    Raises:
        ConfigError: A name matches no layer, or one that cannot be trained as asked.
    """
    layers = layers_of(model.get_base_model() if isinstance(model, peft.PeftModel) else model)
    if (named := file_layers(config)) is not None:  # PEFT knows the experts of a mixture by these
        layers = dataclasses.replace(
            layers,
            names=layers.names | named.names,
            adaptable=layers.adaptable | named.adaptable,
        )
    if problems := list(layer_problems(config, layers)):
        raise ConfigError(problems)


def _measured(rows: TrainingRows, config: Config) -> Any:
    """Return the held-out rows, at most as many as evaluation.max_eval_steps batches hold."""
    if rows.held_out is None:
        return None
    method = rows.held_out.method
    batch_rows = config.evaluation.per_device_eval_batch_size
    held_out = rows.held_out.dataset.select_columns(method.trained_columns)
    held_out = method.arrange(held_out, config, batch_rows)
    if (steps := config.evaluation.max_eval_steps) is None:
        return held_out
    most = steps * config.evaluation.per_device_eval_batch_size
    return held_out.select(range(min(len(held_out), most)))


def _prepare_model(model: Any, decisions: Decisions) -> None:
    """Change the base model before the trainer gets it."""
    if decisions.uses("row_attention"):
        use_row_attention(model)
    if decisions.uses("lean_norm"):
        use_lean_norms(model)


def _finish_model(trainer: Any, config: Config, decisions: Decisions) -> None:
    """Change the model, adapter included, and its optimiser where no argument does it."""
    model, memory, precision = trainer.model, config.memory, config.precision
    device = decisions.device.value
    if head := _head(config, decisions):
        inner = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        use_loss_head(inner, **head)
    if decisions.uses("fused_lora"):
        use_lean_adapters(model)
    freeze_except(model, config.model.unfrozen_parameters)
    freeze(model, config.model.freeze_layers)
    if (steps := config.model.dropout_warmup_steps) is not None:
        from nbft.models.dropout import DropoutWarmup

        shares = config.model.attention_dropout, config.model.hidden_dropout
        trainer.add_callback(DropoutWarmup(*shares, steps))
    mixed_precision = decisions.mixed_precision.value
    if mixed_precision != "no" and precision.fp16_opt_level == "O2":
        low_weights(model, mixed_precision, master_grad=precision.amp_master_grad)
    if config.distributed.shards:
        trainer.nbft_split = shard(model, config, trainer.nbft_ranks, device)
        if trainer.nbft_split is not None:
            trainer.nbft_split.join(trainer)
        # It has its device and averages its gradients: DistributedDataParallel is not for it.
        prepare = trainer.accelerator.prepare_model
        trainer.accelerator.prepare_model = functools.partial(prepare, evaluation_mode=True)
    if is_loraplus(config):
        trainer.create_optimizer()
    if precision.fp8:
        use_float8(
            model,
            FakeFloat8Linear,
            apply_hadamard=precision.apply_hadamard,
            online_steps=precision.apply_online_actscale_step,
        )
    if scales := activation_scales(model):
        trainer.add_callback(StepCount(list(scales.values())))
    if memory.gradient_checkpointing and memory.recompute_granularity != "full":
        use_granularity(model, memory.recompute_granularity, memory.gradient_checkpointing_kwargs)
    if not memory.release_grads:
        extend(model, _KeepsGradients)
    if config.checkpoint.save_on_epoch_end:
        trainer.add_callback(SaveOnEpochEnd())
    extend(model, _WalksOnce)
    model.walked_layers = list(model.modules())


def _head(config: Config, decisions: Decisions) -> dict[str, bool] | None:
    """Return how the loss is computed from hidden states; None leaves it to the library."""
    if method_of(config).computes_loss:
        return None
    memory = config.memory
    sparse, fused = memory.use_sparse_head_and_loss_fn, memory.use_fused_head_and_loss_fn
    if sparse or fused:
        return {"sparse": sparse, "fused": fused}
    return {"sparse": True, "fused": True} if decisions.uses("label_head") else None


class _WalksOnce:
    """Part of a model's class: what happens at each step does not walk over all its modules again.

    Walking over 2,500 modules takes milliseconds: `train`, called before each batch, skips modules
    already in its mode; clipping and `zero_grad` ask for the parameters.

    Attributes:
        walked_layers: The model and all its layers; none is added later.
    """

    walked_layers: Sequence[torch.nn.Module]

    def train(self, mode: bool = True) -> Any:
        """Switch to training or back."""
        if all(layer.training == mode for layer in self.walked_layers):
            return self
        return super().train(mode)  # type: ignore[misc]

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Return the parameters in the usual order, each once."""
        if not recurse:
            return super().parameters(recurse)  # type: ignore[misc,no-any-return]
        every = (p for layer in self.walked_layers for p in layer._parameters.values())
        return iter(dict.fromkeys(p for p in every if p is not None))


class _KeepsGradients:
    """Part of a model's class: gradients become 0 instead of being freed."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to 0."""
        super().zero_grad(set_to_none=False)  # type: ignore[misc]


class SaveOnEpochEnd(TrainerCallback):
    """Saves at the end of each epoch, in addition to the steps of save_strategy."""

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint."""
        control.should_save = True


def asked_callbacks(config: Config) -> list[TrainerCallback]:
    """Return the callbacks of callbacks.callbacks, early stopping, tracking and logging.

    Raises:
        ConfigError: A callback does not take its arguments, or cannot be made.
    """
    ours = config.callbacks
    asked = dict(ours.callbacks)
    if not config.logging.disable_tqdm:
        asked.setdefault("enhanced_progressbar", {})
    callbacks = [_made(key, arguments) for key, arguments in asked.items()]
    if "phoenix" in config.tracking.report_to:
        from nbft.training.callbacks.phoenix import PhoenixCallback

        tracking = config.tracking
        about = (tracking.project, config.training.run_name, tracking.tags)
        callbacks.append(PhoenixCallback(*about, config.model.model_name))
    if (patience := ours.early_stopping_patience) is not None:
        early = EarlyStoppingCallback(patience, ours.early_stopping_threshold)
        callbacks.append(early)
    return callbacks


def _in_order(callbacks: Sequence[TrainerCallback], ranks: Ranks) -> list[TrainerCallback]:
    """Return callbacks with early stopping last: the scores that it judges are measured by others.

    Of several processes the first decides, which has the scores.
    """

    def stops(one: TrainerCallback) -> bool:
        return isinstance(one, transformers.EarlyStoppingCallback)

    return sorted((one for one in callbacks if ranks.is_first or not stops(one)), key=stops)


def _made(key: str, arguments: dict[str, Any]) -> TrainerCallback:
    try:
        return registry.callbacks.get(key)(**arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        why = f"cannot be created: {str(error).splitlines()[0].rstrip('.')}."
        fix = "Correct its arguments, or leave it out."
        field = f"callbacks.callbacks.{key}"
        raise ConfigError(Problem(field, arguments or None, why, fix)) from error
