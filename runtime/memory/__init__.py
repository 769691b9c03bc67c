"""The host-side memory bank: records, policies, and what each step reads."""

from runtime.memory.bank import ConditioningFrames, MemoryBank
from runtime.memory.records import MemoryRead, Record
from runtime.memory.rules import MemoryRules

__all__ = ["ConditioningFrames", "MemoryBank", "MemoryRead", "MemoryRules", "Record"]
