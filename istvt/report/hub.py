"""Models of the Hugging Face Hub: `from_pretrained`, `push_to_hub`, and the model card with measured figures.

A repository holds `model.safetensors`, the checkpoint byte for byte (weights, configuration, preprocessing and
calibration in one file, from which no code is run), `config.json`, the configuration once more for the Hub's own pages,
and the card. A local run or file needs no package of the Hub.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from dataloading.dataset import FAKE, REAL
from dataloading.errors import InputError
from dataloading.face_index import MARGIN, WHOLE_FRAME, crop_name
from istvt.evaluation.metrics import compute_metrics
from istvt.evaluation.results import Estimate, Metrics
from istvt.inference.export import sha256_of
from istvt.inference.video_score import VideoScore
from istvt.model.architectures import ARCHITECTURES
from istvt.model.checkpoint import CheckpointInfo, learned_sets, load_model, read_info
from istvt.model.detector import Detector
from istvt.model.flops import total_cost
from istvt.report.evaluation_files import METRICS, StoredEvaluation, read_evaluation
from istvt.run_dir import HUB_MODEL_FILE, model_file

if TYPE_CHECKING:
    from types import ModuleType

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MISSING = "huggingface_hub, which {} needs, is not installed: pip install 'istvt[hub]'"


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    device: str | torch.device = "cpu",
) -> Detector:
    """Return the model of a run's directory, of a checkpoint file or of the Hugging Face Hub, in evaluation mode.

    Its `info` holds the metadata: with it `istvt.predict(model, files)` crops videos as the training videos were.

    Args:
        source: a path, or `OWNER/NAME` of the Hub where there is no such path.
        revision: branch, tag or commit of the Hub; None is its main branch.
        cache_dir: of downloads; None is the Hub's own cache.
        token: of the Hub; None is the one of its login, if any.
        local_files_only: use what is in the cache, without a connection.
        device: of the model.

    Raises:
        InputError: there is no such path or model, packages are missing, the Hub cannot be reached, or the file is not
            a checkpoint (see `load_model`).
    """
    path, repository = Path(source), str(source)
    if not path.exists() and HUB_ID.fullmatch(repository) and path.suffix != ".safetensors":
        path = _download(repository, revision, cache_dir, token, local_files_only)
    elif revision is not None:
        raise InputError(f"revision is {revision!r}, but {source} is a local path; expected OWNER/NAME of the Hub")
    model, model.info = load_model(path, device)
    return model


def push_to_hub(
    source: str | Path,
    repository: str,
    *,
    evaluations: Sequence[str | Path] | None = None,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a checkpoint with its model card to the Hugging Face Hub, in one commit; return the commit's URL.

    The file is uploaded byte for byte: its metadata holds the settings of training, paths of data sets among them.

    Args:
        source: the checkpoint, or the directory of the run.
        repository: `OWNER/NAME`, created where there is none.
        evaluations: see `model_card`.
        license: of the weights, by the Hub's names, such as "apache-2.0"; the terms of many data sets bind it.
        private: whether a repository that is created is private.
        revision: the branch, created where there is none; None is main.
        message: of the commit.
        token: of the Hub; None is the one of its login.

    Raises:
        InputError: there is no such checkpoint, it is not one, an evaluation is of another model, or the Hub refuses.
    """
    if not HUB_ID.fullmatch(repository):
        raise InputError(f"repository is {repository!r:.100}; expected OWNER/NAME")
    hub, checkpoint = _hub("push_to_hub"), model_file(source)
    _, info = load_model(checkpoint)  # whole and of use
    card = model_card(source, repository, evaluations=evaluations, license=license)
    api = hub.HfApi(token=token, library_name="istvt")
    with _hub_errors(repository, revision), TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "README.md").write_text(card, encoding="utf-8")
        (place / "config.json").write_text(json.dumps(info.config.to_dict(), indent=2) + "\n")
        operations = [
            hub.CommitOperationAdd(name, local)
            for name, local in (
                (HUB_MODEL_FILE, checkpoint),
                ("config.json", place / "config.json"),
                ("README.md", place / "README.md"),
            )
        ]
        api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            operations,
            commit_message=message or f"{ARCHITECTURES[info.config.architecture].title}, by istvt",
            revision=revision,
        )
    return str(commit.commit_url)


def model_card(
    source: str | Path,
    repository: str | None = None,
    *,
    evaluations: Sequence[str | Path] | None = None,
    license: str | None = None,
) -> str:
    """Return the model card of a checkpoint as Markdown: what it is, what was measured, what it cannot do.

    Every figure is by video, with a 95 % interval. Those of the validation split come from the checkpoint.

    Args:
        source: the checkpoint, or the directory of the run.
        repository: `OWNER/NAME`, for the lines that load it.
        evaluations: directories that `istvt evaluate` wrote for this very file; None takes those in the run.
        license: as of `push_to_hub`.

    Raises:
        InputError: there is no such checkpoint, or an evaluation is of another model.
    """
    checkpoint = model_file(source)
    info = read_info(checkpoint)
    learned_sets(info, checkpoint)  # refuses what is none, as the values below are of JSON
    stored = _evaluations(checkpoint, info, evaluations)
    values = {
        "front_matter": _front_matter(license),
        "title": ARCHITECTURES[info.config.architecture].title,
        "info": info,
        "config": {name: _plain(value) for name, value in info.config.to_dict().items()},
        "cost": total_cost(info.config),
        "name": repository or checkpoint,
        "sha256": sha256_of(checkpoint),
        "rows": _figures(info, stored),
        "training": _settings(info.settings.get("training", {})),
        "data": _settings(info.settings.get("data", {})),
        "earlier": [_settings(each) for each in info.settings.get("adaptation", {}).get("old", [])],
        "crops": crop_name(info.detectors) if info.detectors else "crops that the file does not name",
        "whole": set(info.detectors) == {WHOLE_FRAME},
        "margin": MARGIN,
        "cross": any(_root(item) != _data_name(info) for item in stored),
    }
    return _template().render(**values)


