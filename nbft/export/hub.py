"""The Hugging Face Hub: a merged model or an adapter, with a model card, after its proof passed."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from nbft.errors import RunError
from nbft.export.adapter import FORMAT as ADAPTER
from nbft.export.adapter import hub_base
from nbft.export.format import Format, Options, Say
from nbft.export.merged import FORMAT as MERGED
from nbft.models.find import first_line, is_hub_name
from nbft.presented import in_notebook

if TYPE_CHECKING:
    from nbft.export.trained import Trained
    from nbft.runs.folder import Run


class Hub(Format):
    """A repository of the person who is logged in."""

    title = "model on the Hub"
    about = (
        "Uploads the model, its tokenizer and a README.md with settings, losses, scores and the proof "
        "to the Hugging Face Hub. It needs a login: run `hf auth login` in a terminal."
    )
    dtypes = MERGED.dtypes
    options = ("repo_id", "private", "adapter", "dtype")

    def writer(self, options: Options) -> Format:
        """Return the format that writes the folder to upload."""
        return ADAPTER if options.adapter else MERGED

    def check_options(self, options: Options) -> None:
        """Check the name of the repository.

        Raises:
            RunError: It is missing, or no name on the Hub.
        """
        if not options.repo_id:
            raise RunError("repo_id: is missing. Name the repository as owner/name.")
        if not is_hub_name(options.repo_id):
            name = options.repo_id
            raise RunError(f"repo_id={name!r}: is no name on the Hub. Write it as owner/name.")

    def question(self, run: Run, options: Options) -> str:
        """Return what would be uploaded, where to, and who could see it."""
        what = "adapter" if options.adapter else "merged model"
        seen_by = "for you alone" if options.private else "for everybody"
        return f"Upload the {what} of {run.id} to huggingface.co/{options.repo_id}, {seen_by}?"

    def check(self, run: Run, options: Options) -> None:
        """Check the login, and ask.

        Raises:
            RunError: Nobody is logged in, or the person says no.
        """
        from huggingface_hub import get_token

        name = options.repo_id
        if not get_token():
            raise RunError(f"{name}: nobody is logged in to the Hub. Run: hf auth login")
        if not options.yes and not _confirmed(self.question(run, options)):
            raise RunError(f"{name}: nothing was uploaded.")

    def front_matter(self, trained: Trained, options: Options) -> dict[str, Any]:
        """Return the metadata of the model card."""
        base = hub_base(trained.run)
        about: dict[str, Any] = {"library_name": "peft" if options.adapter else "transformers"}
        if is_hub_name(base) and not Path(base).exists():
            about["base_model"] = base
            about["base_model_relation"] = "adapter" if options.adapter else "finetune"
        tags = ["nbft", trained.run.config.training.method]
        return about | {"pipeline_tag": "text-generation", "tags": tags}

    def place(self, folder: Path, options: Options) -> PurePosixPath:
        """Return the name in the repository of the hub."""
        return PurePosixPath(options.repo_id or "")

    def publish(self, folder: Path, options: Options, say: Say) -> None:
        """Upload the folder.

        Raises:
            RunError: The Hub refuses it or does not answer; the folder stays.
        """
        import huggingface_hub

        assert options.repo_id is not None
        say(f"Uploading to {options.repo_id} …")
        api = huggingface_hub.HfApi()
        try:
            api.create_repo(options.repo_id, private=options.private, exist_ok=True)
            api.upload_folder(
                repo_id=options.repo_id,
                folder_path=folder,
                commit_message="Export of nbft, with its proof",
            )
        except Exception as error:
            raise RunError(
                f"{options.repo_id}: cannot be uploaded ({first_line(error)}). The export is in {folder}."
            ) from None


def _confirmed(question: str) -> bool:
    if not (sys.stdin.isatty() or in_notebook()):
        raise RunError(f"{question} Nobody can be asked here; say it with yes=True.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


FORMAT = Hub()
