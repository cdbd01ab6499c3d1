"""The data doctor: what is wrong with rows before anything is trained on them.

`doctor` reads every row once (`measure`), runs the `checks` and returns a `Report` of `Finding`s,
each with a fix. To add a check, add one function to `checks`.
"""

from nbft.data.doctor.examine import doctor
from nbft.data.doctor.finding import Finding
from nbft.data.doctor.report import Report

__all__ = ["Finding", "Report", "doctor"]
