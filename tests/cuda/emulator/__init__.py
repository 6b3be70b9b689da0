"""The CUDA emulator: ``EmulatedDevice`` runs the product's kernels on the CPU. See README.md."""

from __future__ import annotations

from .build import why_not
from .device import EmulatedDevice
from .failures import Failures
from .module import SCHEDULES, Schedule
from .traffic import Report

__all__ = ["SCHEDULES", "EmulatedDevice", "Failures", "Report", "Schedule", "why_not"]
