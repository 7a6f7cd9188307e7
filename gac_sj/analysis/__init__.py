"""What a network does: firing rates and its summary."""

from gac_sj.analysis.firing_rates import firing_rates
from gac_sj.analysis.summary import Summary, summarize

__all__ = ["Summary", "firing_rates", "summarize"]