def _download(repository: str, revision: str | None, cache: str | Path | None, token: str | None, local: bool) -> Path:
    try:
        hub = _hub("a model of the Hub")
    except InputError as error:
        raise InputError(f"{repository}: no such file or directory here; {error}") from error
    with _hub_errors(repository, revision):
        found = hub.hf_hub_download(
            repository,
            HUB_MODEL_FILE,
            revision=revision,
            cache_dir=cache,
            token=token,
            local_files_only=local,
            library_name="istvt",
        )
    return Path(found)


def _hub(what: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(_MISSING.format(what)) from error
    return huggingface_hub


@contextlib.contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn an error of the Hub into an InputError."""
    from huggingface_hub import constants, errors

    where, hub = f"{repository}: ", constants.ENDPOINT
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(f"{where}asks for a login of {hub} that was given access (hf auth login)") from error
    except errors.RepositoryNotFoundError as error:
        expected = "expected a public one, or a login that may see it (hf auth login)"
        raise InputError(f"{where}no such file or directory here and no such model on {hub}; {expected}") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{where}has no revision {revision}; expected a branch, tag or commit of it") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(f"{where}is not in the cache, and {hub} cannot be reached") from error
    except errors.EntryNotFoundError as error:
        expected = "expected a model that istvt.push_to_hub wrote"
        raise InputError(f"{where}holds no {HUB_MODEL_FILE}; {expected}") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401 or status == 403:
            raise InputError(f"{where}{hub} refuses this login ({status}); expected a token that may write") from error
        raise InputError(f"{where}{hub} answers {_first_line(error)}") from error
    except (errors.HFValidationError, errors.LocalTokenNotFoundError) as error:
        raise InputError(f"{where}{_first_line(error)}") from error
    except OSError as error:  # no connection
        raise InputError(f"{where}{hub} cannot be reached ({_first_line(error)})") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpcore", "httpx2", "httpcore2"):
            raise
        raise InputError(f"{where}{hub} cannot be reached ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _evaluations(
    checkpoint: Path, info: CheckpointInfo, directories: Sequence[str | Path] | None
) -> list[StoredEvaluation]:
    found = []
    places = directories
    if places is None:
        places = sorted(path.parent for path in checkpoint.parent.glob(f"evaluation*/{METRICS}"))
    for place in places:
        stored, _ = read_evaluation(Path(place))
        if stored.evaluated is not None and info.checksum and stored.evaluated.checksum == info.checksum:
            found.append(stored)
        elif directories is not None:
            raise InputError(f"{place}: is an evaluation of {stored.checkpoint or 'another model'}; expected one of "
                             f"{checkpoint} as it is now")  # fmt: skip
    return found


def _figures(info: CheckpointInfo, evaluations: Sequence[StoredEvaluation]) -> list[list[str]]:
    """Return the rows of the table of figures: videos, classes, AUC, accuracy, baseline, both error rates."""
    rows = []
    if info.calibration is not None:
        scores = [
            VideoScore(f"{label} {at}", "", label, "original" if label == REAL else "fake", p, [p], [[0]])
            for label, values in ((REAL, info.calibration.real), (FAKE, info.calibration.fake))
            for at, p in enumerate(values)
        ]
        name = f"validation split of {_data_name(info)}, by which the epoch was chosen: too high"
        rows.append(_row(name, compute_metrics(scores).videos))
    for stored in evaluations:
        of = stored.evaluated
        only = f" ({', '.join(of.manipulations)})" if of.manipulations else ""
        rows.append(_row(f"{of.split} split of {Path(of.root).name}{only}", stored.videos))
        rows += [_row(f"- {name} against all real ones", item) for name, item in stored.manipulations.items()]
    return rows


def _row(name: str, of: Metrics) -> list[str]:
    from istvt.evaluation.intervals import wilson_interval

    def share(part: int, whole: int) -> str:
        return str(Estimate(part / whole, *wilson_interval(part, whole))) if whole else "no video of this class"

    table = of.confusion
    return [
        name,
        f"{of.real} real, {of.fake} fake",
        str(of.auc),
        str(of.accuracy),
        f"{max(of.real, of.fake) / of.count:.3f}",
        share(table.false_positives, of.real),
        share(table.true_positives, of.fake),
    ]


def _root(stored: StoredEvaluation) -> str:
    return Path(stored.evaluated.root).name


def _data_name(info: CheckpointInfo) -> str:
    """Return the name of the training set's folder, without where it lay."""
    root = info.settings.get("data", {}).get("root")
    return Path(root).name if root else "an unnamed data set"


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return settings for a reader elsewhere: of paths the last name, and nothing that was left out."""
    paths = ("root", "originals", "backbone_weights")
    return {
        key: Path(value).name if key in paths and isinstance(value, str) else _plain(value)
        for key, value in values.items()
        if value is not None
    }


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _front_matter(license: str | None) -> str:
    import yaml

    values = {
        "library_name": "istvt",
        "pipeline_tag": "video-classification",
        "tags": ["deepfake-detection", "video-classification", "safetensors", "istvt"],
    }
    return yaml.safe_dump(values | ({"license": license} if license else {}), sort_keys=False).strip()


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(  # Markdown, not HTML: nothing is escaped
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    ).get_template("model_card.md.j2")
