"""What a checkpoint holds besides weights, optimiser and random numbers, and what loading it keeps.

A resumed run continues the trajectory of one that was never interrupted: its weights and moments
have the number types that they had, float8 layers the scales that they had found, rows grouped by
length the order that their epoch began with, and the log the losses since the last one. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ExportableState, TrainerControl, TrainerState

from nbft.config import Config
from nbft.models.float8 import activation_scales
from nbft.models.peft_types import PeftType
from nbft.runs.checkpoints import step_of
from nbft.runs.provenance import Provenance, Resumption
from nbft.training.ranks import Ranks
from nbft.training.sampling import LengthSampler, VirtualEpochSampler
from nbft.training.sharding import taking_whole

_FILE = "nbft_state.pt"


def state_of(checkpoint: str | Path) -> dict[str, Any]:
    """Return what `save_rest` saved in a checkpoint; {} in one of somebody else."""
    file = Path(checkpoint) / _FILE
    if not file.is_file():
        return {}
    rest: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return rest


class _EndsHere(BaseException):
    """An evaluation that was due ends the training before its next step."""


class OwnResuming:
    """Part of a trainer: saves and restores the rest of its state."""

    nbft_config: Config
    nbft_order: LengthSampler | None
    nbft_virtual: VirtualEpochSampler | None
    nbft_ranks: Ranks
    nbft_provenance: Provenance | None
    nbft_resumption: Resumption | None
    nbft_peft_type: PeftType | None = None
    nbft_initial: Mapping[str, torch.Tensor] | None = None
    _owes_evaluation = False

    def save_rest(self, checkpoint: Path) -> None:
        """Save what transformers does not: of several processes the first, with sums over all."""
        trainer: Any = self
        (loss,) = self.nbft_ranks.total([float(trainer._tr_loss)])
        rest: dict[str, Any] = {
            "activation_scales": {
                name: scale.largest
                for name, scale in activation_scales(trainer.model).items()
                if scale.largest is not None
            },
            "loss": torch.tensor(loss / self.nbft_ranks.count),
            "last_logged_step": trainer._globalstep_last_logged,
        }
        if self.nbft_order is not None:
            rest["order"] = self.nbft_order.began
        kind = self.nbft_peft_type
        if kind is not None and (of_adapter := kind.state(trainer.model)) is not None:
            rest["adapter"] = of_adapter
        if self.nbft_initial is not None:
            rest["initial"] = self.nbft_initial
        if hasattr(trainer, "_total_train_tokens"):  # TRL's SFTTrainer
            measured = trainer._metrics["train"]
            rest["measured"] = {name: list(values) for name, values in measured.items()}
            rest["tokens"] = trainer._total_train_tokens
        if hasattr(trainer, "own_state"):  # nbft.training.preference
            rest["own"] = trainer.own_state()
        if not self.nbft_ranks.is_first:
            return
        torch.save(rest, checkpoint / _FILE)
        if self.nbft_provenance is not None:
            self.nbft_provenance.write(checkpoint)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        """Load the weights into the number types that they have; PEFT would make them float32."""
        trainer: Any = self
        target = trainer.model if model is None else model
        # torch 2.10 and later: the type of the gradient is one of its own, under O2.
        before = {
            n: (p.dtype, getattr(p, "grad_dtype", None)) for n, p in target.named_parameters()
        }
        kind, of_adapter = self.nbft_peft_type, state_of(checkpoint).get("adapter")
        if kind is not None and of_adapter is not None:
            kind.load_state(target, of_adapter)
        else:
            with taking_whole(target):
                super()._load_from_checkpoint(checkpoint, model)  # type: ignore[misc]
        for name, p in target.named_parameters():
            dtype, of_gradient = before[name]
            if p.dtype != dtype:
                p.data = p.data.to(dtype)
                if of_gradient is not None:
                    p.grad_dtype = of_gradient
        found = state_of(checkpoint).get("activation_scales", {})
        for name, scale in activation_scales(target).items():
            if name in found:
                scale.largest = found[name].to(trainer.args.device)

    def _load_best_model(self) -> None:
        """Load the weights of the best checkpoint, also where PEFT cannot."""
        trainer: Any = self
        kind, best = self.nbft_peft_type, trainer.state.best_model_checkpoint
        if kind is not None and (of_adapter := state_of(best).get("adapter")) is not None:
            kind.load_state(trainer.model, of_adapter)
        else:
            with taking_whole(trainer.model):
                super()._load_best_model()  # type: ignore[misc]

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        """Return the epochs done, and the batches done of the next one."""
        epochs, batches = super()._init_training_state(  # type: ignore[misc]
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None:
            state: Any = self.state  # type: ignore[attr-defined]
            if (step := self._own_step(state.global_step)) != state.global_step:
                state.global_step = step
                state.best_metric = state.best_global_step = state.best_model_checkpoint = None
                epochs, rest = divmod(step, num_update_steps_per_epoch)
                batches = rest * self.nbft_config.training.gradient_accumulation_steps
            self._find_best_checkpoint()
            self._owes_evaluation = self._is_evaluation_due(is_epoch_over=not batches)
            if self.nbft_virtual is not None:  # accelerate does not reach it in several processes
                self.nbft_virtual.set_epoch(epochs)
            if batches and self.nbft_order is not None:
                self.nbft_order.begin = state_of(resume_from_checkpoint).get("order")
        return epochs, batches

    def _own_step(self, step: int) -> int:
        """Return the steps done, each as large as those of this run."""
        return step if self.nbft_resumption is None else self.nbft_resumption.step

    def load_result(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint after which nothing is left to train."""
        trainer: Any = self
        self._load_from_checkpoint(str(checkpoint))
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self._find_best_checkpoint()
        if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            trainer._load_best_model()

    def _is_evaluation_due(self, *, is_epoch_over: bool) -> bool:
        """Whether the checkpoint was saved before an evaluation of its step, or instead of it."""
        trainer: Any = self
        state, strategy = trainer.state, trainer.args.eval_strategy
        is_due = strategy == "epoch" and is_epoch_over
        is_due |= strategy == "steps" and state.global_step % state.eval_steps == 0
        logs = [log for log in state.log_history if log.get("step") == state.global_step]
        return is_due and not any(name.startswith("eval_") for log in logs for name in log)

    def _find_best_checkpoint(self) -> None:
        """Find the best checkpoint where it is now; the state has its path at that time."""
        trainer: Any = self
        if (step := trainer.state.best_global_step) is not None:
            folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
            if folder.is_dir():
                trainer.state.best_model_checkpoint = str(folder)

    def _load_callback_state(self) -> None:
        """Restore what callbacks have counted, with the arguments that the config has now."""
        trainer: Any = self
        stored = trainer.state.stateful_callbacks
        of_name: dict[str, list[Any]] = {}
        for callback in [*trainer.callback_handler.callbacks, trainer.control]:
            if isinstance(callback, ExportableState):
                of_name.setdefault(type(callback).__name__, []).append(callback)
        for name, callbacks in of_name.items():
            states = stored.setdefault(name, [one.state() for one in callbacks])
            states = states if isinstance(states, list) else [states]
            stored[name] = states if len(callbacks) > 1 else states[-1]
            if not trainer.args.restore_callback_states_from_checkpoint:
                continue
            for callback, state in zip(callbacks, states[-len(callbacks) :], strict=False):
                if not isinstance(callback, TrainerControl):
                    for attribute, value in state.get("attributes", {}).items():
                        setattr(callback, attribute, value)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Train an epoch, or what is left of it, unless an evaluation that was due ends the run."""
        with contextlib.suppress(_EndsHere):
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore random numbers before the first resumed step, and what the next log sums.

        An evaluation draws random numbers, so one that is due comes first.
        """
        super()._load_rng_state(checkpoint)  # type: ignore[misc]
        trainer: Any = self
        if self._owes_evaluation:
            self._owes_evaluation = False
            trainer._determine_best_metric(trainer._evaluate(None, None), trial=None)
            if trainer.control.should_training_stop:
                raise _EndsHere
        rest = state_of(checkpoint) if checkpoint else {}
        is_same = checkpoint is not None and step_of(Path(checkpoint)) == trainer.state.global_step
        if rest and is_same:
            trainer._tr_loss += rest["loss"].to(trainer._tr_loss.device)
            trainer._globalstep_last_logged = rest["last_logged_step"]
        if "own" in rest:
            trainer.load_own_state(rest["own"])
        if "measured" in rest and hasattr(trainer, "_total_train_tokens"):
            trainer._metrics["train"].update(rest["measured"])
            trainer._total_train_tokens = rest["tokens"]
