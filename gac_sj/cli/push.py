"""Put a folder of weights on the Hugging Face Hub.

gac-sj push DIR --to hf-hub:OWNER/NAME

DIR is a folder in timm's form (gac-sj convert, experiments/ship.py) whose weights fit its config, with a model card,
README.md. The repository is made where it is missing. Then: timm.create_model("hf-hub:OWNER/NAME", pretrained=True).
Log in before with hf auth login, or set HF_TOKEN to a token that may write.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from gac_sj import __version__
from gac_sj._utils.errors import UsageError, first_sentence
from gac_sj._utils.weights_source import HUB
from gac_sj.checkpoint import load_pretrained
from gac_sj.checkpoint.pretrained import CARD, CONFIG


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of weights in timm's form, with a model card")
    parser.add_argument("--to", required=True, metavar="hf-hub:OWNER/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="where the repository is made: only its owner sees it")


def run(args: argparse.Namespace) -> None:
    """Upload the files, and say where they are.

    Args:
        args: of the command line.

    Raises:
        UsageError: a malformed name, a folder that is not in timm's form or has no card, or nobody is logged in.
        OSError: the Hub cannot be reached, or refuses.
    """
    repository = args.to.removeprefix(HUB)
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if not args.to.startswith(HUB) or repository.count("/") != 1:
        raise UsageError(
            f"must be {HUB}OWNER/NAME, of letters, digits, '-', '_' and '.', got {args.to!r}", argument="to"
        )
    if not (args.folder / CONFIG).is_file():
        raise UsageError(f"{args.folder} is not a folder of weights with a {CONFIG}", "make one with gac-sj convert")
    load_pretrained(args.folder)
    if not (args.folder / CARD).is_file():
        raise UsageError(
            f"{args.folder} has no model card {CARD}", "write what the network is, its data, accuracy and licence"
        )
    api = HfApi(library_name="gac_sj", library_version=__version__)
    try:
        api.whoami()
        api.create_repo(repository, private=args.private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            folder_path=args.folder,
            ignore_patterns=[".*"],
            commit_message=f"Weights of gac_sj {__version__}",
        )
    except LocalTokenNotFoundError as error:
        raise UsageError("Nobody is logged in to the Hugging Face Hub", "hf auth login does, or HF_TOKEN") from error
    except Exception as error:  # no network, no right to write: each has its own class
        raise OSError(
            f"{args.to} cannot be written ({first_sentence(error)}); check the network, and that your token may write."
        ) from error
    print(f"{args.to}@{done.oid}: timm.create_model({args.to!r}, pretrained=True)")
