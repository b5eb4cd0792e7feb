"""Memory in weights: LoRA adapters of the local model. torch and peft are imported by the modules, never by this one."""
