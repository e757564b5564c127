"""The model of a night: its folder, and its name in results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.choices import NATIVE
from engine.errors import EngineError
from engine.models.config import check_runs, load_config
from tasks.base.errors import ConfigurationError, bounded
from tasks.base.identity import digest_of_files, files_of_model
from tasks.night.request import ORIGIN

if TYPE_CHECKING:
    from engine.model_files import ModelFile
    from engine.models.config import ModelConfig
    from tasks.night.night import Night


def find_model(model: str) -> Path:
    """Return the local folder of a model: `model` itself, or the download of a hub id.

    Raises
    ------
    ConfigurationError
        Naming `--model`, if there is none or the engine does not support it.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
        except Exception as error:
            reason = bounded(f"{type(error).__name__}: {error}".partition("\n")[0])
            raise ConfigurationError(
                "--model",
                f"{model} is no folder and cannot be had from the hub ({reason})",
                "Name a Hugging Face model folder or a hub id that can be reached",
            ) from error
    try:
        load_config(folder)
    except FileNotFoundError:
        raise ConfigurationError(
            "--model", f"{folder} holds no config.json", "Name a Hugging Face model folder or a hub id"
        ) from None
    except EngineError as error:
        raise _configuration(error) from None
    return folder.resolve()


def check_for_engine(night: Night, config: ModelConfig) -> None:
    """Check that our engine runs a model, if it is the night's; other engines decide themselves.

    Raises
    ------
    ConfigurationError
        Naming `--model`.
    """
    if night.engine.name != NATIVE:
        return
    try:
        check_runs(config)
    except EngineError as error:
        raise _configuration(error) from None


def _configuration(error: EngineError) -> ConfigurationError:
    message, _, remedy = str(error).removeprefix("--model: ").rpartition("; ")
    return ConfigurationError("--model", message, remedy)


def has_vision(folder: Path) -> bool:
    """Tell whether the model in a folder has a vision tower."""
    return bool(load_config(folder).vision)


def check_model(night: Night) -> list[ModelFile]:
    """Return the files of the model, after a look that they are still those that the run is named by.

    Returns
    -------
    list of ModelFile
        Empty where no step has recorded the model.

    Raises
    ------
    ConfigurationError
        Naming `--model`, if they have changed.
    """
    origin = night.log.state.steps.get(ORIGIN)
    if origin is None:
        return []
    files = files_of_model(night.model_dir)
    if digest_of_files(files) != origin.results["model"]:
        raise ConfigurationError(
            "--model",
            f"the files of {night.model_dir} have changed since the run began",
            "Put those of before back and run the same command again, or begin anew with the present ones: "
            "that is another run",
        )
    return files


def model_name(folder: Path) -> str:
    """Return the name of the model in a folder; for a folder of the hub's cache that is its hub id."""
    folder = Path(folder)
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name
