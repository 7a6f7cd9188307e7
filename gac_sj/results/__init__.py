"""Results: what runs leave as rows, read in one way by everybody, and the tables, pages and figures made from them."""

from gac_sj.results.load import Results, load
from gac_sj.results.run import Run, group

__all__ = ["Results", "Run", "group", "load"]
