"""Reports: one self-contained HTML page and the same as markdown, from run folders alone.

from sparsernn.report import compare, write_report
write_report([Path("runs/selfish")], Path("runs/selfish"))                    # report.html, report.md
write_report([Path("runs/dense"), Path("runs/selfish")], Path("comparison"))  # side by side
print(compare([Path("runs/dense"), Path("runs/selfish")]).markdown())
"""

from sparsernn.report.page import write_report
from sparsernn.report.story.facts import Facts, gather
from sparsernn.report.story.history import RunRecord, load_run
from sparsernn.report.story.tables import Table, compare

__all__ = ["Facts", "RunRecord", "Table", "compare", "gather", "load_run", "write_report"]
