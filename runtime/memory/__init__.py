"""The host-side memory bank: records, policies, and what each step reads."""

from runtime.memory.bank import MemoryBank, Templates
from runtime.memory.records import MemoryRead, Record
from runtime.memory.rules import MemoryRules

__all__ = ["MemoryBank", "MemoryRead", "MemoryRules", "Record", "Templates"]
