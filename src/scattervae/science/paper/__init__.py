"""The paper's quantitative claims, one function a claim: its number here, an interval, and a verdict.

It must not know how models were trained or how a report looks.
"""

__all__ = ["comparison", "reproduce"]
