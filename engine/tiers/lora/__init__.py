"""Memory in weights: LoRA adapters of the local model. torch and peft are imported by its modules, not by this one."""
