"""The job `extract_lora`: a LoRA adapter out of a fine-tune and its base."""
