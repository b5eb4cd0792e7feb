"""Parts of the facade `engine.memos.MemOS`, one a topic. Each calls what does the work, and nothing else."""
