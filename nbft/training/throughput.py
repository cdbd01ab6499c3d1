"""Measures of a run: its layers, its tokens, its share of the device's peak.

Model FLOPs utilisation: a token costs 2 N FLOPs forward, 2 N backward through the activations and
2 N_t for the gradients of the trained weights, and attention 12 L H T more (4 of it forward); MFU is
these FLOPs per second over the device's peak. N counts the weights that a token is multiplied with:
not the input embeddings, which are looked up, and a head that shares their matrix once. Source: PaLM,
arXiv:2204.02311, appendix B, where all weights are trained and N_t = N. Called by
`nbft.training.trainer` and the worker.
"""

from __future__ import annotations

import contextlib
import functools
import math
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from nbft.config import Config
from nbft.methods import IGNORE_INDEX
from nbft.training.ranks import Ranks


def summary(model: Any) -> str:
    """Return the layers of a model as a table: name, class, parameters, trained ones."""
    lines = [f"{'parameters':>14} {'trained':>12}  layer"]
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own and not hasattr(module, "rounded"):
            continue
        size, trained = _sizes(own, [module])
        lines.append(f"{size:>14,} {trained:>12,}  {name or '(model)'} ({type(module).__name__})")
    size, trained = parameter_counts(model)
    lines.append(f"{size:>14,} {trained:>12,}  all, shared ones once")
    return "\n".join(lines) + "\n"


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return the number of weights of a model, and of those that are trained.

    Quantised weights count as those that they stand for: several 4-bit ones share a byte, and float8
    ones are no parameters to torch.
    """
    return _sizes(model.parameters(), model.modules())


def _sizes(parameters: Iterable[Any], modules: Iterable[Any]) -> tuple[int, int]:
    sizes = [(size_of(p), p.requires_grad) for p in parameters]
    rounded = sum(module.rounded.numel() for module in modules if hasattr(module, "rounded"))
    return rounded + sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)


def size_of(parameter: Any) -> int:
    """Return the number of weights in a parameter, which may be packed."""
    packed = getattr(parameter, "quant_state", None)  # of bitsandbytes, in 4 bits
    return int(parameter.numel() if packed is None else packed.shape.numel())


def multiplied_parameters(model: Any) -> tuple[float, float]:
    """Return the weights that each token is multiplied with, and how many of them are trained.

    Of a mixture's experts only the share counts that a token is sent to.
    """
    head = model.get_output_embeddings()
    kept = {id(head.weight)} if head is not None else set()
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    looked_up = {id(m.weight) for m in embeddings} - kept
    experts = getattr(model.config.get_text_config(), "num_experts_per_tok", None)
    total = trained = 0.0
    for name, p in model.named_parameters():
        # PEFT keeps the original beside a module that is trained in full.
        if id(p) in looked_up or ".original_module." in name or "lora_embedding_A" in name:
            continue
        share = experts / len(p) if experts and ".experts." in name and p.dim() == 3 else 1.0
        total += share * size_of(p)
        trained += share * size_of(p) * p.requires_grad
    return total + sum(m.rounded.numel() for m in model.modules() if hasattr(m, "rounded")), trained


def flops_per_token(
    parameters: float, trained: float, layers: int, attention_width: int, row_tokens: float
) -> float:
    """Return the FLOPs that a token of training costs.

    Args:
        parameters: Weights that a token is multiplied with.
        trained: Those of them that are trained.
        layers: Number of layers.
        attention_width: Width of all heads together.
        row_tokens: Tokens per row.

    >>> f"{flops_per_token(100, 100, 0, 0, 0):.0f}"
    '600'
    """
    return 4 * parameters + 2 * trained + 12 * layers * attention_width * row_tokens


def _attention_width(shape: Any) -> int:
    """Return the width of all heads together, which need not be that of the model."""
    head = getattr(shape, "head_dim", None)
    return int(head * shape.num_attention_heads) if head else int(shape.hidden_size)


class StepClock:
    """The time of a training's steps: what happens between them does not count.

    It runs from the first step on, over the loading of batches, and is stopped while the run logs,
    evaluates, saves, scores, answers a command or waits.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        """The time of all steps so far."""
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._seconds + running

    def start(self) -> None:
        """Let it run, if it does not."""
        if self._since is None:
            self._since = time.monotonic()

    def stop(self) -> None:
        """Let it stand still."""
        self._seconds, self._since = self.seconds, None

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave the time of a block out."""
        is_running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if is_running:
                self.start()


class Throughput:
    """Part of a trainer: counts tokens, and adds their statistics and MFU to each log.

    MFU is that of forward and backward pass.
    """

    nbft_ranks: Ranks
    nbft_config: Config
    nbft_peak_flops: float | None

    @functools.cached_property
    def nbft_clock(self) -> StepClock:
        """The clock of the steps."""
        return StepClock()

    def _inner_training_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and count from the start, also after memory ran out with a larger batch."""
        self.nbft_clock.stop()
        vars(self).pop("_seen", None)
        try:
            return super()._inner_training_loop(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.nbft_clock.stop()

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count a batch, and its time if a setting asks for it."""
        self.nbft_clock.start()
        if self._has_own_total and self.args.include_num_input_tokens_seen != "all":  # type: ignore[attr-defined]
            self._total_train_tokens = self.state.num_input_tokens_seen  # type: ignore[attr-defined]
        seen = self._count(inputs)
        ours = self.nbft_config.logging
        if not (ours.include_performance_metrics or ours.include_mfu):
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        device = self.args.device  # type: ignore[attr-defined]
        began = _moment(device)
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        if device.type not in ("cpu", *_WITH_EVENTS):
            loss.item()  # waits, since the host's clock knows only when it was launched
        seen["spans"].append((began, _moment(device)))
        return loss

    @property
    def _has_own_total(self) -> bool:
        """Whether the trainer is one of TRL's, whose num_tokens begins at 0 again after a resume."""
        return "_total_train_tokens" in vars(self)

    def _track_num_input_tokens(self, inputs: Any) -> None:
        """Count tokens in the trainer's state, which checkpoints keep.

        The count stays on the device until it is logged or saved. Joined rows have no padding, and
        all their tokens count; the library would leave out each end-of-sequence token that is also
        the padding token.
        """
        if isinstance(inputs, list):  # prompts: a trainer that answers them counts both itself
            return
        state, arguments = self.state, self.args  # type: ignore[attr-defined]
        wanted, mask = arguments.include_num_input_tokens_seen, inputs.get("attention_mask")
        if self._has_own_total and wanted == "no":
            state.num_input_tokens_seen = self._total_train_tokens
        elif wanted == "non_padding" and mask is None and "position_ids" in inputs:
            counted = _batch_counts(inputs, self._pads)["tokens"]
            state.num_input_tokens_seen += self._of_all(counted)
        elif wanted == "non_padding" and mask is not None:
            state.num_input_tokens_seen += self._of_all(mask.sum())
        elif wanted == "all" and "input_ids" in inputs:
            state.num_input_tokens_seen += self._of_all(inputs["input_ids"].numel())
        else:
            super()._track_num_input_tokens(inputs)  # type: ignore[misc]

    def _of_all(self, number: Any) -> Any:
        """Return the sum of a number over all processes; it stays on the device."""
        trainer: Any = self
        if trainer.args.world_size == 1:
            return number
        here = torch.as_tensor(number, device=trainer.args.device).long()
        return trainer.accelerator.gather(here).sum() // trainer.get_tp_size()

    def _read_totals(self) -> None:
        """Read the counts of tokens from the device, which waits for it."""
        state: Any = getattr(self, "state", None)
        if state is not None:
            state.num_input_tokens_seen = int(state.num_input_tokens_seen)
        if self._has_own_total:
            self._total_train_tokens = int(self._total_train_tokens)
            for measured in self._metrics.values():  # type: ignore[attr-defined]
                if "num_tokens" in measured:
                    measured["num_tokens"] = [self._total_train_tokens]

    @property
    def _pads(self) -> bool:
        return self.nbft_config.data.pad_to_multiple_of is not None

    def _count(self, inputs: Any) -> dict[str, Any]:
        if "_seen" not in vars(self):
            self._seen: dict[str, Any] = _nothing(self.nbft_clock.seconds)
        if "input_ids" in inputs:
            for name, number in _batch_counts(inputs, self._pads).items():
                self._seen[name] += number
        return self._seen

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Log, evaluate and save after a step, outside its time."""
        due = self.control  # type: ignore[attr-defined]
        if due.should_log or due.should_evaluate or due.should_save:
            tr_loss, grad_norm = self._read_all(tr_loss, grad_norm)
        with self.nbft_clock.stopped():
            super()._maybe_log_save_evaluate(  # type: ignore[misc]
                tr_loss, grad_norm, *args, **kwargs
            )

    def _read_all(self, tr_loss: torch.Tensor, grad_norm: Any) -> tuple[Any, Any]:
        """Read all that a log holds, which waits for the device once; return loss and norm."""
        trainer: Any = self
        if trainer.args.world_size > 1:  # the library gathers the loss
            self._seen_by_all()
            self._read_totals()
            return tr_loss, grad_norm
        state, own = trainer.state, vars(self)
        kept = {
            name: own[name] for name in ("_seen", "_metrics", "_total_train_tokens") if name in own
        }
        loss, norm, state.num_input_tokens_seen, kept = read_at_once(
            (tr_loss, grad_norm, state.num_input_tokens_seen, kept)
        )
        own.update(kept)
        self._read_totals()
        if trainer.control.should_log and state.global_step > trainer._globalstep_last_logged:
            tr_loss.zero_()  # the library does so with what it is given
        return np.float64(loss), norm  # it asks the loss for its mean and its item

    def _seen_by_all(self) -> None:
        """Let the counts since the last log be those of all processes."""
        if self.control.should_log and "_seen" in vars(self):  # type: ignore[attr-defined]
            names = [name for name in self._seen if name not in ("spans", "since")]
            sums = self.nbft_ranks.total([float(self._seen[name]) for name in names])
            alike = self.get_tp_size()  # type: ignore[attr-defined]
            self._seen |= {name: one / alike for name, one in zip(names, sums, strict=True)}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the numbers since the last log, in place of a speed over all that has happened."""
        self._read_totals()
        if "loss" in logs and "_seen" in vars(self):
            spans = self._seen.pop("spans")
            seen = {name: float(number) for name, number in self._seen.items()}
            seen["seconds"] = sum(_seconds(*span) for span in spans)
            now = self.nbft_clock.seconds
            if seen["tokens"]:
                logs["tokens_per_second"] = seen["tokens"] / max(now - seen["since"], 1e-9)
                logs |= self._numbers(seen)
            self._seen = _nothing(now)
            # Without the time of its start the library adds no speed that counts everything.
            args, kwargs = tuple(None for _ in args), dict.fromkeys(kwargs)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _numbers(self, seen: dict[str, float]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        seconds = max(seen["seconds"], 1e-9)
        if self.nbft_config.logging.include_performance_metrics:
            numbers |= {
                "rows_per_second": seen["rows"] / seconds,
                "compute_tokens_per_second": seen["tokens"] / seconds,
                "tokens_per_row": seen["tokens"] / seen["rows"],
                "trained_share": seen["trained"] / seen["tokens"],
                "padding_share": 1 - seen["tokens"] / seen["padded"],
            }
        if self.nbft_config.logging.include_mfu and self.nbft_peak_flops:
            model: Any = self.model  # type: ignore[attr-defined]
            shape = model.config.get_text_config()
            a_token = flops_per_token(
                *multiplied_parameters(model),
                shape.num_hidden_layers,
                _attention_width(shape),
                seen["tokens"] / seen["rows"],
            )
            numbers["model_flops_per_second"] = a_token * seen["tokens"] / seconds
            numbers["mfu"] = numbers["model_flops_per_second"] / self.nbft_peak_flops
        return numbers


def read_at_once(tree: Any) -> Any:
    """Return nested lists and dicts with a number in place of each tensor, read in one copy.

    Args:
        tree: Its tensors hold one number each, and are on one device.

    >>> read_at_once({"loss": torch.tensor(0.5), "tokens": [torch.tensor(2**40), 3]})
    {'loss': 0.5, 'tokens': [1099511627776, 3]}
    """
    leaves, structure = tree_flatten(tree)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if not tensors:
        return tree
    numbers = [t.float() if t.is_floating_point() else t.long() for t in tensors]
    as_bytes = torch.cat([number.detach().reshape(1).view(torch.uint8) for number in numbers])
    layout = "=" + "".join("f" if number.is_floating_point() else "q" for number in numbers)
    read = iter(struct.unpack(layout, bytes(as_bytes.tolist())))
    found = [next(read) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return tree_unflatten(found, structure)


def _nothing(since: float) -> dict[str, Any]:
    """Return the counts of no step.

    Args:
        since: Time of the steps so far.
    """
    counts = dict.fromkeys(("rows", "tokens", "padded", "trained"), 0.0)
    return {**counts, "spans": [], "since": since}


_WITH_EVENTS = ("cuda", "xpu")
"""Devices that note times themselves."""


def _moment(device: torch.device) -> Any:
    """Return the present: of a GPU an event among what it computes, which nothing waits for."""
    if device.type not in _WITH_EVENTS:
        return time.monotonic()
    event = torch.Event(device, enable_timing=True)
    event.record()
    return event


def _seconds(began: Any, ended: Any) -> float:
    """Return the seconds between two moments."""
    if isinstance(began, float | int):
        return float(ended - began)
    ended.synchronize()  # it has happened: the loss was read before
    return float(began.elapsed_time(ended)) / 1000


def _batch_counts(inputs: Any, pads: bool) -> dict[str, Any]:
    """Return the rows and tokens of a batch; tensors stay on its device, so that nothing waits.

    Args:
        inputs: input_ids [b, s] with attention_mask [b, s], or position_ids [1, s] of joined rows.
        pads: Whether joined rows may end in padding, each of whose positions is 0.
    """
    ids, mask, positions = inputs["input_ids"], inputs.get("attention_mask"), None
    if mask is None:
        positions = inputs.get("position_ids")
    rows: Any = len(ids)
    tokens: Any = ids.numel()
    if mask is not None:
        tokens = mask.sum()
    elif positions is not None and pads:
        rows = ((positions[:, :-1] == 0) & (positions[:, 1:] == 1)).sum()
        tokens = rows + (positions > 0).sum()
    elif positions is not None:
        rows = (positions == 0).sum()
    counts = {"rows": rows, "tokens": tokens, "padded": ids.numel()}
    labels, answers = inputs.get("labels"), inputs.get("completion_mask")
    if labels is not None and "decoder_input_ids" in inputs:  # its decoder reads the answers
        counts["trained"] = (labels != IGNORE_INDEX).sum()
        counts["tokens"], counts["padded"] = (
            tokens + counts["trained"],
            ids.numel() + labels.numel(),
        )
    elif labels is not None:  # nothing predicts the first token of a row
        counts["trained"] = (labels[:, 1:] != IGNORE_INDEX).sum()
    elif answers is not None:
        counts["trained"] = answers.sum()
    elif "targets" in inputs:
        counts["trained"] = inputs["targets"].numel()
    return counts


class TokenMeans:
    """Part of a trainer: SFTTrainer's measures of a log as means over its tokens.

    SFTTrainer itself takes the mean over batches, so that a short one counts as much as a long one.
    It also reads five numbers of each batch from the device, each of which waits for it; here they
    are read when they are logged.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss, and note over how many tokens its measures are means."""
        if not return_outputs and self._has_plain_loss:
            return self._plain_loss(model, inputs, num_items_in_batch)
        loss = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        for measured in self._measured():
            if len(measured["mean_token_accuracy"]) > len(measured[_TOKENS]):
                trained = (inputs["labels"][:, 1:] != IGNORE_INDEX).sum()
                # The library's measures are those of all processes.
                trainer: Any = self
                of_all = trainer.accelerator.gather(trained).sum()
                measured[_TOKENS].append(of_all // trainer.get_tp_size())
        return loss

    @property
    def _has_plain_loss(self) -> bool:
        """Whether SFTTrainer would take the mean of -log p over the trained tokens, on one device."""
        from trl import SFTTrainer

        trainer: Any = self
        usual: Any = super().compute_loss  # type: ignore[misc]
        return (
            usual.__func__ is SFTTrainer.compute_loss
            and trainer.model.training
            and trainer.args.loss_type == "nll"
            and trainer.args.world_size == 1
            and trainer.compute_loss_func is None
            and trainer.label_smoother is None
            and not trainer.aux_loss_enabled
        )

    def _plain_loss(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """Do what SFTTrainer does, and leave its measures on the device."""
        trainer: Any = self
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        trained = outputs.label_mask.sum()
        among = trained.clamp(min=1)
        measured = trainer._metrics["train"]
        measured["entropy"].append(outputs.entropy.detach().sum() / among)
        measured["mean_token_accuracy"].append(outputs.is_top1.sum() / among)
        measured[_TOKENS].append(trained)
        mask = inputs.get("attention_mask")
        trainer._total_train_tokens += inputs["input_ids"].numel() if mask is None else mask.sum()
        measured["num_tokens"] = [trainer._total_train_tokens]
        number = trained if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = -outputs.log_probs.sum() / torch.as_tensor(number).clamp(min=1)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the means."""
        for measured in self._measured():
            weights = _read(measured.pop(_TOKENS, ()))
            for name in ("mean_token_accuracy", "entropy"):
                if name not in measured:
                    continue
                values = measured[name] = _read(measured[name])
                if len(values) == len(weights) > 1 and any(weights):
                    products = [v * w for v, w in zip(values, weights, strict=True)]
                    measured[name] = [math.fsum(products) / math.fsum(weights)]
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _measured(self) -> list[Any]:
        """Return SFTTrainer's lists of measures, a value for each batch since the last log."""
        lists = getattr(self, "_metrics", {}).values()
        return [one for one in lists if "mean_token_accuracy" in one]


_TOKENS = "tokens of each batch"


def _read(numbers: Sequence[Any]) -> list[float]:
    """Return numbers as floats; those on a device are read at once."""
    devices = [number.device for number in numbers if isinstance(number, torch.Tensor)]
    if not devices:
        return [float(number) for number in numbers]
    return torch.stack([torch.as_tensor(n, device=devices[0]).float() for n in numbers]).tolist()
