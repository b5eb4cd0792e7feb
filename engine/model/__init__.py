"""The local model: loading, fingerprint, prompts, generation. torch is imported by its modules, never by this one."""
