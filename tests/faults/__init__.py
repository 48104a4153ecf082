"""Faults, one after the other: processes killed and paused at named steps, disks, clocks, limits, hostile work."""
