"""The deeper tiers of memory, made for one model each. torch is imported by their modules, never by this one."""
