"""GGUF, the file format of ggml and llama.cpp: its header, its types, and how its models are those of the hub."""
