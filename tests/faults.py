"""Older names of what is in ``fault_proxy`` and ``helpers``."""

from tests.fault_proxy import FaultProxy
from tests.helpers import wait_until as eventually

__all__ = ["FaultProxy", "eventually"]
