"""The adapter alone, for PEFT and for vLLM, which put it on the base model."""

from __future__ import annotations

import json
import shlex
import shutil
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from nbft.export.format import Format, Options, Say
from nbft.models.adapters import base_name
from nbft.models.find import ALIASES

if TYPE_CHECKING:
    from nbft.export.trained import Trained
    from nbft.runs.folder import Run


class Adapter(Format):
    """A copy of the run's adapter and tokenizer that names its base model."""

    title = "adapter"
    about = "The adapter alone, for PEFT or vLLM, which put it on the base model."
    dtypes = ()
    options = ()

    def obstacle(self, run: Run) -> str:
        """Return why there is no adapter."""
        if run.adapter is not None and run.adapter.name.startswith("model"):
            return 'The whole model was trained, so it has no adapter. Use to="merged".'
        return ""

    def dtype(self, trained: Trained, options: Options) -> str:
        """Return the number type in which it is compared: the files are copied."""
        return trained.dtype

    def weight_bytes(self, run: Run, parameters: int, dtype: str) -> int:
        """Return the bytes of the run's adapter."""
        folder = run.adapter
        assert folder is not None
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Copy the adapter."""
        source = trained.run.adapter
        assert source is not None
        own = shutil.ignore_patterns("training_args.bin")  # a pickle with paths of this machine
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=own)
        file = folder / "adapter_config.json"
        about = json.loads(file.read_text(encoding="utf-8"))
        about["base_model_name_or_path"] = hub_base(trained.run)
        file.write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")

    def read(self, folder: Path, trained: Trained) -> tuple[Any, Any]:
        """Load the base model once more, and the adapter on it with PEFT."""
        import peft
        from transformers import AutoTokenizer

        from nbft.runs.folder import load_base

        config = trained.run.config
        for_answers = config.quantization.bits is None
        base, _ = load_base(config, trained.dtype, for_answers=for_answers)
        model = peft.PeftModel.from_pretrained(base, str(folder)).eval()
        model.generation_config.eos_token_id = trained.ends
        trust = config.model.trust_remote_code
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)

    def read_by(self) -> str:
        """Return what reads it."""
        return f"peft {version('peft')}"

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the lines that load it."""
        run = trained.run
        assert run.adapter is not None
        about = json.loads((run.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        generates = (
            "\n# PEFT repeats the virtual tokens otherwise:\nmodel.generation_config.use_cache = False"
            if about.get("peft_type") == "PROMPT_TUNING"
            else ""
        )
        python = (
            "```python\n"
            "from peft import AutoPeftModelForCausalLM\n"
            "from transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{folder}", dtype="auto")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}"){generates}\n'
            "```"
        )
        if about.get("peft_type") != "LORA":
            return python
        serve = (
            f"vllm serve {shlex.quote(hub_base(run))} --enable-lora --max-lora-rank {about['r']}"
        )
        lora = shlex.quote(f"{run.id}={folder}")
        return f"{python}\n\n```bash\n{serve} --lora-modules {lora}\n```"


def hub_base(run: Run) -> str:
    """Return the name of the base model, as the hub knows it where it has one of our short names."""
    name = base_name(run.config)
    return ALIASES.get(name, name)


FORMAT = Adapter()
