"""What a folder holds, to check that a program leaves it alone."""

from pathlib import Path


def contents(folder: Path, times: bool = False) -> dict[Path, object]:
    """The bytes of all files in a folder and below, by relative path, without lock files.

    Args:
        folder: it may be missing, and is then empty.
        times: also compare when each file was last written, so that rewriting equal bytes shows.
    """
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    return {name: (path.read_bytes(), path.stat().st_mtime_ns if times else None) for name, path in files.items()}
